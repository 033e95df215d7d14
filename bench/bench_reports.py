"""What the venue said, booked: one reply per follower, in one batch.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from typing import Any

from copyd._fast.columns import ReportBatch
from copyd.bench import world
from copyd.core.engine import LEGS, Engine, Reports, check_law
from copyd.core.rows import LegRow, NamedOrder

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
NOW = world.S_NS


def test_apply_replies(benchmark: Any) -> None:
    """Every opening filled: positions are what was ordered, nothing is left on the wire, the law of a leg holds."""
    engine = world.make_engine(FOLLOWERS)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    out = engine.step(NOW, world.leader_fill(trade, NOW))
    assert out is not None
    parts, replies = engine.checkpoint(), world.filled(out.named, NOW).to_bytes()
    made: list[Engine] = []

    def fresh() -> tuple[tuple, dict]:
        made[:] = [Engine.restore(parts)]
        return (ReportBatch.from_bytes(replies),), {}

    benchmark.pedantic(lambda batch: made[0].kernel.apply_reports(batch, NOW, 9), setup=fresh, rounds=10)
    engine = made[0]
    check_law(engine)
    for order in NamedOrder.unpack_all(out.named):
        leg = LegRow.unpack(engine.columns.get(LEGS, order.leg))
        assert (leg.attributed, leg.open_leaves, leg.pending) == (order.side * order.order_qty, 0, 0)


def test_step_replies(benchmark: Any) -> None:
    """The same through the engine, as the pump offers it."""
    engine = world.make_engine(FOLLOWERS)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    out = engine.step(NOW, world.leader_fill(trade, NOW))
    assert out is not None
    parts, value = engine.checkpoint(), Reports(world.filled(out.named, NOW).to_bytes())
    made: list[Engine] = []

    def fresh() -> tuple[tuple, dict]:
        made[:] = [Engine.restore(parts)]
        return (), {}

    outputs = benchmark.pedantic(lambda: made[0].step(NOW, value), setup=fresh, rounds=10)
    assert outputs.orders == b"" and outputs.ends == b""
    assert made[0].kernel.census()[0] == 0
