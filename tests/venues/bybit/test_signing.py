"""Signatures and order texts: the worked examples byte for byte, and the same as two clients written by others make."""

import json
import pathlib
import subprocess

import pytest

from copyd.venues.bybit.contract import CONTRACT
from copyd.venues.bybit.signing import closes_side, login_text, order_fields, place_text, rest_body, rest_headers
from copyd.venues.common.signing import json_text
from tests.venues.bybit.conftest import BTC, BTC_SPOT, CID, KEY, PEPE, order

ROOT = pathlib.Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NOW_MS = 1_700_000_000_000

#: (order, its body but for the client order id, client order id of the example, signature): all of one key, time and window.
EXAMPLES = [
    (order(), '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Market","qty":"0.01","positionIdx":0,'
     '"orderLinkId":"%s"}',
     "cpd0000000000000001", "533fa7832669938e176038d2241062b25826daa93c99e28dc3340e6c2a5f84a0"),
    (order(px=500_000), '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"50000",'
     '"timeInForce":"IOC","positionIdx":0,"orderLinkId":"%s"}',
     "cpd0000000000000004", "e9f2307dc2f9366a5762c8e68d4f95595af220c046cb0bb5b93c2f257c1213d7"),
    (order(side=-1, reduce_only=True), '{"category":"linear","symbol":"BTCUSDT","side":"Sell","orderType":"Market","qty":"0.01",'
     '"reduceOnly":true,"positionIdx":0,"orderLinkId":"%s"}',
     "cpd0000000000000005", "d6fd1c519c31cab3daf29ac09805548ff77c9b020aac6d6b32bcb0ee15d5cc24"),
    (order(BTC_SPOT, qty=10_000), '{"category":"spot","symbol":"BTCUSDT","side":"Buy","orderType":"Market","qty":"0.01",'
     '"marketUnit":"baseCoin","orderLinkId":"%s"}',
     "cpd0000000000000001", "32fec628fc59c2a184e57029a47b2ae692b521c89a985d931baca67d7eb3452c"),
    (order(BTC_SPOT, qty=10_000, px=5_000_000), '{"category":"spot","symbol":"BTCUSDT","side":"Buy","orderType":"Limit",'
     '"qty":"0.01","price":"50000","timeInForce":"IOC","orderLinkId":"%s"}',
     "cpd0000000000000004", "f01e2ae879eb3f028c3ab14bd26de5617922abd3a0d5f0306f1062b10ebe24da"),
]  # fmt: skip

#: Worked examples of orders that are not ours to send: what is signed is signed alike.
OTHERS = [
    ('{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"50000","timeInForce":"GTC",'
     '"positionIdx":0,"orderLinkId":"cpd0000000000000003"}', "7e08d08cddebb6503c4b45b7ca206fd69abb4e5fea35aa2d400fe5e39c5857ca"),
    ('{"category":"linear","symbol":"BTCUSDT","side":"Sell","orderType":"Limit","qty":"0.01","price":"44900",'
     '"triggerPrice":"45000","triggerDirection":2,"triggerBy":"LastPrice","timeInForce":"GTC","reduceOnly":true,"positionIdx":0,'
     '"orderLinkId":"cpd0000000000000006"}', "1547cd49865ee3ce5ed8a32ca7cdb54e145ff79c615b91d151b9514f11c572a3"),
    ('{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Market","qty":"0.01","takeProfit":"60000",'
     '"stopLoss":"45000","tpTriggerBy":"MarkPrice","slTriggerBy":"MarkPrice","tpslMode":"Full","positionIdx":0,"orderLinkId":"cpd0000000000000007"}',
     "85e99395ac0b70c07290837309c2ec684fa5dda72e2ec339a21f01898f73385c"),
    ('{"category":"spot","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"50000","timeInForce":"GTC",'
     '"orderLinkId":"cpd0000000000000003"}', "d32126833c0d373c76b947ecf6aeb8508d5841d21a3beb95472989b50495ff23"),
    ('{"category":"spot","symbol":"BTCUSDT","side":"Sell","orderType":"Limit","qty":"0.01","price":"44900",'
     '"triggerPrice":"45000","orderFilter":"StopOrder","timeInForce":"GTC","orderLinkId":"cpd0000000000000006"}',
     "de61e8dc741841d8e295d7a18e0ac17af4ed13b23ae2ffe02fb308a91a4786b4"),
    ('{"category":"spot","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"50000","takeProfit":"60000",'
     '"stopLoss":"45000","tpOrderType":"Market","slOrderType":"Market","orderLinkId":"cpd0000000000000007"}',
     "444027823278e4bfe58fece9506d2747038ab79c98853d5419ad932376cdc62f"),
    ("category=linear&orderLinkId=cpd0000000000000001", "e5a3384ada423224bc4f6f5991d598966de1f673b8a1b175a9fa3d4a1cffe83d"),
    ("", "3529c515dcc0b4d4726fd611a5f32cf448558383c64ff56c7b0fedc958b659ba"),
]  # fmt: skip


