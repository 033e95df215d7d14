"""Bytes and signatures against the worked examples, ccxt and the venue's own client (both run offline, with a fixed time)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key, json_text
from copyd.venues.common.templates import KINDS, cut
from copyd.venues.common.venue import Order
from copyd.venues.okx.contract import CONTRACT, Endpoints
from copyd.venues.okx.instruments import load_instruments
from copyd.venues.okx.rest import Rest
from copyd.venues.okx.signing import iso_time, login_text, place_body, place_text, rest_headers
from copyd.venues.okx.wire import OkxWire
from tests.venues.okx.samples import BTC, SPOT, body

ROOT = Path(__file__).resolve().parents[3]
CLIENT = ROOT / ".venv-clients" / "bin" / "python"
NOW_MS = 1_700_000_000_000
PLACE = "/api/v5/trade/order"

#: body -> signature, of the worked examples
EXAMPLES = {
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"buy","ordType":"market","sz":"1","clOrdId":"cpd0000000000000001"}':
        "J6H9Hc4EjcKchPPy4mvZDDh/T3F61g86GXk7S6UW5g0=",
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"buy","ordType":"limit","sz":"1","px":"50000","clOrdId":"cpd0000000000000003"}':
        "md1m051ZhN/o/E7ULft1fA/I6LIbOYoWamq0Yu6IFgo=",
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"buy","ordType":"ioc","sz":"1","px":"50000","clOrdId":"cpd0000000000000004"}':
        "lHu/yoBTnb6n/LY3L1xUx260LCVKHbA0xuFdsPA+K5Y=",
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"sell","ordType":"market","sz":"1","reduceOnly":true,"clOrdId":"cpd0000000000000005"}':
        "aQHMxrUimYmfDbUTKYTbksDtKwPsf2KsHo3QG4FX68g=",
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"buy","ordType":"market","sz":"1","clOrdId":"cpd0000000000000007","attachAlgoOrds":[{"attachAlgoClOrdId":"cpd0000000000000008","tpTriggerPx":"60000","tpOrdPx":"-1","tpTriggerPxType":"mark","slTriggerPx":"45000","slOrdPx":"-1","slTriggerPxType":"mark"}]}':
        "FGjDIRaaxp9KokYYQ/DOri391i8E8s6B9GETuawJBdM=",
    '{"instId":"BTC-USDT","tdMode":"cash","side":"buy","ordType":"market","sz":"0.01","tgtCcy":"base_ccy","clOrdId":"cpd0000000000000001"}':
        "oqGXz2GIRmCWkXuTZRTG/FVHbiOFfUZx0vMVMMWYKxI=",
    '{"instId":"BTC-USDT","tdMode":"cash","side":"buy","ordType":"limit","sz":"0.01","px":"50000","clOrdId":"cpd0000000000000003"}':
        "WQb6x38Lw9Fi5nNugBESBTOujSSB3fNBFkUtkn21UoE=",
    '{"instId":"BTC-USDT","tdMode":"cash","side":"buy","ordType":"ioc","sz":"0.01","px":"50000","clOrdId":"cpd0000000000000004"}':
        "uNBnDWQns5NfOXUMtGAwRtRK9l0EK/gfxBqTYT1LFCg=",
}  # fmt: skip
ALGOS = {
    '{"instId":"BTC-USDT-SWAP","tdMode":"cross","side":"sell","ordType":"trigger","sz":"1","triggerPx":"45000","triggerPxType":"last","orderPx":"44900","algoClOrdId":"cpd0000000000000006"}':
        "BqUmOIi3G+Cl9ekLtspEGf6h+PvHQTgW78PGJB+NJuQ=",
    '{"instId":"BTC-USDT","tdMode":"cash","side":"sell","ordType":"conditional","sz":"0.01","slTriggerPx":"45000","slOrdPx":"44900","algoClOrdId":"cpd0000000000000006"}':
        "A4sNKYbRR6QlYjVTR/hHBI7hoq6PAlK6awb30bShO/0=",
}  # fmt: skip
GETS = {
    "/api/v5/trade/order?instId=BTC-USDT-SWAP&clOrdId=cpd0000000000000001": "0cveh0htDWe+UW98qJbXcJv54zLP5DntcYW7QREapPE=",
    "/api/v5/account/config": "NB6qTPt/qpnpl7K4GbX4o+oX0EXuCLViuXAt6JYPOlU=",
}


def _sign(key: Key, method: str, target: str, text: str) -> str:
    return rest_headers(key, method, target, text.encode(), NOW_MS)["OK-ACCESS-SIGN"]


@pytest.mark.parametrize(("text", "sign"), EXAMPLES.items())
def test_worked_example(key: Key, text: str, sign: str) -> None:
    """The signature over a worked example's body is the worked example's."""
    assert _sign(key, "POST", PLACE, text) == sign


@pytest.mark.parametrize(("text", "sign"), ALGOS.items())
def test_worked_example_of_an_algo_order(key: Key, text: str, sign: str) -> None:
    """The same over the orders that wait for a price."""
    assert _sign(key, "POST", "/api/v5/trade/order-algo", text) == sign


@pytest.mark.parametrize(("target", "sign"), GETS.items())
def test_worked_example_of_a_question(key: Key, target: str, sign: str) -> None:
    """A question signs its query as it is sent."""
    assert _sign(key, "GET", target, "") == sign


def test_headers_are_the_venues(key: Key) -> None:
    """Header names, ISO time with milliseconds; the demo and the expiry are said where they are meant."""
    headers = rest_headers(key, "GET", "/x", b"", NOW_MS)
    assert headers["OK-ACCESS-TIMESTAMP"] == "2023-11-14T22:13:20.000Z" and headers["OK-ACCESS-PASSPHRASE"] == "Testpass1"
    assert set(headers) == {
        "OK-ACCESS-KEY", "OK-ACCESS-SIGN", "OK-ACCESS-TIMESTAMP", "OK-ACCESS-PASSPHRASE", "Content-Type"}
    more = rest_headers(key, "GET", "/x", b"", NOW_MS, simulated=True, expires_ms=NOW_MS + 5)
    assert more["x-simulated-trading"] == "1" and more["expTime"] == str(NOW_MS + 5)
    assert iso_time(NOW_MS + 7) == "2023-11-14T22:13:20.007Z"


def test_login_message(key: Key) -> None:
    """The login of the worked examples, byte for byte: seconds as text, signed with the path of the login."""
    assert login_text(key, NOW_MS) == (
        b'{"op":"login","args":[{"apiKey":"TESTKEY0000000000000000000000000001","passphrase":"Testpass1",'
        b'"timestamp":"1700000000","sign":"2Fka2SdS2vP0H9D0NnAr6w8nwZom/yHMPj0vNfUknEc="}]}'
    )


def _order(instruments: Instruments, symbol: str = "BTC-USDT-SWAP", **more: Any) -> Order:
    fields = {"account": 1, "cid": bytes(range(16)), "qty": 100, "px": 0, "side": 1, "position_side": 0, "reduce_only": False}
    item = instruments.find(symbol)
    assert item is not None
    return Order(instrument=item, **{**fields, **more})


CID = bytes(range(16)).hex()


def test_rest_bodies_of_the_worked_examples(instruments: Instruments) -> None:
    """What we place is written like the worked examples, field by field in their order, but for our client id."""

    def ours(order: Order) -> str:
        return place_body(order, isolated=False).decode().replace(CID, "*")

    def theirs(n: int) -> str:
        text = list(EXAMPLES)[n]
        at = text.index("cpd")
        return text[:at] + "*" + text[at + 19 :]

    assert ours(_order(instruments)) == theirs(0)
    assert ours(_order(instruments, px=500_000)) == theirs(2)
    assert ours(_order(instruments, side=-1, reduce_only=True)) == theirs(3)
    assert ours(_order(instruments, "BTC-USDT", qty=1_000_000)) == theirs(5)
    assert ours(_order(instruments, "BTC-USDT", qty=1_000_000, px=500_000)) == theirs(7)


def test_the_connection_names_the_instrument_by_its_number(instruments: Instruments) -> None:
    """On a connection an order bears the number, not the name; its own id; when it expires; isolated margin."""
    text = OkxWire().place(_order(instruments, px=500_000, qty=3), NOW_MS)
    assert text == (
        b'{"id":"%b","op":"order","expTime":"1700000002000","args":[{"instIdCode":10458,"tdMode":"isolated","side":"buy",'
        b'"ordType":"ioc","sz":"0.03","px":"50000","clOrdId":"%b"}]}' % (CID.encode(), CID.encode())
    )


@pytest.mark.parametrize(
    ("side", "position_side", "words"),
    [(1, 1, "buy long"), (-1, 1, "sell long"), (-1, 2, "sell short"), (1, 2, "buy short")],
)
def test_position_sides(instruments: Instruments, side: int, position_side: int, words: str) -> None:
    """In the mode of two sides the position side is said and reduce-only is not: the venue ignores it there."""
    fields = orjson.loads(place_body(_order(instruments, side=side, position_side=position_side, reduce_only=True)))
    assert f"{fields['side']} {fields['posSide']}" == words and "reduceOnly" not in fields


def test_spot_has_neither_position_nor_reduction(instruments: Instruments) -> None:
    """A spot order is cash, a market one sized in the base asset whichever side, and never reduce-only."""
    fields = orjson.loads(place_body(_order(instruments, "BTC-USDT", side=-1, reduce_only=True)))
    assert fields["tdMode"] == "cash" and fields["tgtCcy"] == "base_ccy"
    assert "reduceOnly" not in fields and "posSide" not in fields


async def test_the_placement_over_rest_expires(instruments: Instruments, key: Key) -> None:
    """Over REST the expiry is a header; the signature covers exactly the body that goes out."""
    rest = Rest(Endpoints.of("demo"), CONTRACT, lambda: NOW_MS * 10**6)
    method, target, headers, text = rest.rest_place(_order(instruments), key, NOW_MS)
    assert (method, target) == ("POST", PLACE) and text == place_body(_order(instruments))
    assert headers["expTime"] == "1700000002000" and headers["x-simulated-trading"] == "1"
    assert headers["OK-ACCESS-SIGN"] == key.sign_base64(b"2023-11-14T22:13:20.000ZPOST" + PLACE.encode() + text)
    rest.venue_clock.offset_ns = 0
    assert rest.signed(key, method, target, text) == headers
    assert "expTime" not in rest.signed(key, "GET", "/api/v5/trade/order?instId=X", b"")


#: Numbers that exercise the shortest decimal.
QTY = st.integers(1, 10**9)


@given(qty=QTY, px=st.integers(0, 10**7), side=st.sampled_from([1, -1]), position_side=st.integers(0, 2), reduce=st.booleans())
def test_every_field_is_what_was_asked(qty: int, px: int, side: int, position_side: int, reduce: bool) -> None:
    """What the text says is the order, exactly, in whichever shape."""
    instruments = load_instruments([body(BTC), body(SPOT)], [(0, "BTC-USDT-SWAP"), (1, "BTC-USDT")])
    item = instruments[0]
    order = Order(1, item, bytes(16), qty, px, side, position_side, reduce)
    (fields,) = orjson.loads(place_text(order, expires_ms=1, isolated=True))["args"]
    assert item.lots(fields["sz"]) == qty and (item.ticks(fields["px"]) if px else 0) == px
    assert fields["ordType"] == ("ioc" if px else "market") and fields["side"] == ("buy" if side > 0 else "sell")
    assert fields.get("reduceOnly", False) == (reduce and not position_side)
    assert not ("." in fields["sz"] and fields["sz"].endswith("0"))


@pytest.mark.parametrize("isolated", [True, False])
def test_every_kind_can_be_rendered(instruments: Instruments, isolated: bool) -> None:
    """An order's text is its values spliced into a text of its kind: so the compiled rendering can be taught it."""
    wire = OkxWire(isolated=isolated)
    for item in instruments:
        for kind in KINDS:
            if not item.spot or not (kind[2] or kind[3]):
                made = cut(lambda key, order, now_ms: wire.place(order, now_ms), "frame", item, *kind)
                assert made.text and not made.signature


