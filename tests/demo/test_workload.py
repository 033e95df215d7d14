"""One seed, one workload; every run has every kind of event."""

from __future__ import annotations

import pytest

from copyd.demo.history import Instrument
from copyd.demo.workload import MODES, Market, follower_plans, leader_script, leaving, plan_lines, starting_balance

MARKETS = [
    Market(Instrument("BTCUSDT", "0.10", "0.001", "50"), 600_000),
    Market(Instrument("ETHUSDT", "0.01", "0.001", "20"), 300_000),
    Market(Instrument("SOLUSDT", "0.01", "0.01", "5"), 15_000),
]


def test_the_same_seed_gives_the_same_orders_and_another_seed_others() -> None:
    assert leader_script(MARKETS, 60, 7) == leader_script(MARKETS, 60, 7)
    assert leader_script(MARKETS, 60, 7) != leader_script(MARKETS, 60, 8)
    assert plan_lines(follower_plans(50, ["BTCUSDT"], 7)) == plan_lines(follower_plans(50, ["BTCUSDT"], 7))


@pytest.mark.parametrize("seconds", [3, 20, 60, 300])
@pytest.mark.parametrize("count", [2, 3])
def test_every_run_has_every_kind_of_event(seconds: float, count: int) -> None:
    for seed in range(10):
        markets = MARKETS[:count]
        script = leader_script(markets, seconds, seed)
        labels = " ".join(step.label for step in script.steps)
        for kind in ("open long", "add to", "several fills", "small clip 10", "partial close", "flip", "close", "resting order"):
            assert kind in labels
        assert {step.phase for step in script.steps} == {
            "before", "first", "kill", "down", "second", "losing", "leaving"}
        assert all((step.lots > 0) is (step.move_bps == 0) for step in script.steps)
        main = [step for step in script.steps if step.phase not in ("losing", "leaving")]
        for phase in (main[len(script.phase("before")) :], script.phase("losing"), script.phase("leaving")):
            times = [step.at_ms for step in phase]
            assert times == sorted(times)
        assert main[-1].at_ms <= seconds * 1000
        held = {market.instrument.symbol: 0 for market in markets}
        for step in main:
            before = held[step.symbol]
            held[step.symbol] += step.side * step.lots
            if step.reduce_only:
                assert abs(held[step.symbol]) < abs(before) and held[step.symbol] * before >= 0
        assert any(held.values()), "some legs stay open"
        if count > 2:
            assert not all(held.values()), "some are flat"
        for step in script.phase("losing") + script.phase("leaving"):
            held[step.symbol] += step.side * step.lots
        assert not any(held.values()), "in the end he is flat"
        falls = [step.move_bps for step in script.phase("losing") if step.move_bps]
        assert min(falls) < 0 < max(falls) and sum(bps for bps in falls if bps < 0) < -500


def test_followers_are_mixed_and_within_bounds() -> None:
    plans = follower_plans(1000, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], 7)
    assert {plan.mode for plan in plans} == set(MODES)
    assert len({plan.follower for plan in plans}) == 1000
    assert all(100 <= float(plan.allocation) <= 50_000 for plan in plans)
    assert {plan.min_policy for plan in plans} == {"carry", "skip", "raise"}
    assert {plan.ratio_snapshot for plan in plans} == {"position_open", "each_order", "follow"}
    assert any(plan.instruments for plan in plans)
    assert any(plan.max_open_trades for plan in plans)
    assert any(plan.total_loss_bps for plan in plans) and any(plan.daily_loss_bps for plan in plans)
    assert any(plan.leader_drawdown_bps for plan in plans)
    assert {plan.on_loss_stop for plan in plans} == {"close_now", "close_gracefully", "opens_paused"}
    assert 200 < len(leaving(plans)) < 300
    assert any(plan.assumed_stop_bps == 0 for plan in plans if plan.mode == "risk_based")
    assert any(float(starting_balance(plan, 7)) < float(plan.allocation) / 10 for plan in plans)
    assert {plan.mode for plan in follower_plans(5, ["BTCUSDT"], 3)} == set(MODES)
