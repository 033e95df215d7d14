"""Questions, settings and connections of the venue against the exchange that speaks its dialect, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from yarl import URL

from copyd.core import leader_stream as ls
from copyd.errors import VenueUnavailable
from copyd.venues.bybit.contract import CONTRACT, Endpoints
from copyd.venues.bybit.instruments import load_instruments
from copyd.venues.bybit.rest import Rest
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common import facts, told
from copyd.venues.common.names import Names
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order, Settings
from tests.exchange.bybit_bench import RESTING, exchange

WANTED = [(5, "BTCUSDT"), (6, "ETHUSDT"), (9, "SOLUSDT")]
SECOND = 10**9


class Desk:
    """An account, its key, and the venue as the daemon sees it."""

    def __init__(self, bench, account, rest, wire, instruments):
        self.x, self.account, self.rest, self.wire, self.instruments = bench, account, rest, wire, instruments
        self.key = Key(account["api_key"].encode(), account["secret"].encode())
        self.btc = instruments[5]

    def order(self, name, *, qty=10, px=0, side=1, position_side=0, reduce_only=False):
        return Order(1, self.btc, cid_of(name), qty, px, side, position_side, reduce_only)

    async def place(self, name, **fields):
        return await self.rest.place(self.key, self.order(name, **fields))


def cid_of(name):
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


@contextlib.asynccontextmanager
async def desk(account=None, **options):
    """A running exchange, one account, and our side of the venue."""
    async with exchange(**options) as x:
        names = Names()
        rest = Rest(Endpoints.at(x.rest, x.ws).rest, CONTRACT, x.clock, names=names, weight_limit=100_000)
        await rest.open()
        try:
            instruments = load_instruments(await rest.instrument_bodies(), WANTED)
            wire = BybitWire(names)
            wire.bind(instruments)
            rest.bind(instruments)
            await rest.measure_clock()
            yield Desk(x, await x.account(**(account or {})), rest, wire, instruments)
        finally:
            await rest.close()


async def test_instruments_and_the_clock():
    """Ticks and lots of the exchange; the clock within what the contract allows."""
    async with desk() as d:
        assert (d.btc.tick, d.btc.price_decimals, d.btc.lot, d.btc.qty_decimals) == (1, 1, 1, 3)
        assert d.btc.value_mul * 10 * 600_000 // d.btc.value_div == 600 * 10**8 and d.btc.leverage_max == 125
        assert d.rest.venue_clock.problem() is None
        await d.x.tell("POST", "/clock", {"skew_ms": 5_000})
        await d.rest.measure_clock()
        assert abs(d.rest.venue_clock.offset_ns - 5 * SECOND) < SECOND


async def test_settings_are_set_and_read():
    """Mode and margin of the account, leverage of an instrument; no change is success, twice over."""
    async with desk() as d:
        assert await d.rest.settings(d.key, d.btc) == Settings(False, False, 20)
        for _ in range(2):
            await d.rest.set_hedge(d.key, True)
            await d.rest.set_margin(d.key, d.btc, True, 7)
            await d.rest.set_leverage(d.key, d.btc, 7, True)
        assert await d.rest.settings(d.key, d.btc) == Settings(True, True, 7)
        assert await d.rest.hedge_mode(d.key) is True and await d.rest.leverage(d.key, d.btc) == 7
        with pytest.raises(RestError) as refused:
            await d.rest.set_leverage(d.key, d.btc, 999, True)
        assert refused.value.code == 10001
        await d.rest.set_hedge(d.key, False)
        assert await d.rest.hedge_mode(d.key) is False


async def test_a_setting_that_a_position_forbids_is_a_refusal():
    """Not silently left as it is."""
    async with desk() as d:
        await d.place("a")
        for change in (d.rest.set_hedge(d.key, True), d.rest.set_margin(d.key, d.btc, True, 20)):
            with pytest.raises(RestError) as refused:
                await change
            assert refused.value.verdict.outcome is Outcome.DEFINITE_REJECT


async def test_an_order_over_rest_and_what_becomes_of_it():
    """Received; found by our id and by the venue's; its executions carry price and commission; the position follows."""
    async with desk() as d:
        answer = await d.place("a")
        assert answer.verdict.outcome is Outcome.ACCEPTED and answer.status == facts.NEW and answer.cum_qty == 0
        found = await d.rest.order(d.key, d.btc, cid=cid_of("a"))
        assert found == await d.rest.order(d.key, d.btc, order_id=answer.venue_order_id)
        assert (found.cid, found.status) == (cid_of("a"), facts.FILLED)
        assert (found.cum_qty, found.order_qty, found.instrument) == (10, 10, 5)
        trades = await d.rest.trades_of(d.key, d.btc, found, cid_of("a"))
        by_cid = await d.rest.trades_of(d.key, d.btc, None, cid_of("a"))
        assert [t.execution.exec_id for t in trades] == [t.execution.exec_id for t in by_cid]
        assert sum(t.execution.qty for t in trades) == 10 and all(t.cid == cid_of("a") for t in trades)
        assert sum(t.execution.qty * t.execution.px for t in trades) * d.btc.value_mul // d.btc.value_div == found.cost_e8
        assert all(t.execution.position_side == 0 and not t.execution.live and float(t.fee) > 0 for t in trades)
        (row,) = [r for r in await d.rest.positions(d.key) if r.qty]
        assert (row.instrument, row.qty, row.leverage, row.source) == (5, 10, 20, "poll")
        books = await d.rest.books(d.key)
        assert [p[:3] for p in books.positions] == [(5, 0, 10)] and books.wallet_e8 < 100_000 * 10**8
        assert 0 < books.available_e8 < books.equity_e8 and abs(books.positions[0][3] - 60_000 * 10**8) < 100 * 10**8