@pytest.mark.parametrize(("placed", "body", "cid", "signature"), EXAMPLES)
def test_worked_examples_of_orders(placed, body, cid, signature):
    """The body of an order but for its id, and the signature over the example's own body."""
    assert rest_body(placed).decode() == body % CID.hex()
    headers = rest_headers(KEY, (body % cid).encode(), NOW_MS, 5_000)
    assert headers == {
        "X-BAPI-API-KEY": "TESTKEY0000000000000000000000000001", "X-BAPI-TIMESTAMP": "1700000000000",
        "X-BAPI-RECV-WINDOW": "5000", "X-BAPI-SIGN": signature,
    }  # fmt: skip


@pytest.mark.parametrize(("payload", "signature"), OTHERS)
def test_worked_examples_of_what_is_signed(payload, signature):
    """Bodies and queries that we do not make are signed as the examples say."""
    assert rest_headers(KEY, payload.encode(), NOW_MS, 5_000)["X-BAPI-SIGN"] == signature


def test_worked_example_of_a_login():
    """Byte for byte, good for ten seconds."""
    assert login_text(KEY, NOW_MS) == (
        b'{"op":"auth","args":["TESTKEY0000000000000000000000000001",1700000010000,'
        b'"6b7c3a0cc2f2151c6b4b10e521a004fb50bc2efed78fa3dad0c599c63df863f8"]}'
    )


def test_a_placement_on_the_order_socket():
    """The answer's name is the order's; the window stands in the header; the order is the one that REST sends."""
    placed = order(px=500_000)
    text = place_text(placed, NOW_MS, 2_000)
    assert text == json_text({
        "reqId": CID.hex(), "header": {"X-BAPI-TIMESTAMP": "1700000000000", "X-BAPI-RECV-WINDOW": "2000"},
        "op": "order.create", "args": [json.loads(rest_body(placed))],
    })  # fmt: skip


def test_a_market_order_of_a_pair_is_sized_in_the_base_asset():
    """The venue takes the quantity of a spot market buy for an amount of the quote asset unless it is told otherwise."""
    for side in (1, -1):
        fields = order_fields(order(BTC_SPOT, qty=10_000, side=side))
        assert fields["marketUnit"] == "baseCoin" and "positionIdx" not in fields and "reduceOnly" not in fields
    assert "marketUnit" not in order_fields(order(BTC_SPOT, qty=10_000, px=1)) and "marketUnit" not in order_fields(order())


@pytest.mark.parametrize(
    ("side", "position_side", "reduces"),
    [(1, 1, False), (-1, 1, True), (-1, 2, False), (1, 2, True), (1, 0, False), (-1, 0, False)],
)
def test_hedge_side_encodings(side, position_side, reduces):
    """The position side is a number; what trades against it closes it and is marked so, what trades with it is not."""
    placed = order(side=side, position_side=position_side)
    fields = order_fields(placed)
    assert fields["positionIdx"] == position_side and fields["side"] == ("Buy" if side > 0 else "Sell")
    assert closes_side(placed) is reduces and fields.get("reduceOnly", False) is reduces


@pytest.mark.parametrize(
    ("item", "qty", "px", "qty_text", "px_text"),
    [
        (BTC, 1, 1, "0.001", "0.1"), (BTC, 1000, 10, "1", "1"), (PEPE, 3, 12, "300", "0.0000012"),
        (BTC_SPOT, 48, 100, "0.000048", "1"),
    ],
)
def test_numbers_are_written_shortest(item, qty, px, qty_text, px_text):
    """No exponent, no trailing zeros, steps of 100 as well as of 0.001."""
    fields = order_fields(order(item, qty=qty, px=px))
    assert (fields["qty"], fields["price"]) == (qty_text, px_text)


