"""One attempt from its claim to its outcome: a real ledger on one side, a real server on the other."""

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import pytest
from blake3 import blake3
from sqlalchemy import Connection, RowMapping, select
from structlog.testing import capture_logs

from tests.integration.servers import (
    CREDENTIALS,
    DONE,
    GUARD_SECONDS,
    MEBIBYTE,
    Exchange,
    Script,
    Server,
    always,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    free_port,
    hung_up_after_body,
    in_turn,
    issue,
    reset_after_body,
    size_of,
    speaking,
)
from uploader import attempt
from uploader import audio as sources
from uploader.attempt import AttemptResult, AttemptRunner
from uploader.client import Credentials, Expect
from uploader.client.expectation import NEVER
from uploader.errors import CredentialsError, GaveUpError, LedgerUnavailableError
from uploader.flow import FlowControl
from uploader.ledger import Ledger
from uploader.ledger.callbacks import apply_callback
from uploader.ledger.claiming import NOTHING_AHEAD, Ahead, admit, claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.lanes import activate_batch
from uploader.ledger.leases import open_workers
from uploader.ledger.loading import account, begin_load, load_rows, save_rules
from uploader.ledger.outcomes import JobEnd, end_job, record_reply
from uploader.ledger.reading import live_jobs
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import Identity, begin_worker, end_workers
from uploader.model import Claim, JobStatus, Next, Outcome, Row, State
from uploader.pace import Pace
from uploader.policy.breaker import BreakerState, CircuitBreaker
from uploader.policy.callbacks import token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.policy.flow import Flow, StopAsked
from uploader.sandbox import Faults, JobFaults, PutFaults, Sandbox, SandboxSettings
from uploader.settings import Settings
from uploader.settings.tables import Doubt, Replies, Schedule

P = ParamSpec("P")
T = TypeVar("T")
# what a test wants to come before a function of the ledger
Before = Callable[[Any], Awaitable[None]]

DOUBT_SECONDS = 900.0
LIMIT_TEXT = (
    "This API has a limit of maximum of `7` number of concurrent jobs per account. If you are looking to scale, and "
    "need more concurrent jobs than this limit, please contact us at support@symbl.ai"
)
READY = Credentials(access_token="ready")
SETTINGS = Settings(
    limit=100,
    max_attempts=10,
    doubt_seconds=DOUBT_SECONDS,
    job_timeout_seconds=3600.0,
    schedule=Schedule(order="manifest"),
)


@dataclass
class Desk:
    """The parts that an attempt needs, and a reader of its ledger."""

    ledger: Ledger
    thread: LedgerThread
    account_id: int
    client: Any
    writer: "Between"
    settings: Settings
    flow: FlowControl
    pace: Pace = field(default_factory=lambda: Pace(1000.0))

    async def claims(self, wanted: int = 1, later: float = 0.0, ahead: Ahead = NOTHING_AHEAD) -> Sequence[Claim]:
        """Begin attempts, as the engine does, now or so many seconds later."""
        claimed = await self.thread.call(claim, self.account_id, wanted, time.time() + later, ahead=ahead, worker_id=1)
        return claimed.claims

    async def claim(self) -> Claim:
        """Begin one attempt."""
        [claimed] = await self.claims()
        return claimed

    async def carry(self, claimed: Claim | None = None) -> AttemptResult:
        """Run an attempt to its outcome."""
        return await self.runner().run(claimed or await self.claim())

    def stop(self, cut_seconds: float, end_seconds: float) -> None:
        """Cut uploads after so many seconds, and wait for no answer after so many."""
        now = time.time()
        self.flow.apply(StopAsked(now + cut_seconds, now + end_seconds))

    def runner(self) -> AttemptRunner:
        """Build the runner of attempts."""
        return AttemptRunner(
            client=self.client,
            writer=self.writer,
            pace=self.pace,
            flow=self.flow,
            settings=self.settings,
            defaults={},
            now=time.time,
            rng=random.Random(1),
        )

    def only_row(self, table: Any) -> RowMapping:
        """Read the only row of a table from the ledger's file."""
        [row] = self.rows(table)
        return row

    def rows(self, table: Any) -> Sequence[RowMapping]:
        """Read all rows of a table from the ledger's file."""
        with self.ledger.beside() as beside, beside.reading() as connection:
            return connection.execute(select(table).order_by(table.c.id)).mappings().all()


@asynccontextmanager
async def desk(
    base_url: str,
    *paths: Path,
    credentials: Credentials = CREDENTIALS,
    now: Callable[[], float] = time.monotonic,
    expect: Expect = NEVER,
    before: Before | None = None,
    answer: float = 20.0,
    parameters: dict[str, Any] | None = None,
    late_at: float = inf,
    **changes: Any,
) -> AsyncIterator[Desk]:
    """Build a ledger with an item for each file, each in its own conversation, and a client."""
    with Ledger.open_for_run(f"sqlite:///{paths[0].parent / 'ledger.db'}") as ledger:
        account_id = load(ledger, base_url, paths, parameters or {}, limit=changes.get("limit", SETTINGS.limit))
        thread = LedgerThread(GroupCommits(ledger))
        writer = Between(thread, before)
        settings = replace(SETTINGS, **changes)
        flow = FlowControl(
            writer=writer,
            account_id=account_id,
            settings=settings,
            flow=Flow(late_at=late_at),
            now=time.time,
            is_lane_live=lambda _: False,
        )
        admitting = asyncio.create_task(flow.run())
        try:
            async with speaking(base_url, credentials, answer=answer, now=now, expect=expect) as client:
                yield Desk(ledger, thread, account_id, client, writer, settings, flow)
        finally:
            admitting.cancel()
            thread.close()


