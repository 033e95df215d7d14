"""Random worlds for the rules: plans, instruments, leader fills and venue reports, fed to the twin and the kernel alike."""

from __future__ import annotations

import array
import random
from dataclasses import dataclass, field, replace

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.fanout import Kernel
from copyd.core import fill, position, protection
from copyd.core.order import Cause, sending_order
from copyd.core.pnl import profit
from copyd.core.reconcile import EDGES_BPS, drift
from copyd.core.rows import (
    NONE,
    TERMINAL_MASK,
    UNFINISHED_MASK,
    AccountInstrumentRow,
    AccountRow,
    FillEvent,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    OrderState,
    Params,
    PlanRow,
    ReportKind,
    ReportRow,
    Row,
)
from copyd.core.state import Outcome, Tables

SECOND = 1_000_000_000
ONE = 1 << 32
INSTRUMENTS_MAX = 4


def _add(columns: Columns, table: int, row: Row) -> int:
    return columns.add(table, row.pack())


def random_plan(rng: random.Random, account: int) -> PlanRow:
    """A plan with limits that sometimes bind."""
    e8 = 10**8
    return PlanRow(
        allocation_e8=rng.choice([50, 1_000, 20_000, 1_000_000]) * e8 + rng.randrange(e8),
        amount_e8=rng.choice([1, 50, 3_000]) * e8,
        max_notional_symbol_e8=rng.choice([0, 0, 500 * e8]),
        max_notional_total_e8=rng.choice([0, 0, 900 * e8]),
        multiplier_ppm=rng.choice([100_000, 500_000, 1_234_567, 10_000_000]),
        raise_max_ppm=rng.choice([1_000_000, 2_000_000, 50_000_000]),
        instruments=rng.choice([(1 << 64) - 1, 1, 2]),
        account=account,
        leverage=rng.choice([1, 3, 20]),
        leverage_max=rng.choice([0, 1, 5, 20]),
        risk_bps=rng.choice([10, 100]),
        assumed_stop_bps=rng.choice([0, 150, 1_000]),
        max_position_bps=rng.choice([0, 3_000, 10_000]),
        max_loss_bps=rng.choice([0, 200]),
        slippage_bps=rng.choice([0, 5, 300]),
        slippage_mid_bps=rng.choice([0, 5]),
        max_open_trades=rng.choice([0, 0, 1]),
        mode=rng.randrange(5),
        ratio_snapshot=rng.randrange(3),
        min_policy=rng.randrange(3),
        on_insufficient=rng.randrange(2),
        require_stop=rng.choice([0, 0, 0, 1]),
        state=rng.choice([0] * 8 + [1, 2, 3]),
        total_loss_bps=rng.choice([0, 10, 2_000]),
        daily_loss_bps=rng.choice([0, 5, 500]),
        leader_drawdown_bps=rng.choice([0, 1_500]),
        loss_policy=rng.randrange(4),
    )


