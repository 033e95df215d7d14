"""What a snapshot costs: the rules of ``core.fees`` over every plan. Pure: same accounts, same snapshot, same result."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from copyd.core import fees
from copyd.core.fees import AVERAGE_NS, Fee, Payment, UnitAccount
from copyd.errors import SettlementRefused
from copyd.settlement.snapshot import Flow, PlanSnapshot, Sample, Snapshot
from copyd.settlement.text import money

PROBLEMS_MAX = 100


class PlanState(msgspec.Struct, frozen=True, gc=False):
    """One follower with one leader between settlements: the fee account, and the NAV the next one must add up from."""

    account: UnitAccount
    nav_e8: int = 0
    unrealised_e8: int = 0


class Step(msgspec.Struct, frozen=True, gc=False):
    """A flow or sample and the account just after it; ``value``: NAV per unit at a sample."""

    event: Flow | Sample
    account: UnitAccount
    value: int = 0


class PlanResult(msgspec.Struct, frozen=True):
    """One plan's settlement. ``before``: after all flows, not yet charged; ``closing``: charged, and ``payment`` paid.

    ``free_e8`` is what this plan may take of its account: several plans share what is free in the order of their names.
    """

    plan: PlanSnapshot
    opening: PlanState
    steps: list[Step]
    before: UnitAccount
    average: int | None
    due: bool
    fee: Fee
    free_e8: int
    payment: Payment
    closing: UnitAccount


States = Mapping[tuple[str, str], PlanState]


def calculate(states: States, snapshot: Snapshot, advance: Callable[[int], None] = lambda plans: None) -> list[PlanResult]:
    """Every plan in the order of names. SettlementRefused lists what does not add up (the first hundred)."""
    results: list[PlanResult] = []
    wrong: list[str] = []
    taken: dict[str, int] = {}
    for plan in sorted(snapshot.plans, key=lambda one: one.plan):
        opening = states.get((plan.follower, plan.leader)) or new_state(plan, snapshot.as_of)
        already = taken.get(plan.follower_account, 0)
        try:
            result = settle_plan(opening, plan, snapshot.as_of, plan.free_e8 - already)
        except ValueError as error:
            wrong.append(f"plan {plan.plan}: {error}")
            if len(wrong) == PROBLEMS_MAX:
                break
            continue
        taken[plan.follower_account] = already + result.payment.total_e8
        results.append(result)
        advance(1)
    if wrong:
        raise SettlementRefused(wrong)
    return results


def new_state(plan: PlanSnapshot, as_of: int) -> PlanState:
    """An account that is settled for the first time."""
    return PlanState(fees.opened(plan.terms, plan.flows[0].ts if plan.flows else as_of))


def settle_plan(opening: PlanState, plan: PlanSnapshot, as_of: int, free_e8: int) -> PlanResult:
    """One plan: flows and samples in the order of time, then what is due is charged and what is free is paid.

    ValueError where a flow is impossible or NAV is not what flows, trades and funding make of the last one.
    """
    refuse_what_does_not_add_up(opening, plan)
    account = opening.account
    if plan.terms != account.terms or account.next_terms is not None:
        account = fees.change_terms(account, plan.terms)
    steps: list[Step] = []
    for event in merge_events(plan):
        if isinstance(event, Sample):
            steps.append(Step(event, account, fees.nav_per_unit(account, event.nav_e8)))
            continue
        account = apply_flow(account, event, average_of(steps, event.ts))
        steps.append(Step(event, account))
    average = average_of(steps, as_of)
    before = fees.accrue(account, as_of, plan.nav_e8)
    due = plan.stopped or fees.is_due(before, as_of)
    closing, fee = fees.crystallise(before, as_of, plan.nav_e8, average, stop=plan.stopped) if due else (before, Fee())
    if before.units == 0 and plan.nav_e8 != 0:
        raise ValueError(f"NAV is {money(plan.nav_e8)}, but all was withdrawn or nothing ever came in: a flow is missing")
    closing, payment = fees.collect(closing, free_e8)
    return PlanResult(plan, opening, steps, before, average, due, fee, free_e8, payment, closing)


def merge_events(plan: PlanSnapshot) -> Iterator[Flow | Sample]:
    """Flows and samples in the order of time, a flow before a sample of the same moment."""
    events: list[Iterable[Flow | Sample]] = [plan.flows, plan.samples]
    return iter(heapq.merge(*events, key=lambda one: one.ts))


def apply_flow(account: UnitAccount, flow: Flow, average: int | None) -> UnitAccount:
    """A deposit or a withdrawal; ValueError when it is neither or impossible."""
    if flow.amount_e8 < 0:
        return fees.withdraw(account, flow.ts, -flow.amount_e8, flow.nav_before_e8, average)
    return fees.deposit(account, flow.ts, flow.amount_e8, flow.nav_before_e8)


def average_of(steps: Iterable[Step], ts: int) -> int | None:
    """NAV per unit averaged over time in the 72 h before ``ts``, rounded down; None without a sample in them.

    A sample stands until the next one; the window begins at the first sample inside it.
    """
    inside = [(step.event.ts, step.value) for step in steps if isinstance(step.event, Sample) and step.event.ts > ts - AVERAGE_NS]
    if not inside:
        return None
    ends = [at for at, _ in inside[1:]] + [ts]
    weights = [end - at for (at, _), end in zip(inside, ends, strict=True)]
    if not sum(weights):
        return inside[-1][1]
    return sum(value * weight for (_, value), weight in zip(inside, weights, strict=True)) // sum(weights)


def refuse_what_does_not_add_up(opening: PlanState, plan: PlanSnapshot) -> None:
    """NAV must be the last one plus flows, trades after commission, funding and the change of open profit (semantics 37)."""
    flows = sum(flow.amount_e8 for flow in plan.flows)
    trades = sum(trade.realised_e8 - trade.fee_e8 for trade in plan.trades)
    expected = opening.nav_e8 + flows + trades + plan.funding_e8 + plan.unrealised_e8 - opening.unrealised_e8
    if plan.nav_e8 != expected:
        raise ValueError(
            f"NAV is {money(plan.nav_e8)}, but {money(opening.nav_e8)} before, flows {money(flows)}, trades {money(trades)}, "
            f"funding {money(plan.funding_e8)} and open profit {money(plan.unrealised_e8 - opening.unrealised_e8)} make "
            f"{money(expected)}: reconcile the plan, then settle"
        )


def closing_state(result: PlanResult, refused_leader: bool = False, refused_platform: bool = False) -> PlanState:
    """The account after the transfers: what was refused is owed again."""
    closing = result.closing
    if refused_leader or refused_platform:
        closing = msgspec.structs.replace(
            closing,
            receivable_leader_e8=closing.receivable_leader_e8 + refused_leader * result.payment.leader_e8,
            receivable_platform_e8=closing.receivable_platform_e8 + refused_platform * result.payment.platform_e8,
        )
    if result.plan.stopped:
        return PlanState(closing)
    return PlanState(closing, result.plan.nav_e8, result.plan.unrealised_e8)