def load(ledger: Ledger, base_url: str, paths: Sequence[Path], parameters: dict[str, Any], *, limit: int) -> int:
    """Load a manifest of these files; return the account."""
    with ledger.writing() as connection:
        account_id = account(connection, base_url)
        begun = begin_load(
            connection,
            account_id,
            "batch",
            manifest="manifest.csv",
            results=paths[0].parent / "results.csv",
            extra_columns=[],
            now=time.time(),
            repeat=False,
        )
        rows = [
            Row(
                number,
                f"conversation-{number}",
                path.name,
                str(path),
                parameters=parameters,
                signature=sources.signature(path),
            )
            for number, path in enumerate(paths, 2)
        ]
        load_rows(connection, begun, rows, content_hash=sources.content_hash, probe=sources.probe)
        save_rules(connection, account_id, limit=limit, holds=True)
        activate_batch(connection, account_id, begun.batch_id)
        begin_worker(connection, account_id, begun.batch_id, Identity("host", "process", "1.0"), time.time())
    return account_id


def take_over(connection: Connection) -> tuple[int, int]:
    """End the worker, as another one does once its lease is over."""
    return end_workers(connection, open_workers(connection), time.time(), DOUBT_SECONDS)


def accepted(exchange: Exchange) -> dict[str, str]:
    """Build the documented answer for the conversation of a request."""
    conversation = exchange.request.target.rpartition("/")[2].partition("?")[0]
    # one for each file: a jobId that another item has is not believed
    return DONE | {"conversationId": conversation, "jobId": f"job-{int(conversation.rpartition('-')[2]) - 1}"}


async def append(exchange: Exchange) -> None:
    """Take the file, and answer as documented."""
    await exchange.read_body()
    if exchange.request.whole:
        await exchange.answer(201, accepted(exchange))


async def closed_in_the_body(exchange: Exchange) -> None:
    """Take a part of the file, and close the connection."""
    await exchange.read_body(100_000)
    exchange.hang_up()


class Between:
    """A writer that passes everything on to the ledger, and lets a test come in between."""

    def __init__(self, thread: LedgerThread, before: Before | None) -> None:
        self.written: set[Any] = set()
        self.changed = asyncio.Event()
        self._thread = thread
        self._before = before

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """First what the test wants, then the write."""
        if self._before is not None:
            await self._before(function)
        answer = await self._thread.call(function, *args, **kwargs)
        self.written.add(function)
        self.changed.set()
        return answer

    async def until_written(self, function: Any) -> None:
        """Wait until a function of the ledger was carried out."""
        async with asyncio.timeout(GUARD_SECONDS):
            while function not in self.written:
                self.changed.clear()
                await self.changed.wait()


async def test_an_accepted_upload_is_written_down(tmp_path: Path) -> None:
    """Applied: accepted with its jobId, its hash and its time; the attempt has its admission, its end and its bytes."""
    path = audio(tmp_path, 300_000)
    async with Server(append) as server, desk(server.base_url, path) as at:
        carried = await at.carry()
        item, attempt = at.only_row(items), at.only_row(attempts)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.APPLIED, Next.FOLLOW)
    assert (item["state"], item["job_id"], item["http_status"], item["error"]) == ("accepted", "job-1", 201, None)
    assert item["content_hash"] == blake3(path.read_bytes()).hexdigest()
    assert (item["accepted_at"], item["finished_at"], item["attempts"]) == (attempt["ended_at"], None, 1)
    assert (attempt["outcome"], attempt["job_id"], attempt["bytes_sent"]) == ("applied", "job-1", 300_000)
    assert attempt["started_at"] <= attempt["admitted_at"] <= attempt["ended_at"]


async def test_the_token_is_taken_when_the_wait_for_the_pace_is_over(tmp_path: Path) -> None:
    """An attempt that waits its turn until its token has ended goes out with a new one."""
    seconds = 0.0

    class Slow(Pace):
        async def wait(self) -> None:
            nonlocal seconds
            seconds += 100.0

    paths = [audio(tmp_path, 1000, name=f"{n}.wav") for n in range(2)]
    token = in_turn(issue("first", 50.0), issue("second", 500.0))
    async with Server(append, token=token) as server, desk(server.base_url, *paths, now=lambda: seconds) as at:
        await at.client.authorise()
        at.pace = Slow(1.0)
        for claimed in await at.claims(2):
            await at.carry(claimed)
        assert [put.all("authorization") for put in server.puts()] == [["Bearer second"]] * 2


async def test_the_first_signal_ends_the_wait_for_100_continue(tmp_path: Path) -> None:
    """An upload that has not begun does not begin in the time of grace: no byte left, and the item is pending."""
    expect = Expect(above_bytes=1000, seconds=3600.0)
    async with Server(Exchange.until_left) as server:
        async with desk(server.base_url, audio(tmp_path, 300_000), expect=expect) as at:
            carried = asyncio.create_task(at.carry())
            await server.until(lambda: len(server.puts()) == 1)
            at.stop(3600.0, 3600.0)
            verdict = (await carried).verdict
            item, attempt = at.only_row(items), at.only_row(attempts)
        await server.settled()
        assert [put.received for put in server.puts()] == [0]
    assert (verdict.outcome, item["state"], item["attempts"]) == (Outcome.CUT_OFF, "pending", 1)
    assert (attempt["admitted_at"], attempt["bytes_sent"]) == (None, 0)


async def test_a_refusal_to_the_head_is_judged_as_any_other(tmp_path: Path) -> None:
    """A 429 that came in place of 100 Continue: throttled, pending, not admitted, and no byte of the file was sent."""
    expect = Expect(above_bytes=1000, seconds=3600.0)

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(429, {"message": LIMIT_TEXT})
        await exchange.until_left()

    async with Server(refuse) as server:
        async with desk(server.base_url, audio(tmp_path, 300_000), expect=expect) as at:
            carried = await at.carry()
            item, attempt, limit = at.only_row(items), at.only_row(attempts), at.only_row(accounts)
        await server.settled()
        assert [put.received for put in server.puts()] == [0]
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.THROTTLED, Next.COOL_DOWN)
    assert (item["state"], attempt["admitted_at"], attempt["bytes_sent"]) == ("pending", None, 0)
    assert limit["stated_limit"] == 7


