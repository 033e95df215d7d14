"""The wire in Python says what the compiled wire says, byte for byte."""

from __future__ import annotations

import random
from typing import Any

import pytest

from copyd._fast import sim_engine as eng
from copyd._fast.sim_wire import Listener as CompiledListener
from copyd.exchange.model import E8
from copyd.exchange.server import ExchangeServer, Options
from copyd.exchange.websocket import OPEN
from copyd.sim.wire import pywire
from copyd.sim.wire.pywire import Conn, PyWire

HELLO = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.9", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Pair:
    """One exchange, told by both wires; ``trader`` and ``other`` are accounts with a key."""

    def __init__(self) -> None:
        self.x = ExchangeServer(Options(makers=False))
        self.engine = self.x.engine
        self.python = PyWire(self.engine, self.x, self.x.wire.time_ns)
        self.keys = []
        for name in ("trader", "other"):
            account = self.engine.add_account(100_000 * E8)
            self.x.accounts.register(account, name)
            key, secret = self.x.accounts.issue(account, name)
            self.keys.append((account, key, secret))
            self.x.wire.add_key(key)
            self.python.add_key(key)
        self.compiled_sink, self.python_sink = Sink(), Sink()
        self.compiled_conn = self.x.wire.connection()
        self.compiled_conn.connection_made(self.compiled_sink)
        self.compiled_conn.data_received(HELLO)
        self.python_conn = Conn(self.python)
        self.python_conn.connection_made(self.python_sink)
        self.python_conn.phase = OPEN
        self.compiled_sink.written = b""

    def listen(self, combined: bool) -> None:
        """Both connections hear everything of both accounts and of the first instrument."""
        self.compiled_conn.combined = self.python_conn.combined = combined
        for account, _, _ in self.keys:
            for wire, make, conn in (
                (self.x.wire, CompiledListener, self.compiled_conn), (self.python, pywire.Listener, self.python_conn),
            ):
                wire.listeners[account] = []
                make(conn, b"key-%d" % account, wire.listeners[account])
        for wire, make, conn in (
            (self.x.wire, CompiledListener, self.compiled_conn), (self.python, pywire.Listener, self.python_conn),
        ):
            for place in (wire.book_listeners[0], wire.trade_listeners[0], wire.agg_listeners[0]):
                make(conn, b"public", place)

    def told(self) -> tuple[bytes, bytes]:
        """What each wire says of the engine's last call."""
        self.compiled_sink.written = self.python_sink.written = b""
        self.x.wire.drain()
        self.python.drain()
        self.x.wire.flush()
        self.python.flush()
        return self.compiled_sink.written, self.python_sink.written


@pytest.mark.parametrize("seed", range(12))
def test_events_and_orders_are_equal_byte_for_byte(seed: int) -> None:
    """Random histories of two accounts: orders of every kind, leverage, margin, transfers, funding, liquidation."""
    rng = random.Random(seed)
    pair = Pair()
    engine, said = pair.engine, 0
    pair.listen(combined=bool(seed % 2))
    hedge = seed % 3 == 0
    now = 1_700_000_000_000_000_000
    if hedge:
        for account, _, _ in pair.keys:
            engine.set_position_mode(account, True, now)
    for _ in range(150):
        now += rng.randrange(1, 10**9)
        account = pair.keys[rng.randrange(2)][0]
        what = rng.randrange(20)
        if what < 14:
            kind, tif = rng.choice([(eng.TYPE_LIMIT, rng.randrange(4)), (eng.TYPE_MARKET, 0)])
            side = rng.choice([1, -1])
            engine.place(
                account, 0, side, kind, tif, rng.randrange(1, 500), 600_000 + rng.randrange(-300, 300), not hedge and what == 0,
                False, rng.choice([1, 2]) if hedge else 0, rng.randbytes(8).hex().encode(), now)
        elif what == 14:
            engine.cancel_all(account, -1, now)
        elif what == 15:
            engine.set_leverage(account, rng.randrange(2), rng.randrange(1, 60), now)
        elif what == 16:
            engine.transfer(account, rng.randrange(-1_000, 5_000) * E8, now)
        elif what == 17:
            engine.apply_funding(0, rng.randrange(-50_000, 50_000), now)
        elif what == 18:
            engine.set_margin_type(account, 0, rng.randrange(2), now)
        else:
            engine.set_mark(0, 600_000 + rng.randrange(-60_000, 60_000), now)
        compiled, python = pair.told()
        assert python == compiled
        said += len(compiled)
    assert said > 10_000
    slots = [order[0] for order in engine.orders_after(-1, 10_000)]
    for slot in slots:
        for result in (False, True):
            for times in (False, True):
                assert pair.python.order_json(slot, result, times) == pair.x.wire.order_json(slot, result, times)
    assert slots


