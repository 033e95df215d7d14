"""``copyd venue conformance``: a contract record held against a venue, here each dialect of the simulated exchange."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import CONTRACT, RECV_WINDOW_MS
from tests.exchange.wire_helpers import control, running_exchange

SYMBOLS = {
    "binance_usdm": "BTCUSDT", "binance_spot": "BTCUSDT", "okx": "BTC-USDT-SWAP", "bybit": "BTCUSDT", "bitget": "BTCUSDT",
}  # fmt: skip


#: How a key of the dialect is bound to an address, where it is not by itself.
BOUND = {"bybit": {"ips": ["127.0.0.1"]}, "bitget": {"ips": "127.0.0.1"}}


def made(kind: str, at: dict[str, Any]) -> dict[str, Any]:
    """An account with money and a key that only trades, from here."""
    body = {"n": 1, "prefix": "t", "balance": "10000", "rights": BOUND.get(kind, {})}
    [account] = control(at, "POST", "/accounts", body)["accounts"]
    return dict(account)


def write(folder: Path, kind: str, at: dict[str, Any], account: dict[str, Any]) -> Path:
    """A configuration with one venue, and the credential "tester"."""
    phrase = {"passphrase": account["passphrase"]} if kind in ("okx", "bitget") else {}
    credentials = folder / "credentials.jsonl"
    credentials.write_text(json.dumps({
        "name": "tester", "key": account["api_key"], "secret": account["secret"], **phrase}) + "\n")
    credentials.chmod(0o600)
    streams = at.get("streams", "")
    urls = {"ws_url": at["ws"]} if kind != "binance_usdm" else {
        "ws_api_url": at["ws_api"], "public_stream_url": f"{streams}/public", "market_stream_url": f"{streams}/market",
        "private_stream_url": f"{streams}/private"}
    config = folder / "copyd.yaml"
    config.write_text(json.dumps({
        "mode": "simulate", "site": {"id": 7, "name": "e2e"}, "credentials": [{"file": str(credentials)}],
        "journal": {"path": str(folder / "journal"), "map_size_mib": 256, "free_disk_min_mib": 16},
        "venues": [{
            "name": "there", "kind": kind, "rest_url": at["rest"], **urls, "recv_window_ms": RECV_WINDOW_MS,
            "contract": dict(CONTRACT)}],
        "instruments": [{"symbol": SYMBOLS[kind], "venue": "there", "class": "majors"}],
        "leaders": [{"id": "lead", "venue": "there", "credential": "tester"}],
        "control": {"socket": str(folder / "ctl"), "socket_mode": "0600"},
    }))
    return config


def conformance(config: Path, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and what was said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "copyd", "venue", "conformance", "there", "-c", str(config), "--json", *words],
        capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("[") else [], done.stderr


@pytest.mark.parametrize("kind", SYMBOLS)
def test_a_venue_that_is_as_its_record_says_passes(kind: str, tmp_path: Path) -> None:
    """Every row is looked at and holds; read-only places nothing, with --orders one order that does not fill."""
    dialect = () if kind == "binance_usdm" else ("--dialect", kind)
    with running_exchange(*dialect, "--lift", "all") as at:
        account = made(kind, at)
        config = write(tmp_path, kind, at, account)
        code, rows, said = conformance(config, "--credential", "tester")
        assert code == 0 and rows and all(row["ok"] for row in rows), (rows, said)
        assert {"clock", "instruments", "market", "rights", "books", "not found", "private stream"} <= {r["name"] for r in rows}
        assert not control(at, "GET", "/truth/orders?limit=100")
        code, rows, said = conformance(config, "--credential", "tester", "--orders")
        assert code == 0 and rows[-1]["name"] == "order" and rows[-1]["ok"], (rows, said)
        assert len(control(at, "GET", "/truth/orders?limit=100")) == 1
        assert not control(at, "GET", "/truth/trades?limit=100") or all(
            row.get("account") != account["name"] for row in control(at, "GET", "/truth/trades?limit=100"))


def test_what_does_not_hold_is_named_and_ends_with_1(tmp_path: Path) -> None:
    """A wrong secret, an instrument that is not listed, nobody there: each its own row with what was found, and no traceback."""
    with running_exchange("--dialect", "okx", "--lift", "all") as at:
        account = made("okx", at)
        code, rows, said = conformance(write(tmp_path, "okx", at, account))
        assert code == 0 and [row["ok"] for row in rows][-1] is None and rows[-1]["name"] == "key", (rows, said)
        config = write(tmp_path, "okx", at, {**account, "passphrase": "another"})
        code, rows, said = conformance(config, "--credential", "tester")
        wrong = {row["name"]: row["found"] for row in rows if row["ok"] is False}
        assert code == 1 and "50105" in wrong["key"] and "Traceback" not in said, (rows, said)
        code, _, said = conformance(config, "--credential", "nobody")
        assert code != 0 and "nobody" in said and "Traceback" not in said
    code, rows, said = conformance(config, "--credential", "tester")
    assert code == 1 and rows[0]["name"] == "reachable" and rows[0]["ok"] is False and len(rows) == 1, (rows, said)
