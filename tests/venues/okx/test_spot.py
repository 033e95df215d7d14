"""The venue's spot market, wired as the daemon wires it, against its dialect: orders out, reports back, a leader heard."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from array import array
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import OrderRow
from copyd.venues.common import facts
from copyd.venues.common.facts import LeaderFill, LeaderSync, Placed
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import TradeTold
from copyd.venues.okx.codec import BalanceDetail, commission, cost_e8, equity_e8, held_lots, read_private
from copyd.venues.okx.instruments import PRICE_ROOM, load_instruments
from copyd.venues.okx.parts import KIND
from tests.exchange.okx_bench import SPOT, Bench, exchange, key_of
from tests.venues.okx import samples

SITE = "cd07"
ORDERS = 7
REPORT = struct.Struct("=16s8qIi3B5x")
NAMES = (
    "cid", "cum", "cost", "last_qty", "last_px", "fee", "trade", "order", "event", "account", "code", "kind", "status",
    "fee_base")
TERMS = {"recv_window_ms": 1_000, "engine_delay_ms": 200, "read_lag_ms": 100, "guard_ms": 100, "order_ack_timeout_ms": 500}
#: 0.1 BTC, of which the venue keeps 500 lots back.
QTY, FEE = 1_000_000, 500
Q32 = 1 << 32
RATES = {"maker_ppm": 500, "taker_ppm": 500}


class World:
    """One adapter, what it reported, and the exchange."""

    def __init__(self, x: Bench) -> None:
        self.x = x
        self.reports: list[dict[str, Any]] = []
        self.leader_events: list[Any] = []
        self.marks: dict[int, int] = {}
        self.orders: dict[bytes, tuple[int, OrderRow]] = {}
        hooks = Hooks(**{
            **{name: lambda *_: None for name in Hooks._fields}, "clock": time.time_ns, "on_reports": self._reports,
            "on_leader_event": self.leader_events.append, "placed": self._placed,
            "on_marks": lambda marks: self.marks.update({mark.instrument: mark.mark for mark in marks}),
            "last_mark": lambda index: self.marks.get(index, 0), "is_known": self.orders.__contains__,
            "expected": lambda *_: (0, 0, True), "site_tag": SITE,
        })  # fmt: skip
        self.parts = SessionParts(KIND, KIND.contract.overridden(TERMS), x.endpoints, Terms(100_000, 2_000, True), hooks)
        self.columns = Columns(8)
        self._ids = itertools.count(1)

    async def open(self) -> None:
        await self.parts.open(SPOT, 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)
        await until(lambda: len(self.marks) == len(SPOT))

    async def follow(self, number: int, **order: Any) -> Key:
        """A follower that is listened to."""
        key = await self.x.key(f"follower-{number}", **{**RATES, **order})
        self.parts.register(number, f"follower-{number}", key)
        problems: dict[int, str] = {}
        await self.parts.streams.add_many([(number, key)], on_done=problems.__setitem__)
        assert problems == {number: ""}
        return key

    def send(self, account: int, qty: int = QTY, side: int = 1, px: int = 0) -> bytes:
        """Write an order into the tables, render and send it as the pump does."""
        cid = bytes.fromhex(SITE + "00002a") + next(self._ids).to_bytes(11, "big")
        slot = self.columns.add_order(cid)
        row = OrderRow(
            cid=cid, order_qty=qty, limit_px=px, account=account, instrument=0, side=side, kind=0, state=1,
            ts_decided=time.time_ns())
        self.columns.put(ORDERS, slot, row.pack())
        self.orders[cid] = slot, row
        gateway = self.parts.gateway
        gateway.send(gateway.render(gateway.arrange(array("I", [slot]), 1)))
        return cid

    def about(self, cid: bytes, kind: int) -> list[dict[str, Any]]:
        return [row for row in self.reports if row["cid"] == cid and row["kind"] == kind]

    def filled(self, cid: bytes) -> bool:
        return any(row["cid"] == cid and row["status"] == facts.FILLED and row["cum"] == QTY for row in self.reports)

    def orders_made(self) -> int:
        return int(self.x.host.engine.n_orders())

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
                    row["cid"], order.account, 0, now, exposure=order.order_qty, ts_placed_ns=order.ts_decided)

    def fills(self) -> list[LeaderFill]:
        return [event for event in self.leader_events if isinstance(event, LeaderFill)]

    def synced(self) -> list[LeaderSync]:
        return [event for event in self.leader_events if isinstance(event, LeaderSync) and event.synced]

    async def trade(self, key: Key, side: str, size: str) -> None:
        """Somebody's market order by his own hand, sized in the base asset."""
        fields = {"instId": "BTC-USDT", "tdMode": "cash", "side": side, "ordType": "market", "sz": size, "tgtCcy": "base_ccy"}
        _, body = await self.x.raw(key, "POST", "/api/v5/trade/order", fields)
        assert body["code"] == "0", body

    @contextlib.asynccontextmanager
    async def leader(self, key: Key, position_poll_s: float = 10.0) -> AsyncIterator[Any]:
        feed = self.parts.leader_feed(LeaderTerms(1, key, 5.0, position_poll_s))
        await feed.start(timeout_s=10)
        try:
            yield feed
        finally:
            await feed.stop()


