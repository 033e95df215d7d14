"""One leader, followers on every venue: the real daemon with all its adapters, judged by every exchange's own books."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import CONTRACT, RECV_WINDOW_MS, VENUE, Stage, Venue, proportional, wait_for
from tests.exchange.wire_helpers import running_exchange

SYMBOLS = {"okx": "BTC-USDT-SWAP", "bybit": "BTCUSDT", "bitget": "BTCUSDT"}
PER_VENUE = 5
BTC = "BTCUSDT"


class Venues(Stage):
    """Followers on the leader's venue and on each of the others; every lot of every exchange here is 0.001 of the base."""

    def __init__(self, folder: Path, home: Venue, others: dict[str, Venue]) -> None:
        self.others = others
        self.elsewhere = {name: venue.cast(PER_VENUE)[1] for name, venue in others.items()}
        super().__init__(folder, home, PER_VENUE)
        self.home = list(self.names)
        self.venue_of = dict.fromkeys(self.names, home)
        for name, rows in self.elsewhere.items():
            self.venue_of |= {str(row["name"]): others[name] for row in rows}
        self.names = list(self.venue_of)

    def base_config(self) -> dict[str, Any]:
        config = super().base_config()
        config["instruments"] = config["instruments"][:1]
        for name, venue in self.others.items():
            config["venues"].append({
                "name": name, "kind": name, "rest_url": venue.at["rest"], "ws_url": venue.at["ws"], "connect_timeout_ms": 2000,
                "recv_window_ms": RECV_WINDOW_MS, "order_ack_timeout_ms": 700, "contract": dict(CONTRACT),
                "request_weight_per_min": 1_000_000, "connects_per_5_min": 1_000_000, "orders_per_10s": 100_000,
                "orders_per_min": 600_000,
            })
            config["instruments"].append({"symbol": SYMBOLS[name], "venue": name, "class": "majors"})
        return config

    def credential_rows(self) -> list[dict[str, str]]:
        rows = super().credential_rows()
        for name, followers in self.elsewhere.items():
            for row in followers:
                phrase = {"passphrase": row["passphrase"]} if name in ("okx", "bitget") else {}
                rows.append({"name": row["name"], "key": row["api_key"], "secret": row["secret"], **phrase})
        return rows

    def plans(self) -> list[dict[str, Any]]:
        """One per follower, each naming its venue."""
        found = []
        for at, name in enumerate(self.names):
            venue = next((one for one, rows in self.elsewhere.items() if any(row["name"] == name for row in rows)), VENUE)
            found.append({**self.plan(at), "venue": venue})
        return found

    def all_lots(self) -> dict[str, int]:
        """What every follower holds, by the books of the venue it is on."""
        lots: dict[str, int] = {}
        for venue in {id(v): v for v in self.venue_of.values()}.values():
            lots |= venue.all_lots(BTC)
        return {name: lots.get(name, 0) for name in self.names}

    def lots(self, symbol: str = "BTCUSDT") -> dict[str, int]:
        return self.all_lots()

    def holds(self, expected: dict[str, int] | int, symbol: str = "BTCUSDT", seconds: float = 20) -> None:
        want = expected if isinstance(expected, dict) else dict.fromkeys(self.names, expected)

        def off() -> dict[str, tuple[int, int]]:
            lots = self.all_lots()
            return {name: (lots[name], want[name]) for name in want if lots[name] != want[name]}

        wait_for(lambda: not off(), seconds, lambda: f"(holds, wants): {off()}\n{self.status()}\n{self.daemon.tail()}")

    def follower_orders(self) -> list[dict[str, Any]]:
        mine = set(self.names)
        found = []
        for venue in {id(v): v for v in self.venue_of.values()}.values():
            found += [order for order in venue.all_orders() if order["account"] in mine]
        return found

    def faults(self, *rules: dict[str, Any]) -> None:
        """The same rules on every venue."""
        for venue in {id(v): v for v in self.venue_of.values()}.values():
            venue.faults(*rules)

    def no_faults(self) -> None:
        for venue in {id(v): v for v in self.venue_of.values()}.values():
            venue.no_faults()

    def laws(self) -> None:
        """No id twice on any venue, every accepted order named in the journal, the journal verifies."""
        ids = [order["clientOrderId"] for order in self.follower_orders()]
        assert len(ids) == len(set(ids)), sorted(one for one in ids if ids.count(one) > 1)
        self.stop()
        self.all_named()
        self.verified()




