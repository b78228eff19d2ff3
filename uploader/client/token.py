"""The access token: fetched, renewed before it expires and after a 401, never shown."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import aiohttp
from yarl import URL

from uploader.client.answers import Body, read_body, retry_after_of
from uploader.client.connection import format_error
from uploader.client.recording import Received, receiving
from uploader.errors import CredentialsError, GaveUpError
from uploader.policy.replies import phrase_of
from uploader.policy.waits import retry_after_seconds
from uploader.text import Sanitizer

PATH = "/oauth2/token:generate"
ANSWER_MOST_BYTES = 64 * 1024
# a token with less left is not used: the service is asked again once it has expired
LEAST_SECONDS = 1.0
# the assumed lifetime where an answer states none: that of the documented sample (facts.md, Token)
ASSUMED_SECONDS = 86400.0
# a longer lifetime is not believed
MOST_SECONDS = 366 * 86400.0
RENEW_SECONDS = 60.0
RENEW_SHARE = 0.1
# the waits, in seconds, for a file of rotated credentials, once the service refuses those in use
ROTATION_SECONDS = (0.5, 1.0, 2.0, 4.0)
# tokens refused in a row that mean wrong credentials
REFUSALS_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Credentials:
    """Application id and secret, or a ready token."""

    app_id: str = field(default="", repr=False)
    app_secret: str = field(default="", repr=False)
    access_token: str | None = field(default=None, repr=False)

    may_change: ClassVar[bool] = False

    def read(self) -> Self:
        """Return these credentials, which never change."""
        return self


class CredentialsSource(Protocol):
    """A source of credentials, read for every token, so that rotated ones are used."""

    @property
    def may_change(self) -> bool:
        """Return True where rotated credentials may come, as from a file."""
        ...

    def read(self) -> Credentials:
        """Read the present credentials.

        Raises:
            CredentialsError: They cannot be read.
        """
        ...


class TokenUnavailableError(Exception):
    """A temporary lack of a token; ``retry_after``: the seconds until the next try, if known."""

    def __init__(self, reason: str, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Token:
    """An access token."""

    value: str = field(repr=False)
    # seconds on the clock of ``Tokens``
    renew_at: float
    serial: int
    ends_at: float = math.inf
    # its lifetime when it came
    seconds: float = math.inf

    def is_short(self, now: float, lasting: float) -> bool:
        """Return True where the token expires within ``lasting`` seconds, and another one may last longer."""
        return self.seconds > lasting > self.ends_at - now


class Tokens:
    """The account's token; one request fetches it for all callers that wait."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: CredentialsSource,
        proxy: dict[str, Any],
        now: Callable[[], float],
        sanitizer: Sanitizer,
        route: str,
    ) -> None:
        self._sanitizer = sanitizer
        self._route = route
        self._session = session
        self._url = URL(base_url + PATH, encoded=True)
        self._credentials = credentials
        self._used: Credentials | None = None
        self._given_up: Credentials | None = None
        self._were_good = False
        self._proxy = proxy
        self._now = now
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._serial = 0
        self._not_before = 0.0
        self._unavailable_reason = ""
        self._refused: Counter[str] = Counter()

    async def get(self, lasting: float = 0.0) -> Token:
        """Return the token to use now.

        Args:
            lasting: The seconds that it should still be valid. The service returns the same token as long as that
                lives, so that a longer one is asked for once.

        Raises:
            CredentialsError: The service does not take the credentials.
            TokenUnavailableError: The service did not answer as it should.
        """
        if (token := self._token) is not None and self._is_long_enough(token, lasting):
            return token
        async with self._lock:
            if self._token is None or self._now() >= self._token.renew_at:
                self._token = await self._renew()
            elif not self._is_long_enough(self._token, lasting):
                self._token = await self._renew_early(self._token)
            return self._token

    def _is_long_enough(self, token: Token, lasting: float) -> bool:
        now = self._now()
        return now < token.renew_at and not token.is_short(now, lasting)

    def refused(self, token: Token, method: str) -> None:
        """Record a 401: the token is not used again."""
        if self._is_current(token):
            self._token = None
            self._refused[method] += 1

    def accepted(self, token: Token, method: str) -> None:
        """Record an answer other than 401, for this method alone: GET may be allowed where PUT is not."""
        if self._is_current(token):
            self._refused[method] = 0
            self._were_good = True

    def _is_current(self, token: Token) -> bool:
        return self._token is not None and token.serial == self._token.serial

    async def _renew_early(self, token: Token) -> Token:
        """Fetch another token; return this one where that fails: it is still valid, and not renewed early again."""
        try:
            return await self._renew()
        except (TokenUnavailableError, CredentialsError, GaveUpError):
            return replace(token, seconds=0.0)

    async def _renew(self) -> Token:
        try:
            return await self._new_token(await self._read())
        except CredentialsError as error:
            return await self._new_token(await self._wait_for_rotation(error))

    async def _read(self) -> Credentials:
        credentials = await asyncio.to_thread(self._credentials.read)
        self._sanitizer.add(credentials.app_id, credentials.app_secret, credentials.access_token or "")
        if credentials != self._used:
            self._used = credentials
            self._refused.clear()
        return credentials

    async def _wait_for_rotation(self, refusal: CredentialsError) -> Credentials:
        """Wait for other credentials than those used last; raise the refusal again where none come."""
        before = self._used
        if not self._were_good or not self._credentials.may_change or before == self._given_up:
            raise refusal
        for seconds in ROTATION_SECONDS:
            await asyncio.sleep(seconds)
            with suppress(CredentialsError):  # a file that is being written cannot be read, or is empty
                found = await self._read()
                if found != before:
                    return found
        self._given_up = before
        raise refusal

    async def _new_token(self, credentials: Credentials) -> Token:
        if max(self._refused.values(), default=0) >= (1 if credentials.access_token else REFUSALS_IN_A_ROW):
            raise CredentialsError(_format_refusal(credentials))
        self._serial += 1
        if credentials.access_token:
            if not _fits_a_header(credentials.access_token):
                raise CredentialsError("UPLOADER_ACCESS_TOKEN holds a line end or another control character: mend it")
            return Token(credentials.access_token, math.inf, self._serial)
        value, lifetime = await self._fetch(credentials)
        if lifetime < LEAST_SECONDS:
            # the service returns its present token with what is left of it: let that expire
            await asyncio.sleep(LEAST_SECONDS + lifetime)
            value, lifetime = await self._fetch(credentials)
        margin = min(RENEW_SECONDS, lifetime * RENEW_SHARE)
        now = self._now()
        # a token that expires at once still serves the callers that wait: a 401 costs less than a request each
        renew_at = now + max(lifetime - margin, LEAST_SECONDS / 2)
        return Token(value, renew_at, self._serial, now + lifetime, lifetime)

    async def _fetch(self, credentials: Credentials) -> tuple[str, float]:
        if self._now() < self._not_before:
            left = str(math.ceil(self._not_before - self._now()))
            raise TokenUnavailableError(f"{self._unavailable_reason}; it is asked again as its Retry-After says", left)
        wanted = {"type": "application", "appId": credentials.app_id, "appSecret": credentials.app_secret}
        receiving.set(Received())
        try:
            async with self._session.post(self._url, json=wanted, allow_redirects=False, **self._proxy) as response:
                if response.status >= 300:
                    raise self._refusal(response)
                # the answer is the secret: it is read unmasked, and nothing of it is kept
                body = await read_body(response, ANSWER_MOST_BYTES, Sanitizer())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise TokenUnavailableError(f"no token: {format_error(error)} ({self._route})") from error
        found = _read(body)
        if found is None:
            reason = body.failure or "the answer has no accessToken that could be used"
            raise TokenUnavailableError(f"no token: {reason} ({self._route})")
        self._sanitizer.add(found[0])
        return found

    def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        """Build the error for a refusal; its Retry-After holds for all later requests."""
        error = _refusal(response.status, self._route)
        wait = retry_after_seconds(retry_after_of(response), self._now())
        if isinstance(error, TokenUnavailableError) and wait is not None:
            self._not_before, self._unavailable_reason = self._now() + wait, str(error)
            error.retry_after = str(math.ceil(wait))
        return error


