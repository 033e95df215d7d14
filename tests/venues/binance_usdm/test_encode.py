"""The compiled order encoder and its readable twin give the same bytes, and both give the venue's worked examples."""

import hashlib
import hmac
import itertools
import json
import pickle
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd._fast import hashing
from copyd._fast.columns import Columns
from copyd._fast.decimals import cut_scaled, format_scaled, parse_scaled, parse_steps
from copyd._fast.encode import Encoder
from copyd.venues.binance_usdm.signing import frames, place_text, signed_query, status_request, ws_signed_text
from copyd.venues.common.signing import Key

API_KEY = b"TESTKEY0000000000000000000000000001"
SECRET = b"TESTSECRET000000000000000000000000000002"
KEY = Key(API_KEY, SECRET)
BTC = {"symbol": "BTCUSDT", "price_decimals": 1, "tick": 1, "qty_decimals": 3, "lot": 1}


def names(ids):
    """Ids of 16 bytes, back to back, as texts."""
    return [ids[at : at + 16].hex() for at in range(0, len(ids), 16)]


def encoder(**instrument):
    made = Encoder(2000, 7)
    made.set_account(0, API_KEY, SECRET, 3)
    made.set_instrument(0, *(instrument or BTC).values())
    return made


@settings(max_examples=200, deadline=None)
@given(
    cid=st.binary(min_size=16, max_size=16),
    qty=st.integers(1, 10**9),
    px=st.integers(0, 10**9),
    side=st.sampled_from([-1, 1]),
    position_side=st.sampled_from([0, 1, 2]),
    reduce_only=st.booleans(),
    price_decimals=st.integers(0, 8),
    tick=st.sampled_from([1, 2, 5, 10, 25]),
    qty_decimals=st.integers(0, 8),
    lot=st.sampled_from([1, 5, 10]),
    stamp=st.integers(10**12, 10**13),
)
def test_the_kernel_renders_and_signs_what_the_twin_does(
    cid, qty, px, side, position_side, reduce_only, price_decimals, tick, qty_decimals, lot, stamp
):
    instrument = {
        "symbol": "ETHUSDT",
        "price_decimals": price_decimals,
        "tick": tick,
        "qty_decimals": qty_decimals,
        "lot": lot,
    }
    made = encoder(**instrument)
    [(connection, buffer, ids, slots)] = made.encode_rows([(0, 0, cid, qty, px, side, position_side, reduce_only)], stamp)
    assert (connection, ids, array("I", slots)) == (3, cid, array("I", [0]))
    assert frames(buffer) == [
        place_text(
            KEY,
            **instrument,
            cid=cid,
            order_qty=qty,
            limit_px=px,
            side=side,
            position_side=position_side,
            reduce_only=reduce_only,
            timestamp_ms=stamp,
            recv_window_ms=2000,
        )
    ]


@pytest.mark.parametrize("implementation", hashing.available())
def test_an_order_is_signed_alike_by_every_implementation(implementation):
    """The key's states and the signature come from the hash that is chosen, and no choice changes a frame."""
    rows = [(0, 0, bytes([n] * 16), n + 1, 650001, 1, 0, False) for n in range(20)]
    want = encoder().encode_rows(rows, 1700000000000)
    before = hashing.choose(implementation)
    try:
        assert encoder().encode_rows(rows, 1700000000000) == want
    finally:
        hashing.choose(before)


def test_accounts_may_come_in_any_order_and_go_again():
    """Tables grow as keys arrive; an account without a key, never given or forgotten, cannot be encoded."""
    made = encoder()
    for account in (5000, 70, 1, 300):
        made.set_account(account, b"KEY%d" % account, b"S%d" % account, account % 2)
    for account in (5000, 70, 1, 300, 0):
        [(_, buffer, _, _)] = made.encode_rows([(account, 0, bytes(16), 1, 0, 1, 0, False)], 1)
        params = json.loads(frames(buffer)[0])["params"]
        signature = params.pop("signature")
        secret = b"S%d" % account if account else SECRET
        assert signature == hmac.new(secret, ws_signed_text(params).encode(), hashlib.sha256).hexdigest()
    made.forget_account(70)
    for account in (70, 71, 10**6):
        with pytest.raises(ValueError, match="has no key"):
            made.encode_rows([(account, 0, bytes(16), 1, 0, 1, 0, False)], 1)


