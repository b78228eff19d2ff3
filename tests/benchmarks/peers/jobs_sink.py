"""A service that costs as little as can be and has jobs: each lives for some seconds after its upload was answered.

Arguments: the limit of concurrent jobs, the seconds of a job, and the share by which these scatter to either side.
It prints its address, and when its standard input ends a JSON object: uploads refused (429) and repeated, status
requests, and when each job began and ended.
"""

import asyncio
import heapq
import json
import random
import sys
import time

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Account:
    """The account's jobs, and what it was asked."""

    def __init__(self, limit: int, job_seconds: float, scatter: float) -> None:
        self.limit = limit
        self.job_seconds = job_seconds
        self.scatter = scatter
        self.jobs: list[tuple[float, float]] = []
        self.refused = 0
        self.repeated = 0
        self.polls = 0
        self._conversations: set[bytes] = set()
        self._live: list[float] = []
        self._draw = random.Random(1)

    def append(self, conversation: bytes) -> tuple[int, dict[str, object]]:
        """Begin the job of an upload, where the limit allows."""
        now = time.monotonic()
        while self._live and self._live[0] <= now:
            heapq.heappop(self._live)
        if len(self._live) >= self.limit:
            self.refused += 1
            return 429, {"message": f"This API has a limit of maximum of {self.limit} number of concurrent jobs"}
        self.repeated += conversation in self._conversations
        self._conversations.add(conversation)
        over = now + self.job_seconds * (1 + self.scatter * self._draw.uniform(-1, 1))
        heapq.heappush(self._live, over)
        self.jobs.append((now, over))
        return 201, {"conversationId": conversation.decode(), "jobId": f"job-{len(self.jobs) - 1}"}

    def status(self, job_id: bytes) -> tuple[int, dict[str, object]]:
        """Tell how a job is."""
        self.polls += 1
        over = time.monotonic() >= self.jobs[int(job_id.removeprefix(b"job-"))][1]
        return 200, {"id": job_id.decode(), "status": "completed" if over else "in_progress"}

    def report(self) -> str:
        """What came, as JSON."""
        facts = {"refused": self.refused, "repeated": self.repeated, "polls": self.polls}
        return json.dumps({**facts, "jobs": self.jobs})


class Exchange(asyncio.Protocol):
    """One connection: requests one after the other, their bodies counted and thrown away."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._read = bytearray()
        self._head: bytes | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer each request that is whole."""
        self._read += data
        while self._take_head() and self._take_body():
            self._answer()

    def _take_head(self) -> bool:
        if self._head is None and HEAD_END in self._read:
            head, _, self._read = self._read.partition(HEAD_END)
            self._head = bytes(head)
            fields = dict(line.lower().split(b": ", 1) for line in self._head.split(b"\r\n")[1:])
            self._left = int(fields.get(b"content-length", b"0"))
            if b"expect" in fields:
                self._transport.write(CONTINUE)  # type: ignore[attr-defined] # a socket's transport writes
        return self._head is not None

    def _take_body(self) -> bool:
        count = min(self._left, len(self._read))
        del self._read[:count]
        self._left -= count
        return self._left == 0

    def _answer(self) -> None:
        assert self._head is not None
        method, target, _ = self._head.split(b"\r\n", 1)[0].split(b" ")
        name = target.partition(b"?")[0].rpartition(b"/")[2]
        status, said = self._account.append(name) if method == b"PUT" else self._account.status(name)
        body = json.dumps(said).encode()
        fields = b"Content-Type: application/json\r\nContent-Length: %d" % len(body)
        self._transport.write(b"HTTP/1.1 %d -\r\n%b\r\n\r\n%b" % (status, fields, body))  # type: ignore[attr-defined]
        self._head = None


async def main(limit: int, job_seconds: float, scatter: float) -> None:
    """Listen on loopback until standard input ends."""
    account = Account(limit, job_seconds, scatter)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Exchange(account), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.write(account.report() + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
