"""The OKX dialect, over real sockets: our own adapter, raw requests, and clients written by others."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from pathlib import Path

import aiohttp
import orjson
import pytest

from copyd.exchange.host import Host, Options
from copyd.exchange.okx import REFUSALS, SETTING_REFUSALS, Dialect
from copyd.venues.common import facts
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.told import Answered, LoggedIn, OrderTold, PositionTold, TradeTold, Unused, WalletTold
from copyd.venues.common.venue import Order
from copyd.venues.okx.contract import CONTRACT
from copyd.venues.okx.errors import CODES
from copyd.venues.okx.signing import place_text
from tests.exchange.okx_bench import Line, exchange, key_of

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = Path(__file__).resolve().parent / "clients"
HOUR_NS = 3_600 * 10**9


# --- our own adapter --------------------------------------------------------------------------------------------------------


async def test_an_order_from_placement_to_position() -> None:
    """Answered, pushed with its executions and fees, and found again by every question, with one and the same truth."""
    async with exchange() as x:
        key = await x.key()
        line = await x.line(key)
        order = x.order(qty=25)
        answered = await line.place(order)
        assert answered.verdict.outcome is Outcome.ACCEPTED and answered.status == facts.NEW and answered.cid == order.cid
        trades: list[TradeTold] = []
        while not trades or trades[-1].order.status != facts.FILLED:  # type: ignore[union-attr]
            trades += await line.until(TradeTold)
        assert sum(trade.execution.qty for trade in trades) == 25 and {trade.cid for trade in trades} == {order.cid}
        assert all(float(trade.fee) > 0 and trade.fee_asset == "USDT" for trade in trades)
        listed = await x.rest.trades_of(key, order.instrument, None, order.cid)
        pick = lambda t: (t.execution.exec_id, t.execution.qty, t.execution.px, t.execution.ts_event, t.fee, t.cid)  # noqa: E731
        assert [pick(trade) for trade in listed] == sorted(pick(trade) for trade in trades)
        told = await x.rest.order(key, order.instrument, cid=order.cid)
        assert told is not None and told.venue_order_id == answered.venue_order_id
        assert (told.status, told.cum_qty) == (facts.FILLED, 25)
        value = sum(t.execution.qty * t.execution.px * order.instrument.value_mul // order.instrument.value_div for t in trades)
        assert 0 <= value - told.cost_e8 <= 1
        books = await x.rest.books(key)
        assert [row[:3] for row in books.positions] == [(0, 0, 25)] and books.wallet_e8 < 100_000 * 10**8
        fees = sum(facts.money_e8(trade.fee) for trade in trades)
        assert books.wallet_e8 == 100_000 * 10**8 - fees
        wallets = await line.until(WalletTold)
        assert wallets[-1].wallet_e8 == books.wallet_e8, "isolated margin belongs to the wallet on both ways"
        (position,) = (await line.until(PositionTold))[-1:]
        assert (position.position.qty, position.position.isolated) == (25, True)
        (held,) = await x.rest.positions(key)
        assert (held.qty, held.isolated, held.leverage) == (25, True, position.position.leverage)


async def test_the_same_order_over_rest() -> None:
    """Where a connection is down: accepted, its executions found, and a refusal says what the connection would have said."""
    async with exchange() as x:
        key = await x.key()
        order = x.order()
        answered = await x.rest.place(key, order)
        assert answered.verdict.outcome is Outcome.ACCEPTED and answered.venue_order_id
        assert [t.execution.qty for t in await x.rest.trades_of(key, order.instrument, None, order.cid)]
        with pytest.raises(RestError) as caught:
            await x.rest.place(key, x.order(qty=5, reduce_only=True))
        assert (caught.value.code, caught.value.verdict.reason) == (51170, "reduce_only")
        assert caught.value.verdict.outcome is Outcome.DEFINITE_REJECT


async def test_an_ioc_order_ends_partly_filled() -> None:
    """What the limit does not reach is cancelled; the answer said no more than that it was taken."""
    async with exchange() as x:
        key = await x.key(balance="100000000")
        line = await x.line(key)
        _, ask = x.best()
        (level,) = x.host.engine.depth(0, 1)[2]
        order = x.order(qty=level[1] + 7, px=ask)
        await line.place(order)
        ended = [o for o in await line.until(OrderTold, 2) if o.status == facts.CANCELED]
        assert [(o.cum_qty, o.cid) for o in ended] == [(level[1], order.cid)]


async def test_both_position_modes() -> None:
    """One-way and two sides: each with its words; the mode changes only while nothing is open."""
    async with exchange() as x:
        key = await x.key()
        item = x.instruments[0]
        assert not await x.rest.hedge_mode(key)
        await x.rest.set_hedge(key, False)
        await x.rest.set_hedge(key, True)
        await x.rest.set_leverage(key, item, 7, True)
        settings = await x.rest.settings(key, item)
        assert (settings.hedge, settings.isolated, settings.leverage, settings.can_trade) == (True, True, 7, True)
        line = await x.line(key)
        assert (await line.place(x.order(side=1, position_side=1))).verdict.outcome is Outcome.ACCEPTED
        assert (await line.place(x.order(side=-1, position_side=2, qty=5))).verdict.outcome is Outcome.ACCEPTED
        rows = {row.position_side: row.qty for row in await x.rest.positions(key)}
        assert rows == {1: 10, 2: -5}
        refused = await line.place(x.order(side=1))
        assert refused.verdict.code == 51000
        with pytest.raises(RestError) as caught:
            await x.rest.set_hedge(key, False)
        assert caught.value.code == 59000
        assert (await line.place(x.order(side=-1, position_side=1, reduce_only=True))).verdict.outcome is Outcome.ACCEPTED
        assert {row.position_side: row.qty for row in await x.rest.positions(key)} == {2: -5}


async def test_a_reduce_only_order_is_never_cut() -> None:
    """Larger than the position: refused whole. Nothing to reduce, or the wrong side: refused as well. In both modes."""
    async with exchange() as x:
        key = await x.key()
        line = await x.line(key)
        assert (await line.place(x.order(side=-1, reduce_only=True))).verdict.code == 51169
        await line.place(x.order(qty=10))
        too_large = await line.place(x.order(side=-1, qty=11, reduce_only=True))
        assert too_large.verdict == (Outcome.DEFINITE_REJECT, "reduce_only", 51112)
        assert (await line.place(x.order(side=1, qty=1, reduce_only=True))).verdict.code == 51170
        assert (await line.place(x.order(side=-1, qty=10, reduce_only=True))).verdict.outcome is Outcome.ACCEPTED
        assert await x.rest.positions(key) == []
        assert CONTRACT.reduce_only_excess == "refuse"


async def test_settings_that_are_so_already_succeed() -> None:
    """No change is success; leverage above the instrument's is refused with its word."""
    async with exchange() as x:
        key = await x.key()
        item = x.instruments[0]
        for _ in range(2):
            await x.rest.set_leverage(key, item, 9, True)
            await x.rest.set_hedge(key, False)
            await x.rest.set_margin(key, item, True, 9)
        assert await x.rest.leverage(key, item) == 9
        with pytest.raises(RestError) as caught:
            await x.rest.set_leverage(key, item, item.leverage_max + 1, True)
        assert caught.value.verdict.reason == "leverage_above_max"
        with pytest.raises(RestError, match="orders are isolated here"):
            await x.rest.set_margin(key, item, False, 9)


