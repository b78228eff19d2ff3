"""`run_batch` as a program calls it: no signal, no print, nothing kept; the service's journal judges."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import Network, proxied
from tests.unit.recordings import recording
from uploader import ExitCode, Secret, Settings, Stop, Summary, UploaderError, logs, run_batch
from uploader.errors import LedgerAwayError, StoppedError, UsageError
from uploader.events import EVENTS
from uploader.ledger import Ledger
from uploader.ledger.leases import worker_facts
from uploader.ledger.thread import LedgerThread
from uploader.model import State
from uploader.sandbox import Sandbox, SandboxSettings
from uploader.status.progress import Progress

GUARD_SECONDS = 60.0


@dataclass
class Account:
    """An account of the sandbox, with a ledger and a manifest for it."""

    folder: Path
    sandbox: Sandbox
    events: list[Mapping[str, Any]] = field(default_factory=list)
    seen: dict[str, asyncio.Event] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """The manifest's path."""
        return self.folder / "m.csv"

    def write(self, lanes: int, rows: int) -> None:
        """Write the manifest and its recordings."""
        self.folder.mkdir(exist_ok=True)
        lines = ["conversationId,audioPath"]
        for number in range(rows):
            (self.folder / f"{number}.wav").write_bytes(recording(1.0 + number / 100))
            lines.append(f"58151706935951{number % lanes:02},{number}.wav")
        self.manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")

    def settings(self, **more: Any) -> Settings:
        """Make settings of keyword arguments alone."""
        given = {
            "ledger": f"sqlite:///{self.folder}/ledger.db",
            "base_url": self.sandbox.base_url,
            "app_id": "sandbox",
            "app_secret": Secret("sandbox"),
            "limit": 5,
        }
        return Settings(**{**given, **more})

    async def run(self, stop: Stop | None = None, **more: Any) -> Summary:
        """Run the manifest."""
        return await run_batch(self.settings(**more), self.manifest, on_event=self.take, stop=stop)

    def appended(self) -> list[str]:
        """List the conversation of each append in the journal."""
        return [entry.conversation_id for entry in self.sandbox.journal.appended()]

    def take(self, event: Mapping[str, Any]) -> None:
        """Keep an event."""
        self.events.append(event)
        self.seen.setdefault(event["event"], asyncio.Event()).set()

    async def saw(self, name: str) -> None:
        """Wait for an event."""
        await self.seen.setdefault(name, asyncio.Event()).wait()

    def named(self, name: str) -> list[Mapping[str, Any]]:
        """List the events of a name."""
        return [event for event in self.events if event["event"] == name]


@asynccontextmanager
async def account(folder: Path, rows: int = 6, job_seconds: float = 0.02) -> AsyncIterator[Account]:
    """Provide an account with a manifest of so many rows in three lanes."""
    settings = SandboxSettings(limit=5, job_seconds=job_seconds, job_seconds_per_mebibyte=0.0)
    async with asyncio.timeout(GUARD_SECONDS), Sandbox(settings) as sandbox:
        made = Account(folder, sandbox)
        made.write(3, rows)
        yield made