def test_the_signature_is_hmac_of_the_sorted_parameters():
    """Independent of both renderers: parse the frame, sort what it carries, sign with the standard library."""
    made = encoder()
    [(_, buffer, _, _)] = made.encode_rows([(0, 0, bytes(range(16)), 10, 650001, -1, 0, True)], 1700000000000)
    params = json.loads(frames(buffer)[0])["params"]
    signature = params.pop("signature")
    text = "&".join(f"{k}={v}" for k, v in sorted(params.items()))
    assert signature == hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()
    assert params == {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "LIMIT",
        "timeInForce": "IOC",
        "quantity": "0.01",
        "price": "65000.1",
        "reduceOnly": "true",
        "newClientOrderId": bytes(range(16)).hex(),
        "newOrderRespType": "RESULT",
        "apiKey": API_KEY.decode(),
        "timestamp": 1700000000000,
        "recvWindow": 2000,
    }


@pytest.mark.parametrize(
    ("params", "signature"),
    [
        (
            {
                "symbol": "BTCUSDT",
                "side": "BUY",
                "type": "MARKET",
                "quantity": "0.01",
                "newClientOrderId": "cpd0000000000000001",
                "newOrderRespType": "ACK",
                "timestamp": 1700000000000,
                "recvWindow": 5000,
            },
            "ec718e1d8b4dae171e94dacb158321aa8b70adc1c336df6337547fdc2c7423be",
        ),
        (
            {
                "symbol": "BTCUSDT",
                "side": "BUY",
                "type": "LIMIT",
                "timeInForce": "GTC",
                "quantity": "0.01",
                "price": "50000",
                "newClientOrderId": "cpd0000000000000003",
                "timestamp": 1700000000000,
                "recvWindow": 5000,
            },
            "8c5fb3e558ff382c94f7a3bcedf8467b2991cb73d97a57860cbad8f79b753c34",
        ),
        (
            {"timestamp": 1700000000000},
            "d5c6145f9f1a1f87e8ca4d7adcef7eb1bcc74e146194c105e60582e65c0fcd0f",
        ),
    ],
)
def test_worked_examples_of_the_websocket_api(params, signature):
    assert KEY.sign(ws_signed_text({**params, "apiKey": API_KEY.decode()}).encode()) == signature


def test_worked_example_of_rest():
    query = signed_query(KEY, {"symbol": "BTCUSDT", "origClientOrderId": "cpd0000000000000001"}, 1700000000000, 5000)
    assert query.endswith("&signature=985251660a93b4b814c0897db2876162cc4f9bc3cb3a999f8f745f1859465048")


def test_documented_vector_of_the_venue():
    key = Key(b"k", b"2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9")
    payload = b"symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943"
    assert key.sign(payload) == "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"


def test_frames_keep_the_given_order_and_one_buffer_per_connection():
    made = encoder()
    made.set_account(1, b"OTHERKEY", b"x" * 80, 5)
    rows = [(i % 2, 0, i.to_bytes(16, "big"), i + 1, 0, 1, 0, False) for i in range(20)]
    bursts = made.encode_rows(rows, 1700000000000)
    assert [b[0] for b in bursts] == [3, 5]
    for connection, buffer, ids, slots in bursts:
        parity = 0 if connection == 3 else 1
        assert list(array("I", slots)) == list(range(parity, 20, 2))
        sent = [json.loads(f) for f in frames(buffer)]
        assert [s["id"] for s in sent] == names(ids) == [i.to_bytes(16, "big").hex() for i in array("I", slots)]
    # a secret longer than a hash block is hashed first (RFC 2104)
    params = json.loads(frames(bursts[1][1])[0])["params"]
    signature = params.pop("signature")
    assert signature == hmac.new(b"x" * 80, ws_signed_text(params).encode(), hashlib.sha256).hexdigest()


def test_masks_differ_from_frame_to_frame():
    [(_, buffer, _, _)] = encoder().encode_rows([(0, 0, bytes(16), 1, 0, 1, 0, False)] * 50, 1700000000000)
    size = int.from_bytes(buffer[2:4], "big") + 8
    assert len({buffer[i + 4 : i + 8] for i in range(0, len(buffer), size)}) == 50