@pytest.mark.parametrize(("level", "trades"), [("1", False), ("2", True), ("3", False), ("4", False)])
async def test_account_modes(level: str, trades: bool) -> None:
    """Isolated orders need the account mode for futures; an account in another one cannot trade, and the venue says the same."""
    async with exchange() as x:
        key = await x.key(rights={"acctLv": level})
        assert (await x.rest.settings(key, x.instruments[0])).can_trade is trades
        line = await x.line(key)
        code = {"1": 51010, "2": 0}.get(level, 50072)
        assert (await line.place(x.order())).verdict.code == code
        if level != "2":
            with pytest.raises(RestError) as caught:
                await x.rest.set_margin(key, x.instruments[0], True, 5)
            assert caught.value.code == 50072


async def test_rights_of_a_key() -> None:
    """What the key may do, and from where, as the account's configuration says it."""
    async with exchange() as x:
        plain = await x.rest.rights(await x.key())
        assert (plain.read, plain.trade, plain.moves_funds, plain.unknown, plain.ip_bound) == (True, True, (), (), True)
        rich = await x.rest.rights(await x.key("rich", rights={"perm": "read_only,withdraw,trade"}))
        assert rich.moves_funds == ("withdraw",)


async def test_a_late_order_is_dropped() -> None:
    """Past ``expTime`` the venue does not take it: in doubt by its code, absent by question; over REST alike."""
    async with exchange() as x:
        key = await x.key()
        line = await x.line(key)
        order = x.order()
        late = await line.place(order, x.host.server_ns() // 10**6 - CONTRACT.recv_window_ms - 1_000)
        assert late.verdict == (Outcome.IN_DOUBT, "expired", 50036)
        assert await x.rest.order(key, order.instrument, cid=order.cid) is None
        dialect, owner = x.host.dialect, x.host.owner(key.api_key.decode())
        assert isinstance(dialect, Dialect) and owner is not None
        held_up = orjson.loads(place_text(x.order(), expires_ms=1))["args"][0]
        code, _, (row,) = dialect.done("place", owner, [dialect.asked(held_up, True)], "1")
        assert (code, row["sCode"]) == (1, "50037"), "one that was held up behind the door is not done either"
        assert x.host.engine.orders_of(owner.account) == []


async def test_client_ids_are_unique_among_open_orders_only() -> None:
    """A second order with the id of an open one is refused; with that of an ended one it is a second order (one id, one send)."""
    async with exchange() as x:
        key = await x.key()
        body = {"instId": "BTC-USDT-SWAP", "tdMode": "isolated", "side": "buy", "ordType": "limit", "sz": "1", "px": "58000",
                "clOrdId": "a1"}  # fmt: skip
        assert (await x.raw(key, "POST", "/api/v5/trade/order", body))[1]["code"] == "0"
        _, again = await x.raw(key, "POST", "/api/v5/trade/order", body)
        assert (again["code"], again["data"][0]["sCode"]) == ("1", "51016")
        _, gone = await x.raw(key, "POST", "/api/v5/trade/cancel-order", {"instId": "BTC-USDT-SWAP", "clOrdId": "a1"})
        assert gone["data"][0]["sCode"] == "0"
        assert (await x.raw(key, "POST", "/api/v5/trade/order", body))[1]["code"] == "0"
        assert CONTRACT.id_scope == "open_orders"


async def test_unfilled_orders_are_forgotten_after_two_hours() -> None:
    """"Not found" proves nothing beyond that; what filled is remembered."""
    now = [time.time_ns()]
    host_clock = lambda: now[0]  # noqa: E731
    host = Host(Options(seed=7, maker_ms=60_000), Dialect, clock=host_clock)
    owner, other = (
        host.owner(host.issue_key(host.engine.add_account(10**13), name, "hmac", "", {})["api_key"]) for name in ("a", "b"))
    assert owner is not None and other is not None
    dialect = host.dialect
    assert isinstance(dialect, Dialect)
    place = {"instId": "BTC-USDT-SWAP", "tdMode": "cross", "side": "buy", "ordType": "ioc", "sz": "1", "px": "58000",
             "clOrdId": "x"}  # fmt: skip
    filled = {**place, "px": "60000", "clOrdId": "y"}
    offered = {**place, "side": "sell", "ordType": "limit", "px": "60000", "clOrdId": "z"}
    for whose, fields in ((owner, place), (other, offered), (owner, filled)):
        assert dialect.place(whose, dialect.asked(fields, False))["sCode"] == "0"
    asked = {"instId": "BTC-USDT-SWAP", "clOrdId": "x", "instType": "SWAP"}
    now[0] += 2 * HOUR_NS
    assert dialect.order(owner, asked)[0]["state"] == "canceled" and len(dialect.history(7 * 24 * HOUR_NS, owner, asked)) == 2
    now[0] += 10**9
    assert [row["clOrdId"] for row in dialect.history(7 * 24 * HOUR_NS, owner, asked)] == ["y"]
    with pytest.raises(Exception, match="Order does not exist"):
        dialect.order(owner, asked)
    assert dialect.order(owner, {**asked, "clOrdId": "y"})[0]["state"] == "filled"
    assert CONTRACT.query_absent_valid_ms * 10**6 == 2 * HOUR_NS


async def test_back_fill_pages() -> None:
    """More executions than a page holds: from an id on, oldest first, each once; the newest; the order list as well."""
    async with exchange(lift=frozenset({"all"})) as x:
        key = await x.key(balance="100000000")
        item = x.instruments[2]
        since = x.host.server_ns() // 10**6
        for n in range(130):
            order = Order(1, item, (1000 + n).to_bytes(16, "big"), 1, 0, 1 if n % 2 else -1, 0, False)
            row = {"instId": item.symbol, "tdMode": "isolated", "side": "buy" if n % 2 else "sell", "ordType": "market",
                   "sz": "0.01", "clOrdId": order.cid.hex()}  # fmt: skip
            owner = x.host.owner(key.api_key.decode())
            assert owner is not None and isinstance(x.host.dialect, Dialect)
            assert x.host.dialect.place(owner, x.host.dialect.asked(row, False))["sCode"] == "0"
        every = await x.rest.trades_from(key, item, 1, 1_000)
        ids = [trade.execution.exec_id for trade in every]
        assert len(ids) == 130 == len(set(ids)) and ids == sorted(ids)
        assert [t.execution.ts_event for t in every] == sorted(t.execution.ts_event for t in every)
        some = await x.rest.trades_from(key, item, ids[20], 50)
        assert [trade.execution.exec_id for trade in some] == ids[20:70]
        newest = await x.rest.newest_trade(key, item)
        assert newest is not None and newest.execution.exec_id == ids[-1]
        assert await x.rest.newest_trade(key, x.instruments[0]) is None
        orders, whole = await x.rest.orders_since(key, item, since)
        assert whole and len(orders) == 130 and all(one.cid is not None for one in orders)
        assert await x.rest.orders_since(key, item, x.host.server_ns() // 10**6 + 1_000) == ([], True)


async def test_money_in_and_funding() -> None:
    """Transfers and funding are told by bills; the stream names their cause."""
    async with exchange() as x:
        key = await x.key()
        line = await x.line(key)
        await line.place(x.order())
        since = x.host.server_ns() // 10**6
        await x.tell("/deposit", {"account": "alice", "amount": "250"})
        await x.tell("/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
        flows = await x.rest.flows(key, since)
        assert [amount for amount, _ in flows] == [250 * 10**8]
        (funding,) = await x.rest.fundings(key, since)
        assert funding.instrument == 0 and funding.amount_e8 < 0 and funding.id
        causes: set[str] = set()
        while not {"transferred", "funding_fee"} <= causes:
            causes |= {told.kind for told in await line.until(Unused)}


async def test_a_liquidation_is_heard_at_once() -> None:
    """The stream gives its executions no id of the ordinary kind, the list a negative one; both mean the same fall."""
    async with exchange() as x:
        key = await x.key(balance="700")
        line = await x.line(key)
        await x.rest.set_leverage(key, x.instruments[0], 100, True)
        assert (await line.place(x.order(qty=500))).verdict.outcome is Outcome.ACCEPTED
        await line.until(TradeTold)
        mark = x.host.engine.mark(0)
        x.host.engine.set_mark(0, mark * 97 // 100, x.host.now_ns())
        x.host.changed()
        x.host.flush()
        forced: list[TradeTold] = []
        while not forced:
            forced = [trade for trade in await line.until(TradeTold) if trade.execution.cause]
        assert {trade.execution.cause for trade in forced} == {"liquidation"} and forced[0].execution.side == -1
        assert all(trade.execution.exec_id >= 1 << 62 for trade in forced)
        owner = x.host.owner(key.api_key.decode())
        assert owner is not None and isinstance(x.host.dialect, Dialect)
        rows = x.host.dialect.fills(HOUR_NS, owner, {"instType": "SWAP"})
        assert any(row["tradeId"].startswith("-") for row in rows)
        kept = await x.rest.trades_from(key, x.instruments[0], 1, 1_000)
        assert len(kept) == sum(1 for row in rows if not row["tradeId"].startswith("-"))


async def test_the_market() -> None:
    """Best bid and ask and mark of each instrument, at once and when they change."""
    async with exchange() as x:
        (channel,) = x.wire.market(x.endpoints)
        ws = await x.http.ws_connect(channel.url)
        for _, message in channel.subscriptions:
            await ws.send_str(message.decode())
        quotes: dict[int, facts.Quote] = {}
        marks: dict[int, facts.Mark] = {}
        while len(quotes) < 3 or len(marks) < 3:
            for told in x.wire.read_market((await asyncio.wait_for(ws.receive(), 5)).data.encode(), 1):
                if isinstance(told, facts.Quote):
                    quotes[told.instrument] = told
                elif isinstance(told, facts.Mark):
                    marks[told.instrument] = told
        engine = x.host.engine
        for index in range(3):
            assert (quotes[index].bid, quotes[index].bid_qty, quotes[index].ask, quotes[index].ask_qty) == engine.top(index)
            assert marks[index].mark == engine.mark(index)
        await ws.close()


# --- refusals ----------------------------------------------------------------------------------------------------------------


async def test_keys() -> None:
    """Each way in which a key is not let in has its code, over REST and at the login."""
    async with exchange() as x:
        account = await x.account()
        key = key_of(account)
        bound = await x.key("bound", rights={"ip": "10.1.1.1"})
        demo = await x.key("demo", rights={"simulated": True})
        reader = await x.key("reader", rights={"perm": "read_only"})
        path = "/api/v5/account/config"

        async def code(asked: Key | None, **headers: str) -> tuple[int, str]:
            status, body = await x.raw(asked, "GET", path, **headers)
            return status, body["code"]

        assert await code(key) == (200, "0")
        assert await code(None) == (401, "50103")
        assert await code(Key(key.api_key, b"wrong", b"Testpass1")) == (401, "50113")
        assert await code(Key(b"nobody", b"wrong", b"x")) == (401, "50111")
        assert await code(Key(key.api_key, account["secret"].encode(), b"wrong")) == (401, "50105")
        assert await code(key, OK_ACCESS_TIMESTAMP="2023-11-14T22:13:20.000Z") == (401, "50102")
        assert await code(key, OK_ACCESS_TIMESTAMP="yesterday") == (401, "50112")
        assert await code(bound) == (401, "50110")
        assert await code(demo) == (401, "50101")
        assert (await x.raw(demo, "GET", path, x_simulated_trading="1"))[0] == 200
        status, body = await x.raw(reader, "POST", "/api/v5/trade/order", {"instId": "BTC-USDT-SWAP"})
        assert (status, body["code"]) == (200, "50120")
        (channel,) = x.wire.channels(x.endpoints)
        now_ms = x.host.server_ns() // 10**6
        for asked, at_ms, reason in (
            (Key(b"nobody", b"x", b"x"), now_ms, "key_refused"), (Key(key.api_key, b"wrong", b"x"), now_ms, "signature"),
            (key, now_ms - 60_000, "timestamp_outside_recv_window"), (bound, now_ms, "login_failed"),
            (Key(key.api_key, account["secret"].encode(), b"wrong"), now_ms, "passphrase"),
        ):  # fmt: skip
            line = Line(x, await x.http.ws_connect(channel.url), channel.name)
            await line.send(x.wire.login(channel, asked, at_ms))
            (told,) = await line.until(LoggedIn)
            assert (told.ok, told.reason) == (False, reason)
        line = await x.line(key)
        await line.send(x.wire.login(channel, key, now_ms))
        (told,) = await line.until(LoggedIn)
        assert told.code == 60031


async def test_what_is_wrong_with_a_request_is_said() -> None:
    """Bad input gets its code and changes nothing; what the engine refuses is said in the venue's codes, all known to us."""
    async with exchange() as x:
        key = await x.key()
        good = {"instId": "BTC-USDT-SWAP", "tdMode": "isolated", "side": "buy", "ordType": "market", "sz": "1", "clOrdId": "a"}
        for change, wanted in (
            ({"instId": "NO-SUCH"}, "51001"), ({"tdMode": "x"}, "51000"), ({"side": "hold"}, "51000"),
            ({"ordType": "x"}, "51000"),
            ({"sz": "0.001"}, "51121"), ({"sz": "0"}, "51000"), ({"sz": "x"}, "51000"), ({"clOrdId": "a-b"}, "51000"),
            ({"posSide": "long"}, "51000"), ({"ordType": "limit"}, "51204"), ({"ordType": "limit", "px": "70000"}, "51137"),
            ({"ordType": "limit", "px": "58000.01"}, "51000"), ({"sz": "99999999"}, "51005"), ({"sz": "10000"}, "51008"),
        ):  # fmt: skip
            status, body = await x.raw(key, "POST", "/api/v5/trade/order", {**good, **change})
            assert status == 200 and body["code"] == "1" and body["data"][0]["sCode"] == wanted, (change, body)
        assert (await x.raw(key, "POST", "/api/v5/trade/order", {**good, "instId": ""}))[1]["code"] == "50014"
        assert (await x.raw(key, "POST", "/api/v5/trade/order", []))[1]["code"] in ("50002", "51111")
        assert (await x.raw(key, "GET", "/api/v5/no/such"))[0] == 404
        assert (await x.raw(key, "POST", "/api/v5/trade/order", good, Content_Type="text/plain"))[1]["code"] == "50006"
        assert x.host.engine.open_orders(x.host.accounts.index["alice"]) == []
        assert {code for code, _ in (*REFUSALS.values(), *SETTING_REFUSALS.values())} <= set(CODES)


async def test_messages_that_are_none() -> None:
    """On a connection too; orders need a login, a number for the instrument and the right door."""
    async with exchange() as x:
        (channel,) = x.wire.channels(x.endpoints)
        ws = await x.http.ws_connect(channel.url)
        for text, code in (
            ("{", "60012"), ("[]", "60012"), ('{"op":"dance","args":[{}]}', "60019"), ('{"op":"order","args":[1]}', "60012"),
            ('{"id":"1","op":"order","args":[{}]}', "60011"), ('{"op":"subscribe","args":[{"channel":"orders"}]}', "60011"),
            ('{"op":"subscribe","args":[{"channel":"bbo-tbt","instId":"BTC-USDT-SWAP"}]}', "60018"),
        ):  # fmt: skip
            await ws.send_str(text)
            assert orjson.loads((await asyncio.wait_for(ws.receive(), 5)).data)["code"] == code, text
        await ws.send_str("ping")
        assert (await asyncio.wait_for(ws.receive(), 5)).data == "pong"
        line = await x.line(await x.key())
        for args, code in (
            ([{"instId": "BTC-USDT-SWAP", "side": "buy"}], "50014"), ([{}, {}], "60013"), ([], "60013"),
            ([{"instIdCode": 10458, "tdMode": "isolated", "side": "buy", "ordType": "market", "sz": "1"}] * 21, "60013"),
        ):  # fmt: skip
            await line.send(orjson.dumps({"id": "ab" * 16, "op": "order", "args": args}))
            (told,) = await line.until(Answered)
            assert str(told.verdict.code) == code and told.verdict.outcome is Outcome.DEFINITE_REJECT


async def test_rates() -> None:
    """60 placements in two seconds per account and instrument; then refused for the rate, definitely and with nothing done."""
    async with exchange() as x:
        line = await x.line(await x.key(balance="100000000"))
        verdicts = [(await line.place(x.order(qty=1, side=1 if n % 2 else -1))).verdict for n in range(61)]
        assert [v.outcome for v in verdicts[:60]] == [Outcome.ACCEPTED] * 60
        assert verdicts[60] == (Outcome.DEFINITE_REJECT, "too_many_requests", 50011)
        other = await line.place(x.order(qty=10, index=1))
        assert other.verdict.outcome is Outcome.ACCEPTED, "each instrument has its own"
        limit = CONTRACT.limit("orders", "account_instrument")
        assert (limit.limit, limit.interval_ms) == (60, 2_000)
        assert x.host.windows.defined["sub_account"].limit == CONTRACT.limit("orders", "account").limit


async def test_connections_are_counted() -> None:
    """Three a second from one address."""
    async with exchange(lift=frozenset()) as x:
        opened = 0
        for _ in range(4):
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                await x.http.ws_connect(x.endpoints.public)
                opened += 1
        assert opened == CONTRACT.limit("connects", "ip").limit == 3


async def test_batches() -> None:
    """Up to twenty orders, each for itself; a batch of one counts as a single order."""
    async with exchange() as x:
        key = await x.key()
        row = {"instId": "BTC-USDT-SWAP", "tdMode": "isolated", "side": "buy", "ordType": "market", "sz": "0.1"}
        _, mixed = await x.raw(key, "POST", "/api/v5/trade/batch-orders", [row, {**row, "sz": "0.001"}])
        assert mixed["code"] == "2" and [one["sCode"] for one in mixed["data"]] == ["0", "51121"]
        assert mixed["data"][0]["clOrdId"] == "", "an order without a client id has none"
        _, many = await x.raw(key, "POST", "/api/v5/trade/batch-orders", [row] * (CONTRACT.batch_max + 1))
        assert many["code"] == "51111"


@pytest.mark.parametrize(("action", "outcome", "there"), [
    ("error_live", Outcome.IN_DOUBT, True), ("error_dead", Outcome.IN_DOUBT, False),
    ("unavailable", Outcome.DEFINITE_REJECT, False), ("throttled", Outcome.DEFINITE_REJECT, False),
])  # fmt: skip
async def test_faults_are_told_in_the_venues_words(action: str, outcome: Outcome, there: bool) -> None:
    """What the venue answers when it does not say, when it certainly did not, and when it was too busy: over both ways in."""
    async with exchange() as x:
        key = await x.key()
        line = await x.line(key)
        await x.tell("/faults", {"action": action, "method": "place"})
        order = x.order()
        assert (await line.place(order)).verdict.outcome is outcome
        assert (await x.rest.order(key, order.instrument, cid=order.cid) is not None) is there
        by_rest = x.order()
        with pytest.raises(RestError) as caught:
            await x.rest.place(key, by_rest)
        assert caught.value.verdict.outcome is outcome
        assert (await x.rest.order(key, order.instrument, cid=by_rest.cid) is not None) is there


async def test_a_stale_answer_knows_nothing_new() -> None:
    """A question answered from a while ago does not know the order that was just placed."""
    async with exchange() as x:
        key = await x.key()
        order = x.order()
        await x.rest.place(key, order)
        await x.tell("/faults", {"action": "stale_read", "method": "query", "delay_ms": 60_000, "count": 1})
        assert await x.rest.order(key, order.instrument, cid=order.cid) is None
        assert await x.rest.order(key, order.instrument, cid=order.cid) is not None


def test_the_contract_is_whole() -> None:
    """The contract under test is the one the adapter uses."""
    assert isinstance(CONTRACT, VenueContract)


# --- clients written by others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["ccxt_okx", "python_okx"])
async def test_unmodified_client_trades_and_hears_about_it(client: str) -> None:
    """Instruments, signed market and limit orders, cancel, open orders, positions, and the private stream where it has one."""
    if not CLIENT.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    async with exchange(maker_ms=20) as x:
        at = {**x.at, **await x.account(client)}
        done = await asyncio.to_thread(
            subprocess.run, [CLIENT, "-P", SCRIPTS / f"client_{client}.py", orjson.dumps(at)], capture_output=True, text=True,
            timeout=90, check=False)  # fmt: skip
        assert done.returncode == 0, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert done.stdout.strip().endswith("ok")
