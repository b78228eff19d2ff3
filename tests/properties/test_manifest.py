"""Whatever a manifest's file holds, it is read as it was written, or told as what it is."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.properties.manifests import IDS, TEXT, manifest_at, read
from uploader.errors import UsageError
from uploader.manifest import Format

HEADER = b"conversationId,audioPath\n"
CASES = 10 * settings().max_examples
PIECES = st.sampled_from(
    [
        b"",
        b"",
        HEADER,
        b"conversationId,audioPath,x-a,trackers\nc,a.wav,",
        b'{"conversationId":',
        b'{"conversationId":"c",',
    ]
)
ENDS = st.sampled_from(
    [b'"', b"\r", b"\n", b"\xff", b"\0", b"}", b'"\xef\xbb\xbf', b"[[", b'","trackers":[{"', b",,,\n"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of the manifests."""
    return tmp_path_factory.mktemp("drawn")


@given(
    rows=st.lists(st.tuples(IDS, TEXT, TEXT), min_size=1, max_size=6),
    newline=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    packed=st.booleans(),
)
@settings(deadline=None)
@example(rows=[("c", '\r\n"\n\r', ""), ("d", "\ufeff", "")], newline="\r\n", delimiter=",", quoting=0, packed=False)
def test_whatever_a_csv_writer_writes_is_read_back_equal(
    folder: Path, rows: list[tuple[str, str, str]], newline: str, delimiter: str, quoting: Any, packed: bool
) -> None:
    """Any ids and notes survive the way through a CSV file, with the line where each row begins."""
    # before Python 3.13 the writer leaves a lone carriage return unquoted there, and cannot read it back itself
    bare = newline == "\n" and quoting == csv.QUOTE_MINIMAL
    assume(not (bare and any("\r" in note for _, *notes in rows for note in notes)))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=newline, quoting=quoting, delimiter=delimiter)
    writer.writerow(["conversationId", "audioPath", "x-note", "x-other"])
    lines = []
    for conversation_id, *notes in rows:
        lines.append(1 + text.getvalue().count("\n"))
        writer.writerow([conversation_id, "a.wav", *notes])
    written = text.getvalue().encode()
    path = folder / "m.csv"
    path.write_bytes(gzip.compress(written, compresslevel=1) if packed else written)
    found = read(path, "csv", delimiter)
    assert [(row.conversation_id, row.extras["x-note"], row.extras["x-other"]) for row in found] == rows
    assert [row.line for row in found] == lines


def _end_well(folder: Path, form: Format, content: bytes, *, packed: bool) -> None:
    """Read a manifest: rows, problems of its header, or an error that names it."""
    path = folder / ("m.gz" if packed else "m")
    path.write_bytes(content)
    manifest = manifest_at(path, form)
    try:
        rows = list(manifest.read())
    except UsageError as error:
        assert str(error).startswith("manifest m")  # noqa: PT017 - either end is right
    else:
        assert rows or manifest.header_problems


@given(form=st.sampled_from(["csv", "jsonl"]), start=PIECES, rest=st.tuples(ENDS, st.binary(max_size=40), ENDS))
@settings(max_examples=CASES, deadline=None, database=None)
@example("csv", HEADER, (b'"', b"", b""))
@example("csv", b'{"conversationId":', (b'"', b"", b'"'))
@example("jsonl", b"", (b"\xef\xbb\xbf{}", b"", b""))
def test_no_bytes_end_in_anything_but_rows_or_a_usage_error(
    folder: Path, form: Format, start: bytes, rest: tuple[bytes, bytes, bytes]
) -> None:
    """Whatever the file holds, it is read or told; nothing else is ever raised."""
    _end_well(folder, form, b"".join([start, *rest]), packed=False)


@given(
    form=st.sampled_from(["csv", "jsonl"]),
    start=PIECES,
    rest=st.binary(max_size=60),
    kept=st.integers(0, 120),
    flipped=st.integers(0, 120),
)
@settings(max_examples=CASES // 10, deadline=None)
def test_no_packed_bytes_end_in_anything_but_rows_or_a_usage_error(
    folder: Path, form: Format, start: bytes, rest: bytes, kept: int, flipped: int
) -> None:
    """Packed, cut off anywhere, with a byte changed: it is read or told."""
    packed = bytearray(gzip.compress(start + rest, compresslevel=1)[:kept])
    if flipped < len(packed):
        packed[flipped] ^= 0x55
    _end_well(folder, form, bytes(packed), packed=True)
