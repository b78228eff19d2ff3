"""Decides whether a row of a manifest is an item that the ledger already knows (design: the same item)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Any

from uploader.model import FileSignature, Row, State
from uploader.urls import without_signature

# the hash of a file's content by its path; None where it cannot be read
ContentHash = Callable[[str], str | None]


class Unread(Enum):
    """The file that could not be read, so that a row may be an existing item or a new one."""

    ROW = "could not be read to compare it with an earlier recording of its conversation that has its size: run again"
    ITEM = (
        "an earlier recording of its conversation has its size, and could not be read to compare it with this one: run "
        "again, or bring that file back; where the two differ, give the row a manifest of its own, with --repeat"
    )


@dataclass(slots=True)
class ExistingItem:
    """An item of the ledger, with the facts by which rows are matched to it."""

    item_id: int
    lane_id: int
    path: str
    size: int
    change: str | None
    content_hash: str | None
    state: State
    attempts: int
    position: int
    # the load that named it last
    load_id: int
    content_type: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    # refused because its file could not be read or had changed, not by the service
    is_refused_for_file: bool = False

    @property
    def is_unsent(self) -> bool:
        """Return True where nothing was appended, so that the item may take the present content of its file."""
        return self.state in (State.PENDING, State.REFUSED)

    @property
    def may_be_appended(self) -> bool:
        """Return True where the audio was appended, or may have been."""
        return not self.is_unsent and self.state is not State.DROPPED


class _Queue:
    """A queue of items in lane order, from which rows take; items that the present load has named are skipped."""

    def __init__(self) -> None:
        self._items: list[ExistingItem] = []
        self._first = 0
        self._is_sorted = True

    def add(self, item: ExistingItem) -> None:
        self._items.append(item)
        self._is_sorted = False

    def first(self, load_id: int, *, not_of: str = "") -> ExistingItem | None:
        """Return the first item that this load has not named and whose path is not ``not_of``."""
        if not self._is_sorted:
            self._items.sort(key=_turn)
            self._first, self._is_sorted = 0, True
        items = self._items
        # named ones in front are skipped for good
        while self._first < len(items) and items[self._first].load_id == load_id:
            self._first += 1
        for item in islice(items, self._first, None):
            if item.load_id != load_id and item.path != not_of:
                return item
        return None


class _OnePath:
    """The items of one path, indexed for each question that a row of this path asks."""

    def __init__(self, items: Iterable[ExistingItem]) -> None:
        # by size, hash, change and ``may_be_appended``
        self._alike: defaultdict[tuple[int, str | None, str | None, bool], _Queue] = defaultdict(_Queue)
        # items that were begun, by the load that named them last
        self._begun: defaultdict[int, _Queue] = defaultdict(_Queue)
        self._unsent = _Queue()
        for item in items:
            self._alike[item.size, item.content_hash, item.change, item.may_be_appended].add(item)
            if item.attempts:
                self._begun[item.load_id].add(item)
            if item.is_unsent:
                self._unsent.add(item)

    def alike(self, size: int, load_id: int) -> Sequence[ExistingItem]:
        """Return the first item of this size of each kind that this load has not named."""
        queues = [queue.first(load_id) for (of_size, *_), queue in self._alike.items() if of_size == size]
        return [item for item in queues if item is not None]

    def begun(self, load_id: int) -> ExistingItem | None:
        """Return the first item that was begun and that this load has not named, the newest load's first."""
        newest = (self._begun[load].first(load_id) for load in sorted(self._begun, reverse=True) if load != load_id)
        return next((item for item in newest if item is not None), None)

    def unsent(self, load_id: int) -> ExistingItem | None:
        """Return the first item of which nothing was sent and that this load has not named."""
        return self._unsent.first(load_id)


class _OneItem:
    """The only item of a path, with the answers of ``_OnePath`` at a fraction of its cost."""

    def __init__(self, item: ExistingItem) -> None:
        self._item = item

    def alike(self, size: int, load_id: int) -> Sequence[ExistingItem]:
        return [self._item] if self._item.size == size and self._item.load_id != load_id else []

    def begun(self, load_id: int) -> ExistingItem | None:
        return self._item if self._item.attempts and self._item.load_id != load_id else None

    def unsent(self, load_id: int) -> ExistingItem | None:
        return self._item if self._item.is_unsent and self._item.load_id != load_id else None


_NO_ITEMS = _OnePath(())


class _OneSize:
    """The items of one size, indexed by their content hash."""

    def __init__(self, items: Iterable[ExistingItem]) -> None:
        self.all = _Queue()
        self.paths: set[str] = set()
        # items whose hash is not known yet
        self._unread: list[ExistingItem] = []
        # items whose hash is known, and those that may be appended and could not be read
        self.comparable, self._unknown = _Queue(), _Queue()
        self._by_hash: defaultdict[str, _Queue] = defaultdict(_Queue)
        for item in items:
            self.all.add(item)
            self.paths.add(item.path)
            if item.content_hash is None:
                self._unread.append(item)
            else:
                self._add_comparable(item, item.content_hash)

    def read(self, content_hash: ContentHash, load_id: int) -> None:
        """Hash, once, the files of the items that may still be named."""
        for item in self._unread:
            found = content_hash(item.path) if item.load_id != load_id else None
            if found is not None:
                self._add_comparable(item, found)
            elif item.may_be_appended:
                self._unknown.add(item)
        self._unread.clear()

    def find(self, content_hash: str | None, load_id: int, *, not_of: str) -> ExistingItem | Unread | None:
        """Find the first item of this content that this load has not named and whose path is not ``not_of``."""
        same = self._by_hash.get(content_hash or "")
        item = same.first(load_id, not_of=not_of) if same is not None else None
        if item is None and self._unknown.first(load_id, not_of=not_of) is not None:
            return Unread.ITEM
        return item

    def _add_comparable(self, item: ExistingItem, content_hash: str) -> None:
        self.comparable.add(item)
        self._by_hash[content_hash].add(item)