async def test_a_program_gets_the_summary_and_the_events_and_nothing_else_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No print, no signal handler, no word of sys.argv, no variable of the environment, no field in the context."""
    monkeypatch.setattr("sys.argv", ["program", "--limit", "nonsense"])
    monkeypatch.setenv("UPLOADER_LIMIT", "1")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    async with account(tmp_path) as made:
        summary = await made.run()
        assert summary.exit_code is ExitCode.DONE
        assert summary.standing.counts[State.COMPLETED] == summary.standing.items == 6
        assert len(made.appended()) == 6
    assert (tmp_path / "m.results.csv").read_text("utf-8").count("completed") == 6
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert capfd.readouterr() == ("", "")
    assert logs.bound() == {}
    (begun,), (ended,) = made.named("run.begun"), made.named("run.ended")
    assert (begun["limit"], ended["exitCode"], ended["counts"]) == (5, 0, {"completed": 6})
    for event in made.events:
        assert event["event"] in EVENTS
        assert (event["run"], event["batch"]) == (summary.run, "m.csv")
        assert {"level", "timestamp", "host"} <= event.keys()


def in_one_loop(works: Sequence[Callable[[], Any]]) -> list[Summary]:
    """Run coroutine functions together in one loop."""

    async def together() -> list[Summary]:
        return list(await asyncio.gather(*(work() for work in works)))

    return asyncio.run(together())


def in_threads(works: Sequence[Callable[[], Any]]) -> list[Summary]:
    """Run coroutine functions at once, each in a thread and a loop of its own."""
    found: dict[int, Summary] = {}
    barrier = threading.Barrier(len(works))

    def work_in(number: int) -> None:
        barrier.wait()
        found[number] = asyncio.run(works[number]())

    threads = [threading.Thread(target=work_in, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(works))]


@pytest.mark.parametrize("way", [in_one_loop, in_threads])
async def test_two_runs_at_once_share_nothing(tmp_path: Path, way: Callable[..., list[Summary]]) -> None:
    """Two accounts in one process, in one loop or in threads: no field, item or event of one in the other."""
    async with account(tmp_path / "a", 9) as one, account(tmp_path / "b", 6) as other:
        works = [lambda: one.run(batch="one"), lambda: other.run(batch="other")]
        summaries = await asyncio.to_thread(way, works)
        assert [len(made.appended()) for made in (one, other)] == [9, 6]
    assert [summary.standing.counts[State.COMPLETED] for summary in summaries] == [9, 6]
    runs = [{(event["run"], event["batch"]) for event in made.events} for made in (one, other)]
    assert runs == [{(summaries[0].run, "one")}, {(summaries[1].run, "other")}]
    assert summaries[0].run != summaries[1].run
    assert [len(made.named("attempt.ended")) for made in (one, other)] == [9, 6]


async def test_a_second_run_of_a_process_appends_nothing_again(tmp_path: Path) -> None:
    """Twice in one process is as twice from the command line; each run has an id of its own."""
    async with account(tmp_path) as made:
        first, second = await made.run(), await made.run()
        assert (first.exit_code, second.exit_code, len(made.appended())) == (ExitCode.DONE, ExitCode.DONE, 6)
    assert first.run != second.run
    assert second.bytes_sent == 0


async def test_two_runs_of_one_ledger_share_it_as_two_commands_do(tmp_path: Path) -> None:
    """They are workers of one ledger within a process, too: nothing is appended twice, and each ends with the batch."""
    async with account(tmp_path) as made:
        first, second = await asyncio.gather(made.run(), made.run())
        assert len(made.appended()) == 6
    assert (first.exit_code, second.exit_code) == (ExitCode.DONE, ExitCode.DONE)


async def test_a_run_that_cannot_begin_raises_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With cause and remedy; nothing was sent, and nothing is printed."""
    async with account(tmp_path) as made:
        made.manifest.write_text("conversationId,audioPath\n1,missing.wav\n", encoding="utf-8")
        with pytest.raises(UsageError, match=r"missing\.wav"):
            await made.run()
        with pytest.raises(UsageError, match="UPLOADER_APP_ID is missing"):
            await made.run(app_id=None)
        assert made.sandbox.journal.begun_puts() == []
    assert capfd.readouterr() == ("", "")
    assert [event["exitCode"] for event in made.named("run.ended")] == [2, 2]


@pytest.mark.parametrize("at", ["before", "during"])
async def test_a_request_of_another_thread_stops_a_run(tmp_path: Path, at: str) -> None:
    """Before the first byte it is an error, later a summary; the same call carries on, nothing is appended twice."""
    async with account(tmp_path, 12, 0.1) as made:
        stop = Stop()
        if at == "before":
            stop.request()
            with pytest.raises(StoppedError):
                await made.run(stop)
            assert made.sandbox.journal.begun_puts() == []
        else:
            seen = threading.Event()

            def stop_once_seen() -> None:
                seen.wait(GUARD_SECONDS)
                stop.request()

            waiter = threading.Thread(target=stop_once_seen)
            waiter.start()
            running = run_batch(
                made.settings(),
                made.manifest,
                on_event=lambda event: seen.set() if event["event"] == "attempt.ended" else None,
                stop=stop,
            )
            summary = await running
            waiter.join()
            assert summary.exit_code is ExitCode.NOT_NOW
            assert "by the program that runs it" in summary.ending()
            assert 0 < len(made.appended()) < 12
        assert (await made.run()).exit_code is ExitCode.DONE
        assert len(made.appended()) == 12


async def test_an_exception_of_the_callback_stops_the_run_and_is_raised(tmp_path: Path) -> None:
    """A fault of the program costs no item: all is recorded, and the next run carries on."""
    seen: list[str] = []

    def on_event(event: Mapping[str, Any]) -> None:
        seen.append(event["event"])
        if event["event"] == "attempt.ended":
            raise KeyError("of the program")

    async with account(tmp_path, 12, 0.1) as made:
        with pytest.raises(KeyError, match="of the program"):
            await run_batch(made.settings(), made.manifest, on_event=on_event)
        assert seen[-1] == "attempt.ended", "it is not called again"
        assert len(made.appended()) < 12
        assert (await made.run()).exit_code is ExitCode.DONE
        assert len(made.appended()) == 12


