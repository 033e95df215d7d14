"""The virtual-time loop: its clock jumps, its order is asyncio's but for woken tasks, and nothing of the machine is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from copyd.sim.wire.loop import START_S, Stuck, VirtualLoop


def run(main: Callable[[VirtualLoop], Any], pick: Callable[[int], int] | None = None) -> Any:
    """The result of a coroutine function on a fresh loop."""
    loop = VirtualLoop(pick)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_an_hour_takes_no_time() -> None:
    """Time is the next timer's when nothing else is to be done."""

    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(3_600)
        return loop.time()

    assert run(main) == START_S + 3_600


def test_timers_of_one_moment_come_in_the_order_they_were_set() -> None:
    """Also when some of them were cancelled."""

    async def main(loop: VirtualLoop) -> list[int]:
        came: list[int] = []
        timers = [loop.call_later(1.0, came.append, n) for n in range(20)]
        for timer in timers[::3]:
            timer.cancel()
        await asyncio.sleep(2.0)
        return came

    assert run(main) == [n for n in range(20) if n % 3]


def test_protocol_callbacks_keep_their_order_whatever_is_drawn() -> None:
    """asyncio promises first come, first served; only tasks woken in the same turn change places."""

    async def main(loop: VirtualLoop) -> tuple[list[int], list[int]]:
        calls: list[int] = []
        tasks: list[int] = []

        async def task(n: int) -> None:
            tasks.append(n)

        made = []
        for n in range(10):
            loop.call_soon(calls.append, n)
            made.append(loop.create_task(task(n)))
        await asyncio.gather(*made)
        return calls, tasks

    drawn = iter([0, 3, 1, 2, 0, 1] * 50)
    calls, tasks = run(main, lambda n: next(drawn) % n)
    assert calls == list(range(10))
    assert tasks != calls and sorted(tasks) == calls
    assert run(main)[1] == calls


def test_a_world_in_which_nothing_will_happen_is_said() -> None:
    """Instead of waiting for ever."""

    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        run(main)


def test_a_world_that_does_not_come_to_rest_is_said() -> None:
    """A loop that only turns is a finding too."""

    async def main(loop: VirtualLoop) -> None:
        loop.steps_max = 1_000
        for _ in range(10_000):
            await asyncio.sleep(0)

    with pytest.raises(Stuck):
        run(main)


def test_no_thread_is_started() -> None:
    """What asks for one would break determinism."""

    async def main(loop: VirtualLoop) -> None:
        await asyncio.to_thread(int)

    with pytest.raises(Stuck):
        run(main)


def test_what_fell_due_during_a_stall_comes_late_and_in_order() -> None:
    """As after a process that did not turn."""

    async def main(loop: VirtualLoop) -> list[tuple[int, float]]:
        came: list[tuple[int, float]] = []
        for n in range(3):
            loop.call_later(1.0 + n, lambda n=n: came.append((n, loop.time() - START_S)))
        loop.call_later(0.5, loop.stall, 10.0)
        await asyncio.sleep(20)
        return came

    assert run(main) == [(0, 10.5), (1, 10.5), (2, 10.5)]


def test_a_set_of_tasks_is_walked_alike_wherever_they_lie_in_memory() -> None:
    """Programs cancel sets of tasks; in which order is seen, so it follows from the order of making."""

    async def main(loop: VirtualLoop) -> list[str]:
        tasks = {loop.create_task(asyncio.sleep(1), name=f"t{n}") for n in range(50)}
        names = [task.get_name() for task in tasks]
        await asyncio.gather(*tasks)
        return names

    first = run(main)
    kept = [object() for _ in range(10_000)]
    assert run(main) == first
    del kept
