"""Fees on unit NAV, one follower with one leader: units, the mark, what is owed (semantics 38, 39). Pure and exact.

    deposit      buys units at NAV per unit                    withdraw   redeems units; their share of the fee is due
    crystallise  fee = rate × units × (NAV per unit − mark)    collect    pays what is free now, the rest is a receivable

NAV is the plan's equity: allocation + realised + unrealised − commissions + funding. Copy fees are not in it: they are paid
by the account, not by the plan, so a fee moves neither units nor NAV per unit, and NAV per unit is what trading alone made of
one unit. The operator who wants a fee to shrink the plan withdraws that amount; just after a crystallisation this costs nothing.

Flows create and destroy no fee:

- At or below the mark a deposit or withdrawal leaves the mark per unit alone: a loss must be recovered by every unit, once.
- Above it, a deposit raises the mark by just so much that the gain not yet charged stays what it was: new money owes nothing
  for what old money earned. A withdrawal makes its share of that gain due and leaves the rest.
- A NAV of zero or less has no price per unit: new money starts units at 1 and the loss is carried as an amount of money.

Roundings: units bought up, redeemed down (NAV per unit never rises by rounding); the mark up; every fee down; the platform's
share down, the leader takes what is left of it. All in the follower's favour, and the parts sum to what he pays.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum

import msgspec

from copyd.core.fixed import BPS, E8, mul_div_ceil

UNIT = 10**24
"""One unit. A quantum is 1e-16 of a minor unit at the start: still less than one where a minor unit grew to 100 million."""

NAV_ONE = E8 * UNIT
"""NAV per unit of 1.0 ("e32"): how every account starts."""

SCALE = UNIT * UNIT
"""units × NAV per unit ÷ SCALE is money in 1e-8: a gain is kept as this product and divided once, when it is charged."""

DAY_NS = 86_400_000_000_000
YEAR_DAYS = 365
REFOLLOW_NS = 180 * DAY_NS
"""So long after a stop the mark is kept (semantics 38)."""

AVERAGE_NS = 72 * 3_600_000_000_000
"""The window of the optional guard against a NAV pushed up for the moment it is charged."""

PERFORMANCE_BPS_MAX = 5_000
_EPOCH = date(1970, 1, 1).toordinal()


class Period(StrEnum):
    """When the performance fee crystallises, apart from withdrawals and stops."""

    WEEKLY = "weekly"  # weeks begin on Monday 00:00 UTC
    MONTHLY = "monthly"
    ON_CLOSE = "on_close"


class FeeTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a leader charges. ValueError with what is wrong and what to do; money in 1e-8, rates in bps.

    ``management_e8`` and ``subscription_e8`` are amounts per period and counted by the day, ``management_bps_per_year`` of NAV,
    a year being 365 days. ``platform_share_bps`` is the platform's part of all of it. ``average_guard``: charge on the
    lower of NAV per unit now and its 72 h average.
    """

    performance_bps: int = 1_000
    management_bps_per_year: int = 0
    management_e8: int = 0
    subscription_e8: int = 0
    platform_share_bps: int = 0
    period: Period = Period.WEEKLY
    average_guard: bool = False

    def __post_init__(self) -> None:
        limits = (
            ("performance_bps", PERFORMANCE_BPS_MAX, "50 % of the gain"),
            ("management_bps_per_year", BPS, "100 % a year"),
            ("platform_share_bps", BPS, "100 % of the leader's fee"),
        )
        for name, most, means in limits:
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"fee terms: {name} is {value}: give a whole number from 0 to {most} ({means})")
        for name in ("management_e8", "subscription_e8"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"fee terms: {name} is {value}: a fee cannot be negative; give 0 for none")
            if value and self.period is Period.ON_CLOSE:
                raise ValueError(f"fee terms: {name} is per period and on_close has none: choose weekly or monthly, or give 0")


