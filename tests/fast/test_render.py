"""The compiled renderer splices orders into templates: what it gives is their text, signed as the standard library signs."""

import base64
import hashlib
import hmac
import http.client
import io
import json
import pickle
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from copyd._fast import hashing
from copyd._fast.columns import Columns
from copyd._fast.encode import Encoder
from copyd._fast.render import BODY, CID, KEY, LENGTH, PASS, PX, QTY, SIGN, TIME, Renderer
from copyd.core.rows import OrderRow
from copyd.venues.binance_usdm.signing import frames as binance_frames
from copyd.venues.binance_usdm.signing import place_text
from copyd.venues.common.instruments import Instrument, shortest
from copyd.venues.common.signing import Key
from copyd.venues.common.templates import teach
from copyd.venues.common.venue import Order

STAMP = 1_700_000_000_000
BTC = (1, 1, 3, 1)  # price decimals, tick, quantity decimals, lot
MARKET = (b'{"id":"', CID, b'","sz":"', QTY, b'"}')
LIMIT = (b'{"id":"', CID, b'","sz":"', QTY, b'","px":"', PX, b'"}')


def keys(account):
    """(API key, secret, passphrase) of an account; some secrets are longer than a hash block."""
    return b"KEY%d" % account * (1 + account % 3), b"s%d" % account * (1 + account % 40), b"pass phrase %d" % account


def payloads(buffer):
    """Frames of a client, back to back, as an independent reader has them."""
    reader = StreamReader()
    reader.feed_data(buffer)
    reader.feed_eof()
    found = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=True)
        with pytest.raises(StopIteration) as done:
            next(parser)
        frame = done.value.value
        assert frame.opcode is Opcode.TEXT and frame.fin
        found.append(bytes(frame.data))
    return found


def requests(buffer):
    """HTTP requests, back to back, as (request line, headers, body)."""
    stream, found = io.BytesIO(buffer), []
    while line := stream.readline():
        headers = http.client.parse_headers(stream)
        found.append((line, headers, stream.read(int(headers["Content-Length"]))))
    return found


def renderer(target="frame", accounts=1, signature="hex"):
    made = Renderer(target, 7, signature)
    made.set_instrument(0, *BTC)
    made.set_shape(0, 1, False, 0, False, MARKET)
    made.set_shape(0, 1, True, 0, False, LIMIT)
    for account in range(accounts):
        made.set_account(account, *keys(account))
    return made


def spliced(template, values, body=b""):
    """A template with its values: what the renderer must give, in one line of Python."""
    return b"".join(
        part if isinstance(part, bytes) else body if part == BODY else b"%d" % (STAMP + part[1]) if isinstance(part, tuple)
        else values[part] for part in template
    )  # fmt: skip


def expected(row, instrument, shape, signature):
    """Text and body of one row."""
    account, _, cid, qty, px, _, _, _ = row
    text, signed, body = shape
    price_decimals, tick, qty_decimals, lot = instrument
    api_key, secret, passphrase = keys(account)
    values = {QTY: shortest(qty * lot, qty_decimals).encode(), PX: shortest(px * tick, price_decimals).encode(),
              CID: cid.hex().encode(), TIME: b"%d" % STAMP, KEY: api_key, PASS: passphrase}
    inner = spliced(body, values)
    digest = hmac.digest(secret, spliced(signed, values, inner), hashlib.sha256)
    values |= {SIGN: digest.hex().encode() if signature == "hex" else base64.b64encode(digest), LENGTH: b"%d" % len(inner)}
    return spliced(text, values) + inner


LITERALS = st.binary(max_size=70)
COMMON = [QTY, CID, KEY, TIME]


def mixed(draw, needed, others):
    """A template with literals and fields in any order, the ``needed`` ones among them."""
    fields = draw(st.permutations(needed + draw(st.lists(st.sampled_from(others), max_size=6))))
    parts = [draw(LITERALS)]
    for field in fields:
        parts += [(TIME, draw(st.integers(0, 86_400_000))) if field == TIME and draw(st.booleans()) else field, draw(LITERALS)]
    return tuple(parts)