@pytest.mark.parametrize("size", [1, 2, 20_000, 300_000, 2 * MEBIBYTE])
async def test_the_admission_is_in_the_ledger_before_the_last_chunk_leaves(tmp_path: Path, size: int) -> None:
    """The ledger's file says `sending` as long as the server lacks some of the file, and `sent` when it has all."""
    seen: list[tuple[int, str, bool]] = []

    async def look_at(function: Any) -> None:
        if function is admit:
            got = sum(put.received for put in server.puts())
            seen.append((got, at.only_row(items)["state"], at.only_row(attempts)["admitted_at"] is not None))

    async def look_into_the_ledger(exchange: Exchange) -> None:
        await exchange.read_body()
        seen.append(
            (exchange.request.received, at.only_row(items)["state"], at.only_row(attempts)["admitted_at"] is not None)
        )
        await exchange.answer(201, accepted(exchange))

    path = audio(tmp_path, size)
    async with Server(look_into_the_ledger) as server, desk(server.base_url, path, before=look_at) as at:
        await at.carry()
    assert [(state, admitted) for _, state, admitted in seen] == [("sending", False), ("sent", True)]
    assert seen[0][0] < seen[1][0] == size


@pytest.mark.parametrize("script", [hung_up_after_body, reset_after_body, always(500), always(502), always(201, {})])
async def test_a_lost_answer_is_in_doubt(tmp_path: Path, script: Script) -> None:
    """No answer to be trusted after the last chunk: in doubt, with a slot that is held for a while."""
    before = time.time()
    async with Server(script) as server, desk(server.base_url, audio(tmp_path, 300_000)) as at:
        carried = await at.carry()
        item, attempt = at.only_row(items), at.only_row(attempts)
        assert await at.claims() == []
        assert len(server.puts()) == 1
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.IN_DOUBT, Next.SETTLE)
    assert (item["state"], item["job_id"], item["cut_offs"]) == ("in_doubt", None, 0)
    assert before + DOUBT_SECONDS <= item["slot_until"] <= time.time() + DOUBT_SECONDS
    assert attempt["outcome"] == "in doubt"
    assert attempt["admitted_at"] is not None
    assert item["error"]


@pytest.mark.parametrize("status", [500, 503])
async def test_what_a_person_vouches_for_is_sent_again(tmp_path: Path, status: Literal[500, 503]) -> None:
    """A status that the settings take as proof that nothing was appended: pending again, and sent again."""
    script, path = in_turn(always(status), append), audio(tmp_path, 1000)
    async with (
        Server(script) as server,
        desk(server.base_url, path, replies=Replies(proves_not_appended=(status,))) as at,
    ):
        first = await at.carry()
        state = at.only_row(items)["state"]
        assert await at.claims() == []
        [again] = await at.claims(later=3600.0)
        await at.carry(again)
        assert at.only_row(items)["state"] == "accepted"
        assert len(server.puts()) == 2
    assert (first.verdict.outcome, state) == (Outcome.NOT_SENT, "pending")


async def test_an_upload_that_was_cut_off_is_pending_again(tmp_path: Path) -> None:
    """Cut off before the last chunk: pending after a wait, one more cut-off, no admission, no slot in doubt."""
    async with Server(closed_in_the_body) as server, desk(server.base_url, audio(tmp_path, 8 * MEBIBYTE)) as at:
        carried = await at.carry()
        item, attempt, lane = at.only_row(items), at.only_row(attempts), at.only_row(lanes)
        assert len(server.puts()) == 1
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.CUT_OFF, Next.AGAIN)
    assert (item["state"], item["cut_offs"], item["slot_until"]) == ("pending", 1, None)
    assert (attempt["outcome"], attempt["admitted_at"]) == ("cut off", None)
    assert lane["not_before"] > attempt["ended_at"]


async def test_an_upload_that_is_cut_off_again_and_again_is_refused(tmp_path: Path) -> None:
    """What never gets through is given to a person once it was tried as often as the settings say."""
    path = audio(tmp_path, 8 * MEBIBYTE)
    async with Server(closed_in_the_body) as server, desk(server.base_url, path, max_attempts=1) as at:
        carried = await at.carry()
        item = at.only_row(items)
    assert (carried.verdict.outcome, item["state"], item["attempts"]) == (Outcome.REFUSED, "refused", 1)
    assert (item["cut_offs"], "max_attempts" in item["error"]) == (1, True)


async def test_a_429_states_the_limit(tmp_path: Path) -> None:
    """Throttled: pending, no cut-off, no wait of its own lane, and the limit in its text is kept."""
    script = always(429, {"statusCode": 429, "message": LIMIT_TEXT}, Retry_After="3")
    async with Server(script) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        carried = await at.carry()
        item, attempt, account_row = at.only_row(items), at.only_row(attempts), at.only_row(accounts)
        assert len(await at.claims()) == 1
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.THROTTLED, Next.COOL_DOWN)
    assert carried.reply.retry_after == "3"
    assert (item["state"], item["cut_offs"], item["http_status"]) == ("pending", 0, 429)
    assert (attempt["outcome"], account_row["stated_limit"]) == ("throttled", 7)


async def test_a_429_about_the_rate_states_no_limit(tmp_path: Path) -> None:
    """A 429 whose text has no limit in it leaves the limit as it was."""
    text = "You have sent too many requests, 100 of them, too quickly."
    async with Server(always(429, {"message": text})) as server, desk(server.base_url, audio(tmp_path, 10)) as at:
        await at.carry()
        assert (at.only_row(items)["state"], at.only_row(accounts)["stated_limit"]) == ("pending", None)