class UnitAccount(msgspec.Struct, frozen=True, gc=False):
    """One follower with one leader. Units 1e-24, ``mark`` and ``price`` NAV per unit in 1e-32, money 1e-8, times ns UTC.

    ``pending_e8``: performance fee made due by withdrawals, ``management_e8`` and ``subscription_e8``: counted up to
    ``ts_accrued``; all three wait for the next crystallisation. Receivables are crystallised and not yet paid.
    ``price`` is only read while there are no units: what the last one was redeemed at.
    """

    terms: FeeTerms = FeeTerms()
    next_terms: FeeTerms | None = None
    units: int = 0
    mark: int = NAV_ONE
    price: int = NAV_ONE
    pending_e8: int = 0
    management_e8: int = 0
    subscription_e8: int = 0
    receivable_leader_e8: int = 0
    receivable_platform_e8: int = 0
    ts_accrued: int = 0
    ts_crystallised: int = 0
    ts_closed: int = 0

    @property
    def receivable_e8(self) -> int:
        """Crystallised and not paid yet."""
        return self.receivable_leader_e8 + self.receivable_platform_e8


class Fee(msgspec.Struct, frozen=True, gc=False):
    """One crystallisation, 1e-8: what it is for, and whose it is. ``total_e8`` is both sums."""

    performance_e8: int = 0
    management_e8: int = 0
    subscription_e8: int = 0
    leader_e8: int = 0
    platform_e8: int = 0

    @property
    def total_e8(self) -> int:
        """What the follower owes for it."""
        return self.leader_e8 + self.platform_e8


class Payment(msgspec.Struct, frozen=True, gc=False):
    """What can be paid now, 1e-8."""

    leader_e8: int = 0
    platform_e8: int = 0

    @property
    def total_e8(self) -> int:
        """What leaves the follower's account."""
        return self.leader_e8 + self.platform_e8


# --- reading an account ----------------------------------------------------------------------------------------------------


def nav_per_unit(account: UnitAccount, nav_e8: int) -> int:
    """NAV per unit in 1e-32, rounded down; the last price where there are no units, 0 where nothing is left."""
    if account.units == 0:
        return account.price
    return max(0, nav_e8) * SCALE // account.units


def gain(account: UnitAccount, nav_e8: int, average: int | None = None) -> int:
    """Gain above the mark over all units, 1e-8 × SCALE, exact; 0 at or below it. ``average``: NAV per unit of the guard."""
    above = nav_e8 * SCALE - account.units * account.mark
    if average is not None and account.terms.average_guard:
        above = min(above, account.units * (average - account.mark))
    return max(0, above)


def performance_fee(account: UnitAccount, nav_e8: int, average: int | None = None) -> int:
    """Performance fee if it crystallised now, 1e-8, rounded down (semantics 38)."""
    return gain(account, nav_e8, average) * account.terms.performance_bps // (BPS * SCALE)


def is_due(account: UnitAccount, ts: int) -> bool:
    """Whether a period ended since the last crystallisation; ``on_close``: whether anything closed since (semantics 38)."""
    before, now = account.ts_crystallised // DAY_NS, ts // DAY_NS
    if account.terms.period is Period.WEEKLY:
        return (now + 3) // 7 > (before + 3) // 7  # 1970-01-01 was a Thursday
    if account.terms.period is Period.MONTHLY:
        return _month(now) > _month(before)
    return account.pending_e8 > 0 or account.ts_closed > account.ts_crystallised


# --- flows -----------------------------------------------------------------------------------------------------------------


def opened(terms: FeeTerms, ts: int) -> UnitAccount:
    """A new account; its first deposit buys units at 1."""
    return UnitAccount(terms=terms, ts_accrued=ts, ts_crystallised=ts)


