"""The spot side of the venue: what its frames say, and its parts wired as the daemon wires them against its dialect."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import orjson
import pytest

from copyd._fast.columns import Columns, ReportBatch
from copyd.core.rows import OrderRow
from copyd.exchange.bybit_spot import Dialect
from copyd.venues.bybit import codec
from copyd.venues.bybit.contract import Endpoints
from copyd.venues.bybit.parts import KIND
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common import facts, told
from copyd.venues.common.facts import AccountPosition, LeaderFill, LeaderSync, Placed
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.names import Names
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Settings
from tests.exchange.bybit_bench import Bench, exchange
from tests.venues.bybit.conftest import INSTRUMENTS

SITE = "cd07"
INDEX = 3
ORDERS = 7
REPORT = struct.Struct("=16s8qIi3B5x")
NAMES = (
    "cid", "cum", "cost", "last_qty", "last_px", "fee", "trade", "order", "event", "account", "code", "kind", "status",
    "fee_base")
TERMS = {"recv_window_ms": 1_000, "engine_delay_ms": 200, "read_lag_ms": 100, "guard_ms": 100, "order_ack_timeout_ms": 500}
FEES = {"maker_ppm": 1000, "taker_ppm": 1000}
PAIR = {"category": "spot", "symbol": "BTCUSDT"}
BUY = {**PAIR, "side": "Buy", "orderType": "Market", "qty": "600"}
ONE_LOT = 1 << 32


# -- frames -------------------------------------------------------------------------------------------------------------------
def frame(topic: str, *rows: dict[str, Any]) -> bytes:
    return orjson.dumps({"topic": topic, "creationTime": 1_700_000_000_000, "data": rows})


def execution(quantity: str = "0.01", **more: Any) -> dict[str, Any]:
    """One execution of a market buy of 1,500 USDT."""
    return {
        "category": "spot", "symbol": "BTCUSDT", "execId": "e1", "orderId": "o1", "orderLinkId": "", "side": "Buy",
        "execPrice": "50000.00", "execQty": quantity, "execValue": f"{float(quantity) * 50_000:g}", "execType": "Trade",
        "execTime": "1700000000000", "execFee": "0.00001", "feeCurrency": "BTC", "orderQty": "1500", "leavesQty": "0",
        "orderType": "Market", "isMaker": False, **more,
    }  # fmt: skip


def read(*rows: dict[str, Any], wire: BybitWire | None = None, topic: str = "execution") -> list[Any]:
    wire = wire or made_wire()
    return list(wire.read("private", frame(topic, *rows), 9))


def made_wire() -> BybitWire:
    wire = BybitWire(Names())
    wire.bind(INSTRUMENTS)
    return wire


def sizes(*rows: dict[str, Any], wire: BybitWire | None = None) -> list[int]:
    return [one.execution.order_qty for one in read(*rows, wire=wire)]


def test_the_size_of_an_order_in_the_quote_asset_is_what_it_buys_at_the_price() -> None:
    """Each of its executions says the same size, however many there are: 1,500 USDT at 50,000 are 30,000 lots."""
    rows = [execution("0.01", execId=f"e{n}") for n in range(3)]
    assert sizes(*rows) == [30_000] * 3
    assert sizes(execution("0.01", execPrice="60000.00", execValue="600")) == [25_000]


@pytest.mark.parametrize("price", ["50000.00", "3.00", "0.50"])
def test_the_size_of_an_order_in_the_base_asset_is_its_own(price: str) -> None:
    """A buy that its owner sized so is known by what is left of it after its first execution, be the price above 1 or below."""
    worth = f"{0.2 * float(price):g}"
    rows = [
        execution("0.2", execId=f"e{n}", execPrice=price, execValue=worth, orderQty="1", leavesQty=f"{0.8 - 0.2 * n:.1f}")
        for n in range(4)
    ]
    assert sizes(*rows) == [1_000_000] * 4
    assert sizes(execution("0.2", orderQty="1", side="Sell", execPrice=price, execValue=worth)) == [1_000_000]
    limit = execution("0.2", orderQty="1", orderType="Limit", leavesQty="", execPrice=price, execValue=worth)
    assert sizes(limit) == [1_000_000]


def test_what_an_order_says_of_its_unit_counts() -> None:
    """Told before its executions, it needs no guess."""
    wire = made_wire()
    order = {
        "category": "spot", "symbol": "BTCUSDT", "orderId": "o1", "side": "Sell", "orderStatus": "New", "orderType": "Market",
        "qty": "1500", "updatedTime": "1700000000000", "marketUnit": "quoteCoin",
    }  # fmt: skip
    read(order, wire=wire, topic="order")
    assert sizes(execution("0.01", side="Sell"), wire=wire) == [30_000]
    assert sizes(execution("0.01", side="Sell", orderQty="0.5")) == [500_000]


def test_an_execution_that_says_no_size_has_none() -> None:
    """The thin one, and one from a list without the kind of its order."""
    assert sizes(execution(orderQty="")) == sizes(execution(orderType="")) == [0]
    (said,) = read(execution(execPrice="0", execValue="0"))
    assert isinstance(said, facts.Malformed)


def test_a_size_that_no_order_has_is_unreadable() -> None:
    """More lots than fit 63 bits end in no number that something behind could not hold."""
    item = msgspec.structs.replace(INSTRUMENTS[7], index=9, symbol="XUSDT_SPOT", price_decimals=8, qty_decimals=8)
    wire = BybitWire(Names())
    wire.bind(Instruments((item,)))
    whole = execution("1", symbol="XUSDT", execPrice="0.00000001", execValue="0.1", orderQty="9000000000", leavesQty="5")
    (said,) = read(whole, wire=wire)
    assert isinstance(said, facts.Malformed) and "no size" in said.why


def test_a_sale_reduces_what_is_held() -> None:
    """A leader's sale of what he was not heard to buy is not believed before that is found."""
    assert [one.execution.realised for one in read(execution(side="Sell"), execution(execId="e2"))] == [True, False]


