"""The bodies of answers: JSON with storable text, or a few words of anything else."""

import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp

from uploader.client.connection import format_error
from uploader.client.recording import FIRST_BYTES
from uploader.text import Sanitizer, read_json, storable

# the most that is kept of an answer that is no JSON
FIRST_CHARACTERS = 120
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


class Body(NamedTuple):
    """The body of an answer."""

    # the JSON, of any type
    value: Any = None
    # the reason that there is no JSON, or that the body is incomplete
    failure: str = ""
    # of a body that is no JSON: a page's title, or the first characters
    words: str = ""

    @property
    def members(self) -> dict[str, Any] | None:
        """The members where it is a JSON object."""
        return self.value if isinstance(self.value, dict) else None


async def read_body(response: aiohttp.ClientResponse, max_bytes: int, sanitizer: Sanitizer, secret: str = "") -> Body:
    """Read the body of an answer.

    Args:
        response: The answer, its head read.
        max_bytes: The longest body that the service may send.
        sanitizer: Masks secrets, and makes text storable.
        secret: One more secret to mask.
    """
    raw, failure = bytearray(), ""
    try:
        async for chunk in _chunks(response.content):
            raw += chunk
            if len(raw) > max_bytes:
                return Body(failure="the answer is too long to be one of the service's")
    except (aiohttp.ClientError, OSError) as error:
        failure = f"the answer broke off after {len(raw)} bytes ({format_error(error)})"
    try:
        # a body that broke off may be complete where only its stated length was wrong
        value = read_json(raw)
        return Body(value if sanitizer.keeps(raw, secret) else sanitizer.json(value, secret), failure)
    except (ValueError, RecursionError):
        words = first_words(raw[:FIRST_BYTES].decode("utf-8", "backslashreplace"), sanitizer, secret)
        return Body(None, failure or f"the answer is no JSON ({len(raw)} bytes)", words)


async def _chunks(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the body in chunks; most answers are short and complete once their head is read."""
    if content.is_eof():
        yield content.read_nowait()
        return
    async for chunk in content.iter_chunked(64 * 1024):
        yield chunk


def first_words(text: str, sanitizer: Sanitizer, secret: str = "") -> str:
    """Return a page's title, or the first characters of any other text."""
    import html  # noqa: PLC0415 - no answer of the service needs it

    title = _TITLE.search(text)
    found = " ".join((html.unescape(title[1]) if title else text).split())
    shown = sanitizer.text(found, secret)[:FIRST_CHARACTERS]
    if not shown:
        return ""
    return f"a page, '{shown}'" if title else f"it begins with '{shown}'"


def retry_after_of(response: aiohttp.ClientResponse) -> str | None:
    """Join all Retry-After headers of an answer: a gateway may add one of its own."""
    if "Retry-After" not in response.headers:
        return None
    return storable(", ".join(response.headers.getall("Retry-After"))) or None