async def test_a_401_is_pending_and_goes_with_a_new_token(tmp_path: Path) -> None:
    """A refused token appended nothing: the item is pending, and its next attempt has another token."""
    async with Server(in_turn(always(401), append)) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        first = await at.carry()
        state, cut_offs = at.only_row(items)["state"], at.only_row(items)["cut_offs"]
        await at.carry()
        item = at.only_row(items)
        assert [put.all("authorization") for put in server.puts()] == [["Bearer token-1"], ["Bearer token-2"]]
    assert (first.verdict.next, state, cut_offs) == (Next.RENEW_TOKEN, "pending", 0)
    assert (item["state"], item["attempts"]) == ("accepted", 2)


@pytest.mark.parametrize("status", [400, 404, 413, 423, 301, 307])
async def test_a_refusal_is_written_down_with_its_words(tmp_path: Path, status: int) -> None:
    """Refused: nothing was appended; the error has the code, and the service's own message."""
    script = always(status, {"message": "so it is"})
    async with Server(script) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        carried = await at.carry()
        item, attempt = at.only_row(items), at.only_row(attempts)
    assert (carried.verdict.outcome, carried.verdict.next) == (Outcome.REFUSED, Next.SETTLE)
    assert (item["state"], item["http_status"], item["slot_until"]) == ("refused", status, None)
    assert (item["finished_at"], attempt["outcome"]) == (attempt["ended_at"], "refused")
    assert str(status) in item["error"]
    assert "so it is" in item["error"]


async def test_a_404_has_the_documented_words(tmp_path: Path) -> None:
    """An unknown conversation is refused in the words of the documentation."""
    async with Server(always(404)) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        await at.carry()
        assert "The conversation and/or it's metadata you asked could not be found" in at.only_row(items)["error"]


async def test_a_closed_port_is_not_sent(tmp_path: Path) -> None:
    """Nobody there: pending after a wait, and no cut-off is counted."""
    base_url = f"http://127.0.0.1:{free_port()}"
    async with desk(base_url, audio(tmp_path, 1000), credentials=READY) as at:
        carried = await at.carry()
        item, lane = at.only_row(items), at.only_row(lanes)
    assert carried.verdict.outcome is Outcome.NOT_SENT
    assert (item["state"], item["cut_offs"], item["http_status"]) == ("pending", 0, None)
    assert lane["not_before"] > 0


def gone(path: Path) -> None:
    """Archive the file."""
    path.unlink()


def longer(path: Path) -> None:
    """Let the file grow."""
    with path.open("ab") as file:
        file.write(b"x")


def folder(path: Path) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    """Put a FIFO in the file's place."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [gone, longer, folder, fifo])
async def test_a_file_that_is_not_the_planned_one_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A file that is gone or another one by its turn: refused with the reason, and no PUT."""
    path = audio(tmp_path, 1000)
    async with Server() as server, desk(server.base_url, path) as at:
        change(path)
        carried = await at.carry()
        item = at.only_row(items)
        assert server.puts() == []
    assert (carried.verdict.outcome, item["state"]) == (Outcome.REFUSED, "refused")
    assert item["error"] == carried.reply.source_failure
    assert item["error"]


@pytest.mark.parametrize(("known", "puts", "word"), [(True, [True], "checked"), (False, [True, False], "content")])
async def test_another_recording_under_the_same_name_is_refused(
    tmp_path: Path, known: bool, puts: list[bool], word: str
) -> None:
    """Another file of the same size is not sent; where its times are unknown, the last chunk of it never leaves."""
    path = audio(tmp_path, 300_000)
    async with Server(in_turn(always(429), append)) as server, desk(server.base_url, path) as at:
        await at.carry()
        before = path.stat()
        audio(tmp_path, 300_000, seed=2)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        claimed = await at.claim()
        carried = await at.carry(claimed if known else replace(claimed, change=None))
        item = at.only_row(items)
    assert [put.whole for put in server.puts()] == puts
    assert (carried.verdict.outcome, item["state"]) == (Outcome.REFUSED, "refused")
    assert word in item["error"]


async def test_a_stop_cuts_an_upload_before_its_last_chunk(tmp_path: Path) -> None:
    """The grace time is over while the body goes out: pending at once, and it counts as no cut-off."""

    async def stop_reading(exchange: Exchange) -> None:
        await exchange.read_body(100_000)
        at.stop(0.0, 60.0)
        await exchange.server.let_go.wait()

    async with Server(stop_reading) as server, desk(server.base_url, audio(tmp_path, 16 * MEBIBYTE)) as at:
        carried = await at.carry()
        item, lane, attempt = at.only_row(items), at.only_row(lanes), at.only_row(attempts)
        server.let_go.set()
    assert (carried.reply.withheld, carried.verdict.outcome) == (True, Outcome.CUT_OFF)
    assert (item["state"], item["cut_offs"], lane["not_before"], attempt["admitted_at"]) == ("pending", 0, 0.0, None)


class NoTurn(Pace):
    """A pace at which nobody's turn ever comes."""

    def __init__(self, per_second: float) -> None:
        super().__init__(per_second)
        self.waited_for = asyncio.Event()

    async def wait(self) -> None:
        """Wait for ever."""
        self.waited_for.set()
        await asyncio.Event().wait()


async def test_a_stop_lets_nothing_begin(tmp_path: Path) -> None:
    """An attempt that still waits for its turn when the grace time is over sends nothing: pending."""
    async with Server() as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        at.pace = turn = NoTurn(1.0)
        carrying = asyncio.create_task(at.carry())
        await turn.waited_for.wait()
        at.stop(0.0, 60.0)
        carried = await ended(carrying)
        assert server.requests == []
        assert at.only_row(items)["state"] == "pending"
    assert carried.reply.withheld


async def test_a_429_lets_nothing_begin_that_still_waits(tmp_path: Path) -> None:
    """An attempt that waits for its turn when another meets the limit sends nothing, and gives its slot back."""
    async with Server() as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        at.pace = turn = NoTurn(1.0)
        carrying = asyncio.create_task(at.carry())
        await turn.waited_for.wait()
        at.flow.cancel_unstarted()
        carried = await ended(carrying)
        assert server.requests == []
        assert (at.only_row(items)["state"], at.only_row(items)["cut_offs"]) == ("pending", 0)
        assert not at.flow.state.is_stopping()
    assert (carried.reply.withheld, carried.refusal) == (True, None)
    assert "limit was met" in carried.verdict.reason