async def until(done: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with exchange(spot=True, lift=frozenset({"all"}), maker_ms=100) as x:
        made = World(x)
        try:
            await made.open()
            yield made
        finally:
            await made.parts.stop()


# --- orders --------------------------------------------------------------------------------------------------------------------


async def test_what_is_bought_is_sold_less_the_fee() -> None:
    """The commission of a buy is kept back of the coins, that of a sale of the money; afterwards nothing is held."""
    async with world() as w:
        key = await w.follow(0)
        bought = w.send(0)
        await until(lambda: w.about(bought, facts.TRADE) and w.about(bought, facts.REPLY))
        trades = w.about(bought, facts.TRADE)
        assert sum(row["last_qty"] for row in trades) == QTY and {row["fee_base"] for row in trades} == {1}
        assert sum(row["fee"] for row in trades) == FEE * Q32
        assert [(row.qty, row.leverage, row.position_side) for row in await w.parts.rest.positions(key)] == [(QTY - FEE, 1, 0)]
        assert await w.parts.position(key, w.parts.instruments[0]) == (QTY - FEE, 0)
        sold = w.send(0, QTY - FEE, side=-1)
        await until(lambda: w.about(sold, facts.TRADE))
        (trade,) = w.about(sold, facts.TRADE)
        # rounded up, as every commission here
        assert trade["fee_base"] == 0 and trade["fee"] == -(-trade["last_qty"] * trade["last_px"] * 500 // 10**6)
        assert await w.parts.rest.positions(key) == []
        balances = [row for row in w.reports if row["kind"] == facts.BALANCE]
        books = await w.parts.rest.books(key)
        assert balances[-1]["cost"] == books.wallet_e8 == books.equity_e8 == books.available_e8 < 100_000 * 10**8


async def test_an_opening_is_an_ioc_limit_order_in_the_base_asset() -> None:
    """What its limit does not reach is not bought, and it ends."""
    async with world() as w:
        await w.follow(0)
        bid, ask = w.x.best()
        cid = w.send(0, px=bid)
        await until(lambda: [row for row in w.reports if row["cid"] == cid and row["status"] == facts.CANCELED])
        assert not w.about(cid, facts.TRADE)
        order = w.x.host.engine.order(0)
        assert (order[12], order[13]) == (QTY, bid) and bid < ask


async def test_no_money_is_a_refusal_the_core_knows() -> None:
    """Neither money for a buy nor coins for a sale: refused, with nothing done."""
    async with world() as w:
        await w.follow(0, balance="10")
        for side in (1, -1):
            refused = w.send(0, side=side)
            await until(lambda cid=refused: w.about(cid, facts.REJECT))
            assert w.about(refused, facts.REJECT)[0]["code"] == -2019
        assert w.orders_made() == 0


async def test_an_order_below_the_least_quantity_is_a_refusal_the_core_knows() -> None:
    """The venue's own minimum, which no lot says."""
    async with world() as w:
        await w.follow(0)
        refused = w.send(0, qty=w.parts.instruments[0].lot_min - 1)
        await until(lambda: w.about(refused, facts.REJECT))
        assert w.about(refused, facts.REJECT)[0]["code"] == -4164


async def test_an_answer_that_never_comes_is_settled_by_the_venues_word() -> None:
    """Executed though told unknown: found. Dropped on the way: proven absent behind the fence. No order is sent twice."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("/faults", {"action": "error_live", "method": "place", "count": 1})
        live = w.send(0)
        await until(lambda: w.filled(live))
        await w.x.tell("/faults", {"action": "drop_request", "method": "place", "count": 1})
        dead = w.send(0)
        await until(lambda: w.about(dead, facts.DEAD) or w.about(dead, facts.HELD))
        assert w.about(dead, facts.IN_DOUBT) and w.orders_made() == 1


async def test_a_connection_cut_after_the_write_is_a_doubt_that_is_settled() -> None:
    """The order was done, its answer and events lost with the connection: a query finds it, and its executions with their fee."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("/faults", {"action": "disconnect_live", "method": "place", "count": 1})
        cid = w.send(0)
        await until(lambda: w.filled(cid))
        assert w.orders_made() == 1
        w.parts.gateway.tell(cid, 0, 0, False)
        await until(lambda: w.about(cid, facts.TRADE))
        assert [(row["fee"], row["fee_base"]) for row in w.about(cid, facts.TRADE)] == [(FEE * Q32, 1)]


async def test_an_order_goes_by_rest_while_its_connection_is_down() -> None:
    """The same order in the venue's other words."""
    async with world() as w:
        await w.follow(0)
        for line in w.parts.sessions.lines(0):
            await line.link.stop()
        await until(lambda: not w.parts.sessions.open_lines)
        cid = w.send(0)
        await until(lambda: w.about(cid, facts.REPLY))
        assert w.parts.gateway.stats.by_rest == 1 and w.x.host.engine.order(0)[14] == QTY


async def test_accounts_are_ready_where_spot_can_be_paid_in_cash() -> None:
    """Nothing is set, whatever position mode is wanted; an account of the common margin cannot take our orders."""
    async with world() as w:
        plain = await w.x.key("plain")
        sided = await w.x.key("sided", rights={"acctLv": "2", "posMode": "long_short_mode"})
        common = await w.x.key("common", rights={"acctLv": "3"})
        for key, hedge in ((plain, True), (sided, False)):
            (state,) = await w.parts.setup.activate(0, key, [(0, 5)], hedge=hedge)
            assert (state.ready, state.isolated, state.leverage) == (True, True, 1)
        (state,) = await w.parts.setup.activate(0, common, [(0, 5)], hedge=False)
        assert (state.ready, state.reason) == (False, "account_cannot_trade")


# --- a leader -----------------------------------------------------------------------------------------------------------------


async def test_a_leader_is_heard_live_and_what_was_missed_is_back_filled() -> None:
    """Each execution once; what happened while nobody listened is found and is no news. The account keeps two sides of
    perpetuals, which says nothing of what is bought here."""
    async with world() as w:
        key = await w.x.key("leader", maker_ppm=0, taker_ppm=0, rights={"acctLv": "2", "posMode": "long_short_mode"})
        async with w.leader(key) as feed:
            await w.trade(key, "buy", "0.01")
            await until(lambda: len(w.fills()) == 1)
            await w.x.tell("/disconnect", {"kind": "private"})
            await w.trade(key, "sell", "0.004")
            await until(lambda: len(w.fills()) == 2 and feed.synced)
            await w.trade(key, "buy", "0.002")
            await until(lambda: len(w.fills()) == 3)
            assert [(f.side * f.qty, f.live) for f in w.fills()] == [(100_000, True), (-40_000, False), (20_000, True)]
            assert [p.qty for p in w.synced()[-1].positions] == [60_000]


async def test_a_leader_whose_commission_is_taken_from_what_he_buys_stays_in_sync() -> None:
    """His holding is less than his executions add up to: each is live all the same, and the comparison takes the holding over."""
    async with world() as w:
        key = await w.x.key("leader", **RATES)
        await w.x.tell("/deposit", {"account": "leader", "amount": "1", "asset": "ETH"})
        async with w.leader(key, 0.5) as feed:
            assert [(p.instrument, p.qty) for p in w.synced()[-1].positions] == [(1, 1_000_000)], "what he held before"
            for number in range(3):
                await w.trade(key, "buy", "0.01")
                await until(lambda wanted=number + 1: len(w.fills()) == wanted)
            assert [(f.qty, f.live) for f in w.fills()] == [(100_000, True)] * 3
            await until(lambda: feed.stats.syncs > 1 and feed.synced)
            assert [p.qty for p in w.synced()[-1].positions if not p.instrument] == [299_850]
            await w.trade(key, "sell", "0.029985")
            await until(lambda: len(w.fills()) == 4)
            assert w.fills()[-1].live


async def test_each_execution_of_an_order_by_value_is_its_share_of_the_value() -> None:
    """A market buy names money: whoever sizes by the leader's order buys his amount once, and not once per execution."""
    async with world() as w:
        key, other = await w.x.key("leader"), await w.x.key("other")
        await w.x.tell("/deposit", {"account": "other", "amount": "1", "asset": "BTC"})
        middle = w.x.host.engine.mark(0)  # where the makers quote nothing
        for n in range(3):
            offer = {"instId": "BTC-USDT", "tdMode": "cash", "side": "sell", "ordType": "limit", "sz": f"0.{n + 1}",
                     "px": str(Decimal(middle - 3 + 3 * n) / 10)}  # fmt: skip
            assert (await w.x.raw(other, "POST", "/api/v5/trade/order", offer))[1]["code"] == "0"
        async with w.leader(key):
            fields = {"instId": "BTC-USDT", "tdMode": "cash", "side": "buy", "ordType": "market", "sz": "30000"}
            assert (await w.x.raw(key, "POST", "/api/v5/trade/order", fields))[1]["code"] == "0"
            await until(lambda: len(w.fills()) == 3)
            assert all(fill.live and fill.order_qty >= fill.qty for fill in w.fills())
            share = sum(Decimal(fill.qty) / fill.order_qty for fill in w.fills())
            assert abs(share - 1) < Decimal("0.000002")


async def test_a_leaders_equity_counts_his_coins() -> None:
    """Money and what his coins are worth, whichever of the two he has; coins of no instrument of ours are not counted."""
    async with world() as w:
        key = await w.x.key("leader", balance="60000")
        before = await w.parts.rest.books(key)
        await w.trade(key, "buy", "0.9")
        books = await w.parts.rest.books(key)
        assert before.equity_e8 * 99 // 100 < books.equity_e8 < before.equity_e8 and books.wallet_e8 < 6_100 * 10**8
        engine = w.x.host.engine
        account = w.x.host.accounts.index["leader"]
        coins = engine.balance(account, "BTC")[0] * engine.mark(0) * engine.specs[0].tick_e8 // 10**8
        assert books.equity_e8 == books.wallet_e8 + coins
        assert [row[:3] for row in books.positions] == [(0, 0, 8_995_500)]


# --- what is read ---------------------------------------------------------------------------------------------------------------

amounts = st.decimals(min_value="0", max_value="100000", places=12)


@given(amounts, amounts, st.decimals(min_value="1", max_value="100000", places=6), st.decimals("0.9", "1.1", places=4))
def test_equity_is_money_and_the_value_of_the_coins(money: Decimal, coins: Decimal, price: Decimal, rate: Decimal) -> None:
    """The venue values all in dollars; what a dollar is of the asset that pays follows from the account's own, if it has any."""
    details = [
        BalanceDetail("USDT", eq=f"{money:f}", eqUsd=f"{money * rate:f}"),
        BalanceDetail("BTC", eq=f"{coins:f}", eqUsd=f"{coins * price * rate:f}"),
        BalanceDetail("ETH", eq="1", eqUsd="3000"),
    ]  # fmt: skip
    exact = money + coins * price * (1 if money * rate >= 1 else rate)
    assert abs(Decimal(equity_e8(details, "USDT", {"BTC"})) / 10**8 - exact) <= (1 + exact) * Decimal("0.00000003")
    assert equity_e8(details, "USDT", set()) == int(money * 10**8)


def test_coins_without_a_value_are_no_equity() -> None:
    """What the venue does not value, and an asset that pays of which there is none and that is no dollar: said, not guessed."""
    money = BalanceDetail("USDT", eq="5", eqUsd="5")
    with pytest.raises(ValueError, match="what BTC is worth"):
        equity_e8([money, BalanceDetail("BTC", eq="1")], "USDT", {"BTC"})
    with pytest.raises(ValueError, match="holds no EUR"):
        equity_e8([BalanceDetail("BTC", eq="1", eqUsd="60000")], "EUR", {"BTC"})
    assert equity_e8([BalanceDetail("BTC", eq="1", eqUsd="60000")], "USDT", {"BTC"}) == 60_000 * 10**8
    assert equity_e8([money, BalanceDetail("BTC", eq="0")], "USDT", {"BTC"}) == 5 * 10**8


@pytest.mark.parametrize("text", ["x", "-", "1e-7", "NaN", "-9" * 12, "--1", "-0.5x"])
def test_a_fee_that_is_none_spoils_its_own_message_alone(instruments: Instruments, text: str) -> None:
    """Nothing that a counterparty writes is raised where it is booked: it is unreadable, and told so."""
    row = {"instId": "BTC-USDT", "ordId": "7", "state": "filled", "side": "buy", "sz": "1", "ordType": "market", "posSide": "net",
           "tgtCcy": "base_ccy", "accFillSz": "1", "avgPx": "60000", "fillPx": "60000", "fillSz": "1", "fillTime": "5",
           "tradeId": "9", "uTime": "5", "fillFeeCcy": "BTC"}  # fmt: skip
    for fee, kind in ((text, facts.Malformed), ("-0.0005", TradeTold), ("", TradeTold)):
        frame = orjson.dumps({"arg": {"channel": "orders"}, "data": [{**row, "fillFee": fee}]})
        (told,) = read_private(frame, instruments, 1)
        assert type(told) is kind, told


def test_commissions_and_costs_beyond_all_books_are_unreadable(instruments: Instruments) -> None:
    """What would not fit where it is booked is refused where it is read."""
    item = instruments.find("BTC-USDT")
    assert item is not None
    lot = Decimal(item.lot) / 10**item.qty_decimals
    assert commission(f"-{(1 << 31) * lot - lot:f}", "BTC", item) == f"{(1 << 31) * lot - lot:f}"
    with pytest.raises(ValueError, match="a commission of"):
        commission(f"-{(1 << 31) * lot:f}", "BTC", item)
    assert commission("-90000000000", "USDT", item) == "90000000000"
    with pytest.raises(ValueError, match="cost more than can be booked"):
        cost_e8(item, "900000", 1 << 60)


def test_whole_lots_are_held(instruments: Instruments) -> None:
    """However many digits the venue writes; what is less than a lot is not held."""
    item = instruments.find("BTC-USDT")
    assert item is not None
    assert held_lots(BalanceDetail("BTC", cashBal="0.12345678999999999999"), item) == 12_345_678
    assert held_lots(BalanceDetail("BTC", cashBal="0.000000009999"), item) == 0 == held_lots(BalanceDetail("BTC"), item)


def test_instruments_that_share_an_account(instruments: Instruments) -> None:
    """One spot instrument for an asset, one asset that pays for all: what stands in balances could not be told apart."""
    usdc = {**samples.SPOT, "instId": "BTC-USDC", "quoteCcy": "USDC", "instIdCode": 8}
    again = {**samples.SPOT, "instId": "BTC-USDT2", "instIdCode": 9}
    body = samples.body(samples.BTC, samples.SPOT, usdc, again)
    assert len(load_instruments([body], [(0, "BTC-USDT"), (1, "BTC-USDT-SWAP")])) == 2
    with pytest.raises(ValueError, match="BTC-USDT2: BTC is what BTC-USDT trades; one market for an asset"):
        load_instruments([body], [(0, "BTC-USDT"), (1, "BTC-USDT2")])
    with pytest.raises(ValueError, match="BTC-USDC: paid in USDC, BTC-USDT-SWAP in USDT; one wallet"):
        load_instruments([body], [(0, "BTC-USDT-SWAP"), (1, "BTC-USDC")])


def test_the_largest_market_order_is_a_value(instruments: Instruments) -> None:
    """In lots at a price with room to rise; without one the venue's refusal is all there is."""
    listed, tickers = samples.body(samples.SPOT), samples.body({"instId": "BTC-USDT", "instType": "SPOT", "last": "60000.5"})
    item = load_instruments([listed, tickers], [(0, "BTC-USDT")])[0]
    value, lot = Decimal(samples.SPOT["maxMktSz"]), Decimal(samples.SPOT["lotSz"])
    room = Decimal("60000.5") * PRICE_ROOM * lot
    assert item.market_lot_max * room <= value < (item.market_lot_max + 1) * room
    silent = samples.body({"instId": "BTC-USDT", "instType": "SPOT", "last": ""})
    for bodies in ([listed], [listed, silent]):
        plain = load_instruments(bodies, [(0, "BTC-USDT")])[0]
        assert plain.market_lot_max == plain.lot_max == item.lot_max


async def test_refusals_by_rest_say_what_the_connection_says() -> None:
    """No money, in either way in."""
    async with exchange(spot=True) as x:
        key = key_of(await x.account(balance="10"))
        with pytest.raises(RestError) as caught:
            await x.rest.place(key, x.order(qty=QTY))
        assert caught.value.verdict == (Outcome.DEFINITE_REJECT, "margin", 51008)
