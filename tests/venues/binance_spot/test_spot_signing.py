"""Signatures and order texts: the venue's documented vectors, worked examples, and three clients' own bytes."""

from __future__ import annotations

import json
import subprocess
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.binance_spot.contract import Endpoints
from copyd.venues.binance_spot.signing import (
    order_params,
    place_text,
    signed_query,
    subscribe_request,
    ws_request,
    ws_signed_text,
)
from copyd.venues.binance_spot.wire import BinanceSpotWire
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order
from tests.exchange.wire_helpers import ROOT
from tests.venues.binance_spot.world import BTC, instruments

API_KEY, SECRET = "TESTKEY0000000000000000000000000001", "TESTSECRET000000000000000000000000000002"
KEY = Key(API_KEY.encode(), SECRET.encode())
DOCUMENTED = Key(
    b"vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A",
    b"NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j",
)
NOW = 1700000000000
CID = bytes(range(16))
CLIENTS = ROOT / ".venv-clients" / "bin" / "python"

#: parameters of a worked example -> the whole signed query
EXAMPLES = [
    ("symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.01&newClientOrderId=cpd0000000000000001&newOrderRespType=FULL",
     "ce6289f0485b229b18dab92199929b568ba5123b0b81b8b56af41e6ccf9b9de6"),
    ("symbol=BTCUSDT&side=BUY&type=MARKET&quoteOrderQty=500&newClientOrderId=cpd0000000000000002&newOrderRespType=FULL",
     "8398990eb5f432fa684a8035e051b2abebf66db792e8a627706a4de6f1d68aee"),
    ("symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.01&price=50000&newClientOrderId=cpd0000000000000003"
     "&newOrderRespType=ACK", "8884689df1c2b0bc4b8dfcd58e779d8ff39ef9927d535ba14e2d6e3b4152d563"),
    ("symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&quantity=0.01&price=50000&newClientOrderId=cpd0000000000000004"
     "&newOrderRespType=FULL", "f490d35a62c0d5da254d47be903b19bd33403ba86209eee59d9cd627f9d440a4"),
    ("symbol=BTCUSDT&side=SELL&type=STOP_LOSS_LIMIT&timeInForce=GTC&quantity=0.01&price=44900&stopPrice=45000"
     "&newClientOrderId=cpd0000000000000005", "2b49389f2203cd342dada01d83c91a3aec98fe0aabd123af45d159d9f6d1a6cd"),
    ("symbol=BTCUSDT&side=SELL&quantity=0.01&aboveType=LIMIT_MAKER&abovePrice=60000&belowType=STOP_LOSS&belowStopPrice=45000"
     "&listClientOrderId=cpd0000000000000006", "6f4e69320002c788fd386ee3344d53455effb89c2cac70b9e3415a6ef3bd12a9"),
    ("symbol=BTCUSDT&listClientOrderId=cpd0000000000000007&workingType=LIMIT&workingSide=BUY&workingPrice=50000"
     "&workingQuantity=0.01&workingTimeInForce=GTC&pendingSide=SELL&pendingQuantity=0.01&pendingAboveType=TAKE_PROFIT"
     "&pendingAboveStopPrice=60000&pendingBelowType=STOP_LOSS&pendingBelowStopPrice=45000",
     "9601f85f2d55b9a31f68580cfe7b47547dd6f687e06f701834e6180a3bcdc811"),
    ("", "7afdc7a4800a089d3c37bb68d82a60a7392f1f118f620a21ad1f0f139a387da9"),
]  # fmt: skip


def test_the_documented_rest_vector() -> None:
    """The venue's own example of a signed query."""
    payload = (
        b"symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
    )
    assert DOCUMENTED.sign(payload) == "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"


def test_the_documented_websocket_vector() -> None:
    """The venue's own example of a signed request: parameters sorted by name."""
    params = {
        "symbol": "BTCUSDT", "side": "SELL", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01000000",
        "price": "52000.00", "recvWindow": 100, "timestamp": 1645423376532, "apiKey": DOCUMENTED.api_key.decode(),
    }  # fmt: skip
    signature = "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24"
    assert DOCUMENTED.sign(ws_signed_text(params).encode()) == signature
    assert json.loads(ws_request(DOCUMENTED, "x", "order.place", params))["params"]["signature"] == signature


