"""Copies from one venue to another: what the verifier of one (leader, follower's venue) is fed with, and all of them together.

The conversion is made here from what the exchanges list: a lot's size in the base asset, a tick's worth per unit of it, the two
assets of a pair. A leader's trade is told to the followers of another venue in the instrument of the same pair there: his own
lots (the ratio of the two lots is the instrument's), his price in its ticks, rounded so that no slippage cap becomes wider by it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction

import msgspec

from .history import MS, Claim, Instrument, LeaderTrade, Plan, Truth, VerifyConfig
from .verifier import Verdict, Verifier

MAJOR_ASSETS = ("BTC", "ETH")


class Group(msgspec.Struct, frozen=True):
    """Everyone who follows one leader on one venue."""

    leader: str
    home: str  #: the leader's venue
    venue: str  #: the followers' venue
    plans: list[Plan]


def groups_of(plans: Iterable[Plan], homes: Mapping[str, str]) -> list[Group]:
    """The plans by leader and venue; ``homes``: each leader's venue."""
    found: dict[tuple[str, str], list[Plan]] = {}
    for plan in plans:
        found.setdefault((plan.leader, plan.venue or homes[plan.leader]), []).append(plan)
    return [Group(leader, homes[leader], venue, members) for (leader, venue), members in found.items()]


def mirrored(theirs: Mapping[str, Instrument], his: Mapping[str, Instrument]) -> dict[str, Instrument]:
    """The followers' instruments, by the leader's name of the pair, each with its lots per lot of his."""
    by_pair = {instrument.pair: instrument for instrument in theirs.values()}
    found = {}
    for name, source in his.items():
        instrument = by_pair.get(source.pair)
        if instrument is not None:
            found[name] = copy.copy(instrument)
            found[name].per_leader_lot = Fraction(source.lot) / Fraction(instrument.lot)
    return found


def expressed(trade: LeaderTrade, source: Instrument, instrument: Instrument) -> LeaderTrade:
    """His trade as those see it who trade ``instrument``: his lots, their name, his price in their ticks (for a buy rounded down,
    for a sale up)."""
    ticks = trade.px * Fraction(source.tick) / Fraction(instrument.tick)
    px = ticks.numerator // ticks.denominator if trade.lots > 0 else -(-ticks.numerator // ticks.denominator)
    return msgspec.structs.replace(trade, symbol=instrument.symbol, px=max(1, px))


def seen(group: Group, truths: Mapping[str, Truth]) -> Truth:
    """The truth of one group: the leader's side from his exchange, the followers' from theirs."""
    his, theirs = truths[group.home], truths[group.venue]
    accounts = {plan.account or plan.follower for plan in group.plans}
    mirrors = mirrored(theirs.instruments, his.instruments)
    orders = [order for order in theirs.orders if order.account in accounts]
    cids = {order.client_order_id for order in orders}
    executions = {account: rows for account, rows in theirs.executions.items() if account in accounts}
    faults = [fault for fault in theirs.faults if not fault.account or fault.account in accounts]
    faults += [fault for fault in his.faults if fault.account == group.leader]
    faults.sort(key=lambda fault: fault.ts)
    return Truth(
        instruments={instrument.symbol: instrument for instrument in mirrors.values()},
        leader_trades=[
            expressed(trade, his.instruments[trade.symbol], mirrors[trade.symbol])
            for trade in his.leader_trades
            if trade.symbol in mirrors
        ],
        orders=orders,
        positions={key: lots for key, lots in theirs.positions.items() if key[0] in accounts},
        rejects=theirs.rejects,
        quotes=theirs.quotes,
        leader_reads=his.leader_reads,
        fills={cid: lots for cid, lots in theirs.fills.items() if cid in cids},
        fill_count=sum(len(rows) for rows in executions.values()),
        executions=executions,
        held_ts=theirs.held_ts,
        held={key: lots for key, lots in theirs.held.items() if key[0] in accounts},
        faults=faults,
        balances={account: wallet for account, wallet in theirs.balances.items() if account in accounts},
    )


#: A venue whose window for signed requests is its own: what is in doubt there stays so for as much longer.
OWN_WINDOW_MS = {"bitget": 30_000}


