"""The commands and their options."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from uploader import __version__, early_signals, logs
from uploader.cli.ending import LAST_EVENTS, end, nobody_reads, report_failure
from uploader.cli.ledger_commands import ledger
from uploader.cli.options import (
    GroupedCommand,
    GroupedOption,
    ManifestCommand,
    environment_help,
    manifest_lines,
    settings_options,
)
from uploader.errors import ExitCode
from uploader.policy.parts import PARTS
from uploader.settings import FAR, Settings, settings_of


@click.group(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uploader")
def cli() -> None:
    """Append audio files to conversations from a manifest: at most once, in order, with the account full."""


@cli.command(epilog=environment_help(), cls=ManifestCommand)
@click.argument("manifest", required=False, metavar="[MANIFEST]")
@settings_options("run")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the closing summary as JSON")
def run(manifest: str | None, config: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Append the rows of MANIFEST and wait for their jobs.

    MANIFEST is CSV (conversationId,audioPath,…) or JSON Lines; - reads standard input. The results file has the outcome
    of each row. Without a MANIFEST, --batch NAME carries on a batch that was loaded before. After a crash, the same
    command carries on.

    Exit codes: 0 all completed; 1 some refused, failed or held; 2 usage, nothing sent; 3 credentials;
    4 some in doubt; 5 gave up for now, run again; 6 not now: another command needs the ledger for itself, or
    --first or --until left a part pending; 70 a fault of the uploader itself; 129, 130, 143 stopped by a signal, run
    again.

    \b
    Example:
      uploader run monday.csv --limit 10
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.running import run_to_end  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: run_to_end(settings, manifest, as_json=as_json), config, flags)


@cli.command(epilog=environment_help(), cls=GroupedCommand)
@click.argument("inbox", type=click.Path(path_type=Path))
@settings_options("serve")
def serve(inbox: Path, config: Path | None, **flags: Any) -> None:
    """Run each manifest that is dropped into the folder INBOX.

    A manifest (.csv or .jsonl) is taken once nobody writes to it any more, and run as `run` would run it; up to eight
    at once share the account and its limit. Then it is moved with its results to INBOX/done; to INBOX/failed, with the
    reason in a text beside it, where it was refused or items of it need a person. Audio paths start at INBOX or
    --audio-root, which none may leave. The same manifest, dropped again, appends nothing again.

    It goes on until it is stopped, and carries on where it was: 2 usage; 3 credentials; 6 another process serves
    INBOX; 70 a fault; 129, 130, 143 stopped by a signal.

    \b
    Example:
      uploader serve /srv/inbox --limit 10 --status 127.0.0.1:8080
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.serving import serve_inbox  # noqa: PLC0415 - see run

    end(lambda settings: serve_inbox(settings, inbox), config, flags)


