"""Rest against a server that says what a test wants said: what the simulated exchange has no words for."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from aiohttp import web

from copyd.errors import VenueUnavailable
from copyd.venues.bitget.contract import CONTRACT, DAY_MS, Endpoints
from copyd.venues.bitget.instruments import load_instruments
from copyd.venues.bitget.rest import PAGES_MAX, PRICES_AGE_NS, Rest
from copyd.venues.bitget.signing import headers
from copyd.venues.common.facts import CANCELED, FILLED, NEW
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order
from tests.venues.bitget.conftest import BTC_SPOT, bodies

CID = bytes(range(16))
CLASSIC = (400, {"code": "25245", "msg": "", "data": None})
SETTINGS = "/api/v3/account/settings"


def ok(data: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"code": "00000", "msg": "success", "requestTime": 1, "data": data}


class Venue:
    """Answers by path: (status, JSON or bytes), a function of the query, or a list of them, one after the other."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {SETTINGS: CLASSIC}
        self.heard: list[tuple[str, str, dict[str, str], bytes, dict[str, str]]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        path, _, query = request.raw_path.partition("?")
        params = dict(parse_qsl(query))
        self.heard.append((request.method, path, params, await request.read(), dict(request.headers)))
        said = self.says.get(path, (404, {"code": "40404"}))
        if isinstance(said, list):
            said = said.pop(0)
        status, body = said(params) if callable(said) else said
        return web.Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Parameters of every request to a path, of its body where it has one."""
        return [json.loads(body) if body else params for _, at, params, body, _ in self.heard if at == path]


@contextlib.asynccontextmanager
async def saying(instruments: Instruments, **options: Any) -> AsyncIterator[tuple[Venue, Rest]]:
    venue = Venue()
    runner = web.ServerRunner(web.Server(venue.answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    at = msgspec.structs.replace(Endpoints.at(f"http://127.0.0.1:{port}", "ws://x"), **options)
    rest = Rest(at, CONTRACT, time.time_ns)
    rest.bind(instruments)
    await rest.open()
    try:
        yield venue, rest
    finally:
        await rest.close()
        await runner.cleanup()


def spot_order(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT", "orderId": str(number), "clientOid": CID.hex(), "size": "0.0100000000000000", "price": "50000",
        "orderType": "limit", "side": "sell", "status": "filled", "priceAvg": "50000.5", "baseVolume": "0.0100000000000000",
        "quoteVolume": "500.0050000000000000", "feeDetail": "{}", "cTime": "1700000000000", "uTime": "1700000000009", **fields,
    }  # fmt: skip


async def test_calls_are_signed_as_they_are_sent(key: Key, instruments: Instruments) -> None:
    """The query goes out sorted by name, and the headers sign exactly what arrives; a demo key says so."""
    async with saying(instruments, demo=True) as (venue, rest):
        venue.says["/api/v2/mix/order/detail"] = (400, {"code": "40109"})
        venue.says["/api/v2/mix/order/orders-history"] = ok({"entrustedList": None, "endId": None})
        assert await rest.order(key, instruments[3], cid=CID) is None
        _, path, _, _, sent = next(row for row in venue.heard if row[1].endswith("detail"))
        target = f"{path}?clientOid={CID.hex()}&productType=USDT-FUTURES&symbol=BTCUSDT"
        wanted = headers(key, "GET", target, b"", int(sent["ACCESS-TIMESTAMP"]), demo=True)
        assert wanted.items() <= sent.items() and sent["paptrading"] == "1"


async def test_an_ended_order_is_looked_for_in_the_history(key: Key, instruments: Instruments) -> None:
    """What the order's own call does not know any more the list of ended orders may; another order there is not taken for it."""
    row = {**spot_order(5), "posMode": "one_way_mode", "posSide": "net", "tradeSide": "sell_single", "size": "0.01",
           "status": "canceled", "baseVolume": "0", "priceAvg": "", "quoteVolume": "0"}  # fmt: skip
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/mix/order/detail"] = (400, {"code": "40109"})
        venue.says["/api/v2/mix/order/orders-history"] = ok({"entrustedList": [{**row, "clientOid": "x"}, row], "endId": "5"})
        told = await rest.order(key, instruments[3], cid=CID)
        assert told is not None and (told.status, told.side, told.order_qty, told.cum_qty) == (CANCELED, -1, 10, 0)


async def test_an_order_of_spot(key: Key, instruments: Instruments) -> None:
    """Spot answers with a list, with an empty one where there is none; numbers are padded far beyond the step."""
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/spot/trade/orderInfo"] = [ok([spot_order(7)]), ok([])]
        told = await rest.order(key, instruments[7], cid=CID)
        assert told is not None and told.cid == CID
        assert (told.instrument, told.status, told.side, told.order_qty, told.cum_qty, told.cost_e8) == (
            7, FILLED, -1, 10_000, 10_000, 50_000_500_000)  # fmt: skip
        assert await rest.order(key, instruments[7], order_id=8) is None
        assert venue.asked("/api/v2/spot/trade/orderInfo") == [{"clientOid": CID.hex()}, {"orderId": "8"}]


async def test_orders_of_spot_since(key: Key, instruments: Instruments) -> None:
    """Open and ended orders together; what was placed before is left out; one that ended meanwhile counts as ended."""
    since = int(time.time() * 1000) - 1_000
    at = str(since + 5)
    async with saying(instruments) as (venue, rest):
        open_ = spot_order(8, status="live", baseVolume="0", quoteVolume="0", priceAvg="0", cTime=at)
        venue.says["/api/v2/spot/trade/unfilled-orders"] = ok([open_, spot_order(9, status="live", cTime=at)])
        venue.says["/api/v2/spot/trade/history-orders"] = ok([spot_order(9, cTime=at), spot_order(6)])
        rows, whole = await rest.orders_since(key, instruments[7], since)
        assert whole and {row.venue_order_id: row.status for row in rows} == {8: NEW, 9: FILLED}


async def test_executions_of_spot_by_pages(key: Key, instruments: Instruments) -> None:
    """A full page is followed by the one before it, until the id is passed; fees are what was received less."""
    def page(params: dict[str, str]) -> tuple[int, Any]:
        newest = int(params.get("idLessThan", 1_000)) - 1
        fee = {"deduction": "no", "feeCoin": "BTC", "totalDeductionFee": "", "totalFee": "-0.0000001"}
        row = {"symbol": "BTCUSDT", "orderId": "1", "side": "buy", "priceAvg": "28467.68", "size": "0.0002", "amount": "5.693536",
               "feeDetail": fee, "tradeScope": "taker", "cTime": "1697603539699"}  # fmt: skip
        return ok([{**row, "tradeId": str(n)} for n in range(newest, max(newest - 100, 0), -1)])

    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/spot/trade/fills"] = page
        trades = await rest.trades_from(key, instruments[7], 850, 120)
        assert [trade.execution.exec_id for trade in trades] == list(range(850, 970))
        one = trades[0]
        assert (one.fee, one.fee_asset, one.execution.qty, one.execution.px, one.execution.side, one.execution.position_side) == (
            "0.0000001", "BTC", 200, 2846768, 1, 0)  # fmt: skip
        assert len(venue.asked("/api/v2/spot/trade/fills")) == 2


async def test_a_list_without_end_is_not_half_believed(key: Key, instruments: Instruments) -> None:
    """More pages than are ever read: executions are refused, orders are said to be incomplete."""
    def page(params: dict[str, str]) -> tuple[int, Any]:
        newest = int(params.get("idLessThan", 10**9)) - 1
        rows = [{**spot_order(n, cTime="1700000000000"), "posMode": "one_way_mode"} for n in range(newest, newest - 100, -1)]
        return ok({"entrustedList": rows, "endId": str(newest - 99)})

    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/mix/order/orders-pending"] = page
        venue.says["/api/v2/mix/order/orders-history"] = ok({"entrustedList": None, "endId": None})
        rest.budget._tokens = rest.budget.limit = 1_000_000
        _, whole = await rest.orders_since(key, instruments[3], 1_700_000_000_000)
        assert not whole and len(venue.asked("/api/v2/mix/order/orders-pending")) == PAGES_MAX


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'{"code":"00000"}', b'{"code":"00000","data":{"list":[{"symbol":1}]}}', b"\xff",
])  # fmt: skip
async def test_what_cannot_be_read_is_no_answer(key: Key, instruments: Instruments, body: bytes) -> None:
    """A 200 that is empty or of another shape is an error of its own, never an empty list."""
    async with saying(instruments) as (venue, rest):
        venue.says |= {SETTINGS: ok({"holdMode": "hedge_mode"}), "/api/v3/position/current-position": (200, body)}
        with pytest.raises(ValueError):
            await rest.positions(key)
        venue.says["/api/v3/position/current-position"] = ok({"list": None})
        venue.says["/api/v3/account/assets"] = ok({"assets": []})
        assert await rest.positions(key) == []


