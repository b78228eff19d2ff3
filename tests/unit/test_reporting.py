"""What is told to the outside: at the end whatever it is, and once when something first needs a person."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_metrics import figures as some_figures
from uploader.cli import running
from uploader.errors import CredentialsError, LedgerBusyError, UsageError
from uploader.ledger.reading import Trouble
from uploader.ledger.standing import Standing, Tally
from uploader.model import State
from uploader.run import reporting
from uploader.run.reporting import RunReporter
from uploader.settings import Secret, Settings
from uploader.settings.loading import load
from uploader.status import metrics_file
from uploader.status.metrics import LAST_EXIT_CODE, LAST_SUCCESS, RunFigures

SECRET = "https://user:pass@chat.example.com/hooks/T0000-secret"
TROUBLE = Trouble("m.csv", State.IN_DOUBT, "no answer after the last chunk", 1, (11,), (None,))


@pytest.fixture
def place(bare_place: Path) -> Path:
    """Provide a folder, and nothing of this machine's environment."""
    return bare_place


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Collect what would be posted."""
    found: list[Mapping[str, Any]] = []

    async def keep(url: Secret, payload: Mapping[str, Any], seconds: float) -> bool:
        assert url.get_secret_value() == SECRET
        found.append({**payload, "seconds": seconds})
        return True

    monkeypatch.setattr("uploader.notify.notify", keep)
    return found


def settings_of_place(**given: Any) -> Settings:
    """Load settings with an address to notify."""
    return load({"notify": SECRET, **given}, None)


async def watch(reporter: RunReporter, in_doubt: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch a run whose items in doubt are so many, one look after the other."""
    left = list(in_doubt)
    all_seen = asyncio.Event()

    async def figures() -> RunFigures:
        count = left.pop(0)
        if not left:
            all_seen.set()
            left.append(count)
        items = Standing({State.IN_DOUBT: Tally(items=count), State.PENDING: Tally(items=3)})
        return reporting_figures(items)

    async def troubles() -> Sequence[Trouble]:
        await asyncio.sleep(0)
        return [TROUBLE]

    monkeypatch.setattr(reporting, "WATCH_SECONDS", 0.0)
    task = asyncio.create_task(reporter.watch(figures, troubles))
    await all_seen.wait()
    # one more round, so that the last look has had its effect
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def reporting_figures(items: Standing) -> RunFigures:
    """Return figures with these items."""
    found = some_figures()
    return RunFigures(items, *(getattr(found, name) for name in RunFigures.__slots__ if name != "items"))


async def test_something_that_needs_a_person_is_told_once(
    place: Path, posted: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needed a person as the run began is no news; the first that is new is; the next ones are not told again."""
    del place
    await watch(RunReporter(settings_of_place(), "m.csv"), [2, 2, 3, 4, 5], monkeypatch)
    (told,) = posted
    assert told["event"] == "needs_person"
    assert told["counts"]["in_doubt"] == 3
    assert told["needsPerson"][0]["lines"] == [11]
    assert "m.csv: something needs a person; the run goes on\n1 in doubt (line 11)" in told["text"]


async def test_what_comes_after_the_others_were_settled_is_told(
    place: Path, posted: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker lives for months: each time that somebody has settled all, the next trouble is news again."""
    del place
    await watch(RunReporter(settings_of_place(), ""), [2, 3, 4, 1, 1, 2, 5], monkeypatch)
    assert [told["counts"]["in_doubt"] for told in posted] == [3, 2]
    assert "all batches: something needs a person" in posted[0]["text"]


async def test_nothing_new_is_not_told(
    place: Path, posted: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of the night before were told that night."""
    del place
    await watch(RunReporter(settings_of_place(), "m.csv"), [2, 2, 1], monkeypatch)
    assert posted == []


async def test_a_run_that_could_not_begin_is_told(place: Path, posted: list[Mapping[str, Any]]) -> None:
    """With its code, and the first line of its reason alone: rows and paths may stand below it."""
    path = place / "m.prom"
    reporter = RunReporter(settings_of_place(metrics=path), "m.csv")
    reporter.begin()
    await reporter.fail(UsageError("manifest m.csv: 1 problem\n  line 2  /secret/path"))
    (told,) = posted
    assert (told["event"], told["exitCode"], told["reason"]) == ("ended", 2, "manifest m.csv: 1 problem")
    assert metrics_file.read_kept(path)[LAST_EXIT_CODE] == 2


async def test_another_runs_metrics_stay(place: Path, posted: list[Mapping[str, Any]]) -> None:
    """Who finds the ledger held does not write into the file of the run that holds it."""
    path = place / "m.prom"
    reporter = RunReporter(settings_of_place(metrics=path), "m.csv")
    reporter.begin()
    await reporter.fail(LedgerBusyError("another run holds it"))
    assert not path.exists()
    assert posted[0]["exitCode"] == 6


async def test_a_fault_and_a_lack_of_credentials_are_told(place: Path, posted: list[Mapping[str, Any]]) -> None:
    """A fault's text is for the log alone."""
    del place
    for error in (KeyError("inner"), CredentialsError("no")):
        await RunReporter(settings_of_place(), "").fail(error)
    assert [told["exitCode"] for told in posted] == [70, 3]
    assert "inner" not in str(posted)
    assert LAST_SUCCESS not in str(posted)


@pytest.mark.parametrize(
    "words", [["--notify", SECRET], [f"--notify={SECRET}"], ["--until", "06:00"], ["--until=06:00"]]
)
def test_the_command_that_carries_on_shows_no_secret_and_no_past_time(words: list[str]) -> None:
    """The summary's next step is shown, kept and posted."""
    assert running.words_again(["run", *words, "m.csv"]) == ["run", "m.csv"]


WRONG = ["http://chat.example.com/hooks/s3cret", "chat.example.com/s3cret", "https://h/s3cret#x", "ftp://h/s3cret", ""]


@pytest.mark.parametrize("address", WRONG)
def test_a_wrong_address_is_refused_without_being_shown(place: Path, address: str) -> None:
    """https, or http on this machine; the message has the remedy alone."""
    del place
    with pytest.raises(UsageError) as told:
        load({"notify": address}, None)
    assert "s3cret" not in str(told.value)
    assert "https://" in str(told.value)


@pytest.mark.parametrize("way", ["environment", "file", "folder", "config file"])
def test_the_address_comes_from_each_source_and_no_repr_has_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A chat's hook is a secret: it may come as secrets do."""
    config = None
    (place / "kept").write_text(SECRET)
    if way == "environment":
        monkeypatch.setenv("UPLOADER_NOTIFY", SECRET)
    elif way == "file":
        monkeypatch.setenv("UPLOADER_NOTIFY_FILE", str(place / "kept"))
    elif way == "folder":
        (place / "kept").rename(place / "secrets" / "uploader_notify")
    else:
        config = place / "c.toml"
        config.write_text(f'notify = "{SECRET}"')
    settings = load({}, config)
    assert settings.notify is not None
    assert settings.notify.get_secret_value() == SECRET
    assert "T0000" not in repr(settings)
    assert load({"notify": "http://127.0.0.1:8080/x"}, None).notify is not None
