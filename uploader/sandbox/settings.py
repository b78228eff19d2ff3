"""All settings of a sandbox, checked."""

import ipaddress
import ssl
from dataclasses import dataclass, field
from math import exp
from pathlib import Path

from uploader.errors import UsageError
from uploader.sandbox.faults import Faults


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Addresses, limits and speeds of a sandbox.

    Raises:
        UsageError: The host is not loopback, or a number is out of range.
    """

    # a loopback address, or `localhost`
    host: str = "127.0.0.1"
    # the port; 0 takes any free one
    port: int = 0
    # concurrent jobs; above it, 429: to the head where uploads count, else once the body has come
    limit: int = 10
    # an upload under way counts as a job from its head on
    counts_uploads: bool = False
    # the least time of every job, in seconds
    job_seconds: float = 0.5
    # the time that each mebibyte of audio adds, in seconds
    job_seconds_per_mebibyte: float = 2.0
    # the scatter of that time (a standard deviation; 0.2 is 20 %), always the same for the same file
    job_scatter: float = 0.0
    # how long the answer to a PUT takes after the last byte of its body, in seconds; its job begins at that byte
    answer_seconds: float = 0.0
    # the way to the sandbox and back, in seconds: every byte takes half of it, in either direction
    round_trip: float = 0.0
    # the bandwidth of each connection to the sandbox, in bytes per second; 0 is unbounded
    uplink: float = 0.0
    # a connection that idles so long in the middle of a body is cut, in seconds; 0 is never
    idle_cut: float = 0.0
    app_id: str = "sandbox"
    app_secret: str = "sandbox"  # noqa: S105 - a public password of a test server
    # a file with the secret in its place; a change of it rotates the secret, and ends the token
    app_secret_path: Path | None = None
    # the lifetime of a token, in seconds
    token_seconds: float = 86400.0
    # the rest of the lifetime of an existing first token, in seconds; None: there is none
    token_left: float | None = None
    # a JSON Lines file that the journal is appended to
    journal_path: Path | None = None
    # a certificate chain (PEM), with which the sandbox speaks TLS
    certificate_path: Path | None = None
    # the certificate's private key (PEM), where it is not in the same file
    key_path: Path | None = None
    # query parameters of the PUT that are accepted beside the documented ones
    allowed_parameters: frozenset[str] = frozenset()
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        """Check the settings."""
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
        """Return the secret that is valid now.

        Raises:
            UsageError: The secret's file cannot be read.
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
        """Compute the seconds of a job of `size` bytes from its `drawn` standard normal number."""
        return self.job_seconds + size / 2**20 * self.job_seconds_per_mebibyte * exp(self.job_scatter * drawn)

    def tls(self) -> ssl.SSLContext | None:
        """Return the listener's TLS context, or None.

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
    """Return True where a host name or address is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