@pytest.mark.parametrize(("status", "body", "outcome", "banned"), [
    (500, b"<html>", Outcome.IN_DOUBT, False), (502, b"", Outcome.IN_DOUBT, False), (404, b"<html>", Outcome.IN_DOUBT, False),
    (403, b"<html>", Outcome.DEFINITE_REJECT, True), (429, b"", Outcome.DEFINITE_REJECT, True),
    (400, b'{"code":"40725","msg":"service return an error"}', Outcome.IN_DOUBT, False),
    (200, b'{"code":"43012","msg":"Insufficient balance"}', Outcome.DEFINITE_REJECT, False),
])  # fmt: skip
async def test_answers_to_a_placement(
    key: Key, instruments: Instruments, status: int, body: bytes, outcome: Outcome, banned: bool
) -> None:
    """From the edge or from the engine: what an answer proves, and whether the address has to keep away."""
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/mix/order/place-order"] = (status, body)
        with pytest.raises(RestError) as refused:
            await rest.place(key, Order(1, instruments[3], CID, 10, 0, 1, 0, False))
        assert refused.value.verdict.outcome is outcome and rest.bans.any == banned


@pytest.mark.parametrize("data", [None, {"orderId": "", "clientOid": CID.hex()}, {"orderId": "5", "clientOid": "other"}])
async def test_a_success_that_names_no_order_of_ours_proves_nothing(key: Key, instruments: Instruments, data: Any) -> None:
    """Neither accepted nor rejected: whoever asked is told that it cannot be read."""
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/mix/order/place-order"] = ok(data)
        with pytest.raises(ValueError):
            await rest.place(key, Order(1, instruments[3], CID, 10, 0, 1, 0, False))


