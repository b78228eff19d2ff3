"""Decides whether a row of a manifest is an item that the ledger already knows (design: the same item)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uploader.model import FileSignature, State

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


def find(
    path: Path,
    signature: FileSignature | None,
    known: Iterable[Known],
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
    free = [item for item in known if item.load_id != load_id]
    if signature is None:
        return _begun(free, path)
    same_size = [item for item in free if item.size == signature.size]
    ours = _our_hash(path, signature, same_size, content_hash)
    same = [item for item in same_size if _same_content(item, path, signature, content_hash, ours)]
    own = [item for item in free if item.path == str(path)]
    # nothing of it was appended as far as its content is not known
    unknown = [item for item in own if item in same_size and item.content_hash is None]
    waiting = [item for item in own if item.state is State.PENDING]
    # of equal files each row keeps the item of its own path: the other's file may be gone by now; an item that
    # waits takes what its file holds by now only where no other item is that content already
    own_and_same = [item for item in same if item in own]
    return _first(own_and_same) or _first(same) or _first(unknown) or _first(waiting)


def _our_hash(
    path: Path, signature: FileSignature, same_size: Sequence[Known], content_hash: ContentHash
) -> Callable[[], str | None]:
    """The hash of the row's file: the one that is known of the untouched file, else by reading it."""
    known = [item.content_hash for item in same_size if _is_untouched(item, path, signature)]
    return lambda: next((one for one in known if one), None) or content_hash(path)


def _is_untouched(item: Known, path: Path, signature: FileSignature) -> bool:
    return item.path == str(path) and item.change == signature.change


def _begun(free: Sequence[Known], path: Path) -> Known | None:
    """People archive what was sent: the path alone names the item then, the newest load's first."""
    begun = [item for item in free if item.path == str(path) and item.attempts]
    newest = max((item.load_id for item in begun), default=0)
    return _first([item for item in begun if item.load_id == newest])


def _first(items: Sequence[Known]) -> Known | None:
    """The first in the lane, those that were begun before those that were not."""
    return min(items, key=lambda item: (not item.attempts, item.position), default=None)


def _same_content(
    item: Known,
    path: Path,
    signature: FileSignature,
    content_hash: ContentHash,
    ours: Callable[[], str | None],
) -> bool:
    if _is_untouched(item, path, signature):
        return True
    theirs = item.content_hash
    if theirs is None and item.path != str(path):
        theirs = content_hash(Path(item.path))
    return theirs is not None and theirs == ours()
