"""The Binance spot dialect over real sockets: what the venue's documentation says of each request is what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
import pytest

from copyd.exchange.binance_spot import Dialect
from copyd.exchange.host import Host, Options
from copyd.venues.binance_spot.contract import CONTRACT, Endpoints
from copyd.venues.binance_spot.instruments import load_instruments
from copyd.venues.binance_spot.rest import Rest
from copyd.venues.binance_spot.wire import BinanceSpotWire
from copyd.venues.common import told as t
from copyd.venues.common.facts import CANCELED, EXPIRED, FILLED, MS_NS, NEW, Mark, Quote
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order
from tests.exchange.wire_client import hear

Socket = aiohttp.ClientWebSocketResponse


class Bench:
    """One exchange and what a test does with it."""

    def __init__(self, host: Host, http: aiohttp.ClientSession) -> None:
        self.host, self.http = host, http
        self.rest, self.ws, self.control = (f"{how}://127.0.0.1:{host.ports[name]}" for how, name in (
            ("http", "rest"), ("ws", "ws"), ("http", "control")))
        self.numbers = 0

    async def tell(self, method: str, path: str, body: Any = None) -> Any:
        data = orjson.dumps(body) if body is not None else None
        async with self.http.request(method, self.control + path, data=data) as response:
            text = await response.read()
            if response.content_type == "application/x-ndjson":
                return [orjson.loads(line) for line in text.splitlines()]
            return orjson.loads(text)

    async def account(self, name: str = "alice", **order: Any) -> dict[str, Any]:
        one = {"name": name, "balance": "100000", "maker_ppm": 1000, "taker_ppm": 1000, **order}
        made = await self.tell("POST", "/accounts", {"accounts": [one]})
        return dict(made["accounts"][0])

    async def call(
        self, account: dict[str, Any], method: str, path: str, in_body: bool = False, **params: Any
    ) -> tuple[int, Any]:
        """A signed REST call: (status, body)."""
        params.setdefault("timestamp", time.time_ns() // 10**6)
        text = urlencode(params)
        text += "&signature=" + sign(account["secret"], text)
        url, data = (self.rest + path, text) if in_body else (f"{self.rest}{path}?{text}", None)
        headers = {"X-MBX-APIKEY": account["api_key"]}
        async with self.http.request(method, url, data=data, headers=headers) as response:
            self.headers = response.headers
            return response.status, orjson.loads(await response.read())

    async def ask(self, ws: Socket, account: dict[str, Any] | None, method: str, **params: Any) -> None:
        """A request of the WebSocket API; signed where an account asks."""
        self.numbers += 1
        if account is not None:
            params = {"apiKey": account["api_key"], "timestamp": time.time_ns() // 10**6, **params}
            text = "&".join(f"{name}={params[name]}" for name in sorted(params))
            params["signature"] = sign(account["secret"], text)
        await ws.send_str(orjson.dumps({"id": self.numbers, "method": method, "params": params}).decode())

    async def api(self, **query: str) -> Socket:
        return await self.http.ws_connect(f"{self.ws}/ws-api/v3?{urlencode(query)}")


def sign(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


@contextlib.asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Bench]:
    """A running exchange with a still market, in this loop."""
    host = Host(Options(seed=7, maker_ms=options.pop("maker_ms", 60_000), **options), Dialect)
    for index in range(len(host.instruments)):
        host.makers.hold(index, 0)
    await host.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(host, http)
        finally:
            await host.stop()


BUY = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
LIMIT = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01", "price": "50000"}


# -- answers -------------------------------------------------------------------------------------------------------------
async def test_the_three_forms_of_an_answer() -> None:
    """ACK says that it is there, RESULT how it stands, FULL (the default) what it cost, in base of a buy and eight places."""
    async with exchange() as x:
        alice = await x.account()
        status, ack = await x.call(alice, "POST", "/api/v3/order", **BUY, newOrderRespType="ACK", newClientOrderId="a-1")
        assert (status, list(ack)) == (200, ["symbol", "orderId", "orderListId", "clientOrderId", "transactTime"])
        assert (ack["orderListId"], ack["clientOrderId"]) == (-1, "a-1")
        _, result = await x.call(alice, "POST", "/api/v3/order", True, **BUY, newOrderRespType="RESULT")
        assert (result["status"], result["executedQty"], result["price"]) == ("FILLED", "0.01000000", "0.00000000")
        assert "cummulativeQuoteQty" in result and "fills" not in result
        _, full = await x.call(alice, "POST", "/api/v3/order", **BUY)
        assert [fill["commissionAsset"] for fill in full["fills"]] == ["BTC"]
        assert full["fills"][0]["commission"] == "0.00001000"
        assert x.headers["X-MBX-USED-WEIGHT-1M"] == "0"  # what succeeds weighs nothing


async def test_an_ioc_without_liquidity_is_accepted_and_expires() -> None:
    """HTTP 200 and EXPIRED, no refusal; a fill-or-kill as well."""
    async with exchange() as x:
        alice = await x.account()
        for tif in ("IOC", "FOK"):
            status, order = await x.call(alice, "POST", "/api/v3/order", **{**LIMIT, "timeInForce": tif})
            assert (status, order["status"], order["executedQty"], order["fills"]) == (200, "EXPIRED", "0.00000000", [])


@pytest.mark.parametrize(("change", "code", "message"), [
    ({"quantity": "5"}, -2010, "Account has insufficient balance for requested action."),
    ({"side": "SELL", "price": "61000"}, -2010, "Account has insufficient balance for requested action."),
    ({"quantity": "0.00009"}, -1013, "Filter failure: NOTIONAL"),
    ({"quantity": "0.000011"}, -1013, "Filter failure: LOT_SIZE"),
    ({"quantity": "9001"}, -1013, "Filter failure: LOT_SIZE"),
    ({"type": "MARKET", "quantity": "121", "price": "", "timeInForce": ""}, -1013, "Filter failure: MARKET_LOT_SIZE"),
    ({"price": "50000.001"}, -1013, "Filter failure: PRICE_FILTER"),
    ({"price": "1"}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    ({"quantity": "0.010000001"}, -1111, "Parameter 'quantity' has too much precision."),
    ({"quantity": "abc"}, -1100, None),
    ({"newClientOrderId": "a b"}, -1100, None),
    ({"symbol": "NOSUCH"}, -1121, "Invalid symbol."),
    ({"side": "HOLD"}, -1117, "Invalid side."),
    ({"type": "ODD"}, -1116, "Invalid orderType."),
    ({"type": "STOP_LOSS"}, -2010, "Stop loss orders are not supported for this symbol."),
    ({"timeInForce": "DAY"}, -1115, "Invalid timeInForce."),
    ({"timeInForce": ""}, -1102, "Mandatory parameter 'timeInForce' was not sent, was empty/null, or malformed."),
    ({"type": "LIMIT_MAKER", "price": "61000", "timeInForce": ""}, -2010, "Order would immediately match and take."),
    ({"type": "MARKET", "timeInForce": ""}, -1106, "Parameter 'price' sent when not required."),
    ({"newOrderRespType": "ALL"}, -1130, None),
])  # fmt: skip
async def test_refusals_in_the_venues_words(change: dict[str, str], code: int, message: str | None) -> None:
    """Code and text of each case; HTTP 400; the truth has it; a refused order weighs 1."""
    async with exchange() as x:
        alice = await x.account()
        params = {name: value for name, value in {**LIMIT, **change}.items() if value}
        status, body = await x.call(alice, "POST", "/api/v3/order", **params)
        assert (status, body["code"]) == (400, code)
        assert message is None or body["msg"] == message
        assert x.headers["X-MBX-USED-WEIGHT-1M"] == "1"
        assert [row["code"] for row in await x.tell("GET", "/truth/rejects")] == [code]
        assert await x.tell("GET", "/truth/orders") == []


async def test_a_duplicate_is_refused_while_the_first_is_open_only() -> None:
    """-2010 with its own text; after the first has ended the id is free, and a second order is a second order."""
    async with exchange() as x:
        alice = await x.account()
        assert (await x.call(alice, "POST", "/api/v3/order", **LIMIT, newClientOrderId="same"))[0] == 200
        assert (await x.call(alice, "POST", "/api/v3/order", **LIMIT, newClientOrderId="same"))[1] == {
            "code": -2010, "msg": "Duplicate order sent."}  # fmt: skip
        _, gone = await x.call(alice, "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="same")
        assert (gone["status"], gone["origClientOrderId"]) == ("CANCELED", "same") and gone["clientOrderId"] != "same"
        for _ in range(2):
            assert (await x.call(alice, "POST", "/api/v3/order", **BUY, newClientOrderId="same"))[1]["status"] == "FILLED"
        assert len(await x.tell("GET", "/truth/orders")) == 3


async def test_unknown_orders() -> None:
    """-2011 to a cancel, -2013 to a query, also for another account's order."""
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        _, order = await x.call(alice, "POST", "/api/v3/order", **LIMIT, newClientOrderId="a1")
        for who, name in ((bob, "a1"), (alice, "a2")):
            about = {"symbol": "BTCUSDT", "origClientOrderId": name}
            assert (await x.call(who, "GET", "/api/v3/order", **about))[1]["code"] == -2013
            assert (await x.call(who, "DELETE", "/api/v3/order", **about))[1]["code"] == -2011
        assert (await x.call(bob, "GET", "/api/v3/order", symbol="BTCUSDT", orderId=order["orderId"]))[1]["code"] == -2013
        assert (await x.call(alice, "GET", "/api/v3/order", symbol="BTCUSDT"))[1]["code"] == -1102


