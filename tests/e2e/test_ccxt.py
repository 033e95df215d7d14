"""The daemon copies through ccxt: leader and followers behind it, one fan-out later than over an adapter of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import proportional, wait_for
from tests.e2e.test_okx import OkxStage, OkxVenue
from tests.exchange.wire_helpers import ROOT, running_exchange

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with ccxt")


class CcxtStage(OkxStage):
    """The same exchange, through ccxt's class of it."""

    def base_config(self) -> dict[str, Any]:
        config = super().base_config()
        [venue] = config["venues"]
        del venue["ws_url"]
        venue |= {
            "kind": "ccxt", "exchange_id": "okx", "python": str(PYTHON), "order_ack_timeout_ms": 2000,
            "connect_timeout_ms": 15000,
        }
        config["copy"] = {**config.get("copy", {}), "max_event_age_ms": 10_000, "quote_max_age_ms": 10_000}
        return config

    def near(self, expected: dict[str, int]) -> None:
        """Within a lot: the leader's equity may be polled between his trade and its being heard, and then counts."""

        def off() -> dict[str, tuple[int, int]]:
            lots = self.lots()
            return {name: (lots[name], want) for name, want in expected.items() if abs(lots[name] - want) > 1}

        wait_for(lambda: not off(), 20, lambda: f"(holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[CcxtStage]:
    with running_exchange("--dialect", "okx", "--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all") as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with CcxtStage(tmp_path, OkxVenue(at), 2) as made:
            yield made


def test_copies_through_ccxt_and_what_it_does_not_hear_of_is_asked_for(stage: CcxtStage) -> None:
    """Opened, reduced where the venue does not say what became of the orders, closed: each order once, the journal verifies."""
    s = stage
    allocations = {name: (n + 1) * 1000 for n, name in enumerate(s.names)}
    s.start(s.plan(n, allocation=str(a)) for n, a in enumerate(allocations.values()))
    s.lead("buy", "150")
    s.near({name: proportional(1500, allocation=a) for name, a in allocations.items()})
    s.venue.faults({"action": "error_live", "method": "place", "account_prefix": "f", "count": 2})
    s.lead("sell", "50")
    s.near({name: proportional(1500, 1000, allocation=a) for name, a in allocations.items()})
    s.venue.no_faults()
    s.lead("sell", "100")
    s.holds(0, seconds=20)
    s.quiet(20)
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()
