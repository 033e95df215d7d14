"""Fees on unit NAV: the rules of semantics section 7 in a trader's words, and what no sequence of flows may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core import fees
from copyd.core.fees import DAY_NS, E8, NAV_ONE, SCALE, UNIT, FeeTerms, Period, UnitAccount

MONDAY = 4 * DAY_NS  # 1970-01-05

RULES = """
a gain is charged at the week's end, at 10 %         : in 1000, nav 1100, week                  => fee 10, mark 1.1
no gain, no fee                                      : in 1000, week                            => fee 0, mark 1
a loss is not charged and leaves the mark            : in 1000, nav 900, week                   => fee 0, mark 1
a loss is recovered before anything is charged again : in 1000, nav 900, week, nav 1000, week   => fee 0, mark 1
what is above the old mark is charged, once          : in 1000, nav 900, week, nav 1100, week   => fee 10, mark 1.1
the same gain is not charged twice                   : in 1000, nav 1100, week, week            => fee 0, mark 1.1
down and back to the mark costs nothing              : in 1000, nav 1100, week, nav 500, week, nav 1100, week => fee 0
a deposit is not a gain                              : in 1000, in 9000, week                   => fee 0, mark 1
a withdrawal is not a loss                           : in 1000, out 600, week                   => fee 0, mark 1
new money owes nothing for what old money earned     : in 1000, nav 1100, in 1100, week         => fee 10
...and once charged both stand at the same mark      : in 1000, nav 1100, in 1100, week         => mark 1.1
new money inside a loss has the loss's mark          : in 1000, nav 500, in 500, nav 2000, week => fee 0, mark 1
...and pays above it like the old money              : in 1000, nav 500, in 500, nav 2200, week => fee 20
in and out again changes nothing in a loss           : in 1000, nav 500, in 9500, out 9500, nav 1100, week => fee 10
a withdrawal owes the fee on its share               : in 1000, nav 1200, out 600               => pending 10
...and the rest is charged at the period's end       : in 1000, nav 1200, out 600, week         => fee 20, mark 1.2
in and out again changes nothing in a gain           : in 1000, nav 1200, in 1200, out 1200, week => fee 20
taking all out charges all of it                     : in 1000, nav 1200, out 1200, week        => fee 20, units 0
a stop charges at once                               : in 1000, nav 1200, stop                  => fee 20, units 0
after a stop the mark stays 180 days                 : in 1000, nav 600, stop, days 180, in 600, nav 1000, week => fee 0
...so that coming back to avoid it does not help     : in 1000, nav 600, stop, days 180, in 600, nav 1100, week => fee 10
...and after that it begins anew                     : in 1000, nav 600, stop, days 181, in 600, nav 1000, week => fee 40
a new rate begins with the next period               : in 1000, rate 2000, nav 1100, week       => fee 10
...and holds from there                              : in 1000, rate 2000, nav 1100, week, nav 1200, week => fee 20
a withdrawal does not bring a new rate forward       : in 1000, rate 2000, nav 1200, out 600    => pending 10
coming back after a stop means the new terms           : in 1000, stop, rate 2000, in 1000, nav 1100, week => fee 20
charged on close only                                : terms on_close, in 1000, nav 1100, week  => fee 0, mark 1
...then all of it                                    : terms on_close, in 1000, nav 1100, week, nav 1200, stop => fee 20
a management fee counts days                         : terms managed, in 1000, days 73, settle  => fee 20
...not days without money                            : terms managed, in 1000, out 1000, days 73, settle => fee 0
a subscription is shared out over the month's days   : terms subscribed, days 25, in 1000, month => fee 2
a full month costs the full subscription             : terms subscribed, days 27, in 1000, month => fee 31
what is not free is not taken                        : in 1000, nav 1100, week, free 4          => pays 4, owes 6
...it is owed, and paid when there is room           : in 1000, nav 1100, week, free 4, free 50 => pays 6, owes 0
nothing free, nothing taken                          : in 1000, nav 1100, week, free -3         => pays 0, owes 10
the platform's part comes out of the leader's fee    : terms shared, in 1000, nav 1100, week    => leader 7, platform 3
a part payment is shared like the fee                : terms shared, in 1000, nav 1100, week, free 5 => leader 3.5, platform 1.5
the guard charges on the three days' average         : terms guarded, in 1000, nav 1300, avg 1.1, week => fee 10, mark 1.1
...what it left is charged when it has lasted        : terms guarded, in 1000, nav 1300, avg 1.1, week, avg 1.3, week => fee 20
...but what a stop left is gone for new money         : terms guarded, in 10, nav 13, avg 1.1, stop, in 13, avg 1.3, week => fee 0
a total loss is no gain                              : in 1000, nav 0, week                     => fee 0, mark 1
below zero neither                                   : in 1000, nav -50, week                   => fee 0, mark 1
money after a total loss carries the loss along      : in 1000, nav 0, in 1000, nav 2000, week  => fee 0
...and is charged once all of it is back             : in 1000, nav 0, in 1000, nav 2100, week  => fee 10
a minor unit cannot be split, the follower keeps it  : in 1000, nav 1000.00000009, week         => fee 0
"""

TERMS = {
    "on_close": FeeTerms(period=Period.ON_CLOSE),
    "managed": FeeTerms(performance_bps=0, management_bps_per_year=1_000, period=Period.MONTHLY),
    "subscribed": FeeTerms(subscription_e8=31 * E8, period=Period.MONTHLY),
    "shared": FeeTerms(platform_share_bps=3_000),
    "guarded": FeeTerms(average_guard=True),
}


def e8(text: str) -> int:
    return int(Fraction(text) * E8)


@dataclass
class Story:
    """A follower's life, one word and one number at a time."""

    account: UnitAccount = field(default_factory=lambda: fees.opened(FeeTerms(), MONDAY))
    now: int = MONDAY
    nav: int = 0
    average: int | None = None
    seen: dict[str, int] = field(default_factory=dict)

    def do(self, word: str, value: str = "") -> None:
        match word:
            case "terms":
                self.account = fees.opened(TERMS[value], MONDAY)
            case "rate":
                terms = msgspec.structs.replace(self.account.terms, performance_bps=int(value))
                self.account = fees.change_terms(self.account, terms)
            case "in":
                self.account = fees.deposit(self.account, self.now, e8(value), self.nav)
                self.nav += e8(value)
            case "out":
                self.account = fees.withdraw(self.account, self.now, e8(value), self.nav, self.average)
                self.nav -= e8(value)
            case "nav":
                self.nav = e8(value)
            case "avg":
                self.average = int(Fraction(value) * NAV_ONE)
            case "days":
                self.now += int(value) * DAY_NS
            case "free":
                self.account, paid = fees.collect(self.account, e8(value))
                self.seen |= {"pays": paid.total_e8, "leader": paid.leader_e8, "platform": paid.platform_e8}
            case "week" | "month" | "settle" | "stop":
                self.charge(word)
            case _:
                raise AssertionError(word)

    def charge(self, word: str) -> None:
        if word == "week":
            self.now += 7 * DAY_NS
        elif word == "month":  # to the first of February or of March
            self.now = (31 if self.now < 31 * DAY_NS else 59) * DAY_NS
        assert word != "week" or self.account.terms.period != Period.WEEKLY or fees.is_due(self.account, self.now)
        self.account, fee = fees.crystallise(self.account, self.now, self.nav, self.average, stop=word == "stop")
        if word == "stop":
            self.nav = 0
        self.seen |= {"fee": fee.total_e8, "leader": fee.leader_e8, "platform": fee.platform_e8}

    def value(self, word: str) -> Fraction:
        match word:
            case "mark":
                return Fraction(self.account.mark, NAV_ONE)
            case "units":
                return Fraction(self.account.units, UNIT)
            case "owes":
                return Fraction(self.account.receivable_e8, E8)
            case "pending":
                return Fraction(self.account.pending_e8, E8)
        return Fraction(self.seen[word], E8)


