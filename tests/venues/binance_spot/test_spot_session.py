"""The venue's parts wired as the daemon wires them, against its dialect: orders out, reports back, a leader heard."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.render import Renderer
from copyd.core.rows import OrderRow
from copyd.venues.binance_spot.contract import Endpoints
from copyd.venues.binance_spot.parts import KIND
from copyd.venues.binance_spot.wire import BinanceSpotWire
from copyd.venues.binance_usdm.signing import frames
from copyd.venues.common import facts
from copyd.venues.common.facts import AccountPosition, LeaderFill, LeaderSync, LeaderWallet, Placed
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.signing import Key
from copyd.venues.common.templates import teach
from copyd.venues.common.told import Answered
from copyd.venues.common.venue import Order
from tests.exchange.test_binance_spot_dialect import Bench, exchange
from tests.venues.binance_spot.world import BTC, instruments

SITE = "cd07"
INDEX = 3
ORDERS = 7
REPORT = struct.Struct("=16s8qIi3B5x")
NAMES = (
    "cid", "cum", "cost", "last_qty", "last_px", "fee", "trade", "order", "event", "account", "code", "kind", "status",
    "fee_base")
TERMS = {"recv_window_ms": 1_000, "engine_delay_ms": 200, "read_lag_ms": 100, "guard_ms": 100, "order_ack_timeout_ms": 500}

FLOWS = ("DEPOSIT", "WITHDRAW")


class World:
    """One adapter, what it reported, and the exchange."""

    def __init__(self, x: Bench) -> None:
        self.x = x
        self.reports: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.leader_events: list[Any] = []
        self.marks: dict[int, int] = {}
        self.orders: dict[bytes, tuple[int, OrderRow]] = {}
        hooks = Hooks(**{
            **{name: lambda *_: None for name in Hooks._fields}, "clock": time.time_ns, "on_reports": self._reports,
            "on_follower_event": self.events.append, "on_leader_event": self.leader_events.append, "placed": self._placed,
            "on_marks": lambda marks: self.marks.update({mark.instrument: mark.mark for mark in marks}),
            "last_mark": lambda index: self.marks.get(index, 0), "is_known": self.orders.__contains__,
            "expected": lambda *_: (0, 0, True), "site_tag": SITE,
        })  # fmt: skip
        self.contract = KIND.contract.overridden(TERMS)
        self.parts = SessionParts(KIND, self.contract, Endpoints.at(x.rest, x.ws), Terms(100_000, 2_000, True), hooks)
        self.columns = Columns(8)
        self._ids = itertools.count(1)

    async def open(self) -> None:
        await self.parts.open([(INDEX, "BTCUSDT")], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)
        await until(lambda: INDEX in self.marks)

    async def follow(self, number: int, **order: Any) -> Key:
        made = await self.x.account(f"follower-{number}", **order)
        key = Key(made["api_key"].encode(), made["secret"].encode())
        self.parts.register(number, f"follower-{number}", key)
        problems: dict[int, str] = {}
        await self.parts.streams.add_many([(number, key)], on_done=problems.__setitem__)
        assert problems == {number: ""}
        await until(lambda: all(line.open for line in self.parts.sessions.lines(number)))
        return key

    def send(self, account: int, qty: int, side: int = 1, px: int = 0) -> bytes:
        """Write an order into the tables, render and send it as the pump does."""
        cid = bytes.fromhex(SITE + "00002a") + next(self._ids).to_bytes(11, "big")
        slot = self.columns.add_order(cid)
        row = OrderRow(
            cid=cid, order_qty=qty, limit_px=px, account=account, instrument=INDEX, side=side, kind=0, state=1,
            ts_decided=time.time_ns())
        self.columns.put(ORDERS, slot, row.pack())
        self.orders[cid] = slot, row
        gateway = self.parts.gateway
        gateway.send(gateway.render(gateway.arrange(array("I", [slot]), 1)))
        return cid

    def about(self, cid: bytes, kind: int) -> list[dict[str, Any]]:
        return [row for row in self.reports if row["cid"] == cid and row["kind"] == kind]

    def _placed(self, cid: bytes) -> Placed | None:
        if cid not in self.orders:
            return None
        row = self.orders[cid][1]
        return Placed(row.account, row.instrument, row.side, 0, row.order_qty, False, 1)

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        for values in REPORT.iter_unpack(batch.to_bytes()):
            row = dict(zip(NAMES, values, strict=True))
            self.reports.append(row)
            if row["kind"] == facts.IN_DOUBT:
                order = self.orders[row["cid"]][1]
                now = time.time_ns()
                self.parts.gateway.query(
                    row["cid"], order.account, INDEX, now, exposure=order.order_qty, ts_placed_ns=order.ts_decided)


async def until(done: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with exchange(lift=frozenset({"all"}), maker_ms=100) as x:
        made = World(x)
        try:
            await made.open()
            yield made
        finally:
            await made.parts.stop()


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize("side", [1, -1])
def test_the_compiled_rendering_is_taught_by_the_wire(side: int, limit: bool) -> None:
    """Frames of the renderer hold what ``place_signed`` says, for each kind of order spot has."""
    wire = BinanceSpotWire()
    wire.bind(instruments())
    renderer = Renderer("frame", 7)
    teach(renderer, wire.place_signed, BTC, [(side, limit, 0, False)])
    renderer.set_account(6, b"a-key", b"a-secret")
    for qty, px in ((1, 1), (1_000, 5_000_000), (123_456, 7_654_321)):
        cid, px = bytes(range(16)), px if limit else 0
        [(_, buffer, _, _)] = renderer.render_rows([(6, BTC.index, cid, qty, px, side, 0, False)], 1_700_000_000_000)
        order = Order(6, BTC, cid, qty, px, side, 0, False)
        assert frames(buffer) == [wire.place_signed(Key(b"a-key", b"a-secret"), order, 1_700_000_000_000)]


async def test_orders_go_out_and_come_back_with_their_commission() -> None:
    """An answer, an execution with its fee in the asset that is received, the holding and the wallet; a refusal with its code."""
    async with world() as w:
        await w.follow(0)
        await w.follow(1, balance="10")
        bought = w.send(0, 1_000)
        await until(lambda: w.about(bought, facts.TRADE) and w.about(bought, facts.REPLY))
        (reply,), (trade,) = w.about(bought, facts.REPLY), w.about(bought, facts.TRADE)
        assert (reply["status"], reply["cum"], trade["last_qty"]) == (facts.FILLED, 1_000, 1_000)
        # 0.1 % of 1,000 lots, kept back of what was bought: one lot less can be sold
        assert (trade["fee_base"], trade["fee"]) == (1, 1 << 32)
        await until(lambda: [e for e in w.events if isinstance(e, AccountPosition)])
        assert [e.qty for e in w.events if isinstance(e, AccountPosition)] == [999]
        assert [row for row in w.reports if row["kind"] == facts.BALANCE]
        sold = w.send(0, 999, side=-1)
        await until(lambda: w.about(sold, facts.TRADE))
        (trade,) = w.about(sold, facts.TRADE)
        # 0.1 % of 0.00999 BTC, at a mark near 60,000: about 0.6 USDT
        assert trade["fee_base"] == 0 and 50_000_000 < trade["fee"] < 70_000_000
        assert [e.qty for e in w.events if isinstance(e, AccountPosition)][-1] == 0
        refused = w.send(1, 1_000)
        await until(lambda: w.about(refused, facts.REJECT))
        assert w.about(refused, facts.REJECT)[0]["code"] == -2019  # no money for it: the number the core knows it by


async def test_an_answer_that_never_comes_is_settled_by_the_venues_word() -> None:
    """Executed though told unknown: found. Dropped on the way: proven absent behind the fence. No order is sent twice."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", {"action": "error_live", "method": "place", "count": 1})
        live = w.send(0, 1_000)
        await until(lambda: [r for r in w.reports if r["cid"] == live and r["status"] == facts.FILLED])
        await w.x.tell("POST", "/faults", {"action": "drop_request", "method": "place", "count": 1})
        dead = w.send(0, 1_000)
        await until(lambda: w.about(dead, facts.DEAD) or w.about(dead, facts.HELD))
        assert w.about(dead, facts.IN_DOUBT)
        assert len(await w.x.tell("GET", "/truth/orders")) == 1