def test_orders_are_read_from_the_columns():
    made, cols = encoder(), Columns()
    cid = bytes(range(16))
    slots = [cols.add_order(cid), cols.add_order(cid[::-1])]
    for slot in slots:
        row = {
            "order_qty": 12,
            "limit_px": 650001 if slot == slots[0] else 0,
            "account": 0,
            "instrument": 0,
            "side": -1,
            "position_side": 2,
            "reduce_only": 0,
        }
        cols.put(7, slot, order_row(cols.get(7, slot), **row))
    [(connection, buffer, ids, sent)] = made.encode(cols, array("I", slots[::-1]), 1700000000000)
    assert (connection, ids, list(array("I", sent))) == (3, cid[::-1] + cid, slots[::-1])
    first, second = (json.loads(f)["params"] for f in frames(buffer))
    assert (first["type"], second["type"], second["price"]) == ("MARKET", "LIMIT", "65000.1")
    assert {first["quantity"], first["positionSide"], first["side"]} == {"0.012", "SHORT", "SELL"}
    assert made.encode(cols, array("I"), 1) == []
    with pytest.raises(ValueError, match="does not exist"):
        made.encode(cols, array("I", [max(slots) + 1]), 1)


ORDER = struct.Struct("=16s13q3IiHbBBBBBB7x")


def order_row(raw: bytes, **fields) -> bytes:
    """One packed order row of ``copyd/_fast/columns.pxd`` with some fields set."""
    names = [
        "cid",
        "order_qty",
        "limit_px",
        "cum_qty",
        "cost_e8",
        "exec_qty",
        "exec_cost_e8",
        "fee_e8",
        "reserve_e8",
        "ref_px",
        "ts_event",
        "ts_decided",
        "seq",
        "venue_order_id",
        "leg",
        "account",
        "plan",
        "code",
        "instrument",
        "side",
        "kind",
        "state",
        "attempt",
        "position_side",
        "reduce_only",
        "replanned",
    ]
    row = dict(zip(names, ORDER.unpack(raw), strict=True)) | fields
    return ORDER.pack(*(row[name] for name in names))


@pytest.mark.parametrize(
    "row",
    [
        (1, 0, bytes(16), 1, 0, 1, 0, False),
        (0, 1, bytes(16), 1, 0, 1, 0, False),
        (0, 0, bytes(16), 0, 0, 1, 0, False),
        (0, 0, bytes(16), 1, -1, 1, 0, False),
        (0, 0, bytes(15), 1, 0, 1, 0, False),
        (0, 0, bytes(16), 1 << 62, 0, 1, 0, False),
    ],
)
def test_an_order_that_cannot_be_sent_is_an_error_and_leaves_nothing_behind(row):
    made = encoder(symbol="BTCUSDT", price_decimals=1, tick=1, qty_decimals=3, lot=10)
    good = (0, 0, bytes(16), 1, 0, 1, 0, False)
    with pytest.raises(ValueError):
        made.encode_rows([good, row], 1)
    [(_, buffer, ids, _)] = made.encode_rows([good], 1)
    assert len(frames(buffer)) == len(ids) // 16 == 1


def test_no_representation_shows_a_secret():
    made = encoder()
    assert SECRET.decode() not in repr(made) + repr(KEY) + str(KEY)
    for holder in (made, KEY):
        with pytest.raises(TypeError):
            pickle.dumps(holder)
    with pytest.raises(ValueError) as caught:
        made.set_account(1, b'bad"' + API_KEY, SECRET, 0)
    assert "TESTKEY" not in str(caught.value)


def test_status_request_is_signed_and_names_the_order():
    request = json.loads(status_request(KEY, "BTCUSDT", "ab" * 16, 1700000000000, 2000))
    assert request["id"] == "q-" + "ab" * 16 and request["method"] == "order.status"
    params = request["params"]
    signature = params.pop("signature")
    assert signature == KEY.sign(ws_signed_text(params).encode())


@given(value=st.integers(-(10**17), 10**17), decimals=st.integers(0, 18))
def test_decimal_text_round_trips_exactly(value, decimals):
    text = format_scaled(value, decimals)
    assert parse_scaled(text, decimals) == parse_scaled(text.encode(), decimals) == value


@pytest.mark.parametrize(
    ("text", "decimals", "step", "expected"),
    [
        ("7100.50", 1, 1, 71005),
        ("0.010", 3, 1, 10),
        ("-0.5", 1, 5, -1),
        ("1", 3, 1, 1000),
        ("00012.0", 0, 1, 12),
        (".5", 1, 1, 5),
        ("0.00000", 1, 1, 0),
    ],
)
def test_decimal_text_to_steps(text, decimals, step, expected):
    assert parse_steps(text, decimals, step) == expected


@pytest.mark.parametrize("text", ["", "-", ".", "1e3", "NaN", "1.2.3", " 1", "1,0", "0x1", "٣", "9" * 19, "0.001", "0.3"])
def test_what_is_no_exact_multiple_is_an_error_never_a_rounding(text):
    with pytest.raises(ValueError):
        parse_steps(text, 2, 20)


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [("1.23456789", 4, 12345), ("-1.99999", 2, -199), ("7", 3, 7000), ("7.", 3, 7000), ("0.000000001", 8, 0), ("1.50", 2, 150)],
)
def test_averages_are_cut_toward_zero(text, places, expected):
    assert cut_scaled(text, places) == cut_scaled(text.encode(), places) == expected


