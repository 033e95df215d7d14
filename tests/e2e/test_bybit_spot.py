"""The daemon copies on the spot market of the Bybit dialect: coins are bought and sold, fees are taken from what is received."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copyd.venues.bybit.signing import rest_headers
from copyd.venues.common.signing import Key
from tests.e2e.harness import CONTRACT, RECV_WINDOW_MS, VENUE, Stage, Venue, wait_for
from tests.e2e.test_venue_conformance import conformance, made, write
from tests.exchange.wire_helpers import running_exchange

CREATE = "/v5/order/create"
EQUITY = 100_000
#: Below it nothing is sold: 5 USDT at 60,000, in lots of 0.000001 BTC, and a lot or two of what fees kept back.
DUST = 90


class SpotVenue(Venue):
    """Accounts with money and nothing else."""

    def cast(self, followers: int, balance: str = "5000") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        fees = {"maker_ppm": 1000, "taker_ppm": 1000}
        leader = self.tell("/accounts", {"accounts": [{"name": "lead", "balance": str(EQUITY), **fees}]})["accounts"][0]
        return leader, self.tell("/accounts", {"n": followers, "prefix": "f", "balance": balance, **fees})["accounts"]


class SpotStage(Stage):
    """A daemon whose venue is this market, and its leader."""

    def base_config(self) -> dict[str, Any]:
        at = self.venue.at
        config = super().base_config()
        config["venues"] = [{
            "name": VENUE, "kind": "bybit", "rest_url": at["rest"], "ws_url": at["ws"], "connect_timeout_ms": 2000,
            "recv_window_ms": RECV_WINDOW_MS, "order_ack_timeout_ms": 700, "contract": dict(CONTRACT),
            "request_weight_per_min": 1_000_000,
        }]  # fmt: skip
        config["instruments"] = [{"symbol": "BTCUSDT_SPOT", "venue": VENUE, "class": "majors"}]
        config["sync"] = {"compare_interval_s": 5, "weight_share_bps": 10_000}
        return config

    def lead(self, side: str, quantity: str, **more: Any) -> None:
        """The leader trades at the market; a buy is sized in USDT unless it says otherwise."""
        words = {"category": "spot", "symbol": "BTCUSDT", "side": side, "orderType": "Market", "qty": quantity, **more}
        body, row = json.dumps(words).encode(), self.leader.account
        headers = rest_headers(Key(row["api_key"].encode(), row["secret"].encode()), body, time.time_ns() // 10**6, 5_000)
        request = urllib.request.Request(self.venue.at["rest"] + CREATE, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            told = json.loads(answer.read())
            assert told["retCode"] == 0, told

    def shares(self, allocations: dict[str, int], seconds: float = 15) -> dict[str, int]:
        """Until every follower holds his share of what the leader does, to a part in a hundred and a lot or two, and the daemon's
        books say so to the lot; what they hold."""
        def off() -> dict[str, tuple[int, float]]:
            lots = self.venue.all_lots()
            wants = {name: lots["lead"] * allocation / EQUITY for name, allocation in allocations.items()}
            return {n: (lots.get(n, 0), want) for n, want in wants.items() if abs(lots.get(n, 0) - want) > want / 100 + 2}

        wait_for(lambda: not off(), seconds, lambda: f"(holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")
        self.quiet()
        wait_for(lambda: self.booked() == self.lots(), 10, lambda: f"{self.booked()} {self.lots()}\n{self.daemon.tail()}")
        return self.lots()

    def booked(self) -> dict[str, int]:
        """What the daemon says its followers hold, lots of 0.000001 BTC."""
        return {str(row["follower"]): int(row["holds"].replace(".", "")) for row in self.client.drift(100)["worst"]}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[SpotStage]:
    with running_exchange("--dialect", "bybit_spot", "--lift", "all") as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with SpotStage(tmp_path, SpotVenue(at), 3, "9000000") as made:
            yield made


def test_bought_sold_in_part_and_sold_out(stage: SpotStage) -> None:
    """Followers buy and sell in proportion, through doubts and a crash; each order once; the daemon's books are the exchange's to
    the lot, fees included; in the end nobody has more than what cannot be sold."""
    s = stage
    allocations = dict(zip(s.names, (1_000, 3_000, 5_000_000), strict=True))  # the last takes several levels of the book
    s.start(s.plan(n, allocation=str(a), leverage=1, leverage_max=1) for n, a in enumerate(allocations.values()))
    s.lead("Buy", "30000")
    bought = s.shares(allocations)
    assert all(lots > 4_000 * allocations[name] // 1000 for name, lots in bought.items()), bought
    assert len([row for row in s.venue.ask("/truth/trades?limit=1000") if row["buyer"] == s.names[2]]) > 1
    s.venue.faults(
        {"action": "error_live", "method": "place", "account_prefix": "f", "count": 1},
        {"action": "error_dead", "method": "place", "account_prefix": "f", "count": 1},
        {"action": "disconnect_live", "method": "place", "account_prefix": "f", "count": 1},
    )
    s.lead("Sell", "0.15")
    s.shares(allocations)
    s.venue.no_faults()
    s.lead("Buy", "0.1", marketUnit="baseCoin")
    s.shares(allocations)
    s.daemon.kill()
    s.lead("Sell", "0.1")
    s.launch()
    s.wait_ready(20)
    s.shares(allocations, 20)
    left = s.venue.lots("lead")
    s.lead("Sell", f"{left / 10**6:.6f}")
    wait_for(lambda: all(lots <= DUST for lots in s.lots().values()), 20, lambda: f"{s.lots()}\n{s.status()}\n{s.daemon.tail()}")
    s.quiet()
    assert not [process.log.name for process in s.processes if "position_mismatch" in process.text()]
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()


def test_the_record_of_the_venue_holds_on_spot(tmp_path: Path) -> None:
    """Every row of ``copyd venue conformance``, with a key that may trade spot alone, and an order that does not fill."""
    with running_exchange("--dialect", "bybit_spot", "--lift", "all") as at:
        rights = {"ips": ["127.0.0.1"], "permissions": {"Spot": ["SpotTrade"]}}
        account = made("bybit", at)
        Venue(at).tell("/restrictions", {"account": account["name"], "restrictions": rights})
        path = write(tmp_path, "bybit", at, account)
        config = json.loads(path.read_text())
        config["instruments"][0]["symbol"] = "BTCUSDT_SPOT"
        path.write_text(json.dumps(config))
        code, rows, said = conformance(path, "--credential", "tester", "--orders")
        assert code == 0 and all(row["ok"] for row in rows), (rows, said)
        assert (rows[-1]["name"], [row["found"] for row in rows if row["name"] == "rights"]) == ("order", ["trades"])
        assert len(Venue(at).all_orders()) == 1
