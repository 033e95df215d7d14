"""The simulated exchange's engine: orders placed and matched per second through the compiled API, one core.

``COPYD_BENCH_ORDERS`` sets the size (default small, so that the test run stays short). Each bench checks what came out.
"""

from __future__ import annotations

import os
from typing import Any

from copyd._fast import sim_engine as E
from copyd.exchange.makers import start_makers
from copyd.exchange.model import E8, INSTRUMENTS

ORDERS = int(os.environ.get("COPYD_BENCH_ORDERS", "5000"))
FOLLOWERS = 1_000 if ORDERS < 20_000 else 10_000


def make_world() -> tuple[E.Engine, Any, int]:
    engine = E.Engine(INSTRUMENTS, expected_orders=ORDERS)
    makers = start_makers(engine, 11)
    makers.step(0)
    return engine, makers, engine.add_accounts(FOLLOWERS, 100_000 * E8)


def check(engine: E.Engine) -> None:
    """Nothing made or lost."""
    wallets, fees, residue, deposits = engine.totals()
    assert wallets + fees + residue == deposits


def test_place_and_match_followers_ioc(benchmark: Any) -> None:
    """A fan-out: each follower's IOC order is checked for margin, matched and booked; buys, then sells, alternating."""
    ids = [b"%032x" % k for k in range(ORDERS)]

    def run(engine: E.Engine, makers: Any, first: int) -> E.Engine:
        place = engine.place
        for k in range(ORDERS):
            if k % FOLLOWERS == 0:
                makers.step(k)
            side = 1 if (k // FOLLOWERS) % 2 == 0 else -1
            place(first + k % FOLLOWERS, 0, side, 0, 1, 2, 606_000 if side > 0 else 594_000, False, False, 0, ids[k], k)
        return engine

    engine = benchmark.pedantic(run, setup=lambda: (make_world(), {}), rounds=3)
    check(engine)
    rows = engine.orders_after(-1, ORDERS)
    assert len(rows) == ORDERS
    assert all(row[10] == E.STATUS_FILLED for row in rows)
    if benchmark.stats:
        benchmark.extra_info["orders_per_s"] = round(ORDERS / benchmark.stats.stats.min)


def test_rest_and_cancel(benchmark: Any) -> None:
    """Limit orders that rest over five hundred levels, then are cancelled."""

    def run(engine: E.Engine, makers: Any, first: int) -> E.Engine:
        slots = [
            engine.place(first + k % FOLLOWERS, 0, 1, 0, 0, 1, 598_000 - k % 500, False, False, 0, b"", k) for k in range(ORDERS)
        ]
        for k, slot in enumerate(slots):
            engine.cancel(first + k % FOLLOWERS, slot, k)
        return engine

    engine = benchmark.pedantic(run, setup=lambda: (make_world(), {}), rounds=3)
    check(engine)
    assert all(row[10] == E.STATUS_CANCELED for row in engine.orders_after(-1, ORDERS))
    assert engine.n_rejects() == 0


def test_mark_sweep_over_positions(benchmark: Any) -> None:
    """A mark price change with every follower in a position: the whole exchange checked for liquidation."""
    engine, _, first = make_world()
    for k in range(FOLLOWERS):
        assert engine.place(first + k, 0, 1, 0, 1, 2, 606_000, False, False, 0, b"", k) >= 0
    marks = iter(range(599_000, 10**9))
    liquidated = benchmark.pedantic(lambda: engine.set_mark(0, 598_000 + next(marks) % 2_000, 1), rounds=20)
    assert liquidated == 0
    check(engine)


def test_makers_step(benchmark: Any) -> None:
    """One step of all markets: every quote withdrawn and placed anew."""
    engine, makers, _ = make_world()
    benchmark.pedantic(lambda: makers.step(1), rounds=50)
    assert makers.step_no > 1
    assert all(engine.top(symbol)[0] for symbol in range(3))
