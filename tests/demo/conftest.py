"""A small honest daemon and exchange in one: right histories to feed the verifier with, and to spoil in one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from copyd.demo.history import (
    E8,
    MS,
    SECOND,
    Claim,
    Instrument,
    LeaderTrade,
    Order,
    Plan,
    Quotes,
    Truth,
    VerifyConfig,
)
from copyd.demo.ideal import Anchor, PlanNumbers, k_q32, limit_price, sign, split, toward_zero_to_lot
from copyd.demo.verifier import Verdict, verify

START = 1_000 * SECOND


class FollowerLeg(Anchor):
    """What the honest daemon keeps of one leg."""

    def __init__(self) -> None:
        super().__init__()
        self.k = 0
        self.k_order = ""
        self.lots = 0


class World:
    """Leader trades in; truth, claims and positions out. Fills are immediate; ``fill_share`` makes openings partial."""

    def __init__(self, plans: list[Plan], equity: int = 1_000_000) -> None:
        self.instruments = {
            "BTCUSDT": Instrument("BTCUSDT", "0.10", "0.001", "50", "0.001", "1000", "120"),
            "ETHUSDT": Instrument("ETHUSDT", "0.01", "0.001", "20", "0.001", "10000", "2000"),
        }
        self.plans = plans
        self.numbers = [PlanNumbers(plan) for plan in plans]
        self.equity_e8 = equity * E8
        self.trades: list[LeaderTrade] = []
        self.orders: list[Order] = []
        self.claims: list[Claim] = []
        self.legs: dict[tuple[str, str], FollowerLeg] = {}
        self.quotes = {symbol: Quotes() for symbol in self.instruments}
        self.now = START
        self.seq = 0
        self.ids = 0
        self.first_px: dict[str, int] = {}
        self.reads = [(START - SECOND, self.equity_e8)]
        self.balances = {n.account: n.allocation_e8 for n in self.numbers}
        self.config = VerifyConfig()

    def quote(self, symbol: str, px: int) -> None:
        """The book stands one tick either side of a price."""
        self.quotes[symbol].add(self.now, px - 1, px + 1, px)

    def trade(
        self, lots: int, px: int = 600_000, symbol: str = "BTCUSDT", order: str = "", order_lots: int = 0, fill_share: float = 1
    ) -> None:
        """The leader trades signed lots; every follower follows at once."""
        self.now += 200 * MS
        self.quote(symbol, px)
        order = order or f"L{len(self.trades)}"
        self.first_px.setdefault(order, px)
        before = sum(t.lots for t in self.trades if t.symbol == symbol)
        trade = LeaderTrade(symbol, str(1000 + len(self.trades)), order, lots, px, order_lots or abs(lots), self.now)
        self.trades.append(trade)
        self.seq += 1
        reads_until = self.reads[-1][0] + 10 * SECOND
        if self.now > reads_until:
            self.reads.append((self.now - MS, self.equity_e8))
        for numbers in self.numbers:
            self.follow(numbers, trade, before, fill_share)

    def follow(self, numbers: PlanNumbers, trade: LeaderTrade, before: int, fill_share: float) -> None:
        """One follower's decision, its orders and fills."""
        plan, symbol = numbers.plan, trade.symbol
        instrument = self.instruments[symbol]
        leg = self.legs.setdefault((plan.follower, symbol), FollowerLeg())
        reducing, opening = split(before, trade.lots)
        claim = self.claim(plan, trade)
        worth = self.worth(numbers)
        if reducing:
            leg.reduce(reducing)
            excess = toward_zero_to_lot((abs(leg.lots) << 32) - abs(leg.target))
            claim.reduce = "rounded" if leg.lots else "none"
            if excess:
                claim.reduce, claim.reduce_lots = "order", excess
                claim.orders.append(self.order(numbers, symbol, -sign(leg.lots), excess, 0, True, 1))
                leg.lots -= sign(leg.lots) * excess
        if opening:
            allowed = not plan.instruments or symbol in plan.instruments
            per_order = plan.mode in ("fixed_amount", "risk_based")
            if leg.target == 0 or per_order or (plan.ratio_snapshot == "each_order" and leg.k_order != trade.order_id):
                px = self.first_px[trade.order_id] if plan.mode == "risk_based" else trade.px
                leg.k = k_q32(numbers, instrument, trade.order_lots, px, self.equity_e8, 10, worth)
                leg.k_order = trade.order_id
            claim.k_q32, claim.delta_q32 = leg.k, leg.k * opening
            side = sign(opening)
            forgone = 0
            limit = limit_price(trade.px, side, plan.slippage_bps or 50)
            wish = abs(leg.target + claim.delta_q32)
            want = toward_zero_to_lot(wish) - abs(leg.lots)
            if not allowed:
                forgone, claim.reason = abs(claim.delta_q32), "instrument_not_allowed"
            elif numbers.max_notional_symbol_e8:
                cap = instrument.lots_worth(numbers.max_notional_symbol_e8, trade.px) - abs(leg.lots)
                if cap < want:
                    whole = cap < instrument.minimum_lots(limit)
                    forgone = abs(claim.delta_q32) if whole else (want - cap) << 32
                    claim.reason, want = "max_notional_symbol", 0 if whole else cap
            leg.open(opening, leg.k, forgone)
            claim.forgone_q32 = side * forgone
            if forgone == abs(claim.delta_q32):
                claim.open = "forgone"
            elif want >= instrument.minimum_lots(limit):
                claim.open_lots = want
                if reducing:
                    claim.open, claim.open_lots = "deferred", 0
                else:
                    claim.open = "order"
                    claim.orders.append(self.order(numbers, symbol, side, want, limit, False, fill_share))
            else:
                claim.open = "carried" if want else "rounded"
        claim.target_q32 = leg.target
        self.claims.append(claim)
        if claim.open == "deferred":
            want = toward_zero_to_lot(abs(leg.target))
            later = self.claim(plan, trade)
            later.cause, later.open, later.open_lots, later.target_q32 = "release", "order", want, leg.target
            later.orders = [self.order(numbers, symbol, sign(opening), want, limit, False, fill_share)]
            self.claims.append(later)
            claim = later
        if claim.open == "order":
            order = self.orders[-1]
            leg.lots += order.side * order.executed
            if order.executed < order.lots:
                end = self.claim(plan, trade)
                end.cause, end.client_order_id, end.reason = "order_end", order.client_order_id, "slippage"
                end.forgone_q32 = order.side * (order.lots - order.executed) << 32
                leg.drop((order.lots - order.executed) << 32)
                end.target_q32 = leg.target
                self.claims.append(end)

    def claim(self, plan: Plan, trade: LeaderTrade) -> Claim:
        """A claim with the facts of its trade filled in."""
        self.now += 1000
        return Claim(
            cause="leader_fill", seq=self.seq, leader="leader", symbol=trade.symbol, exec_id=trade.exec_id, plan=plan.follower,
            orders=[], leader_equity_e8=self.equity_e8, bid=trade.px - 1, ask=trade.px + 1, mark=trade.px,
            ts_event=trade.ts, ts_recv=trade.ts, ts_decided=self.now,
        )  # fmt: skip

    def order(
        self, numbers: PlanNumbers, symbol: str, side: int, lots: int, limit: int, reducing: bool, share: float
    ) -> str:
        """An order accepted by the exchange; ``share`` of it is executed."""
        self.ids += 1
        cid = f"{self.ids:032x}"
        done = int(lots * share)
        self.orders.append(
            Order(
                cid, numbers.account, symbol, side, "BOTH", "LIMIT" if limit else "MARKET", "IOC" if limit else "", limit,
                lots, reducing, done, self.value(symbol, done), "FILLED" if done == lots else "EXPIRED",
                self.now + MS, self.now + 2 * MS,
            )
        )  # fmt: skip
        return cid

    def worth(self, numbers: PlanNumbers) -> int:
        """Allocation, what the orders so far brought and cost, and what is held at the last price (semantics 16)."""
        worth = numbers.allocation_e8
        for order in self.orders:
            if order.account == numbers.account:
                worth -= order.side * order.cost_e8 + order.cost_e8 * 500 // 1_000_000
                worth += order.side * self.value(order.symbol, order.executed)
        return worth

    def value(self, symbol: str, lots: int) -> int:
        """Cost of lots at the last price, 1e-8."""
        return self.instruments[symbol].notional_e8(lots, self.quotes[symbol].mark[-1])

    def truth(self) -> Truth:
        """The exchange's books as they stand."""
        positions: dict[tuple[str, str, str], int] = {}
        for order in self.orders:
            key = (order.account, order.symbol, "BOTH")
            positions[key] = positions.get(key, 0) + order.side * order.executed
        return Truth(
            instruments=self.instruments, leader_trades=list(self.trades), orders=list(self.orders), positions=positions,
            quotes=self.quotes, leader_reads=self.reads, balances=self.balances, fill_count=len(self.orders),
        )  # fmt: skip

    def verdict(self) -> Verdict:
        """What the verifier says of this history."""
        return verify(self.truth(), self.plans, self.claims, self.config)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """A new history: ``make_world(plans, equity=...)``."""
    return World


