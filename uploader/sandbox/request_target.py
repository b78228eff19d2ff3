"""Splits a raw request target, and checks its encoding."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

Pairs = tuple[tuple[str, str], ...]

# the most characters of a faulty text that a refusal repeats
SHOWN_CHARACTERS: Final = 80

# RFC 3986, 3.3 and 3.4: the characters that a path or a query may have unencoded.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]")
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def query(request_target: str) -> Pairs:
    """Decode the names and values of a target's query, malformed or not."""
    parts = request_target.partition("?")[2].split("&")
    halves = [part.partition("=") for part in parts if part]
    return tuple((decoded(name.replace("+", " ")), decoded(value.replace("+", " "))) for name, _, value in halves)


def decoded(encoded: str) -> str:
    """Decode a percent-encoded text; what is no UTF-8 becomes U+FFFD."""
    return _octets(encoded).decode("utf-8", "replace")


def check(request_target: str) -> None:
    """Check that a target is percent-encoded UTF-8, with a query of plain `key=value`.

    Raises:
        ValueError: The target is malformed; the text says how.
    """
    if foreign := _FOREIGN.search(request_target):
        character = decoded(foreign[0])
        raise ValueError(f"{character!r} in the URL is not percent-encoded: encode every name and value as UTF-8")
    if _BROKEN.search(request_target):
        raise ValueError("a % in the URL has no two hexadecimal digits behind it: write %25 for the character itself")
    try:
        _octets(request_target).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            "the URL's percent-encoded bytes are no UTF-8: encode every name and value as UTF-8"
        ) from error
    nameless = [part for part in request_target.partition("?")[2].split("&") if part and part.find("=") < 1]
    if nameless:
        shown = decoded(nameless[0])[:SHOWN_CHARACTERS]
        raise ValueError(f"{shown!r} in the query is no key=value: give each parameter its name and one value")


def _octets(encoded: str) -> bytes:
    # A server's text of a request line has raw bytes beyond ASCII as escaped surrogates.
    return unquote_to_bytes(encoded.encode("utf-8", "surrogateescape"))