@st.composite
def shapes(draw, target, limit):
    """(text, signed, body) of an order that has what it needs."""
    price = [PX] if limit else []
    signs = draw(st.booleans())
    body = mixed(draw, [], COMMON + price) if target == "request" and draw(st.booleans()) else ()
    lengths = [LENGTH] if target == "request" else []
    text = mixed(draw, [QTY, CID, *price] + ([SIGN] if signs else []), [*COMMON, PASS, *price, *lengths])
    signed = mixed(draw, draw(st.sampled_from([[], [CID]])), [*COMMON, PASS, BODY, *price]) if signs else ()
    return text, signed, body


@st.composite
def worlds(draw):
    """A renderer's target and encoding, instruments with shapes, and rows of them."""
    target, signature = draw(st.sampled_from(["frame", "request"])), draw(st.sampled_from(["hex", "base64"]))
    instruments = draw(st.lists(st.tuples(st.integers(0, 18), st.sampled_from([1, 5, 25]), st.integers(0, 18),
                                          st.sampled_from([1, 2, 10])), min_size=1, max_size=3))  # fmt: skip
    made = {}
    for at in range(len(instruments)):
        for kind in draw(st.lists(st.tuples(st.sampled_from([1, -1]), st.booleans(), st.integers(0, 2), st.booleans()),
                                  min_size=1, max_size=3, unique=True)):  # fmt: skip
            made[at, *kind] = draw(shapes(target, kind[1]))
    rows = [
        (draw(st.integers(0, 4)), at, draw(st.binary(min_size=16, max_size=16)), draw(st.integers(1, 10**15)),
         draw(st.integers(1, 10**15)) if limit else 0, side, position_side, reduce_only)
        for at, side, limit, position_side, reduce_only in draw(st.lists(st.sampled_from(sorted(made)), max_size=12))
    ]  # fmt: skip
    return target, signature, instruments, made, rows * draw(st.sampled_from([1, 1, 7]))


@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_what_is_rendered_is_the_template_with_its_values(world):
    """Whatever the texts, targets and rows: each order's bytes are the template's, signed as ``hmac`` signs; one burst
    per account, accounts as they come first, each account's orders in the order given."""
    target, signature, instruments, made, rows = world
    kernel = Renderer(target, 11, signature)
    for at, instrument in enumerate(instruments):
        kernel.set_instrument(at, *instrument)
    for kind, (text, signed, body) in made.items():
        kernel.set_shape(*kind, text, signed=signed, body=body)
    for account in range(5):
        kernel.set_account(account, *keys(account))
    bursts = kernel.render_rows(rows, STAMP)
    assert [burst[0] for burst in bursts] == list(dict.fromkeys(row[0] for row in rows))
    for account, buffer, ids, slots in bursts:
        mine = [slot for slot, row in enumerate(rows) if row[0] == account]
        assert list(array("I", slots)) == mine
        assert ids == b"".join(rows[slot][2] for slot in mine)
        want = []
        for slot in mine:
            _, at, _, _, px, side, position_side, reduce_only = rows[slot]
            want.append(expected(rows[slot], instruments[at], made[at, side, px > 0, position_side, reduce_only], signature))
        if target == "frame":
            assert payloads(buffer) == want
        else:
            assert buffer == b"".join(want)


@pytest.mark.parametrize("size", [41, 124, 125, 126, 127, 4095, 4096, 65534, 65535])
def test_a_frame_has_the_shortest_length_that_its_text_allows(size):
    """7 bits up to 125 bytes, else 16 bits; the text is whole at every border."""
    made = renderer(accounts=2)
    made.set_shape(0, 1, False, 0, False, (CID, b"x" * (size - 33), QTY))
    rows = [(account, 0, bytes(16), 7000, 0, 1, 0, False) for account in (0, 1)]
    for _, buffer, *_ in made.render_rows(rows, 1):
        assert payloads(buffer) == [b"0" * 32 + b"x" * (size - 33) + b"7"]
        assert len(buffer) == size + (6 if size < 126 else 8)


