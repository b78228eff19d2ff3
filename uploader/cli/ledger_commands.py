"""The commands of `uploader ledger`."""

from pathlib import Path
from typing import Any

import click

from uploader.cli.ending import end
from uploader.cli.options import settings_options
from uploader.settings import DEFAULT_ACCOUNT


@click.group(context_settings={"max_content_width": 110})
def ledger() -> None:
    """Check, copy, migrate, restore and prune the ledger.

    The ledger is the memory of all appends: without it, or with an older copy, everything would be appended again. Copy
    it every day, and check the copy:

    \b
      uploader ledger backup /backup/ledger-2026-11-22.db
      uploader ledger check --ledger sqlite:////backup/ledger-2026-11-22.db
    """  # noqa: D301 - click wants the character that this escape stands for


@ledger.command()
@click.option(
    "--accept", is_flag=True, help="accept the ledger as it is: an older copy, say, once results were adopted"
)
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="what was found as JSON")
@settings_options("ledger")
def check(config: Path | None, *, accept: bool, as_json: bool, **flags: Any) -> None:
    """Check that the ledger is whole.

    The command reads the whole database. It also reports whether the last run has closed the ledger, and signs of an
    older copy or of a missing -wal file. It works beside a run. Exits 0 where nothing is wrong, 1 where something is.
    Of a ledger on a PostgreSQL server it checks schema and runs; the server's pg_amcheck reads the database itself.

    \b
    Example:
      uploader ledger check
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.keeping import check_ledger  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: check_ledger(settings, accept=accept, as_json=as_json), config, flags)


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options("ledger")
def backup(file: Path, config: Path | None, **flags: Any) -> None:
    """Copy the ledger to FILE, beside a run or without one.

    The copy is one file, complete and synced to the disk, or there is none; an existing FILE is not replaced. (A plain
    copy of the ledger's file during a run lacks the content of its -wal file.) A ledger on a PostgreSQL server is
    copied by the server's own pg_dump: the command says how.

    \b
    Example:
      uploader ledger backup /backup/ledger-2026-11-22.db
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.keeping import back_up_ledger  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: back_up_ledger(settings, file), config, flags)


@ledger.command()
@click.argument("results_file", type=click.Path(path_type=Path), metavar="RESULTS")
@click.option(
    "--account",
    "account_name",
    metavar="NAME",
    help=f"the account of all rows of RESULTS, as the config file's [accounts.NAME] has it; {DEFAULT_ACCOUNT}: the one "
    "above all tables  [default: that one, where the config file has no others]",
)
@click.option("--manifest", metavar="MANIFEST", help="the manifest of RESULTS, whose rows name their accounts")
@settings_options("adopt")
def adopt(
    results_file: Path, config: Path | None, *, account_name: str | None, manifest: str | None, **flags: Any
) -> None:
    """Take the jobIds of a results file back into the ledger.

    Use it for a ledger that was lost or is an older copy. The ledger then knows every item that RESULTS list as
    appended, or possibly appended, so that no run appends it again. Relative audio paths start at --audio-root, else at
    the folder of --manifest, else at that of RESULTS. Results do not name accounts: where the config file has several,
    name with --manifest the manifest, whose rows do, or with --account the one of all rows. A second adoption changes
    nothing. A ledger is made where there is none. Items that were in flight when RESULTS were written are in doubt;
    pending ones are not adopted. Beside a run, also one that still loads its manifest, the command ends with 6.

    \b
    Example:
      uploader ledger adopt monday.results.csv
      uploader run monday.csv
      uploader ledger adopt tuesday.results.csv --manifest tuesday.csv --config accounts.toml
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.adopting import adopt_results  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: adopt_results(settings, results_file, account_name, manifest), config, flags)


@ledger.command()
@click.option("--to", "target", required=True, metavar="URL", help="the database, postgresql://USER@HOST/DATABASE")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="what was moved as JSON")
@settings_options("ledger")
def move(target: str, config: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Move the ledger from its file to a PostgreSQL database.

    Do it between two runs, into an empty database. All of it is copied in one transaction and compared by counts and
    hashes. From then on the file refuses every command and names the new address. An interrupted move leaves the
    database empty and the file in use, or is finished by the same command. The password: ~/.pgpass or PGPASSWORD.

    \b
    Example:
      uploader ledger move --to postgresql://uploader@db.internal/uploader
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.keeping import move_ledger  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: move_ledger(settings, target, as_json=as_json), config, flags)


@ledger.command()
@click.option(
    "--older-than",
    "days",
    required=True,
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="forget what was over so many days ago; 0: all that is over",
)
@click.option("--yes", is_flag=True, help="do it; without it the command only says what it would forget")
@click.option("--json", "as_json", is_flag=True, envvar="UPLOADER_JSON", help="what was forgotten as JSON")
@settings_options("ledger")
def prune(days: int, config: Path | None, *, yes: bool, as_json: bool, **flags: Any) -> None:
    """Forget paths and parameters of batches that are over.

    The rows of these batches go, with their paths, parameters and x- columns, and the history of their attempts: no
    results, report or insights of them can be made any more. Every item stays, with its account, conversation, size,
    hash, jobId, state and order, so that nothing is ever appended again; but a manifest that names it again needs its
    file, since it is known by its content alone. Batches that are not over stay as they are. It works beside runs, and
    may be interrupted: the same command carries on. While no run is at work, the file becomes smaller.

    \b
    Example:
      uploader ledger prune --older-than 90
      uploader ledger prune --older-than 90 --yes
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.pruning import prune_ledger  # noqa: PLC0415 - --help must not import unused modules

    end(lambda settings: prune_ledger(settings, days, yes=yes, as_json=as_json), config, flags)


@ledger.command()
@settings_options("ledger")
def upgrade(config: Path | None, **flags: Any) -> None:
    """Migrate a ledger of an earlier version.

    The next run would do the same. A copy of the ledger is made first, beside it; of a database on a PostgreSQL server
    make one yourself, with pg_dump.

    \b
    Example:
      uploader ledger upgrade
    """  # noqa: D301 - click wants the character that this escape stands for
    from uploader.cli.keeping import upgrade_ledger  # noqa: PLC0415 - --help must not import unused modules

    end(upgrade_ledger, config, flags)
