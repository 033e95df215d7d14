"""The daemon copies; what control does is seen on real orders."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.harness import Stage, proportional


def test_open_add_reduce_flip_flat(stage: Callable[..., Stage]) -> None:
    """Rules 1-5 on real sockets: every leg where the rule puts it after each leader order."""
    s = stage(3)
    allocations = [1000, 1500, 3700]
    s.start(s.plan(i, allocation=str(a)) for i, a in enumerate(allocations))
    path: list[int] = []
    leader = 0
    for side, quantity in ((1, 1500), (1, 500), (-1, 300), (1, 800), (-1, 2500)):
        (s.leader.buy if side > 0 else s.leader.sell)(f"{quantity / 1000:.3f}")
        leader += side * quantity
        path.append(leader)
        s.holds({name: proportional(*path, allocation=a) for name, a in zip(s.names, allocations, strict=True)})
    # Through zero: the close is exact, then a leg opens on the other side at a new ratio.
    s.leader.sell("1.000")
    s.settled(1)
    s.leader.buy("2.500")
    s.settled(1)
    assert all(lots > 0 for lots in s.lots().values())
    s.leader.sell("1.500")
    s.holds(0)
    s.quiet()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()
