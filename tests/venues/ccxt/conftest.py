"""An exchange behind ccxt, wired as the daemon wires it: ccxt's own classes against the dialects of the simulated exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from copyd.venues.ccxt.contract import Endpoints
from tests.exchange.wire_helpers import ROOT, running_exchange
from tests.venues.common.conftest import BTC, ETH, World

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
#: ccxt's name -> (the exchange's dialect, instruments).
EXCHANGES = {
    "okx": ("okx", ["BTC-USDT-SWAP", "ETH-USDT-SWAP"]),
    "bybit": ("bybit", ["BTCUSDT", "ETHUSDT"]),
    "binanceusdm": ("binance_usdm", ["BTCUSDT", "ETHUSDT"]),
}

if not PYTHON.exists():
    collect_ignore_glob = ["test_*.py"]


class CcxtWorld(World):
    """The common world; ``kind`` is ccxt's name of the exchange."""

    folder = "ccxt"

    def endpoints(self, at: dict[str, Any]) -> Endpoints:
        return Endpoints(exchange_id=self.kind, python=str(PYTHON), base=at["rest"])

    async def open(self) -> None:
        names = EXCHANGES[self.kind][1]
        await self.parts.open([(BTC, names[0]), (ETH, names[1])], 10)
        self.parts.bind(self.columns)
        await self.parts.start_orders(10)
        await self.parts.market.start(10)


@pytest.fixture(scope="session", params=list(EXCHANGES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def exchange(kind: str) -> Iterator[dict[str, Any]]:
    with running_exchange("--dialect", EXCHANGES[kind][0], "--lift", "all") as at:
        yield at


@pytest.fixture
async def world(kind: str, exchange: dict[str, Any]) -> AsyncIterator[CcxtWorld]:
    made = CcxtWorld(kind, exchange)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
