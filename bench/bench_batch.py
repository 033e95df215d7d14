"""The batch path's kernels: order rows to records, reports to rows, and the account of what is in flight.

``COPYD_BENCH_FOLLOWERS`` sets the size.
"""

from __future__ import annotations

import os
from array import array
from typing import Any

from copyd._fast.batch_wire import Batch, Flight, Packer
from copyd._fast.columns import ReportBatch
from copyd.bench import world
from copyd.core.engine import Engine
from copyd.core.rows import NamedOrder, ReportRow
from copyd.venues.batch import codec
from copyd.venues.batch.errors import Refusal, core_code

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
NOW = world.S_NS


def event() -> tuple[Engine, array[int], bytes]:
    """One leader fill, decided for everybody: the engine, the order slots, and the orders by name."""
    engine = world.make_engine(FOLLOWERS)
    trade = world.LeaderTrade(1, 1, world.LEADER_LOTS, world.PX)
    engine.step(NOW, world.quotes(trade, NOW))
    out = engine.step(NOW, world.leader_fill(trade, NOW))
    assert out is not None
    return engine, world.slots_of(out), out.named


def packer() -> Packer:
    made = Packer()
    made.set_instrument(0, 0)
    for account in range(FOLLOWERS):
        made.set_account(account, account)
    return made


def test_pack(benchmark: Any) -> None:
    """All orders of an event to record batches, stamped; a sample equals what the journal names."""
    engine, slots, named = event()
    made = packer()

    def work() -> list[Batch]:
        batches, _ = made.pack(engine.columns, slots)
        for number, batch in enumerate(batches, 1):
            batch.stamp(number, 1, 0, NOW)
            made.release(batch)
        return batches

    batches = benchmark.pedantic(work, rounds=50, warmup_rounds=5)
    orders = {order.cid: order for order in NamedOrder.unpack_all(named)}
    found = [record for batch in batches for record in codec.unpack_orders(bytes(batch)[codec.HEADER_BYTES :])[3]]
    assert len(found) == len(slots) == FOLLOWERS
    for record in found[::50]:
        order = orders[record.cid]
        assert (record.account, record.quantity, record.limit) == (order.account, order.order_qty, order.limit_px)


def test_decode(benchmark: Any) -> None:
    """One fill for every order, from bytes to report rows, each taken off the table of orders in flight."""
    engine, slots, _ = event()
    batches, _ = packer().pack(engine.columns, slots)
    reports = [
        codec.ReportRecord(cid, codec.TRADE, 4, 0, 5, 3_250 * 10**8, 5, world.PX, 10, at + 1, at + 1, NOW)
        for at, cid in enumerate(cid for batch in batches for cid in batch.cids())
    ]
    body = codec.pack_reports(reports)
    flight = Flight({int(refusal): core_code(refusal) for refusal in Refusal})
    rows = ReportBatch()

    def book() -> tuple[tuple[()], dict[str, Any]]:
        rows.clear()
        for number, batch in enumerate(batches, 1):
            batch.stamp(number, 1, 0, NOW)
            flight.book(batch)
        assert len(flight) == FOLLOWERS
        return (), {}

    def work() -> None:
        assert flight.decode(body, codec.REPORTS_HEAD.size, len(reports), rows) == 0

    benchmark.pedantic(work, setup=book, rounds=50, warmup_rounds=5)
    assert len(flight) == 0 and rows.count == FOLLOWERS
    raw = rows.to_bytes()
    for at in range(0, FOLLOWERS, 50):
        row = ReportRow.unpack(raw[96 * at : 96 * at + 96])
        assert (row.cid, row.cum_qty, row.trade_id) == (reports[at].cid, 5, at + 1)