async def test_an_order_without_words_is_not_sent(key: Key, instruments: Instruments) -> None:
    """A market order that buys spot: definitely not placed, and nothing went out."""
    async with saying(instruments) as (venue, rest):
        with pytest.raises(RestError) as refused:
            await rest.place(key, Order(1, instruments[7], CID, 10, 0, 1, 0, False))
        assert refused.value.verdict[:2] == (Outcome.DEFINITE_REJECT, "not_sent")
        assert all(method == "GET" for method, *_ in venue.heard)


async def test_a_placement_as_it_goes_out(key: Key, instruments: Instruments) -> None:
    """Method, target, headers and body of both APIs, for whoever sends it himself."""
    order = Order(1, instruments[3], CID, 10, 0, 1, 0, False)
    async with saying(instruments) as (venue, rest):
        unified = ok({"holdMode": "one_way_mode"})
        for kind, path in ((CLASSIC, "/api/v2/mix/order/place-order"), (unified, "/api/v3/trade/place-order")):
            rest._kinds.clear()
            venue.says[SETTINGS] = kind
            await rest.prepare(key)
            method, target, sent, body = rest.rest_place(order, key, 1_700_000_000_000)
            assert (method, target) == ("POST", path) and sent == headers(key, "POST", path, body, 1_700_000_000_000)
            assert json.loads(body)["marginMode"] == "isolated"


