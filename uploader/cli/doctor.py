"""`uploader doctor`: checks all that a run needs, in the order in which a run meets it."""

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from uploader import results, secrets
from uploader.certificates import CA_VARIABLES, ssl_context
from uploader.cli.printing import print_json, print_lines
from uploader.client import Client, TimeLimits
from uploader.client.connection import proxy_for, route_to
from uploader.errors import ExitCode, UploaderError, UsageError
from uploader.ledger import Ledger
from uploader.ledger.place import MOUNTS, check_outlives_container, check_place, file_system
from uploader.ledger.schema import VERSION
from uploader.ledger.sidecars import RESERVE_BYTES
from uploader.ledger.sqlite import marked_version
from uploader.ledger.sqlite_ledger import ledger_path
from uploader.model import Answer
from uploader.policy.waits import http_date
from uploader.results import rfc3339
from uploader.run.target import credentials
from uploader.settings import POSTGRESQL, Settings, default_ledger
from uploader.status.formatting import format_bytes, format_count, format_duration
from uploader.status.metrics_file import read_kept

Verdict = Literal["ok", "warning", "fault", "skipped"]

# less free space than this is warned of: a ledger of a million items takes about so much
FREE_BYTES = 1024**3
# a clock that is off by more is warned of; the header that tells it has whole seconds
CLOCK_SECONDS = 30.0
OFFLINE = "not checked (--offline)"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    # one sentence; where something is wrong, the remedy stands in it
    text: str
    verdict: Verdict = "ok"
    # the code with which a run would end
    exit_code: ExitCode = ExitCode.DONE
    # figures for machines
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON."""
        return {"check": self.name, "verdict": self.verdict, "text": self.text, **self.facts}


def diagnose(settings: Settings, *, offline: bool, as_json: bool) -> ExitCode:
    """Check all that a run needs; exit with the code of the first fault, which is what a run would end with."""
    found = list(_all_checks(settings, offline=offline))
    code = next((check.exit_code for check in found if check.verdict == "fault"), ExitCode.DONE)
    if as_json:
        print_json({"exitCode": int(code), "checks": [check.as_json() for check in found]})
    else:
        print_lines(format_checks(found, code))
    return code


def format_checks(found: Sequence[Check], code: ExitCode) -> Iterator[str]:
    """Format a line for each check, and a sentence of what they mean for a run."""
    for check in found:
        yield f"{check.verdict:<8} {check.name:<8} {check.text}"
    faults, warnings = (sum(check.verdict == verdict for check in found) for verdict in ("fault", "warning"))
    told = " and ".join(
        format_count(count, word) for count, word in ((faults, "fault"), (warnings, "warning")) if count
    )
    if faults:
        yield f"{told}: `uploader run` would end with {int(code)}."
    else:
        yield f"A run can begin{f' ({told})' if told else ''}."


def _all_checks(settings: Settings, *, offline: bool) -> Iterator[Check]:
    """Yield the checks in the order in which a run meets them; what is an account's own, for each account."""
    accounts = [settings.of_account(name) for name in settings.accounts]
    # rows may name accounts alone: the one above all tables then needs no credentials
    if not accounts or any(getattr(settings, name) is not None for name in secrets.CREDENTIALS):
        accounts.insert(0, settings)
    found = {own.account: _checked("secrets", partial(check_secrets, own)) for own in accounts}
    ways = {
        base_url: [
            _checked("proxy", partial(check_proxy, base_url)),
            _checked("ca", partial(check_certificates, base_url)),
        ]
        for base_url in dict.fromkeys(own.base_url for own in accounts)
    }
    yield from (_of_account(check, own) for own, check in zip(accounts, found.values(), strict=True))
    yield _checked("ledger", lambda: check_ledger(settings))
    yield from check_files(settings)
    yield from check_disk(settings)
    yield from chain.from_iterable(ways.values())
    yield check_stores()
    for own in accounts:
        checks = _checks_of_service(own, [found[own.account], *ways[own.base_url]], offline=offline)
        yield from (_of_account(check, own) for check in checks)


def _of_account(check: Check, own: Settings) -> Check:
    """Name the account in a check, where it has a name of its own."""
    if not own.account:
        return check
    name = f"account {own.account}: "
    return replace(check, text=name + check.text.removeprefix(name), facts={**check.facts, "account": own.account})