async def test_a_stop_waits_for_the_answer_to_what_has_left(tmp_path: Path) -> None:
    """Once the last chunk is out a stop takes the answer, as long as there is time: accepted, no doubt."""

    async def stop_then_answer(exchange: Exchange) -> None:
        await exchange.read_body()
        at.stop(0.0, 60.0)
        await exchange.answer(201, accepted(exchange))

    async with Server(stop_then_answer) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        await at.carry()
        assert at.only_row(items)["state"] == "accepted"


async def test_a_stop_ends_the_wait_for_an_answer(tmp_path: Path) -> None:
    """When even the time for answers is over, what has left and has no answer is in doubt."""

    async def stop_and_say_nothing(exchange: Exchange) -> None:
        await exchange.read_body()
        at.stop(0.0, 0.0)
        await exchange.until_left()

    async with Server(stop_and_say_nothing) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        await at.carry()
        assert at.only_row(items)["state"] == "in_doubt"


@pytest.mark.parametrize(("patience", "says", "known_as"), [(0.0, None, "called"), (60.0, "answered", "answered")])
async def test_a_call_ends_the_wait_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float, says: str | None, known_as: str
) -> None:
    """Once a call has named the job, an answer is waited for a little longer only; one that comes by then counts."""
    monkeypatch.setattr(attempt, "ANSWER_AFTER_CALLBACK_SECONDS", patience)

    async def call(exchange: Exchange) -> None:
        await exchange.read_body()
        told, secret = Callback("called", JobStatus.SCHEDULED), token_hash("secret")
        found = await at.thread.call(apply_callback, secret, told, time.time(), listening_since=0.0)
        assert found.effect is CallbackEffect.DEFERRED
        runner.callback_received(found.attempt_id)
        runner.callback_received(found.attempt_id + 1)  # of an attempt that is over by now
        if says is not None:
            await exchange.answer(201, accepted(exchange) | {"jobId": says})
        await exchange.until_left()

    address: dict[str, Any] = {"webhook_url": "http://127.0.0.1/jobs"}
    async with Server(call) as server, desk(server.base_url, audio(tmp_path, 1000), **address) as at:
        runner = at.runner()
        claims = at.thread.call(claim, at.account_id, 1, time.time(), new_token=lambda: "secret", worker_id=1)
        [claimed] = (await claims).claims
        await runner.run(claimed)
        assert (at.only_row(items)["state"], at.only_row(items)["job_id"]) == ("accepted", known_as)


async def silent(exchange: Exchange) -> None:
    """Take the request, and say nothing until the client leaves."""
    await exchange.read_body()
    await exchange.until_left()


async def test_a_stop_does_not_wait_for_a_token(tmp_path: Path) -> None:
    """A token endpoint that hangs must not keep a stop from ending: nothing was sent, so the item is pending."""
    async with Server(token=silent) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        carrying = asyncio.create_task(at.carry())
        await server.until(lambda: len(server.token_requests()) == 1)
        at.stop(0.0, 0.0)
        carried = await ended(carrying)
        assert at.only_row(items)["state"] == "pending"
        assert server.puts() == []
    assert not carried.reply.last_chunk_left


async def test_a_stop_does_not_wait_for_a_look(tmp_path: Path) -> None:
    """A look at the conversation that hangs must not keep a stop from ending either."""
    path = audio(tmp_path, 1000)
    async with Server(get=silent) as server, desk(server.base_url, path, doubt=Doubt(look_before=True)) as at:
        carrying = asyncio.create_task(at.carry())
        await server.until(lambda: len(server.gets()) == 1)
        at.stop(0.0, 0.0)
        await ended(carrying)
        assert at.only_row(items)["state"] == "pending"
        assert server.puts() == []


async def ended(carrying: "asyncio.Task[AttemptResult]") -> AttemptResult:
    """Return the result of an attempt that was asked to end."""
    done, _ = await asyncio.wait([carrying], timeout=10.0)
    if not done:
        carrying.cancel()
        pytest.fail("the attempt goes on although it was told to end")
    return carrying.result()


@pytest.mark.parametrize("size", [1, 20_000, MEBIBYTE])
async def test_without_its_admission_the_last_chunk_stays(tmp_path: Path, size: int) -> None:
    """A ledger that cannot take the admission: the server lacks some of the file, it is pending, the run ends."""

    async def fail_the_admission(function: Any) -> None:
        if function is admit:
            raise LedgerUnavailableError("the disk is full")

    async with Server(append) as server:
        path = audio(tmp_path, size)
        async with desk(server.base_url, path, before=fail_the_admission) as at:
            with pytest.raises(LedgerUnavailableError, match="disk is full"):
                await at.carry()
            item, attempt = at.only_row(items), at.only_row(attempts)
        await server.settled()
        assert [put.whole for put in server.puts()] in ([], [False])
    assert (item["state"], item["cut_offs"], attempt["admitted_at"]) == ("pending", 0, None)


async def test_a_stop_that_comes_with_the_admission_keeps_the_last_chunk(tmp_path: Path) -> None:
    """The admission is committed, and the grace time is over by then: nothing leaves, and the item is pending again."""

    async def stop_at_the_admission(function: Any) -> None:
        if function is admit:
            at.stop(0.0, 60.0)

    path = audio(tmp_path, 300_000)
    async with Server(append) as server:
        async with desk(server.base_url, path, before=stop_at_the_admission) as at:
            carried = await at.carry()
            item, attempt = at.only_row(items), at.only_row(attempts)
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (carried.reply.withheld, carried.reply.last_chunk_left) == (True, False)
    assert attempt["admitted_at"] is not None
    assert (item["state"], item["cut_offs"]) == ("pending", 0)