async def test_a_cancelled_run_leaves_the_ledger_to_the_next(tmp_path: Path) -> None:
    """A cancellation is no worse than a crash: nothing is appended twice, and the ledger is free."""
    async with account(tmp_path, 12, 0.1) as made:
        running = asyncio.ensure_future(made.run())
        await made.saw("attempt.ended")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await made.run()).exit_code is ExitCode.DONE
        assert len(made.appended()) == 12


async def test_the_loop_goes_on_while_a_manifest_is_loaded(tmp_path: Path) -> None:
    """A manifest that comes through a pipe, from the very loop that waits for it."""
    async with account(tmp_path) as made:
        rows = made.manifest.read_bytes()
        read, write = os.pipe()
        try:
            running = asyncio.ensure_future(
                run_batch(
                    made.settings(format="csv", batch="m", results=tmp_path / "r.csv", audio_root=tmp_path),
                    f"/dev/fd/{read}",
                    on_event=made.take,
                )
            )
            await made.saw("run.begun")
            os.write(write, rows)
            os.close(write)
            assert (await running).exit_code is ExitCode.DONE
        finally:
            os.close(read)
        assert len(made.appended()) == 6


async def test_a_stop_is_heeded_while_a_pipe_is_silent(tmp_path: Path) -> None:
    """Who waits for a manifest that does not come can be stopped."""
    async with account(tmp_path) as made:
        read, write = os.pipe()
        os.write(write, b"conversationId")
        stop = Stop()
        try:
            running = asyncio.ensure_future(
                run_batch(
                    made.settings(format="csv", batch="m", results=tmp_path / "r.csv"),
                    f"/dev/fd/{read}",
                    on_event=made.take,
                    stop=stop,
                )
            )
            await made.saw("run.begun")
            stop.request()
            with pytest.raises(UploaderError, match="stopped before anything was sent"):
                await running
        finally:
            os.close(write)
            os.close(read)


async def test_a_rehearsal_needs_neither_account_nor_ledger(tmp_path: Path) -> None:
    """`Settings(sandbox=True)` is the command's --sandbox."""
    async with account(tmp_path) as made:
        summary = await run_batch(Settings(sandbox=True, limit=5), made.manifest)
        assert made.sandbox.journal.entries == []
    assert (summary.exit_code, summary.rehearsal) == (ExitCode.DONE, True)
    assert (tmp_path / "m.sandbox.results.csv").exists()


async def test_progress_comes_twice_a_second_where_it_is_asked_for(tmp_path: Path) -> None:
    """Counts, limit and rate as the live view shows them; the log's lines a minute stay away."""
    shown: list[Progress] = []
    async with account(tmp_path) as made:
        await run_batch(made.settings(), made.manifest, on_event=made.take, on_progress=shown.append)
    assert shown
    assert all(progress.standing.items == 6 and progress.limit.in_force == 5 for progress in shown)
    assert made.named("run.progress") == []


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect after the test what it has left, under the test's own filters of warnings."""
    yield
    gc.collect()


# the driver's own word about a cursor whose connection was lost, which nobody can close
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_ledger_that_is_away_at_the_end_is_waited_for(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    """Results and summary are read once it is back, and the workers end; one that stays away ends the run with 5."""
    close = LedgerThread.close
    with proxied(postgres_url) as (proxy, url):

        def close_and_cut(thread: LedgerThread) -> None:
            close(thread)
            proxy.behave(Network.CUT)
            if comes_back:
                threading.Timer(0.7, proxy.behave, (Network.GOOD,)).start()

        monkeypatch.setattr(LedgerThread, "close", close_and_cut)
        async with account(tmp_path) as made:
            running = made.run(ledger=url, ledger_away_seconds=30.0 if comes_back else 0.3)
            if not comes_back:
                with pytest.raises(LedgerAwayError) as raised:
                    await running
                assert raised.value.exit_code is ExitCode.GAVE_UP
                proxy.behave(Network.GOOD)
                return
            summary = await running
    assert summary.exit_code is ExitCode.DONE
    assert (tmp_path / "m.results.csv").read_text("utf-8").count("completed") == 6
    with Ledger.open_for_reading(postgres_url) as ledger, ledger.reading() as connection:
        assert worker_facts(connection) == []