def _checks_of_service(settings: Settings, before: Sequence[Check], *, offline: bool) -> Iterator[Check]:
    """Yield the checks of an account's service; none is asked where a check ``before`` has a fault."""
    if offline:
        yield Check("token", OFFLINE, "skipped")
        yield Check("clock", OFFLINE, "skipped")
    elif any(check.verdict == "fault" for check in before):
        yield Check("token", "not checked: mend the faults above first", "skipped")
        yield Check("clock", "not checked: mend the faults above first", "skipped")
    else:
        yield from check_service(settings)


def _checked(name: str, check: Callable[[], Check]) -> Check:
    """Return a check's result, an error as a fault."""
    try:
        return check()
    except UploaderError as error:
        return _fault(name, error)


def _fault(name: str, error: UploaderError) -> Check:
    return Check(name, str(error).replace("\n", "; "), "fault", error.exit_code)


def check_secrets(settings: Settings) -> Check:
    """Check the credentials, and name their sources; their values are never shown.

    Raises:
        UsageError: There are none, or half of them.
    """
    credentials(settings)
    variables = zip(secrets.CREDENTIALS, map(secrets.variable, secrets.of_account(settings.account)), strict=True)
    sources = {
        variable: _source(settings, name, variable)
        for name, variable in variables
        if getattr(settings, name) is not None
    }
    facts = {"sources": sources}
    text = ", ".join(f"{variable} from {source}" for variable, source in sources.items())
    if settings.access_token is not None and settings.app_secret is not None:
        return Check(
            "secrets",
            f"{text}: the ready token is used, and is not renewed when it ends: unset {list(sources)[-1]}, so that id "
            "and secret fetch one",
            "warning",
            facts=facts,
        )
    return Check("secrets", text, facts=facts)


def _source(settings: Settings, name: str, variable: str) -> str:
    """Name the source of a secret: a variable, the file that one names, the secrets folder, or the config file."""
    source = settings.source("accounts", settings.account, name) if settings.account else settings.source(name)
    if source == f"environment {variable}_FILE":
        return f"the file {os.environ[f'{variable}_FILE']} ({variable}_FILE)"
    return "the environment" if source == f"environment {variable}" else f"the {source}"


def check_ledger(settings: Settings) -> Check:
    """Check the ledger's place, and what it holds, as far as that is quickly seen.

    Raises:
        UploaderError: A run could not use it.
    """
    if settings.ledger.startswith(POSTGRESQL):
        return _check_server(settings)
    path = ledger_path(settings.ledger)
    folder = _folder_of(path, settings.ledger)
    device = folder.stat().st_dev if folder.exists() else None
    facts: dict[str, Any] = {
        "ledger": str(path),
        "fileSystem": file_system(MOUNTS, device) if device is not None else None,
    }
    if folder == path.parent:
        check_place(path)
    elif not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"ledger {path}: its folder cannot be made in {folder}, which is not writable: name another")
    version = marked_version(path) if folder == path.parent else None
    facts["schemaVersion"] = version
    if version is None:
        return _missing_ledger(settings, path, facts)
    if version < VERSION:
        return Check(
            "ledger",
            f"{path}: schema version {version}, this uploader has {VERSION}: the next run migrates it, after a copy; "
            "`uploader ledger upgrade` does so now",
            "warning",
            facts=facts,
        )
    return _existing_ledger(settings, facts)


def _folder_of(path: Path, url: str) -> Path:
    """Return the ledger's folder; where a run would make it, the nearest folder above that exists."""
    folder = path.parent
    while url == default_ledger() and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _missing_ledger(settings: Settings, path: Path, facts: Mapping[str, Any]) -> Check:
    if settings.ledger_must_exist:
        raise UsageError(f"ledger {path}: there is none, and --ledger-must-exist forbids to make one: restore it")
    if not settings.new_ledger and path.parent.exists():
        check_outlives_container(path)
    return _new_ledger(str(path), facts)


def _check_server(settings: Settings) -> Check:
    """Check a ledger on a PostgreSQL server."""
    facts: dict[str, Any] = {"ledger": secrets.without_login(settings.ledger)}
    if Ledger.exists(settings.ledger):
        return _existing_ledger(settings, facts)
    if settings.ledger_must_exist:
        raise UsageError(f"ledger {facts['ledger']}: there is none, and --ledger-must-exist forbids to make one")
    return _new_ledger(facts["ledger"], facts)


def _new_ledger(address: str, facts: Mapping[str, Any]) -> Check:
    return Check(
        "ledger",
        f"{address}: there is none yet: the first run makes it. Where there was one, restore it first: a new ledger "
        "knows nothing of earlier nights, and would append them again",
        "warning",
        facts=facts,
    )