@pytest.mark.parametrize("isolated", [False, True])
async def test_free_balance_with_either_margin_type(isolated):
    """What the exchange counts as available, or less: with isolated margin the venue tells no such figure."""
    async with desk() as d:
        if isolated:
            await d.rest.set_margin(d.key, d.btc, True, 20)
        await d.place("a", qty=1_000)
        books = await d.rest.books(d.key)
        available = d.x.host.engine.account_state(d.account["account"])[8]
        assert books.available_e8 <= available + 10**8 and books.available_e8 > available * 9 // 10


async def test_an_order_that_never_was_is_absent_and_one_in_a_list_of_executions_alone_is_no_answer():
    """None needs all three lists; executions of an order that no list of orders has contradict it."""
    async with desk() as d:
        assert await d.rest.order(d.key, d.btc, cid=cid_of("never")) is None
        await d.place("a")
        for _ in range(2):  # the list of open and lately ended orders, and the history, lag; the executions do not
            await d.x.tell("POST", "/faults", {"action": "stale_read", "method": "query", "delay_ms": 60_000, "count": 1})
        with pytest.raises(ValueError, match="executions of an order that it does not list"):
            await d.rest.order(d.key, d.btc, cid=cid_of("a"))
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("a"))).cum_qty == 10


async def test_an_order_that_only_the_history_still_has_is_found():
    """After more than 500 later ones the list of open orders has forgotten it."""
    async with desk() as d:
        await d.place("first")
        engine, account = d.x.host.engine, d.account["account"]
        for n in range(510):
            engine.place(account, 0, 1, 0, 1, 10, 585_000, False, False, 0, b"n%d" % n, d.x.host.now_ns())
        assert await d.x.rows(d.account, "/v5/order/realtime", orderLinkId=cid_of("first").hex()) == []
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("first"))).status == facts.FILLED


