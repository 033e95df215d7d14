"""Whole periods over random histories: books balance, owed is charged less paid, every statement holds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core.fees import DAY_NS, E8, NAV_ONE, FeeTerms, Payment, Period
from copyd.errors import SettlementRefused
from copyd.settlement import Flow, PlanSnapshot, Sample, Snapshot, Trade, decode_snapshot, encode_snapshot, verify_statement
from copyd.settlement.calculate import PlanState, Step, average_of, calculate, closing_state
from copyd.settlement.statements import write_statements
from copyd.settlement.transfers import net_of, transfers_of
from tests.settlement.people import BEGIN, first_week

AMOUNT = st.integers(1, 10**13)
TERMS = st.builds(
    FeeTerms, performance_bps=st.integers(0, 5_000), management_bps_per_year=st.integers(0, 500),
    management_e8=st.integers(0, E8),
    subscription_e8=st.integers(0, E8), platform_share_bps=st.integers(0, 10_000),
    period=st.sampled_from([Period.WEEKLY, Period.MONTHLY]), average_guard=st.booleans(),
)  # fmt: skip


@st.composite
def weeks(draw: st.DrawFn) -> list[Snapshot]:
    """A few plans over a few weeks: flows, trades, losses beyond zero, stops, little free, new terms."""
    navs: dict[int, tuple[int, int]] = {}
    found = []
    for week in range(draw(st.integers(1, 4))):
        begin = BEGIN + week * 7 * DAY_NS
        plans = [draw(a_plan(number, begin, navs)) for number in range(3)]
        free = {plan.follower_account: plan.free_e8 for plan in plans}
        plans = [msgspec.structs.replace(plan, free_e8=free[plan.follower_account]) for plan in plans]
        found.append(Snapshot(1, f"w{week}", begin + 7 * DAY_NS, "house", plans))
    return found


@st.composite
def a_plan(draw: st.DrawFn, number: int, begin: int, navs: dict[int, tuple[int, int]]) -> PlanSnapshot:
    """One plan's week; ``navs`` keeps NAV and open profit from week to week."""
    nav, open_before = navs.get(number, (0, 0))
    flows, trades = [], []
    nav -= open_before  # open profit is counted at the week's end alone
    for hour in range(draw(st.integers(0 if number in navs else 1, 4))):
        amount = draw(AMOUNT) if nav <= 0 or draw(st.booleans()) else -draw(st.integers(1, nav))
        flows.append(Flow(begin + hour * 10**9, amount, nav))
        nav += amount
        if nav == 0:
            break  # all is out: nothing trades until money comes in again
        profit = draw(st.integers(-max(nav, 0) - 10, max(nav, 0)))
        trades.append(Trade(begin + hour * 10**9 + 1, "BTCUSDT", profit + 3, 3))
        nav += profit
    settled_open = draw(st.integers(-E8, E8)) if nav else 0
    nav += settled_open
    stopped = draw(st.integers(0, 9)) == 0
    terms = draw(TERMS)
    samples = [Sample(begin + 5 * DAY_NS, draw(AMOUNT)), Sample(begin + 6 * DAY_NS, draw(AMOUNT))]
    navs[number] = (0, 0) if stopped else (nav, settled_open)
    return PlanSnapshot(
        f"p{number}", f"f{number // 2}", f"l{number % 2}", f"wallet {number // 2}", f"lead {number % 2}", nav,
        draw(st.integers(-E8, 10**12)), E8, settled_open, 0, flows, trades, samples, terms, stopped,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(history=weeks())
def test_books_balance_and_statements_hold(history: list[Snapshot], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Over any history: debits equal credits, owed = charged − paid, nobody pays what is not free, every statement holds."""
    states: dict[tuple[str, str], PlanState] = {}
    charged = paid = 0
    for snapshot in history:
        results = calculate(states, snapshot)
        assert results == calculate(states, decode_snapshot(encode_snapshot(snapshot)))
        transfers = transfers_of(snapshot, results)
        assert sum(net_of(transfers).values()) == 0
        for account in {plan.follower_account for plan in snapshot.plans}:
            free = next(plan.free_e8 for plan in snapshot.plans if plan.follower_account == account)
            assert sum(one.amount_e8 for one in transfers if one.source == account) <= max(0, free)
        charged += sum(one.fee.total_e8 for one in results)
        paid += sum(one.amount_e8 for one in transfers)
        states |= {(one.plan.follower, one.plan.leader): closing_state(one) for one in results}
        assert sum(state.account.receivable_e8 for state in states.values()) == charged - paid
        folder = tmp_path_factory.mktemp("s")
        write_statements(folder, snapshot, [(one, outcomes(one.payment)) for one in results], lambda n: None)
        assert all(verify_statement(path) for path in folder.glob("*ers/*"))


def outcomes(payment: Payment) -> tuple[str, str]:
    return ("executed" * bool(payment.leader_e8), "executed" * bool(payment.platform_e8))


def test_the_average_weighs_time_and_forgets_what_is_older_than_72_hours() -> None:
    """A sample stands until the next; what lies before the window does not count."""
    account = calculate({}, first_week())[0].before
    now = 10 * DAY_NS
    steps = [Step(Sample(now - days * DAY_NS, 0), account, value * NAV_ONE) for days, value in ((4, 100), (2, 1), (1, 3))]
    assert average_of(steps, now) == 2 * NAV_ONE
    assert average_of(steps[:1], now) is None
    assert average_of(steps[-1:], now - DAY_NS) == 3 * NAV_ONE


def test_terms_that_make_no_sense_are_refused_where_they_stand() -> None:
    """The sentence of the rule, with its place in the file."""
    body = encode_snapshot(first_week()).replace(b'"performance_bps":1000', b'"performance_bps":9000', 1)
    with pytest.raises(SettlementRefused, match=r"performance_bps is 9000: give a whole number from 0 to 5000 .*\$.plans\[0\]"):
        decode_snapshot(body)