# -- who may ask ---------------------------------------------------------------------------------------------------------
async def test_keys_signatures_and_clocks() -> None:
    """A wrong key, secret, stamp or window is refused with its own code; the signature must be last."""
    async with exchange() as x:
        alice = await x.account()
        path, now = "/api/v3/account", time.time_ns() // 10**6
        assert (await x.call({**alice, "secret": "no"}, "GET", path))[1]["code"] == -1022
        assert (await x.call({**alice, "api_key": "short"}, "GET", path)) == (401, {
            "code": -2014, "msg": "API-key format invalid."})  # fmt: skip
        assert (await x.call({**alice, "api_key": "x" * 64}, "GET", path))[1]["code"] == -2015
        assert (await x.call(alice, "GET", path, timestamp=now - 6_000))[1]["code"] == -1021
        assert (await x.call(alice, "GET", path, timestamp=now + 2_000))[1]["code"] == -1021
        assert (await x.call(alice, "GET", path, recvWindow=60_001))[1]["code"] == -1131
        assert (await x.call(alice, "GET", path, timestamp="x"))[1]["code"] == -1102
        assert (await x.call(alice, "GET", path, timestamp=now * 1000, recvWindow="5000.125"))[0] == 200  # microseconds
        text = f"timestamp={now}"
        url = f"{x.rest}{path}?signature={sign(alice['secret'], text)}&{text}"
        async with x.http.get(url, headers={"X-MBX-APIKEY": alice["api_key"]}) as answer:
            assert orjson.loads(await answer.read())["code"] == -1022


