"""How long a full fan-out takes inside the venues' limits, with these followers, connections and addresses.

Said by ``copyd check-config`` before anything runs: rate budgets are a plan, not a surprise. Times are lower bounds that follow
from the venue's contract alone; what this machine and the network add is measured by ``copyd bench``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from copyd.adapters import contract_of, orders_by_rest, sockets_per_account, weight_per_min
from copyd.config import Config, VenueConfig
from copyd.venues.common.contract import RateLimit, VenueContract

S_MS = 1_000


class Bound(NamedTuple):
    """What the venue lets one address do: so many a second, and what counts them."""

    per_s: float
    what: str


class FanOut(NamedTuple):
    """One leader's execution reaching every follower of his on one venue."""

    leader: str
    venue: str
    followers: int
    #: Until the last order may leave; 0 where nothing of the venue's bounds it.
    ms: int
    bound: Bound | None
    addresses: int
    #: Followers whose openings are still young enough when they may leave.
    in_time: int


class Opening(NamedTuple):
    """The connections of a venue's accounts, from none to all."""

    venue: str
    connections: int
    ms: int
    per_s: float


def order_bound(venue: VenueConfig, contract: VenueContract) -> Bound | None:
    """What one address may send of orders; None: the venue counts orders per account only."""
    if venue.orders.path == "batch":
        return None
    if orders_by_rest(venue):
        limit = contract.limit("weight", "ip")
        return Bound(weight_per_min(venue, contract) / 60, f"{limit.limit} requests per {_span(limit)} and address")
    found = [limit for limit in contract.rate_limits if limit.scope == "ip" and limit.kind in ("orders", "requests")]
    if not found:
        return None
    limit = min(found, key=lambda one: one.limit / one.interval_ms)
    return Bound(limit.limit * S_MS / limit.interval_ms, f"{limit.limit} orders per {_span(limit)} and address")


def _span(limit: RateLimit) -> str:
    seconds = limit.interval_ms / S_MS
    return "second" if seconds == 1 else "minute" if seconds == 60 else f"{seconds:g} s"


def fan_outs(config: Config, followers: Mapping[tuple[str, str], int]) -> list[FanOut]:
    """``followers``: how many a leader has on a venue, by (leader, venue)."""
    venues = {venue.name: venue for venue in config.venues}
    found = []
    for (leader, name), count in sorted(followers.items()):
        venue = venues[name]
        bound = order_bound(venue, contract_of(venue))
        addresses = max(1, len(venue.source_addresses))
        per_s = bound.per_s * addresses if bound is not None else 0.0
        ms = ceil(count / per_s * S_MS) if per_s else 0
        in_time = min(count, int(per_s * config.copy.max_event_age_ms / S_MS)) if per_s else count
        found.append(FanOut(leader, name, count, ms, bound, addresses, in_time))
    return found


def openings(config: Config, accounts: Mapping[str, int]) -> list[Opening]:
    """``accounts``: how many trade on a venue."""
    found = []
    for venue in config.venues:
        contract = contract_of(venue)
        per_account = sockets_per_account(venue)
        count = per_account * accounts.get(venue.name, 0)
        if not count:
            continue
        per_s = contract.connect_attempts_per_5_min * max(1, len(venue.source_addresses)) / 300
        found.append(Opening(venue.name, count, ceil(count / per_s * S_MS), per_s))
    return found


def alike(config: Config, followers: int) -> dict[tuple[str, str], int]:
    """As if every leader had so many followers on every venue."""
    return {(leader.id, venue.name): followers for leader in config.leaders for venue in config.venues}


def report(config: Config, followers: Mapping[tuple[str, str], int]) -> list[str]:
    """One line for each leader and venue, and one for each venue's start; with what would shorten it."""
    lines = []
    accounts: Counter[str] = Counter()
    for one in fan_outs(config, followers):
        accounts[one.venue] += one.followers
        lines.append(_fan_out_text(config, one))
    lines += [_opening_text(one) for one in openings(config, accounts)]
    return lines


def _fan_out_text(config: Config, one: FanOut) -> str:
    head = f"{one.leader} on {one.venue}: {one.followers:,} follower{'s' * (one.followers != 1)}"
    if one.bound is None:
        return f"{head}: no limit of the venue's holds back a fan-out"
    text = f"{head}: a full fan-out takes {_time(one.ms)} ({one.bound.what}, {one.addresses} in use)"
    if one.in_time < one.followers:
        late = one.followers - one.in_time
        needed = ceil(one.followers / (one.bound.per_s * config.copy.max_event_age_ms / S_MS))
        text += (
            f"; {late:,} openings would be forgone rate_limited after {config.copy.max_event_age_ms / S_MS:g} s: "
            f"{needed} source_addresses or a longer max_event_age_ms let all in")
    return text


def _opening_text(one: Opening) -> str:
    text = f"{one.venue}: {one.connections:,} connections open in {_time(one.ms)} at {one.per_s:.2g} a second"
    return text + ": more source_addresses shorten it in proportion"


def _time(ms: int) -> str:
    if ms < 10 * S_MS:
        return f"{ms / S_MS:.2g} s"
    minutes, seconds = divmod(ceil(ms / S_MS), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