async def test_a_breaker_that_opens_with_the_admission_keeps_the_last_chunk(tmp_path: Path) -> None:
    """The admission is committed, and the breaker has opened by then: nothing leaves, and the item is pending again."""

    async def open_at_the_admission(function: Any) -> None:
        if function is admit:
            at.flow.state = at.flow.state._replace(breaker=CircuitBreaker(state=BreakerState.OPEN))

    path = audio(tmp_path, 300_000)
    async with Server(append) as server:
        async with desk(server.base_url, path, before=open_at_the_admission) as at:
            await at.carry()
            item = at.only_row(items)
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (item["state"], item["cut_offs"]) == ("pending", 0)


async def test_an_attempt_that_is_withdrawn_keeps_the_last_chunk(tmp_path: Path) -> None:
    """An attempt that the ledger no longer knows as the one under way sends its last chunk never."""
    path = audio(tmp_path, 300_000)
    async with Server(append) as server:
        async with desk(server.base_url, path) as at:
            claimed = await at.claim()
            await at.thread.call(take_over)
            assert "as being sent any more" in (await at.carry(claimed)).verdict.reason
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]


async def test_as_long_as_the_admission_is_not_durable_the_last_chunk_stays(tmp_path: Path) -> None:
    """A slow disk: the last chunk waits for the admission's commit, however long that takes."""
    release = threading.Event()
    path = audio(tmp_path, 300_000)
    asked = asyncio.Event()

    async def note(function: Any) -> None:
        if function is admit:
            asked.set()

    async with Server(append) as server, desk(server.base_url, path, before=note) as at:
        claimed = await at.claim()
        blocked = asyncio.create_task(at.thread.call(lambda connection: release.wait(GUARD_SECONDS)))
        carrying = asyncio.create_task(at.carry(claimed))
        await asked.wait()
        await at.client.ping("x")  # there and back again: what was on its way has arrived
        before = server.puts()[0].received
        release.set()
        await asyncio.gather(blocked, carrying)
        assert before < server.puts()[0].received == size_of(path)
        assert at.only_row(items)["state"] == "accepted"


async def test_a_connection_that_ends_while_the_admission_is_written_leaves_it_pending(tmp_path: Path) -> None:
    """The admission is committed after the connection has ended: the outcome comes after it, and says pending."""
    release = threading.Event()
    asked = asyncio.Event()
    settling = asyncio.Event()

    async def note(function: Any) -> None:
        if function is admit:
            asked.set()
        if function is record_reply:
            settling.set()

    async def close_at_the_admission(exchange: Exchange) -> None:
        await exchange.read_body(100_000)
        await asked.wait()
        exchange.hang_up()

    path = audio(tmp_path, 300_000)
    async with Server(close_at_the_admission) as server, desk(server.base_url, path, before=note) as at:
        claimed = await at.claim()
        blocked = asyncio.create_task(at.thread.call(lambda connection: release.wait(GUARD_SECONDS)))
        carrying = asyncio.create_task(at.carry(claimed))
        await settling.wait()
        release.set()
        await asyncio.gather(blocked, carrying)
        item = at.only_row(items)
    assert [put.whole for put in server.puts()] == [False]
    assert (item["state"], item["cut_offs"]) == ("pending", 1)


async def test_an_outcome_that_cannot_be_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a moment: the jobId is logged in full, and is in the ledger in the end."""
    monkeypatch.setattr("uploader.attempt.RETRY_WRITE_SECONDS", (0.0, 0.0))
    failures = [LedgerUnavailableError("full"), LedgerUnavailableError("full")]

    async def fail_twice(function: Any) -> None:
        if function is record_reply and failures:
            raise failures.pop()

    path = audio(tmp_path, 1000)
    with capture_logs() as logged:
        async with Server(append) as server, desk(server.base_url, path, before=fail_twice) as at:
            await at.carry()
            item = at.only_row(items)
    assert (item["state"], item["job_id"]) == ("accepted", "job-1")
    unwritten = [event for event in logged if event["log_level"] == "error"]
    assert [event["jobId"] for event in unwritten] == ["job-1"]


async def test_an_outcome_that_can_never_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays full: the jobId is in the log, and the next run finds the item in doubt."""
    monkeypatch.setattr("uploader.attempt.RETRY_WRITE_SECONDS", (0.0,))

    async def fail(function: Any) -> None:
        if function is record_reply:
            raise LedgerUnavailableError("full")

    path = audio(tmp_path, 1000)
    with capture_logs() as logged:
        async with Server(append) as server, desk(server.base_url, path, before=fail) as at:
            with pytest.raises(LedgerUnavailableError):
                await at.carry()
            found = await at.thread.call(take_over)
            state = at.only_row(items)["state"]
    assert (found, state) == ((0, 1), "in_doubt")
    assert "job-1" in [event.get("jobId") for event in logged]


async def test_a_job_that_cannot_be_written_is_logged_whatever_the_reason(tmp_path: Path) -> None:
    """Not for a disk that is full alone: a fault of the program reaches whoever runs the night, the jobId the log."""

    async def fail(function: Any) -> None:
        if function is record_reply:
            raise RuntimeError("a fault of ours")

    path = audio(tmp_path, 1000)
    with capture_logs() as logged:
        async with Server(append) as server, desk(server.base_url, path, before=fail) as at:
            with pytest.raises(RuntimeError, match="a fault of ours"):
                await at.carry()
    assert "job-1" in [event.get("jobId") for event in logged]


async def test_a_cancelled_attempt_still_writes_its_outcome(tmp_path: Path) -> None:
    """Cancelling cannot lose what came back: the write goes on."""
    settling, go_on = asyncio.Event(), asyncio.Event()

    async def wait_at_the_outcome(function: Any) -> None:
        if function is record_reply:
            settling.set()
            await go_on.wait()

    path = audio(tmp_path, 1000)
    async with Server(append) as server, desk(server.base_url, path, before=wait_at_the_outcome) as at:
        carrying = asyncio.create_task(at.carry())
        await settling.wait()
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        assert at.only_row(items)["state"] == "sent"
        go_on.set()
        await at.writer.until_written(record_reply)
        assert at.only_row(items)["state"] == "accepted"