@cli.command(epilog=environment_help(), cls=GroupedCommand)
@settings_options("work")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the closing summary as JSON")
def work(config: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Work on every batch of a ledger, until stopped.

    The worker takes part in all batches that are not over, and in those that are loaded later, for each account of the
    settings; several workers and runs may share one ledger. It takes the account's limit from the latest run unless
    --limit names one, and writes no results: `uploader results` does. A recording that cannot be opened on this host
    stays pending, for other hosts. The ledger has to exist.

    Exit codes: 0 or 6 at --until, 6 where something is left; 2 usage, nothing sent; 3 credentials; 5 gave up for now,
    run again; 70 a fault of the uploader itself; 129, 130, 143 stopped by a signal, run again.

    \b
    Example:
      uploader work --ledger postgresql://uploader@db.internal/uploader --status 127.0.0.1:8080
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.running import work_until_stopped  # noqa: PLC0415 - see run

    end(lambda settings: work_until_stopped(settings, as_json=as_json), config, flags)


@cli.command(epilog=environment_help(), cls=ManifestCommand)
@click.argument("manifest", required=False, metavar="[MANIFEST]")
@settings_options("plan")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the report as JSON")
@click.option("--all", "show_all", is_flag=True, help="every problem and warning, not the first 50 alone")
@click.option("--no-audio", is_flag=True, help="check the rows alone, without looking at the audio files")
@click.option("--schema", is_flag=True, help="the JSON Schema of a row, in place of a plan; needs no MANIFEST")
def plan(
    manifest: str | None,
    config: Path | None,
    *,
    as_json: bool,
    show_all: bool,
    no_audio: bool,
    schema: bool,
    **flags: Any,
) -> None:
    """Check MANIFEST and forecast its cost and its end.

    The checks are those of `run`, without a network. The report has every invalid row, the files, bytes, audio and
    billed minutes, the rows that the ledger holds already, and the predicted finish at this limit and at others. The
    forecast follows the order in which a run takes the items.

    Exit codes: 0 all rows are valid; 1 some are invalid, under --on-invalid skip; 2 some are invalid, or usage.

    \b
    Example:
      uploader plan monday.csv --limit 10
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli import planning  # noqa: PLC0415 - see run

    if schema:
        end(planning.show_schema, config, flags)
    if manifest is None:
        raise click.UsageError("name a MANIFEST, or ask for the --schema of its rows")
    options = planning.PlanOptions(as_json=as_json, check_files=not no_audio, show_all=show_all)
    end(lambda settings: planning.plan_manifest(settings, manifest, options), config, flags)


@cli.command(epilog=environment_help())
@click.option("--watch", is_flag=True, help="on a terminal, redraw a few lines until no run is on")
@settings_options("status")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the status as JSON")
def status(config: Path | None, *, watch: bool, as_json: bool, **flags: Any) -> None:
    """Show the ledger's batches, and the items that need a person.

    The report has the batches that are not over, then the latest others, the live jobs, the slots and the limit. The
    command works beside a run. It exits as `run` would, for all batches or for the one that --batch names: 5 where
    items still wait, 6 where a run is at work on them.

    \b
    Example:
      uploader status --batch monday.csv
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.inspecting import show_status  # noqa: PLC0415 - see run

    end(lambda settings: show_status(settings, as_json=as_json, watch=watch), config, flags)


@cli.command(epilog=environment_help())
@settings_options("results")
@click.option(
    "--open", "only_open", is_flag=True, help="only rows that are refused, failed or held (with --as-manifest)"
)
@click.option(
    "--as-manifest",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write those rows as a manifest, CSV or JSON Lines, ready to correct and run",
)
def results(config: Path | None, *, only_open: bool, as_manifest: Path | None, **flags: Any) -> None:
    """Write the results file of a batch from the ledger.

    The command works beside a run. With --open --as-manifest FILE it writes the rows that are refused, failed or held
    as a manifest instead.

    \b
    Example:
      uploader results --batch monday.csv --results monday.results.csv
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.inspecting import write_open_rows, write_results  # noqa: PLC0415 - see run

    if only_open != (as_manifest is not None):
        raise click.UsageError("--open and --as-manifest FILE go together")
    if as_manifest is None:
        end(write_results, config, flags)
    else:
        end(lambda settings: write_open_rows(settings, as_manifest), config, flags)


@cli.command(epilog=environment_help())
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="write the report into this file")
@settings_options("report")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="print the report as JSON")
def report(config: Path | None, *, html: Path | None, as_json: bool, **flags: Any) -> None:
    """Write the report of a batch as one HTML file.

    The file is the status page of that night (`run --status`) as it stands in the ledger: which item was in which slot
    when, with doubts, 429s and pauses; slots and bytes over time; the bill by state and by each column of your own
    (x-…); what needs a person; and what was decided, by whom. It opens anywhere, fetches nothing, and can be mailed.
    The command works beside a run.

    \b
    Example:
      uploader report --batch monday.csv --html monday.html
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.report import write_report  # noqa: PLC0415 - see run

    if html is None and not as_json:
        raise click.UsageError("name the --html FILE to write, or ask for --json")
    end(lambda settings: write_report(settings, html, as_json=as_json), config, flags)


@cli.command(epilog=environment_help())
@settings_options("resolve")
@click.option(
    "--line",
    "lines",
    type=manifest_lines,
    multiple=True,
    metavar="N[,N…]",
    help="items by the manifest's line, or several",
)
@click.option(
    "--item",
    "items",
    type=manifest_lines,
    multiple=True,
    metavar="N[,N…]",
    help="items by number, which the list shows of items that are no rows of the batch",
)
@click.option("--conversation", "conversations", multiple=True, metavar="ID", help="items by conversationId")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["in_doubt", "failed", "refused", "accepted", "pending", "held"]),
    help="items by state (accepted: items whose job never ended, or is not known to the service)",
)
@click.option("--reply", metavar="TEXT", help="items by their reply: an HTTP status, or words of the error")
@click.option("--since", metavar="TIME", help="items whose attempt ended then or later (RFC 3339)")
@click.option("--until", metavar="TIME", help="items whose attempt ended then or earlier (RFC 3339)")
@click.option(
    "--appended",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[JOBID]",
    help="in doubt: the item was appended; its job is polled to the end where named, else the item is completed",
)
@click.option("--not-appended", is_flag=True, help="in doubt: the item was not appended, and is pending again")
@click.option("--retry", is_flag=True, help="refused or failed: the item is pending again")
@click.option("--drop", is_flag=True, help="the item shall not be appended; its conversation goes on")
@click.option("--note", metavar="TEXT", help="a note, kept with the decision, its author and its time")
@click.option(
    "--look",
    "with_snapshots",
    is_flag=True,
    help="take snapshots of the conversations now, and compare those before the attempts",
)
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the list as JSON")
def resolve(
    config: Path | None,
    *,
    appended: str | None,
    not_appended: bool,
    retry: bool,
    drop: bool,
    note: str | None,
    with_snapshots: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """List the items that need a person, and record decisions on them.

    Without a decision the command lists the items of all batches with the evidence on each; --batch narrows the list to
    one batch. A decision (--appended, --not-appended, --retry, --drop) is recorded for all items that --line, --item,
    --conversation, --state, --reply, --since and --until select together; then `uploader run` carries on. Items that
    are no rows of the batch (items of other batches before its own, and items of earlier manifests of its name) are
    selected by --item or --conversation alone. Exits 0 where no item needs a person any more, 1 where one does.

    \b
    Example:
      uploader resolve --line 11 --not-appended --note "checked in the dashboard"
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli import resolving  # noqa: PLC0415 - see run

    decisions = {"appended": appended is not None, "not-appended": not_appended, "retry": retry, "drop": drop}
    named = [name for name, is_named in decisions.items() if is_named]
    if len(named) > 1:
        raise click.UsageError(f"one decision at a time: not --{' and --'.join(named)}")
    criteria = {name: given.pop(name) for name in resolving.CRITERIA}

    def work(settings: Settings) -> ExitCode:
        chosen, decision = resolving.selection(**criteria), resolving.decision(named)
        request = resolving.ResolveRequest(chosen, decision, appended or None, note, with_snapshots)
        return resolving.resolve_items(settings, request, as_json=as_json)

    end(work, config, given)


@cli.command(epilog=environment_help())
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[FOLDER]")
@click.option(
    "--only",
    multiple=True,
    metavar="PARTS",
    help=f"only these parts: {', '.join(part.name for part in PARTS)}; with commas, or given more than once  "
    "[default: all]",
)
@click.option("--again", is_flag=True, help="fetch all parts again, even where the files have them")
@settings_options("insights")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the closing summary as JSON")
def insights(
    folder: Path | None, config: Path | None, *, only: tuple[str, ...], again: bool, as_json: bool, **flags: Any
) -> None:
    """Fetch the insights of a batch's conversations.

    Each conversation with completed items of the batch gets one JSON file in FOLDER, which is made where there is none
    (default: beside the results, monday.insights for monday.results.csv). The file is readable by its owner alone, and
    is written whole or not at all. A file that is up to date is not fetched again, so that the same command goes on
    where it stopped. Parts that --only does not name are kept as long as nothing was appended since. Conversations that
    still have live jobs are left out. The command works beside a run. The service is the batch's own; with --base-url,
    only a batch of that service is taken.

    Exit codes: 0 all files are written; 1 some conversations were left out; 2 usage; 3 credentials; 5 gave up for
    now, run again; 6 another command writes into FOLDER; 129, 130, 143 stopped by a signal, run again.

    \b
    Example:
      uploader insights monday.insights --batch monday.csv
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.fetching import fetch_insights  # noqa: PLC0415 - see run

    end(lambda settings: fetch_insights(settings, folder, only, again=again, as_json=as_json), config, flags)


@cli.command(epilog=environment_help())
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="the manifest  [default: standard output]"
)
@click.option("--replace", "replaces", is_flag=True, help="replace FILE where it exists")
@click.option("--follow-links", is_flag=True, help="follow symbolic links; else they are left out")
@settings_options("manifest")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the report as JSON")
def manifest(
    folder: Path,
    config: Path | None,
    *,
    output: Path | None,
    replaces: bool,
    follow_links: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write a manifest of a folder of recordings.

    The pattern is that of the paths below FOLDER. It names the columns: {conversationId}, and any other column of a
    manifest. Recordings are known by their content, else by their ending; a row is checked as `run` checks it. The
    order is that of the names, with part 2 before part 10. The report lists all that was left out (on standard error
    where the manifest goes to standard output).

    Exits 0 where every recording in FOLDER is in the manifest, 1 where one was left out (a path that does not match, a
    symbolic link, a name or an id that is not allowed), 2 where none matches: then nothing is written.

    \b
    Examples:
      uploader manifest calls --output monday.csv
      uploader manifest calls --pattern '{}/{conversationId}_{x-part}.wav' --output monday.csv
      uploader manifest calls --pattern '**/{conversationId:[0-9]{16}}*' --output monday.csv
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.listing import Listing, write_folder_manifest  # noqa: PLC0415 - see run

    listing = Listing(folder, output, replaces, follow_links, as_json)
    end(lambda settings: write_folder_manifest(settings, listing), config, flags)


@cli.command(epilog=environment_help())
@click.option("--offline", is_flag=True, help="check this machine alone: fetch no token, and compare no clock")
@settings_options("doctor")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="the checks as JSON")
def doctor(config: Path | None, *, offline: bool, as_json: bool, **flags: Any) -> None:
    """Check all that a run needs, and tell the remedies.

    The checks are those of secrets (their source, never their value), ledger, results, free disk space, proxy, CA
    certificates, token and clock: a line each. Nothing is sent but a request for a token, and a GET that changes
    nothing.

    Exits 0 where a run can begin, else with the code that the run would end with: 2 secrets, ledger, files or
    environment; 3 the service does not take the credentials; 5 the service is out of reach, or the disk is full; 6 a
    run is at work.

    \b
    Example:
      uploader doctor --config nightly.toml
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.doctor import diagnose  # noqa: PLC0415 - see run

    end(lambda settings: diagnose(settings, offline=offline, as_json=as_json), config, flags)


cli.add_command(ledger)


@cli.command(cls=GroupedCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on, of this machine alone")
@click.option("--port", default=0, type=click.IntRange(0, 65535), show_default=True, help="0 takes a free one")
@click.option("--limit", default=10, show_default=True, help="concurrent jobs; above it, 429")
@click.option("--job-seconds", default=0.5, show_default=True, help="the least time of a job")
@click.option(
    "--job-seconds-per-mebibyte",
    default=2.0,
    show_default=True,
    help="the time that each MiB of audio adds to a job",
)
@click.option(
    "--job-scatter",
    default=0.0,
    show_default=True,
    help="the scatter of that time, such as 0.2 for 20 %; always the same for the same file",
)
@click.option("--token-seconds", default=86400.0, show_default=True, help="the lifetime of a token")
@click.option("--token-left", type=float, help="begin with a token that expires in so many seconds")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="read the application's secret from this file; a change of the file rotates it, and ends the token",
)
@click.option("--faults", type=click.Path(path_type=Path), help="a TOML file of faults to play (see `help sandbox`)")
@click.option("--journal", type=click.Path(path_type=Path), help="write a journal of all requests, as JSON Lines")
@click.option("--certificate", type=click.Path(path_type=Path), help="serve TLS with this certificate (PEM)")
@click.option("--key", type=click.Path(path_type=Path), help="the certificate's key (PEM)")
@click.option(
    "--allow-parameter",
    "allowed_parameters",
    multiple=True,
    metavar="NAME",
    help="a query parameter to accept beside the documented ones; may be repeated",
)
@click.option(
    "--answer-seconds",
    cls=GroupedOption,
    group=FAR,
    default=0.0,
    show_default=True,
    help="the time from a PUT's last byte, with which its job begins, to its answer",
)
@settings_options("sandbox")
def sandbox(config: Path | None, **given: Any) -> None:
    """Run a local server that plays the service.

    The server behaves as the specification says, until it is stopped, and prints the environment that points a client
    at it. Nothing leaves this machine.

    \b
    Example, a service 200 ms away behind a slow line:
      uploader sandbox --limit 10 --round-trip 0.2 --uplink 65536
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.sandboxing import serve_sandbox  # noqa: PLC0415 - see run

    flags = {name: given.pop(name) for name, setting in settings_of(Settings).items() if "sandbox" in setting.commands}
    end(lambda settings: serve_sandbox(settings, **given), config, flags)