class Items:
    """The items of one lane that rows may name, indexed by path, and by size and content.

    A look-up costs the same however many items there are: a conversation may hold thousands of one size.
    """

    def __init__(self, items: Iterable[ExistingItem] = ()) -> None:
        self._of_path: defaultdict[str, list[ExistingItem]] = defaultdict(list)
        self._of_size: defaultdict[int, list[ExistingItem]] = defaultdict(list)
        self._paths: dict[str, _OnePath | _OneItem] = {}
        self._sizes: dict[int, _OneSize] = {}
        for item in items:
            self.add(item)

    def add(self, item: ExistingItem) -> None:
        """Add an item; all are added before the first look-up."""
        self._of_path[without_signature(item.path)].append(item)
        self._of_size[item.size].append(item)

    def own(self, path: str) -> _OnePath | _OneItem:
        """Return the items of this path, or of this address however it is signed."""
        path = without_signature(path)
        items = self._of_path.get(path)
        if items is None:
            return _NO_ITEMS
        if path not in self._paths:
            self._paths[path] = _OneItem(items[0]) if len(items) == 1 else _OnePath(items)
        return self._paths[path]

    def others(self, path: str, size: int, load_id: int) -> _OneSize | None:
        """Return the items of this size; None where no other path has one that this load has not named."""
        items = self._of_size.get(size)
        if items is None or (len(items) == 1 and (items[0].path == path or items[0].load_id == load_id)):
            return None
        if size not in self._sizes:
            self._sizes[size] = _OneSize(items)
        found = self._sizes[size]
        if found.paths == {path} or found.all.first(load_id, not_of=path) is None:
            return None
        return found


def find(
    path: str,
    signature: FileSignature | None,
    known: Items,
    load_id: int,
    content_hash: ContentHash,
) -> ExistingItem | Unread | None:
    """Find the existing item that a row names (design: the same item); None where the row is a new item.

    Where only a comparison could tell, and a file could not be read for it, the answer is which one that was: taken for
    a new item, audio that was appended would be appended again.

    Args:
        path: The row's file.
        signature: The file's signature; None where the file is gone.
        known: The items of the row's lane that share its size or its path.
        load_id: The load under way. An item that it has named is another row's: a second row with the same audio is a
            second item.
        content_hash: Hashes a file; called only where the row's size equals that of an existing item.
    """
    own = known.own(path)
    if signature is None:
        # people archive files once they were sent: then the path alone names the item, the newest load's first
        return own.begun(load_id)
    size, change = signature
    alike = own.alike(size, load_id)
    ours = _our_hash(path, [item.content_hash for item in alike if item.change == change], content_hash)
    # among equal files each row keeps the item of its own path: the other file may be gone by now
    mine = [item for item in alike if _is_of_file(item, change, ours)]
    if mine:
        return min(mine, key=_turn)
    is_compared = any(item.content_hash is not None and not item.is_unsent for item in alike)
    others = known.others(path, size, load_id)
    if others is not None:
        others.read(content_hash, load_id)
        is_compared = is_compared or others.comparable.first(load_id, not_of=path) is not None
    content = ours() if is_compared else None
    if is_compared and content is None:
        return Unread.ROW
    other = others.find(content, load_id, not_of=path) if others is not None else None
    # nothing was appended of the unsent items: they take the file's present content, where no other item has it
    return other or own.unsent(load_id)


def is_untouched(item: ExistingItem, row: Row) -> bool:
    """Compare a row's file with the one that the item was loaded from, by path, size and change."""
    return row.signature is not None and item.path == row.path and (item.size, item.change) == row.signature


def is_corrected(item: ExistingItem, row: Row, content_hash: ContentHash) -> bool:
    """Return True where a row changes the file, type or parameters of the refused item that it names.

    The item may then be sent again: nothing was appended when it was refused, so nothing can be appended twice.
    """
    if item.state is not State.REFUSED or row.signature is None:
        return False
    # the check of the file, which has just passed, is the correction
    if item.is_refused_for_file:
        return True
    retyped = row.content_type is not None and row.content_type != item.content_type
    if retyped or dict(item.parameters) != dict(row.parameters) or item.size != row.signature.size:
        return True
    # a new modification time alone corrects nothing that the service refused
    if item.content_hash is None or is_untouched(item, row):
        return False
    return item.content_hash != content_hash(row.path)


def _is_of_file(item: ExistingItem, change: str, ours: Callable[[], str | None]) -> bool:
    """Return True where an item of a row's path and size is that of its file."""
    if item.change == change:
        return True
    if item.content_hash is not None:
        return item.content_hash == ours()
    # an item adopted from results while its file was gone has no hash: path and size must be enough
    return item.may_be_appended


def _our_hash(path: str, known: Iterable[str | None], content_hash: ContentHash) -> Callable[[], str | None]:
    """Make the function that returns the hash of the row's file: the known one where the file is untouched."""
    return lambda: next((content for content in known if content), None) or content_hash(path)


def _turn(item: ExistingItem) -> tuple[bool, int]:
    """Return the sort key of lane order: begun items first, then by position."""
    return not item.attempts, item.position
