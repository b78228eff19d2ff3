"""Opens a manifest's file: which format it has, whether it is packed, and its lines as text."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from uploader.errors import UsageError

Format = Literal["csv", "jsonl"]

LINE_MOST_BYTES = 16 * 1024 * 1024
"""A longer line is no manifest's: it is not read into memory."""

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
            for number, line in enumerate(iter(lambda: file.readline(LINE_MOST_BYTES), b""), start=1):
                yield _decoded(line, number, name)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            where = f"manifest {name}, after line {number}" if number else f"manifest {name}"
            raise UsageError(f"{where}: this gzip file is broken ({error}): pack it anew") from error
        except OSError as error:
            raise UsageError(f"manifest {name}: {error.strerror or error}: name a file that can be read") from error


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"manifest {name}: {error.strerror}: name a file that can be read") from error


@contextmanager
def _unpacked(path: Path, name: str) -> Iterator[BinaryIO]:
    with _open(path, name) as file:
        start = file.read(len(_GZIP_START))
        file.seek(0)
        if start != _GZIP_START and path.suffix.lower() != _PACKED:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast("BinaryIO", unpacked)


def _decoded(line: bytes, number: int, name: str) -> str:
    if len(line) == LINE_MOST_BYTES:
        raise UsageError(f"manifest {name}, line {number}: it is longer than {LINE_MOST_BYTES} bytes: mend the line")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"manifest {name}, line {number}: this is not UTF-8 (byte {line[error.start]:#04x} at place "
            f"{error.start + 1}): save the manifest as UTF-8"
        ) from error
    return text.removeprefix("\ufeff") if number == 1 else text
