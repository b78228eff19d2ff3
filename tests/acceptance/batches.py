"""Makes recordings and manifests, and reads results."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.acceptance.place import Place

LEAST_BYTES, MOST_BYTES = 1024, 30 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A row that a manifest is to have: this recording for this conversation."""

    conversation: str
    audio: str
    sha256: str


def record(place: Place, name: str, content: bytes) -> str:
    """Writes a recording and tells its hash."""
    place.write(name, content)
    return hashlib.sha256(content).hexdigest()


def sound(draw: Random, size: int | None = None) -> bytes:
    """Something that passes for a recording: for the service it is bytes."""
    return draw.randbytes(size or draw.randint(LEAST_BYTES, MOST_BYTES))


def make_rows(place: Place, files: int, conversations: int, *, seed: int = 1, folder: str = "audio") -> list[Row]:
    """Writes recordings of 1 to 30 KiB, some of equal size and some of equal content; conversations in turn.

    Every tenth recording has the size of the one before it in its conversation, and every tenth its content.
    """
    draw = Random(seed)
    rows: list[Row] = []
    contents: list[bytes] = []
    for number in range(files):
        before = contents[number - conversations] if number >= conversations else b""
        content = sound(draw)
        if before and number % 10 == 3:
            content = sound(draw, len(before))
        elif before and number % 10 == 7:
            content = before
        contents.append(content)
        name = f"{folder}/{number:04}.wav"
        rows.append(Row(f"conversation-{number % conversations:03}", name, record(place, name, content)))
    return rows


def write_manifest(place: Place, name: str, rows: Iterable[Row]) -> Path:
    """Writes a manifest, CSV or JSON Lines by its name."""
    cells = [{"conversationId": row.conversation, "audioPath": row.audio} for row in rows]
    return write_table(place, name, cells)


def write_table(place: Place, name: str, cells: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a manifest with any columns, those of its first row."""
    path = place.path(name)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in cells)
        else:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    return path


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file, CSV or JSON Lines by its name."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file))


def statuses(path: Path) -> list[str]:
    """Return the status of each row in the manifest's order."""
    return [line["status"] for line in read_results(path)]
