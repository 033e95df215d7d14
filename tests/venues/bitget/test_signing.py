"""Signatures and order texts: the worked examples, and what ccxt signs, byte for byte."""

from __future__ import annotations

import json
import subprocess

import orjson
import pytest

from copyd.venues.bitget.signing import headers, login_text, place_path, place_text
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order
from tests.exchange.wire_helpers import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NOW_MS = 1_700_000_000_000
CID = bytes.fromhex("00112233445566778899aabbccddeeff")
V2, SPOT, V3 = "/api/v2/mix/order/place-order", "/api/v2/spot/trade/place-order", "/api/v3/trade/place-order"
HEAD = '{"symbol":"BTCUSDT","productType":"USDT-FUTURES","marginMode":"crossed","marginCoin":"USDT","size":"0.01",'

#: method, target, body, signature
EXAMPLES = [
    ("POST", V2, HEAD + '"side":"buy","orderType":"market","clientOid":"cpd0000000000000001"}',
     "8yS0T0xj+yrGBTI5E0upJrODUFOP+DSEo55kzcW2Lk4="),
    ("POST", V2, HEAD + '"price":"50000","side":"buy","orderType":"limit","force":"gtc","clientOid":"cpd0000000000000003"}',
     "+KwN63xTlrLg1O7p5dlra9p0oqaRE6S+qt2izFXNmSs="),
    ("POST", V2, HEAD + '"price":"50000","side":"buy","orderType":"limit","force":"ioc","clientOid":"cpd0000000000000004"}',
     "/km7oTrHOA0ATo35JUOMvcmTS0CMobARSbEAko8r8gE="),
    ("POST", V2, HEAD + '"side":"sell","orderType":"market","reduceOnly":"YES","clientOid":"cpd0000000000000005"}',
     "5o85T+CaiIV2Bpx9H6yk3WZ4nMvhnioVxvzd5t2SIQM="),
    ("POST", "/api/v2/mix/order/place-plan-order",
     '{"planType":"normal_plan","symbol":"BTCUSDT","productType":"USDT-FUTURES","marginMode":"crossed","marginCoin":"USDT",'
     '"size":"0.01","price":"44900","triggerPrice":"45000","triggerType":"fill_price","side":"sell","orderType":"limit",'
     '"clientOid":"cpd0000000000000006"}',
     "cpzDCiH6tZiSzk6iWFwrjEDADsptWYGGDiW32yTBoz0="),
    ("POST", V2, HEAD + '"side":"buy","orderType":"market","presetStopSurplusPrice":"60000","presetStopLossPrice":"45000",'
     '"clientOid":"cpd0000000000000007"}',
     "CHVFOkHAa3EoEUs2sz6VX/IuJAFumxnmq65Ibb67tSo="),
    ("POST", SPOT,
     '{"symbol":"BTCUSDT","side":"buy","orderType":"market","force":"gtc","size":"500","clientOid":"cpd0000000000000001"}',
     "DGAB2RiUW62z0RnVDpnqM9NKzLZZXbGXhxan7fUm1Hs="),
    ("POST", SPOT,
     '{"symbol":"BTCUSDT","side":"buy","orderType":"limit","force":"gtc","price":"50000","size":"0.01",'
     '"clientOid":"cpd0000000000000003"}',
     "fTTDIVX7xWipKu2YduE9A4ghANHOcEfu7Wd17bCfELc="),
    ("POST", SPOT,
     '{"symbol":"BTCUSDT","side":"buy","orderType":"limit","force":"ioc","price":"50000","size":"0.01",'
     '"clientOid":"cpd0000000000000004"}',
     "gOVObZrwPYEQGpX6suPBwhrqyx83dvxtBxkie2lCMxw="),
    ("POST", "/api/v2/spot/trade/place-plan-order",
     '{"symbol":"BTCUSDT","side":"sell","triggerPrice":"45000","orderType":"limit","executePrice":"44900","planType":"amount",'
     '"size":"0.01","triggerType":"fill_price","clientOid":"cpd0000000000000006"}',
     "yqUB5ai/R6nBYxYRdbSS4O4EDdnDodR5mAmvsnKb/ng="),
    ("POST", SPOT,
     '{"symbol":"BTCUSDT","side":"buy","orderType":"limit","force":"gtc","price":"50000","size":"0.01",'
     '"presetTakeProfitPrice":"60000","presetStopLossPrice":"45000","clientOid":"cpd0000000000000007"}',
     "flNHnqG4EL1SwmV+hPO2SwDmg46Hz+OqKQCdlr2Fk+A="),
    ("POST", V3,
     '{"category":"USDT-FUTURES","symbol":"BTCUSDT","qty":"0.01","side":"buy","orderType":"market","marginMode":"crossed",'
     '"clientOid":"cpd0000000000000001"}',
     "3hm67ldVVDm7Q3ZeljoqFwgjL8I2TkFG4pu8k24cJyY="),
    ("GET", "/api/v2/mix/order/detail?clientOid=cpd0000000000000001&productType=USDT-FUTURES&symbol=BTCUSDT", "",
     "dQvs38AYvRmm/fd5Mk6kjUaJb0kk8P34dxDi2KFYapg="),
    ("GET", "/api/v2/spot/account/info", "", "pEbTestkkb2kQAILcOCeyVFJIv6f/8XLVph2y6oIfzs="),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "body", "signature"), EXAMPLES)