def test_a_market_buy_of_somebody_else_that_ended_was_as_large_as_it_became() -> None:
    """While it is open its size in lots is not told; of an order of ours it is never taken for told."""
    row = {
        "category": "spot", "symbol": "BTCUSDT", "orderId": "o1", "side": "Buy", "orderStatus": "PartiallyFilled",
        "orderType": "Market", "qty": "1500", "marketUnit": "quoteCoin", "cumExecQty": "0.02", "updatedTime": "1700000000000",
    }  # fmt: skip
    assert [one.order_qty for one in read(row, topic="order")] == [0]
    ended = {**row, "orderStatus": "PartiallyFilledCanceled"}
    (one,) = read(ended, topic="order")
    assert (one.order_qty, one.cum_qty, one.status) == (20_000, 20_000, facts.CANCELED)
    assert [one.order_qty for one in read({**ended, "orderLinkId": "0" * 32}, topic="order")] == [0]


def test_a_rebate_is_paid_in_the_other_asset() -> None:
    """Where the venue does not say: a maker who is paid for a buy is in the quote asset; whoever pays, pays in what he gets."""
    assert [one.fee_asset for one in read(execution(feeCurrency="", isMaker=True, execFee="-0.5"))] == ["USDT"]
    assert [one.fee_asset for one in read(execution(feeCurrency="", isMaker=True))] == ["BTC"]
    assert [one.fee_asset for one in read(execution(feeCurrency="", side="Sell", isMaker=True, execFee="-0.1"))] == ["BTC"]


def test_a_pushed_wallet_tells_what_is_held() -> None:
    """Whole lots of base assets of ours that it names, with what open orders have locked; nothing of what it does not name."""
    coins = [{"coin": "BTC", "walletBalance": "0.0123456789", "locked": "0.01"}, {"coin": "USDT", "walletBalance": "7.5"},
             {"coin": "BTT", "walletBalance": "200000000000"}]  # fmt: skip
    said = read({"coin": coins}, topic="wallet")
    wallet, held = said  # of coins that pay for nothing of ours nothing is said: there may be more of one than books can count
    assert (wallet.asset, wallet.wallet_e8) == ("USDT", 750_000_000)
    assert (held.position.instrument, held.position.qty, held.position.source) == (7, 12_345, "push")
    assert not [one for one in read({"coin": coins[1:]}, topic="wallet") if isinstance(one, told.PositionTold)]


