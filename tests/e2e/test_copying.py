"""The daemon copies; what control does is seen on real orders."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.harness import Stage, proportional


def test_open_add_reduce_flip_flat(stage: Callable[..., Stage]) -> None:
    """Rules 1-5 on real sockets: every leg where the rule puts it after each leader order."""
    s = stage(3)
    allocations = [1000, 1500, 3700]
    s.start(s.plan(i, allocation=str(a)) for i, a in enumerate(allocations))
    want = {name: (Q, a) for name, a in zip(s.names, allocations) for Q in (0,)}
    leader = 0
    for side, quantity in ((1, 1500), (1, 500), (-1, 2000), (1, 700), (-1, 700)):
        (s.leader.buy if side > 0 else s.leader.sell)(f"{quantity / 1000:.3f}")
        leader += side * quantity
        s.holds({name: proportional(leader, a) for name, (_, a) in want.items()})
    s.quiet()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()
