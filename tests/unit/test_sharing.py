"""The part of an account's slots that each of its workers may fill: pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.sharing import Holding, Share, share_of


def held(worker_id: int, live: int, sending: int = 0, *, late: int = 0, looks: bool = True) -> Holding:
    """Build what a worker has, which looks for work."""
    return Holding(worker_id, live, sending, looks, late)


def share(worker_id: int, workers: list[Holding], in_force: int, of_nobody: int = 0) -> Share:
    """Return the share of a worker, of an account where so many slots are of doubts or of ended workers."""
    live = of_nobody + sum(worker.live for worker in workers)
    return share_of(worker_id, workers, in_force, live, sum(worker.sending for worker in workers))


@pytest.mark.parametrize(
    ("workers", "in_force", "of_nobody", "part", "room"),
    [
        pytest.param([held(1, 3, 2)], 10, 1, 9, 6, id="alone: all that is free, its own bodies included"),
        pytest.param([held(1, 0), held(2, 50)], 50, 0, 25, 0, id="another has all: nothing, until a slot is free"),
        pytest.param([held(1, 50), held(2, 0)], 50, 0, 25, -25, id="above its part: its ends are for the other"),
        pytest.param([held(1, 0), held(2, 40)], 50, 0, 25, 10, id="free, and meant for nobody"),
        pytest.param([held(1, 0), held(2, 20, 30)], 50, 0, 25, 1, id="the other's bodies may be meant for them: one"),
        pytest.param([held(1, 4), held(2, 20, 30)], 50, 0, 25, 4, id="as many as it has jobs, the next time"),
        pytest.param([held(1, 20), held(2, 20, 30)], 50, 0, 25, 5, id="up to its part"),
        pytest.param([held(1, 25, 3), held(2, 25, 3)], 50, 0, 25, 0, id="both have their part, and bodies ahead"),
        pytest.param([held(1, 24, 3), held(2, 25, 3)], 50, 0, 25, 1, id="a job has ended before its body was there"),
        pytest.param([held(1, 25), held(2, 0, looks=False)], 50, 0, 50, 25, id="the other looks for nothing"),
        pytest.param([held(1, 25), held(2, 20, looks=False)], 50, 0, 30, 5, id="nor for more than it has"),
        pytest.param([held(1, 0, looks=False), held(2, 9)], 10, 0, 5, 1, id="a worker that claims looks for work"),
        pytest.param([held(2, 0), held(1, 1)], 1, 0, 0, 0, id="fewer slots than workers: the first has them"),
        pytest.param([held(1, 0), held(2, 1)], 1, 0, 1, 0, id="once they are free"),
        pytest.param([held(1, 7), held(2, 7), held(3, 0)], 20, 3, 6, -1, id="what is left over is the first ones'"),
        pytest.param([held(1, 4), held(2, 0, 4, late=1)], 8, 0, 7, 3, id="the other cannot fill its part"),
        pytest.param([held(2, 0, 4, late=1), held(1, 4)], 8, 0, 1, 1, id="one that does not may have one"),
        pytest.param([held(2, 1, 3, late=1), held(1, 7)], 8, 0, 3, 0, id="and earns its part by the slots it fills"),
        pytest.param([held(2, 2, 2, late=1), held(1, 6)], 8, 0, 4, 0, id="up to its whole part"),
        pytest.param([held(1, 4), held(2, 0, 4)], 8, 0, 4, 0, id="its bodies are not late yet"),
        pytest.param([held(1, 4, 4, late=4), held(2, 4, 4, late=4)], 8, 0, 4, 0, id="bodies of both wait for slots"),
        pytest.param([held(1, 0, 4, late=4), held(2, 0, 4, late=4)], 8, 0, 4, 4, id="both have the same slow line"),
        pytest.param([held(1, 2), held(2, 0, 3, late=3), held(3, 4)], 9, 0, 4, 2, id="shared by those that can"),
        pytest.param([held(2, 0, late=1), held(1, 1, late=1)], 1, 0, 0, 0, id="late, and fewer slots than workers"),
        pytest.param([held(1, 5), held(2, 5)], 4, 0, 2, -6, id="the limit has fallen: nobody begins anything"),
    ],
)
def test_a_worker_fills_its_part_of_the_slots(
    workers: list[Holding], in_force: int, of_nobody: int, part: int, room: int
) -> None:
    """The first of the workers listed: its part, and the slots that it may send bodies for."""
    assert share(workers[0].worker_id, workers, in_force, of_nobody) == (part, room)


WORKERS = st.lists(
    st.builds(
        Holding,
        st.just(0),
        st.integers(0, 9),
        st.integers(0, 9),
        st.booleans(),
        st.one_of(st.just(0), st.integers(1, 9)),
    ),
    min_size=1,
    max_size=6,
)


@given(WORKERS, st.integers(0, 60), st.integers(0, 5))
def test_all_parts_together_are_all_slots(drawn: list[Holding], in_force: int, of_nobody: int) -> None:
    """Nothing is left idle, nothing is shared out twice, nobody fills more than is free, nor all of them together."""
    # where nobody looks, whoever claims counts as one that does
    workers = [worker._replace(worker_id=number) for number, worker in enumerate(drawn)]
    workers[0] = workers[0]._replace(looks=True)
    shares = {worker.worker_id: share(worker.worker_id, workers, in_force, of_nobody) for worker in workers}
    parts = [shares[worker.worker_id].part for worker in workers if worker.looks]
    others = of_nobody + sum(worker.live for worker in workers if not worker.looks)
    assert sum(parts) == max(in_force - others, 0)
    # a part is smaller by two than another only where its worker has not earned it
    assert all(
        shares[worker.worker_id].part >= max(parts) - 1
        or (worker.late and shares[worker.worker_id].part > 2 * worker.live)
        for worker in workers
        if worker.looks
    )
    free = in_force - of_nobody - sum(worker.live for worker in workers)
    assert all(found.room <= free for found in shares.values())
    # a worker above its part leaves its own ends to the others, beside what is free now
    rooms = sum(shares[worker.worker_id].room for worker in workers if worker.looks)
    assert rooms <= (free if in_force >= others else 0)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
def test_a_worker_alone_fills_all_that_is_free(in_force: int, live: int, sending: int) -> None:
    """With nobody else there is nothing to share."""
    assert share(1, [held(1, live, sending)], in_force) == (in_force, in_force - live)