def test_what_is_held_counts_in_equity_and_what_is_locked_is_not_free() -> None:
    """At the prices given, rounded down; a part of a lot too."""
    coins = [{"coin": "USDT", "walletBalance": "100", "equity": "100", "locked": "30"},
             {"coin": "BTC", "walletBalance": "0.0000015", "equity": "0.0000015"}]  # fmt: skip
    wallet = msgspec.convert({"coin": coins, "totalAvailableBalance": "500"}, codec.WalletRow)
    assert [item.index for item in codec.held_pairs(wallet, INSTRUMENTS)] == [7]
    found = codec.books(wallet, [], INSTRUMENTS, 5, {7: "60000.01"})
    assert (found.wallet_e8, found.available_e8, found.equity_e8) == (100_00000000, 70_00000000, 100_09000001)
    assert found.positions == ((7, 0, 1, 0),)


# -- against the dialect ------------------------------------------------------------------------------------------------------
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
            "expected": lambda *_: (0, 0, True), "is_hedge": lambda account: False, "site_tag": SITE,
        })  # fmt: skip
        self.parts = SessionParts(
            KIND, KIND.contract.overridden(TERMS), Endpoints.at(x.rest, x.ws), Terms(100_000, 2_000, True), hooks)
        self.columns = Columns(8)
        self._ids = itertools.count(1)

    async def open(self) -> None:
        await self.parts.open([(INDEX, "BTCUSDT_SPOT")], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)
        await until(lambda: INDEX in self.marks)

    async def follow(self, number: int, **order: Any) -> dict[str, Any]:
        account = await self.x.account(f"follower-{number}", **{**FEES, **order})
        key = key_of(account)
        self.parts.register(number, f"follower-{number}", key)
        problems: dict[int, str] = {}
        await self.parts.streams.add_many([(number, key)], on_done=problems.__setitem__)
        assert problems == {number: ""}
        await until(lambda: all(line.open for line in self.parts.sessions.lines(number)))
        return account

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

    def held(self) -> list[int]:
        return [event.qty for event in self.events if isinstance(event, AccountPosition)]

    def fills(self) -> list[LeaderFill]:
        return [event for event in self.leader_events if isinstance(event, LeaderFill)]

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


def key_of(account: dict[str, Any]) -> Key:
    return Key(account["api_key"].encode(), account["secret"].encode())