async def test_a_query_and_a_form_are_signed_as_one_text() -> None:
    """Query and body back to back, without a separator."""
    async with exchange() as x:
        alice = await x.account()
        query = urlencode({name: BUY[name] for name in ("symbol", "side")})
        body = urlencode({"type": "MARKET", "quantity": "0.01", "timestamp": time.time_ns() // 10**6})
        form = f"{body}&signature={sign(alice['secret'], query + body)}"
        async with x.http.post(f"{x.rest}/api/v3/order?{query}", data=form, headers={"X-MBX-APIKEY": alice["api_key"]}) as answer:
            assert answer.status == 200, await answer.read()


async def test_rights_of_a_key() -> None:
    """What the control port gave it shows in apiRestrictions, and a key that may not trade is refused with -2015."""
    async with exchange() as x:
        reader = await x.account(rights={"enableSpotAndMarginTrading": False})
        bound = await x.account("bob", rights={"ips": ["10.0.0.1"]})
        _, told = await x.call(reader, "GET", "/sapi/v1/account/apiRestrictions")
        assert (told["enableSpotAndMarginTrading"], told["enableWithdrawals"], told["ipRestrict"]) == (False, False, True)
        assert (await x.call(reader, "POST", "/api/v3/order", **BUY))[1]["code"] == -2015
        assert (await x.call(reader, "GET", "/api/v3/account"))[1]["canTrade"] is False
        assert (await x.call(bound, "GET", "/api/v3/account"))[1]["code"] == -2015


# -- limits --------------------------------------------------------------------------------------------------------------
async def test_orders_count_until_they_fill() -> None:
    """50 unfilled orders in ten seconds; what has filled is given back; -1015 is 429 and of the account alone."""
    async with exchange() as x:
        await x.tell("POST", "/limits", {"limit": "orders_10s", "count": 3})
        alice, bob = await x.account(), await x.account("bob")
        for _ in range(5):
            assert (await x.call(alice, "POST", "/api/v3/order", **BUY))[0] == 200
        assert x.headers["X-MBX-ORDER-COUNT-10S"] == "0"
        answers = [await x.call(alice, "POST", "/api/v3/order", **LIMIT) for _ in range(4)]
        assert [status for status, _ in answers] == [200, 200, 200, 429] and answers[3][1]["code"] == -1015
        assert "Retry-After" in x.headers
        assert (await x.call(bob, "POST", "/api/v3/order", **LIMIT))[0] == 200


async def test_the_weight_of_an_address_ends_in_a_ban() -> None:
    """429 with the wait, then 418 for whoever goes on; also on the WebSocket, with the times in the error."""
    async with exchange() as x:
        await x.tell("POST", "/limits", {"limit": "request_weight", "count": 5})
        ws = await x.api()
        seen = []
        for _ in range(110):
            async with x.http.get(x.rest + "/api/v3/ping") as answer:
                seen.append((answer.status, orjson.loads(await answer.read()).get("code", 0), "Retry-After" in answer.headers))
        assert seen[0] == (200, 0, False) and (429, -1003, True) in seen and seen[-1] == (418, -1003, True)
        await x.ask(ws, None, "ping")
        told = await hear(ws)
        assert told["status"] == 418 and told["error"]["data"]["retryAfter"] > told["error"]["data"]["serverTime"]


# -- the WebSocket API ---------------------------------------------------------------------------------------------------
async def test_many_accounts_on_one_connection() -> None:
    """Each request bears its key; events bear the number of the subscription and come to its account alone."""
    async with exchange() as x:
        alice, bob = await x.account(), await x.account("bob")
        ws = await x.api(returnRateLimits="false")
        for number, who in enumerate((alice, bob)):
            await x.ask(ws, who, "userDataStream.subscribe.signature")
            assert await hear(ws) == {"id": number + 1, "status": 200, "result": {"subscriptionId": number}}
        await x.ask(ws, alice, "userDataStream.subscribe.signature")
        assert (await hear(ws))["error"]["code"] == -2035
        await x.ask(ws, bob, "order.place", **BUY, newClientOrderId="b-1", newOrderRespType="RESULT")
        frames = [await hear(ws) for _ in range(4)]
        assert [frame["event"]["e"] for frame in frames[:3]] == ["executionReport", "executionReport", "outboundAccountPosition"]
        assert {frame["subscriptionId"] for frame in frames[:3]} == {1}
        assert [frame["event"]["x"] for frame in frames[:2]] == ["NEW", "TRADE"]
        trade = frames[1]["event"]
        assert (trade["c"], trade["X"], trade["n"], trade["N"], trade["m"]) == ("b-1", "FILLED", "0.00001000", "BTC", False)
        assert frames[3]["result"]["status"] == "FILLED"
        await x.ask(ws, None, "userDataStream.unsubscribe", subscriptionId=1)
        assert (await hear(ws))["result"] == {}
        await x.ask(ws, None, "session.subscriptions")
        assert (await hear(ws))["result"] == [{"subscriptionId": 0}]
        await x.ask(ws, bob, "order.place", **BUY)
        assert "result" in await hear(ws)  # no events of bob any more
        await x.ask(ws, None, "userDataStream.unsubscribe", subscriptionId=1)
        assert (await hear(ws))["error"]["code"] == -2036


async def test_a_cancel_is_told_under_both_ids() -> None:
    """``c`` is the cancel's id, ``C`` the order's; what was locked is free again."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.api(returnRateLimits="false")
        await x.ask(ws, alice, "userDataStream.subscribe.signature")
        await hear(ws)
        await x.ask(ws, alice, "order.place", **LIMIT, newClientOrderId="a-1")
        new, locked, _ = [await hear(ws) for _ in range(3)]
        assert (new["event"]["x"], new["event"]["w"]) == ("NEW", True)
        assert locked["event"]["B"] == [{"a": "USDT", "f": "99500.00000000", "l": "500.00000000"}]
        await x.ask(ws, alice, "order.cancel", symbol="BTCUSDT", origClientOrderId="a-1", newClientOrderId="x-1")
        told, freed, answer = [await hear(ws) for _ in range(3)]
        assert (told["event"]["x"], told["event"]["c"], told["event"]["C"]) == ("CANCELED", "x-1", "a-1")
        assert freed["event"]["B"] == [{"a": "USDT", "f": "100000.00000000", "l": "0.00000000"}]
        assert (answer["result"]["origClientOrderId"], answer["result"]["clientOrderId"]) == ("a-1", "x-1")


async def test_deposits_are_told_with_their_change() -> None:
    """``balanceUpdate`` with the change, then the balance; also of a base asset."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.api()
        await x.ask(ws, alice, "userDataStream.subscribe.signature")
        await hear(ws)
        await x.tell("POST", "/deposit", {"account": "alice", "amount": "0.5", "asset": "BTC"})
        change, balance = [await hear(ws) for _ in range(2)]
        assert (change["event"]["e"], change["event"]["a"], change["event"]["d"]) == ("balanceUpdate", "BTC", "0.50000000")
        assert balance["event"]["B"] == [{"a": "BTC", "f": "0.50000000", "l": "0.00000000"}]
        assert await x.tell("POST", "/deposit", {"account": "alice", "amount": "1", "asset": "XRP"}) == {
            "error": "no market here trades XRP"}  # fmt: skip


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", '{"id":1}', '{"id":1,"method":3}', '{"id":1,"method":"ping","params":[]}',
    '{"id":1,"method":"order.place","params":{"symbol":{}}}', "\x00",
])  # fmt: skip
async def test_what_cannot_be_read_is_answered(text: str) -> None:
    """-1135, and the connection goes on."""
    async with exchange() as x:
        ws = await x.api()
        await ws.send_str(text)
        assert (await hear(ws))["error"]["code"] == -1135
        await x.ask(ws, None, "ping")
        assert (await hear(ws))["result"] == {}


