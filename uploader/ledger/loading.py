"""Brings a manifest into the ledger: which rows are items that exist, which are new, in what order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import JSON, Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or_ignore

from uploader.ledger.known import CHUNK, Hashes, chunks, known_items, lane_ids
from uploader.ledger.schema import POSITIONS_PER_LOAD, accounts, batches, items, lanes, loads, rows
from uploader.model import AudioFacts, InvalidRow, Problem, Row, State
from uploader.policy.billing import SEPARATE, billed_seconds
from uploader.policy.identity import ContentHash, Items, Known, find, is_corrected

_ADD_ACCOUNT = insert_or_ignore(accounts).on_conflict_do_nothing()

_ACCOUNT = select(accounts.c.id).where(accounts.c.base_url == bindparam("url"), accounts.c.name == bindparam("named"))

_ADD_BATCH = insert_or_ignore(batches).values(generation=0, extra_columns=[]).on_conflict_do_nothing()

_BATCH = select(batches.c.id, batches.c.generation, batches.c.repeat_open).where(
    batches.c.account_id == bindparam("account"), batches.c.name == bindparam("named")
)

_ADD_LOAD = insert(loads).returning(loads.c.id)

_NOTE_LOAD = (
    update(batches)
    .where(batches.c.id == bindparam("batch"))
    .values(
        manifest=bindparam("from"),
        results=bindparam("to"),
        extra_columns=bindparam("extras", type_=JSON),
        generation=bindparam("meant"),
        repeat_open=bindparam("repeats"),
        ran_at=bindparam("now"),
    )
)

_FORGET_ROWS = delete(rows).where(rows.c.batch_id == bindparam("batch"))

_FORGET_INVALID = delete(items).where(items.c.invalid_batch_id == bindparam("batch"))

AudioProbe = Callable[[Path], AudioFacts]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """One loading of a manifest into its batch."""

    load_id: int
    batch_id: int
    account_id: int
    generation: int


def account(connection: Connection, base_url: str, name: str = "default") -> int:
    """Find or make the account: a base URL and a name."""
    which = {"base_url": base_url, "name": name}
    connection.execute(_ADD_ACCOUNT, which)
    found: int = connection.execute(_ACCOUNT, {"url": base_url, "named": name}).scalar_one()
    return found


def begin_load(
    connection: Connection,
    account_id: int,
    name: str,
    *,
    manifest: str,
    results: Path,
    extra_columns: Sequence[str],
    now: float,
    repeat: bool,
) -> Load:
    """Begin to load a manifest as the batch of this name, in place of what that batch named before.

    A ``--repeat`` that was interrupted is carried on, not begun once more.

    Args:
        connection: A connection in a transaction, the same until ``finish_load``.
        account_id: The account of the batch.
        name: The batch's name.
        manifest: What to call the manifest when a person shall run it again.
        results: Where its results are written.
        extra_columns: The manifest's ``x-`` columns, which its results repeat.
        now: The time, in seconds since the epoch.
        repeat: Whether all rows become new items.
    """
    connection.execute(_ADD_BATCH, {"account_id": account_id, "name": name, "ran_at": now})
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one()
    load_id: int = connection.execute(_ADD_LOAD, {"batch_id": batch.id, "loaded_at": now}).scalar_one()
    generation = 0
    if repeat:
        generation = batch.generation if batch.repeat_open else load_id
    about = {"from": manifest, "to": str(results), "extras": list(extra_columns), "now": now}
    connection.execute(_NOTE_LOAD, about | {"batch": batch.id, "meant": generation, "repeats": repeat})
    connection.execute(_FORGET_ROWS, {"batch": batch.id})
    connection.execute(_FORGET_INVALID, {"batch": batch.id})
    return Load(load_id, batch.id, account_id, generation)


def load_rows(
    connection: Connection,
    load: Load,
    manifest: Iterable[Row | InvalidRow],
    *,
    content_hash: ContentHash,
    probe: AudioProbe,
    separate: bool = False,
) -> list[InvalidRow]:
    """Load all rows of a manifest, in its order, a chunk at a time.

    Args:
        connection: A connection in a transaction.
        load: The load, as ``begin_load`` gave it.
        manifest: The rows; they are taken as they come and not kept.
        content_hash: Hashes a file's content.
        probe: Tells duration and channels of a file that is new.
        separate: Whether channels are recognised, and billed, separately where a row does not say.

    Returns:
        The rows whose file is gone although no item that was begun is theirs: they are invalid after all.
    """
    hashes, lacking = Hashes(content_hash), list[InvalidRow]()
    next_id = (connection.execute(select(func.max(items.c.id))).scalar_one() or 0) + 1
    for chunk in chunks(manifest, CHUNK):
        loader = _ChunkLoader(connection, load, next_id, hashes, probe, separate=separate)
        loader.load(chunk)
        next_id = loader.next_id
        lacking += loader.lacking
    return lacking


def was_begun(connection: Connection, account_id: int, conversation_id: str, path: Path) -> bool:
    """Whether an item of this conversation and path was begun before: its file may be gone by now."""
    found = connection.execute(
        select(items.c.id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            lanes.c.account_id == account_id,
            lanes.c.conversation_id == conversation_id,
            items.c.path == str(path),
            items.c.attempts > 0,
        )
        .limit(1)
    )
    return found.first() is not None


def close_repeat(connection: Connection, batch_id: int) -> None:
    """Keep that a repeat has come to its end: another one appends everything once more."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(repeat_open=False))


