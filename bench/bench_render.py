"""Orders from templates, venue by venue, beside the encoder that was written for one: ns per order, all in one interleaved run.

One order per account, as connections of one account each have it. The encoder's orders go to four connections, and for comparison
to one of each account: so many objects a renderer makes too.
``COPYD_BENCH_FOLLOWERS`` sets the size, ``COPYD_BENCH_ROUNDS`` how often each is called.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from copyd._fast.columns import Columns
from copyd._fast.encode import Encoder
from copyd._fast.render import Renderer
from copyd.core.rows import OrderRow
from copyd.venues.binance_usdm.signing import frames, place_text
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.signing import Key
from copyd.venues.common.templates import Twin, teach
from copyd.venues.common.venue import Order

FOLLOWERS = int(os.environ.get("COPYD_BENCH_FOLLOWERS", "200"))
ROUNDS = int(os.environ.get("COPYD_BENCH_ROUNDS", "20"))
STAMP = 1_700_000_000_000
PX = 650_001
ITEM = Instrument(
    index=0, symbol="BTCUSDT", status="TRADING", quote_asset="USDT", margin_asset="USDT", price_decimals=1, tick=1,
    qty_decimals=3, lot=1, lot_min=1, lot_max=10**9, market_lot_min=1, market_lot_max=10**9, min_notional_e8=0, value_mul=1,
    value_div=1, price_up_ppm=0, price_down_ppm=0, market_take_bound_ppm=0, orders_max=0, code=10458)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def numbers(order: Order) -> tuple[str, str]:
    """Quantity and price as text."""
    item = order.instrument
    return item.qty_text(order.qty), item.px_text(order.px)


def okx_like(key: Key, order: Order, now_ms: int) -> bytes:
    """A frame on a connection that has logged in, with a deadline."""
    qty, px = numbers(order)
    args = {"instIdCode": order.instrument.code, "tdMode": "isolated", "side": "buy" if order.side > 0 else "sell",
            "ordType": "ioc" if order.px else "market", "sz": qty, **({"px": px} if order.px else {}), "clOrdId": order.cid.hex()}
    return compact({"id": order.cid.hex(), "op": "order", "expTime": str(now_ms + 1_000), "args": [args]})


def bybit_like(key: Key, order: Order, now_ms: int) -> bytes:
    """A frame on a connection that has logged in, with time and receive window."""
    qty, px = numbers(order)
    args = {"category": "linear", "symbol": order.instrument.symbol, "side": "Buy" if order.side > 0 else "Sell",
            "orderType": "Limit" if order.px else "Market", "qty": qty,
            **({"price": px, "timeInForce": "IOC"} if order.px else {}), "positionIdx": order.position_side,
            "orderLinkId": order.cid.hex()}
    header = {"X-BAPI-TIMESTAMP": str(now_ms), "X-BAPI-RECV-WINDOW": "5000"}
    return compact({"reqId": order.cid.hex(), "header": header, "op": "order.create", "args": [args]})


def bitget_like(key: Key, order: Order, now_ms: int) -> bytes:
    """A request: its body is signed, in base64."""
    qty, px = numbers(order)
    body = compact({
        "symbol": order.instrument.symbol, "productType": "USDT-FUTURES", "marginMode": "isolated", "marginCoin": "USDT",
        "size": qty, **({"price": px} if order.px else {}), "side": "buy" if order.side > 0 else "sell",
        "orderType": "limit" if order.px else "market", "force": "ioc", "clientOid": order.cid.hex()}).decode()
    signature = key.sign_base64(f"{now_ms}POST/api/v2/mix/order/place-order{body}".encode())
    return (f"POST /api/v2/mix/order/place-order HTTP/1.1\r\nHost: api.bitget.com\r\nACCESS-KEY: {key.api_key.decode()}\r\n"
            f"ACCESS-SIGN: {signature}\r\nACCESS-TIMESTAMP: {now_ms}\r\nACCESS-PASSPHRASE: {key.passphrase()}\r\n"
            f"Content-Type: application/json\r\nlocale: en-US\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def binance(key: Key, order: Order, now_ms: int) -> bytes:
    """A frame that is signed inside its text."""
    item = order.instrument
    return place_text(
        key, symbol=item.symbol, price_decimals=item.price_decimals, tick=item.tick, qty_decimals=item.qty_decimals, lot=item.lot,
        cid=order.cid, order_qty=order.qty, limit_px=order.px, side=order.side, position_side=order.position_side,
        reduce_only=order.reduce_only, timestamp_ms=now_ms, recv_window_ms=2_000)


class Subject(NamedTuple):
    """What is measured: the call, the twin, and how its buffers are cut into texts."""

    call: Callable[[Columns, array[int], int], list[tuple[int, bytes, bytes, bytes]]]
    twin: Twin
    texts: Callable[[bytes], list[bytes]]


def secrets(account: int) -> tuple[bytes, bytes, bytes]:
    return b"key%061d" % account, b"%064d" % (account * 7), b"passphrase%02d" % (account % 100)


def unmasked(buffer: bytes) -> list[bytes]:
    """The text of one frame, of either length."""
    head = 8 if buffer[1] == 0x80 | 126 else 6
    return [bytes(c ^ buffer[head - 4 + (i & 3)] for i, c in enumerate(buffer[head:]))]


def subjects() -> dict[str, Subject]:
    """Everything that is measured, with every account's key."""
    encoder, lonely = Encoder(2_000, 1), Encoder(2_000, 1)
    for one in (encoder, lonely):
        one.set_instrument(0, ITEM.symbol, ITEM.price_decimals, ITEM.tick, ITEM.qty_decimals, ITEM.lot)
    found = {"binance encoder": Subject(encoder.encode, binance, frames),
             "  a connection each": Subject(lonely.encode, binance, frames)}
    renderers = []
    for name, twin, target, signature in (
        ("okx-like frame", okx_like, "frame", "hex"), ("bybit-like frame", bybit_like, "frame", "hex"),
        ("bitget-like request", bitget_like, "request", "base64"), ("binance by template", binance, "frame", "hex"),
    ):  # fmt: skip
        made = Renderer(target, 1, signature)
        teach(made, twin, ITEM)
        renderers.append(made)
        found[name] = Subject(made.render, twin, unmasked if target == "frame" else lambda buffer: [buffer])
    for account in range(FOLLOWERS):
        api_key, secret, passphrase = secrets(account)
        encoder.set_account(account, api_key, secret, account % 4)
        lonely.set_account(account, api_key, secret, account)
        for made in renderers:
            made.set_account(account, api_key, secret, passphrase)
    return found


