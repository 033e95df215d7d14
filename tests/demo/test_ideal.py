"""The plain rule does not depend on the path: parts add up to the whole, exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from copyd.demo.history import Instrument, LeaderTrade, Plan
from copyd.demo.ideal import MODES, PlanNumbers, ideal_targets, k_q32, limit_price, split, toward_zero_to_lot

BTC = Instrument("BTCUSDT", "0.10", "0.001", "50", "0.001", "1000", "120")
EQUITY_E8 = 1_000_000 * 10**8

allocations = st.integers(100_00, 50_000_00).map(lambda cents: f"{cents / 100:.2f}")
plans = st.builds(
    Plan,
    follower=st.just("anna"),
    allocation=allocations,
    mode=st.sampled_from(MODES),
    multiplier=st.sampled_from(["0.1", "0.333333", "1", "1.5", "10"]),
    amount=st.integers(20, 5000).map(str),
    leverage=st.integers(1, 20),
    risk_bps=st.integers(1, 200),
    assumed_stop_bps=st.integers(10, 1000),
)


def fills(parts: list[int], px: int = 600_000, order: str = "A", total: int = 0) -> list[LeaderTrade]:
    total = total or abs(sum(parts))
    return [LeaderTrade("BTCUSDT", f"{order}{n}", order, lots, px, total, n) for n, lots in enumerate(parts)]


def orders(parts: list[int], px: int = 600_000, name: str = "B") -> list[LeaderTrade]:
    return [LeaderTrade("BTCUSDT", f"{name}{n}", f"{name}{n}", lots, px, abs(lots), n) for n, lots in enumerate(parts)]


@given(plan=plans, lots=st.integers(1, 5000), side=st.sampled_from([1, -1]), count=st.integers(1, 10))
def test_fills_of_one_order_leave_the_target_where_one_fill_does(plan: Plan, lots: int, side: int, count: int) -> None:
    """Every mode: the ratio is truncated once, so openings add exactly."""
    numbers = PlanNumbers(plan)
    many = ideal_targets(numbers, BTC, fills([side * lots] * count), EQUITY_E8, 10)
    one = ideal_targets(numbers, BTC, fills([side * lots * count]), EQUITY_E8, 10)
    assert many[-1] == one[-1]


def test_ten_fills_of_four_tenths_of_a_lot_are_four_lots_in_every_mode() -> None:
    for mode in MODES:
        plan = Plan(
            follower="anna", allocation="400", mode=mode, amount="240", leverage=10, risk_bps=600, assumed_stop_bps=1000
        )
        numbers = PlanNumbers(plan)
        ten = ideal_targets(numbers, BTC, fills([1000] * 10), EQUITY_E8, 10)
        one = ideal_targets(numbers, BTC, fills([10_000]), EQUITY_E8, 10)
        assert ten[-1] == one[-1]
        assert abs(ten[0] / 2**32 - 0.4) < 1e-6, mode
        assert toward_zero_to_lot(ten[-1] + 10_000) == 4, mode  # less than 2^-32 lot lost per leader lot


@given(
    plan=plans.filter(lambda plan: plan.mode in ("proportional", "multiplier", "fixed_ratio")),
    lots=st.integers(1, 5000),
    count=st.integers(1, 10),
)
def test_as_many_orders_they_leave_it_there_too(plan: Plan, lots: int, count: int) -> None:
    numbers = PlanNumbers(plan)
    many = ideal_targets(numbers, BTC, orders([lots] * count), EQUITY_E8, 10)
    one = ideal_targets(numbers, BTC, orders([lots * count]), EQUITY_E8, 10)
    assert many[-1] == one[-1]


@given(plan=plans, cuts=st.lists(st.integers(1, 999), min_size=1, max_size=10), rest=st.integers(0, 5000))
def test_partial_closes_end_where_one_close_does(plan: Plan, cuts: list[int], rest: int) -> None:
    numbers = PlanNumbers(plan)
    start = fills([sum(cuts) + rest])
    many = ideal_targets(numbers, BTC, start + orders([-cut for cut in cuts]), EQUITY_E8, 10)
    one = ideal_targets(numbers, BTC, start + orders([-sum(cuts)]), EQUITY_E8, 10)
    assert many[-1] == one[-1]


@given(plan=plans, path=st.lists(st.integers(-3000, 3000).filter(bool), min_size=1, max_size=20))
def test_leader_flat_leaves_the_target_exactly_zero(plan: Plan, path: list[int]) -> None:
    held = sum(path)
    trades = orders([*path, -held] if held else path)
    assert ideal_targets(PlanNumbers(plan), BTC, trades, EQUITY_E8, 10)[-1] == 0


@given(plan=plans, path=st.lists(st.integers(-3000, 3000).filter(bool), min_size=1, max_size=20))
def test_the_follower_is_never_on_the_other_side_of_the_leader(plan: Plan, path: list[int]) -> None:
    held = 0
    for lots, target in zip(path, ideal_targets(PlanNumbers(plan), BTC, orders(path), EQUITY_E8, 10), strict=True):
        before, held = held, held + lots
        assert target * held >= 0
        reducing, opening = split(before, lots)
        assert reducing + opening == lots
        assert not opening or opening * held > 0


def test_ratios_by_hand() -> None:
    """1 % of the leader's equity; times 1.5; 5x of the follower against 10x of the leader; 200 USDT for 2 BTC at 60,000."""

    def k(**fields: object) -> float:
        plan = Plan(follower="anna", allocation="10000", **fields)  # type: ignore[arg-type]
        return k_q32(PlanNumbers(plan), BTC, 2000, 600_000, EQUITY_E8, 10, 10_000 * 10**8) / 2**32

    assert abs(k() - 0.01) < 1e-9
    assert abs(k(mode="multiplier", multiplier="1.5") - 0.015) < 1e-9
    assert abs(k(mode="fixed_ratio", leverage=5) - 0.005) < 1e-9
    assert abs(k(mode="fixed_amount", amount="200") - 200 / 120_000) < 1e-9
    # 50 bps of 10,000 lost at a stop 200 bps away: 2,500 USDT for the leader's 120,000
    assert abs(k(mode="risk_based", risk_bps=50, assumed_stop_bps=200) - 2500 / 120_000) < 1e-9


@given(px=st.integers(1, 10_000_000), bps=st.integers(1, 1000))
def test_the_limit_never_leaves_the_cap(px: int, bps: int) -> None:
    assert limit_price(px, 1, bps) * 10_000 <= px * (10_000 + bps)
    assert limit_price(px, -1, bps) * 10_000 >= px * (10_000 - bps)


@given(plan=plans, path=st.lists(st.integers(-300, 300).filter(bool), min_size=1, max_size=12))
def test_the_exact_target_is_within_the_truncations_of_the_exact_fraction(plan: Plan, path: list[int]) -> None:
    """Against plain fractions: one truncation per ratio, one per reduction chain."""
    from fractions import Fraction

    numbers = PlanNumbers(plan)
    if plan.mode != "proportional":
        return
    exact, held = Fraction(0), 0
    k = Fraction(2**32 * numbers.allocation_e8, EQUITY_E8)
    for lots in path:
        reducing, opening = split(held, lots)
        if reducing:
            exact = exact * (held + reducing) / held
        exact += k * opening
        held += lots
    got = ideal_targets(numbers, BTC, orders(path), EQUITY_E8, 10)[-1]
    assert abs(got - exact) <= sum(abs(lots) for lots in path) + len(path)