@cli.command(name="help", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[TOPIC]")
def show_guide(words: tuple[str, ...]) -> None:
    """Show a guide, or the list of guides.

    On a terminal the guide is shown by the pager ($PAGER). TOPIC may be a command, too.

    \b
    Example:
      uploader help doubt
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.guides import show_help  # noqa: PLC0415 - see run

    early_signals.release()
    try:
        show_help(cli, words)
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()


def main() -> None:
    """Run the command line and exit."""
    _use_utf8()
    logs.open_closed_streams()
    logs.configure("auto", "auto")
    logs.bind(run=os.urandom(6).hex(), host=os.uname().nodename)
    try:
        code = cli.main(prog_name="uploader", standalone_mode=False)
    except click.ClickException as error:
        words = sys.argv[1:]
        command = words[0] if words else ""
        if command not in LAST_EVENTS or logs.is_text():
            error.show()
        report_failure(command, error.format_message(), ExitCode.USAGE, as_json=_wants_json(words))
        code = error.exit_code
    except click.Abort:
        code = int(ExitCode.INTERRUPTED)
    sys.exit(code)


def _wants_json(words: Sequence[str]) -> bool:
    """Return True where a command that cannot be read was to answer in JSON."""
    return "--json" in words or os.environ.get("UPLOADER_JSON", "").lower() in ("1", "true", "t", "yes", "y", "on")


def _use_utf8() -> None:
    """Restart in UTF-8 mode where the locale has another encoding: file names may hold any character."""
    if sys.getfilesystemencoding() != "utf-8" and not (sys.flags.utf8_mode or sys.flags.ignore_environment):
        early_signals.release()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606 - itself