@pytest.mark.parametrize("target", ["frame", "request"])
def test_a_text_that_is_too_long_is_an_error_and_leaves_nothing_behind(target):
    """What exceeds 65535 bytes, or 4096 where it is signed, is told when it is rendered, or before, when no order could fit."""
    made = renderer(target)
    made.set_shape(0, -1, False, 0, False, (CID, b"x" * (65535 - 33), QTY))
    with pytest.raises(ValueError, match="longer than 65535"):
        made.render_rows([(0, 0, bytes(16), 7, 0, 1, 0, False), (0, 0, bytes(16), 17, 0, -1, 0, False)], 1)
    made.set_shape(0, -1, False, 0, False, (CID, QTY, SIGN), signed=(b"x" * 4095, QTY))
    with pytest.raises(ValueError, match="signs than 4096"):
        made.render_rows([(0, 0, bytes(16), 17, 0, -1, 0, False)], 1)
    [(_, buffer, ids, _)] = made.render_rows([(0, 0, bytes(16), 2000, 0, -1, 0, False)], 1)
    assert len(ids) == 16 and len(buffer) in (6 + 32 + 1 + 64, 32 + 1 + 64)
    for signed in ((), (b"x" * 4097,)):
        with pytest.raises(ValueError, match="longer than"):
            made.set_shape(0, -1, False, 0, False, (CID, QTY, b"x" * 65536, *((SIGN,) if signed else ())), signed=signed)


@pytest.mark.parametrize("implementation", hashing.available())
def test_an_order_is_signed_alike_by_every_implementation(implementation):
    """The key's states and the signature come from the hash that is chosen, and no choice changes a byte."""

    def made():
        kernel = renderer("request", 9, "base64")
        kernel.set_shape(0, 1, True, 0, False, (*LIMIT, SIGN), signed=(KEY, *LIMIT, CID, PASS))
        return kernel.render_rows([(n % 9, 0, bytes([n] * 16), 10 ** (n % 12), 650001, 1, 0, False) for n in range(100)], STAMP)

    want = made()
    before = hashing.choose(implementation)
    try:
        assert made() == want
    finally:
        hashing.choose(before)


def test_many_accounts_in_any_order_and_gone_again():
    """Tables grow as keys arrive; each order is signed with its account's key; an account without a key cannot be rendered."""
    made = Renderer("frame", 3, "base64")
    made.set_instrument(5, *BTC)
    shape = ((KEY, b"|", CID, b"|", QTY, b"|", SIGN), (b"t", TIME, CID, QTY), ())
    made.set_shape(5, -1, False, 2, True, shape[0], signed=shape[1])
    accounts = [5000, 70, 1, 300, *range(1000, 1400)]
    for account in accounts:
        made.set_account(account, *keys(account))
    rows = [(account, 5, bytes([part]) * 16, 3 + part, 0, -1, 2, True) for part in range(3) for account in accounts]
    bursts = made.render_rows(rows, STAMP)
    assert [burst[0] for burst in bursts] == accounts
    for at, (_, buffer, ids, slots) in enumerate(bursts):
        mine = [at, at + len(accounts), at + 2 * len(accounts)]
        assert list(array("I", slots)) == mine and ids == b"".join(rows[slot][2] for slot in mine)
        assert payloads(buffer) == [expected(rows[slot], BTC, shape, "base64") for slot in mine]
    made.forget_account(70)
    made.forget_account(10**9)
    for account in (70, 71, 10**6):
        with pytest.raises(ValueError, match=f"account {account} has no key"):
            made.render_rows([(1, *rows[0][1:]), (account, *rows[0][1:])], STAMP)
    assert [burst[0] for burst in made.render_rows([(1, *rows[0][1:])], STAMP)] == [1]
    made.set_account(70, *keys(71))
    [(_, buffer, _, _)] = made.render_rows([(70, *rows[0][1:])], STAMP)
    assert payloads(buffer) == [expected((71, *rows[0][1:]), BTC, shape, "base64")]


def test_masks_differ_from_frame_to_frame():
    [(_, buffer, _, _)] = renderer().render_rows([(0, 0, bytes(16), 1, 0, 1, 0, False)] * 50, STAMP)
    size = len(buffer) // 50
    assert len({buffer[at + 2 : at + 6] for at in range(0, len(buffer), size)}) == 50