async def test_an_order_whose_name_is_not_remembered_is_looked_for():
    """By its number among the last ones; that it is not there proves nothing."""
    async with desk() as d:
        answer = await d.place("a")
        d.rest.names = Names()
        assert (await d.rest.order(d.key, d.btc, order_id=answer.venue_order_id)).cid == cid_of("a")
        with pytest.raises(ValueError, match="not among the last ones"):
            await d.rest.order(d.key, d.btc, order_id=12345)


async def test_orders_since():
    """Open, filled, cancelled and refused late, each once, none from before, over several pages."""
    async with desk() as d:
        await d.place("before")
        since = d.x.now_ms() + 1
        d.x.clock.ahead_ns += 10**7
        await d.place("filled")
        await d.x.place(d.account, RESTING, orderLinkId=cid_of("open").hex())
        await d.place("unfilled", px=585_000)
        await d.x.place(d.account, RESTING, timeInForce="PostOnly", price="60100", orderLinkId=cid_of("late").hex())
        for n in range(60):
            await d.x.place(d.account, RESTING, timeInForce="IOC", orderLinkId=f"other{n}")
        rows, complete = await d.rest.orders_since(d.key, d.btc, since)
        ours = {row.cid: row.status for row in rows if row.cid is not None}
        assert complete and len(rows) == 64
        assert ours == {cid_of("filled"): facts.FILLED, cid_of("open"): facts.NEW, cid_of("unfilled"): facts.CANCELED,
                        cid_of("late"): facts.CANCELED}  # fmt: skip


async def test_executions_from_an_id_on():
    """Oldest first by id, from the id on, at most so many, over windows of seven days; as the stream numbered them."""
    async with desk() as d:
        stream = await d.x.stream(d.account, "execution")
        heard = []
        for n in range(5):
            await d.place(f"e{n}", qty=10 + n)
            (said,) = d.wire.read("private", await frame(stream), 1)
            heard.append(said.execution.exec_id)
            d.x.clock.ahead_ns += 3 * 86_400 * SECOND
        assert heard == sorted(heard)
        listed = [t.execution.exec_id for t in await d.rest.trades_from(d.key, d.btc, heard[0], 1_000)]
        assert listed == heard
        assert [t.execution.exec_id for t in await d.rest.trades_from(d.key, d.btc, heard[1] + 1, 2)] == heard[2:4]
        assert await d.rest.trades_from(d.key, d.btc, heard[4] + 1, 10) == []
        newest = await d.rest.newest_trade(d.key, d.btc)
        assert newest.execution.exec_id == heard[4] and newest.execution.qty == 14
        assert await d.rest.newest_trade(d.key, d.instruments[6]) is None
        again = Names()  # another process gives them the same numbers
        d.rest.names = again
        assert [t.execution.exec_id for t in await d.rest.trades_from(d.key, d.btc, heard[0], 1_000)] == heard


async def frame(ws, seconds=3.0):
    """The next message as it came."""
    message = await ws.receive(timeout=seconds)
    return message.data.encode()


async def test_more_executions_than_a_list_may_be_long_are_read_in_pieces(monkeypatch):
    """Two pages at most of five: the window is cut until each piece is read to its end; funding is no execution."""
    monkeypatch.setattr("copyd.venues.bybit.rest.PAGES_MAX", 2)
    async with desk() as d:
        rest = Rest(d.rest.base_url, CONTRACT.overridden({"backfill_page_max": 5}), d.x.clock, names=Names(), weight_limit=10**6)
        rest.bind(d.instruments)
        await rest.open()
        try:
            engine, account = d.x.host.engine, d.account["account"]
            began = d.x.clock.ahead_ns
            for n in range(40):
                d.x.clock.ahead_ns = began + n * 10 * SECOND
                engine.place(account, 0, 1, 1, 0, 10, 0, False, False, 0, b"n%d" % n, d.x.host.now_ns())
                d.x.host.changed()
            await d.x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
            found = await rest.trades_from(d.key, d.btc, (d.x.now_ms() - 600_000) << 22, 1_000)
            assert rest.calls > 8 + 2  # the eight pages there are, those read in vain, and the position mode
            assert len(found) == 40 and sum(t.execution.qty for t in found) == 400
            assert [t.execution.exec_id for t in found] == sorted({t.execution.exec_id for t in found})
        finally:
            await rest.close()