async def test_what_is_gone_or_not_for_these_keys() -> None:
    """Listen keys answer 410, a logon wants another kind of key, an unknown method is said so."""
    async with exchange() as x:
        ws = await x.api()
        for method, status, code in (
            ("userDataStream.start", 410, -1020), ("session.logon", 401, -4056), ("no.such", 400, -1020),
        ):  # fmt: skip
            await x.ask(ws, None, method)
            told = await hear(ws)
            assert (told["status"], told["error"]["code"]) == (status, code)
        async with x.http.post(x.rest + "/api/v3/userDataStream") as answer:
            assert answer.status == 410
        async with x.http.get(x.rest + "/api/v3/nothing") as answer:
            assert answer.status == 404


async def test_numbers_are_signed_as_they_were_written() -> None:
    """A quantity sent as a JSON number is verified in its own digits."""
    async with exchange() as x:
        alice = await x.account()
        ws = await x.api()
        params = f"apiKey={alice['api_key']}&quantity=0.0100&side=BUY&symbol=BTCUSDT&timestamp={(now := time.time_ns() // 10**6)}"
        text = params + "&type=MARKET"
        await ws.send_str(
            f'{{"id":null,"method":"order.place","params":{{"symbol":"BTCUSDT","side":"BUY","type":"MARKET","quantity":0.0100,'
            f'"apiKey":"{alice["api_key"]}","timestamp":{now},"signature":"{sign(alice["secret"], text)}"}}}}')
        told = await hear(ws)
        assert told["id"] is None and told["status"] == 200 and told["rateLimits"][0]["rateLimitType"] == "ORDERS"


