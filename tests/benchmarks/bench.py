"""What a measure is given: a folder, the options, sandboxes, certificates, and commands that are measured."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import trustme

from tests.benchmarks import children
from tests.benchmarks.children import Used
from uploader.sandbox import Journal

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
UPLOADER = (sys.executable, "-m", "uploader")
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A sandbox in a process of its own."""

    base_url: str
    credentials: Mapping[str, str]
    """The lines that point a client at it, as an environment."""
    journal_path: Path

    @property
    def journal(self) -> Journal:
        """What reached it so far."""
        return Journal.read(self.journal_path)

    def token(self) -> str:
        """Fetches a token, for peers that do not fetch one (in ACCESS_TOKEN); the journal notes when."""
        told = {"appId": self.credentials["UPLOADER_APP_ID"], "appSecret": self.credentials["UPLOADER_APP_SECRET"]}
        body = json.dumps({"type": "application", **told}).encode()
        asking = urllib.request.Request(f"{self.base_url}/oauth2/token:generate", body)
        tls = ssl._create_unverified_context()  # loopback, and a certificate of our own
        with urllib.request.urlopen(asking, context=tls) as answer:
            return str(json.load(answer)["accessToken"])


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate for loopback, and the bundle of the authority that vouches for it; PEM files."""

    server: Path
    bundle: Path


@dataclass
class Bench:
    """One run of the benchmarks.

    ``quick`` asks for a fraction of the work, to try things out. ``scale`` shortens the seconds of jobs. ``repeats``
    is how often a figure that other work on the machine disturbs is measured: the median counts. ``at_once`` is how
    many rows that mostly wait may run side by side. Of the makespan rows and the nights only clients are measured that
    have ``client`` in their name, and only nights that have ``night`` in theirs.
    """

    folder: Path
    quick: bool = False
    scale: float = 1.0
    repeats: int = 3
    at_once: int = 4
    client: str = ""
    night: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 31)))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str) -> None:
        """Tells on standard error how far it is."""
        with self._lock:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            sys.stderr.flush()

    def place(self, name: str) -> Path:
        """A new folder of this name."""
        with self._lock:
            number = next(self._numbers)
        path = self.folder / f"{number:02}-{name}"
        path.mkdir(parents=True)
        return path

    def environment(self, place: Path, server: Server | None = None) -> dict[str, str]:
        """An environment that inherits nothing but the way to programs; with a server, one that leads to it."""
        (place / "no-secrets").mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "HOME": str(place),
            "XDG_STATE_HOME": str(place / "state"),
            "UPLOADER_SECRETS_DIR": str(place / "no-secrets"),
            **(server.credentials if server else {}),
        }

    def run(
        self,
        place: Path,
        name: str,
        *command: str | Path,
        server: Server | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 3600.0,
    ) -> Used:
        """Runs a command in a place, and measures it."""
        merged = {**self.environment(place, server), **(environment or {})}
        return children.run(command, name=name, folder=place, environment=merged, seconds=seconds)

    def uploader(
        self,
        place: Path,
        *arguments: str | Path,
        server: Server | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 3600.0,
    ) -> Used:
        """Runs ``uploader ARGUMENTS`` in a place, and measures it; its log is the place's uploader.err."""
        return self.run(
            place, "uploader", *UPLOADER, *arguments, server=server, environment=environment, seconds=seconds
        )

    @contextmanager
    def sandbox(self, place: Path, *arguments: str | Path) -> Iterator[Server]:
        """A sandbox in a process of its own, with a journal in the place; it is ended by its id."""
        journal, told = place / "journal.jsonl", place / "sandbox.out"
        with told.open("wb") as printing, (place / "sandbox.err").open("wb") as logging:
            running = subprocess.Popen(
                [*UPLOADER, "sandbox", "--journal", str(journal), *map(str, arguments)],
                cwd=place,
                env=self.environment(place),
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=logging,
            )
        try:
            _until_it_listens(running, told, place / "sandbox.err")
            lines = told.read_text(encoding="utf-8").splitlines()
            credentials = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            yield Server(credentials["UPLOADER_BASE_URL"], credentials, journal)
        finally:
            running.terminate()
            running.wait()

    def certificates(self, place: Path) -> Certificates:
        """Makes a certificate for 127.0.0.1."""
        authority = trustme.CA()
        server, bundle = place / "server.pem", place / "authority.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
        authority.cert_pem.write_to_path(str(bundle))
        return Certificates(server, bundle)

    def middle(self, figures: Iterator[float]) -> float:
        """The median of so many figures as are to be taken."""
        return median(next(figures) for _ in range(1 if self.quick else self.repeats))


def _until_it_listens(running: "subprocess.Popen[bytes]", told: Path, err: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while told.read_bytes().count(b"\n") < 3:
        if running.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the sandbox does not listen: {err.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.01)