@pytest.fixture
def world() -> World:
    """Three plans and a history with opens, adds, partial closes, a flip, partial fills, a cap and an instrument rule."""
    plans = [
        Plan(follower="anna", allocation="50000", max_position_bps=0),
        Plan(follower="bert", allocation="20000", mode="multiplier", multiplier="1.5", max_notional_symbol="2500"),
        Plan(follower="cleo", allocation="9000", mode="fixed_amount", amount="300", instruments=["ETHUSDT"]),
        Plan(follower="dora", allocation="30000", mode="risk_based", risk_bps=20, assumed_stop_bps=100),
    ]
    world = World(plans)
    world.config = VerifyConfig(leader_leverage={"BTCUSDT": 10, "ETHUSDT": 10}, other_forgone_ppm=1_000_000)
    world.trade(1000)
    world.trade(500, 600_500, order="A", order_lots=1500)
    world.trade(1000, 600_600, order="A", order_lots=1500, fill_share=0.5)
    world.trade(-700, 601_000)
    world.trade(4000, 300_000, "ETHUSDT")
    world.trade(-2600, 600_000)  # through zero: 1800 closed, 800 short
    world.trade(-1000, 599_000)
    world.trade(-1000, 301_000, "ETHUSDT")
    world.trade(333, 599_500)
    return world
