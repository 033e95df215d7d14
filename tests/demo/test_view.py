"""What people see, and the figures behind it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from copyd.demo.daemon import percentiles, write_secret_file
from copyd.demo.history import MS, Instrument, LeaderTrade, Order, Truth
from copyd.demo.main import fanout_at_exchange, main
from copyd.demo.view import Board, LiveView, PlainView, make_view, summary_table

RESULT: dict[str, Any] = {
    "followers": 10, "leader_events": 5, "instructions": 50, "orders_sent": 40, "fills": 44, "orders_per_second": 20.0,
    "fanout_first_us": {"p50": 900.0, "p99": 1500.0, "max": 2000.0}, "fanout_last_us": {}, "restarts": 1, "restart_ready_s": 1.25,
    "forgone": {"slippage": 3}, "duplicates": 0, "omissions": 0, "out_of_sync": 0, "journal_bytes": 1 << 20,
    "memory_bytes": {"daemon": 5 << 20}, "limits_lifted": ["request_weight"], "problems": [], "verified": True,
    "stops": {"total_loss": 4}, "legs_held_midway": 17, "settlement": {"plans": 0},
}  # fmt: skip


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    view = make_view(out)
    assert isinstance(view, PlainView)
    view.say("hello")
    view.progress("legs ready", 3, 3)
    view.trade("open long: buy 1.0 BTCUSDT")
    view.show(Board(orders=7, first_us={"p50": 12.0}))
    view.close()
    text = out.getvalue()
    for part in ("hello", "legs ready: 3/3", "open long", "orders 7", "12 us", "-"):
        assert part in text


def test_the_live_board_shows_every_figure() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=120))
    view.progress("accounts opened", 5, 10)
    view.console.print(view.render())
    view.trade("flip through zero: sell 3 BTCUSDT")
    view.say("SIGKILL in mid fan-out", "bold red")
    view.show(Board(followers=10, orders=123, forgone={"slippage": 4}, in_sync=9, journal_bytes=3 << 20, last_us={"p99": 4200.0}))
    view.console.print(view.render())
    view.close()
    text = out.getvalue()
    for part in ("flip through zero", "SIGKILL", "123", "slippage 4", "9 of 10", "3.0 MiB", "4.20 ms", "accounts opened"):
        assert part in text


def test_the_summary_names_what_went_wrong_on_purpose() -> None:
    """With faults: how many of each kind, under which limits and terms; without them not a word."""
    out = io.StringIO()
    more = {
        "faults": "heavy", "faults_made": {"drop_reply": 51, "cut": 4}, "heard_out_of_order": 2, "weight_per_minute": 60_000,
        "fence_ms": 3_400,
    }  # fmt: skip
    summary_table(RESULT | more, out)
    text = out.getvalue()
    for part in ("faults made (heavy)", "drop_reply 51", "cut 4", "60000", "3.4 s"):
        assert part in text
    out = io.StringIO()
    summary_table(RESULT, out)
    assert "faults" not in out.getvalue()


@pytest.mark.parametrize("verified", [True, False])
def test_the_summary_says_whether_it_is_proven(verified: bool) -> None:
    out = io.StringIO()
    summary_table({**RESULT, "verified": verified, "problems": [] if verified else ["out of sync: f1 BTCUSDT"]}, out)
    text = out.getvalue()
    assert ("NOT VERIFIED" in text) is not verified
    assert ("out of sync: f1" in text) is not verified
    assert "900 us / 1.50 ms / 2.00 ms" in text


def test_the_summary_tells_of_stops_and_fees() -> None:
    """Who was stopped, and what the settlement came to; without one not a word of it."""
    out = io.StringIO()
    settled = {"plans": 9, "kills": ["snapshot", "statements"], "charged_e8": 123_450_000_000, "paid_e8": 10**8, "exact": 9,
               "statements": 10}
    summary_table(RESULT | {"settlement": settled}, out)
    for part in ("total_loss 4", "17", "2 times", "1,234.50 / 1.00", "9 of 9"):
        assert part in out.getvalue()
    out = io.StringIO()
    summary_table(RESULT, out)
    assert "settlement" not in out.getvalue()


def test_each_venue_has_a_line() -> None:
    """Where there are several: on the live board, in plain lines and in the result; else not a word."""
    out = io.StringIO()
    PlainView(out).show(Board(orders=7, venues={"okx": 3, "bybit": 4}))
    assert "okx: orders 3" in out.getvalue() and "bybit: orders 4" in out.getvalue()
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=120))
    view.trade("okx: close: sell 3 BTC-USDT-SWAP")
    view.show(Board(followers=10, venues={"okx": 3, "bybit": 4}))
    view.console.print(view.render())
    view.close()
    assert "orders on okx" in out.getvalue() and "2 leaders" in out.getvalue()
    row = {"venue": "okx", "leader_orders": 64, "followers": 10, "orders": 31, "fills": 32, "duplicates": 0, "omissions": 0,
           "out_of_sync": 0, "legs_open": 5, "verified": {"leader-okx": True, "leader-bybit": False}}  # fmt: skip
    out = io.StringIO()
    summary_table(RESULT | {"venues": [row]}, out)
    assert "1 of 2" in out.getvalue() and "64" in out.getvalue()
    out = io.StringIO()
    summary_table(RESULT, out)
    assert "by venue" not in out.getvalue()


def test_percentiles_are_samples_of_the_run() -> None:
    assert percentiles([]) == {}
    assert percentiles([5.0]) == {"p50": 5.0, "p99": 5.0, "max": 5.0, "n": 1}
    many = percentiles([float(n) for n in range(1, 101)])
    assert (many["p50"], many["p99"], many["max"]) == (50.0, 99.0, 100.0)


def test_fan_out_is_measured_from_the_leaders_execution() -> None:
    instrument = Instrument("BTCUSDT", "0.10", "0.001")
    trades = [LeaderTrade("BTCUSDT", str(n), str(n), 1, 1, 1, 1000 * MS * n) for n in (1, 2)]
    arrivals = [1001, 1004, 2002, 2009, 2900]  # the last one is something else
    orders = [Order(str(ts), "a", "BTCUSDT", 1, "BOTH", "LIMIT", "IOC", 1, 1, False, 1, 1, "FILLED", ts * MS) for ts in arrivals]
    first, last = fanout_at_exchange(Truth({"BTCUSDT": instrument}, trades, orders, {}))
    assert (first["p50"], first["max"]) == (1000.0, 2000.0)
    assert (last["p50"], last["max"]) == (4000.0, 9000.0)


def test_keys_are_only_the_owners_to_read(tmp_path: Path) -> None:
    path = tmp_path / "credentials.jsonl"
    write_secret_file(path, [{"name": "a", "key": "k", "secret": "s"}])
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_secret_file(path, [])


@pytest.mark.parametrize("arguments", [["--followers", "0"], ["--seconds", "0"], ["--connections", "0"]])
def test_nonsense_on_the_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "must be positive" in capsys.readouterr().err


def test_a_directory_in_use_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["--keep", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
