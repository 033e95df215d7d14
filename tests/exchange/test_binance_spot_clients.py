"""Clients written by others, unmodified and in their own virtual environment, trade on the simulated spot exchange."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.exchange.wire_helpers import ROOT, make_accounts, running_exchange

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPTS = ROOT / "tests" / "exchange" / "clients"


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, Any]]:
    with running_exchange("--dialect", "binance_spot") as at:
        yield at


@pytest.mark.parametrize("client", ["python_binance", "binance_connector", "ccxt"])
def test_unmodified_client_trades_and_hears_about_it(exchange: dict[str, Any], client: str) -> None:
    """Markets, market and limit orders signed over REST and the WebSocket API, cancel, open orders, balances, trades, events."""
    if not PYTHON.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    account = make_accounts(exchange, accounts=[{"name": client, "balance": "10000", "maker_ppm": 1000, "taker_ppm": 1000}])[0]
    at = {**{k: exchange[k] for k in ("rest", "ws")}, **account}
    done = subprocess.run(
        [PYTHON, "-P", SCRIPTS / f"client_{client}_spot.py", orjson.dumps(at)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{client}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.strip().endswith("ok")
