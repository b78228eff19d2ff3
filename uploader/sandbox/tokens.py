"""Gives out tokens as the service does: the same one until it has ended."""

import hmac
from collections.abc import Callable
from random import Random


class Tokens:
    """The one token that is good at a time; `clock` tells seconds."""

    def __init__(self, seconds: float, seed: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._draw = Random(f"{seed}/tokens")  # noqa: S311 - a replay needs what security forbids
        self._token = ""
        self._ends = clock()

    def issue(self) -> tuple[str, int]:
        """The token and the whole seconds that it is still good for."""
        left = self._ends - self._clock()
        if left <= 0:
            left = self._seconds
            self._ends = self._clock() + left
            self._token = f"sandbox-token-{self._draw.getrandbits(128):032x}"
        return self._token, int(left)

    def accepts(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries the token, and in time."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not self._token:
            return False
        in_time = self._clock() < self._ends
        return in_time and hmac.compare_digest(token.strip().encode(), self._token.encode())