def test_worked_examples(key: Key, method: str, target: str, body: str, signature: str) -> None:
    """Every worked example's bytes give its signature, and the headers are those the venue names."""
    assert headers(key, method, target, body.encode(), NOW_MS) == {
        "ACCESS-KEY": "TESTKEY0000000000000000000000000001", "ACCESS-SIGN": signature, "ACCESS-TIMESTAMP": "1700000000000",
        "ACCESS-PASSPHRASE": "Testpass1", "Content-Type": "application/json", "locale": "en-US",
    }  # fmt: skip


def test_a_demo_key_says_so(key: Key) -> None:
    """Play money is asked for by one header more, which is not signed."""
    plain, demo = (headers(key, "GET", "/x", b"", NOW_MS, demo=demo) for demo in (False, True))
    assert demo == {**plain, "paptrading": "1"}


def test_login(key: Key) -> None:
    """The login of the worked example, byte for byte."""
    assert login_text(key, NOW_MS) == (
        b'{"op":"login","args":[{"apiKey":"TESTKEY0000000000000000000000000001","passphrase":"Testpass1",'
        b'"timestamp":"1700000000","sign":"WxU/3WnncxACCvElPUAYH+NPqp+lTb03SyKn8cD8B1s="}]}'
    )


def _order(instruments: Instruments, index: int, **fields: object) -> Order:
    return Order(**{
        "account": 1, "instrument": instruments[index], "cid": CID, "qty": 10, "px": 0, "side": 1, "position_side": 0,
        "reduce_only": False, **fields,
    })  # fmt: skip


#: instrument, fields of the order, isolated, unified, body of the venue
PLACEMENTS = [
    (3, {}, False, False, HEAD + '"side":"buy","orderType":"market","clientOid":"CID"}'),
    (3, {"px": 500_000}, False, False,
     HEAD + '"price":"50000","side":"buy","orderType":"limit","force":"ioc","clientOid":"CID"}'),
    (3, {"side": -1, "reduce_only": True}, False, False,
     HEAD + '"side":"sell","orderType":"market","reduceOnly":"YES","clientOid":"CID"}'),
    # two-sided: "side" names the position, "tradeSide" what is done to it
    (3, {"position_side": 1}, True, False,
     HEAD.replace("crossed", "isolated") + '"side":"buy","tradeSide":"open","orderType":"market","clientOid":"CID"}'),
    (3, {"position_side": 1, "side": -1, "reduce_only": True}, False, False,
     HEAD + '"side":"buy","tradeSide":"close","orderType":"market","clientOid":"CID"}'),
    (3, {"position_side": 2, "side": -1}, False, False,
     HEAD + '"side":"sell","tradeSide":"open","orderType":"market","clientOid":"CID"}'),
    (3, {"position_side": 2, "side": 1}, False, False,
     HEAD + '"side":"sell","tradeSide":"close","orderType":"market","clientOid":"CID"}'),
    # v3: "side" is what is done, "posSide" the position
    (3, {}, False, True,
     '{"category":"USDT-FUTURES","symbol":"BTCUSDT","qty":"0.01","side":"buy","orderType":"market","marginMode":"crossed",'
     '"clientOid":"CID"}'),
    (3, {"position_side": 1, "side": -1, "px": 500_005}, True, True,
     '{"category":"USDT-FUTURES","symbol":"BTCUSDT","qty":"0.01","price":"50000.5","side":"sell","posSide":"long",'
     '"orderType":"limit","timeInForce":"ioc","marginMode":"isolated","clientOid":"CID"}'),
    (3, {"side": -1, "reduce_only": True}, False, True,
     '{"category":"USDT-FUTURES","symbol":"BTCUSDT","qty":"0.01","side":"sell","orderType":"market","marginMode":"crossed",'
     '"reduceOnly":"yes","clientOid":"CID"}'),
    (7, {"px": 5_000_000, "qty": 10_000}, True, False,
     '{"symbol":"BTCUSDT","side":"buy","orderType":"limit","force":"ioc","price":"50000","size":"0.01","clientOid":"CID"}'),
    (7, {"side": -1, "qty": 10_000}, True, False,
     '{"symbol":"BTCUSDT","side":"sell","orderType":"market","force":"gtc","size":"0.01","clientOid":"CID"}'),
    (7, {"px": 5_000_000, "qty": 10_000}, True, True,
     '{"category":"SPOT","symbol":"BTCUSDT","qty":"0.01","price":"50000","side":"buy","orderType":"limit","timeInForce":"ioc",'
     '"clientOid":"CID"}'),
]  # fmt: skip


