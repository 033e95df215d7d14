"""Each reason for a forgone quantity, derived once more from the exchange's truth and the plan file.

A check returns "" when the truth supports the reason, else one clause saying what the truth shows instead. Caps whose
price basis may be any price in force at the decision are recomputed at the lowest and at the highest such price: the
cut must lie between the two answers (plus or minus a lot), and the cap must really bind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from .history import MS, SECOND, Claim, Command, Instrument, LeaderTrade, Order, Truth, VerifyConfig
from .ideal import PlanNumbers, own_leverage
from .stops import LOSSES, Stops

#: The order in which refusals are tried (semantics 18); the first that binds names the decision.
ENTRY_REASONS = (
    "kill_switch",
    "plan_paused",
    "plan_close_only",
    "plan_stopped",
    "leg_not_ready",
    "leg_detached",
    "instrument_not_allowed",
    "leader_not_eligible",
    "leader_unsynced",
    "leader_equity_stale",
    "quote_stale",
    "stale_event",
    "observed",
    "leader_drawdown",
    "total_loss",
    "daily_loss",
    "max_open_trades",
    "leverage_above_max",
    "no_stop",
    "max_loss_per_trade",
    "max_position",
    "max_notional_symbol",
    "max_notional_total",
    "insufficient_margin",
    "slippage_leader",
    "slippage_mid",
    "rate_limited",
    "below_minimum",
    "above_maximum",
)
CAPS = ("max_loss_per_trade", "max_position", "max_notional_symbol", "max_notional_total", "insufficient_margin")
END_REASONS = ("slippage", "venue_rejected", "stale_event")

#: Reasons that a plan's own settings give; every other one counts against the daemon outside the restart window.
PLAN_LIMITS = frozenset(
    [
        "plan_paused",
        "plan_close_only",
        "plan_stopped",
        "kill_switch",
        "instrument_not_allowed",
        "max_open_trades",
        "leverage_above_max",
        "no_stop",
        *CAPS,
        "below_minimum",
    ]
)
SLIPPAGE = frozenset(["slippage", "slippage_leader", "slippage_mid"])


def counts_as_plan_limit(reason: str, numbers: PlanNumbers, symbol: str) -> bool:
    """Whether the plan's own configured limits explain it. A slippage cap does only where the plan sets its own, a leg
    that is not ready only where the plan's own list leaves the instrument out (such a leg is never made ready)."""
    if reason in SLIPPAGE:
        return numbers.plan.slippage_bps > 0 or numbers.plan.slippage_mid_bps > 0
    if reason in LOSSES or reason == "leg_detached":  # detached: nobody's hand trades here, only a stop does it
        return any(getattr(numbers.plan, name) for name in LOSSES.values())
    if reason == "leg_not_ready":
        return bool(numbers.instruments) and symbol not in numbers.instruments
    return reason in PLAN_LIMITS


NO_MARGIN = (-2018, -2019, 51008, 110007, 40762, 25203)
"""Codes by which the venues say that an account has too little margin for an order."""

TOO_BUSY = {
    "throttled": ("-1008", "50011", "10429", "429"),
    "unavailable": ("51030", "10019", "41114"),
}
"""Codes by which the venues say, on purpose here, that they were too busy for an order."""