GOOD = {b"symbol": b"BTCUSDT", b"side": b"BUY", b"type": b"LIMIT", b"timeInForce": b"IOC", b"quantity": b"0.010",
        b"price": b"60000.0", b"newClientOrderId": b"abc", b"newOrderRespType": b"RESULT"}
WRONG = [
    {}, {b"symbol": None}, {b"symbol": b"NOPE"}, {b"side": None}, {b"side": b"HOLD"}, {b"type": None}, {b"type": b"STOP"},
    {b"type": b"GUESS"}, {b"timeInForce": None}, {b"timeInForce": b"GTD"}, {b"quantity": None}, {b"quantity": b"x"},
    {b"quantity": b"0"}, {b"quantity": b"0.0001"}, {b"price": None}, {b"price": b"-1"}, {b"price": b"60000.01"},
    {b"reduceOnly": b"maybe"}, {b"reduceOnly": b"true"}, {b"newClientOrderId": b""}, {b"newClientOrderId": b"x" * 37},
    {b"newClientOrderId": b"a b"}, {b"newOrderRespType": b"FULL"}, {b"positionSide": b"LONG"}, {b"positionSide": b"UP"},
    {b"selfTradePreventionMode": b"SOME"}, {b"priceMatch": b"OPPONENT"}, {b"type": b"MARKET", b"timeInForce": b"GTX"},
    {b"type": b"MARKET", b"timeInForce": None, b"price": None}, {b"closePosition": b"true", b"quantity": None},
]


@pytest.mark.parametrize("change", WRONG)
def test_a_request_is_refused_for_the_same_reason(change: dict[bytes, bytes | None]) -> None:
    """The same code, naming the same parameter."""
    params = {name: value for name, value in (GOOD | change).items() if value is not None}
    pair = Pair()
    key = pair.keys[0][1]
    compiled, python = pair.x.wire.place(key, dict(params)), pair.python.place(key, dict(params))
    assert (python[0] < 0, python[1]) == (compiled[0] < 0, compiled[1])
    if compiled[0] < 0:
        assert python[0] == compiled[0]
    else:
        assert python[2] == compiled[2]


def test_signatures_and_stamps_are_judged_alike() -> None:
    """Good, forged, old, early, without a key, without a signature."""
    import hashlib
    import hmac

    pair = Pair()
    _, key, secret = pair.keys[0]
    now_ms = pair.x.wire.time_ns() // 10**6
    base = {"symbol": "BTCUSDT", "apiKey": key.api_key.decode(), "recvWindow": "5000", "timestamp": str(now_ms)}
    for change in (
        {}, {"timestamp": str(now_ms - 60_000)}, {"timestamp": str(now_ms + 60_000)}, {"timestamp": "x"}, {"recvWindow": "70000"},
        {"apiKey": "short"}, {"apiKey": "a" * 64}, {"signature": "00"}, {"timestamp": None}, {"signature": None},
    ):
        params = {name: value for name, value in (base | change).items() if value is not None and name != "signature"}
        text = "&".join(f"{name}={value}" for name, value in sorted(params.items()))
        signature = change.get("signature", hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest())
        if signature is not None:
            params["signature"] = signature
        compiled, python = pair.x.wire.open_params(pair.compiled_conn, params), pair.python.open_params(pair.python_conn, params)
        assert (python[0] is None, python[1]) == (compiled[0] is None, compiled[1]), change


def test_the_tail_of_an_answer_counts_alike() -> None:
    """Rate limits as JSON, and without them."""
    pair = Pair()
    key = pair.keys[0][1]
    pair.python_conn.meter = pair.compiled_conn.meter
    for asked in (None, key):
        assert pair.python.limits_json(pair.python_conn, asked) == pair.x.wire.limits_json(pair.compiled_conn, asked)
    pair.python_conn.rate_limits = pair.compiled_conn.rate_limits = False
    assert pair.python.limits_json(pair.python_conn, key) == pair.x.wire.limits_json(pair.compiled_conn, key) == b"}"