def _format_refusal(credentials: Credentials) -> str:
    if not credentials.access_token:
        return (
            f"the service refused {REFUSALS_IN_A_ROW} new tokens in a row (HTTP 401): check that "
            "UPLOADER_APP_ID and UPLOADER_APP_SECRET belong to the account of this base URL"
        )
    text = "the service refuses the access token (HTTP 401): it has ended or is wrong; set a new one in"
    if credentials.app_id and credentials.app_secret:
        return (
            f"{text} UPLOADER_ACCESS_TOKEN, or unset that, so that UPLOADER_APP_ID and UPLOADER_APP_SECRET, which "
            "are set too, fetch one and renew it"
        )
    return (
        f"{text} UPLOADER_ACCESS_TOKEN, or UPLOADER_APP_ID and UPLOADER_APP_SECRET in its place, so that it is "
        "renewed by itself"
    )


def _refusal(status: int, route: str) -> Exception:
    if status in (400, 401, 403):
        return CredentialsError(
            f"the service does not take the credentials (HTTP {status}): check UPLOADER_APP_ID and "
            "UPLOADER_APP_SECRET, then run again; nothing is sent without a token"
        )
    if status < 500 and status not in (408, 429):
        return GaveUpError(f"the service has no {PATH} there (HTTP {status}): check --base-url, then run again")
    return TokenUnavailableError(f"no token: HTTP {status} {phrase_of(status)} ({route})")


def _read(body: Body) -> tuple[str, float] | None:
    """Read the token and its lifetime in seconds; None where there is none that a header can carry."""
    answer = body.members or {}
    token = answer.get("accessToken")
    token = token.strip() if isinstance(token, str) else ""
    return (token, _lifetime(answer.get("expiresIn"))) if _fits_a_header(token) else None


def _lifetime(text: Any) -> float:
    """Read ``expiresIn``; any value that is no sensible number counts as a day, since a 401 renews the token."""
    try:
        seconds = math.nan if isinstance(text, bool) else float(text)
    except (TypeError, ValueError, OverflowError):
        return ASSUMED_SECONDS
    return seconds if 0.0 <= seconds <= MOST_SECONDS else ASSUMED_SECONDS


def _fits_a_header(token: str) -> bool:
    return token.isascii() and token.isprintable() and token != ""