@pytest.mark.parametrize(("status", "body", "unified"), [
    (200, {"code": "00000", "data": {"holdMode": "hedge_mode"}}, True), (400, {"code": "25245"}, False),
    (403, {"code": "40014"}, False), (400, {"code": "99999"}, False), (404, {"code": "40404"}, False), (400, b"<html>", False),
    (403, b"<html>", None), (500, b"", None), (200, b"", None), (400, {"code": "40015"}, None), (400, {"code": "40008"}, None),
])  # fmt: skip
async def test_which_api_an_account_speaks(
    key: Key, instruments: Instruments, status: int, body: Any, unified: bool | None
) -> None:
    """Settings of v3 mean unified, a refusal classic; what passes by itself means neither, and is asked again."""
    async with saying(instruments) as (venue, rest):
        venue.says[SETTINGS] = (status, body)
        if unified is None:
            with pytest.raises(VenueUnavailable):
                await rest.prepare(key)
            assert rest.kind(key.api_key) is None
        else:
            assert (await rest.prepare(key)).unified == unified and rest.kind(key.api_key) is not None


async def test_settings_that_differ_by_side(key: Key, instruments: Instruments) -> None:
    """Two leverages of isolated sides are no leverage; crossed there is one."""
    told = {"marginCoin": "USDT", "crossedMarginLeverage": 20, "isolatedLongLever": 7, "isolatedShortLever": "9",
            "posMode": "hedge_mode", "marginMode": "isolated", "accountEquity": "10", "unrealizedPL": ""}  # fmt: skip
    async with saying(instruments) as (venue, rest):
        others: list[dict[str, Any]] = [{}, {"isolatedShortLever": 7}, {"marginMode": "crossed"}]
        venue.says["/api/v2/mix/account/account"] = [ok({**told, **other}) for other in others]
        found = [await rest.settings(key, instruments[3]) for _ in range(3)]
        assert [(one.leverage, one.isolated, one.hedge) for one in found] == [(0, True, True), (7, True, True), (20, False, True)]
        assert (await rest.settings(key, instruments[7])).leverage == 1


async def test_leverage_of_isolated_sides_is_set_twice(key: Key, instruments: Instruments) -> None:
    """Once for each side on a two-sided account; that nothing changed is no error, anything else is."""
    account = {"marginCoin": "USDT", "posMode": "hedge_mode", "marginMode": "isolated"}
    path = "/api/v2/mix/account/set-leverage"
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/mix/account/account"] = ok(account)
        venue.says[path] = [ok({}), (400, {"code": "45054"}), ok({}), (400, {"code": "40893"})]
        await rest.set_leverage(key, instruments[3], 5, True)
        assert [(row["holdSide"], row["leverage"]) for row in venue.asked(path)] == [("long", "5"), ("short", "5")]
        await rest.set_leverage(key, instruments[3], 5, False)
        assert "holdSide" not in venue.asked(path)[2]
        with pytest.raises(RestError):
            await rest.set_leverage(key, instruments[3], 50, False)


async def test_money_is_asked_for_in_spans(key: Key, instruments: Instruments) -> None:
    """Forty days are two questions that do not overlap; other coins' movements are not counted."""
    async with saying(instruments) as (venue, rest):
        bill = {"symbol": "", "fee": "0", "businessType": "trans_from_exchange", "coin": "USDT"}
        venue.says["/api/v2/mix/account/bill"] = [
            ok({"bills": [{**bill, "billId": "1", "amount": "5", "cTime": "100"}], "endId": "1"}),
            ok({"bills": [{**bill, "billId": "3", "amount": "7", "cTime": "300"},
                          {**bill, "billId": "2", "amount": "6", "cTime": "200", "coin": "BTC"}], "endId": "2"}),
        ]  # fmt: skip
        now = int(time.time() * 1000)
        assert await rest.flows(key, now - 40 * DAY_MS) == [(500_000_000, 100 * 10**6), (700_000_000, 300 * 10**6)]
        first, second = venue.asked("/api/v2/mix/account/bill")
        assert int(first["endTime"]) - int(first["startTime"]) == 30 * DAY_MS
        assert int(second["startTime"]) == int(first["endTime"]) + 1 and "businessType" not in first


