"""The venue's bytes to facts: a leader's execution to the engine's input, an order's reply to a report row."""

from __future__ import annotations

import asyncio
import json
from array import array
from typing import Any

import pytest

from copyd._fast.columns import ReportBatch
from copyd.bench import world
from copyd.core.leader_stream import Execution
from copyd.core.rows import ReportKind, ReportRow
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.gateway import OrderGateway, _Lane
from copyd.venues.common.connection import Session
from copyd.venues.common.limits import VenueClock

REPLIES = 1_000


@pytest.mark.parametrize("reader", ["compiled", "readable"])
def test_leader_event(benchmark: Any, reader: str) -> None:
    """Frame to fact, at a glance and with care."""
    instruments = world.instruments()
    payload = world.leader_frame(world.LeaderTrade(4711, -1, 250, 650_123), 1_700_000_000_000)
    compiled = codec.executions(instruments)

    def readable() -> Execution | None:
        event = codec.decode_user(payload)
        assert isinstance(event, codec.OrderTradeUpdate)
        return codec.execution(event, instruments, 1, payload)

    fill = benchmark(readable if reader == "readable" else lambda: compiled.execution(payload, 1))
    assert (fill.exec_id, fill.side, fill.qty, fill.px, fill.order_qty, fill.live) == (4711, -1, 250, 650_123, 250, True)
    assert fill.ts_event == 1_700_000_000_000 * 10**6


def reply(cid: str, order_id: int) -> bytes:
    """The answer of a filled placement."""
    return json.dumps({"id": cid, "status": 200, "result": {
        "orderId": order_id, "symbol": world.SYMBOL, "status": "FILLED", "clientOrderId": cid, "price": "65000.10",
        "avgPrice": "65000.10", "origQty": "0.012", "executedQty": "0.012", "cumQuote": "780.00120", "timeInForce": "IOC",
        "type": "LIMIT", "reduceOnly": False, "side": "BUY", "positionSide": "BOTH", "updateTime": 1_700_000_000_000,
    }}, separators=(",", ":")).encode()


async def test_replies(benchmark: Any) -> None:
    """A thousand answers through the gateway, from the frame to the batch the pump is offered."""
    batches: list[ReportBatch] = []
    gateway = OrderGateway(
        url="ws://127.0.0.1:1", connections=1, instruments=world.instruments(), contract=CONTRACT, clock=lambda: 1,
        venue_clock=VenueClock(CONTRACT, lambda: 1), on_reports=lambda batch, _: batches.append(batch),
    )
    session = Session(gateway._links[0])
    ids = [f"{at:032x}" for at in range(REPLIES)]
    payloads = [reply(cid, at + 1) for at, cid in enumerate(ids)]

    def fresh() -> tuple[tuple, dict]:
        lane = gateway._lanes[session] = _Lane()
        lane.wrote(0, bytes.fromhex("".join(ids)), array("I", range(REPLIES)), 0)
        return (), {}

    def read() -> None:
        for payload in payloads:
            gateway._on_frame(session, payload)

    benchmark.pedantic(read, setup=fresh, rounds=10)
    await asyncio.sleep(0.01)
    rows = ReportRow.unpack_all(b"".join(batch.to_bytes() for batch in batches))
    assert gateway.in_flight == 0
    assert [row.cid.hex() for row in rows[:REPLIES]] == ids
    assert {(row.kind, row.cum_qty, row.cost_e8) for row in rows} == {(ReportKind.REPLY, 12, 780_00120000)}
    if benchmark.stats:
        benchmark.extra_info["ns_per_reply"] = round(benchmark.stats.stats.median * 1e9 / REPLIES)
