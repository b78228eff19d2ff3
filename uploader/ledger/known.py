"""Which items of the ledger the rows of a manifest name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, or_, select, true

from uploader.ledger.schema import items, lanes
from uploader.model import InvalidRow, Row, State
from uploader.policy.identity import ContentHash, Items, Known, find, is_corrected

CHUNK = 500
"""So many rows are looked up together."""
NAMED = -1
"""In place of a load: a row before this one has named the item."""
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
    connection: Connection,
    chunk: Sequence[Row | InvalidRow],
    in_lanes: Iterable[int],
    generation: int,
    named: Collection[int] = (),
) -> defaultdict[int, Items]:
    """The items of these lanes that share a size or a path with one of the rows, by lane.

    Args:
        connection: A connection in a transaction.
        chunk: Some rows.
        in_lanes: Their lanes.
        generation: That of the ``--repeat`` whose own items alone are meant; 0 means all items.
        named: Items that rows before these have named already.
    """
    valid = [row for row in chunk if isinstance(row, Row)]
    sizes = {row.signature.size for row in valid if row.signature}
    paths = {str(row.path) for row in valid}
    found = connection.execute(
        select(
            items.c.id.label("item_id"),
            *(items.c[name] for name in ("lane_id", "path", "size", "change", "content_hash", "state")),
            *(items.c[name] for name in ("attempts", "position", "load_id", "content_type", "parameters")),
        ).where(
            items.c.lane_id.in_(list(in_lanes)),
            or_(items.c.size.in_(sizes), items.c.path.in_(paths)),
            # a repeat knows its own items alone; to any other load what a repeat appended is appended
            items.c.generation == generation if generation else true(),
            items.c.invalid_batch_id.is_(None),
        )
    )
    known: defaultdict[int, Items] = defaultdict(Items)
    for row in found.mappings():
        load_id = NAMED if row["item_id"] in named else row["load_id"]
        known[row["lane_id"]].add(Known(**{**row, "state": State(row["state"]), "load_id": load_id}))
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
    hashes = Hashes(read_hash)
    for chunk in chunks(manifest, CHUNK):
        in_lanes = lane_ids(connection, account_id, {row.conversation_id for row in chunk})
        known = known_items(connection, chunk, in_lanes.values(), 0, named)
        for row in chunk:
            item = find(row.path, row.signature, known[in_lanes.get(row.conversation_id, 0)], NAMED, hashes.of)
            if item is None:
                yield row, None
                continue
            item.load_id = NAMED
            named.add(item.item_id)
            mended = is_corrected(item, row, hashes.of)
            yield row, State.PENDING if mended else item.state


def chunks(iterable: Iterable[T], size: int) -> Iterator[list[T]]:
    """Part rows into lists of this size."""
    iterator = iter(iterable)
    while chunk := list(islice(iterator, size)):
        yield chunk
