"""Explains why a file cannot be found at a path."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from uploader.manifest.ids import QUOTES, is_unseen, named

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}|%\w+%")

# converts a manifest's path into a path of this machine
Resolve = Callable[[str], str]


def likely(audio_path: str, resolve: Resolve) -> str:
    """Explain what is most likely wrong with a path at which there is no file; empty where nothing is known.

    Args:
        audio_path: The path in the manifest.
        resolve: Converts it into a path of this machine.
    """

    def exists(path: str) -> bool:
        try:
            return os.path.lexists(resolve(path))
        except ValueError:
            return False  # it leads where no path may

    return "; ".join([*_text_hints(audio_path), *_spelling_hints(audio_path, exists)])


def _text_hints(path: str) -> Iterator[str]:
    scheme = _SCHEME.match(path)
    if path.startswith("~"):
        yield "~ is not expanded: write the home folder out"
    elif scheme is not None and scheme[1].lower() == "file":
        yield "this is a URI: write the path alone, without file://"
    elif scheme is not None:
        yield f"this is an address ({scheme[1]}://) and no file of this machine"
    elif _DRIVE.match(path) or "\\" in path:
        yield "it has backslashes, as paths of Windows do: write / between folders"
    if _VARIABLE.search(path):
        yield "variables are not expanded: write their values"
    if path[0] in QUOTES and path[-1] in QUOTES:
        yield "quotes became a part of the path: write it without"
    yield from _unseen(path)


def _unseen(path: str) -> Iterator[str]:
    """Explain invisible characters at the path's ends, and invisible ones other than blanks inside."""
    for char, where in ((path[0], "begins"), (path[-1], "ends")):
        if is_unseen(char):
            yield f"it {where} with {named(char)}"
    inner = next((char for char in path[1:-1] if char != " " and is_unseen(char)), None)
    if inner is not None:
        yield f"{named(inner)} stands in it"


def _spelling_hints(path: str, exists: Callable[[str], bool]) -> Iterator[str]:
    """Explain the first other spelling of the path under which there is a file."""
    for other, description in _spellings(path):
        if other and other != path and exists(other):
            yield f"a file is there {description}"
            return


def _spellings(path: str) -> Iterator[tuple[str, str]]:
    if not path.isascii():
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, path), f"under another Unicode form of this name ({form}): write it so"
    yield (
        "".join([char for char in path if char == " " or not is_unseen(char)]).strip(),
        "without the invisible characters",
    )
    yield path.replace("\\", "/"), "with / in place of the backslashes"
    yield unquote(path), "without the percent-encoding"
    yield path.strip(QUOTES), "without the quotes"
    yield path.lower(), "in small letters"
    name, point, ending = path.rpartition(".")
    yield name + point + ending.swapcase(), f"with the ending {point}{ending.swapcase()}"