async def test_position_sides_of_listed_executions_follow_from_what_they_closed():
    """On an account that keeps a position per side: what opens long or short, what closes which; and as told by orders."""
    async with desk() as d:
        await d.rest.set_hedge(d.key, True)
        for name, side, position_side in (("a", 1, 1), ("b", -1, 2), ("c", -1, 1), ("d", 1, 2)):
            await d.place(name, side=side, position_side=position_side)
        found = await d.rest.trades_from(d.key, d.btc, 0, 100)
        sides = [(t.cid, t.execution.position_side) for t in sorted(found, key=lambda t: t.execution.ts_event)]
        assert dict(sides) == {cid_of("a"): 1, cid_of("b"): 2, cid_of("c"): 1, cid_of("d"): 2}
        assert [t.execution.realised for t in found if t.cid in (cid_of("c"), cid_of("d"))] == [True, True]
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("c"))).reduce_only is True


async def test_a_leaders_books_agree_with_the_fold():
    """A flip in one order: the position read is what the executions add up to."""
    async with desk() as d:
        await d.place("a", qty=30)
        await d.place("b", qty=50, side=-1)
        total = sum(t.execution.side * t.execution.qty for t in await d.rest.trades_from(d.key, d.btc, 0, 100))
        (row,) = [r for r in await d.rest.positions(d.key) if r.qty]
        assert row.qty == total == -20


async def test_flows():
    """What was paid in and taken out, signed, oldest first; funding and fees are none."""
    async with desk() as d:
        since = d.x.now_ms() + 1
        d.x.clock.ahead_ns += 10**7
        await d.place("a")
        await d.x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
        await d.x.tell("POST", "/deposit", {"account": "alice", "amount": "250.5"})
        d.x.clock.ahead_ns += 8 * 86_400 * SECOND
        await d.x.tell("POST", "/deposit", {"account": "alice", "amount": "-50"})
        assert [amount for amount, _ in await d.rest.flows(d.key, since)] == [250_50000000, -50_00000000]


@pytest.mark.parametrize(
    ("fields", "outcome", "reason"),
    [({"qty": 900_000}, Outcome.DEFINITE_REJECT, "malformed_request"),
     ({"px": 900_000}, Outcome.DEFINITE_REJECT, "price_above_band"),
     ({"qty": 100_000, "px": 600_000}, Outcome.DEFINITE_REJECT, "margin"),
     ({"reduce_only": True}, Outcome.DEFINITE_REJECT, "reduce_only"),
     ({"position_side": 1}, Outcome.DEFINITE_REJECT, "malformed_request")],
)  # fmt: skip
async def test_refused_orders(fields, outcome, reason):
    """A refusal in a 200 is an error with its verdict."""
    async with desk() as d:
        with pytest.raises(RestError) as refused:
            await d.place("a", **fields)
        assert (refused.value.verdict.outcome, refused.value.verdict.reason, refused.value.status) == (outcome, reason, 200)
        assert d.key.api_key.decode() not in str(refused.value)


async def test_a_duplicate_is_a_doubt():
    """An order under this id exists: nobody may take that for a refusal."""
    async with desk() as d:
        await d.place("a")
        with pytest.raises(RestError) as refused:
            await d.place("a")
        assert refused.value.verdict == (Outcome.IN_DOUBT, "duplicate_client_order_id", 110072)
        trades = await d.rest.trades_of(d.key, d.btc, None, cid_of("a"))
        assert sum(t.execution.qty for t in trades) == 10