@pytest.mark.parametrize(("text", "signature"), EXAMPLES)
def test_worked_rest_examples(text: str, signature: str) -> None:
    """Signed queries byte for byte, ``signature`` last."""
    params = dict(part.split("=") for part in text.split("&") if part)
    head = f"{text}&" if text else ""
    assert signed_query(KEY, urlencode(params), NOW, 5000) == f"{head}recvWindow=5000&timestamp={NOW}&signature={signature}"


def test_worked_websocket_examples() -> None:
    """Placements and the subscription byte for byte."""
    params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    tail = {"apiKey": KEY.api_key.decode(), "timestamp": NOW, "recvWindow": 5000}
    market = {**params, "newClientOrderId": "cpd0000000000000001", "newOrderRespType": "ACK", **tail}
    assert ws_request(KEY, "cpd1", "order.place", market) == (
        b'{"id":"cpd1","method":"order.place","params":{"symbol":"BTCUSDT","side":"BUY","type":"MARKET","quantity":"0.01",'
        b'"newClientOrderId":"cpd0000000000000001","newOrderRespType":"ACK","apiKey":"TESTKEY0000000000000000000000000001",'
        b'"timestamp":1700000000000,"recvWindow":5000,'
        b'"signature":"ec718e1d8b4dae171e94dacb158321aa8b70adc1c336df6337547fdc2c7423be"}}'
    )
    limit = {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01", "price": "50000",
        "newClientOrderId": "cpd0000000000000003", **tail,
    }  # fmt: skip
    assert json.loads(ws_request(KEY, "cpd2", "order.place", limit))["params"]["signature"] == (
        "8c5fb3e558ff382c94f7a3bcedf8467b2991cb73d97a57860cbad8f79b753c34")
    assert subscribe_request(KEY, "cpd3", NOW) == (
        b'{"id":"cpd3","method":"userDataStream.subscribe.signature","params":{"apiKey":"TESTKEY0000000000000000000000000001",'
        b'"timestamp":1700000000000,"signature":"d5c6145f9f1a1f87e8ca4d7adcef7eb1bcc74e146194c105e60582e65c0fcd0f"}}'
    )


def order(px: int = 5_000_000, side: int = 1, qty: int = 1_000, reduce_only: bool = False, position_side: int = 0) -> Order:
    return Order(3, BTC, CID, qty, px, side, position_side, reduce_only)


def test_an_order_is_an_ioc_limit_or_a_market_order_of_base_quantity() -> None:
    """Fields and their order; a market order never names the quote asset's amount."""
    assert order_params(order()) == {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "IOC", "quantity": "0.01", "price": "50000",
        "newClientOrderId": CID.hex(), "newOrderRespType": "RESULT",
    }  # fmt: skip
    assert list(order_params(order(px=0, side=-1))) == [
        "symbol", "side", "type", "quantity", "newClientOrderId", "newOrderRespType"]  # fmt: skip


@given(st.booleans(), st.sampled_from([0, 1, 2]))
def test_reduce_only_and_position_sides_are_never_sent(reduce_only: bool, position_side: int) -> None:
    """Spot refuses parameters it does not know, and a refused close is a close that is not made."""
    text = place_text(order(side=-1, reduce_only=reduce_only, position_side=position_side), KEY, NOW, 2000)
    assert text == place_text(order(side=-1), KEY, NOW, 2000) and b"educe" not in text and b"position" not in text


def test_each_order_is_signed_with_its_accounts_key() -> None:
    """One connection, many accounts: the key of the order's account signs, and none but it."""
    wire = BinanceSpotWire()
    wire.bind(instruments())
    wire.bind_keys({3: KEY, 4: DOCUMENTED})
    assert wire.place(order(), NOW) == place_text(order(), KEY, NOW, 2000)
    other = json.loads(wire.place(order()._replace(account=4), NOW))
    assert other["params"]["apiKey"] == DOCUMENTED.api_key.decode() and other["id"] == CID.hex()
    with pytest.raises(KeyError):
        wire.place(order()._replace(account=5), NOW)


