"""One process: what the engine sees of the world, until it dies."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tests.simulation.calls import Calls
from tests.simulation.clock import Time, VirtualLoop
from tests.simulation.world import BEFORE, CUT_TAKEN, EARLY, TOO_QUICKLY, Disk, Put, Service, content_hash
from uploader.client import Admission, JobAnswer, UploadRequest
from uploader.client.upload import Upload, WithheldError
from uploader.engine import Engine
from uploader.errors import SourceError
from uploader.model import ConversationSnapshot, JobStatus, Reply

# small chunks: a file of a few hundred bytes has several
CHUNK_BYTES = 64
# the most that a step of the wire takes: an upload has several
LATENCY_SECONDS = 0.4
ANSWERS = {"no jobId": 201, "no jobId untaken": 201, "broken json": 201, "other conversation": 201}


class KilledError(BaseException):
    """A process is killed in the midst of a function."""


class CutOffError(ConnectionResetError):
    """The network lets nothing through."""


@dataclass
class Troubles:
    """The troubles of one process of several; those with a time are (from, to) in the world's seconds."""

    # how long a transaction takes on its way to the ledger, and its answer back, at most
    ledger_seconds: float = 0.0
    # the seconds of pauses by the step of an attempt after which they come, and the share of its occurrences
    pauses: Mapping[str, float] = field(default_factory=dict)
    pause_share: float = 0.0
    most_pauses: int = 2
    without_ledger: tuple[float, float] = (inf, inf)
    without_service: tuple[float, float] = (inf, inf)
    # the share of commits whose answer is lost
    lost_commits: float = 0.0