class Account:
    """Wallet and positions of one account as the exchange's executions leave them (isolated margin), in 1e-8."""

    __slots__ = ("entry", "positions", "recent", "wallet_e8")

    def __init__(self, wallet_e8: int) -> None:
        self.wallet_e8 = wallet_e8
        #: (done at, symbol, lots closed, margin that stays held until the daemon has heard of it)
        self.recent: deque[tuple[int, str, int, int]] = deque(maxlen=40)
        self.positions: dict[str, int] = {}  #: symbol -> signed lots, both sides of a hedge netted
        self.entry: dict[str, int] = {}  #: symbol -> entry value of the position, 1e-8, unsigned

    def book(self, instrument: Instrument, lots: int, value_e8: int, fee_ppm: int) -> None:
        """Book an execution of signed lots worth ``value_e8``."""
        symbol = instrument.symbol
        before = self.positions.get(symbol, 0)
        entry = self.entry.get(symbol, 0)
        self.wallet_e8 -= value_e8 * fee_ppm // 1_000_000
        if before and (before > 0) != (lots > 0):
            closing = min(abs(before), abs(lots))
            cost = entry * closing // abs(before)
            gained = value_e8 * closing // abs(lots)
            self.wallet_e8 += gained - cost if before > 0 else cost - gained
            entry -= cost
            entry += value_e8 - gained
        else:
            entry += value_e8
        self.positions[symbol] = before + lots
        self.entry[symbol] = entry

    def unheard(self, since: int) -> dict[str, int]:
        """Lots closed per symbol that a daemon may still count as held: executed after ``since``."""
        lots: dict[str, int] = {}
        for done, symbol, closed, _ in self.recent:
            if done >= since and closed:
                lots[symbol] = lots.get(symbol, 0) + closed
        return lots

    def done_since(self, symbol: str, since: int) -> bool:
        """Whether an order in the instrument ended after ``since``."""
        return any(done >= since and name == symbol for done, name, _, _ in self.recent)

    def held_e8(self, since: int) -> int:
        """Margin that a daemon may still hold for orders executed after ``since``."""
        return sum(held for done, _, _, held in self.recent if done >= since)

    def margin_e8(self, leverage: int) -> int:
        """Initial margin held by all positions at their entry value."""
        return sum(self.entry.values()) // max(1, leverage)


class Opening(msgspec.Struct):
    """An opening decision under check. Lots are unsigned in the direction of the opening."""

    numbers: PlanNumbers
    instrument: Instrument
    claim: Claim
    side: int
    px: int  #: the leader's price the decision stands on, ticks
    limit: int  #: limit price at the slippage cap, ticks
    trade: LeaderTrade | None
    ts: int  #: when decided (claimed)
    held_low: int  #: lots of the leg before this opening, fewest and most that the fills in flight allow
    held_high: int
    wanted_low: int  #: whole lots wanted before any cap
    wanted_high: int
    wanted_q32: int  #: exactly wanted, fractions of a lot included (fewest)
    allowed: int  #: lots sent, or kept for later
    new_leg: bool  #: the leg was flat
    other_legs: dict[str, tuple[int, int]]  #: other instruments of the plan -> unsigned lots, fewest and most
    account: Account
    unheard: int = 0  #: lots of this leg closed so lately that a cap may still count them as held


class FaultIndex:
    """What went wrong on purpose, by what it can explain. Without faults everything here says no."""

    NEVER_ARRIVED = frozenset(["error_dead", "drop_request", "unavailable", "throttled", "disconnect"])
    HELD_BACK = 2_500 * MS  #: for two seconds nothing is asked of a venue that has said "too many"
    HEARD_LATE = 3 * SECOND  #: from a fault of his stream until the leader is followed again

    def __init__(self, truth: Truth, config: VerifyConfig) -> None:
        self.settling = config.settling
        self.any = bool(truth.faults)
        self.placed: dict[str, str] = {}  #: client order id -> what became of its request
        self.of_account: dict[str, list[int]] = {}  #: orders and executions of an account that were disturbed
        self.api_cuts: list[int] = []
        self.too_many: dict[str, list[int]] = {}  #: an account's orders that were answered "too many"
        self.sessions: dict[str, list[int]] = {}  #: an account's own connections that were cut
        self.stream_cuts: list[int] = []
        self.leader: list[int] = []
        followers = truth.balances.keys() | {order.account for order in truth.orders}
        for fault in truth.faults:
            if fault.action == "cut" and fault.method == "session":
                self.sessions.setdefault(fault.account, []).append(fault.ts)
            elif fault.action == "cut":
                (self.api_cuts if fault.method == "api" else self.stream_cuts).append(fault.ts)
            elif fault.method == "order.place":
                self.placed[fault.client_order_id] = fault.action
                if fault.action == "throttled":
                    self.too_many.setdefault(fault.account, []).append(fault.ts)
            if fault.account in followers:
                self.of_account.setdefault(fault.account, []).append(fault.ts)
            elif fault.account:
                self.leader.append(fault.ts)

    def never_arrived(self, cid: str, account: str, decided: int, end: int) -> bool:
        """The order's request was lost or refused unheard, or was under way on a connection that was cut, or never left, for the
        venue had just said of an order of the account that there were too many."""
        return (
            self.placed.get(cid) in self.NEVER_ARRIVED
            or any(within(cuts, decided - SECOND, end) for cuts in (self.api_cuts, self.sessions.get(account, [])))
            or within(self.too_many.get(account, []), decided - self.HELD_BACK, end)
        )

    def order_disturbed(self, account: str, since: int, until: int) -> bool:
        """Something of the account's orders went wrong, so that one of them may have been in doubt."""
        return within(self.of_account.get(account, []), since - self.settling, until) or within(
            self.api_cuts, since - self.settling, until
        )

    def leader_disturbed(self, since: int, until: int) -> bool:
        """What the daemon hears of the leader was disturbed."""
        return within(self.leader, since - self.HEARD_LATE, until)

    def market_disturbed(self, ts: int) -> bool:
        """A stream connection was cut: quotes may have stopped for a moment."""
        return within(self.stream_cuts, ts - 2 * self.HEARD_LATE, ts)