@pytest.mark.parametrize("action", ["error_live", "error_dead", "unavailable", "throttled"])
async def test_what_the_venue_does_not_know_is_a_doubt(action):
    """A timeout, a busy venue, a failure of its own: none of them is an end."""
    async with desk() as d:
        await d.x.tell("POST", "/faults", {"action": action, "method": "place"})
        with pytest.raises(RestError) as refused:
            await d.place("a")
        assert refused.value.verdict.outcome is Outcome.IN_DOUBT


async def test_no_answer_is_unavailable():
    """The connection goes without one."""
    async with desk() as d:
        await d.x.tell("POST", "/faults", {"action": "disconnect_live", "method": "place"})
        with pytest.raises(VenueUnavailable):
            await d.place("a")


async def test_limits_of_the_account_and_of_the_address():
    """The account's stops no other; the address's 403 keeps us away for ten minutes."""
    async with desk(lift=()) as d:
        with pytest.raises(RestError) as refused:
            for n in range(20):
                await d.place(f"o{n}", px=585_000)
        assert refused.value.code == 10006 and not d.rest.bans.any
        d.x.host.windows.set("http", 1)
        with pytest.raises(RestError) as refused:
            await d.rest.books(d.key)
        assert refused.value.status == 403
        assert 590 * SECOND < d.rest.bans.until() - d.rest.mono() <= 600 * SECOND
        with pytest.raises(VenueUnavailable):
            await d.rest.books(d.key)


async def test_the_placement_as_bytes():
    """Method, target, headers and body as they go out are taken as they are."""
    async with desk() as d:
        method, target, headers, body = d.rest.rest_place(d.order("a"), d.key, d.x.now_ms())
        async with d.x.http.request(method, URL(d.x.rest + target, encoded=True), headers=headers, data=body) as answer:
            assert (await answer.json())["retCode"] == 0
        assert (await d.rest.order(d.key, d.btc, cid=cid_of("a"))).cum_qty == 10


# --- connections --------------------------------------------------------------------------------------------------------
async def test_orders_and_events_over_the_two_connections():
    """Logged in and subscribed by our own texts; an order's answer names it; executions and orders come apart and agree."""
    async with desk() as d:
        trade, private = d.wire.channels(Endpoints.at(d.x.rest, d.x.ws))
        out, events = await d.x.http.ws_connect(trade.url), await d.x.http.ws_connect(private.url)
        for ws, channel in ((out, trade), (events, private)):
            await ws.send_str(d.wire.login(channel, d.key, d.x.now_ms()).decode())
            assert d.wire.read(channel.name, await frame(ws), 1) == (told.LoggedIn(True),)
            for name, text in channel.subscriptions:
                await ws.send_str(text.decode())
                assert d.wire.read(channel.name, await frame(ws), 1) == (told.Subscribed(name, True),)
            await ws.send_str(channel.ping.decode())
            assert d.wire.read(channel.name, await frame(ws), 1) == (told.Alive(),)
        await out.send_str(d.wire.place(d.order("a"), d.x.now_ms()).decode())
        (answer,) = d.wire.read("trade", await frame(out), 1)
        assert answer.cid == cid_of("a") and answer.verdict.outcome is Outcome.ACCEPTED
        heard = []
        while not any(isinstance(one, told.WalletTold) for one in heard):
            heard += d.wire.read("private", await frame(events), 1)
        thin = [one for one in heard if isinstance(one, told.TradeTold) and one.thin]
        whole = [one for one in heard if isinstance(one, told.TradeTold) and not one.thin]
        orders = [one for one in heard if isinstance(one, told.OrderTold)]
        assert [t.execution.exec_id for t in thin] == [t.execution.exec_id for t in whole] and len(whole) == 1
        assert orders[-1].venue_order_id == whole[0].execution.order_id == answer.venue_order_id
        assert (orders[-1].status, orders[-1].cum_qty, orders[-1].cid) == (facts.FILLED, 10, cid_of("a"))
        listed = await d.rest.trades_of(d.key, d.btc, orders[-1], cid_of("a"))
        assert [t.execution.exec_id for t in listed] == [t.execution.exec_id for t in whole]
        await out.send_str(d.wire.place(d.order("b", reduce_only=True), d.x.now_ms()).decode())
        (answer,) = d.wire.read("trade", await frame(out), 1)
        assert (answer.verdict.outcome, answer.verdict.reason) == (Outcome.DEFINITE_REJECT, "reduce_only")


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        ("/v5/order/realtime", {"list": [{"symbol": "BTCUSDT", "orderId": "x", "side": "Buy", "orderStatus": "?"}]}, "order"),
        ("/v5/position/list", {"list": [{"symbol": "BTCUSDT", "side": "Up", "size": "1"}]}, "positions"),
        ("/v5/account/wallet-balance", {"list": [7]}, "books"), ("/v5/position/list", {}, "positions"),
        ("/v5/execution/list", {"list": [{"symbol": "BTCUSDT"}]}, "newest"), ("/v5/account/info", {"marginMode": 7}, "settings"),
        ("/v5/position/list", {"list": []}, "settings"),
    ],
)
async def test_an_unreadable_answer_is_a_value_error(path, body, asked):
    """Of whatever kind: the caller's one word for what cannot be read, never another exception."""
    async with desk() as d:
        real = d.rest.call_now

        async def call(method, where, *rest, **options):
            found = await real(method, where, *rest, **options)
            return json.dumps({"retCode": 0, "result": body, "time": 1}).encode() if where == path else found

        d.rest.call_now = call
        questions = {
            "order": lambda: d.rest.order(d.key, d.btc, cid=cid_of("a")), "positions": lambda: d.rest.positions(d.key),
            "books": lambda: d.rest.books(d.key), "newest": lambda: d.rest.newest_trade(d.key, d.btc),
            "settings": lambda: d.rest.settings(d.key, d.btc),
        }  # fmt: skip
        with pytest.raises(ValueError):
            await questions[asked]()


