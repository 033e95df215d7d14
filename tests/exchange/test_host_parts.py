"""The parts of the host that stand alone: windows of time, WebSocket frames, the command around it."""

from __future__ import annotations

import asyncio
import pathlib
import random
import urllib.request
from collections import defaultdict
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.errors import UsageError
from copyd.exchange.host import Host, Options
from copyd.exchange.main import main, serve_host
from copyd.exchange.model import E8, INSTRUMENTS, Instrument, refined
from copyd.exchange.websocket import CLOSED, OPEN, TEXT, WebSocket, accepted, frame, refusal, unmask
from copyd.exchange.windows import KEYS_KEPT, Windows
from tests.exchange.plain_dialect import Dialect

MS = 10**6
HELLO = (
    b"GET /x?y=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
STEPS = st.lists(st.tuples(st.integers(0, 700), st.sampled_from("ab"), st.integers(1, 3)), max_size=60)


# -- windows ------------------------------------------------------------------------------------------------------------------
@given(STEPS, st.booleans(), st.integers(1, 6))
def test_never_more_than_the_limit_in_a_window_and_never_refused_without_need(
    steps: list[tuple[int, str, int]], sliding: bool, limit: int
) -> None:
    """Against the definition: what was taken within the period (or the period of the clock), per key, by brute force."""
    windows = Windows()
    windows.define("x", limit, 1_000, sliding)
    taken: dict[str, list[tuple[int, int]]] = defaultdict(list)
    now = 0
    for wait_ms, key, n in steps:
        now += wait_ms * MS
        since = now - 1_000 * MS if sliding else now - now % (1_000 * MS) - 1
        used = sum(k for at, k in taken[key] if at > since)
        assert windows.used("x", key, now) == used
        assert windows.left("x", key, now) == max(0, limit - used)
        wait = windows.take("x", key, now, n)
        assert (wait == 0) == (used + n <= limit)
        if wait == 0:
            taken[key].append((now, n))
        elif n <= limit:
            later = now + wait
            again = later - 1_000 * MS if sliding else later - later % (1_000 * MS) - 1
            assert sum(k for at, k in taken[key] if at > again) + n <= limit


def test_a_lifted_limit_counts_and_does_not_refuse() -> None:
    """"all" lifts every one; a name that is not there is said with those that are."""
    windows = Windows(frozenset({"all"}))
    windows.define("x", 1, 1_000)
    windows.check_lift()
    assert [windows.take("x", "k", 5) for _ in range(3)] == [0, 0, 0]
    assert windows.used("x", "k", 5) == 3
    wrong = Windows(frozenset({"y"}))
    wrong.define("x", 1, 1_000)
    with pytest.raises(UsageError, match=r"no such limit: y \(there are x\)"):
        wrong.check_lift()
    for name, count in (("y", 1), ("x", 0)):
        with pytest.raises(UsageError):
            windows.set(name, count)


@pytest.mark.parametrize("sliding", [False, True])
def test_what_is_given_back_can_be_taken_again_and_no_more(sliding: bool) -> None:
    """Giving back undoes the newest takings; what was taken in a window that is over is not given back twice."""
    windows = Windows()
    windows.define("x", 3, 1_000, sliding)
    assert [windows.take("x", "k", 1_000 * MS, n) for n in (1, 2, -2, 2)] == [0, 0, 0, 0]
    assert windows.left("x", "k", 1_100 * MS) == 0
    assert windows.take("x", "k", 2_500 * MS, -3) == 0
    assert windows.left("x", "k", 2_500 * MS) == 3
    assert windows.defined["x"].taken == 3


@pytest.mark.parametrize("sliding", [False, True])
def test_the_window_says_when_it_is_over_and_forgets_the_idle(sliding: bool) -> None:
    """A fixed window ends with the clock's period, a sliding one a period after its oldest mark; idle keys take no room."""
    windows = Windows()
    windows.define("x", 5, 1_000, sliding)
    windows.take("x", "k", 1_300 * MS)
    assert windows.reset_ns("x", "k", 1_400 * MS) == (2_300 if sliding else 2_000) * MS
    for n in range(KEYS_KEPT * 3):
        windows.take("x", n, (10_000 + n) * MS)
    assert len(windows._counts["x"]) <= KEYS_KEPT


# -- frames -------------------------------------------------------------------------------------------------------------------
class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written, self.closed = b"", False

    def get_extra_info(self, name: str) -> Any:
        return ("10.0.0.9", 1)

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class Plain(WebSocket):
    """Lets everybody in who asks for a WebSocket and keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.is_gone = False

    def clock_ns(self) -> int:
        return 7

    def let_in(self, method: str, headers: dict[str, str]) -> tuple[bytes, bool]:
        return (accepted(headers), True) if "sec-websocket-key" in headers else (refusal(400, b"no"), False)

    def opened(self) -> None: ...

    def text(self, payload: bytes) -> None:
        self.heard.append(payload)

    def lost(self) -> None:
        self.is_gone = True

    def touched(self) -> None: ...

    def read_over(self) -> None: ...

    def later(self, delay_s: float, action: Any) -> None:
        action()


def open_one() -> tuple[Plain, Sink]:
    conn, sink = Plain(), Sink()
    conn.connection_made(sink)
    conn.data_received(HELLO)
    assert conn.phase == OPEN and conn.path == "/x?y=1"
    sink.written = b""
    return conn, sink


def masked(head: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A client's frame."""
    whole = frame(head, payload)
    at = len(whole) - len(payload)
    return whole[:1] + bytes((whole[1] | 0x80,)) + whole[2:at] + mask + unmask(payload, mask)


@given(st.lists(st.binary(max_size=400) | st.just(bytes(70_000)), max_size=5), st.randoms(use_true_random=False))
def test_messages_arrive_whole_however_the_bytes_are_cut(messages: list[bytes], rng: random.Random) -> None:
    """Pieces of any size, messages in several frames, pings between them: every text once, in order, and a pong each."""
    data, pings = b"", 0
    for message in messages:
        if rng.random() < 0.5:
            data, pings = data + masked(0x89, b"p"), pings + 1
        cut = rng.randint(0, len(message))
        data += masked(TEXT, message) if rng.random() < 0.5 else masked(0x01, message[:cut]) + masked(0x80, message[cut:])
    conn, sink = open_one()
    while data:
        n = rng.randint(1, max(1, len(data)))
        conn.data_received(data[:n])
        data = data[n:]
    conn.flush()
    assert conn.heard == messages
    assert sink.written == frame(0x8A, b"p") * pings


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    """Rubbish before or after the handshake closes the connection, or waits for more."""
    conn, _ = open_one()
    conn.data_received(data)
    fresh = Plain()
    fresh.connection_made(Sink())
    fresh.data_received(data)
    fresh.data_received(b"\r\n\r\n")
    assert fresh.phase in (CLOSED, OPEN)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"hi"), 1002),  # not masked
        (masked(0xC1, b"hi"), 1002),  # an extension nobody agreed to
        (masked(0x82, b"hi"), 1003),
        (masked(0x80, b"hi"), 1002),  # continues nothing
        (masked(0x09, b"hi"), 1002),  # a ping in pieces
        (masked(0x8B, b"hi"), 1002),
        (bytes((0x81, 0xFF)) + (1 << 40).to_bytes(8, "big") + bytes(4), 1009),
    ],
)
def test_what_breaks_the_protocol_closes_with_its_code(data: bytes, code: int) -> None:
    """And nothing is heard."""
    conn, sink = open_one()
    conn.data_received(data)
    assert sink.written[:1] == b"\x88" and int.from_bytes(sink.written[2:4], "big") == code
    assert conn.heard == [] and sink.closed