@pytest.fixture(scope="module")
def exchanges() -> Iterator[dict[str, Venue]]:
    """The leader's exchange and one of each other dialect."""
    with ExitStack() as stack:
        found = {VENUE: Venue(stack.enter_context(running_exchange("--lift", "all")))}
        for name in SYMBOLS:
            found[name] = Venue(stack.enter_context(running_exchange("--dialect", name, "--lift", "all")))
        yield found


@pytest.fixture
def venues(exchanges: dict[str, Venue], tmp_path: Path) -> Iterator[Venues]:
    others = {name: venue for name, venue in exchanges.items() if name != VENUE}
    with Venues(tmp_path, exchanges[VENUE], others) as made:
        yield made
    made.no_faults()


def test_followers_on_every_venue_hold_their_share_of_the_leader(venues: Venues) -> None:
    """Open, add, reduce, through zero, flat: everywhere the same share, whatever the venue counts in; exactly flat at the end."""
    s = venues
    s.start(s.plans())
    path: list[int] = []
    leader = 0
    for side, quantity in ((1, 1500), (1, 500), (-1, 300), (1, 800), (-1, 2500)):
        (s.leader.buy if side > 0 else s.leader.sell)(f"{quantity / 1000:.3f}")
        leader += side * quantity
        path.append(leader)
        s.holds(proportional(*path))
    s.leader.sell("1.000")
    s.settled(1)
    wait_for(lambda: all(lots < 0 for lots in s.lots().values()), 10, lambda: str(s.lots()))
    s.leader.buy("1.000")
    s.holds(0)
    s.quiet()
    s.laws()


def test_killed_in_mid_fan_out_every_venues_doubts_are_settled_by_asking(venues: Venues) -> None:
    """SIGKILL while orders of every venue are live, dead or unanswered: after the restart every leg is at its target."""
    s = venues
    s.start(s.plans())
    for name, venue in [(VENUE, s.venue), *s.others.items()]:
        method = "order.place" if name == VENUE else "place"
        rows = s.home if name == VENUE else [str(row["name"]) for row in s.elsewhere[name]]
        venue.faults(*(
            {"action": action, "account": account, "method": method, "count": 1}
            for action, account in zip(("drop_request", "drop_reply", "error_live", "error_dead"), rows, strict=False)))
    s.leader.buy("1.000")
    time.sleep(0.4)
    s.daemon.kill()
    assert s.daemon.wait(5) == -9
    s.no_faults()
    s.start(ready=False)
    # the longest of the fences behind which an order that nobody has seen counts as dead is Bitget's, 30 s
    s.wait_ready(90)
    s.holds(proportional(1000), seconds=60)
    s.quiet(60)
    s.leader.sell("1.000")
    s.holds(0)
    s.laws()


def test_a_venue_that_stands_still_holds_up_nobody_else(venues: Venues) -> None:
    """One exchange answers nothing: the others' followers open at once; its own openings are forgone or late, its exits come."""
    s = venues
    s.start(s.plans())
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    frozen = s.others["okx"].at["pid"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        s.leader.buy("1.000")
        others = [name for name in s.names if s.venue_of[name] is not s.others["okx"]]
        want = proportional(1000, 2000)

        def reached() -> bool:
            found: dict[str, int] = {}
            for name, venue in [(VENUE, s.venue), *s.others.items()]:
                if name != "okx":
                    found |= venue.all_lots(BTC)
            return all(found.get(name, 0) == want for name in others)

        wait_for(reached, 5, lambda: s.daemon.tail())
        s.leader.sell("2.000")
        time.sleep(0.5)
    finally:
        os.kill(frozen, signal.SIGCONT)
    s.holds(0, seconds=40)
    s.quiet(20)
    s.laws()


def test_a_clock_that_disagrees_with_one_venue_holds_the_openings_there_alone(venues: Venues) -> None:
    """An hour off against one exchange from the start: its followers forgo `clock_off`, the others open and close as ever."""
    s = venues
    s.others["okx"].tell("/clock", {"skew_ms": 3_600_000})
    try:
        s.start(s.plans(), ready=False)

        def nothing_else_is_missing() -> bool:
            reasons = s.status().get("reasons", [])
            return len(reasons) == 1 and reasons[0].startswith("okx: this machine's clock")

        wait_for(nothing_else_is_missing, 30, lambda: str(s.status()))
        s.leader.buy("1.000")
        there = {name for name in s.names if s.venue_of[name] is s.others["okx"]}
        want = proportional(1000)
        s.holds({name: 0 if name in there else want for name in s.names})
        assert s.status()["forgone"].get("clock_off") == len(there)
        s.leader.sell("1.000")
        s.holds(0)
    finally:
        s.others["okx"].tell("/clock", {"skew_ms": 0})
    s.laws()