async def test_refused_logins():
    """A wrong secret on either connection."""
    async with desk() as d:
        wrong = Key(d.key.api_key, b"wrong")
        for channel, reason in zip(d.wire.channels(Endpoints.at(d.x.rest, d.x.ws)), ("signature", "login_refused"), strict=True):
            ws = await d.x.http.ws_connect(channel.url)
            await ws.send_str(d.wire.login(channel, wrong, d.x.now_ms()).decode())
            (said,) = d.wire.read(channel.name, await frame(ws), 1)
            assert (said.ok, said.reason) == (False, reason)


async def test_the_market():
    """Quotes and marks of every instrument, the ticker's first message with the funding rate."""
    async with desk() as d:
        (channel,) = d.wire.market(Endpoints.at(d.x.rest, d.x.ws))
        ws = await d.x.http.ws_connect(channel.url)
        for _, text in channel.subscriptions:
            await ws.send_str(text.decode())
        heard = []
        while len({one.instrument for one in heard if isinstance(one, facts.Mark)}) < 3:
            heard += d.wire.read_market(await frame(ws), 1)
        assert {one.instrument for one in heard if isinstance(one, facts.Quote)} == {5, 6, 9}
        bid, _, ask, _ = d.x.host.engine.top(0)
        assert any(one.bid == bid and one.ask == ask for one in heard if isinstance(one, facts.Quote) and one.instrument == 5)
        assert all(one.funding_ppm == 100 for one in heard if isinstance(one, facts.Mark))
        await d.x.tell("POST", "/market", {"symbol": "ETHUSDT", "mark": "3100"})
        (said,) = d.wire.read_market(await frame(ws), 1)
        assert (said.instrument, said.mark, said.funding_ppm) == (6, 310_000, 100)


