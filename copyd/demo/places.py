"""One simulated exchange of a run, with its leader: process, control port, client, script.

A run over several venues has one of each. Their lots and ticks differ, as those of real venues do, so that a quantity or a price
taken over without conversion shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from copyd.errors import WorldError

from .exchange import AccountMade, Control, LeaderClient
from .history import Plan, Truth
from .leaders import CLIENTS
from .processes import Child
from .workload import LEADER_EQUITY, Market, Script, leader_script, starting_balance

KINDS = ("binance_usdm", "okx", "bybit", "bitget")
STEPS: Mapping[str, tuple[str, ...]] = {
    "okx": ("--lot", "BTCUSDT=0.0001", "--tick", "SOLUSDT=0.001"),
    "bybit": ("--tick", "BTCUSDT=0.5", "--lot", "ETHUSDT=0.01", "--lot", "SOLUSDT=0.1"),
    "bitget": ("--lot", "BTCUSDT=0.01", "--tick", "ETHUSDT=0.05", "--lot", "ETHUSDT=0.01", "--lot", "SOLUSDT=0.1"),
}
"""Lots and ticks of the exchanges where several take part; not named: as the first has them."""
ACCOUNTS_PER_CALL = 500
REAL_LIMITS_MAX = 40  #: followers that can be made ready inside the venue's own request weight of one minute
REAL_WEIGHT = 2_400
#: With faults the request weight is enforced, at what this many followers need: a making ready in half a minute, and settling
#: what went wrong while the leader trades every second. (At the venue's own figure both take that much longer.)
WEIGHT_PER_FOLLOWER = 60


def venues_named(text: str) -> list[str]:
    """The venues of ``--venues``. ValueError names one that there is not."""
    names = list(KINDS) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names or len(set(names)) != len(names):
        what = f"no such venue: {unknown[0]}" if unknown else "each venue once, at least one"
        raise ValueError(f"--venues: {what} (there are {', '.join(KINDS)}, or all)")
    return names


class Place:
    """One venue. ``name`` is the daemon's name of it; ``alone``: the only one of the run."""

    def __init__(
        self, name: str, kind: str, leader: str, directory: Path, session: aiohttp.ClientSession, followers: int, alone: bool
    ) -> None:
        self.name, self.kind, self.leader_name = name, kind, leader
        self.directory, self.session, self.alone = directory, session, alone
        self.file = "exchange" if alone else f"exchange-{name}"
        self.exchange = Child("the exchange" if alone else f"the exchange {name}", [], directory / f"{self.file}.log", directory)
        self.followers = followers
        self.lift: list[str] = []
        self.weight = REAL_WEIGHT
        self.addresses: dict[str, Any] = {}
        self.control: Control
        self.client: LeaderClient
        self.script = Script([])
        self.plans: list[Plan] = []
        self.limits_lifted: list[str] = []

    def limit(self, disturbed: bool) -> None:
        """Which limits of the venue are lifted, or set to what so many followers need.

        Where each account has a connection of its own, everything is lifted: so many are allowed to a market maker with many
        addresses, not to one address.
        """
        if self.kind != "binance_usdm":
            self.lift = ["all"]
        elif disturbed:
            self.weight = max(REAL_WEIGHT, WEIGHT_PER_FOLLOWER * self.followers)
        elif self.followers > REAL_LIMITS_MAX:
            self.lift = ["request_weight"]

    async def start(self, seed: int, disturbed: bool, books: Path | None) -> None:
        """The exchange in its own process; its instruments and opening prices. ``books``: a folder to keep its truth in."""
        self.limit(disturbed)
        ready_file = self.directory / f"{self.file}.json"
        arguments = ["copyd", "exchange", "--seed", str(seed), "--ready-file", str(ready_file), "--quiet"]
        if not self.alone or self.kind != "binance_usdm":
            arguments += ["--dialect", self.kind, *STEPS.get(self.kind, ())]
        if self.lift:
            arguments += ["--lift", ",".join(self.lift)]
        self.exchange.arguments = arguments
        await self.exchange.start()
        for _ in range(600):
            if ready_file.exists():
                break
            self.exchange.check()
            await asyncio.sleep(0.05)
        else:
            raise WorldError(f"{self.exchange.name} does not answer after 30 s")
        self.addresses = msgspec.json.decode(ready_file.read_bytes())
        self.control = Control(self.session, self.addresses["control"])
        self.control.keep = books
        if disturbed and self.kind == "binance_usdm":
            await self.control.set_weight(self.weight)
        if self.alone and self.kind == "binance_usdm":
            await self.control.load_instruments(self.addresses["rest"])
        else:
            await self.control.list_instruments()
        for _ in range(50):
            await self.control.follow_quotes()
            if len(self.control.opening_px) == len(self.control.instruments):
                break
            await asyncio.sleep(0.1)

    def write_script(self, seconds: float, seed: int) -> None:
        """What the leader will do."""
        prices = self.control.opening_px
        markets = [Market(instrument, prices[name]) for name, instrument in self.control.instruments.items()]
        self.script = leader_script(markets, seconds, seed)

    async def open_leader(self) -> AccountMade:
        """The leader's account, watched, and his client."""
        made = await self.control.make_accounts([{"name": self.leader_name, "balance": str(LEADER_EQUITY)}])
        await self.control.mark_account(self.leader_name)
        one = made[0]
        self.client = CLIENTS[self.kind](self.session, self.addresses["rest"], one.api_key, one.secret, one.passphrase)
        return one

    async def open_followers(self, seed: int, start: int) -> list[AccountMade]:
        """Some followers' accounts, from ``start`` on.

        Nine of ten followers come with leverage and margin type set; one of eight trades in hedge mode, and the daemon takes it
        as it is.
        """
        rows = []
        for at, plan in enumerate(self.plans[start : start + ACCOUNTS_PER_CALL], start):
            row: dict[str, Any] = {"name": plan.account, "balance": starting_balance(plan, seed)}
            if at % 10:
                row |= {"leverage": plan.leverage, "margin_type": "ISOLATED"}
            if at % 8 == 5:
                row |= {"hedge": True}
            rows.append(row)
        return await self.control.make_accounts(rows)

    async def orders_accepted(self) -> int:
        """Followers' orders the exchange has accepted so far."""
        return int((await self.control.stats())["orders_accepted"]) - self.client.orders

    async def truth(self) -> Truth:
        """Its books as far as they concern its leader and its followers."""
        return await self.control.truth(self.leader_name)


def spread(plans: list[Plan], places: list[Place]) -> list[Plan]:
    """Followers dealt to the venues in turn, and to the leaders so that each has followers on every venue. The plans' instruments
    are named as the first venue names them."""
    found = []
    for n, plan in enumerate(plans):
        place, leader = places[n % len(places)], places[n // len(places) % len(places)]
        books = {instrument.pair: symbol for symbol, instrument in place.control.instruments.items()}
        first = places[0].control.instruments
        names = [books[first[symbol].pair] for symbol in plan.instruments]
        found.append(msgspec.structs.replace(plan, venue=place.name, leader=leader.leader_name, instruments=names))
    return found