CCXT = """
import json, sys, ccxt
at = json.loads(sys.stdin.read())
x = ccxt.bybit({"apiKey": at["key"], "secret": at["secret"], "options": {"recvWindow": 5000}})
x.milliseconds = lambda: at["now"]
x.nonce = lambda: at["now"]
out = []
def fetch(url, method="GET", headers=None, body=None):
    head = [headers["X-BAPI-SIGN"], headers["X-BAPI-TIMESTAMP"], headers["X-BAPI-RECV-WINDOW"], headers["X-BAPI-API-KEY"]]
    out.append([body if method == "POST" else url.partition("?")[2], *head])
    return {"retCode": 0, "result": {}}
x.fetch = fetch
for body in at["bodies"]:
    x.privatePostV5OrderCreate(json.loads(body))
for query in at["queries"]:
    x.privateGetV5OrderRealtime(query)
print(json.dumps(out))
"""
PYBIT = """
import json, sys
from pybit.unified_trading import HTTP
at = json.loads(sys.stdin.read())
out = []
session = HTTP(api_key=at["key"], api_secret=at["secret"], recv_window=5000)
for body in at["bodies"]:
    out.append(session._auth(body, 5000, at["now"]))
for query in at["queries"]:
    payload = session.prepare_payload("GET", dict(query))
    out.append([payload, session._auth(payload, 5000, at["now"])])
print(json.dumps(out))
"""


def _client(script, **given):
    if not PYTHON.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    asked = {"key": KEY.api_key.decode(), "secret": "TESTSECRET000000000000000000000000000002", "now": NOW_MS, **given}
    done = subprocess.run(
        [PYTHON, "-P", "-c", script], input=json.dumps(asked), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


ORDERS = [
    order(), order(px=500_000), order(side=-1, reduce_only=True), order(side=-1, position_side=1), order(side=1, position_side=2),
    order(BTC_SPOT, qty=10_000), order(BTC_SPOT, qty=10_000, side=-1), order(BTC_SPOT, qty=48, px=1), order(PEPE, qty=3, px=12),
]  # fmt: skip
QUERIES = [
    {"category": "linear", "symbol": "BTCUSDT", "orderLinkId": CID.hex()},
    {"category": "linear", "settleCoin": "USDT", "limit": 200},
]


def test_ccxt_makes_the_same_bytes_and_signatures():
    """Over the same orders and queries ccxt writes the same body, the same query and the same signature."""
    bodies = [rest_body(one).decode() for one in ORDERS]
    answers = _client(CCXT, bodies=bodies, queries=QUERIES)
    for body, answer in zip(bodies, answers, strict=False):
        headers = rest_headers(KEY, body.encode(), NOW_MS, 5_000)
        assert answer == [body, headers["X-BAPI-SIGN"], "1700000000000", "5000", KEY.api_key.decode()]
    for query, (text, signature, *_) in zip(QUERIES, answers[len(bodies) :], strict=True):
        ours = "&".join(f"{name}={value}" for name, value in query.items())
        assert text == ours and rest_headers(KEY, ours.encode(), NOW_MS, 5_000)["X-BAPI-SIGN"] == signature


def test_pybit_signs_our_bytes_alike():
    """pybit's signature over our bodies and queries is ours."""
    bodies = [rest_body(one).decode() for one in ORDERS]
    answers = _client(PYBIT, bodies=bodies, queries=QUERIES)
    for body, signature in zip(bodies, answers, strict=False):
        assert rest_headers(KEY, body.encode(), NOW_MS, 5_000)["X-BAPI-SIGN"] == signature
    for query, (text, signature) in zip(QUERIES, answers[len(bodies) :], strict=True):
        assert text == "&".join(f"{name}={query[name]}" for name in sorted(query))  # it sorts, which the venue does not ask for
        assert rest_headers(KEY, text.encode(), NOW_MS, 5_000)["X-BAPI-SIGN"] == signature


def test_ids_fit_the_venue():
    """Ours are 32 characters of its alphabet, within its length."""
    assert len(CID.hex()) <= CONTRACT.client_id_len_max