class Process:
    """A process of the world, alive or dead.

    Args:
        number: Its number among all of the world.
        rng: The random source of its own.
        loop: Its event loop.
        dies_at: The turn in which it is killed.
        troubles: Its troubles.
    """

    def __init__(
        self,
        number: int,
        rng: random.Random,
        loop: VirtualLoop,
        time: Time,
        dies_at: int | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self.number = number
        self.rng = rng
        self.loop = loop
        self.dies_at = dies_at
        self.troubles = troubles or Troubles()
        self.main: asyncio.Task[None] | None = None
        self.turns = 0
        self.paused_until = -inf
        # it was paused at some time
        self.was_paused = False
        # nothing of it reaches anything any more
        self.dead = False
        # it was killed
        self.died = False
        # its engine was stopped
        self.is_stopped = False
        # the error with which it ended
        self.failure: BaseException | None = None
        # the bodies under way
        self.sending: list[tuple[Upload, Put]] = []
        self._time = time
        self._pauses = 0

    def stop(self, engine: Engine) -> None:
        """Stop its engine."""
        self.is_stopped = True
        engine.stop()

    def check(self) -> None:
        """Raise where the process is dead: nothing of it reaches anything."""
        if self.dead:
            raise RuntimeError("a dead process reached for the world")

    def due_at(self) -> float:
        """Return the world's time of its next turn."""
        due = self.loop.due_at()
        if due >= self.paused_until:
            return due
        # a last chunk that has left is with the kernel in the same moment: the simulated wire takes it a turn later
        if any(upload.last_chunk_left and not (put.received or put.is_lost) for upload, put in self.sending):
            return due
        return self.paused_until

    def pause(self, seconds: float) -> None:
        """Stop it, as SIGSTOP does, until SIGCONT after so many seconds."""
        self.was_paused = True
        self.paused_until = self._time.now + seconds

    def passes(self, step: str) -> None:
        """Perhaps stop it, as it passes a step of an attempt."""
        troubles = self.troubles
        seconds = troubles.pauses.get(step)
        if seconds and self._pauses < troubles.most_pauses and self.rng.random() < troubles.pause_share:
            self._pauses += 1
            self.pause(seconds)

    def world_now(self) -> float:
        """Return the world's time."""
        return self._time.now

    def is_without_ledger(self) -> bool:
        """Return True where the ledger cannot be reached now."""
        begin, end = self.troubles.without_ledger
        return begin <= self._time.now < end

    def is_without_service(self) -> bool:
        """Return True where the service cannot be reached now."""
        begin, end = self.troubles.without_service
        return begin <= self._time.now < end

    def ledger_seconds(self) -> float:
        """Draw how long a message takes on its way from or to the ledger."""
        longest = self.troubles.ledger_seconds
        return self.rng.uniform(0.0, longest) if longest else 0.0


# the steps of an attempt at which a process is stopped, by the function of the ledger that has just been committed
STEPS = {"claim": "claimed", "admit": "admission", "record_reply": "recorded", "beat": "renewed"}
# as a piece of the body has left, before the last chunk of an admitted one, as the answer comes, as the job is polled
BODY, ADMITTED, ANSWER, FOLLOWED = "body", "admitted", "answer", "followed"


class SimulatedFile:
    """An open file of the simulated disk (a ``Source``)."""

    def __init__(self, disk: Disk, path: str, rng: random.Random) -> None:
        self._disk = disk
        self._path = path
        self._opened = disk.files[path]
        self._rng = rng

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._opened.content)

    def verified_hash(self) -> str:
        """Return the hash of the content, which did not change until its last chunk was read."""
        return content_hash(self._opened.content)

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Read it, and see whether it is changed meanwhile."""
        content = self._opened.content
        for start in range(0, len(content), chunk_bytes):
            await asyncio.sleep(0)
            chunk = content[start : start + chunk_bytes]
            if start + chunk_bytes >= len(content) and self._disk.files.get(self._path) is not self._opened:
                raise SourceError("the file changed while it was sent")
            yield chunk


class Wire:
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, _name: str) -> None:
        """Return nothing: there is no socket."""

    def get_write_buffer_size(self) -> int:
        """Return 0: nothing is buffered."""
        return 0

    def is_closing(self) -> bool:
        """Return True where the peer has gone."""
        return self.closed


class SimulatedClient:
    """The service as one process reaches it: the real body of an upload over a simulated wire."""

    def __init__(self, process: Process, service: Service, answer_seconds: float, calls: Calls | None = None) -> None:
        self._process = process
        self._service = service
        self._calls = calls
        self._answer_seconds = answer_seconds

    async def authorise(self) -> str:
        """Fetch a token."""
        return "" if await self._reaches() else "no connection"

    async def snapshot(self, _conversation_id: str) -> ConversationSnapshot | None:
        """Look at a conversation."""
        await self._reaches()
        return None

    async def ping(self, _job_id: str) -> bool:
        """Probe."""
        return await self._reaches() and not self._service.is_out()

    async def job(self, job_id: str) -> JobAnswer:
        """Ask for a job."""
        self._process.passes(FOLLOWED)
        if not await self._reaches():
            return JobAnswer(None, "no answer", None)
        service = self._service
        if service.is_out() or service.rng.random() < service.weather.poll:
            reason, status = service.rng.choice([("HTTP 502", 502), ("HTTP 404", 404), ("no answer", None)])
            return JobAnswer(None, reason, status)
        job = service.jobs.get(job_id)
        if job is None:
            return JobAnswer(None, "HTTP 404", 404)
        if job.ends_at > service.time.now or job.ending == "endless":
            return JobAnswer(JobStatus.IN_PROGRESS)
        return JobAnswer(JobStatus(job.ending))

    async def upload(self, request: UploadRequest, source: Any, admission: Admission) -> Reply:
        """Send one PUT."""
        if not await self._reaches():
            return Reply(failure="not connected")
        content = content_hash(source._opened.content)
        put = self._service.begin(self._process.number, request.conversation_id, content)
        put.token = dict(request.query).get("webhookUrl", "").rpartition("/")[2]
        if put.fault == "cut" and self._calls is not None and self._calls.takes_what_is_cut():
            put.fault = CUT_TAKEN
        try:
            if put.fault in BEFORE:
                return Reply(failure=put.fault)
            return await self._send(request, source, admission, put)
        finally:
            if not self._process.dead:
                self._service.over(put)

    async def _send(self, request: UploadRequest, source: Any, admission: Admission, put: Put) -> Reply:
        upload = Upload(
            source, admission, stall_seconds=30.0, answer_seconds=self._answer_seconds, chunk_bytes=CHUNK_BYTES
        )
        ask = admission.ask

        def noted(content_hash: str) -> "asyncio.Future[str]":
            put.asked_at = self._service.time.now
            answer = ask(content_hash)
            answer.add_done_callback(lambda _: self._process.passes(ADMITTED))
            return answer

        admission.ask = noted  # type: ignore[method-assign]
        wire = Wire()
        upload.connected(wire, None)
        self._process.sending.append((upload, put))
        try:
            async with asyncio.timeout(None) as timeout:
                upload.watch(timeout)
                early = await self._body(upload, put, wire)
                if early is not None:
                    return self._reply(upload, put, early)
                return await self._answer(request, upload, put)
        except (ConnectionResetError, TimeoutError, SourceError, WithheldError) as error:
            return Reply(
                connected=True,
                last_chunk_left=upload.last_chunk_left,
                failure=upload.failure or str(error) or type(error).__name__,
                source_failure=upload.source_failure,
                withheld=upload.withheld,
                bytes_sent=upload.bytes_sent,
            )
        finally:
            self._process.sending.remove((upload, put))
            upload.stop_watching()

    async def _body(self, upload: Upload, put: Put, wire: Wire) -> int | None:
        """Take the body; an early answer's status, None where there is none."""
        breaks_at = self._process.rng.randrange(4) if put.fault in (*EARLY, CUT_TAKEN) else -1
        body: Any = upload.body()
        count = 0
        while (piece := await self._next_piece(body, put, wire)) is not None:
            if isinstance(piece, int):
                await body.aclose()
                return piece
            if upload.last_chunk_left:
                break  # nothing awaits between the last chunk's leaving and its arrival: it is out
            self._process.passes(BODY)
            if count == breaks_at:
                await self._break(put, wire)
                if put.fault.startswith("early"):
                    await body.aclose()
                    return int(put.fault.split()[1])
            count += 1
            await self._through(wire)
        if self._process.is_without_service():
            put.is_lost = wire.closed = True
            raise CutOffError("cut off")
        self._receive(put)
        return None

    async def _through(self, wire: Wire) -> None:
        """Wait for the network to take a piece of a body."""
        try:
            await self._latency()
        except CutOffError:
            wire.closed = True
            raise

    async def _next_piece(self, body: Any, put: Put, wire: Wire) -> bytes | int | None:
        """Take the next piece of a body; a status where a gateway ends the wait for it, None at the end."""
        weather = self._service.weather
        coming = asyncio.ensure_future(anext(body, None))
        begun = self._service.time.now
        try:
            done, _ = await asyncio.wait(
                {coming}, timeout=None if weather.bears_seconds == inf else weather.bears_seconds
            )
        except asyncio.CancelledError:
            coming.cancel()
            await asyncio.wait({coming})
            raise
        if done and self._service.time.now < begun + weather.bears_seconds + LATENCY_SECONDS:
            piece: bytes | None = coming.result()
            return piece
        wire.closed = not weather.cuts_with_408
        coming.cancel()
        await asyncio.wait({coming})
        put.fault, put.is_lost = "gateway", bool(done)
        if weather.cuts_with_408:
            return 408
        raise ConnectionResetError("the gateway closed the connection")

    async def _break(self, put: Put, wire: Wire) -> None:
        if put.fault == "stall":
            await asyncio.sleep(3600.0)
        elif put.fault == CUT_TAKEN:
            job_id = self._service.take(put)
            if self._calls is not None:
                self._calls.broken.add(job_id)
            wire.closed = True
            raise ConnectionResetError("cut, and taken all the same")
        elif put.fault == "cut":
            wire.closed = True
            raise ConnectionResetError("cut")

    def _receive(self, put: Put) -> None:
        """Let the service take the whole body, or not, whatever becomes of the client."""
        self._process.check()
        put.received, put.received_at = True, self._service.time.now
        self._service.last_chunk_came(put)
        if put.fault.startswith("429") or not self._service.has_room():
            put.fault = put.fault if put.fault.startswith("429") else "429"
            return
        untaken = put.fault.endswith("untaken") or put.fault in ("401", "404", "408", "413", "302")
        if not untaken:
            self._service.take(put)

    async def _answer(self, request: UploadRequest, upload: Upload, put: Put) -> Reply:
        self._process.passes(ANSWER)
        await self._latency()
        if put.fault in ("lost", "lost untaken"):
            raise ConnectionResetError("lost")
        if put.fault == "no answer":
            await asyncio.sleep(7200.0)
        if self._service.is_out():
            put.fault = "502 taken" if put.job_id else "502 untaken"
        word = put.fault.split()[0] if put.fault else "201"
        status = int(word) if word.isdigit() else ANSWERS.get(put.fault, 201)
        return self._reply(upload, put, status, request.conversation_id)

    def _reply(self, upload: Upload, put: Put, status: int, conversation: str = "") -> Reply:
        put.answered = status
        put.trusted = status < 500 and put.fault not in ANSWERS
        answer: dict[str, Any] | None = {}
        if put.fault == TOO_QUICKLY:
            answer = {"message": "You have made too many requests, too quickly."}
        elif status == 429 and self._service.weather.states_limit and "without X" not in put.fault:
            limit = self._service.limit
            answer = {"message": f"This API has a limit of maximum of {limit} number of concurrent jobs per account."}
        elif status == 201:
            answer = {"conversationId": conversation, "jobId": put.job_id}
            if put.fault.startswith("no jobId"):
                answer = {"conversationId": conversation}
            elif put.fault == "other conversation":
                answer["conversationId"] = "another"
            elif put.fault == "broken json":
                answer = None
        return Reply(
            connected=True,
            last_chunk_left=upload.last_chunk_left,
            status=status,
            answer=answer,
            bytes_sent=upload.bytes_sent,
        )

    async def _latency(self) -> None:
        """Wait for the network.

        Raises:
            CutOffError: It lets nothing through.
        """
        if not await self._reaches():
            raise CutOffError("cut off")

    async def _reaches(self) -> bool:
        """Wait for the network; return False where it lets nothing through."""
        await asyncio.sleep(self._process.rng.uniform(0.001, LATENCY_SECONDS))
        self._process.check()
        return not self._process.is_without_service()


def opener(disk: Disk, rng: random.Random) -> Any:
    """Make the function that opens files of the simulated disk, as ``audio.open_source`` opens real ones."""

    @asynccontextmanager
    async def open_simulated(path: str, size: int, change: str | None) -> AsyncIterator[SimulatedFile]:
        await asyncio.sleep(0)
        file = disk.files.get(path)
        if file is None:
            raise SourceError("the file could not be opened")
        if (len(file.content), str(file.change)) != (size, change):
            raise SourceError("the file changed since its manifest was checked")
        yield SimulatedFile(disk, path, rng)

    return open_simulated