@pytest.mark.parametrize(("index", "fields", "isolated", "unified", "body"), PLACEMENTS)
def test_placements(instruments: Instruments, index: int, fields: dict, isolated: bool, unified: bool, body: str) -> None:
    """An order is written as the worked examples write theirs, each generation and mode in its own words."""
    order = _order(instruments, index, **fields)
    assert place_text(order, isolated=isolated, unified=unified) == body.replace("CID", CID.hex()).encode()
    assert place_path(order, unified=unified) == (V3 if unified else SPOT if index == 7 else V2)


def test_a_market_order_that_buys_spot_has_no_words(instruments: Instruments) -> None:
    """The venue sizes it in the quote asset: a quantity of the base would be a hundred thousand times too small."""
    with pytest.raises(ValueError, match="sized in the quote asset"):
        place_text(_order(instruments, 7), isolated=True, unified=False)


CCXT = """
import json, sys, ccxt
key, secret, passphrase, now, asked = json.loads(sys.argv[1])
exchange = ccxt.bitget({"apiKey": key, "secret": secret, "password": passphrase})
exchange.nonce = lambda: now
found = []
for method, path, params in asked:
    sort = "uta" if path.startswith("v3") else "mix"
    found.append(exchange.sign(path, ["private", sort], method, params))
print(json.dumps(found))
"""


def test_ccxt_signs_the_same(key: Key, instruments: Instruments) -> None:
    """Unmodified ccxt gives our signature, our body and our target to the same payloads."""
    asked, ours = [], []
    for index, fields, isolated, unified, _ in PLACEMENTS:
        order = _order(instruments, index, **fields)
        body, path = place_text(order, isolated=isolated, unified=unified), place_path(order, unified=unified)
        asked.append(("POST", path.removeprefix("/api/"), json.loads(body)))
        ours.append((path, body.decode(), headers(key, "POST", path, body, NOW_MS)))
    query = {"symbol": "BTCUSDT", "productType": "USDT-FUTURES", "clientOid": CID.hex()}
    target = f"/api/v2/mix/order/detail?clientOid={CID.hex()}&productType=USDT-FUTURES&symbol=BTCUSDT"
    asked.append(("GET", "v2/mix/order/detail", query))
    ours.append((target, None, headers(key, "GET", target, b"", NOW_MS)))
    secrets = ["TESTKEY0000000000000000000000000001", "TESTSECRET000000000000000000000000000002", "Testpass1", NOW_MS, asked]
    command = [PYTHON, "-P", "-c", CCXT, orjson.dumps(secrets)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    for theirs, (path, body, head) in zip(json.loads(done.stdout), ours, strict=True):
        assert theirs["url"] == "https://api.bitget.com" + path
        assert theirs["body"] == body
        for name in ("ACCESS-KEY", "ACCESS-SIGN", "ACCESS-TIMESTAMP", "ACCESS-PASSPHRASE"):
            assert theirs["headers"][name] == head[name]
