"""Decides whether a row of a manifest is an item that the ledger already knows (design: the same item)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uploader.model import FileSignature, Row, State

ContentHash = Callable[[Path], str | None]
"""Hashes a file's content; None where it cannot be read."""


@dataclass(slots=True)
class Known:
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


class Items:
    """Items of one lane that rows may name, found by path and by size."""

    def __init__(self, items: Iterable[Known] = ()) -> None:
        self._by_path: defaultdict[str, list[Known]] = defaultdict(list)
        self._by_size: defaultdict[int, list[Known]] = defaultdict(list)
        for item in items:
            self.add(item)

    def add(self, item: Known) -> None:
        """One more item."""
        self._by_path[item.path].append(item)
        self._by_size[item.size].append(item)

    def own(self, path: Path, load_id: int) -> list[Known]:
        """Those of this path that this load has not named yet."""
        return [item for item in self._by_path.get(str(path), ()) if item.load_id != load_id]

    def others(self, path: Path, size: int, load_id: int) -> list[Known]:
        """Those of another path and this size that this load has not named yet."""
        found = self._by_size.get(size, ())
        return [item for item in found if item.load_id != load_id and item.path != str(path)]


def find(
    path: Path,
    signature: FileSignature | None,
    known: Items,
    load_id: int,
    content_hash: ContentHash,
) -> Known | None:
    """Find the item that a row names, None where it is a new one.

    Args:
        path: Where the row's file is.
        signature: What the file system says of it, None where it is gone.
        known: The items of the row's lane that share its size or its path.
        load_id: The load under way: what it has named already is another row's item (the second row with
            the same audio is meant, and is a second item).
        content_hash: Hashes a file; asked only where a size meets one that is known.
    """
    own = known.own(path, load_id)
    if signature is None:
        return _begun(own)
    own_sized = [item for item in own if item.size == signature.size]
    ours = _our_hash(path, signature, own_sized, content_hash)
    # of equal files each row keeps the item of its own path: the other's file may be gone by now
    mine = [item for item in own_sized if _is_untouched(item, signature) or _is_ours(item.content_hash, ours)]
    if mine:
        return _first(mine)
    others = known.others(path, signature.size, load_id)
    same = [item for item in others if _is_ours(item.content_hash or content_hash(Path(item.path)), ours)]
    # nothing of these was appended: they take what the file holds by now, where no other item is that content
    return _first(same) or _first([item for item in own if item.state in (State.PENDING, State.REFUSED)])


def is_corrected(item: Known, row: Row, content_hash: ContentHash) -> bool:
    """Whether a row mends the refused item that it names: another file, type or parameters; then it may go again.

    Nothing was appended of what was refused, so that nothing can be appended twice. A file that was touched alone,
    or of which it is not known what it held, mends nothing.
    """
    if item.state is not State.REFUSED or row.signature is None:
        return False
    retyped = row.content_type is not None and row.content_type != item.content_type
    if retyped or dict(item.parameters) != dict(row.parameters) or item.size != row.signature.size:
        return True
    if item.content_hash is None or (item.path == str(row.path) and item.change == row.signature.change):
        return False
    return item.content_hash != content_hash(row.path)


def _our_hash(
    path: Path, signature: FileSignature, own: Sequence[Known], content_hash: ContentHash
) -> Callable[[], str | None]:
    """The hash of the row's file: the one that is known of the untouched file, else by reading it."""
    known = [item.content_hash for item in own if _is_untouched(item, signature)]
    return lambda: next((one for one in known if one), None) or content_hash(path)


def _is_ours(theirs: str | None, ours: Callable[[], str | None]) -> bool:
    """Whether a hash is that of the row's file, which is read only where there is one to compare it with."""
    return theirs is not None and theirs == ours()


def _is_untouched(item: Known, signature: FileSignature) -> bool:
    return item.change == signature.change


def _begun(own: Sequence[Known]) -> Known | None:
    """People archive what was sent: the path alone names the item then, the newest load's first."""
    begun = [item for item in own if item.attempts]
    newest = max((item.load_id for item in begun), default=0)
    return _first([item for item in begun if item.load_id == newest])


def _first(items: Sequence[Known]) -> Known | None:
    """The first in the lane, those that were begun before those that were not."""
    return min(items, key=lambda item: (not item.attempts, item.position), default=None)