async def test_a_liquidation_is_told_as_such():
    """The venue's own executions bear their cause, on the stream and in the list."""
    async with desk(account={"balance": "700"}) as d:
        await d.rest.set_leverage(d.key, d.btc, 100, False)
        await d.place("a", qty=1_000)
        stream = await d.x.stream(d.account, "execution")
        await d.x.tell("POST", "/market", {"symbol": "BTCUSDT", "mark": "59300"})
        said = d.wire.read("private", await frame(stream), 1)
        assert {one.execution.cause for one in said} == {"liquidation"} and all(one.cid is None for one in said)
        listed = await d.rest.trades_from(d.key, d.btc, 0, 100)
        assert {t.execution.cause for t in listed} == {"", "liquidation"}
        assert {t.execution.exec_id for t in listed} >= {one.execution.exec_id for one in said}


class Follower:
    """The leader's stream, fed with what the wire reads and answered with what REST reads. Time is the machine's."""

    def __init__(self, d, stream):
        self.d, self.stream = d, stream
        self.leader = ls.LeaderStream([5])
        self.taken = []

    async def act(self, actions):
        for action in actions:
            if isinstance(action, ls.Execution):
                self.taken.append(action)
            elif isinstance(action, ls.Ask):
                await self.act(self.leader.answer(self.d.x.clock(), action.id, await self.asked(action)))

    async def asked(self, ask):
        rest, key, btc = self.d.rest, self.d.key, self.d.btc
        if ask.kind == ls.AskKind.POSITIONS:
            return await rest.positions(key)
        if ask.kind == ls.AskKind.FILLS:
            return [t.execution for t in await rest.trades_from(key, btc, ask.from_id, ask.limit)]
        if ask.kind == ls.AskKind.NEWEST:
            newest = await rest.newest_trade(key, btc)
            return [newest.execution] if newest else []
        if ask.kind == ls.AskKind.EQUITY:
            books = await rest.books(key)
            return [ls.Equity(books.equity_e8, books.wallet_e8, books.available_e8, books.ts_event)]
        if ask.kind == ls.AskKind.LEVERAGE:
            return [ls.Leverage(5, await rest.leverage(key, btc), 0)]
        order = await rest.order(key, btc, order_id=ask.order_id)
        return [ls.OrderFacts(order.venue_order_id, order.client_order_id, order.order_qty, order.reduce_only)]

    async def start(self):
        self.leader.mode(await self.d.rest.hedge_mode(self.d.key))
        await self.act(self.leader.opened(self.d.x.clock(), 1, False))

    async def listen(self, n):
        """Until so many executions were handed on and the stream is in step."""
        while len(self.taken) < n or not self.leader.synced:
            with contextlib.suppress(TimeoutError):
                for one in self.d.wire.read("private", await frame(self.stream, 0.1), self.d.x.clock()):
                    event = getattr(one, "execution", None) or getattr(one, "position", None)
                    if event is not None:
                        await self.act(self.leader.event(self.d.x.clock(), event))
            await self.act(self.leader.tick(self.d.x.clock()))


@pytest.mark.parametrize("hedge", [False, True])
async def test_a_leader_stream_is_in_step_with_the_venue(hedge):
    """Synced, every execution once, live, with its side. In hedge mode, where executions name none, the list gives it."""
    async with desk() as d:
        await d.rest.set_hedge(d.key, hedge)
        follower = Follower(d, await d.x.stream(d.account, "order", "execution", "execution.fast", "position"))
        await follower.start()
        assert follower.leader.synced
        rows = ((30, 1, 1), (10, -1, 1), (40, -1, 2), (20, 1, 2))
        trades = [(qty, side, position_side if hedge else 0) for qty, side, position_side in rows]
        for n, (qty, side, position_side) in enumerate(trades):
            await d.place(f"l{n}", qty=qty, side=side, position_side=position_side)
            await follower.listen(n + 1)
        assert [(e.qty, e.side, e.position_side, e.live) for e in follower.taken] == [(*trade, True) for trade in trades]
        counters = follower.leader.counters
        assert counters.mismatches == counters.conflicts == 0 and bool(counters.sideless) is hedge
