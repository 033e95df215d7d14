"""Orders to the wire: rendered, signed with each follower's own key, framed and masked.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from copyd._fast import hashing
from copyd.bench import world
from copyd.core.rows import NamedOrder
from copyd.venues.binance_usdm.gateway import pin_of
from copyd.venues.binance_usdm.signing import frames, place_text

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
NOW = world.S_NS
STAMP = 1_700_000_000_000


@pytest.mark.parametrize("implementation", hashing.available())
def test_render_sign_frame(benchmark: Any, implementation: str) -> None:
    """All orders of an event in one call; a sample of frames equals the readable twin's text."""
    engine, encoder = world.make_engine(FOLLOWERS), world.encoder(FOLLOWERS, seed=1, connections=4)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    out = engine.step(NOW, world.leader_fill(trade, NOW))
    assert out is not None
    slots = world.slots_of(out)
    before = hashing.choose(implementation)
    try:
        bursts = benchmark.pedantic(lambda: encoder.encode(engine.columns, slots, STAMP), rounds=20, warmup_rounds=2)
    finally:
        hashing.choose(before)
    orders = {order.cid: order for order in NamedOrder.unpack_all(out.named)}
    item = world.instruments()[0]
    sent = 0
    for connection, buffer, ids, _ in bursts:
        found = frames(buffer)
        assert len(found) == len(ids) // 16
        sent += len(found)
        for at in range(0, len(found), 50):
            order = orders[ids[16 * at : 16 * at + 16]]
            assert pin_of(order.account, 4) == connection
            assert found[at] == place_text(
                world.key(1, order.account), symbol=item.symbol, price_decimals=item.price_decimals, tick=item.tick,
                qty_decimals=item.qty_decimals, lot=item.lot, cid=order.cid, order_qty=order.order_qty, limit_px=order.limit_px,
                side=order.side, position_side=order.position_side, reduce_only=bool(order.reduce_only), timestamp_ms=STAMP,
                recv_window_ms=2_000)
    assert sent == FOLLOWERS
    if benchmark.stats:
        benchmark.extra_info["ns_per_order"] = round(benchmark.stats.stats.median * 1e9 / FOLLOWERS)