def table() -> list[tuple[str, str, str]]:
    rows = []
    for line in RULES.strip().splitlines():
        rule, story = line.split(":")
        steps, result = story.split("=>")
        rows.append((rule.strip(), steps.strip(), result.strip()))
    return rows


@pytest.mark.parametrize(("rule", "steps", "result"), table(), ids=[rule for rule, _, _ in table()])
def test_the_rules_in_a_traders_words(rule: str, steps: str, result: str) -> None:
    """One line, one rule: what happens, and what it costs."""
    story = Story()
    for step in steps.split(","):
        story.do(*step.split())
    for expected in result.split(","):
        word, value = expected.split()
        assert story.value(word) == Fraction(value), f"{rule}: {word} is {float(story.value(word))}"


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    """A period ends at 00:00 UTC; what closes only on a stop is due when a withdrawal left something to charge."""
    def due(period: Period, first: int, then: int) -> bool:
        return fees.is_due(fees.opened(FeeTerms(period=period), first), then)

    next_monday = MONDAY + 7 * DAY_NS
    assert not due(Period.WEEKLY, MONDAY, next_monday - 1) and due(Period.WEEKLY, next_monday - 1, next_monday)
    assert not due(Period.MONTHLY, 0, 31 * DAY_NS - 1) and due(Period.MONTHLY, 31 * DAY_NS - 1, 31 * DAY_NS)
    closing = fees.deposit(fees.opened(TERMS["on_close"], 0), 0, 100, 0)
    assert not fees.is_due(closing, 400 * DAY_NS)
    assert fees.is_due(fees.withdraw(closing, 1, 100, 100), 2)