def note_extra_columns(connection: Connection, batch_id: int, columns: Sequence[str]) -> None:
    """Keep the manifest's ``x-`` columns, which its results repeat: all are known once all rows were read."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(extra_columns=columns))


def note_limit(connection: Connection, account_id: int, configured: int) -> None:
    """Keep the limit that the account's last run was given, for whoever asks how it stands."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(configured_limit=configured))


def note_run(connection: Connection, batch_id: int, results: Path, now: float) -> None:
    """Keep that a batch runs now, and where its results go."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(ran_at=now, results=str(results)))


class _ChunkLoader:
    """Loads some hundred rows with a handful of statements."""

    def __init__(
        self,
        connection: Connection,
        load: Load,
        next_id: int,
        hashes: Hashes,
        probe: AudioProbe,
        *,
        separate: bool,
    ) -> None:
        self.next_id = next_id
        self.lacking: list[InvalidRow] = []
        self._connection = connection
        self._load = load
        self._hashes = hashes
        self._probe = probe
        self._separate = separate
        self._new_items: list[dict[str, Any]] = []
        self._named: list[dict[str, Any]] = []
        self._moved: list[dict[str, Any]] = []
        self._mended: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []

    def load(self, chunk: Sequence[Row | InvalidRow]) -> None:
        in_lanes = self._lanes({row.conversation_id for row in chunk if row.conversation_id})
        known = known_items(self._connection, chunk, in_lanes.values(), self._load.generation)
        for row in chunk:
            lane_id = in_lanes.get(row.conversation_id)
            if isinstance(row, InvalidRow):
                self._load_invalid(row, lane_id)
            elif lane_id is not None:
                self._load_row(row, known[lane_id], lane_id)
        self._write()

    def _lanes(self, conversation_ids: set[str]) -> dict[str, int]:
        if not conversation_ids:
            return {}
        account_id = self._load.account_id
        self._connection.execute(
            insert_or_ignore(lanes).on_conflict_do_nothing(),
            [{"account_id": account_id, "conversation_id": one} for one in sorted(conversation_ids)],
        )
        return lane_ids(self._connection, account_id, conversation_ids)

    def _load_invalid(self, row: InvalidRow, lane_id: int | None) -> None:
        """A row that cannot be sent holds its lane, where that can be read, as any refused item does."""
        error = "; ".join(str(problem) for problem in row.problems)
        item_id = None if lane_id is None else self._dropped(row, lane_id)
        if lane_id is not None and item_id is None:
            item_id = self._add_item(
                row.line,
                lane_id,
                path=row.audio_path,
                state=State.REFUSED,
                error=error,
                invalid_batch_id=self._load.batch_id,
            )
        self._add_row(row, item_id, error)

    def _dropped(self, row: InvalidRow, lane_id: int) -> int | None:
        """The item of an invalid row that a person dropped already."""
        found: int | None = self._connection.execute(
            select(func.min(items.c.id)).where(
                items.c.lane_id == lane_id,
                items.c.path == row.audio_path,
                items.c.state == State.DROPPED,
                items.c.attempts == 0,
                items.c.size.is_(None),
                items.c.load_id != self._load.load_id,
            )
        ).scalar_one()
        if found is not None:
            self._named.append({"item": found, "line": row.line})
        return found

    def _load_row(self, row: Row, known: Items, lane_id: int) -> None:
        item = find(row.path, row.signature, known, self._load.load_id, self._hashes.of)
        if item is not None:
            self._name(row, item)
            self._add_row(row, item.item_id, None)
        elif row.signature is None:
            self.lacking.append(without_a_file(row))
            self._load_invalid(self.lacking[-1], lane_id)
        else:
            content = self._content(row)
            self._add_row(row, self._add_item(row.line, lane_id, **content), None)

    def _content(self, row: Row) -> dict[str, Any]:
        facts = row.facts or self._probe(row.path)
        return {
            "path": str(row.path),
            "size": row.signature.size if row.signature else None,
            "change": row.signature.change if row.signature else None,
            "content_type": row.content_type or facts.media_type,
            "duration_seconds": facts.duration_seconds,
            "channels": facts.channels,
            "billed_seconds": billed_seconds(
                facts.duration_seconds, facts.channels, separate=row.parameters.get(SEPARATE, self._separate)
            ),
            "content_hash": self._hashes.known(row.path),
            "parameters": dict(row.parameters),
        }

    def _add_item(self, line: int, lane_id: int, **values: Any) -> int:
        item_id = self.next_id
        self.next_id += 1
        item = {column.name: None for column in items.columns if column.nullable} | {
            "id": item_id,
            "account_id": self._load.account_id,
            "lane_id": lane_id,
            "first_batch_id": self._load.batch_id,
            "load_id": self._load.load_id,
            "line": line,
            "position": self._position(line),
            "generation": self._load.generation,
            "state": State.PENDING,
            "parameters": {},
        }
        self._new_items.append(item | values)
        return item_id

    def _name(self, row: Row, item: Known) -> None:
        """Name an item that exists: one that waits, or is mended, takes the row's file, parameters and place."""
        item.load_id = self._load.load_id
        self._named.append({"item": item.item_id, "line": row.line})
        mended = is_corrected(item, row, self._hashes.of)
        if mended:
            self._mended.append({"item": item.item_id, "state": State.PENDING})
        if row.signature is None or not (mended or item.state is State.PENDING):
            return
        unchanged = item.path == str(row.path) and item.change == row.signature.change
        content = self._content(row)
        self._moved.append(
            content
            | {
                "item": item.item_id,
                "position": item.position if item.attempts else self._position(row.line),
                "content_hash": content["content_hash"] or (item.content_hash if unchanged else None),
            }
        )

    def _position(self, line: int) -> int:
        return self._load.load_id * POSITIONS_PER_LOAD + line

    def _add_row(self, row: Row | InvalidRow, item_id: int | None, error: str | None) -> None:
        self._rows.append(
            {
                "batch_id": self._load.batch_id,
                "line": row.line,
                "item_id": item_id,
                "conversation_id": row.conversation_id,
                "audio_path": row.audio_path,
                "content_type": row.content_type if isinstance(row, Row) else None,
                "given": dict(row.given) if isinstance(row, InvalidRow) else None,
                "extras": dict(row.extras),
                "error": error,
            }
        )

    def _write(self) -> None:
        connection, load_id = self._connection, self._load.load_id
        if self._new_items:
            connection.execute(insert(items), self._new_items)
        if self._named:
            _update_each(connection, self._named, load_id=load_id)
        if self._moved:
            _update_each(connection, self._moved)
        if self._mended:
            _update_each(connection, self._mended, error=None, http_status=None, finished_at=None, cut_offs=0)
        connection.execute(insert(rows), self._rows)


def without_a_file(row: Row) -> InvalidRow:
    """A row whose file is gone, and that names no item that was begun."""
    remedy = (
        "the file is gone, and the item that was begun with it is another row's: bring it back or leave the row out"
    )
    problem = Problem(row.line, "audioPath", row.audio_path, remedy)
    given = {**row.parameters, **({"contentType": row.content_type} if row.content_type else {})}
    return InvalidRow(row.line, row.conversation_id, row.audio_path, row.extras, [problem], given=given)


def _update_each(connection: Connection, changes: Sequence[dict[str, Any]], **same: Any) -> None:
    """Update items one by one in one go: ``item`` is the id, everything else a column's new value."""
    columns = [name for name in changes[0] if name != "item"]
    statement = update(items).where(items.c.id == bindparam("item"))
    statement = statement.values({name: bindparam(f"new_{name}", type_=items.c[name].type) for name in columns})
    if same:
        statement = statement.values(**same)
    renamed = [
        {("item" if name == "item" else f"new_{name}"): value for name, value in change.items()} for change in changes
    ]
    connection.execute(statement, renamed)
