"""A real exchange with a batch door, and a gateway whose orders are made by hand."""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import NONE, OrderRow, PlanRow, ReportRow
from copyd.exchange.batch import BatchOptions
from copyd.exchange.server import ExchangeServer, Options
from copyd.venues.batch.contract import BatchContract
from copyd.venues.batch.gateway import BatchGateway

SECRET = b"a secret of the two of them"
ORDERS, PLANS = 7, 3
TERMS = BatchContract(
    valid_ms=300, order_ack_timeout_ms=150, engine_delay_ms=20, guard_ms=10, reconnect_first_ms=20, opening_wait_ms=150,
    write_deadline_ms=400)


class Item(msgspec.Struct):
    """An instrument as the gateway needs it: BTCUSDT in ticks of 0.10 and lots of 0.001."""

    index: int = 0
    symbol: str = "BTCUSDT"
    price_decimals: int = 2
    tick: int = 10
    qty_decimals: int = 3
    lot: int = 1


class Desk:
    """A gateway, the orders given to it, and what it said about them."""

    def __init__(self, address: str, contract: BatchContract = TERMS, **more: Any) -> None:
        self.columns = Columns(4)
        for leader in (0, 1):
            self.columns.add(PLANS, PlanRow(leader=leader).pack())
        self.rows: list[ReportRow] = []
        self.asked: list[bytes] = []
        self.gateway = BatchGateway(**{
            "address": address, "secret": SECRET, "name": "copyd", "instruments": [Item()], "contract": contract,
            "clock": time.time_ns, "on_reports": self._reports, **more})
        self.gateway.bind(self.columns)
        self.settle = True

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        raw = batch.to_bytes()
        for at in range(0, len(raw), 96):
            row = ReportRow.unpack(raw[at : at + 96])
            assert row.account == NONE
            self.rows.append(row)
            if row.kind == 3 and self.settle:  # as the daemon does: whatever is in doubt is asked about
                self.asked.append(row.cid)
                self.gateway.query(row.cid, 0, 0, time.time_ns())

    def orders(self, count: int, **fields: Any) -> array[int]:
        """Rows of market buys of one lot, unless something else is said."""
        slots = array("I")
        for _ in range(count):
            cid = os.urandom(16)
            slot = self.columns.add_order(cid)
            values = {"order_qty": 1, "side": 1, "state": 1, "account": 0, **fields}
            self.columns.put(ORDERS, slot, OrderRow(cid=cid, **values).pack())
            slots.append(slot)
        return slots

    def send(self, slots: array[int]) -> None:
        self.gateway.send(self.gateway.render(slots))

    def cids(self, slots: array[int]) -> list[bytes]:
        return [self.columns.get(ORDERS, slot)[:16] for slot in slots]

    def of(self, slots: array[int]) -> list[list[ReportRow]]:
        """What was said about each."""
        told: dict[bytes, list[ReportRow]] = {}
        for row in self.rows:
            told.setdefault(row.cid, []).append(row)
        return [told.get(cid, []) for cid in self.cids(slots)]

    def kinds(self, slots: array[int]) -> list[list[int]]:
        return [[row.kind for row in rows] for rows in self.of(slots)]

    def ended(self, slots: array[int]) -> bool:
        """Every one refused, not sent, dead or told to have ended."""
        return all(any(row.kind in (2, 4, 8) or (row.kind in (1, 6) and row.status in (4, 6, 7)) for row in rows)
                   for rows in self.of(slots))


async def until(condition: Callable[[], Any], seconds: float = 12.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


Open = Callable[..., Awaitable[ExchangeServer]]


@pytest.fixture
async def door() -> AsyncIterator[Open]:
    """Open an exchange with a batch door; account "conformance" (and ten more) has money. Closed at the end."""
    opened: list[ExchangeServer] = []

    async def open_one(**options: Any) -> ExchangeServer:
        chosen = {"port": 0, "secret": SECRET, "heartbeat_ms": 100, "window": 4_096, "reserved": 1_024, **options}
        exchange = ExchangeServer(Options(batch=BatchOptions(**chosen), seed=3))
        exchange.first_account = exchange.engine.n_accounts  # type: ignore[attr-defined]
        for number in range(11):
            account = exchange.engine.add_account(10**6 * 10**8)
            exchange.accounts.register(account, f"acct-{number}" if number else "conformance")
        await exchange.start()
        await asyncio.sleep(0.03)  # what is placed within the clocks' error of an engine's start cannot be proven absent
        opened.append(exchange)
        return exchange

    yield open_one
    for exchange in opened:
        await exchange.stop()


Start = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def desk(door: Open) -> AsyncIterator[Start]:
    """A gateway logged in to an exchange, its account 0 the exchange's "conformance"."""
    made: list[Desk] = []

    async def start(exchange: ExchangeServer, address: str = "", **more: Any) -> Desk:
        one = Desk(address or f"127.0.0.1:{exchange.ports['batch']}", **more)
        made.append(one)
        one.gateway.add_account(0, "conformance")
        await one.gateway.start(3.0)
        return one

    yield start
    for one in made:
        await one.gateway.stop(0.0)
