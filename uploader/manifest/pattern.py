"""Patterns of recordings' paths: `{conversationId}/*.wav` names the columns that a path tells."""

import re
from collections.abc import Iterator, Mapping

from uploader.errors import UsageError
from uploader.manifest.columns import is_known, unknown

_ANY_FOLDERS, _ANY_PATH, _ANY_NAME = "**/", "**", "*"
_WILD = {_ANY_FOLDERS: "(?:[^/]+/)*?", _ANY_PATH: ".+?", _ANY_NAME: "[^/]*?"}
_PLACEHOLDER = "[^/]+?"
_TOKEN = re.compile(r"\*\*/|\*\*|\*|\{|[^*{]+")
_ID = "conversationId"


class PathPattern:
    """A pattern of paths below a folder, and the columns that its placeholders name.

    ``{conversationId}`` stands for one or more characters other than ``/``, and so does ``{}``, of which nothing is
    kept. ``{NAME:REGEX}`` stands for what the regular expression matches, ``*`` for any characters but ``/``, ``**``
    for any characters, and ``**/`` for any folders or none. Each takes as little as possible; a name that stands
    there twice is the same text twice.

    Args:
        text: The pattern.

    Raises:
        UsageError: It has no ``{conversationId}``, a column that there is not, or a wrong expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._columns: list[str] = []
        expression = "".join(self._parts(text))
        if _ID not in self._columns:
            raise self._error(f"{{{_ID}}} is missing in it: put it where the paths have the conversation's id")
        self._exact = re.compile(expression, re.DOTALL)
        self._any_case = re.compile(expression, re.DOTALL | re.IGNORECASE)

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the columns that a relative path tells; None where it does not match."""
        found = self._exact.fullmatch(path)
        return None if found is None else dict(zip(self._columns, found.groups(), strict=True))

    def matches_in_any_case(self, path: str) -> bool:
        """Return True where a path matches but for small and capital letters."""
        return self._any_case.fullmatch(path) is not None

    def _parts(self, text: str) -> Iterator[str]:
        """Yield the regular expression of each part."""
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            part = token[0] if token is not None else text[at]
            if part == "{":
                end = self._closing(at)
                yield self._placeholder(text[at + 1 : end])
                at = end + 1
            else:
                yield _WILD.get(part) or re.escape(part)
                at += len(part)

    def _closing(self, opening: int) -> int:
        """Find the brace that closes a placeholder: its expression may have braces, too."""
        depth = 0
        for at in range(opening, len(self.text)):
            depth += {"{": 1, "}": -1}.get(self.text[at], 0)
            if not depth:
                return at
        raise self._error("a { is not closed: write } after the column's name")

    def _placeholder(self, inner: str) -> str:
        name, colon, expression = inner.partition(":")
        if colon:
            self._check_expression(expression)
        expression = expression or _PLACEHOLDER
        if not name:
            return f"(?:{expression})"
        if not is_known(name):
            raise self._error(f"{{{name}}}: {unknown(name)}")
        if name in self._columns:
            # a text that stands in several places of the path
            return f"(?P=c{self._columns.index(name)})"
        self._columns.append(name)
        return f"(?P<c{len(self._columns) - 1}>{expression})"

    def _check_expression(self, expression: str) -> None:
        try:
            groups = re.compile(expression).groups
        except re.error as error:
            raise self._error(f"{expression!r} is no regular expression ({error}): mend it") from error
        if groups:
            raise self._error(f"{expression!r}: write its groups as (?:…): the placeholder keeps the whole")

    def _error(self, text: str) -> UsageError:
        return UsageError(f"pattern {self.text!r}: {text}")
