"""Rest and the wire against the simulated exchange, over real sockets, as classic and as unified account."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from copyd.errors import VenueUnavailable
from copyd.venues.bitget.contract import CONTRACT, Endpoints
from copyd.venues.bitget.instruments import load_instruments
from copyd.venues.bitget.rest import Rest
from copyd.venues.bitget.wire import BitgetWire
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.facts import CANCELED, FILLED, NEW, Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.rest import NotSent, RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import LoggedIn, OrderTold, PositionTold, Subscribed, Told, TradeTold, WalletTold
from copyd.venues.common.venue import Order
from tests.exchange.bitget_bench import Bench, exchange

SYMBOLS = [(3, "BTCUSDT"), (5, "SOLUSDT")]
#: As if the venue had no limit of orders: for tests that are not about it.
UNHURRIED = CONTRACT.overridden({"rate_limits": [
    {"kind": "weight", "scope": "ip", "limit": 1_000_000, "interval_ms": 60_000},
    {"kind": "orders", "scope": "account", "limit": 100_000, "interval_ms": 1_000},
]})  # fmt: skip
_numbers = itertools.count(1)


class Side:
    """Our side of one account."""

    def __init__(self, bench: Bench, account: dict[str, Any], rest: Rest, wire: BitgetWire, instruments: Instruments) -> None:
        self.bench, self.account, self.rest, self.wire, self.instruments = bench, account, rest, wire, instruments
        self.key = Key(account["api_key"].encode(), account["secret"].encode(), account["passphrase"].encode())

    def order(self, index: int = 3, qty: int = 10, **fields: Any) -> Order:
        cid = next(_numbers).to_bytes(16, "big")
        given = {"px": 0, "side": 1, "position_side": 0, "reduce_only": False, **fields}
        return Order(1, self.instruments[index], cid, qty, **given)

    async def place(self, **fields: Any) -> Order:
        order = self.order(**fields)
        answer = await self.rest.place(self.key, order)
        assert (answer.cid, answer.verdict.outcome, answer.status) == (order.cid, Outcome.ACCEPTED, NEW)
        assert answer.venue_order_id > 0
        return order


@contextlib.asynccontextmanager
async def side(
    bench: Bench, *, unified: bool = False, name: str = "alice", contract: VenueContract = UNHURRIED, **order: Any
) -> AsyncIterator[Side]:
    rights = {"unified": unified, **order.pop("rights", {})}
    account = await bench.account(name, rights=rights, **order)
    rest = Rest(Endpoints.at(bench.rest, bench.ws), contract, time.time_ns)
    await rest.open()
    try:
        await rest.measure_clock(1)
        instruments = load_instruments(await rest.instrument_bodies(), SYMBOLS)
        rest.bind(instruments)
        wire = BitgetWire(rest.kind)
        wire.bind(instruments)
        yield Side(bench, account, rest, wire, instruments)
    finally:
        await rest.close()


@contextlib.asynccontextmanager
async def listening(me: Side) -> AsyncIterator[list[Told]]:
    """What the account's private connection says, as copyd is told it, from the last confirmed subscription on."""
    await me.rest.prepare(me.key)
    heard: list[Told] = []
    (channel,) = me.wire.channels(me.rest.endpoints, me.key)
    async with aiohttp.ClientSession() as http, http.ws_connect(channel.url) as ws:
        async def read() -> None:
            async for message in ws:
                heard.extend(me.wire.read(channel.name, message.data.encode(), time.time_ns()))

        await ws.send_str(me.wire.login(channel, me.key, time.time_ns() // 10**6).decode())
        reader = asyncio.create_task(read())
        await until(lambda: any(isinstance(told, LoggedIn) for told in heard))
        assert all(told.ok for told in heard if isinstance(told, LoggedIn)), heard
        for _, message in channel.subscriptions:
            await ws.send_str(message.decode())
        names = {name for name, _ in channel.subscriptions}
        await until(lambda: names == {told.name for told in heard if isinstance(told, Subscribed) and told.ok})
        heard.clear()
        try:
            yield heard
        finally:
            reader.cancel()


async def until(holds: Any) -> None:
    for _ in range(400):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


def kinds(heard: list[Told], kind: type) -> list[Any]:
    return [told for told in heard if isinstance(told, kind)]


GENERATIONS = pytest.mark.parametrize("unified", [False, True], ids=["classic", "unified"])
MODES = pytest.mark.parametrize("hedge", [False, True], ids=["one_way", "hedge"])


@GENERATIONS
@MODES
async def test_an_order_is_told_alike_by_its_answer_the_stream_and_every_list(unified: bool, hedge: bool) -> None:
    """Opened and closed, on one side or two: stream, order, lists and executions agree in direction, side, quantity and cost."""
    async with exchange() as bench, side(bench, unified=unified, hedge=hedge) as me:
        item = me.instruments[3]
        began = me.rest.venue_clock.timestamp_ms() - 1_000
        async with listening(me) as heard:
            at = 2 if hedge else 0
            opened = await me.place(side=-1, position_side=at)
            closed = await me.place(side=1, position_side=at, qty=4, reduce_only=True)
            await until(lambda: len({t.execution.exec_id for t in kinds(heard, TradeTold) if not t.thin}) >= 2
                        and any(told.position.qty == -6 for told in kinds(heard, PositionTold)))
        assert not kinds(heard, Malformed), heard
        trades = {t.execution.exec_id: t for t in kinds(heard, TradeTold) if not t.thin}
        listed = {t.execution.exec_id: t for t in await me.rest.trades_from(me.key, item, 0, 100)}
        assert trades.keys() == listed.keys()
        for exec_id, pushed in trades.items():
            a, b = pushed.execution, listed[exec_id].execution
            assert (a.position_side, a.side, a.qty, a.px, a.order_id, a.ts_event, a.realised, a.maker) == (
                b.position_side, b.side, b.qty, b.px, b.order_id, b.ts_event, b.realised, b.maker)  # fmt: skip
            assert (pushed.fee, pushed.fee_asset) == (listed[exec_id].fee, "USDT") and float(pushed.fee) > 0
            assert a.position_side == at and a.live and not b.live
        for order, direction, qty in ((opened, -1, 10), (closed, 1, 4)):
            told = await me.rest.order(me.key, item, cid=order.cid)
            assert told is not None and told.cid == order.cid
            assert (told.status, told.side, told.position_side, told.order_qty, told.cum_qty) == (FILLED, direction, at, qty, qty)
            mine = await me.rest.trades_of(me.key, item, told, order.cid)
            assert [t.cid for t in mine] == [order.cid] * len(mine) and sum(t.execution.qty for t in mine) == qty
            cost = sum(t.execution.qty * t.execution.px * item.value_mul // item.value_div for t in mine)
            assert told.cost_e8 == cost
            last = [told for told in kinds(heard, OrderTold) + [t.order for t in kinds(heard, TradeTold) if t.order]
                    if told.cid == order.cid][-1]  # fmt: skip
            ignored = {"cost_e8": 0, "ts_event": 0}
            assert msgspec.structs.replace(last, **ignored) == msgspec.structs.replace(told, **ignored)
        rows, whole = await me.rest.orders_since(me.key, item, began)
        assert whole and {row.cid for row in rows} == {opened.cid, closed.cid}
        (held,) = [p for p in await me.rest.positions(me.key) if p.qty]
        assert (held.instrument, held.position_side, held.qty, held.leverage, held.isolated) == (3, at, -6, 20, True)
        books = await me.rest.books(me.key)
        assert [p[:3] for p in books.positions] == [(3, at, -6)] and books.positions[0][3] > 0
        assert 99_000 * 10**8 < books.wallet_e8 < 100_000 * 10**8 and books.available_e8 < books.equity_e8
        newest = await me.rest.newest_trade(me.key, item)
        assert newest is not None and newest.execution.exec_id == max(listed)


@GENERATIONS
async def test_a_wallet_and_positions_are_pushed(unified: bool) -> None:
    """After a trade the stream tells the wallet without open profit, and a closed position as flat."""
    async with exchange() as bench, side(bench, unified=unified) as me, listening(me) as heard:
        await me.place()
        await me.place(side=-1, reduce_only=True)
        await until(lambda: any(told.position.qty == 0 for told in kinds(heard, PositionTold)))
        await until(lambda: len(kinds(heard, WalletTold)) >= 2)
        books = await me.rest.books(me.key)
        assert kinds(heard, WalletTold)[-1].wallet_e8 == books.wallet_e8 == books.equity_e8


@GENERATIONS
async def test_ioc_and_cancelled_orders_end_as_cancelled(unified: bool) -> None:
    """A limit order that finds nobody ends cancelled without executions, and the lists keep it."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        order = await me.place(px=580_000)
        told = await me.rest.order(me.key, me.instruments[3], cid=order.cid)
        assert told is not None and (told.status, told.cum_qty, told.cost_e8, told.order_qty) == (CANCELED, 0, 0, 10)
        assert await me.rest.trades_of(me.key, me.instruments[3], told, order.cid) == []


@GENERATIONS
async def test_an_order_the_venue_never_saw_is_absent(unified: bool) -> None:
    """"Not found" is None, by client id and by number; an error while asking is no answer."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        item = me.instruments[3]
        assert await me.rest.order(me.key, item, cid=b"\0" * 16) is None
        assert await me.rest.order(me.key, item, order_id=99) is None
        stranger = Key(b"0" * 64, b"x", b"y")
        with pytest.raises(RestError) as refused:
            await me.rest.order(stranger, item, cid=b"\0" * 16)
        assert refused.value.code == 40037 and refused.value.verdict.reason == "key_refused"
        assert me.rest.kind(stranger.api_key) is None


@GENERATIONS
async def test_settings_are_set_and_told(unified: bool) -> None:
    """Position mode, margin type and leverage as set; setting them again is no error; a mode cannot change under a position."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        item = me.instruments[3]
        for _ in range(2):
            await me.rest.set_hedge(me.key, True)
            await me.rest.set_margin(me.key, item, True, 20)
            await me.rest.set_leverage(me.key, item, 7, True)
        told = await me.rest.settings(me.key, item)
        assert (told.hedge, told.isolated, told.leverage, await me.rest.hedge_mode(me.key)) == (True, True, 7, True)
        assert await me.rest.leverage(me.key, item) == 7
        await me.place(position_side=1)
        with pytest.raises(RestError) as refused:
            await me.rest.set_hedge(me.key, False)
        assert refused.value.verdict.reason == "position_or_orders_exist"


@GENERATIONS
async def test_orders_bear_the_margin_type_of_the_account(unified: bool) -> None:
    """An account that is crossed is traded crossed, once it was looked at or set so."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        item = me.instruments[3]
        assert not (await me.rest.settings(me.key, item)).isolated
        if unified:
            await me.rest.set_margin(me.key, item, False, 20)
        await me.place()
        (held,) = [p for p in await me.rest.positions(me.key) if p.qty]
        assert not held.isolated


@GENERATIONS
async def test_refusals_say_what_became_of_the_order(unified: bool) -> None:
    """Beyond the margin, nothing to reduce, below the minimum: definitely not accepted, each with its word."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        for fields, reason in (
            ({"qty": 900_000, "px": 600_500}, "margin"),
            ({"side": -1, "reduce_only": True}, "reduce_only"),
            ({"qty": 1, "px": 590_000, "index": 5}, "min_notional"),
        ):
            if reason == "min_notional":
                fields["px"] = 15_000
            with pytest.raises(RestError) as refused:
                await me.rest.place(me.key, me.order(**fields))
            verdict = refused.value.verdict
            assert (verdict.outcome, verdict.reason) == (Outcome.DEFINITE_REJECT, reason), refused.value


@GENERATIONS
async def test_a_duplicate_id_is_in_doubt(unified: bool) -> None:
    """The id of an open order, sent again, proves that some copy of it lives: in doubt, never rejected."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        order = me.order()
        path = "/api/v3/trade/place-order" if unified else "/api/v2/mix/order/place-order"
        body = {"symbol": "BTCUSDT", "side": "buy", "orderType": "limit", "price": "58000", "clientOid": order.cid.hex(),
                "marginMode": "isolated", **({"category": "USDT-FUTURES", "qty": "0.01"} if unified else
                                             {"productType": "USDT-FUTURES", "marginCoin": "USDT", "size": "0.01"})}  # fmt: skip
        await bench.good(me.account, "POST", path, body)
        with pytest.raises(RestError) as refused:
            await me.rest.place(me.key, order)
        assert refused.value.verdict[:2] == (Outcome.IN_DOUBT, "duplicate_client_order_id")


@GENERATIONS
@pytest.mark.parametrize(("action", "outcome", "alive"), [
    ("error_live", Outcome.IN_DOUBT, True), ("error_dead", Outcome.IN_DOUBT, False),
    ("unavailable", Outcome.DEFINITE_REJECT, False), ("throttled", Outcome.DEFINITE_REJECT, False),
])  # fmt: skip
async def test_what_a_disturbed_answer_proves(unified: bool, action: str, outcome: Outcome, alive: bool) -> None:
    """A failure that says nothing is in doubt whether the order lives or not; a refusal at the door is definite."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        await me.rest.prepare(me.key)
        await bench.tell("POST", "/faults", {"action": action, "account": "alice", "method": "place"})
        order = me.order()
        with pytest.raises(RestError) as refused:
            await me.rest.place(me.key, order)
        assert refused.value.verdict.outcome is outcome
        await bench.tell("DELETE", "/faults")
        assert (await me.rest.order(me.key, me.instruments[3], cid=order.cid) is not None) == alive


async def test_a_cut_connection_is_no_answer() -> None:
    """The connection breaks behind the order: the venue is unavailable, which is no statement about the order."""
    async with exchange() as bench, side(bench) as me:
        await me.rest.prepare(me.key)
        await bench.tell("POST", "/faults", {"action": "disconnect_live", "account": "alice", "method": "place"})
        order = me.order()
        with pytest.raises(VenueUnavailable):
            await me.rest.place(me.key, order)
        assert (await me.rest.order(me.key, me.instruments[3], cid=order.cid)) is not None


@GENERATIONS
async def test_a_stale_reader_is_behind(unified: bool) -> None:
    """What the read lag is for: for a while an order that filled is not found."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        order = await me.place()
        rule = {"action": "stale_read", "account": "alice", "method": "query", "delay_ms": 60_000}
        await bench.tell("POST", "/faults", rule)
        item = me.instruments[3]
        assert await me.rest.order(me.key, item, cid=order.cid) is None
        assert await me.rest.trades_from(me.key, item, 0, 10) == []
        await bench.tell("DELETE", "/faults")
        assert await me.rest.order(me.key, item, cid=order.cid) is not None


@GENERATIONS
async def test_long_lists_are_read_page_by_page(unified: bool) -> None:
    """More than two pages of executions and of orders: none is lost, none twice, oldest first, and from an id on."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        item, began = me.instruments[5], me.rest.venue_clock.timestamp_ms() - 1_000
        orders = [await me.place(index=5, qty=20, side=1 if n % 2 else -1) for n in range(205)]
        trades = await me.rest.trades_from(me.key, item, 0, 1_000)
        ids = [t.execution.exec_id for t in trades]
        assert ids == sorted(set(ids)) and sum(t.execution.qty for t in trades) == 205 * 20
        assert [t.execution.exec_id for t in await me.rest.trades_from(me.key, item, ids[3], 7)] == ids[3:10]
        rows, whole = await me.rest.orders_since(me.key, item, began)
        assert whole and {row.cid for row in rows} == {order.cid for order in orders}


@GENERATIONS
async def test_money_that_comes_and_goes(unified: bool) -> None:
    """Deposits, withdrawals and funding, each with its sign; funding is no flow and a flow no funding."""
    async with exchange() as bench, side(bench, unified=unified) as me:
        since = me.rest.venue_clock.timestamp_ms() - 60_000
        await bench.tell("POST", "/deposit", {"account": "alice", "amount": "250.5"})
        await bench.tell("POST", "/deposit", {"account": "alice", "amount": "-100"})
        await me.place()
        await bench.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
        amounts = [amount for amount, _ in await me.rest.flows(me.key, since)]
        assert amounts == [100_000 * 10**8, 25_050_000_000, -10_000_000_000]
        paid = None
        for _ in range(100):  # asked for up to now by the estimate of the venue's clock, which may be a moment behind
            if told := await me.rest.fundings(me.key, since):
                (paid,) = told
                break
            await asyncio.sleep(0.01)
        assert paid is not None and paid.instrument == 3 and paid.amount_e8 < 0 and paid.id > 0


async def test_which_api_is_asked_once_and_again_when_it_changed() -> None:
    """One question per key; when the account has become a unified one, the refused call makes it be asked anew."""
    async with exchange() as bench, side(bench) as me:
        await me.rest.prepare(me.key)
        calls = me.rest.calls
        await me.rest.prepare(me.key)
        assert me.rest.calls == calls
        owner = bench.host.owner(me.account["api_key"])
        assert owner is not None
        owner.rights["unified"] = True
        with pytest.raises(RestError) as refused:
            await me.rest.place(me.key, me.order())
        assert refused.value.verdict[:2] == (Outcome.DEFINITE_REJECT, "unified_account")
        await me.place()
        assert (await me.rest.prepare(me.key)).unified


@pytest.mark.parametrize("action", ["error_dead", "throttled", "unavailable", "disconnect"])
async def test_a_disturbed_look_is_no_look(action: str) -> None:
    """What passes by itself does not make a unified account a classic one; an order meanwhile was certainly not placed."""
    async with exchange() as bench, side(bench, unified=True) as me:
        rule = {"action": action, "account": "alice", "method": "GET /api/v3/account/settings"}
        await bench.tell("POST", "/faults", rule)
        with pytest.raises(VenueUnavailable):
            await me.rest.prepare(me.key)
        with pytest.raises(NotSent):
            await me.rest.place(me.key, me.order())
        await bench.tell("DELETE", "/faults")
        assert (await me.rest.prepare(me.key)).unified


async def test_a_refused_key_is_looked_at_again() -> None:
    """A key that is refused for now (its address) is not remembered as a classic account's."""
    async with exchange() as bench, side(bench, unified=True, rights={"ips": "10.0.0.1"}) as me:
        assert not (await me.rest.prepare(me.key)).unified
        assert me.rest.kind(me.key.api_key) is None
        owner = bench.host.owner(me.account["api_key"])
        assert owner is not None
        owner.rights["ips"] = ""
        assert (await me.rest.prepare(me.key)).unified


async def test_an_account_above_its_rate_is_refused_alone() -> None:
    """The limit of an account's requests is a definite refusal and no ban of the address."""
    async with exchange(lift=frozenset({"messages"})) as bench, side(bench) as me:
        await me.rest.prepare(me.key)
        with pytest.raises(RestError) as refused:
            for _ in range(30):
                await me.rest.positions(me.key)
        assert (refused.value.code, refused.value.status) == (429, 429)
        assert not me.rest.bans.any


async def test_an_address_that_has_used_up_its_budget_keeps_away() -> None:
    """When the venue says that nothing is left of the address's budget, nothing is asked for the five minutes it wants."""
    async with exchange() as bench, side(bench) as me:
        await me.rest.prepare(me.key)
        await bench.tell("POST", "/limits", {"limit": "address", "count": 1})
        with pytest.raises(RestError):
            await me.rest.positions(me.key)
        assert me.rest.bans.until() - time.monotonic_ns() > 290 * 10**9


async def test_ten_orders_a_second_go_out_and_the_eleventh_waits() -> None:
    """What the account's own limit would refuse is held back instead."""
    async with exchange(lift=frozenset({"messages", "requests_20"})) as bench, side(bench, contract=CONTRACT) as me:
        await me.rest.prepare(me.key)
        await asyncio.gather(*(me.rest.place(me.key, me.order()) for _ in range(12)))
        stats = await bench.tell("GET", "/truth/stats")
        assert stats["limits"]["orders"]["refused"] == 0 and stats["limits"]["orders"]["taken"] == 12


async def test_tickers_give_quote_and_mark() -> None:
    """A public connection tells bid, ask and mark of every instrument at once."""
    async with exchange() as bench, side(bench) as me:
        (channel,) = me.wire.market(me.rest.endpoints)
        found: list[Any] = []
        async with aiohttp.ClientSession() as http, http.ws_connect(channel.url) as ws:
            for _, message in channel.subscriptions:
                await ws.send_str(message.decode())
            await ws.send_str(channel.ping.decode())
            while sum(isinstance(one, Mark) for one in found) < 2:
                found += me.wire.read_market((await ws.receive()).data.encode(), 1)
        assert not any(isinstance(one, Malformed) for one in found)
        for index in (3, 5):
            bid, _, ask, _ = bench.host.engine.top(bench.host.symbols[me.instruments[index].symbol])
            quote = next(one for one in found if isinstance(one, Quote) and one.instrument == index)
            mark = next(one for one in found if isinstance(one, Mark) and one.instrument == index)
            assert (quote.bid, quote.ask) == (bid, ask) and bid <= mark.mark <= ask and mark.funding_ppm == 100


async def test_a_login_with_a_wrong_secret_is_refused_for_good() -> None:
    """The venue's refusal of a login bears a word that says whether asking again helps."""
    async with exchange() as bench, side(bench) as me:
        (channel,) = me.wire.channels(me.rest.endpoints)
        wrong = Key(me.account["api_key"].encode(), b"wrong", me.account["passphrase"].encode())
        async with aiohttp.ClientSession() as http, http.ws_connect(channel.url) as ws:
            await ws.send_str(me.wire.login(channel, wrong, time.time_ns() // 10**6).decode())
            (told,) = me.wire.read(channel.name, (await ws.receive()).data.encode(), 1)
        assert told == LoggedIn(False, "signature", 30015, "Invalid sign")


