"""What is settled: every plan's worth at one moment and what happened to it since the last settlement.

The boundary to whoever makes it: a :class:`SnapshotSource` gives a :class:`Snapshot`, JSON carries it. Money is in 1e-8
("e8"), times in ns UTC. NAV is the plan's equity without any copy fee: allocation + realised + unrealised − commissions +
funding (semantics 37), from reconciled fills only. A flow is a change of the plan's allocation by command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec

from copyd.core.fees import AVERAGE_NS, FeeTerms
from copyd.errors import SettlementRefused

PERIOD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}", re.ASCII)


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Money into the plan (above 0) or out of it (below 0), and NAV just before."""

    ts: int
    amount_e8: int
    nav_before_e8: int


class Trade(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One reconciled fill: profit it realised before commission, and its commission (above 0: paid)."""

    ts: int
    symbol: str
    realised_e8: int
    fee_e8: int


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """NAV at a moment; only plans whose terms charge on the 72 h average need them."""

    ts: int
    nav_e8: int


class PlanSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan. ``free_e8``: what the follower's account could pay now without touching margin.

    ``flows``, ``trades``, ``samples`` and ``funding_e8`` are those since the plan was last in a settlement, in the order of
    their time. ``stopped``: the plan has ended, everything is charged and its units are redeemed.
    """

    plan: str
    follower: str
    leader: str
    follower_account: str
    leader_account: str
    nav_e8: int
    free_e8: int
    allocation_e8: int
    unrealised_e8: int = 0
    funding_e8: int = 0
    flows: list[Flow] = []
    trades: list[Trade] = []
    samples: list[Sample] = []
    terms: FeeTerms = FeeTerms()
    stopped: bool = False


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All plans at ``as_of``. ``period`` names the settlement and is used once; ``site``: 16-bit tag of the installation."""

    site: int
    period: str
    as_of: int
    platform_account: str
    plans: list[PlanSnapshot]


class SnapshotSource(Protocol):
    """Whoever knows the plans."""

    def snapshot(self, period: str, as_of: int) -> Snapshot:
        """Every plan as it stood at ``as_of``, with what happened since it was last settled."""
        ...


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Canonical JSON: plans by name, keys sorted. The same snapshot gives the same bytes."""
    plans = sorted(snapshot.plans, key=lambda plan: plan.plan)
    return msgspec.json.encode(msgspec.structs.replace(snapshot, plans=plans), order="sorted")


def decode_snapshot(body: bytes, name: str = "snapshot") -> Snapshot:
    """The inverse; SettlementRefused names what is wrong and where in the JSON."""
    try:
        return msgspec.json.decode(body, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise SettlementRefused([f"{name}: {error}"]) from None


def problems(snapshot: Snapshot, now_ns: int) -> list[str]:
    """Everything that makes a snapshot unfit, one sentence each: names, times, negative allocations (semantics 40)."""
    return list(_problems(snapshot, now_ns))


def _problems(snapshot: Snapshot, now_ns: int) -> Iterator[str]:
    if not PERIOD.fullmatch(snapshot.period):
        yield f"period {snapshot.period!r}: give 1 to 32 letters, digits, points, dashes (2026-W07)"
    if not 0 <= snapshot.site <= 0xFFFF:
        yield f"site {snapshot.site} does not fit 16 bits"
    if snapshot.as_of > now_ns:
        yield f"as_of {snapshot.as_of} lies {(snapshot.as_of - now_ns) / 1e9:.0f} s in the future: settle what has happened"
    if snapshot.as_of <= 0:
        yield f"as_of {snapshot.as_of}: nothing can be settled up to then"
    yield from _name("platform_account", snapshot.platform_account)
    plans: set[str] = set()
    pairs: dict[tuple[str, str], str] = {}
    free: dict[str, int] = {}
    for plan in snapshot.plans:
        if plan.plan in plans:
            yield f"plan {plan.plan}: listed twice"
        plans.add(plan.plan)
        other = pairs.setdefault((plan.follower, plan.leader), plan.plan)
        if other != plan.plan:
            yield f"plan {plan.plan}: {plan.follower} follows {plan.leader} with plan {other} as well; give both as one"
        if free.setdefault(plan.follower_account, plan.free_e8) != plan.free_e8:
            yield f"plan {plan.plan}: account {plan.follower_account} is given another free amount than in another plan"
        yield from (f"plan {plan.plan}: {text}" for text in _plan_problems(plan, snapshot))


def _plan_problems(plan: PlanSnapshot, snapshot: Snapshot) -> Iterator[str]:
    for name in ("plan", "follower", "leader", "follower_account", "leader_account"):
        yield from _name(name, getattr(plan, name))
    if plan.allocation_e8 < 0:
        yield f"allocation is negative ({plan.allocation_e8} e8): correct the plan before settling it"
    if plan.follower_account in (plan.leader_account, snapshot.platform_account):
        yield f"account {plan.follower_account} would pay a fee to itself"
    for what, events in (("flow", plan.flows), ("trade", plan.trades), ("sample", plan.samples)):
        before = 0
        for event in events:
            if event.ts < before:
                yield f"{what} at {event.ts} comes after one at {before}: list them in the order of their time"
                break
            before = event.ts
        if before > snapshot.as_of:
            yield f"{what} at {before} is later than as_of {snapshot.as_of}"
    yield from (f"trade at {trade.ts}: {text}" for trade in plan.trades for text in _name("symbol", trade.symbol))
    if plan.terms.average_guard and plan.nav_e8 > 0 and not any(one.ts > snapshot.as_of - AVERAGE_NS for one in plan.samples):
        yield "its terms charge on the 72 h average, but no sample of those 72 h is given"


def _name(what: str, text: str) -> Iterator[str]:
    """Names go into files and columns: not empty, printable, not too long."""
    if not text or len(text) > 120 or not text.isprintable() or text != text.strip():
        yield f"{what} {text!r}: give 1 to 120 printable characters, without spaces around them"
