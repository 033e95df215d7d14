"""The daemon copies on the OKX dialect of the exchange: contracts, connections of their own, doubts, a crash."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copyd.venues.common.signing import Key
from copyd.venues.okx.contract import ORDER
from copyd.venues.okx.signing import rest_headers
from tests.e2e.harness import CONTRACT, RECV_WINDOW_MS, VENUE, Stage, Venue, proportional
from tests.exchange.wire_helpers import running_exchange

SYMBOL = "BTC-USDT-SWAP"


class OkxStage(Stage):
    """A daemon whose venue speaks this dialect, and its leader."""

    symbol, trade_mode = SYMBOL, "cross"

    def base_config(self) -> dict[str, Any]:
        at = self.venue.at
        config = super().base_config()
        config["venues"] = [{
            "name": VENUE, "kind": "okx", "rest_url": at["rest"], "ws_url": at["ws"], "connect_timeout_ms": 2000,
            "recv_window_ms": RECV_WINDOW_MS, "order_ack_timeout_ms": 700, "contract": dict(CONTRACT),
            "request_weight_per_min": 1_000_000,
        }]  # fmt: skip
        config["instruments"] = [{"symbol": self.symbol, "venue": VENUE, "class": "majors"}]
        return config

    def credential_rows(self) -> list[dict[str, str]]:
        whose = [("lead", self.leader.account), *((row["name"], row) for row in self.followers)]
        words = {"key": "api_key", "secret": "secret", "passphrase": "passphrase"}
        return [{"name": name, **{ours: row[theirs] for ours, theirs in words.items()}} for name, row in whose]

    def lead(self, side: str, size: str, **more: str) -> None:
        """The leader trades at the market, so many contracts on cross margin."""
        words = {"instId": self.symbol, "tdMode": self.trade_mode, "side": side, "ordType": "market", "sz": size, **more}
        body, row = json.dumps(words).encode(), self.leader.account
        key = Key(row["api_key"].encode(), row["secret"].encode(), row["passphrase"].encode())
        headers = rest_headers(key, "POST", ORDER, body, time.time_ns() // 10**6)
        request = urllib.request.Request(self.venue.at["rest"] + ORDER, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read())["code"] == "0"


class OkxVenue(Venue):
    """Accounts as this dialect knows them: margin type and leverage are set by whoever trades."""

    def cast(self, followers: int, balance: str = "5000") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        leader = self.tell("/accounts", {"accounts": [{"name": "lead", "balance": "100000"}]})["accounts"][0]
        return leader, self.tell("/accounts", {"n": followers, "prefix": "f", "balance": balance})["accounts"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[OkxStage]:
    with running_exchange("--dialect", "okx", "--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all") as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with OkxStage(tmp_path, OkxVenue(at), 3) as made:
            yield made


def test_copies_through_doubt_and_crash(stage: OkxStage) -> None:
    """Opened, enlarged, reduced and closed in contracts, each order once: also where the venue does not say what became of it,
    and where the daemon is killed and what the leader closed meanwhile is found afterwards."""
    s = stage
    allocations = {name: (n + 1) * 1000 for n, name in enumerate(s.names)}
    s.start(s.plan(n, allocation=str(a)) for n, a in enumerate(allocations.values()))
    s.lead("buy", "150")  # 1500 lots of the exchange, 0.1 contracts each
    s.holds({name: proportional(1500, allocation=a) for name, a in allocations.items()})
    s.venue.faults(
        {"action": "error_live", "method": "place", "account_prefix": "f", "count": 2},
        {"action": "error_dead", "method": "place", "account_prefix": "f", "count": 2},
    )
    s.lead("sell", "50")
    s.holds({name: proportional(1500, 1000, allocation=a) for name, a in allocations.items()})
    s.quiet()
    s.venue.no_faults()
    s.daemon.kill()
    s.lead("sell", "100")
    s.launch()
    s.holds(0, seconds=20)
    s.quiet()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()
