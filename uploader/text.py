"""Sanitizes text from outside: storable in ledger and files, harmless to terminals, without the uploader's secrets."""

import json
import re
import unicodedata
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

# shorter secrets are not masked: ids and words would contain them by accident
LEAST_SECRET_CHARACTERS = 8
MASK = "…"
# no database takes NUL in a text, and no UTF-8 half a surrogate pair
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Unicode's categories of control, format, surrogate, line and paragraph separator characters
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])


def storable(text: str) -> str:
    r"""Escape as JSON does the characters that UTF-8 or a database cannot hold: half a surrogate pair as ``\ud83d``."""
    return _UNSTORABLE.sub(_escape_match, text)


def printable(text: str) -> str:
    r"""Escape the characters that a terminal obeys or hides: control characters, line ends, bidi marks (``\u001b``)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def read_json(raw: bytes | bytearray) -> Any:
    """Parse JSON from outside, also where bytes in it are no text, or a number is too long for Python.

    Such bytes become halves of surrogate pairs, which ``Sanitizer.json`` escapes; such a number becomes its text.

    Raises:
        ValueError: The bytes are no JSON.
        RecursionError: It is nested too deep.
    """
    try:
        return json.loads(raw)
    except ValueError:
        return _TOLERANT.decode(raw.decode(json.detect_encoding(raw), "surrogateescape"))


class Sanitizer:
    """The filter for text from outside: its output is storable and has a mask in the place of each secret.

    Args:
        secrets: The first secrets.
    """

    def __init__(self, *secrets: str) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Mask more secrets from now on: as they are, percent-encoded, in base64, and escaped in HTML."""
        new = {form for secret in secrets for form in _forms(secret)} - self._forms
        if new:
            self._forms |= new
            # the longest first: a form may begin another
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str, secret: str = "") -> str:
        """Make a text storable and mask the secrets in it.

        Args:
            text: The text from outside.
            secret: One more secret, which this text alone may repeat.
        """
        shown = storable(text)
        for form in _forms(secret):
            shown = shown.replace(form, MASK)
        return shown if self._pattern is None else self._pattern.sub(MASK, shown)

    def keeps(self, raw: bytes | bytearray, secret: str = "") -> bool:
        """Return True where ``json`` would change nothing; False is no certainty, because the text is not parsed."""
        # in plain ASCII without a backslash no string is escaped
        if not raw.isascii() or b"\\" in raw or b"\0" in raw:
            return False
        text = raw.decode("ascii")
        found = self._pattern is not None and self._pattern.search(text) is not None
        return not found and not any(form in text for form in _forms(secret))

    def json(self, value: Any, secret: str = "") -> Any:
        """Sanitize every string of a JSON value, the names of members included."""
        if isinstance(value, str):
            return self.text(value, secret)
        if isinstance(value, dict):
            return {self.text(name, secret): self.json(inner, secret) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.json(inner, secret) for inner in value]
        return value


def _forms(secret: str) -> Iterator[str]:
    if len(secret) < LEAST_SECRET_CHARACTERS:
        return
    raw = secret.encode(errors="surrogatepass")
    in_base64 = (encode(raw).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode))
    import html  # noqa: PLC0415 - its table of entities, for those who have a secret

    forms: Iterable[str] = (secret, quote(raw, safe=""), quote_plus(raw), html.escape(secret), *in_base64)
    yield from map(storable, forms)


def _whole(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


_TOLERANT = json.JSONDecoder(parse_int=_whole)


def _escape_match(found: re.Match[str]) -> str:
    return _escape(found[0])


def _escape(character: str) -> str:
    r"""Escape a character as JSON does: ``\u`` and four digits for each unit of UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[start : start + 4]}" for start in range(0, len(units), 4))
