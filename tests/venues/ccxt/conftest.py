"""An exchange behind ccxt, wired as the daemon wires it: ccxt's own classes against the dialects of the simulated exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
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

#: What runs on every exchange; of all others one exchange, and of the faults these, will do: each test starts ccxt anew.
EVERYWHERE = {
    "test_orders_of_many_accounts_fill_as_the_books_say", "test_what_the_venue_refuses_is_a_definite_end",
    "test_every_execution_is_told_once_with_its_order",
}  # fmt: skip
FAULTS = {"error_live", "drop_reply", "drop_request"}

if not PYTHON.exists():
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another exchange shows as well."""

    def wanted(item: Any) -> bool:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent != Path(__file__).parent or "kind" not in values or item.originalname in EVERYWHERE:
            return True
        return values["kind"] == "okx" and values.get("action", "drop_reply") in FAULTS

    kept = [item for item in items if wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = kept


class CcxtWorld(World):
    """The common world; ``kind`` is ccxt's name of the exchange."""

    folder = "ccxt"

    def endpoints(self, at: dict[str, Any]) -> Endpoints:
        return Endpoints(exchange_id=self.kind, python=str(PYTHON), base=at["rest"])

    def faults(self, *rules: dict[str, Any]) -> None:
        """Binance's requests are named otherwise in rules."""
        name = "order.place" if self.kind == "binanceusdm" else "place"
        super().faults(*({**rule, "method": name} if rule.get("method") == "place" else rule for rule in rules))

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
