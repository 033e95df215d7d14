"""What the signer's own limits cost: each order of a fan-out held against instrument list, price band, cap and its leg.

``COPYD_BENCH_FOLLOWERS`` sets how many orders there are, one per account: in the order they were decided, and drawn, as
accounts are pinned to connections.
"""

from __future__ import annotations

import os
import random
import time
from array import array
from statistics import median
from typing import Any

import pytest

from copyd._fast.columns import Columns
from copyd._fast.guard import Guard
from copyd.bench import world
from copyd.core.engine import INSTRUMENTS, LEGS, ORDERS
from copyd.core.rows import InstrumentRow, LegRow, OrderRow
from copyd.vault.signer import SignerLimits
from copyd.venues.binance_usdm.gateway import OrderGateway

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))


@pytest.mark.parametrize("order", ["as decided", "drawn"])
@pytest.mark.parametrize("what", ["openings", "reductions"])
def test_orders_held_against_the_signers_limits(benchmark: Any, what: str, order: str) -> None:
    """All pass: the way every order goes."""
    columns, guard = Columns(1), Guard()
    columns.add(INSTRUMENTS, InstrumentRow(value_mul=10_000, value_div=1).pack())
    closing = what == "reductions"
    for account in range(FOLLOWERS):
        columns.add(LEGS, LegRow(attributed=9, account=account).pack())
        slot = columns.add_order(account.to_bytes(16, "big"))
        row = OrderRow(
            cid=account.to_bytes(16, "big"), order_qty=9, limit_px=0 if closing else 600_000, leg=account, account=account,
            side=-1 if closing else 1, kind=int(closing), state=1)  # fmt: skip
        columns.put(ORDERS, slot, row.pack())
        guard.set_account(account, 1, 1 << 60)
    guard.set_price(0, 500_000, 700_000)
    drawn = list(range(FOLLOWERS))
    if order == "drawn":
        random.Random(1).shuffle(drawn)
    slots = array("I", drawn)
    assert benchmark.pedantic(guard.check, (columns, slots), rounds=50, warmup_rounds=5) == b""
    if benchmark.stats:
        benchmark.extra_info["ns_per_order"] = round(benchmark.stats.stats.median * 1e9 / FOLLOWERS, 2)


def test_what_the_limits_add_to_rendering(benchmark: Any) -> None:
    """The daemon's own look at each piece it renders, against the same pieces without it: turn about in one run, by median."""
    engine, encoder = world.make_engine(FOLLOWERS), world.encoder(FOLLOWERS, seed=1, connections=4)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(world.S_NS, world.quotes(trade, world.S_NS))
    out = engine.step(world.S_NS, world.leader_fill(trade, world.S_NS))
    assert out is not None
    slots = array("I", encoder.arrange(engine.columns, world.slots_of(out), 1))
    pieces = [slots[at : at + OrderGateway.chunk_max] for at in range(0, len(slots), OrderGateway.chunk_max)]
    limits = SignerLimits(lambda alert: None)
    limits.bind(engine, [0])
    limits.configured()
    limits.price(0, world.PX)
    for account in range(FOLLOWERS):
        limits.allow(account, 0)
    took: dict[bool, list[int]] = {False: [], True: []}

    def both() -> None:
        for guarded in (False, True):
            began = time.perf_counter_ns()
            for piece in pieces:
                if guarded:
                    assert not limits.refused(piece)
                encoder.encode(engine.columns, piece, 1_700_000_000_000)
            took[guarded].append(time.perf_counter_ns() - began)

    benchmark.pedantic(both, rounds=30, warmup_rounds=3)
    bare, guarded = median(took[False]), median(took[True])
    benchmark.extra_info["ns_per_order"] = round(bare / FOLLOWERS)
    benchmark.extra_info["limits_ns_per_order"] = round((guarded - bare) / FOLLOWERS, 1)
    benchmark.extra_info["ratio"] = round(guarded / bare, 4)
