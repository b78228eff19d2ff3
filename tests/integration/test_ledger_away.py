"""The ledger's server goes away: writes wait for it, and a COMMIT that was not answered is looked up, never guessed."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.acceptance.place import until
from tests.integration.test_ledger import CUT, LOST, Book, accepted, opened
from tests.integration.test_ledger_thread import admitted, record_of
from tests.proxy import Loss, Network, Proxy, proxied
from uploader.errors import LedgerAwayError, WorkerEndedError
from uploader.ledger import Ledger, commits, postgres, postgres_connection, thread
from uploader.ledger.claiming import claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.outcomes import JobEnd, end_job, record_reply
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import beat, end_worker
from uploader.model import JobStatus

ITEMS = 4
# a COMMIT that was carried out is found to have been; the other one is written anew
LOSSES = [Loss.BEFORE, Loss.AFTER]


class Away:
    """A ledger whose writer has a network of its own, and a book beside it."""

    def __init__(self, book: Book, proxy: Proxy, writer: LedgerThread) -> None:
        self.book = book
        self.proxy = proxy
        self.writer = writer

    async def claim(self, wanted: int = ITEMS) -> Any:
        """Claim attempts, as the engine does."""
        return await self.writer.call(claim, 1, wanted, 1000.0, worker_id=self.book.worker_id)

    async def until_away(self) -> None:
        """Wait until the writer knows that the ledger is away."""
        await asyncio.to_thread(until, lambda: self.writer.is_away, "the ledger is away")


@pytest.fixture
def book(tmp_path: Path, postgres_url: str) -> Iterator[Book]:
    """Provide a ledger with a batch of several lanes."""
    with opened(tmp_path, postgres_url) as made:
        made.load([(f"c{number}", f"{'abcdefg'[number]}.wav") for number in range(ITEMS)])
        yield made


@asynccontextmanager
async def beside(book: Book, away_seconds: float = 30.0) -> AsyncIterator[Away]:
    """Give a writer of the book's ledger with a network of its own."""
    with (
        proxied(book.ledger._url) as (proxy, url),  # type: ignore[attr-defined] # a PostgreSQL ledger's
        Ledger.open_for_reading(url) as ledger,
    ):
        writer = LedgerThread(GroupCommits(ledger, {1}, worker_id=book.worker_id, away_seconds=away_seconds))
        try:
            yield Away(book, proxy, writer)
        finally:
            await asyncio.to_thread(writer.close)


@pytest.mark.parametrize("loss", LOSSES)
async def test_each_step_of_an_attempt_is_taken_once_whatever_becomes_of_its_commit(book: Book, loss: Loss) -> None:
    """Claim, admission, outcome and end with a lost COMMIT each: one attempt an item, and the answers are the same."""
    load = book.loads["m.csv"]
    async with beside(book) as at:
        at.proxy.lose_commits(loss)
        claims = (await at.claim()).claims
        assert [found[1:] for found in book.attempts()] == [(1, None)] * ITEMS
        assert sorted(claimed.item_id for claimed in claims) == sorted(item for item, _, _ in book.attempts())
        at.proxy.lose_commits(loss)
        result = await admitted(at.writer, *claims)
        assert result.admitted == {claimed.attempt_id for claimed in claims}
        at.proxy.lose_commits(loss)
        records = [record_of(claimed, accepted(f"j{claimed.line}")) for claimed in claims[1:]]
        records.append(record_of(claims[0], LOST))
        with capture_logs() as logged:
            recorded = await asyncio.gather(*[at.writer.call(record_reply, record) for record in records])
        assert [found.verdict.state.value for found in recorded] == ["accepted"] * (ITEMS - 1) + ["in_doubt"]
        assert book.live() == ITEMS
        jobs = book.jobs()
        at.proxy.lose_commits(loss)
        ends = [JobEnd(job, JobStatus.COMPLETED, 1010.0) for job in jobs]
        await asyncio.gather(*[at.writer.call(end_job, end) for end in ends])
        assert at.proxy.lost == 4
        assert not at.writer.is_away
    assert sorted(book.states(load).split()) == ["completed"] * (ITEMS - 1) + ["in_doubt"]
    names = [event["event"] for event in logged]
    assert names == ["ledger.away", "ledger.commit_checked", "ledger.back"]
    assert [event["committed"] for event in logged if "committed" in event] == [loss is Loss.AFTER]


async def test_jobs_that_a_worker_has_taken_over_are_followed_whatever_becomes_of_the_commit(book: Book) -> None:
    """The COMMIT of a renewal that took jobs is lost after it: the worker is told of them all the same."""
    claims = book.claim()
    for claimed in claims:
        book.answer(claimed, accepted(f"j{claimed.line}"))
    with book.ledger.writing() as connection:
        end_worker(connection, book.worker_id, 1, 1005.0, 900.0)
        book.begin_worker(connection, book.loads["m.csv"])
    async with beside(book) as at:
        at.proxy.lose_commits(Loss.AFTER)
        found = await at.writer.call(
            beat, book.worker_id, 1, None, 1006.0, 900.0, 3600.0, no_wait=False, is_gone=lambda _: False
        )
    assert {job.job_id for job in found.jobs} == {f"j{claimed.line}" for claimed in claims}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_worker_that_was_ended_meanwhile_takes_nothing(book: Book, loss: Loss) -> None:
    """Another worker has ended it, and its claim was carried out or not: no attempt begins, its items are pending."""
    async with beside(book) as at:
        at.proxy.lose_commits(loss, then=Network.CUT)
        claiming = asyncio.ensure_future(at.claim())
        await at.until_away()
        with book.ledger.writing() as connection:
            end_worker(connection, book.worker_id, 1, 1005.0, 900.0)
        at.proxy.behave(Network.GOOD)
        if loss is Loss.AFTER:
            with pytest.raises(WorkerEndedError):
                await claiming
        else:
            assert (await claiming).claims == []
    assert book.states(book.loads["m.csv"]).split() == ["pending"] * ITEMS