def deposit(account: UnitAccount, ts: int, amount_e8: int, nav_e8: int) -> UnitAccount:
    """``amount_e8`` comes in at a NAV of ``nav_e8`` before it (semantics 38). ValueError for an amount of 0 or less.

    After a stop the mark and the price go on where they were for 180 days; later, both start at 1 again.
    """
    if amount_e8 <= 0:
        raise ValueError(f"a deposit of {amount_e8} e8: it must be above 0")
    account = accrue(account, ts, nav_e8)
    if account.ts_closed and ts - account.ts_closed > REFOLLOW_NS:
        account = msgspec.structs.replace(account, units=0, mark=NAV_ONE, price=NAV_ONE)
    units, mark = account.units, account.mark
    if units == 0:
        if nav_e8 != 0:
            raise ValueError(f"NAV is {nav_e8} e8 before a deposit, but no unit was ever bought: its first flow is missing")
        units = mul_div_ceil(amount_e8, SCALE, account.price)
    elif nav_e8 <= 0:
        owned = units * mark + amount_e8 * SCALE  # what was put in stands against what is there: the loss is carried
        units = max(nav_e8 + amount_e8, 0) * UNIT // E8 or units
        mark = mul_div_ceil(owned, 1, units)
    else:
        uncharged = gain(account, nav_e8)
        units += mul_div_ceil(amount_e8, units, nav_e8)
        if uncharged:
            mark = mul_div_ceil((nav_e8 + amount_e8) * SCALE - uncharged, 1, units)
    began = {"ts_crystallised": ts} if account.ts_closed or account.units == 0 else {}
    return msgspec.structs.replace(account, units=units, mark=mark, ts_closed=0, **began)


