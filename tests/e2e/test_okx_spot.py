"""The daemon copies on OKX's spot market: bought and sold in whole, fees kept back of what was bought, doubts, a crash."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copyd.venues.common.signing import Key
from copyd.venues.okx.contract import BALANCE
from copyd.venues.okx.signing import rest_headers
from tests.e2e.harness import proportional, wait_for
from tests.e2e.test_okx import OkxStage, OkxVenue
from tests.e2e.test_venue_conformance import SYMBOLS, conformance, made, write
from tests.exchange.wire_helpers import running_exchange

SYMBOL = "BTC-USDT"
BTC = "BTCUSDT"
#: Lots of a bitcoin, and what is kept back of what is bought, in parts per million.
LOTS, FEE_PPM = 10**7, 1_000


class SpotVenue(OkxVenue):
    """Accounts that own money and pay fees that show."""

    def cast(self, followers: int, balance: str = "5000") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        fees = {"maker_ppm": FEE_PPM, "taker_ppm": FEE_PPM}
        leader = self.tell("/accounts", {"accounts": [{"name": "lead", "balance": "100000"}], **fees})["accounts"][0]
        return leader, self.tell("/accounts", {"n": followers, "prefix": "f", "balance": balance, **fees})["accounts"]


class SpotStage(OkxStage):
    """A daemon on the spot market, and its leader."""

    symbol, trade_mode = SYMBOL, "cash"

    def base_config(self) -> dict[str, Any]:
        return {**super().base_config(), "sync": {"compare_interval_s": 5, "weight_share_bps": 10_000}}

    def plan(self, index: int, **fields: Any) -> dict[str, Any]:
        return super().plan(index, **{"leverage": 1, "leverage_max": 1, **fields})

    def lead(self, side: str, size: str, **more: str) -> None:
        """The leader trades at the market, so much of the base asset."""
        super().lead(side, size, **{"tgtCcy": "base_ccy", **more})

    def owned(self, row: dict[str, Any]) -> Decimal:
        """Bitcoins of an account, by its own question to the exchange."""
        key = Key(row["api_key"].encode(), row["secret"].encode(), row["passphrase"].encode())
        target = f"{BALANCE}?ccy=BTC"
        headers = rest_headers(key, "GET", target, b"", time.time_ns() // 10**6)
        with urllib.request.urlopen(urllib.request.Request(self.venue.at["rest"] + target, headers=headers), timeout=10) as told:
            details = json.loads(told.read())["data"][0]["details"]
        return Decimal(details[0]["cashBal"]) if details else Decimal(0)

    def nearly(self, expected: dict[str, int], seconds: float = 10) -> None:
        """Every follower holds this many lots, or one more or less: he and the leader were charged of what they bought."""

        def off() -> dict[str, tuple[int, int]]:
            lots = self.lots(BTC)
            return {name: (lots[name], want) for name, want in expected.items() if abs(lots[name] - want) > 1}

        wait_for(lambda: not off(), seconds, lambda: f"(holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")

    def booked(self) -> dict[str, int]:
        """What every follower holds by the daemon's own books, in lots."""
        return {row["follower"]: int(Decimal(row["holds"]) * LOTS) for row in self.client.drift(100)["worst"]}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[SpotStage]:
    ports = ("--port", "0", "--ws-port", "0", "--control-port", "0")
    with running_exchange("--dialect", "okx_spot", *ports, "--lift", "all") as at:
        at.setdefault("ws_api", "")
        at.setdefault("streams", "")
        with SpotStage(tmp_path, SpotVenue(at), 3) as made:
            yield made


def test_the_contract_record_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of ``copyd venue conformance`` on this market, and one order that does not fill."""
    monkeypatch.setitem(SYMBOLS, "okx", SYMBOL)
    with running_exchange("--dialect", "okx_spot", "--lift", "all") as at:
        code, rows, said = conformance(write(tmp_path, "okx", at, made("okx", at)), "--credential", "tester", "--orders")
        assert code == 0 and rows[-1]["name"] == "order" and all(row["ok"] for row in rows), (rows, said)


def test_copies_through_doubt_and_crash(stage: SpotStage) -> None:
    """Bought in proportion, a part sold, all sold: each order once, also where the venue does not say what became of it, and
    where the daemon is killed and what the leader sold meanwhile is found afterwards; less than a lot is left at the end."""
    s = stage
    allocations = {name: (n + 1) * 1000 for n, name in enumerate(s.names)}
    s.start(s.plan(n, allocation=str(a)) for n, a in enumerate(allocations.values()))
    s.lead("buy", "0.5")
    bought = {name: proportional(5_000_000, allocation=a) for name, a in allocations.items()}
    has = {name: lots - -(-lots * FEE_PPM // 10**6) for name, lots in bought.items()}
    s.holds(has, BTC)
    s.quiet()
    assert s.booked() == has == s.lots(BTC)
    wait_for(lambda: "position differs" in s.daemon.text(), 10, s.daemon.tail)  # the leader was charged as well
    wait_for(lambda: not s.status()["stopped_openings"], 10, lambda: str(s.status()))
    s.venue.faults(
        {"action": "error_live", "method": "place", "account": "f0", "count": 1},
        {"action": "error_dead", "method": "place", "account": "f1", "count": 1},
        {"action": "disconnect_live", "method": "place", "account": "f2", "count": 1},
    )
    s.lead("sell", "0.2")
    left = {name: lots * 2995 // 4995 for name, lots in has.items()}
    s.nearly(left)
    s.quiet()
    assert s.venue.fault_hits() == 3
    s.venue.no_faults()
    assert s.booked() == s.lots(BTC)
    s.daemon.kill()
    s.lead("sell", "0.2995")
    s.launch()
    s.holds(0, BTC, seconds=20)
    s.quiet()
    assert all(0 <= s.owned(row) * LOTS < 1 for row in (s.leader.account, *s.followers))
    assert "position_mismatch" not in s.daemon.text()
    s.no_id_twice()
    s.stop()
    s.all_named()
    s.verified()
