"""The exchange's REST side: who may ask, what is refused and how, what the answers look like."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.exchange.wire_client import MARKET, RESTING, Bench, exchange


@pytest_asyncio.fixture
async def x() -> AsyncIterator[Bench]:
    async with exchange() as bench:
        yield bench


@pytest.mark.parametrize("where", ["query", "body"])
async def test_signed_parameters_count_in_query_or_body(x: Bench, where: str) -> None:
    alice = await x.account()
    method = "POST"
    status, order, headers = await x.call(alice, method, "/fapi/v1/order", where=where, **MARKET)
    assert (status, order["status"], order["executedQty"]) == (200, "FILLED", "0.010")
    assert headers["X-MBX-ORDER-COUNT-10S"] == "1" and headers["X-MBX-ORDER-COUNT-1M"] == "1"
    assert int(headers["X-MBX-USED-WEIGHT-1M"]) == 0  # an order weighs nothing on the address


async def test_signature_covers_query_then_body_as_sent(x: Bench) -> None:
    """The signed text is the query immediately followed by the form body."""
    import hashlib
    import hmac
    from urllib.parse import urlencode

    from yarl import URL

    alice = await x.account()
    query, body = "symbol=BTCUSDT&side=BUY", urlencode({**RESTING, "timestamp": int(time.time() * 1000)})
    body = "&".join(p for p in body.split("&") if not p.startswith(("symbol=", "side=")))
    signature = hmac.new(alice["secret"].encode(), (query + body).encode(), hashlib.sha256).hexdigest().upper()
    url = URL(f"{x.rest}/fapi/v1/order?{query}", encoded=True)
    form = {"X-MBX-APIKEY": alice["api_key"], "Content-Type": "application/x-www-form-urlencoded"}
    async with x.http.post(url, data=f"{body}&signature={signature}", headers=form) as response:
        assert response.status == 200, await response.text()


async def test_documented_signature_vector_is_reproduced(x: Bench) -> None:
    """Key, payload and signature of the venue's own example."""
    from copyd._fast.sim_wire import Key, OrderMeter

    secret = b"2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
    payload = b"symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943"
    expected = b"3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"
    key = Key(b"k", secret, "hmac", None, 1, "a", OrderMeter())
    assert key.signed(payload, expected) and key.signed(payload, expected.upper())
    assert not key.signed(payload + b" ", expected)
    assert not key.signed(payload, expected[:-1]) and not key.signed(payload, expected[:-1] + b"8")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"timestamp": 0}, 400, -1021),
        ({"timestamp": int(time.time() * 1000) + 3_600_000}, 400, -1021),
        ({"recvWindow": 60_001}, 400, -1131),
        ({"timestamp": "soon"}, 400, -1102),
        ({"symbol": "NOSUCH"}, 400, -1121),
        ({"symbol": ""}, 400, -1102),
        ({"side": "HOLD"}, 400, -1117),
        ({"side": ""}, 400, -1102),
        ({"type": "ICEBERG"}, 400, -1116),
        ({"type": "STOP_MARKET"}, 400, -4120),
        ({"timeInForce": "GTD"}, 400, -1115),
        ({"timeInForce": ""}, 400, -1102),
        ({"quantity": ""}, 400, -1100),
        ({"quantity": "0.0001"}, 400, -1111),
        ({"quantity": "0"}, 400, -4003),
        ({"quantity": "2000"}, 400, -4005),
        ({"price": "58000.05"}, 400, -4014),
        ({"price": "70000"}, 400, -4016),
        ({"side": "SELL", "price": "10000"}, 400, -4024),
        ({"quantity": "0.001", "price": "20"}, 400, -4013),
        ({"quantity": "500"}, 400, -2019),
        ({"newClientOrderId": "not allowed!"}, 400, -4015),
        ({"newClientOrderId": "x" * 37}, 400, -4015),
        ({"reduceOnly": "true"}, 400, -2022),
        ({"positionSide": "LONG"}, 400, -4061),
        ({"timeInForce": "FOK"}, 400, -5021),
        ({"timeInForce": "GTX", "price": "61000"}, 400, -5022),
        ({"priceMatch": "OPPONENT"}, 400, -1130),
    ],
)
async def test_refusals_of_an_order(x: Bench, change: dict[str, object], status: int, code: int) -> None:
    """Each broken rule has its own code; nothing reaches the book."""
    alice = await x.account()
    got_status, error, _ = await x.call(alice, "POST", "/fapi/v1/order", **{**RESTING, **change})
    assert (got_status, error.get("code")) == (status, code), error
    assert error["msg"]
    assert await x.tell("GET", "/truth/orders") == []
    rejects = await x.tell("GET", "/truth/rejects")
    assert [r["code"] for r in rejects] == [code]