def withdraw(account: UnitAccount, ts: int, amount_e8: int, nav_e8: int, average: int | None = None) -> UnitAccount:
    """``amount_e8`` leaves at a NAV of ``nav_e8`` before it; the performance fee on its share is pending (semantics 38).

    ValueError where it is not above 0 or more than NAV. All of it closes the account: the mark is then kept 180 days.
    """
    if not 0 < amount_e8 <= nav_e8:
        raise ValueError(f"a withdrawal of {amount_e8} e8 from a NAV of {nav_e8} e8: it must be above 0 and at most NAV")
    if account.units == 0:
        raise ValueError(f"a withdrawal of {amount_e8} e8 where no unit was ever bought: the first deposit is missing")
    account = accrue(account, ts, nav_e8)
    share = gain(account, nav_e8, average) * amount_e8 // nav_e8
    pending = account.pending_e8 + share * account.terms.performance_bps // (BPS * SCALE)
    if amount_e8 == nav_e8:
        return msgspec.structs.replace(_closed(account, ts, nav_e8), pending_e8=pending)
    return msgspec.structs.replace(account, units=account.units - account.units * amount_e8 // nav_e8, pending_e8=pending)


def accrue(account: UnitAccount, ts: int, nav_e8: int) -> UnitAccount:
    """Count management fee and subscription up to ``ts``, by whole UTC days at this NAV (semantics 39).

    Nothing is counted while there are no units or nothing is left of them. ValueError where ``ts`` goes back.
    """
    if ts < account.ts_accrued:
        raise ValueError(f"at {ts} ns after {account.ts_accrued} ns: flows and settlements come in the order of their time")
    first, last = account.ts_accrued // DAY_NS, ts // DAY_NS
    terms, management, subscription = account.terms, account.management_e8, account.subscription_e8
    if account.units and not account.ts_closed and nav_e8 > 0 and last > first:
        management += nav_e8 * terms.management_bps_per_year * (last - first) // (BPS * YEAR_DAYS)
        management += _by_day(terms.management_e8, terms.period, first, last)
        subscription += _by_day(terms.subscription_e8, terms.period, first, last)
    return msgspec.structs.replace(account, ts_accrued=ts, management_e8=management, subscription_e8=subscription)


# --- charging --------------------------------------------------------------------------------------------------------------


def change_terms(account: UnitAccount, terms: FeeTerms) -> UnitAccount:
    """New terms from the next crystallisation on: what was earned before is charged as it was agreed (semantics 39).

    An account without units earns nothing: it takes them at once, so a return after a stop is charged by the new terms.
    """
    if account.units == 0 and not account.pending_e8 + account.management_e8 + account.subscription_e8:
        return msgspec.structs.replace(account, terms=terms, next_terms=None)
    return msgspec.structs.replace(account, next_terms=None if terms == account.terms else terms)


def crystallise(
    account: UnitAccount, ts: int, nav_e8: int, average: int | None = None, stop: bool = False
) -> tuple[UnitAccount, Fee]:
    """Charge everything owed up to ``ts`` and move the mark to what it was charged on (semantics 38, 39).

    On ``stop`` all units are redeemed as well. Terms ``on_close`` charge no performance fee before that. The fee becomes a
    receivable; ``collect`` says what of it can be paid.
    """
    account = accrue(account, ts, nav_e8)
    if account.units == 0 and nav_e8 != 0:
        raise ValueError(f"NAV is {nav_e8} e8 but no unit was ever bought: its first flow is missing")
    charged = 0
    if stop or account.terms.period is not Period.ON_CLOSE:
        charged = performance_fee(account, nav_e8, average)
        above = gain(account, nav_e8, average)
        if above:
            mark = account.mark + mul_div_ceil(above, 1, account.units)
            account = msgspec.structs.replace(account, mark=mark)
    performance = account.pending_e8 + charged
    total = performance + account.management_e8 + account.subscription_e8
    platform = total * account.terms.platform_share_bps // BPS
    fee = Fee(performance, account.management_e8, account.subscription_e8, total - platform, platform)
    if stop and account.units:
        account = _closed(account, ts, nav_e8)
    return msgspec.structs.replace(
        account,
        terms=account.next_terms or account.terms,
        next_terms=None,
        pending_e8=0,
        management_e8=0,
        subscription_e8=0,
        receivable_leader_e8=account.receivable_leader_e8 + fee.leader_e8,
        receivable_platform_e8=account.receivable_platform_e8 + fee.platform_e8,
        ts_crystallised=ts,
    ), fee


def collect(account: UnitAccount, free_e8: int) -> tuple[UnitAccount, Payment]:
    """Pay receivables from what is free; what would have to come out of margin stays a receivable (semantics 40).

    A part payment is shared as the receivables are, the platform's part rounded down.
    """
    owed = account.receivable_e8
    paid = min(owed, max(0, free_e8))
    platform = paid * account.receivable_platform_e8 // owed if owed else 0
    payment = Payment(paid - platform, platform)
    return msgspec.structs.replace(
        account,
        receivable_leader_e8=account.receivable_leader_e8 - payment.leader_e8,
        receivable_platform_e8=account.receivable_platform_e8 - payment.platform_e8,
    ), payment


# --- parts -----------------------------------------------------------------------------------------------------------------


def _closed(account: UnitAccount, ts: int, nav_e8: int) -> UnitAccount:
    """No units left; worthless ones stay, their loss is carried into a deposit within 180 days."""
    if nav_e8 <= 0:
        return msgspec.structs.replace(account, ts_closed=ts)
    price = mul_div_ceil(nav_e8, SCALE, account.units)
    # The guard may have charged less than the price: what is gone is gone, and new money must not owe for it.
    return msgspec.structs.replace(account, units=0, price=price, mark=max(account.mark, price), ts_closed=ts)


def _month(day: int) -> int:
    on = date.fromordinal(_EPOCH + day)
    return on.year * 12 + on.month - 1


def _by_day(amount_e8: int, period: Period, first: int, last: int) -> int:
    """``amount_e8`` per period for the days ``first`` .. ``last`` (exclusive), each month or week rounded down."""
    if amount_e8 == 0:
        return 0
    if period is Period.WEEKLY:
        return amount_e8 * (last - first) // 7
    total = 0
    while first < last:
        month = _month(first)
        begin = date(month // 12, month % 12 + 1, 1).toordinal() - _EPOCH
        end = date((month + 1) // 12, (month + 1) % 12 + 1, 1).toordinal() - _EPOCH
        total += amount_e8 * (min(last, end) - first) // (end - begin)
        first = min(last, end)
    return total
