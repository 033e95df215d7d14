"""Bytes of the venue become exact facts; what cannot be read becomes a value, never an exception."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.codec import Unlisted
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.common import facts
from copyd.venues.common.facts import LeaderFill, Malformed

from .conftest import EXCHANGE_INFO, INSTRUMENTS

ORDER_TRADE_UPDATE = (
    b'{"e":"ORDER_TRADE_UPDATE","T":1568879465651,"E":1568879465651,"o":{"s":"BTCUSDT","c":"cpd1","S":"BUY","o":"LIMIT","f":"GTC",'
    b'"q":"0.003","p":"7100.50","ap":"7100.50","sp":"0","x":"TRADE","X":"PARTIALLY_FILLED","i":8886774,"l":"0.001","z":"0.002",'
    b'"L":"7100.50","N":"USDT","n":"0.01","T":1568879465651,"t":12345678,"b":"0","a":"0","m":true,"R":false,"wt":"CONTRACT_PRICE",'
    b'"ot":"LIMIT","ps":"LONG","cp":false,"AP":"0","cr":"0","pP":false,"si":0,"ss":0,"rp":"12.34","V":"EXPIRE_TAKER","pm":"NONE","gtd":0}}'
)
ACCOUNT_UPDATE = (
    b'{"e":"ACCOUNT_UPDATE","T":1,"E":2,"a":{"m":"ORDER","B":[{"a":"USDT","wb":"122624.1","cw":"100.1","bc":"50.1"}],'
    b'"P":[{"s":"BTCUSDT","pa":"-0.020","ep":"6563.6","bep":"6563.5","cr":"0","up":"2850.2","mt":"isolated","iw":"13200.7","ps":"SHORT"}]}}'
)


def changed(**fields):
    event = json.loads(ORDER_TRADE_UPDATE)
    event["o"].update(fields)
    return codec.decode_user(json.dumps(event).encode())


def test_an_execution_of_the_leader_is_exact_and_keeps_its_bytes():
    event = codec.decode_user(ORDER_TRADE_UPDATE)
    execution = codec.execution(event, INSTRUMENTS, 99, ORDER_TRADE_UPDATE)
    assert execution is not None
    assert facts.leader_fill_of(execution, 3) == LeaderFill(
        leader=3,
        instrument=0,
        exec_id=12345678,
        order_id=8886774,
        client_order_id="cpd1",
        side=1,
        position_side=1,
        qty=1,
        px=71005,
        order_qty=3,
        cum_qty=2,
        maker=True,
        reduce_only=False,
        live=True,
        cause="",
        ts_event=1568879465651 * 10**6,
        ts_recv=99,
        raw=ORDER_TRADE_UPDATE,
    )


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"c": "autoclose-1", "x": "CALCULATED"}, "liquidation"),
        ({"c": "adl_autoclose"}, "adl"),
        ({"c": "settlement_autoclose-7"}, "settlement"),
        ({"c": "web_1"}, ""),
    ],
)
def test_a_forced_close_is_a_fill_with_its_cause(fields, cause):
    assert codec.execution(changed(**fields), INSTRUMENTS, 0, b"").cause == cause


@pytest.mark.parametrize("fields", [{"x": "NEW", "l": "0"}, {"x": "EXPIRED", "l": "0.000"}, {"s": "DOGEUSDT"}])
def test_what_is_no_execution_of_ours_is_no_fill(fields):
    assert codec.execution(changed(**fields), INSTRUMENTS, 0, b"") is None


@pytest.mark.parametrize("fields", [{"l": "0.0015"}, {"L": "7100.55"}, {"S": "HOLD"}, {"ps": "UP"}, {"l": "1e-3"}])
def test_an_execution_that_does_not_fit_the_instrument_is_an_error_never_a_rounding(fields):
    with pytest.raises((ValueError, KeyError)):
        codec.execution(changed(**fields), INSTRUMENTS, 0, b"")


def test_account_update_and_combined_stream():
    event = codec.decode_combined_user(b'{"stream":"LISTENKEY","data":' + ACCOUNT_UPDATE + b"}")
    assert event.stream == "LISTENKEY"
    [wallet], [position] = event.data.a.B, event.data.a.P
    assert facts.money_e8(wallet.wb) == 122624_10000000 and facts.money_e8(wallet.bc) == 50_10000000
    assert INSTRUMENTS[0].lots(position.pa) == -20 and position.mt == "isolated"


def test_other_events_of_the_user_stream():
    assert codec.decode_user(b'{"e":"ACCOUNT_CONFIG_UPDATE","E":1,"T":2,"ac":{"s":"BTCUSDT","l":25}}').ac.l == 25
    assert codec.decode_user(b'{"e":"ACCOUNT_CONFIG_UPDATE","E":1,"T":2,"ai":{"j":true}}').ac is None
    assert isinstance(codec.decode_user(b'{"e":"listenKeyExpired","E":1,"listenKey":"x"}'), codec.ListenKeyExpired)
    assert isinstance(codec.decode_user(b'{"e":"MARGIN_CALL","E":1,"cw":"3","p":[]}'), codec.MarginCall)
    lite = b'{"e":"TRADE_LITE","E":1,"T":1,"s":"BTCUSDT","c":"x","S":"BUY","i":8,"l":"0.001","L":"7100.50","t":5,"m":true}'
    assert codec.decode_user(lite).t == 5


@pytest.mark.parametrize(
    "payload",
    [
        b'{"e":"ALGO_UPDATE","E":1,"o":{}}',
        b'{"result":null,"id":7}',
        b'{"e":"STRATEGY_UPDATE"}',
        b'{"error":{"code":1,"msg":"x"},"id":1}',
    ],
)
def test_what_we_do_not_use_is_counted_not_an_error(payload):
    for decode in (codec.decode_user, codec.decode_combined_user, codec.decode_market):
        assert isinstance(decode(payload), Unlisted)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\xff\xfe\xfd",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"e":"ORDER_TRADE_UPDATE","E":1,"T":1}',
        b'{"e":"ACCOUNT_UPDATE","E":"x"}',
        b'{"stream":"k","data":{"e":"ORDER_TRADE_UPDATE"}}',
        b'{"e":"bookTicker","s":1}',
        b"[" * 100_000,
        b"{}",
    ],
)
def test_a_frame_that_cannot_be_read_is_a_value(payload):
    for decode in (codec.decode_user, codec.decode_combined_user, codec.decode_market):
        assert isinstance(decode(payload), Malformed)
    assert isinstance(codec.decode_order_reply(payload), Malformed) or payload[:1] == b"{"


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise(payload):
    codec.decode_user(payload)
    codec.decode_combined_user(payload)
    codec.decode_market(payload)
    codec.decode_order_reply(payload)
    codec.decode_raw_reply(payload)


def test_order_reply_with_and_without_averages():
    head = b'{"id":"x","status":200,"result":{"orderId":1,"symbol":"BTCUSDT","status":"FILLED","executedQty":"0.010"'
    result = codec.decode_order_reply(head + b',"avgPrice":"65000.15","cumQuote":"650.0015"}}').result
    assert facts.cost_e8(result.avgPrice, result.executedQty, result.cumQuote) == 65000150000
    bare = codec.decode_order_reply(head + b"}}").result
    assert facts.cost_e8(bare.avgPrice, bare.executedQty, bare.cumQuote) == 0
    # an average with more digits than we keep is cut, the product is rounded down
    assert facts.cost_e8("65000.33333333333333", "0.003") == 19500099999


def test_market_streams():
    ticker = codec.decode_market(
        b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":400900217,"E":1568014460893,"T":1568014460891,"s":"BTCUSDT","b":"25.30","B":"31.210","a":"25.40","A":"40.660"}}'
    )
    assert (INSTRUMENTS[0].ticks(ticker.data.b), INSTRUMENTS[0].lots(ticker.data.A)) == (253, 40660)
    mark = codec.decode_market(
        b'{"data":{"e":"markPriceUpdate","E":1,"s":"BTCUSDT","p":"11794.15000000","P":"1","i":"1","r":"0.00038167","T":2}}'
    )
    assert INSTRUMENTS[0].ticks_nearest(mark.data.p) == 117942 and facts.parse_ppm(mark.data.r) == 381


def test_instruments_come_from_the_filters_not_from_the_precisions():
    btc, eth = INSTRUMENTS
    assert (btc.price_decimals, btc.tick, btc.qty_decimals, btc.lot) == (1, 1, 3, 1)
    assert (btc.lot_min, btc.lot_max, btc.market_lot_max) == (1, 1_000_000, 120_000)
    assert btc.min_notional_e8 == 50 * 10**8 and (btc.price_up_ppm, btc.price_down_ppm) == (1_050_000, 950_000)
    # one lot at one tick is 0.001 x 0.1 USDT
    assert btc.value_mul * 10**4 // btc.value_div == 10**8
    # where market orders have the coarser step, every order keeps to it
    assert (eth.qty_decimals, eth.lot, eth.lot_min, eth.market_lot_min, eth.market_lot_max) == (2, 1, 1, 1, 200_000)
    assert eth.value_mul == 10**4 and eth.value_div == 1


def test_every_unusable_symbol_is_named_at_once():
    with pytest.raises(ValueError) as caught:
        load_instruments(EXCHANGE_INFO, [(0, "NOPEUSDT"), (1, "BTCUSDT"), (2, "ALSONOT")])
    assert "NOPEUSDT" in str(caught.value) and "ALSONOT" in str(caught.value) and "BTCUSDT" not in str(caught.value)
    with pytest.raises(ValueError, match="unreadable"):
        load_instruments(b"<html>", [(0, "BTCUSDT")])


def test_client_order_ids_of_ours():
    assert facts.cid_bytes("ab" * 16) == b"\xab" * 16
    assert facts.cid_bytes("web_abc") is None and facts.cid_bytes("z" * 32) is None