SCRIPT = """
import json, sys
import ccxt
from okx import utils

asked = json.loads(sys.stdin.read())
exchange = ccxt.okx({"apiKey": asked["key"], "secret": asked["secret"], "password": asked["passphrase"]})
exchange.milliseconds = lambda: asked["ms"]
exchange.options["brokerId"] = ""
out = []
for call in asked["calls"]:
    fields = json.loads(call["body"]) if call["body"] else dict(call["params"])
    path = call["path"].removeprefix("/api/v5/")
    signed = exchange.sign(path, ["private"], call["method"], fields)
    target = call["path"] + (utils.parse_params_to_str(dict(call["params"])) if call["params"] else "")
    own = utils.sign(utils.pre_hash(asked["iso"], call["method"], target, call["body"], False), asked["secret"]).decode()
    out.append({"body": signed["body"] or "", "url": signed["url"], "headers": signed["headers"], "own": own,
                "header": utils.get_header(asked["key"], own, asked["iso"], asked["passphrase"], "1", False)})
login = utils.sign(str(asked["ms"] // 1000) + "GET/users/self/verify", asked["secret"]).decode()
print(json.dumps({"calls": out, "login": login}))
"""


def test_other_clients_sign_the_same(instruments: Instruments, key: Key) -> None:
    """ccxt and the venue's own client, offline with our key and time: the same bodies, query strings, headers and signatures."""
    if not CLIENT.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    orders = [
        _order(instruments), _order(instruments, px=500_000), _order(instruments, side=-1, reduce_only=True),
        _order(instruments, side=-1, position_side=1), _order(instruments, "BTC-USDT", px=500_001, qty=1_234_567),
        _order(instruments, "BTC-USDT", side=-1),
    ]  # fmt: skip
    bodies = [place_body(order).decode() for order in orders]
    bodies.append(json_text({"instId": "BTC-USDT-SWAP", "lever": "5", "mgnMode": "isolated", "posSide": "long"}).decode())
    calls: list[dict[str, Any]] = [{"method": "POST", "path": PLACE, "body": text, "params": []} for text in bodies]
    questions: list[tuple[str, dict[str, Any]]] = [
        ("/api/v5/account/config", {}), ("/api/v5/trade/order", {"instId": "BTC-USDT-SWAP", "clOrdId": CID}),
        ("/api/v5/trade/fills", {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "limit": 100, "after": "77"}),
    ]  # fmt: skip
    calls += [{"method": "GET", "path": path, "body": "", "params": list(params.items())} for path, params in questions]
    asked = {
        "key": key.api_key.decode(), "secret": "TESTSECRET000000000000000000000000000002", "passphrase": "Testpass1",
        "ms": NOW_MS, "iso": iso_time(NOW_MS), "calls": calls,
    }  # fmt: skip
    done = subprocess.run([CLIENT, "-c", SCRIPT], input=orjson.dumps(asked), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:].decode()
    told = orjson.loads(done.stdout)
    rest = Rest(Endpoints(), CONTRACT, lambda: 0)
    for call, theirs in zip(calls, told["calls"], strict=True):
        query = rest.query(dict(call["params"]))
        target = call["path"] + (f"?{query}" if query else "")
        ours = rest_headers(key, call["method"], target, call["body"].encode(), NOW_MS)
        assert theirs["body"] == call["body"] and theirs["url"].endswith(target)
        assert {name.upper(): value for name, value in theirs["headers"].items() if name.startswith("OK-")} == {
            name: value for name, value in ours.items() if name.startswith("OK-")}
        assert theirs["own"] == ours["OK-ACCESS-SIGN"]
        simulated = rest_headers(key, call["method"], target, call["body"].encode(), NOW_MS, simulated=True)
        assert theirs["header"] == simulated
    assert told["login"] == orjson.loads(login_text(key, NOW_MS))["args"][0]["sign"]