def test_orders_are_read_from_the_columns():
    """``render`` reads the order table as ``render_rows`` reads rows, in the order of the slots."""
    made, cols = renderer(accounts=2), Columns()
    slots = []
    for at in range(6):
        slots.append(cols.add_order(bytes([at] * 16)))
        row = OrderRow(bytes([at] * 16), order_qty=12 + at, limit_px=650001 if at % 2 else 0, account=at // 3, side=1)
        cols.put(7, slots[-1], row.pack())
    bursts = made.render(cols, array("I", slots[::-1]), STAMP)
    assert [(account, list(array("I", sent))) for account, _, _, sent in bursts] == [(1, slots[:2:-1]), (0, slots[2::-1])]
    first = json.loads(payloads(bursts[0][1])[0])
    assert first == {"id": "05" * 16, "sz": "0.017", "px": "65000.1"}
    assert made.render(cols, array("I"), 1) == []
    with pytest.raises(ValueError, match="does not exist"):
        made.render(cols, array("I", [max(slots) + 1]), 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 0, bytes(16), 1, 0, 1, 0, False), "account 1 has no key"),
        ((0, 1, bytes(16), 1, 0, 1, 0, False), "instrument 1 is not known"),
        ((0, 0, bytes(16), 0, 0, 1, 0, False), "positive quantity"),
        ((0, 0, bytes(16), 1, -1, 1, 0, False), "no negative price"),
        ((0, 0, bytes(16), 1, 0, 0, 0, False), "has a side"),
        ((0, 0, bytes(16), 1, 0, 1, 3, False), "position side"),
        ((0, 0, bytes(15), 1, 0, 1, 0, False), "has 16 bytes"),
        ((0, 0, bytes(16), 1 << 62, 0, 1, 0, False), "too large"),
        ((0, 0, bytes(16), 1, 0, -1, 0, False), "no text for a market order, sell, position side 0"),
        ((0, 0, bytes(16), 1, 5, 1, 2, True), "no text for a limit order, buy, position side 2, reduce-only"),
    ],
)
def test_an_order_that_cannot_be_sent_is_an_error_and_leaves_nothing_behind(row, message):
    """Nothing of the call is rendered, the message names why, and the next call gives its own orders only."""
    made = renderer()
    made.set_instrument(0, 1, 1, 3, 10)
    good = (0, 0, bytes(16), 1, 0, 1, 0, False)
    for rows in ([good, row], [row, good], [good] * 40 + [row]):
        with pytest.raises(ValueError, match=message):
            made.render_rows(rows, STAMP)
        [(account, buffer, ids, slots)] = made.render_rows([good], STAMP)
        assert (account, payloads(buffer)) == (0, [b'{"id":"' + b"00" * 16 + b'","sz":"0.01"}'])
        assert (ids, slots) == (bytes(16), bytes(4))


@pytest.mark.parametrize(
    ("target", "text", "more", "message"),
    [
        ("frame", MARKET[:-2], {}, "needs QTY and CID"),
        ("frame", LIMIT, {}, "PX exactly where"),
        ("frame", (*MARKET, SIGN), {}, "one SIGN where"),
        ("frame", MARKET, {"signed": (CID,)}, "one SIGN where"),
        ("frame", (*MARKET, SIGN, SIGN), {"signed": (CID,)}, "one SIGN where"),
        ("frame", MARKET, {"body": (CID,)}, "no body"),
        ("frame", (*MARKET, LENGTH), {}, "the text cannot hold LENGTH"),
        ("request", (*MARKET, BODY), {}, "the text cannot hold BODY"),
        ("request", MARKET, {"body": (PASS,)}, "the body cannot hold PASS"),
        ("request", (*MARKET, SIGN), {"signed": (SIGN,)}, "what is signed cannot hold SIGN"),
        ("frame", (*MARKET, 17), {}, "is made of bytes, fields"),
        ("frame", (*MARKET, "text"), {}, "is made of bytes, fields"),
        ("frame", (*MARKET, (CID, 1)), {}, "only TIME may be moved"),
        ("frame", (*MARKET, (TIME, -1)), {}, "only TIME may be moved"),
        ("frame", (*MARKET, *(TIME,) * 30), {}, "more than 31 fields"),
    ],
)
def test_a_template_that_is_wrong_is_refused_and_the_one_before_stays(target, text, more, message):
    made = renderer(target)
    row = (0, 0, bytes(16), 1, 0, 1, 0, False)
    with pytest.raises(ValueError, match=message):
        made.set_shape(0, 1, False, 0, False, text, **more)
    [(_, buffer, _, _)] = made.render_rows([row], STAMP)
    want = b'{"id":"' + b"00" * 16 + b'","sz":"0.001"}'
    assert (payloads(buffer) if target == "frame" else [buffer]) == [want]