def within(times: list[int], since: int, until: int) -> bool:
    """Whether one of these (ascending) times lies between two."""
    at = bisect_left(times, since)
    return at < len(times) and times[at] <= until


class Reasons:
    """Checks of every reason against one run's truth."""

    def __init__(self, truth: Truth, config: VerifyConfig, stops: Stops) -> None:
        self.truth = truth
        self.config = config
        self.stops = stops
        self.reads = sorted(truth.leader_reads)
        self.reads_of: dict[int, list[int]] = {}
        for ts, equity in self.reads:
            self.reads_of.setdefault(equity, []).append(ts)
        self.quotes_ok: dict[tuple[str, int, int, int], str] = {}
        self.accepted_of: dict[str, list[int]] = {}
        self.ranges: dict[tuple[str, int], tuple[int, int]] = {}
        self.faults = FaultIndex(truth, config)
        self.checks: dict[str, Callable[[Opening], str]] = {
            "kill_switch": partial(self.commanded, "kill_switch"),
            "plan_paused": partial(self.commanded, "pause"),
            "plan_close_only": partial(self.commanded, "close_only"),
            "plan_stopped": partial(self.commanded, "stop"),
            "leg_not_ready": self.leg_not_ready,
            "leg_detached": self.leg_detached,
            "instrument_not_allowed": self.instrument_not_allowed,
            "leader_unsynced": self.leader_unsynced,
            "leader_equity_stale": self.leader_equity_stale,
            "quote_stale": self.quote_stale,
            "stale_event": self.stale_event,
            "observed": self.observed,
            "max_open_trades": self.max_open_trades,
            "no_stop": self.no_stop,
            "slippage_leader": self.slippage_leader,
            "slippage_mid": self.slippage_mid,
            "rate_limited": self.rate_limited,
            "below_minimum": self.below_minimum,
            **{name: partial(self.capped, name) for name in CAPS},
            **{name: partial(self.lost, name) for name in LOSSES},
        }

    # -- the whole of an opening -------------------------------------------------------------------------------

    def opening(self, o: Opening, reason: str) -> str:
        """Whether the truth supports refusing or cutting this opening for this reason."""
        check = self.checks.get(reason)
        if check is None:
            return f"{reason!r} is not a reason the rules know"
        return check(o)

    # -- time --------------------------------------------------------------------------------------------------

    def in_outage(self, ts: int) -> bool:
        """From SIGKILL until ready again; what the exchange executed just before may not have been heard."""
        early = self.config.clock_tolerance + SECOND
        return any(gap.ts_down - early <= ts <= gap.ts_ready + self.config.clock_tolerance for gap in self.config.outages)

    def commanded(self, action: str, o: Opening) -> str:
        """Paused, close-only, stopped or killed: by the plan file's state or a command in force."""
        plan = o.numbers.plan
        state_of = {"pause": "paused", "close_only": "close_only", "stop": "stopped"}
        if plan.state == state_of.get(action):
            return ""
        newest: Command | None = None
        for command in self.config.commands:
            if command.plan not in ("", plan.follower) or command.symbol not in ("", o.instrument.symbol):
                continue
            if command.ts_sent <= o.ts + self.config.clock_tolerance and command.action in (action, "resume"):
                newest = command
                if command.action == "resume" and command.ts_done > o.ts:
                    return ""  # the resume was on its way: either answer is right
        if newest is not None and newest.action == action:
            return ""
        return f"no {action} command was in force"

    def leg_not_ready(self, o: Opening) -> str:
        """Before all legs were ready, during an outage, or on an instrument that the plan's own list leaves out."""
        if o.ts < self.config.ready_since or self.in_outage(o.ts):
            return ""
        if o.numbers.instruments and o.instrument.symbol not in o.numbers.instruments:
            return ""
        return "all legs were ready by then"

    def leg_detached(self, o: Opening) -> str:
        """A stop that closes with the leader: nothing new until he is flat."""
        if self.stops.policy(o.claim.plan, o.ts) == "close_gracefully":
            return ""
        return "no loss stop closes it with the leader, and nobody else trades there"

    def lost(self, name: str, o: Opening) -> str:
        """Stopped by this limit, or beyond it now."""
        return self.stops.refusal(name, o.numbers, o.ts)

    def leader_unsynced(self, o: Opening) -> str:
        """Only an outage, or a disturbed stream, makes the leader's position unknown here."""
        if self.in_outage(o.ts) or self.faults.leader_disturbed(o.ts - self.faults.HEARD_LATE, o.ts):
            return ""
        return "no outage explains a doubt about the leader's position"

    def leader_equity_stale(self, o: Opening) -> str:
        """No equity served to the leader's account within the age limit, or equity not positive."""
        if o.claim.leader_equity_e8 <= 0 and o.claim.leader_equity_e8 in self.reads_of:
            return ""
        newest = max((ts for ts, _ in self.reads if ts <= o.ts), default=None)
        if newest is None or o.ts - newest > self.config.leader_equity_max_age - self.config.clock_tolerance:
            return ""
        return f"the exchange served the leader's equity {(o.ts - newest) // MS} ms before"

    def quote_stale(self, o: Opening) -> str:
        """The last quote published before the decision is older than the limit, or none could be heard."""
        quotes = self.truth.quotes.get(o.instrument.symbol)
        last = quotes.last_before(o.ts) if quotes else None
        if last is None or self.in_outage(o.ts) or self.faults.market_disturbed(o.ts):
            return ""
        if o.ts - last[0] > self.config.quote_max_age - self.config.clock_tolerance:
            return ""
        return f"the exchange published a quote {(o.ts - last[0]) // MS} ms before"

    def stale_event(self, o: Opening) -> str:
        """The leader's fill was older than the limit when it was first decided."""
        if o.trade is None:
            return self.replan_refused(o)
        age = o.ts - o.trade.ts
        if age > self.config.max_event_age - self.config.clock_tolerance:
            return ""
        return f"the leader's fill was only {age // MS} ms old"

    def replan_refused(self, o: Opening) -> str:
        """After a restart: a proven-dead opening may only be given up for age, price, or a leader gone (semantics 36). And what
        waited for an order of its leg that the exchange did so late that it had grown too old."""
        waited = o.account.done_since(o.instrument.symbol, o.claim.ts_event)
        if waited and o.ts - o.claim.ts_event > self.config.max_event_age - self.config.clock_tolerance:
            return ""
        if self.config.outages and any(gap.ts_down <= o.ts for gap in self.config.outages):
            return ""
        if self.faults.order_disturbed(o.numbers.account, o.claim.ts_event, o.ts):
            return ""
        return "there was no restart before it, and no order of the account was disturbed"

    def observed(self, o: Opening) -> str:
        """Found by back-fill: the daemon was not listening when the leader traded."""
        if o.trade is not None and (self.in_outage(o.trade.ts) or self.faults.leader_disturbed(o.trade.ts, o.ts)):
            return ""
        return "the daemon was up when the leader traded"

    # -- the plan's own limits ---------------------------------------------------------------------------------

    def instrument_not_allowed(self, o: Opening) -> str:
        allowed = o.numbers.instruments
        if allowed and o.instrument.symbol not in allowed:
            return ""
        return "the plan allows the instrument"

    def max_open_trades(self, o: Opening) -> str:
        limit = o.numbers.plan.max_open_trades
        others = sum(1 for _, most in o.other_legs.values() if most)
        if limit and o.new_leg and others >= limit:
            return ""
        return f"the plan had {others} other legs open and allows {limit or 'any number'}"

    def no_stop(self, o: Opening) -> str:
        plan = o.numbers.plan
        if plan.assumed_stop_bps == 0 and (plan.mode == "risk_based" or plan.require_stop):
            return ""
        return "the plan needs no stop, or has one"

    def prices(self, o: Opening) -> tuple[int, int]:
        """Lowest and highest price the decision may have been priced at, ticks."""
        bucket = o.ts // (50 * MS)
        known = self.ranges.get((o.instrument.symbol, bucket))
        if known is None:
            quotes = self.truth.quotes.get(o.instrument.symbol)
            start, end = bucket * 50 * MS - self.config.quote_max_age, (bucket + 1) * 50 * MS
            known = quotes.price_range(start, end) if quotes else (0, 0)
            self.ranges[(o.instrument.symbol, bucket)] = known
        own = (o.px, o.limit, *(px for px in known if px))
        return min(own), max(own)

    def cap_lots(self, o: Opening, name: str) -> tuple[int, int]:
        """Most lots the *leg* may hold under a cap: (at the dearest price, at the cheapest). (-1, -1): no such cap.

        insufficient_margin caps what is *added*; the lots already held are put on top so that all caps compare.
        """
        numbers, plan, instrument = o.numbers, o.numbers.plan, o.instrument
        low_px, high_px = self.prices(o)
        if name == "max_loss_per_trade":
            if not plan.assumed_stop_bps or not plan.max_loss_per_trade_bps:
                return -1, -1
            budget = numbers.allocation_e8 * plan.max_loss_per_trade_bps // plan.assumed_stop_bps
        elif name == "max_position":
            if not plan.max_position_bps:
                return -1, -1
            budget = numbers.allocation_e8 * plan.max_position_bps * own_leverage(plan) // 10_000
        elif name == "max_notional_symbol":
            if not numbers.max_notional_symbol_e8:
                return -1, -1
            budget = numbers.max_notional_symbol_e8
        elif name == "max_notional_total":
            if not numbers.max_notional_total_e8:
                return -1, -1
            low_other = high_other = 0
            for symbol, (fewest, most) in o.other_legs.items():
                if most:
                    other = self.truth.instruments[symbol]
                    quotes = self.truth.quotes.get(symbol)
                    low, high = quotes.price_range(o.ts - self.config.quote_max_age, o.ts) if quotes else (0, 0)
                    entry = o.account.entry.get(symbol, 0)
                    low_other += min(other.notional_e8(fewest, low) if low else entry, entry)
                    high_other += max(other.notional_e8(most, high), entry)
            return (
                instrument.lots_worth(numbers.max_notional_total_e8 - high_other, high_px),
                instrument.lots_worth(numbers.max_notional_total_e8 - low_other, low_px),
            )
        else:  # insufficient_margin: semantics 7
            free = o.account.wallet_e8 - o.account.margin_e8(own_leverage(plan))
            slack = max(o.account.wallet_e8, 0) // 33  # entry against mark, fees not yet booked, orders on the wire
            leverage = own_leverage(plan)
            cap_bps = plan.slippage_bps or self.slippage_default(o.instrument.symbol)
            # per unit of notional: 1/L + S/(1-S) + fee, in parts per million, rounded up
            unit_ppm = -(-1_000_000 // leverage) + -(-1_000_000 * cap_bps // (10_000 - cap_bps)) + self.config.taker_fee_ppm
            unheard = o.account.held_e8(o.ts - self.config.report_lag)
            low = instrument.lots_worth(max(0, free - slack - unheard) * 1_000_000 // unit_ppm, high_px)
            high = instrument.lots_worth(max(0, free + slack) * 1_000_000 // unit_ppm, low_px)
            return o.held_low + low, o.held_high + high
        return instrument.lots_worth(budget, high_px), instrument.lots_worth(budget, low_px)

    def slippage_default(self, symbol: str) -> int:
        """Basis points where the plan sets none (semantics 21)."""
        return self.config.slippage_major_bps if symbol in self.config.majors else self.config.slippage_other_bps

    def capped(self, name: str, o: Opening) -> str:
        """The cap binds, and what was let through is what it (or a tighter cap) lets through."""
        low, high = self.cap_lots(o, name)
        if low < 0:
            return f"the plan has no {name} cap"
        held_most = o.held_high + o.unheard
        minimum = o.instrument.minimum_lots(o.limit)
        wanted = held_most + o.wanted_high
        if o.numbers.plan.min_policy == "raise":  # what is raised to the minimum counts in risk
            wanted = max(wanted, held_most + minimum)
        if wanted <= low - 1:
            text = o.instrument.qty_text
            return f"the cap lets the leg grow to {text(low)}, more than the {text(wanted)} wanted"
        floor = low  # what the tightest cap leaves, at the dearest price
        without_margin = wanted  # what the caps other than free margin leave, at the cheapest
        margin = -1
        for other in CAPS:
            other_low, other_high = self.cap_lots(o, other)
            if other_low < 0:
                continue
            floor = min(floor, other_low)
            if other == "insufficient_margin":
                margin = other_low
            else:
                without_margin = min(without_margin, other_high)
        if o.allowed == 0:
            skips = o.numbers.plan.on_insufficient == "skip" and margin < without_margin
            if floor - held_most < minimum + 1 or skips:
                return ""
            return f"the cap still leaves room for {o.instrument.qty_text(floor - held_most)}"
        if o.held_low + o.allowed > high + 1:
            return (
                f"the leg may then hold {o.instrument.qty_text(o.held_low + o.allowed)}, "
                f"more than the cap's {o.instrument.qty_text(high)}"
            )
        if held_most + o.allowed < floor - 1:
            return f"the cut goes deeper than the cap: {o.instrument.qty_text(floor - held_most)} was left"
        return ""

    # -- market ------------------------------------------------------------------------------------------------

    def quoted(self, o: Opening) -> str:
        """The bid and ask that the decision names were in force at the exchange within the age limit."""
        key = (o.instrument.symbol, o.claim.bid, o.claim.ask, o.ts // MS)
        known = self.quotes_ok.get(key)
        if known is None:
            known = self.quotes_ok[key] = self.published(o)
        return known

    def published(self, o: Opening) -> str:
        """One look at the quote log."""
        quotes = self.truth.quotes.get(o.instrument.symbol)
        if quotes is None:
            return "the exchange published no quote"
        start = o.ts - self.config.quote_max_age
        for _, bid, ask, _ in quotes.between(start, o.ts + self.config.clock_tolerance):
            if bid == o.claim.bid and ask == o.claim.ask:
                return ""
        return f"the exchange published no quote {o.claim.bid}/{o.claim.ask} in that time"

    def slippage_leader(self, o: Opening) -> str:
        """The touch was further from the leader's price, against the follower, than the plan's cap."""
        fault = self.quoted(o)
        if fault:
            return fault
        touch = o.claim.ask if o.side > 0 else o.claim.bid
        if o.side * (touch - o.limit) > 0:
            return ""
        return f"the touch {touch} was inside the limit {o.limit}"

    def slippage_mid(self, o: Opening) -> str:
        """The touch was further from mid than the plan's cap."""
        fault = self.quoted(o)
        if fault:
            return fault
        plan = o.numbers.plan
        cap_bps = plan.slippage_mid_bps or self.slippage_default(o.instrument.symbol)
        twice_mid = o.claim.bid + o.claim.ask
        for touch in (o.claim.ask if o.side > 0 else o.claim.bid, o.limit):
            if o.side * (2 * touch - twice_mid) * 10_000 > cap_bps * twice_mid:
                return ""
        return "the price was inside the cap around mid"

    def rate_limited(self, o: Opening) -> str:
        """The account's order counters at the exchange were full (or would not drain inside the event's age)."""
        if not self.accepted_of:
            for order in self.truth.orders:
                self.accepted_of.setdefault(order.account, []).append(order.ts)
        accepted = self.accepted_of.get(o.numbers.account, [])
        ten = sum(1 for ts in accepted if o.ts - 10 * SECOND <= ts <= o.ts)
        minute = sum(1 for ts in accepted if o.ts - 60 * SECOND <= ts <= o.ts)
        if ten * 10 >= self.config.orders_per_10s * 9 or minute * 10 >= self.config.orders_per_minute * 9:
            return ""
        return f"the account had sent {ten} orders in 10 s and {minute} in a minute"

    def below_minimum(self, o: Opening) -> str:
        """Smaller than the venue takes, and the plan does not carry."""
        plan = o.numbers.plan
        minimum = o.instrument.minimum_lots(o.limit)
        if plan.min_policy == "carry":
            return "the plan carries what is below the minimum"
        if o.wanted_low >= minimum:
            return f"{o.instrument.qty_text(o.wanted_low)} is not below the minimum of {o.instrument.qty_text(minimum)}"
        if plan.min_policy == "raise" and (minimum << 32) <= o.wanted_q32 * o.numbers.raise_factor:
            return f"the plan raises to {o.instrument.qty_text(minimum)}"
        return ""

    # -- after sending -----------------------------------------------------------------------------------------

    def order_end(
        self, reason: str, order: Order | None, cid: str, lots_q32: int, decided_ts: int, end_ts: int, account: str = ""
    ) -> str:
        """Whether the truth supports giving up what an order left unfilled."""
        if reason.startswith("venue_rejected"):
            if order is not None and order.executed < order.lots and order.status in ("REJECTED", "EXPIRED", "CANCELED"):
                return ""
            code = self.truth.rejects.get(cid)
            named = reason.partition(":")[2]
            if code is None and named in TOO_BUSY.get(self.faults.placed.get(cid, ""), ()):
                return ""
            if code is None:
                return "the exchange refused no such order"
            if named.lstrip("-").isdigit() and int(named) != code:
                return f"the exchange refused it with {code}"
            return ""
        if reason == "slippage":
            if order is None:
                return "the exchange never had the order"
            unfilled = order.lots - order.executed
            if lots_q32 > unfilled << 32:
                return f"the order left {unfilled} lots unfilled at limit {order.px}"
            if order.tif != "IOC" or order.status not in ("EXPIRED", "CANCELED", "EXPIRED_IN_MATCH"):
                return f"the order is {order.kind} {order.tif} {order.status}"
            return ""
        if order is not None:
            return "the exchange had the order"
        if reason == "insufficient_margin":
            code = self.truth.rejects.get(cid)
            return "" if code in NO_MARGIN else f"the exchange refused it with {code}"
        if reason in ENTRY_REASONS:  # an opening that never left, or was lost with the daemon and is not made again
            if self.faults.never_arrived(cid, account, decided_ts, end_ts):
                return ""
            if cid in self.truth.rejects or any(gap.ts_down <= max(decided_ts, end_ts) for gap in self.config.outages):
                return ""
            return "there was no restart before it, and the exchange refused no such order"
        return f"{reason!r} is not a reason the rules know"

    # -- the ratio's source ------------------------------------------------------------------------------------

    def equity(self, equity_e8: int, ts: int) -> str:
        """The exchange really served this equity to the leader's account, within the age limit before the decision."""
        served = self.reads_of.get(equity_e8)
        if not served:
            return "the exchange never served the leader that equity"
        late = ts + self.config.clock_tolerance
        early = ts - self.config.leader_equity_max_age - self.config.clock_tolerance
        if any(early <= at <= late for at in served):
            return ""
        return "the exchange served the leader that equity at another time"
