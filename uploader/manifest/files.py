"""Opens a manifest's file: detects format and compression, and yields lines of text."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from uploader.errors import UsageError, describe

Format = Literal["csv", "jsonl"]

# the longest line, in bytes; a longer one is not read into memory
LINE_MOST_BYTES = 16 * 1024 * 1024

# the bytes read and decoded at once
BLOCK_BYTES = 256 * 1024

_PACKED = ".gz"
_GZIP_START = b"\x1f\x8b"
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_AS_CSV = 'save the sheet as "CSV UTF-8" and name that file'
# signatures of files that are no manifests, in lower case, each with its remedy
_SIGNS = (
    (b"PK\x03\x04", f"this is a workbook or a zip archive: {_AS_CSV}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"this is a workbook of old Excel: {_AS_CSV}"),
    (b"<?xml", f"this is XML, as some spreadsheets write: {_AS_CSV}"),
    (b"<html", f"this is a web page: {_AS_CSV}"),
    (b"<!doctype html", f"this is a web page: {_AS_CSV}"),
    (b"<table", f"this is a web page: {_AS_CSV}"),
    (b"{\\rtf", f"this is a text document (RTF): {_AS_CSV}"),
    (b"%pdf", f"this is a PDF: {_AS_CSV}"),
    (b"\xff\xfe", "this is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "this is UTF-16: save it as UTF-8"),
    (b"par1", "this is a Parquet file: write it as CSV or JSON Lines"),
    (b"sqlite format 3\0", "this is a database: write the rows as CSV or JSON Lines"),
    (b"bzh", "this is packed by bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zxz\0", "this is packed by xz: unpack it, or pack it with gzip"),
    (b"(\xb5/\xfd", "this is packed by zstd: unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf\x27\x1c", "this is a 7z archive: unpack it, or pack it with gzip"),
)
_SIGN_BYTES = 32
ENDINGS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def format_of(path: Path) -> Format:
    """Derive a manifest's format from its suffix; ``.gz`` may follow.

    Raises:
        UsageError: The ending says nothing.
    """
    inner = path.with_suffix("") if path.suffix.lower() == _PACKED else path
    found = ENDINGS.get(inner.suffix.lower())
    if found is None:
        if inner.suffix.lower() in SPREADSHEETS:
            raise UsageError(f"manifest {path}: this is a workbook: {_AS_CSV}")
        ending = path.name.removeprefix(inner.stem)
        raise UsageError(f"manifest {path}: its ending {ending!r} tells no format: say --format csv or --format jsonl")
    return found


def check_file(path: Path, name: str) -> None:
    """Check that the manifest is a file that can be read.

    Raises:
        UsageError: The manifest does not exist, or is no file that can be read.
    """
    if path.is_dir():
        raise UsageError(f"manifest {name}: this is a folder: name the CSV or JSON Lines file in it")
    with _open(path, name):
        return


def lines(path: Path, name: str) -> Iterator[str]:
    """Yield the lines of a manifest with their ends, decompressed and without a byte order mark.

    Args:
        path: The manifest's path; a gzip file is decompressed.
        name: The manifest's name, for messages.

    Raises:
        UsageError: The file cannot be read, is no intact gzip file, or is no UTF-8.
    """
    check_file(path, name)
    number = 0
    try:
        with _unpacked(path, name) as file:
            for block in _blocks(file):
                if not number:
                    _check_start(block, name)
                yield from _decoded(block, number, name)
                number += block.count(b"\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = f"manifest {name}, after line {number}" if number else f"manifest {name}"
        raise UsageError(f"{where}: this gzip file is broken ({error}): pack it anew") from error
    except OSError as error:
        raise UsageError(f"manifest {name}: {describe(error, 'name a file that can be read')}") from error


def _blocks(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield blocks of whole lines; the beginning of a line that is too long is a block of its own.

    Blocks before a broken place of the file are yielded before the error is raised.
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


def _check_start(block: bytes, name: str) -> None:
    start = block[:_SIGN_BYTES].removeprefix(b"\xef\xbb\xbf").lower()
    known = next((remedy for sign, remedy in _SIGNS if start.startswith(sign.lower())), None)
    if known is not None or b"\0" in start[:2]:
        raise UsageError(f"manifest {name}: {known or 'this is no text, or UTF-16: save it as UTF-8'}")


def _open(path: Path, name: str) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"manifest {name}: {describe(error, 'name a file that can be read')}") from error


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
    """Decode a block into lines with their ends; ``before`` is the number of earlier lines."""
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