async def test_executions_of_a_two_sided_unified_account(key: Key, instruments: Instruments) -> None:
    """The list of v3 names no position: with the account's mode, what was done and whether it was opened tell it."""
    def fill(number: int, side: str, trade_side: str) -> dict[str, Any]:
        return {"execId": str(number), "orderId": "1", "category": "USDT-FUTURES", "symbol": "BTCUSDT", "side": side,
                "execPrice": "106950.1", "execQty": "0.01", "tradeScope": "taker", "tradeSide": trade_side,
                "feeDetail": [{"feeCoin": "USDT", "fee": "0.64"}], "createdTime": "1750141421721", "execPnl": "0"}  # fmt: skip

    rows = [fill(4, "buy", "close"), fill(3, "sell", "close"), fill(2, "sell", "open"), fill(1, "buy", "open"),
            {**fill(9, "buy", "open"), "category": "SPOT"}, {**fill(8, "buy", "open"), "symbol": "ETHUSDT"}]  # fmt: skip
    async with saying(instruments) as (venue, rest):
        venue.says |= {SETTINGS: ok({"holdMode": "hedge_mode"}), "/api/v3/trade/fills": ok({"list": rows, "cursor": "1"})}
        found = [trade.execution for trade in await rest.trades_from(key, instruments[3], 0, 10)]
        assert [(one.exec_id, one.side, one.position_side) for one in found] == [(1, 1, 1), (2, -1, 2), (3, -1, 1), (4, 1, 2)]
        venue.says[SETTINGS] = ok({"holdMode": "one_way_mode"})
        assert {t.execution.position_side for t in await rest.trades_from(key, instruments[3], 0, 10)} == {0}
        newest = await rest.newest_trade(key, instruments[7])
        assert newest is not None and newest.execution.exec_id == 9


async def test_the_clock(instruments: Instruments) -> None:
    """The venue writes its time as a text of milliseconds."""
    async with saying(instruments) as (venue, rest):
        venue.says["/api/v2/public/time"] = ok({"serverTime": "1700111073740"})
        assert await rest.server_ms() == 1_700_111_073_740


@pytest.mark.parametrize("unified", [False, True])
async def test_what_is_held_of_spot_is_its_position(key: Key, instruments: Instruments, unified: bool) -> None:
    """A look that did not show it would take every lot of a spot leg for sold by hand: nothing would close it any more."""
    async with saying(instruments) as (venue, rest):
        coins = [{"coin": "BTC", "available": "0.01", "frozen": "0.0023459", "locked": "0"}, {"coin": "USDT", "available": "5"}]
        if unified:
            venue.says[SETTINGS] = ok({"holdMode": "one_way_mode"})
            venue.says["/api/v3/position/current-position"] = ok({"list": None})
            assets = [{"coin": "BTC", "balance": "0.0123459"}, {"coin": "USDT", "available": "5"}]
            venue.says["/api/v3/account/assets"] = ok({"usdtEquity": "5", "assets": assets})
        else:
            venue.says["/api/v2/mix/position/all-position"] = ok([])
            venue.says["/api/v2/mix/account/account"] = ok({"marginCoin": "USDT", "available": "5", "accountEquity": "5"})
            venue.says["/api/v2/spot/account/assets"] = ok(coins)
        [held] = await rest.positions(key)
        assert (held.instrument, held.position_side, held.qty) == (7, 0, 12345)  # lots of 0.000001
        assert (await rest.books(key)).positions == ((7, 0, 12345, 0),)
        venue.says["/api/v3/account/assets"] = ok({"usdtEquity": "5", "assets": None})
        venue.says["/api/v2/spot/account/assets"] = ok(None)
        with pytest.raises(ValueError):  # nothing told is not nothing held
            await rest.positions(key)