def _existing_ledger(settings: Settings, facts: dict[str, Any]) -> Check:
    with Ledger.open_for_reading(settings.ledger) as ledger:
        found, address = ledger.examine(whole=False), ledger.address
    now = time.time()
    facts |= {
        "schemaVersion": VERSION,
        "bytes": found.size,
        "runs": found.mark.runs,
        "firstLoadAt": rfc3339(found.first_load_at),
        "lastLoadAt": rfc3339(found.last_load_at),
        "ageSeconds": None if found.first_load_at is None else round(now - found.first_load_at),
    }
    if found.damage or found.doubt:
        return Check("ledger", f"{address}: {found.damage or found.doubt}", "fault", ExitCode.USAGE, facts)
    place = f" ({facts['fileSystem'] or 'unknown file system'})" if "fileSystem" in facts else ""
    parts = [f"{address}{place}", format_bytes(found.size)]
    parts += [f"schema version {VERSION}", format_count(found.mark.runs, "run")]
    if found.first_load_at is not None and found.last_load_at is not None:
        parts.append(f"in use for {_format_age(now - found.first_load_at)}")
        parts.append(f"last manifest {_format_age(now - found.last_load_at)} ago")
    text = ", ".join(parts)
    if found.busy:
        return Check("ledger", f"{text}: a run is at work on it: wait for its end", "fault", ExitCode.NOT_NOW, facts)
    if found.mark.in_use:
        return Check("ledger", f"{text}: the last run did not end: the next one recovers its items", facts=facts)
    return Check("ledger", text, facts=facts)


def _format_age(seconds: float) -> str:
    days = int(seconds // 86400)
    return format_count(days, "day") if days > 0 else format_duration(max(seconds, 0.0))


def check_files(settings: Settings) -> Iterator[Check]:
    """Check that results, summary and log can be written where the settings want them."""
    if settings.results is None:
        yield Check("results", "beside each manifest; `uploader plan MANIFEST` and `run` check that place")
    else:
        path = settings.results
        yield _checked("results", lambda: _writable_results(path))
    if settings.summary is not None:
        yield _checked("summary", partial(_writable_summary, settings.summary))
    if settings.metrics is not None:
        yield _checked("metrics", partial(_writable_metrics, settings.metrics))
    # the log's file is open by now: where it could not be, the command has said so
    yield Check("log", "standard error" if settings.log_file is None else f"standard error, and {settings.log_file}")


def _writable_results(path: Path) -> Check:
    results.check_path(path)
    if path.exists():
        # also a file that is no results file must not be replaced
        for _ in results.job_ids(path):
            break
    return Check("results", str(path))


def _writable_summary(path: Path) -> Check:
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"summary {path}: its folder {folder} does not exist: make it or name another")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"summary {path}: its folder {folder} is not writable: make it so or name another")
    return Check("summary", str(path))


def _writable_metrics(path: Path) -> Check:
    read_kept(path)
    return Check("metrics", str(path))


def check_disk(settings: Settings) -> Iterator[Check]:
    """Check the free space where ledger and results are."""
    folders = {}
    if settings.ledger and not settings.ledger.startswith(POSTGRESQL):
        folders["the ledger"] = _folder_of(ledger_path(settings.ledger), settings.ledger)
    if settings.results is not None:
        folders["the results"] = settings.results.parent
    seen = set()
    for name, folder in folders.items():
        with suppress(OSError):  # a folder that is missing has a fault of its own
            device = folder.stat().st_dev
            if device not in seen:
                seen.add(device)
                yield judge_disk(name, folder, shutil.disk_usage(folder).free)


def judge_disk(name: str, folder: Path, free: int) -> Check:
    """Judge the free space of a folder, in bytes."""
    text, facts = f"{format_bytes(free)} free for {name} ({folder})", {"folder": str(folder), "freeBytes": free}
    # a run reserves this at its start, and ends with 5 where it cannot
    if free < 2 * RESERVE_BYTES:
        return Check("disk", f"{text}: no run can begin: make room", "fault", ExitCode.GAVE_UP, facts)
    if free < FREE_BYTES:
        return Check("disk", f"{text}: make room before a large night", "warning", facts=facts)
    return Check("disk", text, facts=facts)


def check_proxy(base_url: str) -> Check:
    """Name the proxy between this machine and the service, without its login.

    Raises:
        UsageError: The environment names something else than a proxy.
    """
    found = proxy_for(base_url)
    return Check("proxy", route_to(base_url, found) if found else f"none on the way to {route_to(base_url, {})}")