def test_a_shared_connection_needs_no_login_and_subscribes_each_account() -> None:
    """Shared: no login, a subscription named by the account. Alone: the subscription is the login."""
    shared, alone = BinanceSpotWire(), BinanceSpotWire(shared=False)
    (channel,) = shared.channels(Endpoints())
    assert channel.orders and channel.events and channel.url.endswith("?returnRateLimits=false")
    assert shared.login(channel, KEY, NOW) == b""
    assert shared.subscribe(7, KEY, NOW) == ("s-7", subscribe_request(KEY, "s-7", NOW))
    assert alone.login(channel, KEY, NOW) == subscribe_request(KEY, "login", NOW)


# --- the clients' own bytes -------------------------------------------------------------------------------------------------
def run(script: str) -> list:
    """What a script prints as JSON, in the clients' environment."""
    if not CLIENTS.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    done = subprocess.run([CLIENTS, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


ORDERS = [
    {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01", "newClientOrderId": "cpd1"},
    {"symbol": "BTCUSDT", "side": "SELL", "type": "LIMIT", "timeInForce": "IOC", "quantity": "0.5", "price": "50000",
     "newClientOrderId": "cpd2"},
    {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quoteOrderQty": "500", "newClientOrderId": "cpd3"},
]  # fmt: skip

CCXT = """
import json, ccxt
exchange = ccxt.binance({"apiKey": %r, "secret": %r, "options": {"recvWindow": 5000}})
exchange.nonce = lambda: 1700000000000
out = []
def take(url, method="GET", headers=None, body=None):
    out.append([body, headers["X-MBX-APIKEY"]])
    return {}
exchange.fetch = take
for params in json.loads(%r):
    exchange.privatePostOrder(params)
print(json.dumps(out))
"""
PYTHON_BINANCE = """
import json, time
time.time = lambda: 1700000000.0
from binance.client import Client
Client.ping = lambda self: {}
client = Client(%r, %r)
out = []
for params in json.loads(%r):
    sent = []
    class Answer(Exception): pass
    def take(uri, **more): sent.append(more); raise Answer
    client.session.post = take
    try: client.create_order(**params)
    except Answer: pass
    out.append("&".join(f"{k}={v}" for k, v in sent[0]["data"]))
print(json.dumps(out))
"""
CONNECTOR = """
import json
from urllib.parse import urlencode
import binance.api, binance.lib.utils
binance.api.get_timestamp = lambda: 1700000000000
from binance.spot import Spot
client = Spot(%r, %r)
out = []
class Answer(Exception): pass
for params in json.loads(%r):
    sent = []
    def dispatch(**more): sent.append(more); raise Answer
    client._dispatch_request = lambda method: dispatch
    try: client.new_order(**params)
    except Answer: pass
    out.append(sent[0]["params"])
print(json.dumps(out))
"""


def script(text: str, orders: list[dict]) -> str:
    """A client's script with the test key and these orders."""
    return text % (API_KEY, SECRET, json.dumps(orders))


def signs_as(text: str) -> None:
    """The client's bytes bear the signature that ours would over the same bytes."""
    payload, _, signature = text.rpartition("&signature=")
    assert KEY.sign(payload.encode()) == signature


def test_ccxt_signs_the_same_bytes() -> None:
    """ccxt's own form of each order, its stamp first: our key gives its signature over it."""
    for (body, api_key), params in zip(run(script(CCXT, ORDERS)), ORDERS, strict=True):
        assert api_key == KEY.api_key.decode()
        signs_as(body)
        sent = dict(part.split("=") for part in body.split("&"))
        assert {name: sent[name] for name in params} == params


def test_python_binance_signs_the_same_bytes() -> None:
    """python-binance's own form of each order, sorted by name."""
    for body, params in zip(run(script(PYTHON_BINANCE, ORDERS)), ORDERS, strict=True):
        signs_as(body)
        sent = dict(part.split("=") for part in body.split("&"))
        assert {name: sent[name] for name in params} == params


def test_binance_connector_sends_the_very_bytes_we_do() -> None:
    """Its query of the same parameters, recvWindow given, is ours byte for byte."""
    told = [{**params, "recvWindow": 5000} for params in ORDERS]
    for query, params in zip(run(script(CONNECTOR, told)), ORDERS, strict=True):
        assert query == signed_query(KEY, urlencode(params), NOW, 5000)