def test_a_clients_close_is_answered_and_a_cut_loses_what_was_queued() -> None:
    """The close frame comes back; after ``abort`` nothing more leaves."""
    conn, sink = open_one()
    conn.data_received(masked(0x88, b"\x03\xe8") + masked(TEXT, b"late"))
    assert sink.written == frame(0x88, b"\x03\xe8") and conn.heard == [] and sink.closed
    conn, sink = open_one()
    conn.send(b"x")
    conn.abort()
    conn.flush()
    assert sink.written == b""
    conn.connection_lost(None)
    assert conn.is_gone


# -- the command ----------------------------------------------------------------------------------------------------------------
async def test_the_ready_file_says_where_everything_is(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It appears whole once all answers; the addresses are for people too."""
    ready, stop = tmp_path / "ready.json", asyncio.Event()
    running = asyncio.create_task(serve_host(Host(Options(), Dialect), str(ready), False, stop))
    async with asyncio.timeout(10):
        while not ready.exists():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    at = orjson.loads(ready.read_bytes())
    assert {"dialect", "rest", "ws", "control", "ports", "pid", "seed", "limits_lifted"} <= at.keys()
    assert at["dialect"] == "plain"
    with await asyncio.to_thread(urllib.request.urlopen, at["control"] + "/healthz") as answer:
        assert orjson.loads(answer.read())["ports"] == at["ports"]
    stop.set()
    await running
    assert at["ws"] in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--idle-s", "5"], ["--dialect", "okx", "--batch-port", "0", "--batch-secret-file", "/nowhere"]]
)
def test_what_a_dialect_does_not_have_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and exit 2."""
    assert main([*arguments, "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- ticks and lots of one's own ----------------------------------------------------------------------------------------------
@given(
    spec=st.sampled_from(INSTRUMENTS), tick=st.sampled_from([0, E8 // 1000, E8 // 100, E8 // 20, E8 // 2]),
    lot=st.sampled_from([0, E8 // 10_000, E8 // 1000, E8 // 100, E8 // 10]),
)
def test_another_tick_and_lot_leave_the_market_as_it_is(spec: Instrument, tick: int, lot: int) -> None:
    """Prices and largest quantities stay what they were, to the new step; a lot's value per tick is exact; one lot may be traded;
    both steps are written whole."""
    found = refined(spec, tick, lot)
    tick, lot = tick or spec.tick_e8, lot or spec.lot_e8
    assert (found.tick_e8, found.lot_e8, found.min_qty) == (tick, lot, spec.min_qty)
    assert found.value_mul * E8 == tick * lot
    assert 0 <= spec.start_px * spec.tick_e8 - found.start_px * tick < tick
    assert 0 <= spec.max_qty * spec.lot_e8 - found.max_qty * lot < lot
    assert Decimal(found.price_text(1)) * E8 == tick and Decimal(found.qty_text(1)) * E8 == lot


def test_steps_finer_than_money_are_refused() -> None:
    """A tick times a lot must be a whole number of 1e-8 of the quote asset."""
    with pytest.raises(UsageError, match="finer than 1e-8"):
        refined(INSTRUMENTS[0], 1, 1)


WRONG_STEPS = ["BTCUSDT", "BTCUSDT=", "BTCUSDT=0", "BTCUSDT=-1", "BTCUSDT=x", "DOGEUSDT=1", "BTCUSDT=0.000000001"]


@pytest.mark.parametrize("step", WRONG_STEPS)
def test_wrong_steps_are_said(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Which text, and which instruments there are; exit 2."""
    assert main(["--dialect", "okx", "--lot", step]) == 2
    assert f"--lot {step}: not SYMBOL=SIZE" in capsys.readouterr().err
    assert main(["--lot", "BTCUSDT=1"]) == 2
    assert "not for the dialect binance_usdm" in capsys.readouterr().err