async def until(done: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with exchange(dialect=Dialect, lift=frozenset({"all"}), maker_ms=100) as x:
        made = World(x)
        try:
            await made.open()
            yield made
        finally:
            await made.parts.stop()


async def test_bought_and_sold_out_with_the_commission_in_what_is_received() -> None:
    """The answer, the execution with its fee, the order, the holding and the wallet; all that is held can be sold."""
    async with world() as w:
        await w.follow(0)
        bought = w.send(0, 10_000)
        await until(lambda: w.about(bought, facts.TRADE) and w.about(bought, facts.STREAM))
        assert [row["status"] for row in w.about(bought, facts.REPLY)] == [facts.NEW]
        [trade], order = w.about(bought, facts.TRADE), w.about(bought, facts.STREAM)[-1]
        # 0.1 % of 10,000 lots, kept back of what was bought; the fee comes with the quantity it is taken from
        assert (trade["fee_base"], trade["fee"], trade["last_qty"], trade["cum"]) == (1, 10 * ONE_LOT, 10_000, 10_000)
        assert (order["status"], order["cum"]) == (facts.FILLED, 10_000) and order["cost"] > 599 * 10**8
        await until(w.held)
        assert w.held() == [9_990] and [row for row in w.reports if row["kind"] == facts.BALANCE]
        sold = w.send(0, 9_990, side=-1)
        await until(lambda: w.about(sold, facts.TRADE) and len(w.held()) == 2)
        [trade] = w.about(sold, facts.TRADE)
        # 0.1 % of 0.00999 BTC, at a mark near 60,000: about 0.6 USDT
        assert (trade["fee_base"], trade["cum"]) == (0, 0) and 55_000_000 < trade["fee"] < 65_000_000
        assert w.held()[-1] == 0


async def test_a_limit_order_takes_what_there_is_at_its_price_and_no_more() -> None:
    """IOC: filled in part and cancelled, in one status of the venue's that only spot has."""
    async with world() as w:
        await w.follow(0)
        ask, ask_qty = w.x.host.engine.top(0)[2:]
        await w.x.tell("POST", "/deposit", {"account": "follower-0", "amount": "100000000"})
        cid = w.send(0, ask_qty + 1_000, px=ask)
        await until(lambda: [row for row in w.about(cid, facts.STREAM) if row["status"] == facts.CANCELED])
        assert w.about(cid, facts.STREAM)[-1]["cum"] == sum(row["last_qty"] for row in w.about(cid, facts.TRADE)) == ask_qty


async def test_refusals_bear_the_number_the_core_knows_them_by() -> None:
    """No money, nothing to sell, too little of it."""
    async with world() as w:
        await w.follow(0, balance="10")
        for qty, side, code in ((10_000, 1, -2019), (10_000, -1, -2019), (50, 1, -4164), (20, 1, -4164)):
            cid = w.send(0, qty, side=side)
            await until(lambda cid=cid: w.about(cid, facts.REJECT))
            assert w.about(cid, facts.REJECT)[0]["code"] == code, (qty, side)


@pytest.mark.parametrize("action", ["error_live", "disconnect_live", "drop_reply"])
async def test_an_order_that_was_done_and_not_told_of_is_found(action: str) -> None:
    """By the venue's word, not by sending it again: the answer was lost, with its connection or without."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", {"action": action, "method": "place", "count": 1})
        cid = w.send(0, 10_000)
        await until(lambda: [r for r in w.reports if r["cid"] == cid and r["status"] == facts.FILLED and r["cum"] == 10_000])
        await until(lambda: w.parts.gateway.queries_open == 0 or w.about(cid, facts.REPLY))
        assert len(await w.x.tell("GET", "/truth/orders")) == 1


async def test_an_order_that_never_arrived_is_proven_absent() -> None:
    """Behind its fence, by all of the venue's lists."""
    async with world() as w:
        await w.follow(0)
        await w.x.tell("POST", "/faults", {"action": "drop_request", "method": "place", "count": 1})
        cid = w.send(0, 10_000)
        await until(lambda: w.about(cid, facts.DEAD))
        assert w.about(cid, facts.IN_DOUBT) and not await w.x.tell("GET", "/truth/orders")


async def test_a_leader_is_heard_and_what_he_did_unheard_is_found() -> None:
    """Each execution once, with the size of its order, in whatever it was sized; holdings are taken over without his fees."""
    async with world() as w:
        leader = await w.x.account("leader", **FEES)
        feed = w.parts.leader_feed(LeaderTerms(1, key_of(leader), 5.0, 0.5))
        await feed.start(timeout_s=10)
        try:
            await w.x.place(leader, BUY)  # 600 USDT
            await until(lambda: len(w.fills()) == 1)
            await w.x.place(leader, BUY, qty="0.02", marketUnit="baseCoin")
            await until(lambda: len(w.fills()) == 2)
            first, second = w.fills()
            assert first.qty <= first.order_qty <= first.qty + 1 and 9_900 < first.qty < 10_100
            assert (second.qty, second.order_qty, second.live) == (20_000, 20_000, True)
            await w.x.tell("POST", "/disconnect", {"kind": "private"})
            await w.x.place(leader, BUY, side="Sell", qty="0.005")
            await until(lambda: len(w.fills()) == 3 and feed.synced)
            sold = w.fills()[-1]
            assert (sold.side * sold.qty, sold.live) == (-5_000, False)
            # in 1e-8 of the coin, of which a lot has a hundred: what he bought less 0.1 % of it, and what he sold
            left = (first.qty * 100 * 999 // 1000 + second.qty * 100 * 999 // 1000 - 5_000 * 100) // 100
            await until(lambda: synced(w)[-1] == left)
        finally:
            await feed.stop()


async def test_every_execution_of_a_leaders_order_says_its_whole_size() -> None:
    """What a plan for a fixed amount goes by: an order in either asset that takes several levels of the book is one order."""
    async with world() as w:
        leader = await w.x.account("leader", balance="20000000", **FEES)
        feed = w.parts.leader_feed(LeaderTerms(1, key_of(leader), 5.0, 10.0))
        await feed.start(timeout_s=10)
        try:
            await w.x.place(leader, BUY, qty="3000000")
            await until(lambda: sum(fill.qty * fill.px for fill in w.fills()) > 2_999_000 * 10**8)
            bought = w.fills()
            whole = sum(fill.qty for fill in bought)
            assert len(bought) > 1 and all(abs(fill.order_qty - whole) < whole // 500 for fill in bought)
            await w.x.place(leader, BUY, qty="40", marketUnit="baseCoin")
            await until(lambda: sum(fill.qty for fill in w.fills()) == whole + 40_000_000)
            again = w.fills()[len(bought):]
            assert len(again) > 1 and {fill.order_qty for fill in again} == {40_000_000}
        finally:
            await feed.stop()


def synced(w: World) -> list[int]:
    """What the leader held whenever he was in step."""
    events = [event for event in w.leader_events if isinstance(event, LeaderSync) and event.synced]
    return [sum(row.qty for row in event.positions) for event in events]


async def test_an_account_as_it_is_read() -> None:
    """Money, what is free of it, what is held and what that is worth; leverage and modes there are none."""
    async with world() as w:
        account = await w.follow(0, maker_ppm=0, taker_ppm=0)
        key, rest, item = key_of(account), w.parts.rest, w.parts.instruments[INDEX]
        cid = w.send(0, 10_000)
        await until(lambda: w.about(cid, facts.TRADE))
        resting = {**PAIR, "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "50000"}
        assert (await w.x.place(account, resting))["retCode"] == 0
        books = await rest.books(key)
        worth = w.x.host.engine.equity_e8(account["account"])
        assert abs(books.equity_e8 - worth) < 10**8 and books.available_e8 == books.wallet_e8 - 500 * 10**8
        assert books.positions == ((INDEX, 0, 10_000, 0),)
        assert [(row.instrument, row.qty, row.leverage) for row in await rest.positions(key)] == [(INDEX, 10_000, 1)]
        assert await w.parts.position(key, item) == (10_000, 0)
        assert await rest.settings(key, item) == Settings(False, False, 1) and await rest.leverage(key, item) == 1
        assert await rest.hedge_mode(key) is False
        [state] = await w.parts.setup.activate(0, key, [(INDEX, 1)], hedge=False)
        assert state.ready and (state.leverage, state.hedge) == (1, False)


async def test_a_dead_key_is_seen_and_one_for_spot_alone_may_trade() -> None:
    """The call that checks a key is signed; the right that counts is that of what is traded."""
    async with world() as w:
        rights = {"permissions": {"Spot": ["SpotTrade"]}, "ips": ["127.0.0.1"]}
        key = key_of(await w.x.account("spot-only", rights=rights))
        await w.parts.check_key(key)
        found = await w.parts.rights(key)
        assert found.trade and not found.moves_funds and not found.unknown
        other = key_of(await w.x.account("perpetuals-only", rights={"permissions": {"ContractTrade": ["Order", "Position"]}}))
        assert not (await w.parts.rights(other)).trade
        with pytest.raises(RestError):
            await w.parts.check_key(Key(key.api_key, b"another"))


async def test_what_is_paid_in_is_told_in_the_quote_asset_alone() -> None:
    """Coins that come or go change no balance of the money."""
    async with world() as w:
        key = key_of(await w.follow(0))
        since = w.x.now_ms() - 1
        for amount, asset in (("250.5", "USDT"), ("-50", "USDT"), ("1", "BTC")):
            await w.x.tell("POST", "/deposit", {"account": "follower-0", "amount": amount, "asset": asset})
        assert [amount for amount, _ in await w.parts.flows(key, since)][-2:] == [250_50000000, -50_00000000]