@pytest.mark.parametrize(
    ("token", "error"), [(always(401), CredentialsError), (always(404), GaveUpError), (always(403), CredentialsError)]
)
async def test_without_credentials_the_item_is_pending(tmp_path: Path, token: Script, error: type[Exception]) -> None:
    """A token that cannot be had ends the run; the item was not sent, and waits for the next one."""
    async with Server(token=token) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        with pytest.raises(error):
            await at.carry()
        item, lane = at.only_row(items), at.only_row(lanes)
        assert server.puts() == []
    assert (item["state"], item["cut_offs"], lane["not_before"]) == ("pending", 0, 0.0)


async def test_a_token_endpoint_out_of_order_is_not_sent(tmp_path: Path) -> None:
    """No token for the moment: the item is pending after a wait, and goes later."""
    script = in_turn(always(503), issue("t"))
    async with Server(append, token=script) as server, desk(server.base_url, audio(tmp_path, 1000)) as at:
        carried = await at.carry()
        assert (carried.verdict.outcome, at.only_row(items)["state"]) == (Outcome.NOT_SENT, "pending")
        assert at.only_row(lanes)["not_before"] > 0


async def test_only_so_many_last_chunks_are_out_without_an_answer(tmp_path: Path) -> None:
    """A service that takes files and does not answer gets five whole ones at most, however many are under way."""
    paths = [audio(tmp_path, 100_000, f"{n}.wav", n) for n in range(8)]

    def whole() -> int:
        return sum(put.whole for put in server.puts())

    async def answer_late(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.server.let_go.wait()
        await exchange.answer(201, accepted(exchange))

    async with Server(answer_late) as server, desk(server.base_url, *paths) as at:
        uploads = asyncio.gather(*(at.carry(claimed) for claimed in await at.claims(8)))
        arrived = 100_000 - 16 * 1024
        await server.until(lambda: len(server.puts()) == 8 and min(put.received for put in server.puts()) >= arrived)
        await server.until(lambda: whole() == 5)
        await at.client.ping("x")  # there and back again: what was on its way has arrived
        assert whole() == 5
        assert sorted(item["state"] for item in at.rows(items)) == ["sending"] * 3 + ["sent"] * 5
        server.let_go.set()
        await uploads
        assert {item["state"] for item in at.rows(items)} == {"accepted"}
        assert len(server.puts()) == 8


async def begun_ahead(at: Desk, server: Server) -> "asyncio.Task[AttemptResult]":
    """Fill the one slot, and send another body up to its last chunk."""
    await at.carry()
    (claimed,) = await at.claims(ahead=Ahead(slots=1))
    assert claimed.is_ahead
    carrying = asyncio.create_task(at.carry(claimed))
    await server.until(lambda: len(server.puts()) == 2 and server.puts()[1].received >= 100_000 - 16 * 1024)
    return carrying


async def test_a_body_sent_ahead_leaves_whole_once_a_slot_is_free(tmp_path: Path) -> None:
    """It waits beside the one job that the account may have; the end of that job lets its last chunk out."""
    paths = [audio(tmp_path, 100_000, f"{n}.wav", n) for n in range(2)]
    async with Server(append) as server, desk(server.base_url, *paths, limit=1, ahead_seconds=3600.0) as at:
        carrying = await begun_ahead(at, server)
        await at.client.ping("x")  # there and back again: what was on its way has arrived
        assert [(put.whole, item["state"]) for put, item in zip(server.puts(), at.rows(items), strict=True)] == [
            (True, "accepted"),
            (False, "sending"),
        ]
        (job,) = await at.thread.call(live_jobs, at.account_id)
        await at.thread.call(end_job, JobEnd(job, JobStatus.COMPLETED, time.time()))
        at.flow.slot_may_be_free()
        assert (await ended(carrying)).verdict.outcome is Outcome.APPLIED
        assert [item["state"] for item in at.rows(items)] == ["completed", "accepted"]


async def test_a_body_that_waited_too_long_is_cut_and_counts_for_nobody(tmp_path: Path) -> None:
    """After ahead_seconds it is pending again at once, neither a cut-off of its file nor an attempt of its result."""
    paths = [audio(tmp_path, 100_000, f"{n}.wav", n) for n in range(2)]
    async with Server(append) as server:
        async with desk(server.base_url, *paths, limit=1, ahead_seconds=0.1) as at:
            result = await ended(await begun_ahead(at, server))
            item, attempt, lane = at.rows(items)[1], at.rows(attempts)[1], at.rows(lanes)[1]
        await server.settled()
        assert [put.whole for put in server.puts()] == [True, False]
    assert (result.reply.withheld, result.verdict.outcome) == (True, Outcome.CUT_OFF)
    assert "its turn did not come within 0.1 s" in result.verdict.reason
    assert (item["state"], item["attempts"], item["unadmitted"], item["cut_offs"]) == ("pending", 1, 1, 0)
    assert (attempt["admitted_at"], lane["not_before"]) == (None, 0.0)


async def test_a_crash_while_bodies_wait_leaves_no_doubt(tmp_path: Path) -> None:
    """Whoever recovers finds what waited for its admission pending, whatever of it has left."""
    paths = [audio(tmp_path, 100_000, f"{n}.wav", n) for n in range(2)]
    async with Server(append) as server, desk(server.base_url, *paths, limit=1, ahead_seconds=3600.0) as at:
        carrying = await begun_ahead(at, server)
        assert await at.thread.call(take_over) == (1, 0)
        at.flow.slot_may_be_free()
        assert [item["state"] for item in at.rows(items)] == ["accepted", "pending"]
        at.stop(0.0, 0.0)
        await ended(carrying)
        assert [put.whole for put in server.puts()] == [True, False]


async def test_a_connection_that_ends_while_it_waits_blocks_nobody(tmp_path: Path) -> None:
    """An upload that is cut off while its last chunk waits for its turn takes no turn with it."""
    paths = [audio(tmp_path, 100_000, f"{n}.wav", n) for n in range(11)]
    first, second = asyncio.Event(), asyncio.Event()

    def whole(conversations: range) -> int:
        return sum(put.whole for put in server.puts() if int(put.target.rpartition("-")[2]) in conversations)

    async def script(exchange: Exchange) -> None:
        number = int(exchange.request.target.rpartition("-")[2])
        if number == 7:
            await exchange.read_body(100_000 - 16 * 1024)
            exchange.hang_up()
            return
        await exchange.read_body()
        await (first if number < 7 else second).wait()
        await exchange.answer(201, accepted(exchange))

    async with Server(script) as server, desk(server.base_url, *paths) as at:
        claims = await at.claims(11)
        held = asyncio.gather(*(at.carry(claimed) for claimed in claims[:5]))
        await server.until(lambda: whole(range(2, 7)) == 5)
        cut_off = await at.carry(claims[5])
        first.set()
        await held
        later = asyncio.gather(*(at.carry(claimed) for claimed in claims[6:]))
        await server.until(lambda: whole(range(8, 13)) == 5)
        second.set()
        await later
        states = [item["state"] for item in at.rows(items)]
    assert cut_off.verdict.outcome is Outcome.CUT_OFF
    assert states == ["accepted"] * 5 + ["pending"] + ["accepted"] * 5


async def test_the_log_has_one_event_an_attempt_and_nothing_private(tmp_path: Path) -> None:
    """Batch, line, conversation, attempt, job, status and seconds are told; path, parameters and secrets are not."""
    path = audio(tmp_path, 300_000, "private-recording.wav")
    private = {"name": "a private meeting"}
    moved = always(307, Location="/elsewhere?name=a%20private%20meeting")
    script = in_turn(always(429), always(401), append)
    with capture_logs() as logged:
        async with Server(script) as server, desk(server.base_url, path, parameters=private) as at:
            for _ in range(3):
                await at.carry()
        async with Server(moved) as other, desk(other.base_url, path, parameters=private) as at:
            assert "private" in (await at.carry()).verdict.reason
        assert "private" in server.puts()[0].target
    told = [event for event in logged if event["event"] == "attempt.ended"]
    assert [(event["attempt"], event["httpStatus"], event["jobId"]) for event in told] == [
        (1, 429, None),
        (2, 401, None),
        (3, 201, "job-1"),
        (1, 307, None),
    ]
    assert {(event["batch"], event["line"], event["conversationId"]) for event in told} == {
        ("batch", 2, "conversation-2")
    }
    assert all(event["seconds"] >= 0 for event in told)
    shown = repr(logged)
    assert [
        word for word in ("private", str(tmp_path), "token-", "the-app-secret", "the-app-id") if word in shown
    ] == []


# what two kernels may hold between them: a body that is cut in its middle has not left us whole
BEYOND_KERNEL_BUFFERS = 16 * MEBIBYTE

FATES = [
    (Faults(), "accepted", 1),
    (Faults(put=PutFaults(lost_answer=1.0)), "in_doubt", 1),
    (Faults(put=PutFaults(lost_before=1.0)), "in_doubt", 0),
    (Faults(put=PutFaults(cut=1.0)), "pending", 0),
    (Faults(put=PutFaults(status_500=1.0, taken=1.0)), "in_doubt", 1),
    (Faults(put=PutFaults(status_503=1.0, taken=0.0)), "in_doubt", 0),
    (Faults(put=PutFaults(throttled=1.0)), "pending", 0),
    (Faults(put=PutFaults(unauthorized=1.0)), "pending", 0),
    (Faults(unknown_conversations=frozenset({"conversation-2"})), "refused", 0),
    (Faults(put=PutFaults(throttled=1.0), early_answers=True), "pending", 0),
    (Faults(jobs=JobFaults(failed=1.0)), "accepted", 1),
]


@pytest.mark.parametrize(("faults", "state", "appended"), FATES)
@pytest.mark.parametrize("size", [1000, 2 * MEBIBYTE])
async def test_the_sandbox_and_the_ledger_agree(
    tmp_path: Path, faults: Faults, state: str, appended: int, size: int
) -> None:
    """Whatever befalls a PUT in the sandbox: one arrives, and the ledger never calls pending what was appended."""
    settings = SandboxSettings(faults=faults, job_seconds=86400.0)
    credentials = Credentials("sandbox", "sandbox")
    if faults.put.cut:
        # a body of one chunk leaves whole, after its admission: a cut in it is too late to prove anything
        size, state = (BEYOND_KERNEL_BUFFERS, state) if size > 1000 else (size, "in_doubt")
    async with Sandbox(settings) as sandbox:
        async with desk(sandbox.base_url, audio(tmp_path, size), credentials=credentials) as at:
            await at.carry()
            item = at.only_row(items)
        assert len(sandbox.journal.begun_puts()) == 1
        jobs = [put.job_id for put in sandbox.journal.appended()]
    assert (State(item["state"]), len(jobs)) == (State(state), appended)
    assert item["job_id"] in (None, *jobs)
    assert (item["job_id"] is not None) is (state == "accepted")


async def test_an_upload_whose_turn_comes_too_late_does_not_begin(tmp_path: Path) -> None:
    """`--until` holds for who was claimed before it and waited for the rate: nothing is sent, the item is pending."""
    async with Server(append) as server, desk(server.base_url, audio(tmp_path, 1000), late_at=time.time()) as at:
        carried = await at.carry()
        item = at.only_row(items)
        assert server.puts() == []
    assert carried.verdict.next is Next.AGAIN
    assert (item["state"], item["cut_offs"]) == ("pending", 0)
