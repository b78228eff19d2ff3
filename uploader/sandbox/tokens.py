"""Issues tokens as the service does: the same one until it expires or the secret changes."""

import hmac
from collections.abc import Callable
from random import Random

from uploader.sandbox.settings import SandboxSettings


class Tokens:
    """The one valid token; `clock` returns seconds."""

    def __init__(self, settings: SandboxSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._draw = Random(f"{settings.faults.seed}/tokens")  # noqa: S311 - a replay must be predictable
        self._token = ""
        self._ends = clock()
        self._secret = settings.secret()
        if settings.token_left is not None:
            self._make(settings.token_left, clock())

    def issue(self) -> tuple[str, int]:
        """Return the token and the whole seconds until it expires."""
        now = self._clock()
        if self._is_over(now):
            self._make(self._settings.token_seconds, now)
        return self._token, int(self._ends - now)

    def accepts(self, authorization: str | None) -> bool:
        """Return True where an `Authorization` header carries the valid token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not self._token:
            return False
        return not self._is_over(self._clock()) and hmac.compare_digest(token.strip().encode(), self._token.encode())

    def _is_over(self, now: float) -> bool:
        return now >= self._ends or self._settings.secret() != self._secret

    def _make(self, seconds: float, now: float) -> None:
        self._ends = now + seconds
        self._secret = self._settings.secret()
        self._token = f"sandbox-token-{self._draw.getrandbits(128):032x}"
