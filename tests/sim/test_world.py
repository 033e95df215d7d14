"""World: events come in order of time, die with their owner, and wait for one that stands still."""

from __future__ import annotations

import pytest

from copyd.sim.draws import Draws
from copyd.sim.world import START, Crash, Looping, S, World


class Owner:
    """A process to which events belong."""

    index = 0
    dirty = False

    def __init__(self) -> None:
        self.alive, self.stalled_until, self.died = True, 0, False

    def crashpoint(self, name: str) -> None:
        pass

    def crashed(self) -> None:
        self.alive, self.died = False, True

    def settle(self) -> None:
        pass


def world() -> World:
    return World(Draws(0))


def test_events_happen_in_order_of_time_and_of_asking() -> None:
    w, seen = world(), []
    for name, at in (("late", 3), ("first", 1), ("second", 1), ("middle", 2)):
        w.at(START + at, None, seen.append, name)
    w.run(START + 10)
    assert seen == ["first", "second", "middle", "late"]
    assert w.now == START + 10 and w.steps == 4


def test_nothing_later_than_asked_for_happens() -> None:
    w, seen = world(), []
    w.at(START + 5, None, seen.append, 1)
    w.run(START + 4)
    assert not seen
    w.run(START + 5)
    assert seen == [1]


def test_what_belongs_to_a_dead_process_is_dropped() -> None:
    w, seen, owner = world(), [], Owner()
    w.at(START + 1, owner, seen.append, 1)
    w.at(START + 1, None, seen.append, 2)
    owner.alive = False
    w.run(START + 2)
    assert seen == [2]


def test_a_process_that_stands_still_gets_its_events_later_in_order() -> None:
    w, seen, owner = world(), [], Owner()
    owner.stalled_until = START + S
    w.at(START + 2, owner, seen.append, "a")
    w.at(START + 3, owner, seen.append, "b")
    w.run(START + S - 1)
    assert not seen
    w.run(START + S)
    assert seen == ["a", "b"]


def test_a_crash_ends_the_owner_and_not_the_world() -> None:
    def die() -> None:
        raise Crash("here")

    w, seen, owner = world(), [], Owner()
    w.at(START + 1, owner, die)
    w.at(START + 2, None, seen.append, 1)
    w.run(START + 3)
    assert owner.died and seen == [1]


def test_a_world_in_which_time_stands_still_is_said_to_loop() -> None:
    w = world()

    def again() -> None:
        w.at(w.now, None, again)

    again()
    with pytest.raises(Looping):
        w.run(START + S, 100)


def test_the_digest_depends_on_what_was_marked() -> None:
    one, two = world(), world()
    one.mark(b"a")
    two.mark(b"b")
    assert one.digest() != two.digest()