# --- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ({"performance_bps": 5_001}, "performance_bps is 5001: give a whole number from 0 to 5000"),
        ({"performance_bps": -1}, "performance_bps is -1"),
        ({"management_bps_per_year": 10_001}, "100 % a year"),
        ({"platform_share_bps": 10_001}, "100 % of the leader's fee"),
        ({"management_e8": -1}, "a fee cannot be negative"),
        ({"subscription_e8": -1}, "a fee cannot be negative"),
        ({"subscription_e8": 1, "period": Period.ON_CLOSE}, "choose weekly or monthly"),
    ],
)
def test_terms_that_make_no_sense_are_refused_with_what_to_do(terms: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match="fee terms") as refused:
        FeeTerms(**terms)  # type: ignore[arg-type]
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("in 0", "must be above 0"),
        ("in -1", "must be above 0"),
        ("in 10, out 11", "at most NAV"),
        ("in 10, out 0", "must be above 0"),
        ("nav 10, week", "its first flow is missing"),
        ("nav 10, in 10", "its first flow is missing"),
        ("nav 10, out 10", "first deposit is missing"),
        ("in 10, days -1, in 10", "in the order of their time"),
    ],
)
def test_flows_that_make_no_sense_are_refused(steps: str, sentence: str) -> None:
    story = Story()
    with pytest.raises(ValueError, match=sentence):
        for step in steps.split(","):
            story.do(*step.split())


# --- properties ------------------------------------------------------------------------------------------------------------

MONEY = st.integers(1, 10**16)  # up to 100 million
BPS_ST = st.integers(0, 5_000)
FACTOR = st.integers(1, 10_000)  # what trading makes of NAV, ‰


def owed(account: UnitAccount, nav: int) -> int:
    """All performance fee so far: paid or not, crystallised or not."""
    return account.pending_e8 + account.receivable_e8 + fees.performance_fee(account, nav)


@st.composite
def lives(draw: st.DrawFn, flows: str = "dw") -> list[tuple[str, int]]:
    """Deposits, withdrawals (‰ of NAV), results (‰) and crystallisations, beginning with a deposit."""
    step = st.one_of(*[st.tuples(st.just(letter), MONEY if letter == "d" else st.integers(1, 1_000)) for letter in flows],
                     st.tuples(st.just("x"), st.integers(200, 3_000)), st.tuples(st.just("c"), st.just(0)))
    return [("d", draw(MONEY)), *draw(st.lists(step, max_size=25))]


