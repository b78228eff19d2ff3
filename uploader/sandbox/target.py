"""Takes a request's target apart as it came, and finds what is not encoded as it must be."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

Pairs = tuple[tuple[str, str], ...]

SHOWN_CHARACTERS: Final = 80
"""How much of what is wrong a refusal repeats."""

# RFC 3986, 3.3 and 3.4: what may stand in a path or a query as it is; all else is percent-encoded.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]")
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def query(target: str) -> Pairs:
    """Names and values of a target's query, decoded; of whatever came, malformed or not."""
    parts = target.partition("?")[2].split("&")
    halves = [part.partition("=") for part in parts if part]
    return tuple((decoded(name.replace("+", " ")), decoded(value.replace("+", " "))) for name, _, value in halves)


def decoded(encoded: str) -> str:
    """The text that is meant; what is no UTF-8 shows as U+FFFD."""
    return _octets(encoded).decode("utf-8", "replace")


def check(target: str) -> None:
    """Takes a target only as the specification has it: percent-encoded UTF-8, its query plain `key=value`.

    Raises:
        ValueError: It is something else; the text says what.
    """
    if foreign := _FOREIGN.search(target):
        character = decoded(foreign[0])
        raise ValueError(f"{character!r} in the URL is not percent-encoded: encode every name and value as UTF-8")
    if _BROKEN.search(target):
        raise ValueError("a % in the URL has no two hexadecimal digits behind it: write %25 for the character itself")
    try:
        _octets(target).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            "the URL's percent-encoded bytes are no UTF-8: encode every name and value as UTF-8"
        ) from error
    nameless = [part for part in target.partition("?")[2].split("&") if part and part.find("=") < 1]
    if nameless:
        shown = decoded(nameless[0])[:SHOWN_CHARACTERS]
        raise ValueError(f"{shown!r} in the query is no key=value: give each parameter its name and one value")


def _octets(encoded: str) -> bytes:
    # A server's text of a request line has raw bytes beyond ASCII as escaped surrogates.
    return unquote_to_bytes(encoded.encode("utf-8", "surrogateescape"))