ETH_SPOT = {**BTC_SPOT, "symbol": "ETHUSDT", "baseCoin": "ETH", "quantityPrecision": "4"}


@pytest.mark.parametrize("unified", [False, True])
async def test_coins_count_at_their_last_prices(key: Key, unified: bool) -> None:
    """On spot alone equity is the quote asset and the coins in use; of many accounts the prices are asked for once; a coin
    without a price is no equity."""
    spot = load_instruments(bodies([], [BTC_SPOT, ETH_SPOT]), [(0, "BTCUSDT_SPBL"), (1, "ETHUSDT_SPBL")])
    tickers = "/api/v2/spot/market/tickers"
    async with saying(spot) as (venue, rest):
        rows = [("USDT", "10.5"), ("BTC", "0.0100009"), ("DOGE", "7"), ("ETH", "0.5")]
        if unified:
            venue.says[SETTINGS] = ok({"holdMode": "hedge_mode"})
            assets = [{"coin": coin, "balance": has, "available": "0"} for coin, has in rows]
            venue.says["/api/v3/account/assets"] = ok({"usdtEquity": "9999", "assets": assets})
        else:
            venue.says["/api/v2/spot/account/assets"] = ok(
                [{"coin": coin, "available": "0", "frozen": has, "locked": "0"} for coin, has in rows])
        prices = [{"symbol": "BTCUSDT", "lastPr": "60000.01"}, {"symbol": "ETHUSDT", "lastPr": "3000"},
                  {"symbol": "DOGEUSDT", "lastPr": "1"}]  # fmt: skip
        venue.says[tickers] = ok(prices)
        for _ in range(2):
            books = await rest.books(key)
            assert (books.wallet_e8, books.available_e8) == (1_050_000_000, 0)
            assert books.equity_e8 == 1_050_000_000 + 60_005_410_000 + 150_000_000_000
            assert books.positions == ((0, 0, 10_000, 0), (1, 0, 5_000, 0))
        assert venue.asked(tickers) == [{}]
        rest._priced_ns -= PRICES_AGE_NS
        venue.says[tickers] = ok(prices[:1])
        with pytest.raises(ValueError, match="no price of ETHUSDT"):
            await rest.books(key)


@pytest.mark.parametrize("unified", [False, True])
async def test_what_is_paid_into_a_spot_account(key: Key, unified: bool) -> None:
    """The list of the account of coins is asked, of the coin that is the wallet; a unified account has one wallet for all."""
    spot = load_instruments(bodies([], [BTC_SPOT]), [(0, "BTCUSDT_SPBL")])
    async with saying(spot) as (venue, rest):
        if unified:
            venue.says[SETTINGS] = ok({"holdMode": "one_way_mode"})
            path, row = "/api/v3/account/financial-records", {"id": "5", "type": "TRANSFER_IN", "amount": "7", "ts": "9"}
            venue.says[path] = ok({"list": [{**row, "coin": "USDT"}], "cursor": None})
        else:
            path = "/api/v2/spot/account/bills"
            venue.says[path] = ok([{"billId": "5", "coin": "USDT", "groupType": "transfer", "businessType": "transfer_in",
                                    "size": "7", "cTime": "9"}])  # fmt: skip
        assert await rest.flows(key, rest.venue_clock.timestamp_ms() - 1_000) == [(700_000_000, 9 * 10**6)]
        [asked] = venue.asked(path)
        assert asked["coin"] == "USDT" and "category" not in asked and "productType" not in asked
        assert await rest.fundings(key, 0) == [] and len(venue.asked(path)) == 1