async def test_a_minimum_notional_refusal_names_the_minimum_of_its_own_symbol(x: Bench) -> None:
    alice = await x.account()
    small = {**RESTING, "symbol": "ETHUSDT", "price": "2900", "quantity": "0.001"}
    _, error, _ = await x.call(alice, "POST", "/fapi/v1/order", **small)
    assert error == {
        "code": -4164,
        "msg": "Order's notional must be no smaller than 20 (unless you choose reduce only).",
    }


async def test_keys_that_are_wrong_missing_or_may_not_trade(x: Bench) -> None:
    alice = await x.account()
    bad = await x.account("bob", restrictions={"enableFutures": False, "enableWithdrawals": True})
    assert (await x.call({**alice, "secret": "no"}, "GET", "/fapi/v3/account"))[:2] == (
        400,
        {"code": -1022, "msg": "Signature for this request is not valid."},
    )
    assert (await x.call({**alice, "api_key": "f" * 64}, "GET", "/fapi/v3/account"))[1]["code"] == -2015
    assert (await x.call({**alice, "api_key": "short"}, "GET", "/fapi/v3/account"))[1]["code"] == -2014
    status, error, _ = await x.call(bad, "POST", "/fapi/v1/order", **MARKET)
    assert (status, error["code"]) == (401, -2015)
    rights = (await x.call(bad, "GET", "/sapi/v1/account/apiRestrictions"))[1]
    assert rights["enableWithdrawals"] is True and rights["enableFutures"] is False
    unsigned = await x.call(None, "GET", "/fapi/v3/account")
    assert unsigned[1]["code"] == -2014


async def test_a_clock_that_is_off_by_more_than_the_window_is_refused(x: Bench) -> None:
    """-1021 both ways; the server's time tells the client by how much it is off."""
    alice = await x.account()
    await x.tell("POST", "/clock", {"skew_ms": 7000})
    assert (await x.call(alice, "GET", "/fapi/v3/balance"))[1]["code"] == -1021
    assert (await x.call(alice, "GET", "/fapi/v3/balance", recvWindow=10_000))[0] == 200
    server = (await x.call(None, "GET", "/fapi/v1/time"))[1]["serverTime"]
    assert 6000 < server - time.time() * 1000 < 8000
    await x.tell("POST", "/clock", {"skew_ms": -3000})
    assert (await x.call(alice, "GET", "/fapi/v3/balance"))[1]["code"] == -1021