@pytest.mark.parametrize("text", ["", ".", "1e3", "1.2345x", "1.2.3", "x.1234567890"])
def test_cutting_is_only_for_decimals(text):
    with pytest.raises(ValueError):
        cut_scaled(text, 4)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 10**6), st.sampled_from([0, 650001, 650002]), st.sampled_from([-1, 1])),
        min_size=1, max_size=150),
)
def test_orders_rendered_together_are_those_rendered_alone(rows):
    """However many are signed at a time, and whatever texts they share: each frame is the twin's, in the order given."""
    made = encoder()
    keys = {account: Key(b"K%03d" % account * (1 + account), b"s%d" % account) for account in range(6)}
    for account, key in keys.items():
        key.reveal_to(lambda api_key, secret, account=account: made.set_account(account, api_key, secret, account % 2))
    orders = [(account, 0, at.to_bytes(16, "big"), qty, px, side, 0, px == 0) for at, (account, qty, px, side) in enumerate(rows)]
    seen = 0
    for connection, buffer, ids, slots in made.encode_rows(orders, 1_700_000_000_000):
        for frame, cid, slot in zip(frames(buffer), names(ids), array("I", slots), strict=True):
            account, _, raw, qty, px, side, position_side, reduce_only = orders[slot]
            assert (cid, account % 2) == (raw.hex(), connection)
            assert frame == place_text(
                keys[account], **BTC, cid=raw, order_qty=qty, limit_px=px, side=side, position_side=position_side,
                reduce_only=reduce_only, timestamp_ms=1_700_000_000_000, recv_window_ms=2000)
            seen += 1
    assert seen == len(rows)


def test_orders_of_one_connection_go_together_and_reductions_first_in_their_order():
    """Reductions are brought together within waves only, so that the largest exposure stays ahead; openings wholly; the
    connection that begins changes from event to event; no order is lost or doubled."""
    made, cols = encoder(), Columns()
    for account in range(8):
        made.set_account(account, b"KEY%d" % account, b"S%d" % account, account % 4)
    slots = [cols.add_order(at.to_bytes(16, "big")) for at in range(600)]
    for at, slot in enumerate(slots):
        cols.put(7, slot, order_row(cols.get(7, slot), order_qty=1, account=at % 8, side=1, kind=int(at < 400)))
    first = set()
    for turn in range(4):
        arranged = list(array("I", made.arrange(cols, array("I", slots), turn)))
        assert sorted(arranged) == sorted(slots)
        assert set(arranged[:64]) == set(slots[:64]) and set(arranged[64:320]) == set(slots[64:320])
        assert set(arranged[:400]) == set(slots[:400])
        lanes = [slots.index(slot) % 4 for slot in arranged[400:]]
        assert len([1 for a, b in itertools.pairwise(lanes) if a != b]) == 3
        for lane in range(4):
            mine = [slot for slot in arranged[400:] if slots.index(slot) % 4 == lane]
            assert mine == sorted(mine, key=slots.index)
        first.add(lanes[0])
    assert first == {0, 1, 2, 3}


def test_a_helper_thread_renders_the_same_orders():
    """Halves rendered side by side are what one thread renders, every connection's orders in order; an order that cannot be
    sent is told from either half, and the helper can be stopped and started again."""
    made, alone = encoder(), encoder()
    for one in (made, alone):
        for account in range(40):
            one.set_account(account, b"KEY%02d" % account, b"S%d" % account, account % 3)
    rows = [(at % 40, 0, at.to_bytes(16, "big"), at + 1, 650001, 1, 0, False) for at in range(1000)]

    def sent(one):
        lanes = {}
        for connection, buffer, ids, slots in one.encode_rows(rows, 1_700_000_000_000):
            lane = lanes.setdefault(connection, [])
            lane += zip(frames(buffer), names(ids), array("I", slots), strict=True)
        return lanes

    for _ in range(2):
        made.start_helper()
        made.start_helper()
        for _ in range(5):
            assert sent(made) == sent(alone)
        for bad in (3, 700):
            with pytest.raises(ValueError, match="has no key"):
                made.encode_rows([*rows[:bad], (77, *rows[bad][1:]), *rows[bad + 1 :]], 1)
        made.stop_helper()
        made.stop_helper()
        assert sent(made) == sent(alone)