@settings(max_examples=300, deadline=None)
@given(start=MONEY, factor=FACTOR, bps=BPS_ST, flows=st.lists(st.tuples(st.booleans(), MONEY), max_size=20))
def test_flows_at_one_moment_create_and_destroy_no_fee(start: int, factor: int, bps: int, flows: list[tuple[bool, int]]) -> None:
    """Whatever goes in and out at one NAV per unit, what is owed stays: never more, at most a minor unit less per flow."""
    account = fees.deposit(fees.opened(FeeTerms(performance_bps=bps), 0), 0, start, 0)
    nav = start * factor // 1_000
    before = owed(account, nav)
    for number, (into, amount) in enumerate(flows, 1):
        if into:
            account = fees.deposit(account, 0, amount, nav) if nav > 0 else account
            nav += amount if nav > 0 else 0
        elif nav > 0:
            amount = min(amount, nav)
            account = fees.withdraw(account, 0, amount, nav)
            nav -= amount
            if nav == 0:
                break
        assert before - number <= owed(account, nav) <= before


@dataclass
class Lot:
    """Money that came in together, kept apart: a follower of its own, without flows, in exact fractions."""

    value: Fraction
    mark: Fraction  # what it must be worth before it pays


class Apart:
    """Every deposit as a follower of its own, who pays on what his money gained since it came and on nothing else."""

    def __init__(self, bps: int) -> None:
        self.rate, self.lots, self.paid = Fraction(bps, 10_000), list[Lot](), Fraction(0)

    def deposit(self, amount: int) -> None:
        self.lots.append(Lot(Fraction(amount), Fraction(amount)))

    def withdraw(self, amount: int) -> None:
        left = 1 - Fraction(amount, 1) / sum(lot.value for lot in self.lots)
        for lot in self.lots:
            self.paid += (1 - left) * self.rate * max(Fraction(0), lot.value - lot.mark)
            lot.value *= left
            lot.mark *= left

    def move(self, factor: Fraction) -> None:
        for lot in self.lots:
            lot.value *= factor

    def crystallise(self) -> None:
        for lot in self.lots:
            self.paid += self.rate * max(Fraction(0), lot.value - lot.mark)
            lot.mark = max(lot.mark, lot.value)


