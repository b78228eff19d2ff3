"""The part of an account's slots that each of its workers may fill, where several share it."""

from collections.abc import Sequence
from typing import NamedTuple

# a body that is under way for longer shows that its worker may not fill its part
LATE_SECONDS = 2.5


class Holding(NamedTuple):
    """A worker's use of its account."""

    worker_id: int
    # admitted uploads and live jobs; where uploads count as jobs, all its uploads
    live: int
    # attempts under way that have no admission
    sending: int
    # it looks for work: one that does not leaves its part to the others
    looks: bool
    # of its attempts under way those that began more than LATE_SECONDS ago
    late: int = 0


class Share(NamedTuple):
    """The slots that a worker may take, as far as they are not taken by its own jobs."""

    # of all slots those that are its own as long as all look for work, and as long as it fills them
    part: int
    # those that its bodies under way are meant for, beside the slots of its own jobs
    room: int


def share_of(worker_id: int, holdings: Sequence[Holding], in_force: int, live: int, sending: int) -> Share:
    """Return a worker's share of the account's slots; alone it has all of them.

    All parts together are the slots that the workers that look for work have, or may have. A worker above its part
    begins nothing for the slots that its jobs free, until it is down to its part: these are for whoever looks first.

    Args:
        holdings: The account's workers, itself included.
        live: The slots that are taken, whoever has them.
        sending: The account's attempts that have no admission.
    """
    sharing = sorted(held for held in holdings if held.looks or held.worker_id == worker_id)
    ids = [held.worker_id for held in sharing]
    own = sharing[ids.index(worker_id)]
    of_nobody = live - sum(held.live for held in sharing)
    part = _parts(max(in_force - of_nobody, 0), [_most(held, in_force) for held in sharing])[ids.index(worker_id)]
    free = in_force - live
    # bodies of others may be meant for the free slots, or for those of their own jobs, which nobody else foresees: of
    # slots that are not free beyond all these bodies, a worker tries as many as it has already, so that it has its
    # part after a few steps, and few bodies have waited in vain
    room = max(free - (sending - own.sending), min(free, max(own.live, 1)))
    return Share(part, min(room, part - own.live))


def _most(held: Holding, in_force: int) -> int:
    """Return the largest part that a worker may have.

    One whose bodies are late, behind a slow uplink or a low rate, earns its part by the slots that it fills: it would
    keep the others from those that it leaves idle. Bodies are late, too, where they wait for a slot: of a worker that
    fills half of its part or more this takes nothing.
    """
    return 2 * held.live + 1 if held.late else in_force


def _parts(slots: int, mosts: Sequence[int]) -> list[int]:
    """Divide slots equally; those beyond a worker's most go to the others, or to all where nobody may have them."""
    parts, sharing = [0] * len(mosts), list(range(len(mosts)))
    while True:
        least, left = divmod(slots, len(sharing))
        for place, index in enumerate(sharing):
            parts[index] = least + (place < left)
        below = [index for index in sharing if parts[index] <= mosts[index]]
        if len(below) in (0, len(sharing)):
            return parts
        for index in set(sharing) - set(below):
            parts[index] = mosts[index]
            slots -= mosts[index]
        sharing = below
