"""Which items of the ledger the rows of a manifest name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, or_, select, true

from uploader.ledger.schema import items, lanes
from uploader.model import InvalidRow, Row, State
from uploader.policy.identity import ContentHash, Known, find

CHUNK = 500
"""So many rows are looked up together."""
_NO_LOAD = -1
T = TypeVar("T")


class Hashes:
    """Hashes of files, each read once at most."""

    def __init__(self, read: ContentHash) -> None:
        self._read = read
        self._found: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """The hash of a file; it is read where it was not before."""
        if path not in self._found:
            self._found[path] = self._read(path)
        return self._found[path]

    def known(self, path: Path) -> str | None:
        """The hash of a file that was read already."""
        return self._found.get(path)


def lane_ids(connection: Connection, account_id: int, conversation_ids: Iterable[str]) -> dict[str, int]:
    """The lanes of these conversations, as far as there are any."""
    found = connection.execute(
        select(lanes.c.conversation_id, lanes.c.id).where(
            lanes.c.account_id == account_id, lanes.c.conversation_id.in_(list(conversation_ids))
        )
    )
    return {row.conversation_id: row.id for row in found}


def known_items(
    connection: Connection, chunk: Sequence[Row | InvalidRow], in_lanes: Iterable[int], generation: int
) -> dict[int, list[Known]]:
    """The items of these lanes that share a size or a path with one of the rows, by lane.

    Args:
        connection: A connection in a transaction.
        chunk: Some rows.
        in_lanes: Their lanes.
        generation: That of the ``--repeat`` whose own items alone are meant; 0 means all items.
    """
    valid = [row for row in chunk if isinstance(row, Row)]
    sizes = {row.signature.size for row in valid if row.signature}
    paths = {str(row.path) for row in valid}
    found = connection.execute(
        select(
            items.c.id.label("item_id"),
            *(items.c[name] for name in ("lane_id", "path", "size", "change", "content_hash", "state")),
            *(items.c[name] for name in ("attempts", "position", "load_id")),
        ).where(
            items.c.lane_id.in_(list(in_lanes)),
            or_(items.c.size.in_(sizes), items.c.path.in_(paths)),
            # a repeat knows its own items alone; to any other load what a repeat appended is appended
            items.c.generation == generation if generation else true(),
            items.c.invalid_batch_id.is_(None),
        )
    )
    known: dict[int, list[Known]] = {}
    for row in found.mappings():
        known.setdefault(row["lane_id"], []).append(Known(**{**row, "state": State(row["state"])}))
    return known


def held_of(
    connection: Connection, account_id: int, manifest: Iterable[Row], read_hash: ContentHash
) -> Iterator[tuple[Row, State | None]]:
    """What the ledger holds of each row already, as loading it would find; nothing is written.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        manifest: The valid rows; they are taken as they come and not kept.
        read_hash: Hashes a file's content.

    Yields:
        The row, and the state of the item that it names; None where it would be a new one.
    """
    named: set[int] = set()
    for chunk in chunks(manifest, CHUNK):
        in_lanes = lane_ids(connection, account_id, {row.conversation_id for row in chunk})
        known = known_items(connection, chunk, in_lanes.values(), 0)
        hashes = Hashes(read_hash)
        for one in (one for some in known.values() for one in some if one.item_id in named):
            one.load_id = _NO_LOAD
        for row in chunk:
            item = find(row.path, row.signature, _of(known, in_lanes, row), _NO_LOAD, hashes.of)
            if item is not None:
                item.load_id = _NO_LOAD
                named.add(item.item_id)
            yield row, None if item is None else item.state


def _of(known: Mapping[int, list[Known]], in_lanes: Mapping[str, int], row: Row) -> Sequence[Known]:
    return known.get(in_lanes.get(row.conversation_id, 0), [])


def chunks(iterable: Iterable[T], size: int) -> Iterator[list[T]]:
    """Part rows into lists of this size."""
    iterator = iter(iterable)
    while chunk := list(islice(iterator, size)):
        yield chunk