def live(life: list[tuple[str, int]], bps: int, into_losses: bool = True) -> tuple[UnitAccount, int, Apart, int, bool]:
    """One life with units and apart: account, NAV, oracle, operations, and whether NAV per unit ends at its highest."""
    account, nav, apart = fees.opened(FeeTerms(performance_bps=bps), 0), 0, Apart(bps)
    index = top = Fraction(1)
    done = 0
    for word, value in life:
        if word == "d":
            if not into_losses and nav * SCALE < account.units * (account.mark - NAV_ONE // 10**12):
                continue
            account = fees.deposit(account, 0, value, nav)
            apart.deposit(value)
            nav += value
        elif nav > 0 and word == "w":
            amount = nav * value // 1_000
            if not 0 < amount < nav:
                continue
            account = fees.withdraw(account, 0, amount, nav)
            apart.withdraw(amount)
            nav -= amount
        elif nav > 0 and word == "x":
            after = nav * value // 1_000
            if after == 0:
                continue
            apart.move(Fraction(after, nav))
            index *= Fraction(after, nav)
            top = max(top, index)
            nav = after
        elif word == "c":
            account, _ = fees.crystallise(account, 0, nav)
            apart.crystallise()
        done += 1
    return account, nav, apart, done, index == top


@settings(max_examples=300, deadline=None)
@given(life=lives(), bps=BPS_ST)
def test_nobody_pays_more_than_his_money_would_have_paid_apart(life: list[tuple[str, int]], bps: int) -> None:
    """Splitting, adding, taking out, in any order at any NAV: never more than each deposit as a follower of its own."""
    account, nav, apart, _, _ = live(life, bps)
    apart.crystallise()
    assert owed(account, nav) <= apart.paid


@settings(max_examples=300, deadline=None)
@given(life=lives("d"), bps=BPS_ST)
def test_capital_that_comes_in_parts_pays_the_same(life: list[tuple[str, int]], bps: int) -> None:
    """At a new high what has been charged is what the parts would have paid apart, within a minor unit per operation.

    Money that comes in below the mark is left out: it recovers the loss free of charge, apart it would pay for that.
    """
    account, nav, apart, done, high = live([*life, ("x", 3_000), ("x", 3_000)], bps, False)
    while not high:  # one more good week, until it is a new high
        life = [*life, ("x", 3_000)]
        account, nav, apart, done, high = live(life, bps, False)
    apart.crystallise()
    assert apart.paid - done - 1 <= owed(account, nav) <= apart.paid


@settings(max_examples=200, deadline=None)
@given(start=MONEY, bps=BPS_ST, path=st.lists(st.integers(1, 3_000), min_size=1, max_size=20))
def test_a_loss_and_its_recovery_are_charged_once(start: int, bps: int, path: list[int]) -> None:
    """However often it is charged on the way, all fees together are the rate on the highest NAV charged, and no more."""
    account = fees.deposit(fees.opened(FeeTerms(performance_bps=bps), 0), 0, start, 0)
    high = start
    for factor in path:
        nav = start * factor // 1_000
        high = max(high, nav)
        account, _ = fees.crystallise(account, 0, nav)
    exact = Fraction((high - start) * bps, 10_000)
    assert exact - len(path) <= account.receivable_e8 <= exact


@settings(deadline=None)
@given(
    total=MONEY, share=st.integers(0, 10_000), bps=BPS_ST, free=st.lists(st.integers(-10, 10**15), max_size=10),
    days=st.integers(0, 40), management=st.integers(0, 10**12),
)
def test_parts_sum_to_the_minor_unit(total: int, share: int, bps: int, free: list[int], days: int, management: int) -> None:
    """Leader and platform together are what the follower pays, in every part payment and over all of them."""
    terms = FeeTerms(performance_bps=bps, platform_share_bps=share, management_e8=management, management_bps_per_year=200)
    account = fees.deposit(fees.opened(terms, 0), 0, total, 0)
    account, fee = fees.crystallise(account, days * DAY_NS, total * 2)
    assert fee.total_e8 == fee.performance_e8 + fee.management_e8 + fee.subscription_e8 == account.receivable_e8
    paid = 0
    for room in [*free, 10**18]:
        before = account.receivable_e8
        account, payment = fees.collect(account, room)
        assert payment.leader_e8 >= 0 and payment.platform_e8 >= 0 and payment.total_e8 == min(before, max(room, 0))
        assert account.receivable_leader_e8 >= 0 and account.receivable_platform_e8 >= 0
        paid += payment.total_e8
    assert paid == fee.total_e8 and account.receivable_e8 == 0


@settings(deadline=None)
@given(life=lives(), bps=BPS_ST)
def test_two_runs_give_the_same_bytes(life: list[tuple[str, int]], bps: int) -> None:
    """The same flows give the same account, byte for byte, also through its encoding."""
    first, second = live(life, bps)[0], live(life, bps)[0]
    body = msgspec.json.encode(first)
    assert body == msgspec.json.encode(second)
    assert msgspec.json.encode(msgspec.json.decode(body, type=UnitAccount)) == body


@settings(deadline=None)
@given(life=lives(), bps=BPS_ST)
def test_what_was_charged_is_charged(life: list[tuple[str, int]], bps: int) -> None:
    """Just after a crystallisation nothing is above the mark, not even a fraction of a minor unit."""
    account, nav, *_ = live(life, bps)
    account, _ = fees.crystallise(account, 0, nav)
    assert fees.gain(account, nav) == 0


@settings(max_examples=200, deadline=None)
@given(life=lives(), bps=BPS_ST)
def test_rounding_never_raises_nav_per_unit(life: list[tuple[str, int]], bps: int) -> None:
    """A flow leaves NAV per unit where it was, or a hair below: what is above the mark was earned."""
    account, nav = fees.opened(FeeTerms(performance_bps=bps), 0), 0
    for word, value in life:
        before = nav_exact(account, nav)
        if word == "d":
            account, nav = fees.deposit(account, 0, value, nav), nav + value
        elif word == "w" and 0 < (amount := nav * value // 1_000) < nav:
            account, nav = fees.withdraw(account, 0, amount, nav), nav - amount
        elif word == "x" and nav * value // 1_000:
            nav = nav * value // 1_000
            continue
        assert nav_exact(account, nav) <= before


def nav_exact(account: UnitAccount, nav: int) -> Fraction:
    return Fraction(nav * SCALE, account.units) if account.units else Fraction(account.price)
