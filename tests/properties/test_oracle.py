"""The engine against the plain rule, bit for bit, where every order fills and no limit binds (semantics 2-5, 42)."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copyd.core import engine as e
from copyd.core.rows import Mode, OrderState, ReportKind
from tests.properties.oracle import E8, Fill, Leg, Plan, position_after
from tests.scenarios.language import Runner, World, default_plan

MODES = ["proportional", "multiplier", "fixed_amount", "fixed_ratio", "risk_based"]
EQUITY = 800_000
PX = 640_000


def a_world(mode: str, allocation: int, **fields: int) -> World:
    """One follower with no limit that binds."""
    runner = Runner()
    runner.act(["instrument", "BTCUSDT"])
    runner.act(f"leader L equity {EQUITY} leverage 10".split())
    world = runner.world
    world.specs["F1"] = [default_plan() | {
        "follower": "F1", "leader": "L", "account": "F1", "mode": int(Mode[mode.upper()]), "allocation_e8": allocation,
        "max_position_bps": 0, "max_loss_per_trade_bps": 0, "leverage_max": 150, "risk_bps": 100,
        "assumed_stop_bps": 500, "amount_e8": 3_000 * E8,
    } | fields]
    world.setups["F1"] = {"ready": True, "hedge": False, "leverage": 5, "balance": 10**9 * E8}
    world.instruments["BTCUSDT"].by_hand = True
    world.start()
    world.quote(world.first, PX - 1, PX + 1)
    return world


class Trader:
    """Feeds leader fills to the engine and the oracle alike; every order fills before the next fill."""

    def __init__(self, world: World, fill_orders: bool = True) -> None:
        self.world = world
        spec = world.specs["F1"][0]
        self.leg = Leg(Plan(
            Mode(spec["mode"]).name.lower(), Fraction(spec["allocation_e8"], E8), Fraction(spec["multiplier_ppm"], 10**6),
            Fraction(spec["amount_e8"], E8), spec["leverage"], spec["risk_bps"], spec["assumed_stop_bps"],
        ))
        self.exec_id = 0
        self.first: dict[int, int] = {}
        self.fill_orders = fill_orders

    def fill(self, signed: int, order_id: int, order_lots: int, px: int = PX) -> None:
        self.exec_id += 1
        world = self.world
        world.now += 1_000_000
        side = 1 if signed > 0 else -1
        world.quote(world.first, px - 1, px + 1)
        world.step(e.LeaderFill(0, 0, 0, self.exec_id, order_id, side, abs(signed), px, order_lots, True, False, "trade",
                                world.now - 1, world.now, b""))
        first = self.first.setdefault(order_id, px)
        self.leg.fill(Fill(side, abs(signed), Fraction(px, 10_000), order_lots, Fraction(first, 10_000), Fraction(EQUITY), 10,
                           Fraction(px, 10_000)))
        if self.fill_orders:
            self.venue()

    def venue(self) -> None:
        world = self.world
        while slots := world.unfinished("F1"):
            order = world.order(slots[0])
            px = order.limit_px or PX
            self.leg.traded(order.side * order.order_qty, Fraction(px, 10_000))
            world.report(slots[0], ReportKind.REPLY, OrderState.FILLED, cum_qty=order.order_qty,
                         cost_e8=order.order_qty * px * 10_000)

    @property
    def engine_leg(self):
        return self.world.legs()[0]

    def agree(self) -> None:
        assert self.engine_leg.target == self.leg.target


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_target_and_position_by_the_plain_rule(seed: int) -> None:
    """Any sequence of opens, adds, partial closes and flips, any mode: the same target bits and the same position."""
    rng = random.Random(seed)
    mode = rng.choice(MODES)
    trader = Trader(a_world(mode, rng.randint(10**4, 10**6) * E8 // 7, multiplier_ppm=rng.randint(500_000, 2_000_000)))
    held = 0
    order_id = 0
    left = 0
    for _ in range(25):
        if left == 0:
            order_id += 1
            whole = left = rng.choice([1, 3, 10, 400, rng.randint(1, 2_000)])
            side = rng.choice([-1, 1])
        part = min(left, rng.choice([1, 5, left, rng.randint(1, left)]))
        left -= part
        trader.fill(side * part, order_id, whole, PX + rng.randint(-2_000, 2_000))
        trader.agree()
        held = position_after(held, trader.leg.target)
        # A flip that leaves nothing on one side before it opens the other is two orders; the venue filled both.
        assert trader.engine_leg.attributed == held
        assert trader.engine_leg.k == trader.leg.k or trader.leg.target == 0


def lots_for_share(mode: str) -> dict[str, int]:
    """Plans for which one leader lot is worth 0.4 follower lot (semantics 2): k = 0.4, leader fills of one lot."""
    # proportional 320 000 / 800 000; multiplier 160 000 x 2; fixed_ratio 640 000 x 5 / (800 000 x 10);
    # fixed_amount: order of 10 lots = 640 USDT, amount 256; risk: 256 x 5 % = 12.8 = 100 bp of 1 280.
    return {
        "proportional": {"allocation_e8": 320_000 * E8},
        "multiplier": {"allocation_e8": 160_000 * E8, "multiplier_ppm": 2_000_000},
        "fixed_ratio": {"allocation_e8": 640_000 * E8}, "fixed_amount": {"allocation_e8": 100_000 * E8, "amount_e8": 256 * E8},
        "risk_based": {"allocation_e8": 1_280 * E8},
    }[mode]


def targets(mode: str, fills: list[tuple[int, int, int]], fill_orders: bool = True) -> tuple[int, int]:
    trader = Trader(a_world(mode, 0, **lots_for_share(mode)), fill_orders)
    for signed, order_id, whole in fills:
        trader.fill(signed, order_id, whole)
    trader.venue()
    trader.agree()
    return trader.engine_leg.target, trader.engine_leg.attributed


@pytest.mark.parametrize("answers", ["filled at once", "filled at the end"])
@pytest.mark.parametrize("mode", MODES)
def test_ten_fills_of_one_order_are_one_fill(mode: str, answers: str) -> None:
    """Ten fills of one leader order, each 0.4 follower lot, leave target and position exactly where one fill does."""
    ten = targets(mode, [(1, 7, 10)] * 10, answers == "filled at once")
    one = targets(mode, [(10, 7, 10)])
    assert ten == one
    assert 3 << 32 < one[0] <= 4 << 32 and one[1] in (3, 4)


@pytest.mark.parametrize("mode", ["proportional", "multiplier", "fixed_ratio"])
def test_ten_orders_are_one_order(mode: str) -> None:
    """In the ratio modes ten orders of one lot end where one order of ten does."""
    assert targets(mode, [(1, n, 1) for n in range(1, 11)]) == targets(mode, [(10, 1, 10)])


@pytest.mark.parametrize("mode", MODES)
def test_ten_partial_closes_end_where_one_does(mode: str) -> None:
    """Ten closes of 7 of 100 lots, in any mode, leave the target exactly where one close of 70 does; then flat is 0."""
    ten = targets(mode, [(100, 1, 100)] + [(-7, n, 7) for n in range(2, 12)])
    one = targets(mode, [(100, 1, 100), (-70, 2, 70)])
    assert ten[0] == one[0]
    assert abs(ten[1] * (1 << 32) - ten[0]) < 1 << 32 and abs(one[1] * (1 << 32) - one[0]) < 1 << 32
    assert targets(mode, [(100, 1, 100)] + [(-10, n, 10) for n in range(2, 12)]) == (0, 0)
