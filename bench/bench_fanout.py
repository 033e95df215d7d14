"""The kernel's decision for every follower of one leader event: opening, reduction, flip; and why it is compiled.

``COPYD_BENCH_FOLLOWERS`` sets the size (default small, so that the test run stays short). Each bench checks what came out.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import pytest

from copyd.bench import world
from copyd.core import position
from copyd.core.engine import LEGS, POSITIONS, Engine, Reports
from copyd.core.order import sending_order
from copyd.core.rows import FillEvent, LeaderPositionRow, LegRow
from copyd.core.state import Outcome, Tables

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
SIZES = [1_000, FOLLOWERS] if FOLLOWERS > 1_000 else [FOLLOWERS]
TWIN_FOLLOWERS = min(FOLLOWERS, 1_000)
NOW = world.S_NS


def event(engine: Engine, signed_qty: int, exec_id: int, now: int) -> FillEvent:
    """A leader fill of ``signed_qty`` lots on the position the leader has; moves its row."""
    row = LeaderPositionRow.unpack(engine.columns.get(POSITIONS, 0))
    before, after = row.qty, row.qty + signed_qty
    reducing = before * signed_qty < 0
    reduce_qty = min(abs(before), abs(signed_qty)) if reducing else 0
    row.qty = after
    engine.columns.put(POSITIONS, 0, row.pack())
    mid = 0 if before * after < 0 else after if reducing else before
    return FillEvent(
        cause=exec_id.to_bytes(16, "big"), seq=engine.names.seq + 1, now=now, ts_event=now, qty_before=before, qty_mid=mid,
        qty_after=after, open_qty=abs(signed_qty) - reduce_qty, px=world.PX, first_px=world.PX, order_qty=abs(signed_qty),
        order_id=exec_id, rotation=0, reduce_qty=reduce_qty, leader=0, position=0, instrument=0,
        open_side=1 if signed_qty > 0 else -1,
    )


def prepared(followers: int, opened: bool) -> list[bytes]:
    """The state before the event as checkpoint parts: flat, or every follower in its position."""
    engine = world.make_engine(followers)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    if opened:
        out = engine.step(NOW, world.leader_fill(trade, NOW))
        assert out is not None
        engine.step(NOW, Reports(world.filled(out.named, NOW).to_bytes()))
    return engine.checkpoint()


#: leader's lots, position before, (reductions, openings) per follower
CASES = {"opening": (500, False, (0, 1)), "reduction": (-250, True, (1, 0)), "flip": (-1000, True, (1, 0))}


@pytest.mark.parametrize("followers", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_decide(benchmark: Any, case: str, followers: int) -> None:
    """One call for all legs. A flip closes now; the other side waits for the close."""
    signed_qty, opened, (reductions, openings) = CASES[case]
    parts = prepared(followers, opened)
    legs = world.legs(followers)
    made: list[Engine] = []

    def fresh() -> tuple[tuple, dict]:
        made[:] = [Engine.restore(parts)]
        return (legs, event(made[0], signed_qty, 77, NOW).pack()), {}

    benchmark.pedantic(lambda rows, row: made[0].kernel.fan_out(rows, row), setup=fresh, rounds=5 if followers < 5_000 else 20)
    assert made[0].kernel.counts() == (followers, followers * reductions, followers * openings, 0)
    waiting = sum(LegRow.unpack(made[0].columns.get(LEGS, leg)).deferred != 0 for leg in legs)
    assert waiting == (followers if case == "flip" else 0)
    if benchmark.stats:
        benchmark.extra_info["ns_per_follower"] = round(benchmark.stats.stats.median * 1e9 / followers)


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_is_worth_its_compiler(benchmark: Any, case: str) -> None:
    """Kernel and readable twin on the same state, turn by turn in one run: same bytes, and the ratio of their medians."""
    signed_qty, opened, _ = CASES[case]
    parts = prepared(TWIN_FOLLOWERS, opened)
    legs = world.legs(TWIN_FOLLOWERS)
    taken: dict[str, list[int]] = {"kernel": [], "twin": []}

    def turn() -> None:
        engine = Engine.restore(parts)
        fill = event(engine, signed_qty, 77, NOW)
        tables, outcome = Tables.load(engine.columns.instruments_max, engine.columns.dump(), engine.params), Outcome()
        began = time.perf_counter_ns()
        engine.kernel.fan_out(legs, fill.pack())
        middle = time.perf_counter_ns()
        for leg in legs:
            position.decide(tables, leg, fill, outcome)
        taken["kernel"].append(middle - began)
        taken["twin"].append(time.perf_counter_ns() - middle)
        assert b"".join(row.pack() for row in outcome.decisions) == engine.kernel.decisions()
        assert world.packed(sending_order(tables, outcome)) == engine.kernel.orders()
        assert tables.dump() == engine.columns.dump()

    benchmark.pedantic(turn, rounds=3, warmup_rounds=1)
    kernel, twin = (statistics.median(taken[name][1:]) for name in ("kernel", "twin"))
    benchmark.extra_info["ratio"] = round(twin / kernel, 1)
    each = {name: round(took / TWIN_FOLLOWERS) for name, took in (("twin", twin), ("kernel", kernel))}
    print(f"\n{case}: twin {each['twin']} ns, kernel {each['kernel']} ns per follower, x{twin / kernel:.0f}")
