"""Decides whether a row of a manifest is an item that the ledger already knows (design: the same item)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from uploader.model import FileSignature, Row, State

ContentHash = Callable[[str], str | None]
"""Hashes a file's content; None where it cannot be read."""


@dataclass(slots=True)
class ExistingItem:
    """What the ledger knows of an item, as far as it tells items apart."""

    item_id: int
    lane_id: int
    path: str
    size: int
    change: str | None
    content_hash: str | None
    state: State
    attempts: int
    position: int
    load_id: int
    """The load that named it last."""
    content_type: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_refused_for_file: bool = False
    """Whether it was refused because its file could not be read or had changed; the service did not refuse it."""

    @property
    def is_unsent(self) -> bool:
        """Whether nothing of it was appended, so that it may take what its file holds by now."""
        return self.state in (State.PENDING, State.REFUSED)

    @property
    def may_be_appended(self) -> bool:
        """Whether its audio was appended, or may have been."""
        return not self.is_unsent and self.state is not State.DROPPED


class _Queue:
    """Items in the order in which rows take them; those that a load has named are passed over."""

    def __init__(self) -> None:
        self._items: list[ExistingItem] = []
        self._first = 0
        self._is_sorted = True

    def add(self, item: ExistingItem) -> None:
        self._items.append(item)
        self._is_sorted = False

    def first(self, load_id: int, *, not_of: str = "") -> ExistingItem | None:
        """Return the first item that this load has not named, of any path but one."""
        return next((item for item in self.open(load_id) if item.path != not_of), None)

    def open(self, load_id: int) -> Iterator[ExistingItem]:
        """Yield the items that this load has not named; the named ones in front are skipped for good."""
        if not self._is_sorted:
            self._items.sort(key=_turn)
            self._first, self._is_sorted = 0, True
        items = self._items
        while self._first < len(items) and items[self._first].load_id == load_id:
            self._first += 1
        return (item for item in islice(items, self._first, None) if item.load_id != load_id)


class _OnePath:
    """Items of one path: by size, hash and change; those that were begun by load; those of which nothing went."""

    def __init__(self, items: Iterable[ExistingItem] = ()) -> None:
        self.alike: defaultdict[tuple[int, str | None, str | None, bool], _Queue] = defaultdict(_Queue)
        self.begun: defaultdict[int, _Queue] = defaultdict(_Queue)
        self.unsent = _Queue()
        for item in items:
            self.alike[item.size, item.content_hash, item.change, item.may_be_appended].add(item)
            if item.attempts:
                self.begun[item.load_id].add(item)
            if item.is_unsent:
                self.unsent.add(item)


_NO_ITEMS = _OnePath()


class _OneSize:
    """Items of one size by their hash; those whose hash is not known yet wait in ``unread``."""

    def __init__(self, items: Iterable[ExistingItem]) -> None:
        self.all = _Queue()
        self.paths: set[str] = set()
        self.unread: list[ExistingItem] = []
        self.by_hash: defaultdict[str, _Queue] = defaultdict(_Queue)
        for item in items:
            self.all.add(item)
            self.paths.add(item.path)
            if item.content_hash is None:
                self.unread.append(item)
            else:
                self.by_hash[item.content_hash].add(item)

    def read(self, content_hash: ContentHash, load_id: int) -> Mapping[str, _Queue]:
        """Return the items by hash; the files of those that may still be named are hashed once."""
        for item in self.unread:
            found = content_hash(item.path) if item.load_id != load_id else None
            if found is not None:
                self.by_hash[found].add(item)
        self.unread.clear()
        return self.by_hash