def check(subject: Subject, orders: list[OrderRow], slots: array[int], cols: Columns) -> None:
    """Every order once, and a sample of them as the twin has them."""
    seen = []
    for _, buffer, _, sent in subject.call(cols, slots, STAMP):
        texts, places = subject.texts(buffer), array("I", sent)
        assert len(texts) == len(places)
        seen += places
        for text, place in list(zip(texts, places, strict=True))[:: max(1, len(places) // 20)]:
            row = orders[place]
            order = Order(row.account, ITEM, row.cid, row.order_qty, row.limit_px, row.side, 0, False)
            assert text == subject.twin(Key(*secrets(row.account)), order, STAMP)
    assert sorted(seen) == sorted(slots)


def test_orders_by_venue(benchmark: Any) -> None:
    """Every subject renders the same orders in turn, so that what disturbs one disturbs all; samples equal the twins' texts."""
    cols, found = Columns(), subjects()
    rows = [OrderRow(at.to_bytes(16, "big"), order_qty=at + 1, limit_px=PX, account=at, side=1) for at in range(FOLLOWERS)]
    slots = array("I", (cols.add_order(row.cid) for row in rows))
    for slot, row in zip(slots, rows, strict=True):
        cols.put(7, slot, row.pack())
    assert list(slots) == list(range(FOLLOWERS))
    for subject in found.values():
        check(subject, rows, slots, cols)
    took: dict[str, list[int]] = {name: [] for name in found}

    def one_round() -> None:
        for name, subject in found.items():
            begun = time.perf_counter_ns()
            bursts = subject.call(cols, slots, STAMP)
            took[name].append(time.perf_counter_ns() - begun)
            del bursts  # outside what is measured, as the pump lets go of them after the write

    gc.collect()
    gc.disable()
    try:
        benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=3)
    finally:
        gc.enable()
    for subject in found.values():
        check(subject, rows, slots, cols)
    base = statistics.median(took["binance encoder"])
    print()
    for name, times in took.items():
        ns, ratio = round(statistics.median(times) / FOLLOWERS), statistics.median(times) / base
        benchmark.extra_info[name] = {"ns_per_order": ns, "ratio": round(ratio, 2)}
        print(f"{name:20} {ns:6} ns per order  {ratio:5.2f} x the encoder  (fastest {round(min(times) / FOLLOWERS)} ns)")
