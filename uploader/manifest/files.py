"""Opens a manifest's file: which format it has, whether it is packed, and its lines as text."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from uploader.errors import UsageError

Format = Literal["csv", "jsonl"]

LINE_MOST_BYTES = 16 * 1024 * 1024
"""A longer line is no manifest's: it is not read into memory."""

BLOCK_BYTES = 256 * 1024
"""So much is read and decoded at once."""

_PACKED = ".gz"
_GZIP_START = b"\x1f\x8b"
_ENDINGS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def format_of(path: Path) -> Format:
    """Tell a manifest's format by its ending, behind which ``.gz`` may stand.

    Raises:
        UsageError: The ending says nothing.
    """
    inner = path.with_suffix("") if path.suffix.lower() == _PACKED else path
    found = _ENDINGS.get(inner.suffix.lower())
    if found is None:
        ending = path.name.removeprefix(inner.stem)
        raise UsageError(f"manifest {path}: its ending {ending!r} tells no format: say --format csv or --format jsonl")
    return found


def check_file(path: Path, name: str) -> None:
    """See that there is a manifest at all.

    Raises:
        UsageError: There is none, or it is no file that can be read.
    """
    if path.is_dir():
        raise UsageError(f"manifest {name}: this is a folder: name the CSV or JSON Lines file in it")
    with _open(path, name):
        return


def lines(path: Path, name: str) -> Iterator[str]:
    """The lines of a manifest, with their ends, unpacked; a byte order mark is no part of them.

    Args:
        path: Where it is; one whose content or ending says so is unpacked.
        name: What to call it in an error.

    Raises:
        UsageError: It cannot be read, is broken as a gzip file, or is no UTF-8.
    """
    check_file(path, name)
    number = 0
    with _unpacked(path, name) as file:
        try:
            for block in _blocks(file):
                yield from _decoded(block, number, name)
                number += block.count(b"\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            where = f"manifest {name}, after line {number}" if number else f"manifest {name}"
            raise UsageError(f"{where}: this gzip file is broken ({error}): pack it anew") from error
        except OSError as error:
            raise UsageError(f"manifest {name}: {error.strerror or error}: name a file that can be read") from error


def _blocks(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield whole lines, many together; what begins a line that is too long is yielded as it is.

    What came before a place where the file is broken is yielded before that is raised.
    """
    rest = b""
    while block := file.read1(BLOCK_BYTES):
        whole, end, begun = block.rpartition(b"\n")
        if end:
            yield b"".join((rest, whole, end))
            rest = begun
        else:
            rest += begun
        if len(rest) >= LINE_MOST_BYTES:
            break
    if rest:
        yield rest


def _open(path: Path, name: str) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"manifest {name}: {error.strerror}: name a file that can be read") from error


@contextmanager
def _unpacked(path: Path, name: str) -> Iterator[io.BufferedIOBase]:
    with _open(path, name) as file:
        start = file.read(len(_GZIP_START))
        file.seek(0)
        if start != _GZIP_START and path.suffix.lower() != _PACKED:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def _decoded(block: bytes, before: int, name: str) -> Iterator[str]:
    """The lines of a block, with their ends; ``before`` is how many lines stand before it."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        begin = block.rfind(b"\n", 0, error.start) + 1
        if begin:
            yield from _decoded(block[:begin], before, name)
        line = before + block.count(b"\n", 0, begin) + 1
        raise UsageError(
            f"manifest {name}, line {line}: this is not UTF-8 (byte "
            f"{block[error.start]:#04x} at place {error.start - begin + 1}): save the manifest as UTF-8"
        ) from error
    if len(block) >= LINE_MOST_BYTES and b"\n" not in block[:LINE_MOST_BYTES]:
        raise UsageError(
            f"manifest {name}, line {before + 1}: it is longer than {LINE_MOST_BYTES} bytes: mend the line"
        )
    yield from io.StringIO(text if before else text.removeprefix("\ufeff"), newline="\n")