def settings(group: Group, config: VerifyConfig, truth: Truth, majors: Iterable[str]) -> VerifyConfig:
    """The run's settings in the names of the followers' venue; ``majors``: base assets."""
    leverage = next(iter(config.leader_leverage.values()), 1)
    longer = OWN_WINDOW_MS.get(group.venue, 0) * MS if config.settling else 0
    return msgspec.structs.replace(
        config,
        settling=config.settling + longer,
        report_lag=config.report_lag + longer,
        leader_leverage=dict.fromkeys(truth.instruments, leverage),
        majors=tuple(name for name, instrument in truth.instruments.items() if instrument.pair[0] in majors),
    )


def strangers(groups: Iterable[Group], truths: Mapping[str, Truth]) -> list[str]:
    """Orders on accounts that nobody has a plan for there, and positions of followers where they have none. (Makers hold some
    too, and their orders are not listed.)"""
    known = {(group.venue, plan.account or plan.follower) for group in groups for plan in group.plans}
    followers = {account for _, account in known}
    found: Counter[tuple[str, str]] = Counter()
    for venue, truth in truths.items():
        found.update((venue, order.account) for order in truth.orders if (venue, order.account) not in known)
        held = (key[0] for key in truth.positions if key[0] in followers)
        found.update((venue, account) for account in held if (venue, account) not in known)
    return [f"{account} trades on {venue}, and has no plan there" for venue, account in found]


def verify_all(
    groups: list[Group], truths: Mapping[str, Truth], claims: Iterable[Claim], config: VerifyConfig, majors: Iterable[str]
) -> dict[tuple[str, str], Verdict]:
    """One verdict per (leader, venue), from one reading of the claims. A claim of a plan nobody has is a problem of the first."""
    wanted = list(majors)
    verifiers: dict[tuple[str, str], Verifier] = {}
    of_plan: dict[str, Verifier] = {}
    for group in groups:
        truth = seen(group, truths)
        one = Verifier(truth, group.plans, settings(group, config, truth, wanted))
        one.read_books()
        verifiers[group.leader, group.venue] = one
        of_plan |= {plan.follower: one for plan in group.plans}
    first = next(iter(verifiers.values()))
    for text in strangers(groups, truths):
        first.problem("unexplained order", text)
        first.verdict.duplicates += 1
    for claim in claims:
        if claim.cause == "restart":
            for one in verifiers.values():
                one.take(claim)
        else:
            of_plan.get(claim.plan, first).take(claim)
    return {key: one.finish() for key, one in verifiers.items()}


def together(verdicts: Mapping[tuple[str, str], Verdict], problems_max: int = 20) -> Verdict:
    """All of them as one: verified when each is; the leaders' events are counted once per leader."""
    whole = Verdict(verified=all(verdict.verified for verdict in verdicts.values()))
    summed = (
        "decisions", "orders", "fills", "duplicates", "omissions", "out_of_sync", "waiting_for_minimum", "legs",
        "legs_open", "legs_with_gap", "followers", "followers_in_sync", "legs_held_midway", "forgone_other_outside_restart",
        "forgone_disturbed",
    )  # fmt: skip
    for name in summed:
        setattr(whole, name, sum(getattr(verdict, name) for verdict in verdicts.values()))
    leaders = {leader: verdict for (leader, _), verdict in verdicts.items()}
    whole.leader_events = sum(verdict.leader_events for verdict in leaders.values())
    whole.heard_out_of_order = sum(verdict.heard_out_of_order for verdict in leaders.values())
    refused = {venue: verdict.orders_rejected for (_, venue), verdict in verdicts.items()}  # an exchange keeps one list
    whole.orders_rejected = sum(refused.values())
    whole.restarts = max((verdict.restarts for verdict in verdicts.values()), default=0)
    for name in ("forgone", "stops", "problem_counts"):
        counts: Counter[str] = Counter()
        for verdict in verdicts.values():
            counts.update(getattr(verdict, name))
        setattr(whole, name, dict(counts.most_common()))
    whole.problems = [
        f"{leader} on {venue}: {text}" for (leader, venue), verdict in verdicts.items() for text in verdict.problems
    ][:problems_max]
    return whole
