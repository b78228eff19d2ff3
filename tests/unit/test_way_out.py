"""Leave for so many at once: first come, first served, and who goes away takes no turn with him."""

import asyncio

import pytest

from uploader.policy.brake import Brake, Phase
from uploader.way_out import Leave, WayOut


class Door:
    """A leave that so many may have, until it is closed."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.is_closed = False
        self.leave = Leave(lambda: self.leave.taken < self.places, lambda: self.is_closed)

    async def waiting(self, count: int) -> list["asyncio.Task[bool]"]:
        """So many that want leave, each after the other, as far as they come by themselves."""
        tasks = [asyncio.create_task(self.leave.take()) for _ in range(count)]
        await settled()
        return tasks


async def settled() -> None:
    """Let everybody go as far as he comes."""
    for _ in range(5):
        await asyncio.sleep(0)


def answers(tasks: list["asyncio.Task[bool]"]) -> list[bool | None]:
    """What each was answered, None where he waits still."""
    return [task.result() if task.done() and not task.cancelled() else None for task in tasks]


async def test_leave_goes_to_those_who_came_first() -> None:
    """Two places and four that want one: each that is given back goes to the next, and to nobody else."""
    door = Door(2)
    tasks = await door.waiting(4)
    assert answers(tasks) == [True, True, None, None]
    door.leave.taken -= 1
    late = asyncio.create_task(door.leave.take())
    await settled()
    assert answers([*tasks, late]) == [True, True, None, None, None]
    door.leave.look()
    await settled()
    assert answers([*tasks, late]) == [True, True, True, None, None]
    door.places = 4
    door.leave.look()
    assert await asyncio.gather(*tasks, late) == [True] * 5
    assert door.leave.taken == 4


async def test_nobody_waits_at_a_closed_door() -> None:
    """Who waits is told no once it is closed, who comes later at once; nobody of them has leave."""
    door = Door(1)
    tasks = await door.waiting(3)
    door.is_closed = True
    door.leave.look()
    assert await asyncio.gather(*tasks) == [True, False, False]
    assert await door.leave.take() is False
    assert door.leave.taken == 1


@pytest.mark.parametrize("given", [False, True], ids=["while it waits", "once it has leave"])
async def test_who_goes_away_takes_no_turn(given: bool) -> None:
    """One that is cancelled, even between the leave and its next step, leaves the place to the one behind."""
    door = Door(1)
    tasks = await door.waiting(3)
    if given:
        door.leave.taken -= 1
        door.leave.look()
    tasks[1].cancel()
    await settled()
    if not given:
        door.leave.taken -= 1
        door.leave.look()
    await settled()
    assert answers(tasks) == [True, None, True]
    assert door.leave.taken == 1


async def test_no_more_are_out_than_the_brake_allows_however_many_are_marked_ahead() -> None:
    """A disk slower than the service lets marks run ahead; five are out without an answer all the same."""
    way_out = WayOut()
    way_out.answered(Brake(refusal=None), None, 0.0)
    assert [await way_out.to_mark.take() for _ in range(5)] == [True] * 5
    sixth = asyncio.create_task(way_out.to_mark.take())
    for _ in range(5):
        way_out.marked(0.02)
        assert await way_out.to_go.take()
        way_out.to_mark.taken -= 1
    way_out.answered(Brake(refusal=None), way_out.to_go, 0.005)
    assert await sixth
    assert [await way_out.to_mark.take() for _ in range(15)] == [True] * 15
    assert await way_out.to_go.take()
    out = asyncio.create_task(way_out.to_go.take())
    await settled()
    assert not out.done()
    assert way_out.to_go.taken == 5
    way_out.set_brake(Brake(phase=Phase.PROBING))
    assert await out is False