async def test_a_connection_lost_after_the_write_is_a_doubt_that_is_settled() -> None:
    """The order was done, its answer lost with the connection."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", {"action": "disconnect_live", "method": "place", "count": 1})
        cid = w.send(0, 1_000)
        await until(lambda: [r for r in w.reports if r["cid"] == cid and r["status"] == facts.FILLED and r["cum"] == 1_000])
        assert len(await w.x.tell("GET", "/truth/orders")) == 1


async def test_a_leader_whose_commission_is_paid_in_another_asset_is_heard() -> None:
    """Each execution once, live; what happened while nobody listened is found and is no news."""
    async with world() as w:
        made = await w.x.account("leader", maker_ppm=0, taker_ppm=0)
        key = Key(made["api_key"].encode(), made["secret"].encode())
        feed = w.parts.leader_feed(LeaderTerms(1, key, 5.0, 10.0))
        await feed.start(timeout_s=10)
        try:
            buy = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
            await w.x.call(made, "POST", "/api/v3/order", **buy)
            await until(lambda: [e for e in w.leader_events if isinstance(e, LeaderFill)])
            await w.x.tell("POST", "/disconnect", {"kind": "ws-api"})
            await w.x.call(made, "POST", "/api/v3/order", **{**buy, "side": "SELL", "quantity": "0.004"})
            await until(lambda: len([e for e in w.leader_events if isinstance(e, LeaderFill)]) == 2 and feed.synced)
            fills = [e for e in w.leader_events if isinstance(e, LeaderFill)]
            assert [(f.side * f.qty, f.live) for f in fills] == [(1_000, True), (-400, False)]
            synced = [e for e in w.leader_events if isinstance(e, LeaderSync) and e.synced]
            assert [p.qty for p in synced[-1].positions] == [600]
        finally:
            await feed.stop()


async def test_a_leader_whose_commission_is_taken_from_what_he_buys_stays_in_sync() -> None:
    """His holding is less than his executions add up to: each is live all the same, and the comparison takes the holding over."""
    async with world() as w:
        made = await w.x.account("leader")
        feed = w.parts.leader_feed(LeaderTerms(1, Key(made["api_key"].encode(), made["secret"].encode()), 5.0, 0.5))
        await feed.start(timeout_s=10)
        try:
            buy = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
            for number in range(3):
                await w.x.call(made, "POST", "/api/v3/order", **buy)
                await until(lambda wanted=number + 1: len(fills_of(w)) == wanted)
            assert [(f.qty, f.live) for f in fills_of(w)] == [(1_000, True)] * 3
            await until(lambda: feed.stats.syncs > 1 and feed.synced)
            synced = [e for e in w.leader_events if isinstance(e, LeaderSync) and e.synced]
            assert [p.qty for p in synced[-1].positions] == [2_997]
            await w.x.call(made, "POST", "/api/v3/order", **{**buy, "side": "SELL", "quantity": "0.02997"})
            await until(lambda: len(fills_of(w)) == 4)
            assert fills_of(w)[-1].live
        finally:
            await feed.stop()


def fills_of(w: World) -> list[LeaderFill]:
    return [event for event in w.leader_events if isinstance(event, LeaderFill)]


async def test_a_limit_of_the_address_that_an_order_was_told_stops_all_requests() -> None:
    """Whatever is sent under a ban prolongs it: the next order does not leave, whoever's it is."""
    async with world() as w:
        await w.follow(0)
        refused = Verdict(Outcome.DEFINITE_REJECT, "too_many_requests", -1003)
        w.parts.gateway._outcome(Answered(bytes(16), refused, message="banned", retry_ns=5 * 10**9), False, 1)
        assert w.parts.gateway.banned_until > 0
        sent = w.send(0, 1_000)
        await until(lambda: w.about(sent, facts.NOT_SENT))


async def test_what_a_leader_pays_in_is_told_as_it_happens() -> None:
    """A deposit and a withdrawal are no profit and no loss (semantics 18): each is said when the venue says it."""
    async with world() as w:
        made = await w.x.account("leader")
        feed = w.parts.leader_feed(LeaderTerms(1, Key(made["api_key"].encode(), made["secret"].encode()), 60.0, 60.0))
        await feed.start(timeout_s=10)
        try:
            for amount in ("250.5", "-100"):
                await w.x.tell("POST", "/deposit", {"account": "leader", "amount": amount})
            await until(lambda: len([e for e in w.leader_events if isinstance(e, LeaderWallet) and e.cause in FLOWS]) == 2)
            flows = [e for e in w.leader_events if isinstance(e, LeaderWallet) and e.cause in FLOWS]
            assert [(e.cause, e.asset, e.change_e8) for e in flows] == [
                ("DEPOSIT", "USDT", 25_050_000_000), ("WITHDRAW", "USDT", -10_000_000_000)]
        finally:
            await feed.stop()