async def test_client_ids_are_unique_among_open_orders_only(x: Bench) -> None:
    alice = await x.account()
    mine = {**RESTING, "newClientOrderId": "once"}
    assert (await x.call(alice, "POST", "/fapi/v1/order", **mine))[0] == 200
    assert (await x.call(alice, "POST", "/fapi/v1/order", **mine))[1]["code"] == -4116
    gone = await x.call(alice, "DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="once")
    assert gone[1]["status"] == "CANCELED"
    assert (await x.call(alice, "POST", "/fapi/v1/order", **mine))[0] == 200
    filled = {**MARKET, "newClientOrderId": "twice"}
    for _ in range(2):  # an id whose order is done can be used again: a resend doubles the position
        assert (await x.call(alice, "POST", "/fapi/v1/order", **filled))[1]["status"] == "FILLED"
    position = (await x.call(alice, "GET", "/fapi/v3/positionRisk"))[1][0]
    assert position["positionAmt"] == "0.020"


async def test_ack_and_result_answers(x: Bench) -> None:
    """ACK shows the order as accepted; RESULT shows the outcome of MARKET and IOC, but not of GTC."""
    alice = await x.account()
    ack = (await x.call(alice, "POST", "/fapi/v1/order", **{**MARKET, "newOrderRespType": "ACK"}))[1]
    assert (ack["status"], ack["executedQty"]) == ("NEW", "0.000")
    ioc = {**RESTING, "timeInForce": "IOC", "newOrderRespType": "RESULT"}
    assert (await x.call(alice, "POST", "/fapi/v1/order", **ioc))[1]["status"] == "EXPIRED"
    crossing = {**RESTING, "price": "61000", "newOrderRespType": "RESULT"}
    gtc = (await x.call(alice, "POST", "/fapi/v1/order", **crossing))[1]
    assert gtc["status"] == "NEW"
    asked = await x.call(alice, "GET", "/fapi/v1/order", symbol="BTCUSDT", orderId=gtc["orderId"])
    assert asked[1]["status"] == "FILLED"


async def test_hedge_mode_and_the_modes_endpoints(x: Bench) -> None:
    alice = await x.account()
    assert (await x.call(alice, "POST", "/fapi/v1/positionSide/dual", dualSidePosition="true"))[0] == 200
    again = await x.call(alice, "POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
    assert again[1]["code"] == -4059
    for side, leg in (("BUY", "LONG"), ("SELL", "SHORT")):
        order = {**MARKET, "side": side, "positionSide": leg}
        assert (await x.call(alice, "POST", "/fapi/v1/order", **order))[1]["positionSide"] == leg
    legs = (await x.call(alice, "GET", "/fapi/v2/positionRisk", symbol="BTCUSDT"))[1]
    assert {leg["positionSide"]: leg["positionAmt"] for leg in legs} == {"LONG": "0.010", "SHORT": "-0.010"}
    assert (await x.call(alice, "POST", "/fapi/v1/positionSide/dual", dualSidePosition="false"))[1]["code"] == -4068
    assert (await x.call(alice, "POST", "/fapi/v1/marginType", symbol="BTCUSDT", marginType="ISOLATED"))[1]["code"] == -4048
    assert (await x.call(alice, "POST", "/fapi/v1/marginType", symbol="ETHUSDT", marginType="ISOLATED"))[0] == 200
    assert (await x.call(alice, "POST", "/fapi/v1/leverage", symbol="ETHUSDT", leverage=7))[1]["leverage"] == 7
    assert (await x.call(alice, "POST", "/fapi/v1/leverage", symbol="ETHUSDT", leverage=900))[1]["code"] == -4028
    config = (await x.call(alice, "GET", "/fapi/v1/symbolConfig", symbol="ETHUSDT"))[1][0]
    assert (config["marginType"], config["leverage"]) == ("ISOLATED", 7)


async def test_batch_orders_answer_in_order_each_for_itself(x: Bench) -> None:
    alice = await x.account()
    import orjson

    batch = [{**RESTING, "newClientOrderId": f"b{n}"} for n in range(3)]
    batch[1]["quantity"] = "0.0001"
    status, answers, headers = await x.call(alice, "POST", "/fapi/v1/batchOrders", batchOrders=orjson.dumps(batch).decode())
    assert status == 200
    assert [a.get("clientOrderId", a.get("code")) for a in answers] == ["b0", -1111, "b2"]
    assert (headers["X-MBX-ORDER-COUNT-10S"], headers["X-MBX-ORDER-COUNT-1M"]) == ("5", "1")
    open_orders = (await x.call(alice, "GET", "/fapi/v1/openOrders", symbol="BTCUSDT"))[1]
    assert [o["clientOrderId"] for o in open_orders] == ["b0", "b2"]
    await x.call(alice, "DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert (await x.call(alice, "GET", "/fapi/v1/openOrders"))[1] == []
    history = (await x.call(alice, "GET", "/fapi/v1/allOrders", symbol="BTCUSDT"))[1]
    assert [o["status"] for o in history] == ["CANCELED", "CANCELED"]


async def test_money_in_account_trades_and_income_is_one_story(x: Bench) -> None:
    """Wallet = deposit + realised profit - commission + funding, from three endpoints, to the last digit."""
    from decimal import Decimal as D

    alice = await x.account(balance="1000")
    await x.call(alice, "POST", "/fapi/v1/order", **MARKET)
    await x.tell("POST", "/market", {"symbol": "BTCUSDT", "funding_ppm": 100})
    await x.tell("POST", "/market", {"symbol": "BTCUSDT", "move_bps": 100})
    await x.call(alice, "POST", "/fapi/v1/order", **{**MARKET, "side": "SELL", "reduceOnly": "true"})
    trades = (await x.call(alice, "GET", "/fapi/v1/userTrades", symbol="BTCUSDT"))[1]
    income = (await x.call(alice, "GET", "/fapi/v1/income", limit=1000))[1]
    wallet = D((await x.call(alice, "GET", "/fapi/v3/account"))[1]["totalWalletBalance"])
    from_trades = sum(D(t["realizedPnl"]) - D(t["commission"]) for t in trades)
    funding = sum(D(i["income"]) for i in income if i["incomeType"] == "FUNDING_FEE")
    assert funding < 0 < from_trades
    assert wallet == D(1000) + from_trades + funding == sum(D(i["income"]) for i in income)


async def test_unknown_path_and_unsupported_operation(x: Bench) -> None:
    alice = await x.account()
    assert (await x.call(None, "GET", "/fapi/v1/nothing"))[0] == 404
    assert (await x.call(alice, "POST", "/fapi/v1/algoOrder", symbol="BTCUSDT"))[1]["code"] == -1020


async def test_countdown_cancels_what_its_owner_forgot(x: Bench) -> None:
    import asyncio

    alice = await x.account()
    await x.call(alice, "POST", "/fapi/v1/order", **RESTING)
    answer = await x.call(alice, "POST", "/fapi/v1/countdownCancelAll", symbol="BTCUSDT", countdownTime=50)
    assert answer[1] == {"symbol": "BTCUSDT", "countdownTime": "50"}
    for _ in range(40):
        await asyncio.sleep(0.05)
        if not (await x.call(alice, "GET", "/fapi/v1/openOrders", symbol="BTCUSDT"))[1]:
            return
    raise AssertionError("the order is still open")
