"""The daemon copies on Bitget's spot market: coins for positions, commissions taken out of what is bought, doubts, a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copyd.venues.bitget.signing import PLACE_SPOT_V2, PLACE_V3, headers
from copyd.venues.common.signing import Key
from tests.e2e.harness import CONTRACT, VENUE, Stage, Venue, wait_for
from tests.exchange.wire_helpers import running_exchange

SYMBOL, BTC = "BTCUSDT_SPBL", "BTCUSDT"
LOT = 100_000  # of a coin
ALLOCATIONS = (1000, 2000, 3000)


class SpotVenue(Venue):
    """Accounts of one of the two kinds, with a commission of 0.1 %, keys bound to this address."""

    def __init__(self, at: dict[str, Any], unified: bool) -> None:
        super().__init__(at)
        self.unified = unified

    def cast(self, followers: int, balance: str = "5000") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        alike = {"rights": {"unified": self.unified, "ips": "127.0.0.1"}, "maker_ppm": 1000, "taker_ppm": 1000}
        leader = self.tell("/accounts", {"accounts": [{"name": "lead", "balance": "100000"}], **alike})["accounts"][0]
        return leader, self.tell("/accounts", {"n": followers, "prefix": "f", "balance": balance, **alike})["accounts"]


class SpotStage(Stage):
    """A daemon whose venue is this market, and its leader."""

    venue: SpotVenue

    def base_config(self) -> dict[str, Any]:
        at = self.venue.at
        config = super().base_config()
        config["venues"] = [{
            "name": VENUE, "kind": "bitget", "rest_url": at["rest"], "ws_url": at["ws"], "connect_timeout_ms": 2000,
            "order_ack_timeout_ms": 700, "contract": dict(CONTRACT), "request_weight_per_min": 1_000_000,
            "connects_per_5_min": 1_000_000,
        }]  # fmt: skip
        config["instruments"] = [{"symbol": SYMBOL, "venue": VENUE, "class": "majors"}]
        return config

    def credential_rows(self) -> list[dict[str, str]]:
        whose = [("lead", self.leader.account), *((row["name"], row) for row in self.followers)]
        words = {"key": "api_key", "secret": "secret", "passphrase": "passphrase"}
        return [{"name": name, **{ours: row[theirs] for ours, theirs in words.items()}} for name, row in whose]

    def lead(self, side: str, size: str) -> None:
        """The leader trades at the market: so much of USDT is bought for, so much of the coin is sold."""
        words = {"symbol": BTC, "side": side, "orderType": "market", "force": "gtc", "size": size}
        path = PLACE_SPOT_V2
        if self.venue.unified:
            words |= {"category": "SPOT", "qty": words.pop("size")}
            path = PLACE_V3
        body, row = json.dumps(words).encode(), self.leader.account
        key = Key(row["api_key"].encode(), row["secret"].encode(), row["passphrase"].encode())
        sent = headers(key, "POST", path, body, time.time_ns() // 10**6)
        request = urllib.request.Request(self.venue.at["rest"] + path, data=body, headers=sent)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read())["code"] == "00000"

    def share(self, number: int) -> float:
        """Lots a follower would hold if he held as much of the coin for his money as the leader does."""
        return self.venue.lots("lead", BTC) * ALLOCATIONS[number] / 100_000

    def follow_in_proportion(self, seconds: float = 15) -> None:
        """Until each holds his share: to a lot or two, and to the hundredth that commissions and equity make of it."""

        def off() -> dict[str, tuple[int, float]]:
            lots = self.lots(BTC)
            wanted = {name: self.share(number) for number, name in enumerate(self.names)}
            return {name: (lots[name], want) for name, want in wanted.items() if abs(lots[name] - want) > 2 + want / 100}

        wait_for(lambda: not off(), seconds, lambda: f"(holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")

    def books_agree(self) -> None:
        """The daemon believes of every leg what the exchange's own books say the account holds, to the lot."""
        self.quiet()
        lots = self.lots(BTC)

        def believed() -> dict[str, int]:
            return {row["follower"]: int(Decimal(row["holds"]) * LOT) for row in self.client.drift(len(self.names))["worst"]}

        wait_for(lambda: believed() == lots, 10, lambda: f"believed {self.client.drift(9)}, true {lots}")

    def money_agrees(self, balance: int = 5000) -> None:
        """All sold: what each plan made by the daemon's books is what the account's money became, to the last fraction."""
        def off() -> dict[str, tuple[str, str]]:
            made = {row["follower"]: row["profit"] for row in self.client.losses(len(self.names))["plans"]}
            has = {name: self.venue.ask(f"/truth/balances?account={name}")[0]["wallet"] for name in self.names}
            return {name: (made[name], has[name]) for name in self.names if balance + Decimal(made[name]) != Decimal(has[name])}

        wait_for(lambda: not off(), 10, lambda: f"(made, has): {off()}")


@pytest.fixture(params=[False, True], ids=["classic", "unified"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpotStage]:
    words = ("--dialect", "bitget_spot", "--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all")
    with running_exchange(*words) as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with SpotStage(tmp_path, SpotVenue(at, request.param), len(ALLOCATIONS)) as made:
            yield made


def test_copies_through_doubt_and_crash(stage: SpotStage) -> None:
    """Bought, more bought where the venue does not say what became of the orders, sold in part, and all of it while the daemon
    is killed: everybody follows in proportion, each order once, and in the end nobody holds a lot and the money agrees."""
    s = stage
    s.start(s.plan(n, allocation=str(allocation)) for n, allocation in enumerate(ALLOCATIONS))
    s.lead("buy", "30000")
    s.follow_in_proportion()
    s.books_agree()
    s.venue.faults({"action": "error_live", "method": "place", "account_prefix": "f", "count": 3})
    s.lead("buy", "20000")
    s.follow_in_proportion()
    s.venue.no_faults()
    s.books_agree()
    s.lead("sell", "0.3")
    s.follow_in_proportion()
    s.books_agree()
    s.daemon.kill()
    held = s.venue.lots("lead", BTC)
    s.lead("sell", f"{held / LOT:.5f}")
    s.launch()
    s.holds(0, BTC, seconds=20)
    s.quiet()
    assert s.venue.lots("lead", BTC) == 0
    s.money_agrees()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()


@pytest.mark.parametrize("stage", [True], indirect=True, ids=["unified"])
def test_a_venue_that_is_as_its_record_says_passes(stage: SpotStage) -> None:
    """`copyd venue conformance` on the spot market alone: every row holds, and its one order does not fill."""
    words = [VENUE, "-c", str(stage.path), "--json", "--credential", "lead", "--orders"]
    done = subprocess.run(
        [sys.executable, "-m", "copyd", "venue", "conformance", *words], capture_output=True, text=True, timeout=90, check=False)
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and rows[-1]["name"] == "order" and all(row["ok"] for row in rows), (rows, done.stderr)