@pytest.mark.parametrize("network", [Network.CUT, Network.SILENT])
async def test_what_comes_while_the_ledger_is_away_is_written_once_it_is_back(
    book: Book, monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    """An outcome, an admission and a claim wait; an outcome that comes after its attempt's admission goes first."""
    monkeypatch.setattr(postgres, "WRITER_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(postgres_connection, "CONNECT_SECONDS", 2)
    async with beside(book) as at:
        first, second, *_ = (await at.claim(2)).claims
        await admitted(at.writer, first)
        assert not at.writer.is_stalled
        assert at.writer.stalled_seconds == 0.0
        monkeypatch.setattr(thread, "STALLED_SECONDS", 0.3)
        at.proxy.behave(network)
        admission = asyncio.ensure_future(admitted(at.writer, second))
        await at.until_away()
        withheld = record_of(second, CUT._replace(last_chunk_left=False, withheld=True))
        calls: list[Any] = [at.writer.call(record_reply, record_of(first, accepted("j"))), at.claim(1)]
        calls.append(at.writer.call(record_reply, withheld))
        waiting = [admission, *map(asyncio.ensure_future, calls)]
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done
        assert at.writer.is_stalled
        at.proxy.behave(Network.GOOD)
        asked, reply, claimed, _ = await asyncio.gather(*waiting)
        assert at.writer.stalled_seconds > thread.STALLED_SECONDS
    assert (asked.admitted, list(asked.withdrawn)) == (frozenset(), [second.attempt_id])
    assert reply.verdict.job_id == "j"
    assert len(claimed.claims) == 1


async def test_a_ledger_that_stays_away_fails_what_waits_and_takes_late_outcomes(book: Book) -> None:
    """After the longest wait each caller is told; once it is back, outcomes are written, and nothing is claimed."""
    async with beside(book, away_seconds=0.5) as at:
        first, second, *_ = (await at.claim()).claims
        await admitted(at.writer, first, second)
        at.proxy.behave(Network.CUT)
        calls: list[Any] = [at.writer.call(record_reply, record_of(first, accepted("j"))), at.claim()]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in failed] == [LedgerAwayError, LedgerAwayError]
        assert "it was away for" in str(failed[0])
        at.proxy.behave(Network.GOOD)
        await at.writer.call(record_reply, record_of(second, accepted("k")))
        with pytest.raises(LedgerAwayError):
            await at.claim()
    assert book.states(book.loads["m.csv"]).split().count("accepted") == 1


@pytest.mark.parametrize("network", [Network.CUT, Network.SILENT])
async def test_a_stop_ends_the_wait_for_a_ledger_that_is_away(
    book: Book, monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    """A run that is stopped has its grace time alone, whatever the longest wait, and the longest silence."""
    monkeypatch.setattr(commits, "LEAST_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(postgres_connection, "CONNECT_SECONDS", 2)
    async with beside(book, away_seconds=3600.0) as at:
        await admitted(at.writer)
        at.proxy.behave(network)
        claiming = asyncio.ensure_future(at.claim())
        if network is Network.CUT:
            await at.until_away()
        at.writer.give_up_after(0.2)
        async with asyncio.timeout(15.0):
            with pytest.raises(LedgerAwayError):
                await claiming


async def test_a_commit_that_is_never_answered_is_looked_up(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands and is silent: the writer has a time limit of its own."""
    monkeypatch.setattr(postgres, "WRITER_SILENCE_SECONDS", 0.5)
    begun = time.monotonic()
    async with beside(book) as at:
        at.proxy.lose_commits(Loss.SILENT_AFTER)
        assert len((await at.claim()).claims) == ITEMS
    assert len(book.attempts()) == ITEMS
    assert time.monotonic() - begun > 0.5


def test_a_standby_that_may_lack_what_was_committed_is_warned_of(postgres_url: str) -> None:
    """A failover to it would forget appends: as long as one is connected and none is synchronous, each run says so."""

    def warned() -> list[str]:
        with capture_logs() as logged:
            Ledger.open_for_run(postgres_url).close()
        return [event["remedy"] for event in logged if "synchronous_standby_names" in event.get("remedy", "")]

    assert warned() == []
    # as a standby does, without what comes then
    with psycopg.connect(postgres_url, replication="true", autocommit=True):
        assert len(warned()) == 1
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        until(lambda: not connection.execute("SELECT 1 FROM pg_stat_replication").fetchall(), "the standby is gone")
    assert warned() == []
