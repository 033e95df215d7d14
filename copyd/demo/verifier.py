"""The second opinion: does what the exchange's books show follow from what the leader did and what the plans say?

Fed only with the exchange's truth, the plan file and the daemon's decision export. The export gives the *order* in which
things were decided and the *claims* of why; every number in it is recomputed:

1. each leader trade is split into its reducing and opening part by the leader's whole position;
2. each leg's target follows by the plain rule (``ideal``), with a ratio whose leader equity the exchange really served and whose
   own equity is what the plan's executions and the market make it (``worth``);
3. what a claim says was forgone leaves the target only where ``reasons`` derives the same reason from the truth;
4. each order must be wanted: opening = whole lots of target less what the leg holds, reducing never past the target;
5. each order on a follower's account must be claimed once, each claimed order must look the same in the books;
6. at the end, and where the positions were read on the way, the venue position must be the target, to less than a lot, unless
   it waits for the venue's minimum;
7. each loss stop must have been reached by the books, be the plan's own, and open nothing after it; a plan beyond its limit must
   have been stopped (``stops``).

A *duplicate* is a client order id accepted twice or an intent executed twice. An *omission* is a (leader trade, plan)
with neither order nor recorded reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from .history import Claim, Instrument, LeaderTrade, Order, Plan, Truth, VerifyConfig
from .ideal import PER_ORDER_MODES, Anchor, PlanNumbers, k_q32, limit_price, own_leverage, sign, split, toward_zero_to_lot
from .reasons import Account, Opening, Reasons, counts_as_plan_limit
from .stops import Stops
from .worth import Worth

REFUSED_BEFORE_SIZING = frozenset(
    [
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
        "max_open_trades",
        "leverage_above_max",
        "no_stop",
    ]
)


class Verdict(msgspec.Struct):
    """What the comparison found. ``problems`` holds the first of them in words; ``problem_counts`` all by kind."""

    verified: bool = False
    leader_events: int = 0
    decisions: int = 0
    orders: int = 0
    orders_rejected: int = 0
    fills: int = 0
    duplicates: int = 0
    omissions: int = 0
    out_of_sync: int = 0
    waiting_for_minimum: int = 0
    legs: int = 0
    legs_open: int = 0
    legs_with_gap: int = 0
    followers: int = 0
    followers_in_sync: int = 0
    restarts: int = 0
    stops: dict[str, int] = {}  #: plans stopped by a loss limit, by reason
    legs_held_midway: int = 0  #: open positions compared in the middle of the run
    forgone: dict[str, int] = {}
    forgone_other_outside_restart: int = 0
    heard_out_of_order: int = 0  #: leader trades that came late behind others of their kind
    forgone_disturbed: int = 0  #: of those with other causes, outside the restart window: with a fault that explains it
    problem_counts: dict[str, int] = {}
    problems: list[str] = []


class Event:
    """A leader trade with what it did to his position."""

    __slots__ = ("after", "before", "first_px", "opening", "reducing", "trade")

    def __init__(self, trade: LeaderTrade, before: int, first_px: int) -> None:
        self.trade = trade
        self.before = before
        self.after = before + trade.lots
        self.reducing, self.opening = split(before, trade.lots)
        self.first_px = first_px


class Leg(Anchor):
    """One (plan, instrument): target by the plain rule, and what its orders did at the exchange. Lots are signed."""

    __slots__ = ("deferred", "k", "k_order", "lost", "lots", "missing", "next_event", "open_slack", "reduce_slack")

    def __init__(self, leader_lots: int) -> None:
        super().__init__(leader_lots)
        self.k = 0
        self.k_order = ""
        self.next_event = 0
        self.lots = 0  #: what the orders claimed so far executed in all their life
        self.open_slack = 0  #: what an opening not yet said to have ended left unfilled (signed)
        self.reduce_slack = 0  #: what the latest reduction left unfilled (unsigned)
        self.deferred: list[tuple[int, int]] = []  #: (unsigned lots of the leader, price) waiting to be sent
        self.missing: list[str] = []  #: ids claimed and unknown to the exchange
        self.lost: list[tuple[int, int]] = []  #: (until, lots) of reductions that never arrived, while they may be in doubt

    def held(self, side: int, ts: int = 0) -> tuple[int, int]:
        """Fewest and most lots the daemon may have counted as held in a direction at this point of its journal.

        An opening still on the wire may yet fill, a reduction on the wire counts as done; the other direction counts
        as nothing.
        """
        lost = sum(lots for until, lots in self.lost if ts <= until) if self.lost else 0
        most = side * self.lots + max(0, side * self.open_slack)
        least = side * self.lots - self.reduce_slack - lost
        return max(0, least), max(0, most)

    def side_held(self) -> int:
        """The direction a reduction comes from."""
        return sign(self.lots) or sign(self.open_slack)


class Verifier:
    """One run's comparison. ``verify`` is the way in."""

    def __init__(self, truth: Truth, plans: list[Plan], config: VerifyConfig) -> None:
        self.truth = truth
        self.config = config
        self.worth = Worth(truth, config)
        self.stops = Stops(truth, config, self.worth)
        self.reasons = Reasons(truth, config, self.stops)
        self.verdict = Verdict(fills=truth.fill_count, followers=len(plans))
        self.numbers = {plan.follower: PlanNumbers(plan) for plan in plans}
        self.account_plan = {numbers.account: name for name, numbers in self.numbers.items()}
        self.accounts = {name: Account(truth.balances.get(n.account, 0)) for name, n in self.numbers.items()}
        self.counts: Counter[str] = Counter()
        self.forgone: Counter[str] = Counter()
        self.orders: dict[str, Order] = {}
        self.claimed: dict[str, tuple[str, str, int, bool]] = {}  # id -> plan, symbol, ts_decided, opening
        self.unclaimed: set[str] = set()
        self.events: dict[str, list[Event]] = {}
        self.event_at: dict[tuple[str, str], int] = {}
        self.first_event: dict[str, int] = {}
        self.heard: dict[str, int] = {}  # symbol -> trades whose place in the daemon's order is known
        self.first_heard: dict[tuple[str, str], int] = {}  # symbol, leader's order -> price of its fill that was heard first
        self.legs: dict[tuple[str, str], Leg] = {}
        self.equity_ok: dict[tuple[int, int], str] = {}
        self.last_seq = -1
        self.epoch = 0

    # -- findings ----------------------------------------------------------------------------------------------

    def problem(self, kind: str, text: str) -> None:
        """Count a finding; keep the first of them in words."""
        self.counts[kind] += 1
        if len(self.verdict.problems) < self.config.problems_max:
            self.verdict.problems.append(f"{kind}: {text}")

    # -- the books ---------------------------------------------------------------------------------------------

    def read_books(self) -> None:
        """Index the exchange's books and check them against themselves."""
        for trade in self.truth.leader_trades:
            events = self.events.setdefault(trade.symbol, [])
            self.event_at[(trade.symbol, trade.exec_id)] = len(events)
            before = events[-1].after if events else 0
            first_px = trade.px
            for earlier in reversed(events):
                if earlier.trade.order_id != trade.order_id:
                    break
                first_px = earlier.trade.px
            events.append(Event(trade, before, first_px))
        for symbol, events in self.events.items():
            old = sum(1 for event in events if event.trade.ts < self.config.plans_since)
            self.first_event[symbol] = self.heard[symbol] = old
            self.verdict.leader_events += len(events) - old
        fills = self.truth.fills
        for order in self.truth.orders:
            cid = order.client_order_id
            if order.account not in self.account_plan:
                continue
            if cid in self.orders:
                self.verdict.duplicates += 1
                self.problem("duplicate", f"the exchange accepted order id {cid} on {order.account} twice")
                continue
            self.orders[cid] = order
            self.unclaimed.add(cid)
            if fills and fills.get(cid, 0) != order.executed:
                self.problem(
                    "books",
                    f"order {cid} executed {order.executed} lots but the trade book has {fills.get(cid, 0)}",
                )
        self.verdict.orders = len(self.truth.orders)
        self.verdict.orders_rejected = len(self.truth.rejects)

    def leg(self, plan: str, symbol: str) -> Leg:
        """The leg, made when first spoken of."""
        leg = self.legs.get((plan, symbol))
        if leg is None:
            start = self.first_event.get(symbol, 0)
            events = self.events.get(symbol, [])
            leg = self.legs[(plan, symbol)] = Leg(events[start - 1].after if 0 < start <= len(events) else 0)
            leg.next_event = start
        return leg

    # -- claims ------------------------------------------------------------------------------------------------

    def take(self, claim: Claim) -> None:
        """Check one claim, in the order of the journal."""
        if claim.cause == "restart":
            self.epoch = max(self.epoch, claim.epoch)
            self.verdict.restarts += 1
            return
        if claim.seq < self.last_seq:
            self.problem("order of claims", f"record {claim.seq} after record {self.last_seq}")
        self.last_seq = claim.seq
        if self.truth.held_ts and claim.ts_decided > self.truth.held_ts:
            self.midway()
        numbers = self.numbers.get(claim.plan)
        if numbers is None:
            self.problem("unknown plan", f"a decision names the plan {claim.plan!r}, which is not in the plan file")
            return
        if claim.cause == "loss_stop":
            self.loss_stop(claim, numbers)
            return
        instrument = self.truth.instruments.get(claim.symbol)
        if instrument is None:
            self.problem("unknown instrument", f"a decision for {claim.plan} names {claim.symbol!r}")
            return
        leg = self.leg(claim.plan, claim.symbol)
        if claim.cause == "order_end":
            self.order_end(claim, numbers, leg)
        elif claim.cause == "leader_fill":
            self.leader_fill(claim, numbers, instrument, leg)
        elif claim.cause == "external":
            self.problem("moved otherwise", f"{claim.plan} {claim.symbol}: its target changed, and nobody but copyd trades there")
        else:
            self.later(claim, numbers, instrument, leg)

    def loss_stop(self, claim: Claim, numbers: PlanNumbers) -> None:
        """A limit stopped a plan: it must have been reached, and its legs become what the plan's policy says."""
        self.verdict.stops[claim.reason] = self.verdict.stops.get(claim.reason, 0) + 1
        fault = self.stops.take(claim, numbers)
        if fault:
            self.problem("false stop", f"{claim.plan} was stopped by {claim.reason}, but {fault}")
        if claim.policy == "close_now":
            for symbol in self.truth.instruments:
                leg = self.leg(claim.plan, symbol)
                leg.target, leg.deferred = 0, []
                leg.reset()

    def leader_fill(self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg) -> None:
        """The one decision about (leader trade, plan)."""
        at = self.event_at.get((claim.symbol, claim.exec_id))
        if at is None:
            self.problem(
                "phantom event", f"{claim.plan} acts on trade {claim.exec_id} of {claim.symbol}, which the leader never made"
            )
            return
        at = self.place(claim, at)
        self.verdict.decisions += 1
        if at < leg.next_event:
            if at < self.first_event.get(claim.symbol, 0):
                self.problem("too early", f"{claim.plan} acts on trade {claim.exec_id}, made before the plan began")
                return
            executed = sum(self.orders[cid].executed for cid in claim.orders if cid in self.orders)
            self.problem("decided twice", f"{claim.plan}: trade {claim.exec_id} of {claim.symbol} was decided twice")
            if executed:
                self.verdict.duplicates += 1
            self.take_orders(claim, numbers, leg)
            return
        events = self.events[claim.symbol]
        while leg.next_event < at:
            self.skipped(events[leg.next_event], claim.plan, leg)
        leg.next_event = at + 1
        event = events[at]
        if event.reducing:
            leg.reduce(event.reducing)
            if event.opening == 0:
                leg.deferred = [] if leg.target == 0 else leg.deferred
        if claim.forgone_q32 and not event.opening:
            self.problem(
                "blocked reduction",
                f"{claim.plan} gave up part of a reduction of {claim.symbol} ({claim.reason}): reductions are never refused",
            )
        if event.opening:
            self.opening(claim, numbers, instrument, leg, event)
        else:
            if claim.delta_q32 and claim.open not in ("none", ""):
                self.problem("wrong side", f"{claim.plan} opens {claim.symbol} on trade {claim.exec_id}, a pure reduction")
            self.orders_law(claim, numbers, instrument, leg, event)
        if claim.target_q32 != leg.target:
            self.problem(
                "wrong target",
                f"{claim.plan} {claim.symbol} after trade {claim.exec_id}: the target is {show(leg.target, instrument)}, "
                f"the daemon says {show(claim.target_q32, instrument)}",
            )

    def place(self, claim: Claim, at: int) -> int:
        """The place of a trade in the order in which the daemon heard of them.

        It is the exchange's order. Where his stream was disturbed, openings may have changed places among themselves, and
        reductions among themselves, and the fills of one order: the target is a fold over what was heard, and no close comes
        before its open.
        """
        heard = self.heard[claim.symbol]
        if at < heard:
            return at
        events = self.events[claim.symbol]
        self.heard[claim.symbol] = heard + 1
        if at > heard:
            moved = events[heard : at + 1]
            if not self.reasons.faults.leader_disturbed(moved[0].trade.ts, claim.ts_decided):
                self.heard[claim.symbol] = at + 1
                return at  # what was passed over is missed
            kinds = any(event.reducing for event in moved) and any(event.opening for event in moved)
            if kinds and len({event.trade.order_id for event in moved}) > 1:
                passed = ", ".join(event.trade.exec_id for event in moved[:-1][:5])
                what = "reduction" if moved[-1].reducing else "opening"
                self.problem("out of order", f"{claim.symbol}: the leader's {what} {claim.exec_id} was decided before {passed}")
            self.verdict.heard_out_of_order += 1
            before = moved[0].before
            for n, event in enumerate([moved[-1], *moved[:-1]], heard):
                events[n] = Event(event.trade, before, event.first_px)
                before = events[n].after
                self.event_at[(claim.symbol, event.trade.exec_id)] = n
        event = events[heard]
        event.first_px = self.first_heard.setdefault((claim.symbol, event.trade.order_id), event.trade.px)
        return heard

    def skipped(self, event: Event, plan: str, leg: Leg) -> None:
        """A leader trade without a decision: an omission wherever something was wanted."""
        leg.next_event += 1
        wanted = bool(event.opening) or leg.target != 0
        if event.reducing:
            leg.reduce(event.reducing)
        if event.opening:
            leg.open(event.opening, 0)
        if wanted:
            self.verdict.omissions += 1
            self.problem(
                "omission",
                f"{plan}: no order and no reason for the leader's trade {event.trade.exec_id} of {event.trade.symbol}",
            )

    def ratio(self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg, event: Event) -> int:
        """The ratio this opening must be sized by, in Q32; the claim's equity is taken only if the exchange served it."""
        plan = numbers.plan
        trade = event.trade
        fresh = leg.target == 0 or plan.mode in PER_ORDER_MODES or plan.ratio_snapshot == "follow"
        if not fresh and not (plan.ratio_snapshot == "each_order" and leg.k_order != trade.order_id):
            return leg.k
        equity = claim.leader_equity_e8
        refused = claim.open == "forgone" and claim.reason in REFUSED_BEFORE_SIZING
        if plan.mode not in PER_ORDER_MODES and not refused:
            fault = self.equity_fault(equity, claim.ts_decided)
            if fault:
                self.problem("wrong k", f"{claim.plan} {claim.symbol} trade {claim.exec_id}: {fault}")
        px = trade.px if plan.mode == "fixed_amount" else event.first_px
        leverage = self.config.leader_leverage.get(claim.symbol, 1)
        least, most = self.worth.at(numbers.account, claim.ts_decided)
        low, high = (
            k_q32(numbers, instrument, trade.order_lots, px, equity, leverage, numbers.allocation_e8 + earned)
            for earned in (least, most)
        )
        # The daemon's own equity is known to a range; within it its k stands, and all that follows from it is exact.
        return claim.k_q32 if low <= claim.k_q32 <= high else high

    def equity_fault(self, equity: int, ts: int) -> str:
        """One answer per (equity, millisecond): all followers of an event ask the same."""
        key = (equity, ts // 1_000_000)
        known = self.equity_ok.get(key)
        if known is None:
            known = self.equity_ok[key] = self.reasons.equity(equity, ts)
        return known

    def opening(self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg, event: Event) -> None:
        """The opening part: ratio, delta, what was forgone of it, and the order that remains."""
        plan = numbers.plan
        trade = event.trade
        forgone = abs(claim.forgone_q32)
        flat = leg.target == 0
        refused = claim.open == "forgone" and claim.reason in REFUSED_BEFORE_SIZING
        if refused and not claim.delta_q32 and not forgone:
            k, delta = 0, 0  # refused before it was sized: nothing entered the target, nothing left it
        else:
            k = self.ratio(claim, numbers, instrument, leg, event)
            delta = event.opening * k
            if claim.k_q32 != k:
                self.problem(
                    "wrong k",
                    f"{claim.plan} {claim.symbol} trade {claim.exec_id}: the ratio is {k / 2**32:.9f} "
                    f"({plan.mode}), the daemon used {claim.k_q32 / 2**32:.9f}",
                )
            elif claim.delta_q32 != delta:
                self.problem(
                    "wrong delta",
                    f"{claim.plan} {claim.symbol} trade {claim.exec_id}: wants {show(delta, instrument)}, "
                    f"the daemon says {show(claim.delta_q32, instrument)}",
                )
        if forgone > abs(delta):
            self.problem(
                "false forgone",
                f"{claim.plan} {claim.symbol}: forgoes {show(forgone, instrument)} of {show(abs(delta), instrument)}",
            )
            forgone = abs(delta)
        side = sign(event.opening)
        before = leg.target
        raised = 0
        if claim.open == "order" and not forgone and claim.target_q32 != before + delta:
            raised = self.raised(claim, numbers, instrument, leg, side, before + delta, trade.px)
        leg.leader += event.opening
        leg.target = before + delta - side * forgone + side * raised
        leg.reset()
        if claim.open != "forgone":
            leg.k, leg.k_order = k, trade.order_id
        elif flat:
            leg.k, leg.k_order = 0, ""
        if forgone or claim.open == "forgone":
            self.count_forgone(claim.reason, numbers, claim.symbol, trade.ts, claim.ts_decided)
            o = self.opening_under_check(claim, numbers, instrument, leg, side, before + delta, trade.px, trade)
            fault = self.reasons.opening(o, claim.reason)
            if fault:
                self.problem(
                    "false reason",
                    f"{claim.plan} {claim.symbol} trade {claim.exec_id}: forgone {show(forgone, instrument)} for "
                    f"{claim.reason}, but {fault}",
                )
        if claim.open == "deferred":
            leg.deferred.append((abs(event.opening), trade.px))
        self.orders_law(claim, numbers, instrument, leg, event)

    def raised(
        self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg, side: int, wish: int, px: int
    ) -> int:
        """What ``min_policy: raise`` adds to the target (Q32, unsigned): exactly up to the venue's minimum (semantics 6)."""
        extra = side * (claim.target_q32 - wish)
        if numbers.plan.min_policy != "raise" or extra <= 0:
            return 0  # the difference will be reported as a wrong target
        minimum = instrument.minimum_lots(self.limit(numbers, px, side, claim.symbol)) << 32
        name = f"{claim.plan} {claim.symbol}"
        low, high = leg.held(side, claim.ts_decided)
        for held in range(low, min(high, low + 10_000) + 1):
            wanted = side * wish - (held << 32)
            if wanted < minimum and abs(wanted + extra - minimum) <= 1 << 32 and claim.open_lots << 32 == wanted + extra:
                if minimum > max(wanted, abs(claim.delta_q32)) * numbers.raise_factor:
                    text = f"{name}: raised to more than {numbers.raise_factor} times {show(wanted, instrument)}"
                    self.problem("false raise", text)
                return extra
        wanted = side * (wish - (leg.lots << 32))
        self.problem("false raise", f"{name}: {show(wanted, instrument)} wanted, raised by {show(extra, instrument)}")
        return extra

    def opening_under_check(
        self,
        claim: Claim,
        numbers: PlanNumbers,
        instrument: Instrument,
        leg: Leg,
        side: int,
        wish: int,
        px: int,
        trade: LeaderTrade | None,
    ) -> Opening:
        """The facts of one opening for ``reasons``, in unsigned lots of its direction."""
        held_low, held_high = leg.held(side, claim.ts_decided)
        want = abs(wish) if sign(wish) == side else 0
        account = self.accounts[claim.plan]
        unheard = account.unheard(claim.ts_decided - self.config.report_lag)
        others: dict[str, tuple[int, int]] = {}
        for symbol in self.truth.instruments:
            if symbol != instrument.symbol:
                other = self.legs.get((claim.plan, symbol))
                closed = unheard.get(symbol, 0)
                if other is not None and (other.target or other.lots or closed):
                    fewest = min(abs(other.lots), abs(other.target) >> 32)
                    _, most = other.held(other.side_held() or 1, claim.ts_decided)  # with an opening whose fate is not known
                    others[symbol] = fewest, max(abs(other.lots), abs(other.target) >> 32, most, 1) + closed
        return Opening(
            numbers=numbers,
            instrument=instrument,
            claim=claim,
            side=side,
            px=px,
            limit=self.limit(numbers, px, side, claim.symbol),
            trade=trade,
            ts=claim.ts_decided,
            held_low=held_low,
            held_high=held_high,
            wanted_low=max(0, toward_zero_to_lot(want - (held_high << 32))),
            wanted_high=max(0, toward_zero_to_lot(want - (held_low << 32))),
            wanted_q32=max(0, want - (held_high << 32)),
            allowed=self.let_through(claim, leg, held_high),
            new_leg=held_low == 0,
            other_legs=others,
            account=account,
            unheard=unheard.get(claim.symbol, 0),
        )

    @staticmethod
    def let_through(claim: Claim, leg: Leg, held_high: int) -> int:
        """Lots a decision sends or keeps for later."""
        if claim.open == "order":
            return claim.open_lots
        return max(0, (abs(leg.target) >> 32) - held_high) if claim.open == "deferred" else 0

    def limit(self, numbers: PlanNumbers, px: int, side: int, symbol: str) -> int:
        """The limit price at the plan's slippage cap."""
        return limit_price(px, side, numbers.plan.slippage_bps or self.reasons.slippage_default(symbol))

    # -- orders ------------------------------------------------------------------------------------------------

    def orders_law(self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg, event: Event | None) -> None:
        """The orders of a decision are wanted ones: not more, not less, on the right side (semantics 1)."""
        side = sign(leg.target)
        if claim.open == "order":
            leg.open_slack = 0  # one opening in flight per leg: the one before has ended
            if self.stops.stopped(claim.plan, claim.ts_decided):
                self.problem("opened after a stop", f"{claim.plan} {claim.symbol}: opens, and a loss limit had stopped the plan")
        # reducing part: never more than the leg may hold, never past the target
        if claim.reduce == "order":
            from_side = leg.side_held()
            _, most = leg.held(from_side, claim.ts_decided)
            # What is left of an earlier close goes first, also where the leader came round to its side again: what is opened
            # for that is deferred behind it.
            waiting = abs(claim.delta_q32) if claim.open == "deferred" else 0
            waiting = max(waiting, abs(leg.k) * sum(lots for lots, _ in leg.deferred))
            if side == from_side:
                most = toward_zero_to_lot((most << 32) - max(0, abs(leg.target) - waiting))
            if claim.reduce_lots > max(0, most):
                self.problem(
                    "over-sized order",
                    f"{claim.plan} {claim.symbol}: reduces by {instrument.qty_text(claim.reduce_lots)}, "
                    f"at most {instrument.qty_text(max(0, most))} was due",
                )
        elif claim.reduce_lots:
            self.problem("false claim", f"{claim.plan} {claim.symbol}: reduces without an order ({claim.reduce})")
        # opening part: whole lots of the target less what the leg holds
        held_low, held_high = leg.held(side, claim.ts_decided)
        if claim.open == "order":
            most = max(0, toward_zero_to_lot(abs(leg.target) - (held_low << 32)))
            least = max(0, toward_zero_to_lot(abs(leg.target) - (held_high << 32)))
            if claim.open_lots > most:
                self.verdict.duplicates += 1
                self.problem(
                    "over-sized order",
                    f"{claim.plan} {claim.symbol}: opens {instrument.qty_text(claim.open_lots)}, "
                    f"at most {instrument.qty_text(most)} was wanted (target {abs(leg.target) >> 32} lots, holds {held_low})",
                )
            elif claim.open_lots < least and not (instrument.max_lots and claim.open_lots >= instrument.max_lots):
                self.problem(
                    "under-sized order",
                    f"{claim.plan} {claim.symbol}: opens {instrument.qty_text(claim.open_lots)}, "
                    f"{instrument.qty_text(least)} was wanted and nothing says why not",
                )
        elif event is not None and event.opening and claim.open in ("none", "rounded", "carried", ""):
            px = event.trade.px
            minimum = instrument.minimum_lots(self.limit(numbers, px, side or 1, claim.symbol))
            least = max(0, toward_zero_to_lot(abs(leg.target) - (held_high << 32)))
            if side == sign(event.opening) and least >= minimum:
                self.verdict.omissions += 1
                self.problem(
                    "omission",
                    f"{claim.plan} {claim.symbol} trade {claim.exec_id}: {instrument.qty_text(least)} wanted, "
                    f"no order and no reason ({claim.open})",
                )
        self.take_orders(claim, numbers, leg, event)

    def take_orders(self, claim: Claim, numbers: PlanNumbers, leg: Leg, event: Event | None = None) -> None:
        """Match a claim's orders with the books and book them on the leg."""
        open_lots = reduce_lots = 0
        missing = False
        target_side = sign(leg.target)
        for cid in claim.orders:
            if cid in self.claimed:
                self.problem("decided twice", f"order id {cid} stands in two decisions")
                continue
            order = self.orders.get(cid)
            # Held before: a sale of something held is a reduction; in doubt the order's own flag says it.
            opening = claim.reduce != "order" or (claim.open == "order" and cid == claim.orders[-1])
            if order is not None and claim.open == "order" and claim.reduce == "order":
                opening = not (order.reduce_only or is_closing(order))
            self.claimed[cid] = (claim.plan, claim.symbol, claim.ts_decided, opening)
            if order is None:
                missing = True
                leg.missing.append(cid)
                if opening:  # until it is said to have ended the daemon must count it as on the wire
                    leg.open_slack = target_side * claim.open_lots
                    self.reserve_missing(claim, numbers, leg)
                else:
                    leg.lost.append((claim.ts_decided + self.config.settling, claim.reduce_lots))
                continue
            self.unclaimed.discard(cid)
            self.same_order(claim, numbers, order, opening, target_side)
            if opening:
                open_lots += order.lots
            else:
                reduce_lots += order.lots
            self.book(claim, numbers, leg, order, opening)
        if not missing:
            if open_lots != (claim.open_lots if claim.open == "order" else 0):
                self.problem(
                    "wrong quantity",
                    f"{claim.plan} {claim.symbol}: {claim.open_lots} lots decided to open, the exchange got {open_lots}",
                )
            if reduce_lots != (claim.reduce_lots if claim.reduce == "order" else 0):
                self.problem(
                    "wrong quantity",
                    f"{claim.plan} {claim.symbol}: {claim.reduce_lots} lots decided to close, the exchange got {reduce_lots}",
                )

    def reserve_missing(self, claim: Claim, numbers: PlanNumbers, leg: Leg) -> None:
        """An opening that never reached the exchange holds margin until its fate is known."""
        instrument = self.truth.instruments[claim.symbol]
        notional = instrument.notional_e8(claim.open_lots, self.last_trade(leg, claim.symbol))
        reserved = notional // own_leverage(numbers.plan) + notional * 3 // 100
        self.accounts[claim.plan].recent.append((claim.ts_decided, claim.symbol, 0, reserved))

    def same_order(self, claim: Claim, numbers: PlanNumbers, order: Order, opening: bool, target_side: int) -> None:
        """The order in the books is the decided one: account, instrument, side, kind, price, time."""
        name = f"{claim.plan} {claim.symbol} order {order.client_order_id}"
        if order.account != numbers.account:
            self.problem("wrong account", f"{name} is on the account {order.account}")
        if order.symbol != claim.symbol:
            self.problem("wrong instrument", f"{name} is for {order.symbol}")
        if opening:
            if target_side and order.side != target_side:
                self.problem("wrong side", f"{name} opens on the wrong side")
            if order.reduce_only or is_closing(order):
                self.problem("wrong kind", f"{name} should open but is a closing order")
        else:
            if not order.reduce_only and order.position_side == "BOTH" and not numbers.plan.allow_netting:
                self.problem("wrong kind", f"{name} reduces without reduce-only")
            if order.position_side != "BOTH" and not is_closing(order):
                self.problem("wrong side", f"{name} should close a {order.position_side} position but adds to it")
        tolerance = self.config.clock_tolerance
        if claim.ts_decided and order.ts < claim.ts_decided - tolerance:
            self.problem("wrong time", f"{name} reached the exchange before it was decided")
        for gap in self.config.outages:
            if gap.ts_down + self.config.in_flight_grace < order.ts < gap.ts_start:
                self.problem("order after kill", f"{name} was accepted while no daemon was running")
        if opening:
            for command in self.config.commands:
                covers = command.plan in ("", claim.plan) and command.symbol in ("", claim.symbol)
                if covers and command.action != "resume" and order.ts > command.ts_done + self.config.in_flight_grace:
                    resumed = any(
                        later.action == "resume" and later.plan == command.plan and command.ts_done < later.ts_sent < order.ts
                        for later in self.config.commands
                    )
                    if not resumed:
                        self.problem("order after kill", f"{name} opened after {command.action}")

    def book(self, claim: Claim, numbers: PlanNumbers, leg: Leg, order: Order, opening: bool) -> None:
        """Book an accepted order: what it executed for certain, and what it may have looked like on the wire."""
        leg.lots += order.side * order.executed
        unfilled = order.lots - order.executed
        if opening:
            leg.open_slack += order.side * unfilled
        else:
            leg.reduce_slack = unfilled
        instrument = self.truth.instruments[order.symbol]
        account = self.accounts[claim.plan]
        leverage = own_leverage(numbers.plan)
        if order.executed:
            account.book(instrument, order.side * order.executed, order.cost_e8, self.config.taker_fee_ppm)
        if opening:  # while on the wire it reserves margin for its limit, its slippage and its fee
            notional = instrument.notional_e8(order.lots, order.px or (order.cost_e8 // max(1, order.executed)))
            reserved = notional // leverage + notional * 3 // 100 - order.cost_e8 // leverage
            account.recent.append((order.ts_done or order.ts, order.symbol, 0, reserved))
        else:
            account.recent.append((order.ts_done or order.ts, order.symbol, order.executed, order.cost_e8 // leverage))

    def later(self, claim: Claim, numbers: PlanNumbers, instrument: Instrument, leg: Leg) -> None:
        """A decision not caused by a leader trade: a released opening, an excess closed, a plan made anew after restart."""
        side = sign(leg.target)
        forgone = abs(claim.forgone_q32)
        if forgone:
            self.count_forgone(claim.reason, numbers, claim.symbol, claim.ts_event or claim.ts_decided, claim.ts_decided)
            before = leg.target
            px = self.deferred_price(leg) or (self.last_trade(leg, claim.symbol) or 1)
            leg.drop(forgone)
            o = self.opening_under_check(claim, numbers, instrument, leg, side, before, px, None)
            fault = self.reasons.opening(o, claim.reason)
            if fault:
                self.problem(
                    "false reason",
                    f"{claim.plan} {claim.symbol} ({claim.cause}): forgone {show(forgone, instrument)} for "
                    f"{claim.reason}, but {fault}",
                )
        elif claim.open == "order" and claim.target_q32 != leg.target:
            px = self.deferred_price(leg) or (self.last_trade(leg, claim.symbol) or 1)
            raised = self.raised(claim, numbers, instrument, leg, side, leg.target, px)
            if raised:
                leg.target += side * raised
                leg.reset()
        self.orders_law(claim, numbers, instrument, leg, None)
        if claim.open in ("order", "forgone"):
            leg.deferred = []
        if claim.target_q32 != leg.target:
            self.problem(
                "wrong target",
                f"{claim.plan} {claim.symbol} ({claim.cause}): the target is {show(leg.target, instrument)}, "
                f"the daemon says {show(claim.target_q32, instrument)}",
            )

    def deferred_price(self, leg: Leg) -> int:
        """Quantity-weighted leader price of the openings that wait, in ticks (nearest)."""
        lots = sum(lots for lots, _ in leg.deferred)
        return round(sum(lots * px for lots, px in leg.deferred) / lots) if lots else 0

    def last_trade(self, leg: Leg, symbol: str) -> int:
        """The leader's price last applied to a leg."""
        return self.events[symbol][leg.next_event - 1].trade.px if leg.next_event else 0

    def order_end(self, claim: Claim, numbers: PlanNumbers, leg: Leg) -> None:
        """An opening ended and left something unfilled: it leaves the target, with a reason."""
        cid = claim.client_order_id
        known = self.claimed.get(cid)
        if known is None:
            self.problem("unknown order", f"{claim.plan} {claim.symbol}: gives up part of order {cid}, which no decision named")
            return
        plan, symbol, decided_ts, opening = known
        order = self.orders.get(cid)
        forgone = abs(claim.forgone_q32)
        end_ts = claim.ts_decided or claim.ts
        if plan != claim.plan or symbol != claim.symbol:
            self.problem("unknown order", f"{claim.plan} {claim.symbol}: order {cid} is of {plan} {symbol}")
            return
        if not forgone:
            return
        if not opening:
            self.problem("blocked reduction", f"{plan} {symbol}: gives up the reduction {cid}")
        self.count_forgone(claim.reason, numbers, claim.symbol, decided_ts, end_ts)
        fault = self.reasons.order_end(claim.reason, order, cid, forgone, decided_ts, end_ts, numbers.account)
        instrument = self.truth.instruments[symbol]
        if not fault and order is not None:
            fault = self.limit_fault(order, numbers, leg)
        if fault:
            self.problem(
                "false reason",
                f"{plan} {symbol} order {cid}: forgone {show(forgone, instrument)} for {claim.reason}, but {fault}",
            )
        leg.open_slack = 0
        leg.drop(forgone)

    def limit_fault(self, order: Order, numbers: PlanNumbers, leg: Leg) -> str:
        """The limit was not tighter than the plan's cap against some leader price of this leg: it was a fair chance."""
        cap = numbers.plan.slippage_bps or self.reasons.slippage_default(order.symbol)
        events = self.events.get(order.symbol, [])
        prices = [e.trade.px for e in events[max(0, leg.next_event - 60) : leg.next_event] if sign(e.trade.lots) == order.side]
        if not prices or order.kind != "LIMIT":
            return ""
        low, high = (limit_price(px, order.side, cap) for px in (min(prices), max(prices)))
        if low - 1 <= order.px <= high + 1:
            return ""
        return f"its limit {order.px} is not at the plan's cap of {cap} bps from the leader's price ({low}..{high})"

    def count_forgone(self, reason: str, numbers: PlanNumbers, symbol: str, ts: int, ts_decided: int) -> None:
        """Count by reason; outside the restart window others than the plan's own limits are counted against the daemon."""
        name = reason.partition(":")[0] or "unnamed"
        self.forgone[name] += 1
        if counts_as_plan_limit(name, numbers, symbol):
            return
        if self.reasons.in_outage(ts) or self.reasons.in_outage(ts_decided):
            return
        if any(ts <= gap.ts_down <= ts_decided for gap in self.config.outages):
            return
        faults = self.reasons.faults
        if faults.any and (faults.order_disturbed(numbers.account, ts, ts_decided) or faults.leader_disturbed(ts, ts_decided)):
            self.verdict.forgone_disturbed += 1
            return
        self.verdict.forgone_other_outside_restart += 1

    # -- the end -----------------------------------------------------------------------------------------------

    def midway(self) -> None:
        """The positions as they were read in the middle of the run, when all was quiet, against the targets of then."""
        truth = self.truth
        truth.held_ts = 0
        for plan in self.numbers:
            for symbol in self.events:
                leg = self.leg(plan, symbol)
                self.position(plan, symbol, leg, truth.held)
                self.verdict.legs_held_midway += leg.lots != 0

    def finish(self) -> Verdict:
        """Every trade decided, every order explained, every position at its target, every limit acted on."""
        verdict = self.verdict
        if self.truth.held_ts:
            self.midway()
        for text in self.stops.missed(self.numbers):
            self.problem("limit passed", text)
        for cid in sorted(self.unclaimed, key=lambda cid: self.orders[cid].ts):
            order = self.orders[cid]
            verdict.duplicates += 1
            self.problem(
                "unexplained order",
                f"{order.account} {order.symbol}: the exchange accepted {cid} ({'buy' if order.side > 0 else 'sell'} "
                f"{order.lots} lots), and no decision explains it",
            )
        for plan in self.numbers:
            in_sync = True
            for symbol, events in self.events.items():
                leg = self.leg(plan, symbol)
                while leg.next_event < len(events):
                    self.skipped(events[leg.next_event], plan, leg)
                in_sync &= self.position(plan, symbol, leg, self.truth.positions)
                verdict.legs += bool(leg.target or leg.lots)
            verdict.followers_in_sync += in_sync
        for (account, symbol, side), lots in self.truth.positions.items():
            plan_name = self.account_plan.get(account)
            if plan_name is not None and lots and (plan_name, symbol) not in self.legs:
                verdict.out_of_sync += 1
                self.problem("position", f"{account} holds {lots} lots of {symbol} {side} without a leg")
        for order in self.orders.values():
            if order.status in ("NEW", "PARTIALLY_FILLED"):
                name = f"{order.account} {order.symbol} order {order.client_order_id}"
                self.problem("unfinished order", f"{name} is still {order.status}")
        decisions = max(1, verdict.decisions)
        if verdict.forgone_other_outside_restart * 1_000_000 > self.config.other_forgone_ppm * decisions:
            self.problem(
                "too much forgone",
                f"{verdict.forgone_other_outside_restart} of {verdict.decisions} decisions forgone for other causes than the "
                f"plans' own limits, outside the restart window",
            )
        if verdict.forgone_disturbed * 1_000_000 > self.config.disturbed_forgone_ppm * decisions + 10_000_000:
            text = f"{verdict.forgone_disturbed} of {verdict.decisions} decisions forgone for what went wrong on purpose"
            self.problem("too much forgone", text)
        if verdict.leader_events and not verdict.decisions:
            self.problem("nothing decided", "the leader traded and the daemon decided nothing")
        verdict.forgone = dict(self.forgone.most_common())
        verdict.problem_counts = dict(self.counts)
        verdict.verified = not self.counts and not verdict.duplicates and not verdict.omissions and not verdict.out_of_sync
        return verdict

    def position(self, plan: str, symbol: str, leg: Leg, positions: dict[tuple[str, str, str], int]) -> bool:
        """The venue position of a leg against its target."""
        numbers = self.numbers[plan]
        instrument = self.truth.instruments[symbol]
        sides = [positions.get((numbers.account, symbol, side), 0) for side in ("BOTH", "LONG", "SHORT")]
        lots = sum(sides)
        verdict = self.verdict
        verdict.legs_open += positions is self.truth.positions and lots != 0
        fine = True
        if sides[1] > 0 and sides[2] < 0:
            self.problem("position", f"{plan} {symbol}: holds both a long and a short position")
            fine = False
        if lots != leg.lots:
            self.problem(
                "books", f"{plan} {symbol}: position {instrument.qty_text(lots)}, its orders make {instrument.qty_text(leg.lots)}"
            )
            fine = False
        gap = leg.target - (lots << 32)
        if abs(gap) < 1 << 32:
            return fine
        verdict.legs_with_gap += 1
        opening = sign(gap) == sign(leg.target) and (not lots or sign(lots) == sign(leg.target))
        if opening and numbers.plan.min_policy == "carry":
            quotes = self.truth.quotes.get(symbol)
            low_px, _ = quotes.price_range(quotes.ts[0], quotes.ts[-1]) if quotes and quotes.ts else (0, 0)
            if toward_zero_to_lot(abs(gap)) < instrument.minimum_lots(low_px or self.last_trade(leg, symbol)):
                verdict.waiting_for_minimum += 1
                return fine
        verdict.out_of_sync += 1
        verdict.omissions += bool(leg.missing)
        self.problem(
            "out of sync",
            f"{plan} {symbol}: position {instrument.qty_text(lots)}, should be {show(leg.target, instrument)} "
            f"(off by {show(abs(gap), instrument)})",
        )
        return False


def is_closing(order: Order) -> bool:
    """A hedge-mode order that makes its position side smaller."""
    return (order.position_side == "LONG" and order.side < 0) or (order.position_side == "SHORT" and order.side > 0)


def show(q32: int, instrument: Instrument) -> str:
    """A Q32 quantity as the trader writes it, with the part of a lot that cannot be traded."""
    return f"{float(q32 * instrument.lot) / 2**32:.8g}"


def verify(
    truth: Truth, plans: list[Plan], claims: Iterable[Claim] | Iterator[Claim], config: VerifyConfig | None = None
) -> Verdict:
    """Compare the exchange's books with the rules. Pure: the same input gives the same verdict."""
    verifier = Verifier(truth, plans, config or VerifyConfig())
    verifier.read_books()
    for claim in claims:
        verifier.take(claim)
    return verifier.finish()