def check_certificates(base_url: str) -> Check:
    """Check the CA certificates that are trusted.

    Raises:
        UsageError: A variable names none.
    """
    if urlsplit(base_url).scheme == "http":
        return Check("ca", "not needed: plain http on this machine")
    context = ssl_context(base_url)
    named = [f"{variable}={os.environ[variable]}" for variable in CA_VARIABLES if os.environ.get(variable)]
    if named:
        return Check("ca", f"the system's certificates, with {', '.join(named)}")
    paths = ssl.get_default_verify_paths()
    is_empty = isinstance(context, ssl.SSLContext) and not context.cert_store_stats()["x509_ca"]
    if is_empty and not _has_files(paths.capath):
        return Check(
            "ca",
            "the system has no CA certificates: install them (the package ca-certificates), or name a PEM file in "
            "SSL_CERT_FILE",
            "fault",
            ExitCode.GAVE_UP,
        )
    return Check("ca", f"the system's certificates ({paths.cafile or paths.capath})")


def check_stores() -> Check:
    """Check that recordings in the clouds' stores can be read."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - doctor is seldom called

    try:
        return Check("stores", f"s3://, gs:// and az:// can be read (obstore {version('obstore')})")
    except PackageNotFoundError:
        remedy = (
            "for rows with s3://, gs:// or az://, pip install 'uploader[cloud]'; files and https:// need nothing more"
        )
        return Check("stores", remedy, "skipped")


def _has_files(folder: str | None) -> bool:
    return folder is not None and any(Path(folder).iterdir())


def check_service(settings: Settings) -> Iterator[Check]:
    """Fetch a token, use it for one GET that changes nothing, and compare the clocks."""
    begun = time.time()
    try:
        answer = asyncio.run(_probe(settings))
    except UploaderError as error:
        yield _fault("token", error)
        yield Check("clock", "not checked: the service gave no answer that has its time", "skipped")
        return
    ended = time.time()
    yield judge_answer(answer, urlsplit(settings.base_url).netloc, ended - begun)
    yield judge_clock(answer.date, begun, ended)


async def _probe(settings: Settings) -> Answer:
    limits = TimeLimits(connect=settings.connect_seconds)
    async with Client(settings.base_url, credentials(settings), limits, time.time) as client:
        return await client.probe()


def judge_answer(answer: Answer, host: str, seconds: float) -> Check:
    """Judge the service's answer to a GET for a job that does not exist."""
    status = answer.status
    facts = {"httpStatus": status, "seconds": round(seconds, 3)}
    if status is None:
        return Check(
            "token", f"no answer of {host}: {answer.failure}: check network and proxy", "fault", ExitCode.GAVE_UP, facts
        )
    if status == 401:
        text = f"{host} refuses the token that it has given (HTTP 401): check that --base-url is its service"
        return Check("token", text, "fault", ExitCode.CREDENTIALS, facts)
    if status >= 500 or 300 <= status < 400:
        text = f"{host} answers HTTP {status}: {answer.failure or 'try again later'}"
        return Check("token", text, "fault", ExitCode.GAVE_UP, facts)
    if status == 403:
        text = f"{host} takes the token, and answers HTTP 403: check what its account may do"
        return Check("token", text, "warning", facts=facts)
    return Check("token", f"taken by {host} in {seconds:.1f} s", facts=facts)


def judge_clock(date: str | None, begun: float, ended: float) -> Check:
    """Compare this machine's clock to the service's Date header, which came between ``begun`` and ``ended``."""
    at = None if date is None else http_date(date)
    if at is None:
        return Check("clock", "not checked: the service's answer has no date", "skipped")
    # the header was written between the two, and leaves out the fraction of its second
    ahead = max(begun - (at + 1), 0.0) + min(ended - at, 0.0)
    here = datetime.fromtimestamp(ended).astimezone()
    facts = {"aheadSeconds": round(ahead, 1), "timeZone": here.strftime("%Z")}
    if abs(ahead) > CLOCK_SECONDS:
        side = "ahead of" if ahead > 0 else "behind"
        text = f"{format_duration(abs(ahead))} {side} the service's: set it by NTP (--until and all times follow it)"
        return Check("clock", text, "warning", facts=facts)
    return Check("clock", f"as the service's; here it is {here:%H:%M %Z}, which --until follows", facts=facts)