def test_other_wrong_input_has_a_message():
    made = renderer()
    for args in ((0, 1, 0, 3, 1), (0, 19, 1, 3, 1), (0, 1, 1, 3, 0)):
        with pytest.raises(ValueError, match="tick and lot must be positive"):
            made.set_instrument(*args)
    with pytest.raises(ValueError, match="out of range"):
        made.set_instrument(70_000, *BTC)
    with pytest.raises(ValueError, match="instrument 3 is not known"):
        made.set_shape(3, 1, False, 0, False, MARKET)
    for side, position_side in ((0, 0), (2, 0), (1, 3)):
        with pytest.raises(ValueError, match="a shape has a side"):
            made.set_shape(0, side, False, position_side, False, MARKET)
    for stamp in (-1, 10**16):
        with pytest.raises(ValueError, match="no time in ms"):
            made.render_rows([], stamp)
    with pytest.raises(ValueError, match="neither"):
        Renderer("text", 1)
    with pytest.raises(ValueError, match="neither"):
        Renderer("frame", 1, "octal")


def test_no_representation_shows_a_secret():
    """No repr, no pickle, and no message holds a key's parts; a key that a text could not hold is refused."""
    made = renderer()
    assert repr(made) == "<Renderer of frames>"
    with pytest.raises(TypeError):
        pickle.dumps(made)
    for key, secret, passphrase in (
        (b'TESTKEY"', b"s", b""), (b"", b"s", b""), (b"TESTKEY" * 20, b"s", b""), (b"TESTKEY", b"", b""),
        (b"TESTKEY", b"s", b'TEST"'), (b"TESTKEY", b"s", b"TEST\r\nX: y"), (b"TESTKEY", b"s", b"TEST" * 17),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            made.set_account(1, key, secret, passphrase)
        assert "TEST" not in str(caught.value)
        with pytest.raises(ValueError, match="account 1 has no key"):
            made.render_rows([(1, 0, bytes(16), 1, 0, 1, 0, False)], STAMP)


# --- readable twins ---------------------------------------------------------------------------------------------------
def instrument(price_decimals=1, tick=1, qty_decimals=3, lot=1):
    return Instrument(
        index=2, symbol="BTCUSDT", status="TRADING", quote_asset="USDT", margin_asset="USDT", price_decimals=price_decimals,
        tick=tick, qty_decimals=qty_decimals, lot=lot, lot_min=1, lot_max=10**9, market_lot_min=1, market_lot_max=10**9,
        min_notional_e8=0, value_mul=1, value_div=1, price_up_ppm=0, price_down_ppm=0, market_take_bound_ppm=0, orders_max=0)


def usdm(key, order, now_ms):
    """Binance's placement: signed inside the text."""
    item = order.instrument
    return place_text(
        key, symbol=item.symbol, price_decimals=item.price_decimals, tick=item.tick, qty_decimals=item.qty_decimals, lot=item.lot,
        cid=order.cid, order_qty=order.qty, limit_px=order.px, side=order.side, position_side=order.position_side,
        reduce_only=order.reduce_only, timestamp_ms=now_ms, recv_window_ms=2000)


def plain(key, order, now_ms):
    """A placement on a connection that has logged in, with a deadline."""
    item = order.instrument
    args = {"instIdCode": 10458, "side": "buy" if order.side > 0 else "sell", "ordType": "ioc" if order.px else "market",
            "sz": shortest(order.qty * item.lot, item.qty_decimals), "clOrdId": order.cid.hex()}
    if order.px:
        args["px"] = shortest(order.px * item.tick, item.price_decimals)
    if order.reduce_only:
        args["reduceOnly"] = True
    return json.dumps({"id": order.cid.hex(), "op": "order", "expTime": str(now_ms + 1500), "args": [args]}).encode()


def rest(key, order, now_ms):
    """A placement as a request: the body is signed, in base64, and the passphrase stands in a header."""
    item = order.instrument
    body = json.dumps({"symbol": item.symbol, "side": "buy" if order.side > 0 else "sell", "clientOid": order.cid.hex(),
                       "size": shortest(order.qty * item.lot, item.qty_decimals),
                       **({"price": shortest(order.px * item.tick, item.price_decimals)} if order.px else {})})
    signature = key.sign_base64(f"{now_ms}POST/orders{body}".encode())
    return (f"POST /orders HTTP/1.1\r\nHost: localhost\r\nACCESS-KEY: {key.api_key.decode()}\r\nACCESS-SIGN: {signature}\r\n"
            f"ACCESS-TIMESTAMP: {now_ms}\r\nACCESS-PASSPHRASE: {key.passphrase()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}").encode()


@settings(max_examples=40, deadline=None)
@given(
    twin=st.sampled_from([(usdm, "frame", "hex"), (plain, "frame", "hex"), (rest, "request", "base64")]),
    item=st.builds(instrument, st.integers(0, 8), st.sampled_from([1, 5, 25]), st.integers(0, 8), st.sampled_from([1, 10, 1000])),
    rows=st.lists(st.tuples(st.integers(0, 3), st.just(2), st.binary(min_size=16, max_size=16), st.integers(1, 10**9),
                            st.sampled_from([0, 1, 650001, 10**9]), st.sampled_from([1, -1]), st.integers(0, 2), st.booleans()),
                  min_size=1, max_size=40),
)  # fmt: skip
def test_a_taught_renderer_gives_its_twins_bytes(twin, item, rows):
    """Whatever the order: what a renderer gives that was taught by a twin is what the twin gives."""
    text, target, signature = twin
    made = Renderer(target, 5, signature)
    teach(made, text, item)
    for account in range(4):
        made.set_account(account, *keys(account))
    for account, buffer, _, slots in made.render_rows(rows, STAMP):
        want = [text(Key(*keys(account)), Order(account, item, *rows[slot][2:]), STAMP) for slot in array("I", slots)]
        assert (payloads(buffer) if target == "frame" else [line_up(*r) for r in requests(buffer)]) == (
            want if target == "frame" else [line_up(*requests(w)[0]) for w in want])
        assert target == "frame" or buffer == b"".join(want)


def line_up(line, headers, body):
    return line, tuple(headers.items()), body


def test_the_binance_encoder_and_a_taught_renderer_agree():
    """Two kernels, one text: the frames that the encoder signs are those of a renderer taught by the same twin."""
    item, encoder, made = instrument(), Encoder(2000, 7), Renderer("frame", 9)
    encoder.set_instrument(2, "BTCUSDT", *BTC)
    teach(made, usdm, item)
    for account in range(7):
        encoder.set_account(account, *keys(account)[:2], account)
        made.set_account(account, *keys(account))
    rows = [(n % 7, 2, n.to_bytes(16, "big"), n + 1, 650001 * (n % 2), 1 - n % 3 // 2 * 2, n % 3, n % 5 == 0) for n in range(200)]
    want = {(a, i): binance_frames(b) for a, b, i, _ in encoder.encode_rows(rows, STAMP)}
    assert {(a, i): payloads(b) for a, b, i, _ in made.render_rows(rows, STAMP)} == want


def test_only_the_kinds_that_were_taught_are_rendered():
    """A venue that has no text for some kind of order is taught without it; such an order is refused, the others are not."""

    def no_market_buys(key, order, now_ms):
        assert order.px or order.side < 0
        return plain(key, order, now_ms)

    made = Renderer("frame", 1)
    teach(made, no_market_buys, instrument(), [(1, True, 0, False), (-1, True, 0, False), (-1, False, 0, False)])
    made.set_account(0, *keys(0))
    for side, px in ((1, 5), (-1, 5), (-1, 0)):
        row = (0, 2, bytes(16), 7, px, side, 0, False)
        [(_, buffer, _, _)] = made.render_rows([row], STAMP)
        assert payloads(buffer) == [plain(Key(*keys(0)), Order(0, instrument(), *row[2:]), STAMP)]
    with pytest.raises(ValueError, match="instrument 2 has no text for a market order, buy"):
        made.render_rows([(0, 2, bytes(16), 7, 0, 1, 0, False)], STAMP)


def test_a_twin_whose_text_is_not_spliced_cannot_teach():
    """A text that depends on an order's values otherwise, a second signature, another encoding: told when it is taught."""
    for twin, target, message in (
        (lambda key, order, now_ms: plain(key, order, now_ms) + b"%d" % (order.qty % 7), "frame", "spliced"),
        (lambda key, order, now_ms: plain(key, order, now_ms) + b"%d" % (now_ms // 1000), "frame", "spliced"),
        (lambda key, order, now_ms: (key.sign(b"a") + key.sign(b"b")).encode(), "frame", "signed more than once"),
        (rest, "request", "signs in base64"),
    ):
        with pytest.raises(ValueError, match=message):
            teach(Renderer(target, 1), twin, instrument())
