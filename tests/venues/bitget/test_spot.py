"""The adapter on the spot market of its simulated exchange, wired as the daemon wires it, as classic and as unified account."""

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
from copyd.core.rows import OrderRow
from copyd.exchange.bitget_spot import Dialect
from copyd.venues.bitget.contract import Endpoints
from copyd.venues.bitget.parts import KIND
from copyd.venues.common import facts
from copyd.venues.common.facts import AccountPosition, ExternalFill, LeaderFill, LeaderSync, Placed
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.signing import Key
from tests.exchange.bitget_bench import Account, Bench, exchange

SITE = "cd07"
INDEX = 3
ORDERS = 7
REPORT = struct.Struct("=16s8qIi3B5x")
NAMES = (
    "cid", "cum", "cost", "last_qty", "last_px", "fee", "trade", "order", "event", "account", "code", "kind", "status",
    "fee_base")
TERMS = {"recv_window_ms": 300, "engine_delay_ms": 100, "read_lag_ms": 100, "guard_ms": 50, "order_ack_timeout_ms": 500}
SYMBOL = "BTCUSDT_SPBL"
E8 = 10**8
GENERATIONS = pytest.mark.parametrize("unified", [False, True], ids=["classic", "unified"])


class World:
    """One adapter, what it reported, and the exchange."""

    def __init__(self, x: Bench, unified: bool) -> None:
        self.x, self.unified = x, unified
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
        contract = KIND.contract.overridden(TERMS)
        self.parts = SessionParts(KIND, contract, Endpoints.at(x.rest, x.ws), Terms(100_000, 2_000, True), hooks)
        self.columns = Columns(8)
        self._ids = itertools.count(1)

    @property
    def item(self) -> Any:
        return self.parts.instruments[INDEX]

    async def open(self) -> None:
        await self.parts.open([(INDEX, SYMBOL)], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)
        await until(lambda: INDEX in self.marks)

    async def account(self, name: str, **order: Any) -> tuple[Account, Key]:
        """A commission of 0.1 %; money in USDT."""
        rights = {"unified": self.unified, **order.pop("rights", {})}
        made = await self.x.account(name, rights=rights, maker_ppm=1000, taker_ppm=1000, **order)
        return made, Key(made["api_key"].encode(), made["secret"].encode(), made["passphrase"].encode())

    async def follow(self, number: int, **order: Any) -> Key:
        _, key = await self.account(f"follower-{number}", **order)
        self.parts.register(number, f"follower-{number}", key)
        problems: dict[int, str] = {}
        await self.parts.streams.add_many([(number, key)], on_done=problems.__setitem__)
        assert problems == {number: ""}
        return key

    def send(self, account: int, qty: int, side: int = 1, px: int = 0) -> bytes:
        """Write an order into the tables and send it as the pump does; a buy at a bound a percent above the market."""
        cid = bytes.fromhex(SITE + "00002a") + next(self._ids).to_bytes(11, "big")
        slot = self.columns.add_order(cid)
        px = px or (self.marks[INDEX] * 101 // 100 if side > 0 else 0)
        row = OrderRow(
            cid=cid, order_qty=qty, limit_px=px, account=account, instrument=INDEX, side=side, kind=0, state=1,
            ts_decided=time.time_ns())
        self.columns.put(ORDERS, slot, row.pack())
        self.orders[cid] = slot, row
        gateway = self.parts.gateway
        gateway.send(gateway.render(gateway.arrange(array("I", [slot]), 1)))
        return cid

    async def trade(self, made: Account, side: str, size: str) -> None:
        """Somebody's own hand at the market: so much of the quote coin is bought for, so much of the base coin is sold."""
        body = {"symbol": "BTCUSDT", "side": side, "orderType": "market", "force": "gtc", "size": size}
        if self.unified:
            body |= {"category": "SPOT", "qty": body.pop("size")}
        await self.x.good(made, "POST", "/api/v3/trade/place-order" if self.unified else "/api/v2/spot/trade/place-order", body)

    def about(self, cid: bytes, *kinds: int) -> list[dict[str, Any]]:
        return [row for row in self.reports if row["cid"] == cid and row["kind"] in kinds]

    def filled(self, cid: bytes) -> list[dict[str, Any]]:
        return [row for row in self.reports if row["cid"] == cid and row["status"] == facts.FILLED]

    def held(self) -> list[int]:
        """What was pushed of the follower's holding, in lots."""
        return [event.qty for event in self.events if isinstance(event, AccountPosition)]

    def fills(self) -> list[LeaderFill]:
        return [event for event in self.leader_events if isinstance(event, LeaderFill)]

    def coins(self, name: str) -> dict[str, int]:
        """(asset -> all there is of it, e8) by the exchange's own books."""
        engine: Any = self.x.host.engine
        return {asset: free + locked for asset, free, locked in engine.balances(self.x.host.accounts.index[name])}

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
                self.parts.gateway.query(
                    row["cid"], order.account, INDEX, time.time_ns(), exposure=order.order_qty, ts_placed_ns=order.ts_decided)


async def until(done: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world(unified: bool) -> AsyncIterator[World]:
    async with exchange(lift=frozenset({"all"}), maker_ms=100, dialect=Dialect) as x:
        made = World(x, unified)
        try:
            await made.open()
            yield made
        finally:
            await made.parts.stop()


@GENERATIONS
async def test_bought_and_sold_to_the_last_lot(unified: bool) -> None:
    """An order fills, its commission is kept back of what is bought; all whole lots that are left are sold, a fraction stays."""
    async with world(unified) as w:
        await w.follow(0)
        bought = w.send(0, 1_001)
        await until(lambda: w.about(bought, facts.TRADE) and w.about(bought, facts.REPLY) and w.held())
        trades = w.about(bought, facts.TRADE)
        assert (w.filled(bought)[-1]["cum"], sum(row["last_qty"] for row in trades)) == (1_001, 1_001)
        # 0.1 % in lots as Q32, rounded up: one lot less is held, and a fraction of one
        assert {row["fee_base"] for row in trades} == {1}
        assert sum(row["fee"] for row in trades) - (1_001 << 32) // 1000 in range(9)
        assert w.held()[-1] == 999 and w.coins("follower-0")["BTC"] == 999_999
        assert [row for row in w.reports if row["kind"] == facts.BALANCE]
        sold = w.send(0, 999, side=-1)
        await until(lambda: w.filled(sold) and w.held()[-1] == 0)
        trades = w.about(sold, facts.TRADE)
        value = sum(row["last_qty"] * row["last_px"] for row in trades) * w.item.value_mul // w.item.value_div
        assert {row["fee_base"] for row in trades} == {0}
        assert 0 <= sum(row["fee"] for row in trades) - value // 1000 <= len(trades)
        assert w.coins("follower-0")["BTC"] == 999  # less than a lot: nobody sells that


@GENERATIONS
async def test_what_is_not_there_is_refused(unified: bool) -> None:
    """No money, nothing to sell, below the least value: definite, under the numbers the core knows; nobody is short."""
    async with world(unified) as w:
        await w.follow(0, balance="10")
        for qty, side, code in ((1_000, 1, -2019), (1_000, -1, -2019), (1, 1, -4164)):
            cid = w.send(0, qty, side)
            await until(lambda cid=cid: w.about(cid, facts.REJECT))
            assert w.about(cid, facts.REJECT)[0]["code"] == code
        assert w.coins("follower-0") == {"USDT": 10 * E8, "BTC": 0, "ETH": 0, "SOL": 0}


@GENERATIONS
async def test_a_bound_below_the_market_ends_unfilled(unified: bool) -> None:
    """Immediate or cancelled: an order that meets nobody at its price takes nothing and locks nothing."""
    async with world(unified) as w:
        await w.follow(0)
        cid = w.send(0, 1_000, px=w.marks[INDEX] * 9 // 10)
        await until(lambda: [row for row in w.about(cid, facts.STREAM) if row["status"] == facts.CANCELED and not row["cum"]])
        assert w.coins("follower-0")["USDT"] == 100_000 * E8


@GENERATIONS
@pytest.mark.parametrize("action", ["disconnect_live", "error_live"])
async def test_a_doubt_is_settled_by_asking(unified: bool, action: str) -> None:
    """The order was done, its answer lost with the connection or told as unknown: asked for, found, and never sent again. The
    pushes that tell of it are lost as well; its execution is asked for with its commission."""
    async with world(unified) as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", [
            {"action": action, "method": "place", "count": 1},
            *({"action": "drop_event", "event": name} for name in ("orders", "order", "fill", "fast-fill")),
        ])  # fmt: skip
        cid = w.send(0, 1_000)
        await until(lambda: w.filled(cid) and w.about(cid, facts.IN_DOUBT))
        w.parts.gateway.tell(cid, 0, INDEX, False)
        await until(lambda: sum(row["last_qty"] for row in w.about(cid, facts.TRADE)) == 1_000)
        assert {row["fee_base"] for row in w.about(cid, facts.TRADE)} == {1}
        assert len(await w.x.tell("GET", "/truth/orders")) == 1


@GENERATIONS
async def test_an_order_that_never_arrived_is_proven_absent(unified: bool) -> None:
    """Dropped on the way: neither the order nor the lists know it behind the fence, and what is held agrees."""
    async with world(unified) as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", {"action": "disconnect", "method": "place", "count": 1})
        cid = w.send(0, 1_000)
        await until(lambda: w.about(cid, facts.DEAD, facts.HELD))
        assert w.about(cid, facts.IN_DOUBT) and not await w.x.tell("GET", "/truth/orders")


@GENERATIONS
async def test_what_another_hand_does_is_told_once(unified: bool) -> None:
    """A follower's own trade is no order of ours: each execution is told once, and what is held then."""
    async with world(unified) as w:
        made, key = await w.account("follower-0")
        w.parts.register(0, "follower-0", key)
        await w.parts.streams.add_many([(0, key)])
        await w.trade(made, "buy", "600")
        await until(lambda: w.held())
        await asyncio.sleep(0.2)
        told = [event for event in w.events if isinstance(event, ExternalFill)]
        truth = await w.x.tell("GET", "/truth/trades?account=follower-0")
        assert len(told) == len(truth) and {event.trade_id for event in told} == {row["id"] for row in truth}
        assert w.held()[-1] == w.coins("follower-0")["BTC"] // 1_000


@GENERATIONS
async def test_a_leader_is_heard_live_and_what_he_did_meanwhile_is_found(unified: bool) -> None:
    """Each execution once; those while the connection was cut are found and are no news; kept back is not held."""
    async with world(unified) as w:
        made, key = await w.account("leader", balance="1000000")
        feed = w.parts.leader_feed(LeaderTerms(1, key, 5.0, 0.5))
        await feed.start(timeout_s=10)
        try:
            await w.trade(made, "buy", "60000")
            await until(lambda: w.fills())
            assert all(fill.live and fill.side == 1 for fill in w.fills())
            await w.x.tell("POST", "/disconnect", {"kind": "private"})
            await w.trade(made, "sell", "0.4")
            await until(lambda: sum(fill.qty for fill in w.fills() if fill.side < 0) == 40_000 and feed.synced)
            assert not [fill for fill in w.fills() if fill.side < 0 and fill.live]
            syncs = [event for event in w.leader_events if isinstance(event, LeaderSync) and event.synced]
            assert [p.qty for p in syncs[-1].positions] == [w.coins("leader")["BTC"] // 1_000]
            await w.trade(made, "sell", "0.1")
            await until(lambda: sum(fill.qty for fill in w.fills() if fill.side < 0) == 50_000)
            assert w.fills()[-1].live
            assert len({fill.exec_id for fill in w.fills()}) == len(w.fills())
        finally:
            await feed.stop()


@GENERATIONS
async def test_a_market_buy_in_parts_says_what_it_is_for(unified: bool) -> None:
    """Sized in the quote coin and filled at several prices: each execution bears about what the whole order buys; a plan of a
    fixed amount divides by it."""
    async with world(unified) as w:
        made, key = await w.account("leader", balance="10000000")
        feed = w.parts.leader_feed(LeaderTerms(1, key, 5.0, 10.0))
        await feed.start(timeout_s=10)
        try:
            await w.trade(made, "buy", "3000000")
            bought = sum(row["lots"] for row in await w.x.tell("GET", "/truth/positions?account=leader"))
            fee = 1 + bought // 999
            await until(lambda: sum(fill.qty for fill in w.fills()) >= bought)
            assert len(w.fills()) > 1 and sum(fill.qty for fill in w.fills()) <= bought + fee
            for fill in w.fills():
                assert abs(fill.order_qty - bought) <= bought // 50
            if not unified:
                assert w.fills()[-1].order_qty == sum(fill.qty for fill in w.fills())
        finally:
            await feed.stop()


@GENERATIONS
async def test_books_settings_flows_and_rights(unified: bool) -> None:
    """Wallet and equity with the coins at their price, holdings with what is locked, deposits and withdrawals, no funding, no
    position per side; a key that may trade futures alone may not trade."""
    async with world(unified) as w:
        made, key = await w.account("alice", balance="1000")
        rest = w.parts.rest
        since = rest.venue_clock.timestamp_ms() - 60_000
        await w.x.tell("POST", "/deposit", {"account": "alice", "asset": "BTC", "amount": "0.0123456"})
        await w.x.tell("POST", "/deposit", {"account": "alice", "amount": "-100.5"})
        ask = {"symbol": "BTCUSDT", "side": "sell", "orderType": "limit", "force": "gtc", "size": "0.01", "price": "70000"}
        if unified:
            ask |= {"category": "SPOT", "qty": ask.pop("size"), "timeInForce": ask.pop("force")}
        await w.x.good(made, "POST", "/api/v3/trade/place-order" if unified else "/api/v2/spot/trade/place-order", ask)
        books = await rest.books(key)
        assert (books.wallet_e8, books.available_e8) == (89_950_000_000, 89_950_000_000)
        assert books.positions == ((INDEX, 0, 1_234, 0),)
        coins = books.equity_e8 - books.wallet_e8
        assert abs(coins - 1_234_560 * w.marks[INDEX] // 100) < coins // 50
        [held] = await rest.positions(key)
        assert (held.instrument, held.qty, held.position_side, held.leverage) == (INDEX, 1_234, 0, 1)
        assert [amount for amount, _ in await rest.flows(key, since)] == [1_000 * E8, -10_050_000_000]
        assert await rest.fundings(key, since) == [] and not await rest.hedge_mode(key)
        assert (await w.parts.setup.snapshot(0, key)).positions == books.positions
        [state] = await w.parts.setup.activate(0, key, [(INDEX, 10)], hedge=True)
        assert (state.ready, state.leverage, state.hedge) == (True, 1, False)
        assert (await rest.rights(key)).trade
        if not unified:
            _, futures = await w.account("bob", rights={"authorities": ["coor", "coow", "stor"]})
            assert not (await rest.rights(futures)).trade


@GENERATIONS
async def test_nothing_is_asked_of_the_futures_account(unified: bool) -> None:
    """On spot alone no channel and no call is of the other market: its balance and its refusals are not this account's."""
    async with world(unified) as w:
        key = await w.follow(0)
        [channel] = w.parts.wire.channels(w.parts.rest.endpoints, key)
        assert not [text for _, text in channel.subscriptions if b"USDT-FUTURES" in text]
        await w.x.tell("POST", "/faults", [
            {"action": "error_dead", "method": f"GET {path}"} for path in (
                "/api/v3/position/current-position", "/api/v2/mix/position/all-position", "/api/v2/mix/account/account")])
        rest = w.parts.rest
        await rest.books(key)
        assert await rest.positions(key) == []
        await rest.set_hedge(key, True)
        assert (await rest.settings(key, w.item)).leverage == 1


@GENERATIONS
@pytest.mark.parametrize("lost", [
    ("orders", "order"), ("fill", "fast-fill", "account"), ("orders", "order", "fill", "fast-fill"),
])  # fmt: skip
async def test_lost_pushes_of_a_leader_are_found(unified: bool, lost: tuple[str, ...]) -> None:
    """What a channel would have told is told by another, or found by the comparison with what he holds: each execution once."""
    async with world(unified) as w:
        made, key = await w.account("leader", balance="1000000")
        feed = w.parts.leader_feed(LeaderTerms(1, key, 5.0, 0.2))
        await feed.start(timeout_s=10)
        try:
            await w.trade(made, "buy", "60000")
            await until(lambda: w.fills())
            await w.x.tell("POST", "/faults", [{"action": "drop_event", "account": "leader", "event": name} for name in lost])
            await w.trade(made, "sell", "0.5")
            await until(lambda: sum(fill.qty for fill in w.fills() if fill.side < 0) == 50_000)
            await asyncio.sleep(0.2)
            truth = await w.x.tell("GET", "/truth/trades?account=leader")
            assert sorted(fill.exec_id for fill in w.fills()) == sorted(row["id"] for row in truth)
        finally:
            await feed.stop()
