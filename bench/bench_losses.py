"""What loss limits cost: every plan re-marked on a mark, the stops themselves, and the limits inside the fan-out.

``COPYD_BENCH_FOLLOWERS`` sets the size (default small, so that the test run stays short). Each bench checks what came out.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import pytest

from bench.bench_fanout import NOW, event, prepared
from copyd.bench import world
from copyd.core.engine import PLANS, Engine
from copyd.core.rows import InstrumentRow, PlanRow, StopRow

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))


def limited(engine: Engine, total_loss_bps: int, every: int = 1) -> None:
    """Give every n-th plan a total limit and the others none."""
    for index in range(engine.columns.count(PLANS)):
        row = PlanRow.unpack(engine.columns.get(PLANS, index))
        row.total_loss_bps = total_loss_bps if index % every == 0 else 0
        row.daily_loss_bps = row.leader_drawdown_bps = 0
        engine.columns.put(PLANS, index, row.pack())


def test_a_mark_against_every_plan(benchmark: Any) -> None:
    """Profit of every plan at a new mark, held against its limits: what each mark costs while nothing happens."""
    engine = Engine.restore(prepared(FOLLOWERS, True))
    limited(engine, 9_000)
    marks = [(0, world.PX - 10, NOW)]
    due = benchmark.pedantic(lambda: engine.kernel.losses_due(marks, NOW), rounds=50, iterations=1, warmup_rounds=3)
    assert due is False
    limited(engine, 1, every=FOLLOWERS)
    assert engine.kernel.losses_due([(0, world.PX * 9 // 10, NOW)], NOW) is True, "the first plan alone has a limit it reaches"
    if benchmark.stats:
        benchmark.extra_info["ns_per_plan"] = round(benchmark.stats.stats.median * 1e9 / FOLLOWERS)


def test_stops(benchmark: Any) -> None:
    """Every second plan reaches its limit at once: stopped, its close made and named."""
    parts = prepared(FOLLOWERS, True)
    made: list[Engine] = []

    def fresh() -> tuple[tuple, dict]:
        engine = Engine.restore(parts)
        limited(engine, 1, every=2)
        row = InstrumentRow.unpack(engine.columns.get(0, 0))
        row.mark, row.ts_mark = world.PX * 9 // 10, NOW
        engine.columns.put(0, 0, row.pack())
        made[:] = [engine]
        return (bytes(16), NOW, engine.names.seq + 1), {}

    benchmark.pedantic(lambda cause, now, seq: made[0].kernel.stop_losses(cause, now, seq), setup=fresh, rounds=10)
    stops = StopRow.unpack_all(made[0].kernel.stops())
    assert len(stops) == (FOLLOWERS + 1) // 2 and all(row.plan % 2 == 0 and row.loss_e8 >= row.limit_e8 for row in stops)
    assert made[0].kernel.counts()[1] == len(stops)
    if benchmark.stats:
        benchmark.extra_info["ns_per_stop"] = round(benchmark.stats.stats.median * 1e9 / len(stops))


@pytest.mark.skipif("FOLLOWERS < 1_000", reason="a difference of nanoseconds needs many followers")
def test_limits_inside_the_fan_out() -> None:
    """One leader fill with and without limits on every plan, in turns; the difference per follower is printed."""
    parts = prepared(FOLLOWERS, False)
    legs = world.legs(FOLLOWERS)
    times: dict[int, list[float]] = {0: [], 9_000: []}
    for turn in range(60):
        limit = (0, 9_000)[turn % 2]
        engine = Engine.restore(parts)
        limited(engine, limit)
        row = event(engine, 500, 77, NOW).pack()
        began = time.perf_counter()
        engine.kernel.fan_out(legs, row)
        times[limit].append(time.perf_counter() - began)
        assert engine.kernel.counts() == (FOLLOWERS, 0, FOLLOWERS, 0)
    without, with_limits = (statistics.median(times[limit]) * 1e9 / FOLLOWERS for limit in (0, 9_000))
    print(f"\n{FOLLOWERS:,} followers: {without:.0f} ns each without loss limits, {with_limits - without:+.0f} ns with them")