@dataclass
class World:
    """One leader, two instruments, a few followers; the kernel's tables are the state, the twin runs on a copy.

    ``venues``: some of the followers are on another venue, where the two instruments have mirrors (2 and 3) in other units.
    """

    rng: random.Random
    venues: bool = False
    now: int = 1_000 * SECOND
    seq: int = 1
    trade: int = 0
    order_id: int = 0
    columns: Columns = field(init=False)
    kernel: Kernel = field(init=False)
    params: Params = field(init=False)
    groups: list[dict[int, array.array]] = field(init=False)  # by the leader's instrument, by the follower's

    def __post_init__(self) -> None:
        rng = self.rng
        columns = self.columns = Columns(INSTRUMENTS_MAX)
        e8 = 10**8
        _add(columns, 0, InstrumentRow(
            value_mul=10_000, lot_max=rng.choice([1 << 40, 50]), lot_max_market=rng.choice([1 << 40, 20]),
            min_notional_e8=rng.choice([0, 5 * e8, 100 * e8]), slippage_bps=50,
        ))
        _add(columns, 0, InstrumentRow(
            value_mul=3, value_div=7, lot_min=rng.choice([1, 1, 6]), min_notional_e8=rng.choice([0, 10**6]), slippage_bps=150,
            turbulent=rng.choice([0, 0, 0, 1]), clock_off=rng.choice([0, 0, 0, 1])))
        self.px = [600_000, 45_000]
        self.lots = [(1, 1), (1, 1)]
        if self.venues:
            _add(columns, 0, InstrumentRow(
                value_mul=1_000, lot_max=rng.choice([1 << 40, 500]), min_notional_e8=rng.choice([0, 5 * e8]),
                turbulent=rng.choice([0, 0, 0, 1]), clock_off=rng.choice([0, 0, 0, 1])))
            _add(columns, 0, InstrumentRow(
                value_mul=70, value_div=3, slippage_bps=150, spot=rng.choice([0, 1, 1]), min_notional_e8=rng.choice([0, 10**8])))
            self.px += [601_000, 9_000]
            terms = [(10, 1), (1, 10), (3, 7), (1 << 32, 1), (1, 1 << 32), (999, (1 << 32) - 1)]
            self.lots = [rng.choice(terms) for _ in range(2)]
        _add(columns, 1, LeaderRow(
            equity_e8=rng.choice([0, 5_000, 100_000]) * e8, ts_equity=self.now, declared_leverage=rng.choice([0, 0, 0, 5]),
            declared_position_e8=rng.choice([0, 0, 0, 3_000]) * e8,
            declared_instruments=rng.choice([(1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1, 2]),
        ))
        for instrument in range(2):
            _add(columns, 2, LeaderPositionRow(
                qty=rng.choice([0, 0, 7, -30]), leverage=rng.choice([1, 10]), instrument=instrument))
        followers = rng.randint(1, 6)
        self.groups = [{n: array.array("I") for n in range(n, len(self.px), 2)} for n in range(2)]
        elsewhere = [self.venues and rng.random() < 0.5 for _ in range(followers)]
        for _ in range(followers):
            _add(columns, 4, AccountRow(balance_e8=rng.choice([10, 2_000, 10**6]) * e8, hedge=rng.choice([0, 0, 1])))
            for _ in range(INSTRUMENTS_MAX):
                _add(columns, 5, AccountInstrumentRow(leverage=rng.choice([1, 10, 10, 125]), ready=rng.choice([1] * 9 + [0])))
        for plan_index in range(followers + rng.randint(0, 1)):
            account = min(plan_index, followers - 1)
            plan = random_plan(rng, account)
            leg = NONE
            for traded in range(2):
                instrument = traded + 2 * elsewhere[account]
                row = LegRow(plan=plan_index, account=account, next_leg=leg, leader_position=traded, instrument=instrument)
                leg = _add(columns, 6, row)
                self.groups[traded][instrument].append(leg)
            plan.first_leg = leg
            _add(columns, 3, plan)
        self.params = Params(
            key=bytes(range(16)), epoch=3, site=0xC0DE, killed=rng.choice([0] * 20 + [1]),
            orders_per_window=rng.choice([160, 160, 3]),
        )
        self.kernel = Kernel(columns)
        self.kernel.set_params(self.params.pack())

    def tables(self) -> Tables:
        """The state as the twin sees it."""
        return Tables.load(INSTRUMENTS_MAX, self.columns.dump(), self.params)

    def edit(self, table: int, index: int, row_type: type[Row], **changes: object) -> None:
        """Change fields of one row."""
        row = row_type.unpack(self.columns.get(table, index))
        for name, value in changes.items():
            setattr(row, name, value)
        self.columns.put(table, index, row.pack())

    def quotes(self) -> None:
        """Move the market a little; sometimes let it go stale."""
        for index in range(len(self.px)):
            self.px[index] = max(1_000, self.px[index] + self.rng.randint(-300, 300))
            px = self.px[index]
            if self.rng.random() < 0.95:
                self.edit(0, index, InstrumentRow, bid=px - self.rng.randint(1, 40), ask=px + self.rng.randint(1, 40),
                          mark=px, ts_quote=self.now)
                if self.rng.random() < 0.9:
                    self.edit(0, index, InstrumentRow, ts_mark=self.now)

    def hold_too_much(self) -> None:
        """Every leg holds something, most of them too much and due to be closed; the followers hold some themselves."""
        for at in range(self.columns.count(5)):
            own = self.rng.choice([0, 0, 1, 5, 40]) * self.rng.choice([1, -1])
            self.edit(5, at, AccountInstrumentRow, net=own, unattributed=own)
        for index in range(self.columns.count(6)):
            leg = LegRow.unpack(self.columns.get(6, index))
            held = self.rng.choice([1, 2, 7, 50]) * self.rng.choice([1, -1])
            wanted = self.rng.choice([0, self.rng.randint(0, abs(held) * ONE)])
            self.edit(6, index, LegRow, attributed=held, target=wanted * (1 if held > 0 else -1), retry_ts=self.now)
            at = leg.account * INSTRUMENTS_MAX + leg.instrument
            ai = AccountInstrumentRow.unpack(self.columns.get(5, at))
            short = held < 0 and AccountRow.unpack(self.columns.get(4, leg.account)).hedge
            self.edit(5, at, AccountInstrumentRow, **({"net_short": ai.net_short + held} if short else {"net": ai.net + held}))

    def leader_row(self, instrument: int = 0) -> LeaderPositionRow:
        """The leader's position."""
        return LeaderPositionRow.unpack(self.columns.get(2, instrument))

    # -- inputs -----------------------------------------------------------------------------------------------------

    def leader_fill(self, instrument: int, signed_qty: int, px: int | None = None, order_qty: int = 0,
                    order_id: int | None = None) -> FillEvent:
        """The event of a leader fill of ``signed_qty`` lots; moves the leader's position row."""
        self.seq += 1
        if order_id is None:
            self.order_id += 1
            order_id = self.order_id
        row = LeaderPositionRow.unpack(self.columns.get(2, instrument))
        before, after = row.qty, row.qty + signed_qty
        flip_or_open = before == 0 or (before > 0) == (signed_qty > 0)
        if flip_or_open:
            mid, reduce_qty, open_qty = before, 0, abs(signed_qty)
        else:
            reduce_qty = min(abs(signed_qty), abs(before))
            open_qty = abs(signed_qty) - reduce_qty
            mid = 0 if reduce_qty == abs(before) else after
        self.edit(2, instrument, LeaderPositionRow, qty=after)
        px = px or self.px[instrument]
        return FillEvent(
            cause=self.seq.to_bytes(16, "big"), seq=self.seq, now=self.now, ts_event=self.now - 1_000_000, qty_before=before,
            qty_mid=mid, qty_after=after, open_qty=open_qty, px=px, first_px=px, order_qty=order_qty or abs(signed_qty),
            order_id=order_id, rotation=self.rng.randrange(1 << 30), reduce_qty=reduce_qty, leader=0, position=instrument,
            instrument=instrument, open_side=1 if signed_qty > 0 else -1, live=1,
        )

    def random_report(self) -> ReportRow | None:
        """Something a venue could say about one of our orders: in order, late, twice, or contradictory."""
        count = self.columns.count(7)
        if not count:
            return None
        from copyd.core.rows import OrderRow

        order = OrderRow.unpack(self.columns.get(7, self.rng.randrange(count)))
        if order.state == OrderState.FREE:
            return None
        kind = self.rng.choice([1, 1, 1, 1, 2, 3, 4, 5, 6, 6, 8, 9])
        status = self.rng.choice([2, 3, 4, 6, 7, 8])
        cum = self.rng.choice([0, order.cum_qty, order.order_qty, order.order_qty, self.rng.randint(0, order.order_qty)])
        px = self.px[order.instrument]
        self.trade += 1
        fee_base = self.venues and order.instrument == 3
        return ReportRow(
            cid=order.cid, cum_qty=cum, cost_e8=self.rng.choice([0, cum * px * 3]), last_qty=min(cum, 2),
            last_px=self.rng.choice([0, px, px]), fee_base=int(fee_base),
            fee_e8=self.rng.choice([-5, 1, ONE // 3, 3 * ONE + 7, 1 << 61]) if fee_base else cum * 7,
            trade_id=self.rng.choice([self.trade, max(1, self.trade - 1)]), venue_order_id=self.trade,
            ts_event=self.now, kind=kind, status=status,
            code=self.rng.choice([0, -2019, -2022, -1015, -4164, -4164, -4061, -1013]) if kind in (2, 4) else 0,
        )

    # -- the two implementations ----------------------------------------------------------------------------------------

    def run_kernel_fill(self, event: FillEvent) -> None:
        """Fan out on the kernel."""
        if self.venues:
            self.kernel.fan_out_each([(legs, seen.pack()) for legs, seen in self.seen(event)])
        else:
            self.kernel.fan_out(self.groups[event.instrument][event.instrument], event.pack())

    def seen(self, event: FillEvent) -> list[tuple[array.array, FillEvent]]:
        """The legs of each instrument the event is followed in, and the event as they see it."""
        mul, div = self.lots[event.instrument]
        return [
            (legs, event if instrument == event.instrument else replace(
                event, instrument=instrument, px=self.px[instrument], first_px=self.px[instrument], lots_mul=mul, lots_div=div))
            for instrument, legs in self.groups[event.instrument].items()
        ]

    def run_twin_fill(self, tables: Tables, event: FillEvent) -> Outcome:
        """Fan out on the twin, in the same rotation."""
        out = Outcome()
        for legs, seen in self.seen(event):
            start = event.rotation % len(legs) if legs else 0
            for leg in [*legs[start:], *legs[:start]]:
                position.decide(tables, leg, seen, out)
        return out

    def run_kernel_reports(self, reports: list[ReportRow]) -> None:
        """Book reports on the kernel."""
        self.kernel.apply_reports(ReportBatch.from_bytes(b"".join(r.pack() for r in reports)), self.now, self.seq)

    def run_twin_reports(self, tables: Tables, reports: list[ReportRow]) -> Outcome:
        """Book reports on the twin."""
        out = Outcome()
        fill.apply_reports(tables, reports, self.now, self.seq, out)
        return out

    def sweep_cause(self) -> bytes:
        """The identity of a timer input."""
        return b"timer" + self.seq.to_bytes(11, "big")

    def run_twin_sweep(self, tables: Tables) -> Outcome:
        """The timer on the twin."""
        out = Outcome()
        position.sweep(tables, Cause(self.sweep_cause(), 0, self.seq, self.now, self.now), out)
        return out

    def run_twin_marks(self, tables: Tables) -> Outcome:
        """The leader's peak, sometimes a new day, then every loss limit on the twin and on the kernel."""
        out = Outcome()
        if self.rng.random() < 0.3:
            flow = self.rng.choice([-90_000, -500, 300, 70_000]) * 10**8, self.now - self.rng.choice([0, 1, 4]) * SECOND
            protection.leader_flow(tables, 0, *flow)
            self.kernel.leader_flow(0, *flow)
        protection.follow_peak(tables, 0)
        self.kernel.follow_peak(0)
        if self.rng.random() < 0.2:
            anew = self.rng.random() < 0.5
            protection.begin_day(tables, self.now, anew)
            self.kernel.begin_day(self.now, anew)
        due = protection.losses_due(tables, self.now)
        waits = any(plan.day_pending and not plan.stopped_by and profit(tables, plan, self.now)[1] for plan in tables.plans)
        assert not due or self.kernel.losses_due([], self.now)
        assert due or waits or not self.kernel.losses_due([], self.now)
        protection.stop_losses(tables, Cause(self.sweep_cause(), 0, self.seq, self.now, self.now), out)
        assert bool(out.stops) is due
        self.kernel.stop_losses(self.sweep_cause(), self.now, self.seq)
        return out

    # -- comparison --------------------------------------------------------------------------------------------------

    def assert_equal(self, tables: Tables, out: Outcome) -> None:
        """Every byte of state and of output is the same."""
        assert b"".join(d.pack() for d in out.decisions) == self.kernel.decisions()
        assert b"".join(e.pack() for e in out.ends) == self.kernel.ends()
        assert b"".join(s.pack() for s in out.stops) == self.kernel.stops()
        assert array.array("I", out.suspects).tobytes() == self.kernel.suspects()
        assert array.array("I", sending_order(tables, out)).tobytes() == self.kernel.orders()
        for name, twin, kernel in zip(NAMES, tables.dump(), self.columns.dump(), strict=True):
            assert twin == kernel, name
        for account in range(len(tables.accounts)):
            mask = self.rng.choice([UNFINISHED_MASK, TERMINAL_MASK, (1 << 32) - 1])
            found = [slot for slot, order in enumerate(tables.orders)
                     if order.account == account and 0 < order.state < 64 and mask >> order.state & 1]
            assert self.columns.orders_in_state(mask, account) == found
        for order in tables.orders:
            if tables.instruments[order.instrument].spot:
                assert not order.reduce_only
                assert not order.position_side
        self.assert_equal_drift(tables)
        assert self.kernel.profits(self.now) == [profit(tables, plan, self.now) for plan in tables.plans]

    def assert_equal_drift(self, tables: Tables) -> None:
        """The sync score of every leg is the same, and the histogram counts each leg that holds or wants something."""
        rows = [
            drift(index, leg, tables.instruments[leg.instrument], tables.plans[leg.plan].allocation_e8)
            for index, leg in enumerate(tables.legs)
            if leg.target or leg.missed or leg.attributed
        ]
        packed, buckets = self.kernel.drift(EDGES_BPS, 1_000)
        worst = sorted((row for row in rows if row.distance), key=lambda row: (-row.money_e8, row.leg))
        assert b"".join(row.pack() for row in worst) == packed
        counted = [sum(row.bps <= edge for row in rows) for edge in EDGES_BPS]
        assert [sum(buckets[: n + 1]) for n in range(len(EDGES_BPS))] == counted
        assert sum(buckets) == len(rows)


NAMES = ("instruments", "leaders", "positions", "plans", "accounts", "account_instruments", "legs", "orders", "trades", "free")

__all__ = ["SECOND", "ReportKind", "World"]