async def test_market_streams() -> None:
    """Streams of the address and of a request, raw and combined; too many messages close the connection."""
    async with exchange() as x:
        alice = await x.account()
        combined = await x.http.ws_connect(x.ws + "/stream?streams=btcusdt@bookTicker/btcusdt@trade/btcusdt@miniTicker")
        raw = await x.http.ws_connect(x.ws + "/ws/ethusdt@bookTicker")
        await raw.send_str('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":4}')
        assert await hear(raw) == {"result": None, "id": 4}
        await x.call(alice, "POST", "/api/v3/order", **BUY)
        seen = [await hear(combined) for _ in range(2)]
        assert [frame["stream"] for frame in seen] == ["btcusdt@trade", "btcusdt@bookTicker"]
        assert (await hear(raw))["e"] == "trade"
        await raw.send_str('{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":5}')
        await raw.send_str('{"method":"LIST_SUBSCRIPTIONS","id":6}')
        assert (await hear(raw))["id"] == 5 and (await hear(raw))["result"] == ["ethusdt@bookTicker"]
        assert (await hear(combined))["data"]["e"] == "24hrMiniTicker"
        for number in range(20):
            await raw.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
        while (await asyncio.wait_for(raw.receive(), 3)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert raw.close_code == 1008


async def test_faults_of_a_placement() -> None:
    """Told "unknown" though it was done, and refused for load though it was not: the truth has the one and not the other."""
    async with exchange() as x:
        alice = await x.account()
        for action, status, code, orders in (
            ("error_live", 503, -1007, 1), ("throttled", 503, -1008, 1), ("error_dead", 503, -1007, 1),
        ):  # fmt: skip
            await x.tell("POST", "/faults", {"action": action, "method": "place", "count": 1})
            answer, body = await x.call(alice, "POST", "/api/v3/order", **BUY)
            assert (answer, body["code"], len(await x.tell("GET", "/truth/orders"))) == (status, code, orders)
        await x.tell("POST", "/faults", {"action": "stale_read", "method": "query", "delay_ms": 60_000, "count": 1})
        await x.call(alice, "POST", "/api/v3/order", **LIMIT, newClientOrderId="young")
        about = {"symbol": "BTCUSDT", "origClientOrderId": "young"}
        assert (await x.call(alice, "GET", "/api/v3/order", **about))[1]["code"] == -2013
        assert (await x.call(alice, "GET", "/api/v3/order", **about))[1]["status"] == "NEW"


# -- our own side of it --------------------------------------------------------------------------------------------------
class Side:
    """Our wire and REST client against the exchange."""

    def __init__(self, x: Bench) -> None:
        self.x = x
        self.wire = BinanceSpotWire()
        self.endpoints = Endpoints.at(x.rest, x.ws)
        self.rest = Rest(self.endpoints, CONTRACT, time.time_ns)
        self.keys: dict[int, Key] = {}

    async def start(self) -> None:
        await self.rest.open()
        await self.rest.measure_clock(1)
        body = await self.rest.instrument_bodies()
        self.instruments = load_instruments(body, [(2, "BTCUSDT"), (5, "SOLUSDT")])
        self.wire.bind(self.instruments)
        self.wire.bind_keys(self.keys)
        self.rest.bind(self.instruments)

    async def key(self, number: int, **order: Any) -> Key:
        made = await self.x.account(f"follower-{number}", **order)
        self.keys[number] = Key(made["api_key"].encode(), made["secret"].encode())
        return self.keys[number]

    def order(self, account: int, cid: bytes, qty: int, side: int = 1, px: int = 0) -> Order:
        return Order(account, self.instruments[2], cid, qty, px, side, 0, False)


@contextlib.asynccontextmanager
async def our_side(**options: Any) -> AsyncIterator[Side]:
    async with exchange(**options) as x:
        side = Side(x)
        try:
            await side.start()
            yield side
        finally:
            await side.rest.close()


def cid(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def told(side: Side, ws: Socket, count: int) -> list[Any]:
    """The next things that are told on a connection."""
    found: list[Any] = []
    while len(found) < count:
        message = await asyncio.wait_for(ws.receive(), 3)
        found += side.wire.read("api", message.data.encode(), time.time_ns())
    return found


async def test_our_wire_orders_for_many_accounts_and_hears_each() -> None:
    """Subscriptions by account, placements signed each with its own key, answers by id, events by subscription."""
    async with our_side() as side:
        (channel,) = side.wire.channels(side.endpoints)
        ws = await side.x.http.ws_connect(channel.url)
        numbers = {}
        for account in range(3):
            key = await side.key(account)
            name, message = side.wire.subscribe(account, key, side.rest.venue_clock.timestamp_ms())
            await ws.send_str(message.decode())
            (one,) = await told(side, ws, 1)
            assert one.ok and one.name == name
            numbers[one.number] = account
        now = side.rest.venue_clock.timestamp_ms()
        for account in range(3):
            await ws.send_str(side.wire.place(side.order(account, cid(account), 1_000 + account), now).decode())
        facts = await told(side, ws, 15)  # of each: NEW, TRADE, two assets, the answer
        answers = {one.cid: one for one in facts if type(one) is t.Answered}
        assert {c: (a.status, a.cum_qty, a.verdict.outcome) for c, a in answers.items()} == {
            cid(n): (FILLED, 1_000 + n, Outcome.ACCEPTED) for n in range(3)}  # fmt: skip
        of = [(numbers[one.subscription], one.told) for one in facts if type(one) is t.Of]
        trades = {account: one for account, one in of if type(one) is t.TradeTold}
        assert {account: (one.cid, one.execution.qty, one.fee_asset) for account, one in trades.items()} == {
            n: (cid(n), 1_000 + n, "BTC") for n in range(3)}  # fmt: skip
        positions = {account: one.position.qty for account, one in of if type(one) is t.PositionTold}
        # 0.1 % went as commission, and what is left beside whole lots is no position
        assert positions == {n: (1_000 + n) * 999 // 1_000 for n in range(3)}


async def test_our_wire_refusals_and_the_connection_of_one_account() -> None:
    """A refusal is an answer with its reason; alone on a connection the subscription is the login and events are bare."""
    async with our_side() as side:
        key = await side.key(0, balance="10")
        side.wire.shared = False
        (channel,) = side.wire.channels(side.endpoints)
        ws = await side.x.http.ws_connect(channel.url)
        await ws.send_str(side.wire.login(channel, key, side.rest.venue_clock.timestamp_ms()).decode())
        assert await told(side, ws, 1) == [t.LoggedIn(True)]
        await ws.send_str(side.wire.place(side.order(0, cid(1), 1_000), side.rest.venue_clock.timestamp_ms()).decode())
        (answer,) = await told(side, ws, 1)
        assert (answer.cid, answer.verdict.outcome, answer.verdict.reason) == (cid(1), Outcome.DEFINITE_REJECT, "balance")
        await ws.send_str(side.wire.place(side.order(0, cid(2), 10, px=6_100_000), side.rest.venue_clock.timestamp_ms()).decode())
        assert {type(one) for one in await told(side, ws, 5)} == {
            t.OrderTold, t.TradeTold, t.WalletTold, t.PositionTold, t.Answered}  # fmt: skip


async def test_our_market_feed() -> None:
    """Quotes and marks of every instrument in use."""
    async with our_side(maker_ms=50) as side:
        (channel,) = side.wire.market(side.endpoints)
        ws = await side.x.http.ws_connect(channel.url)
        seen: set[tuple[type, int]] = set()
        while len(seen) < 4:
            message = await asyncio.wait_for(ws.receive(), 3)
            for one in side.wire.read_market(message.data.encode(), time.time_ns()):
                assert type(one) in (Quote, Mark)
                seen.add((type(one), one.instrument))
        assert seen == {(kind, index) for kind in (Quote, Mark) for index in (2, 5)}


async def test_our_questions() -> None:
    """Orders, executions, positions, books, settings, rights and flows as the venue has them."""
    async with our_side() as side:
        key, rest, btc = await side.key(0), side.rest, side.instruments[2]
        began = rest.venue_clock.timestamp_ms() - 1_000
        answer = await rest.place(key, side.order(0, cid(1), 1_000))
        assert (answer.cid, answer.status, answer.cum_qty) == (cid(1), FILLED, 1_000)
        await rest.place(key, side.order(0, cid(2), 1_000, px=5_000_000))
        with pytest.raises(RestError) as refused:
            await rest.place(key, side.order(0, cid(3), 10**7))
        assert refused.value.verdict.reason == "balance" and refused.value.verdict.outcome == Outcome.DEFINITE_REJECT
        first = await rest.order(key, btc, cid=cid(1))
        assert first is not None and (first.status, first.cum_qty, first.cid, first.side) == (FILLED, 1_000, cid(1), 1)
        assert first == await rest.order(key, btc, order_id=first.venue_order_id)
        second = await rest.order(key, btc, cid=cid(2))
        assert second is not None and (second.status, second.cum_qty, second.order_qty) == (EXPIRED, 0, 1_000)
        assert await rest.order(key, btc, cid=cid(9)) is None
        rows, complete = await rest.orders_since(key, btc, began)
        assert complete and [row.cid for row in rows] == [cid(1), cid(2)]
        assert await rest.orders_since(key, side.instruments[5], began) == ([], True)
        (trade,) = await rest.trades_of(key, btc, None, cid(1))
        assert (trade.cid, trade.fee, trade.fee_asset, trade.execution.qty) == (cid(1), "0.00001000", "BTC", 1_000)
        (again,) = await rest.trades_of(key, btc, first, cid(1))
        assert again.execution.exec_id == trade.execution.exec_id
        assert await rest.trades_of(key, btc, None, cid(9)) == []
        newest = await rest.newest_trade(key, btc)
        assert newest is not None and newest.execution.exec_id == trade.execution.exec_id
        assert await rest.newest_trade(key, side.instruments[5]) is None
        later = await rest.trades_from(key, btc, trade.execution.exec_id, 10)
        assert [one.execution.exec_id for one in later] == [trade.execution.exec_id]
        assert await rest.trades_from(key, btc, trade.execution.exec_id + 1, 10) == []
        (held,) = await rest.positions(key)
        assert (held.instrument, held.position_side, held.qty, held.leverage) == (2, 0, 999, 1)
        books = await rest.books(key)
        assert books.positions == ((2, 0, 999, 0),) and books.wallet_e8 == books.available_e8
        assert books.wallet_e8 < 99_500 * 10**8 and abs(books.equity_e8 - 100_000 * 10**8) < 2 * 10**8
        settings = await rest.settings(key, btc)
        assert (settings.hedge, settings.isolated, settings.leverage, settings.can_trade) == (False, True, 1, True)
        assert await rest.hedge_mode(key) is False
        rights = await rest.rights(key)
        assert rights.trade and rights.read and not rights.moves_funds and rights.ip_bound
        await side.x.tell("POST", "/deposit", {"account": "follower-0", "amount": "-250"})
        flows = await rest.flows(key, began)
        assert sorted(amount for amount, _ in flows) == [-250 * 10**8, 100_000 * 10**8]


async def test_history_is_read_in_windows_and_pages() -> None:
    """Orders of several days and more than a page of them are all there; one millisecond fuller than a page is said so."""
    async with our_side(lift=frozenset({"all"})) as side:
        await side.key(0, balance="100000000")
        engine, host, btc = side.x.host.engine, side.x.host, side.instruments[2]
        account, now = host.accounts.index["follower-0"], host.now_ns()
        day = 86_400_000 * MS_NS
        side.rest.contract = CONTRACT.overridden({"backfill_page_max": 4})
        for n in range(10):
            assert engine.place(account, 0, 1, 0, 1, 1_000, 5_000_000, cid(n).hex().encode(), now - 3 * day + n * day // 4) >= 0
        since = (now - 4 * day) // MS_NS
        rows, complete = await side.rest.orders_since(side.keys[0], btc, since)
        assert complete and [row.cid for row in rows] == [cid(n) for n in range(10)]
        for n in range(10, 16):
            engine.place(account, 0, 1, 0, 1, 1_000, 5_000_000, cid(n).hex().encode(), now)
        rows, complete = await side.rest.orders_since(side.keys[0], btc, since)
        assert not complete and {row.cid for row in rows} >= {cid(n) for n in range(10)}


async def test_all_executions_of_one_order_are_read() -> None:
    """More of them than a page: from the first on, in order, each once."""
    async with our_side(lift=frozenset({"all"})) as side:
        await side.key(0, balance="100000000")
        engine, host, btc = side.x.host.engine, side.x.host, side.instruments[2]
        account, now = host.accounts.index["follower-0"], host.now_ns()
        side.rest.contract = CONTRACT.overridden({"backfill_page_max": 4})
        seller = engine.add_account(no_margin=True)
        px = engine.top(0)[0] + 1
        for n in range(11):
            engine.place(seller, 0, -1, 0, 0, 100, px, b"m%d" % n, now)
        assert engine.place(account, 0, 1, 0, 1, 1_100, px, cid(1).hex().encode(), now) >= 0
        found = await side.rest.trades_of(side.keys[0], btc, None, cid(1))
        ids = [one.execution.exec_id for one in found]
        assert len(ids) == 11 and ids == sorted(set(ids)) and sum(one.execution.qty for one in found) == 1_100


async def test_a_dead_key_and_an_overdue_stamp_are_refusals_with_their_outcome() -> None:
    """-2015 is definite, -1021 a doubt; a limit of the address becomes a ban of ours."""
    async with our_side() as side:
        await side.key(0)
        with pytest.raises(RestError) as refused:
            await side.rest.positions(Key(b"x" * 64, b"y"))
        assert (refused.value.code, refused.value.verdict.outcome) == (-2015, Outcome.DEFINITE_REJECT)
        await side.x.tell("POST", "/clock", {"skew_ms": 30_000})
        with pytest.raises(RestError) as late:
            await side.rest.positions(side.keys[0])
        assert (late.value.code, late.value.verdict.outcome) == (-1021, Outcome.IN_DOUBT)
        await side.rest.measure_clock(1)
        assert await side.rest.positions(side.keys[0]) == []
        await side.x.tell("POST", "/limits", {"limit": "request_weight", "count": 1})
        with pytest.raises(RestError):
            await side.rest.positions(side.keys[0])
        assert side.rest.bans.until() > 0


async def test_states_over_the_stream_follow_an_open_order() -> None:
    """NEW, then CANCELED under its own id, with the lock in the wallet."""
    async with our_side() as side:
        key = await side.key(0)
        side.wire.shared = False
        (channel,) = side.wire.channels(side.endpoints)
        ws = await side.x.http.ws_connect(channel.url)
        await ws.send_str(side.wire.login(channel, key, side.rest.venue_clock.timestamp_ms()).decode())
        await told(side, ws, 1)
        owner = {"api_key": key.api_key.decode(), "secret": key._secret.decode()}
        await side.x.call(owner, "POST", "/api/v3/order", **LIMIT, newClientOrderId=cid(7).hex())
        new, wallet = await told(side, ws, 2)
        assert (new.cid, new.status, wallet.wallet_e8) == (cid(7), NEW, 100_000 * 10**8)
        await side.x.call(owner, "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=cid(7).hex())
        gone, _ = await told(side, ws, 2)
        assert (gone.cid, gone.status, gone.cum_qty) == (cid(7), CANCELED, 0)
