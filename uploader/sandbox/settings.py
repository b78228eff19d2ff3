"""Holds every setting of a sandbox once, checked."""

import ipaddress
import ssl
from dataclasses import dataclass, field
from math import exp
from pathlib import Path

from uploader.errors import UsageError
from uploader.sandbox.faults import Faults


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """How a sandbox listens and how fast it works.

    Raises:
        UsageError: The host is not loopback, or a number makes no sense.
    """

    host: str = "127.0.0.1"
    """A loopback address, or `localhost`."""
    port: int = 0
    """0 takes any free one."""
    limit: int = 10
    """Concurrent jobs; above it, 429: to the head where uploads count, else once the body has come."""
    counts_uploads: bool = False
    """An upload under way counts as a job from its head on."""
    job_seconds: float = 0.5
    """What every job takes at least, in seconds."""
    job_seconds_per_mebibyte: float = 2.0
    """What each mebibyte of audio adds to that, in seconds."""
    job_scatter: float = 0.0
    """By what share that is scattered (a standard deviation; 0.2 is 20 %), always alike for the same file."""
    answer_seconds: float = 0.0
    """How long the answer to a PUT takes after the last byte of its body, in seconds; its job begins at that byte."""
    round_trip: float = 0.0
    """The way to the sandbox and back, in seconds: every byte takes half of it, in either direction."""
    uplink: float = 0.0
    """What each connection carries towards the sandbox, in bytes per second; 0 is unbounded."""
    idle_cut: float = 0.0
    """A connection that idles so long in the middle of a body is cut, in seconds; 0 is never."""
    app_id: str = "sandbox"
    app_secret: str = "sandbox"  # noqa: S105 - a toy's password, told to everybody
    app_secret_path: Path | None = None
    """A file with the secret in its place: who changes it rotates the secret, and ends the token."""
    token_seconds: float = 86400.0
    """How long a token is good for, in seconds."""
    token_left: float | None = None
    """What is left of a first token that is there already, in seconds; None: there is none."""
    journal_path: Path | None = None
    """A JSON Lines file that the journal is appended to."""
    certificate_path: Path | None = None
    """A certificate chain (PEM): with it the sandbox speaks TLS."""
    key_path: Path | None = None
    """The certificate's private key (PEM), where it is not in the same file."""
    allowed_parameters: frozenset[str] = frozenset()
    """Query parameters of the PUT that are let through beside the documented ones."""
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        """Refuses what would be no sandbox."""
        if not is_loopback(self.host):
            raise UsageError(f"sandbox host {self.host!r} is not loopback: use 127.0.0.1, ::1 or localhost")
        if self.limit < 1:
            raise UsageError(f"sandbox limit {self.limit} lets no job live: use 1 or more")
        seconds = (self.job_seconds, self.job_seconds_per_mebibyte, self.token_seconds, self.token_left or 0.0)
        if min(*seconds, self.answer_seconds, self.round_trip, self.idle_cut) < 0:
            raise UsageError("a sandbox's seconds cannot be negative: use 0 or more")
        if self.uplink < 0:
            raise UsageError(f"sandbox uplink {self.uplink:g} is negative: use bytes per second, or 0 for no bound")
        if not 0 <= self.job_scatter <= 1:
            raise UsageError(f"sandbox scatter {self.job_scatter:g} is no share: use 0 to 1, such as 0.2 for 20 %")
        if self.key_path and not self.certificate_path:
            raise UsageError(f"sandbox key {self.key_path} has no certificate: name the certificate as well")

    def secret(self) -> str:
        """The secret that is good now.

        Raises:
            UsageError: Its file cannot be read.
        """
        if self.app_secret_path is None:
            return self.app_secret
        try:
            return self.app_secret_path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"sandbox secret {self.app_secret_path} cannot be read: name a file of text") from error

    @property
    def is_far(self) -> bool:
        """True if a relay stands before the server."""
        return bool(self.round_trip or self.uplink)

    @property
    def scheme(self) -> str:
        """`https` where there is a certificate."""
        return "https" if self.certificate_path else "http"

    def seconds_of_job(self, size: int, drawn: float = 0.0) -> float:
        """How long the job of `size` bytes runs, in seconds, where a normal number was `drawn` for it."""
        return self.job_seconds + size / 2**20 * self.job_seconds_per_mebibyte * exp(self.job_scatter * drawn)

    def tls(self) -> ssl.SSLContext | None:
        """What the listener needs to speak TLS, or None.

        Raises:
            UsageError: The certificate or the key cannot be read.
        """
        if self.certificate_path is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate_path, self.key_path)
        except OSError as error:
            raise UsageError(
                f"certificate {self.certificate_path} cannot be used ({error}): name a PEM file and its key"
            ) from error
        return context


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