class Items:
    """Items of one lane that rows may name, found by path, and by size and content.

    Every question costs the same however many items there are: a conversation may hold thousands of one size.
    """

    def __init__(self, items: Iterable[ExistingItem] = ()) -> None:
        self._of_path: defaultdict[str, list[ExistingItem]] = defaultdict(list)
        self._of_size: defaultdict[int, list[ExistingItem]] = defaultdict(list)
        self._paths: dict[str, _OnePath] = {}
        self._sizes: dict[int, _OneSize] = {}
        for item in items:
            self.add(item)

    def add(self, item: ExistingItem) -> None:
        """Add an item, before anything is asked."""
        self._of_path[item.path].append(item)
        self._of_size[item.size].append(item)

    def own(self, path: str) -> _OnePath:
        """Items of this path."""
        if path not in self._of_path:
            return _NO_ITEMS
        if path not in self._paths:
            self._paths[path] = _OnePath(self._of_path[path])
        return self._paths[path]

    def others(self, path: str, size: int, load_id: int) -> _OneSize | None:
        """Items of this size, None where no other path has one that this load has not named."""
        if size not in self._of_size:
            return None
        if size not in self._sizes:
            self._sizes[size] = _OneSize(self._of_size[size])
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
) -> ExistingItem | None:
    """Find the item that a row names, None where it is a new one.

    Args:
        path: Where the row's file is.
        signature: What the file system says of it, None where it is gone.
        known: The items of the row's lane that share its size or its path.
        load_id: The load under way: what it has named already is another row's item (the second row with
            the same audio is meant, and is a second item).
        content_hash: Hashes a file; asked only where a size meets one that is known.
    """
    own = known.own(path)
    if signature is None:
        # people archive what was sent: the path alone names the item then, the newest load's first
        newest = (own.begun[load].first(load_id) for load in sorted(own.begun, reverse=True) if load != load_id)
        return next((item for item in newest if item is not None), None)
    alike = [
        (change == signature.change, found, item)
        for (size, found, change, _), queue in own.alike.items()
        if size == signature.size and (item := queue.first(load_id)) is not None
    ]
    ours = _our_hash(path, [found for untouched, found, _ in alike if untouched], content_hash)
    # of equal files each row keeps the item of its own path: the other's file may be gone by now
    mine = [
        item
        for untouched, found, item in alike
        # of what was taken from results while its file was gone no content is known: path and size have to do
        if untouched or (found is not None and found == ours()) or (found is None and item.may_be_appended)
    ]
    if mine:
        return min(mine, key=_turn)
    others = known.others(path, signature.size, load_id)
    by_hash = others.read(content_hash, load_id) if others is not None else {}
    same = by_hash.get(ours() or "") if by_hash else None
    # nothing of these was appended: they take what the file holds by now, where no other item is that content
    return (same.first(load_id, not_of=path) if same is not None else None) or own.unsent.first(load_id)


def is_untouched(item: ExistingItem, row: Row) -> bool:
    """Whether a row's file is, by path, size and change, the one that the item was loaded from."""
    return row.signature is not None and item.path == row.path and (item.size, item.change) == row.signature


def is_corrected(item: ExistingItem, row: Row, content_hash: ContentHash) -> bool:
    """Whether a row mends the refused item that it names: another file, type or parameters; then it may go again.

    Nothing was appended of what was refused, so that nothing can be appended twice. What the service refused is not
    mended by a file that was touched alone, or of which it is not known what it held; what was refused for the file's
    sake is mended by the check of the file that has just passed.
    """
    if item.state is not State.REFUSED or row.signature is None:
        return False
    if item.is_refused_for_file:
        return True
    retyped = row.content_type is not None and row.content_type != item.content_type
    if retyped or dict(item.parameters) != dict(row.parameters) or item.size != row.signature.size:
        return True
    if item.content_hash is None or is_untouched(item, row):
        return False
    return item.content_hash != content_hash(row.path)


def _our_hash(path: str, known: Iterable[str | None], content_hash: ContentHash) -> Callable[[], str | None]:
    """Return the hash of the row's file: the one that is known of the untouched file, else by reading it."""
    return lambda: next((one for one in known if one), None) or content_hash(path)


def _turn(item: ExistingItem) -> tuple[bool, int]:
    """Sort key: the first in the lane, items that were begun before items that were not."""
    return not item.attempts, item.position
