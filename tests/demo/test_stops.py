"""Loss stops as the exchange's books show them: each must have been reached, none may be missing, nothing opens after one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from copyd.demo.history import E8, SECOND, Claim, Plan, VerifyConfig

PX = 600_000  # 60,000.0; a lot is worth 60 USDT


def close(world: Any, plan: Plan, lots: int) -> None:
    """What a stop sends: one reduction, filled at once."""
    numbers = next(one for one in world.numbers if one.plan is plan)
    claim = Claim(cause="timer", plan=plan.follower, symbol="BTCUSDT", seq=world.seq, reduce="order", reduce_lots=lots,
                  ts_decided=world.now)
    claim.orders = [world.order(numbers, "BTCUSDT", -1, lots, 0, True, 1)]
    world.claims.append(claim)
    world.legs[plan.follower, "BTCUSDT"].lots -= lots


def stop(world: Any, plan: Plan, reason: str, loss: int, limit: int) -> None:
    """The claim, and what the honest daemon makes of the leg."""
    world.seq += 1
    world.now += SECOND
    world.claims.append(Claim(
        cause="loss_stop", plan=plan.follower, seq=world.seq, reason=reason, policy=plan.on_loss_stop, loss_e8=loss,
        limit_e8=limit, ts_decided=world.now,
    ))  # fmt: skip
    leg = world.legs[plan.follower, "BTCUSDT"]
    if plan.on_loss_stop == "close_now":
        close(world, plan, leg.lots)
        leg.target = 0
        leg.reset()


def fall(world: Any, px: int, seconds: int = 10) -> None:
    """The market stands there for a while."""
    for _ in range(seconds):
        world.now += SECOND
        world.quote("BTCUSDT", px)


def refused(world: Any, plan: Plan, reason: str, lots: int) -> None:
    """The leader adds; the honest daemon refuses it for this plan (k is still the leg's or taken anew, whatever was given up)."""
    claims = len(world.claims)
    world.trade(lots, world.quotes["BTCUSDT"].mark[-1])
    leg = world.legs[plan.follower, "BTCUSDT"]
    for claim in world.claims[claims:]:
        if claim.plan == plan.follower:
            for cid in claim.orders:
                world.orders = [order for order in world.orders if order.client_order_id != cid]
            leg.target -= claim.delta_q32
            leg.lots -= claim.open_lots
            leg.reset()
            claim.open, claim.reason, claim.forgone_q32 = "forgone", reason, claim.delta_q32
            claim.open_lots, claim.orders, claim.target_q32 = 0, [], leg.target


def a_world(make_world: Any, **limits: Any) -> tuple[Any, Plan]:
    """Anna with 50,000 copies half of what a leader with 100,000 does: 500 lots, 30,000 USDT; 1 % of 50,000 is 500 USDT."""
    anna = Plan(follower="anna", allocation="50000", max_position_bps=0, leverage=5, **limits)
    world = make_world([anna, Plan(follower="bert", allocation="10000", max_position_bps=0)], 100_000)
    world.config = VerifyConfig(leader_leverage={"BTCUSDT": 10}, other_forgone_ppm=1_000_000, plans_since=world.now)
    world.trade(1000, PX)
    return world, anna


def losing(make_world: Any, **limits: Any) -> tuple[Any, Plan]:
    """Two per cent down: 600 USDT and the fee of 15 are gone."""
    world, anna = a_world(make_world, **limits)
    fall(world, PX * 98 // 100, 3)
    return world, anna


LIMIT = 500 * E8
LOSS = 615 * E8


@pytest.mark.parametrize("reason", ["total_loss", "daily_loss"])
@pytest.mark.parametrize("policy", ["close_now", "close_gracefully", "opens_paused"])
def test_a_stop_that_was_reached_is_believed(make_world: Any, reason: str, policy: str) -> None:
    """And what follows from it: the position goes or stays as the policy says, the leader's next opening is refused."""
    world, anna = losing(make_world, **{f"{reason}_bps": 100, "on_loss_stop": policy})
    stop(world, anna, reason, LOSS, LIMIT)
    refused(world, anna, "leg_detached" if policy == "close_gracefully" else reason, 100)
    verdict = world.verdict()
    assert verdict.verified, verdict.problems
    assert verdict.stops == {reason: 1}


def test_a_limit_passed_and_not_acted_on_is_found(make_world: Any) -> None:
    world, _ = losing(make_world, total_loss_bps=100)
    fall(world, PX * 98 // 100)
    world.trade(-100, PX * 98 // 100)
    assert "limit passed" in world.verdict().problem_counts


def test_a_limit_touched_for_a_moment_only_is_no_omission(make_world: Any) -> None:
    """The daemon hears a mark a second; what stood for less proves nothing."""
    world, _ = a_world(make_world, total_loss_bps=100)
    world.now += SECOND
    world.quote("BTCUSDT", PX * 98 // 100)
    world.now += SECOND // 2
    world.quote("BTCUSDT", PX)
    fall(world, PX)
    world.trade(-100, PX)
    assert world.verdict().verified


def drawdown(make_world: Any) -> tuple[Any, Plan]:
    """The leader was worth 100,000 and is worth 98,000: 2 % of a limit of 1.5."""
    world, anna = a_world(make_world, leader_drawdown_bps=150)
    world.reads += [(world.now + 1, world.equity_e8), (world.now + 2, world.equity_e8)]
    fall(world, PX * 98 // 100)
    world.equity_e8 = 98_000 * E8
    world.reads += [(world.now - 5 * SECOND, world.equity_e8), (world.now - 4 * SECOND, world.equity_e8)]
    return world, anna


def test_the_leaders_drawdown_is_judged_by_what_he_was_served(make_world: Any) -> None:
    world, anna = drawdown(make_world)
    stop(world, anna, "leader_drawdown", 2_000 * E8, 1_500 * E8)
    verdict = world.verdict()
    assert verdict.verified, verdict.problems
    world.claims[-2].loss_e8 = 1_900 * E8
    assert "false stop" in world.verdict().problem_counts


def test_a_leaders_drawdown_not_acted_on_is_found(make_world: Any) -> None:
    world, _ = drawdown(make_world)
    world.now += 10 * SECOND
    world.trade(-100, PX * 98 // 100)
    assert "limit passed" in world.verdict().problem_counts


def not_reached(world: Any, anna: Plan) -> None:
    world.claims[find(world)].limit_e8 = 2 * LIMIT


def not_so_much(world: Any, anna: Plan) -> None:
    world.claims[find(world)].loss_e8 = 3 * LOSS


def other_policy(world: Any, anna: Plan) -> None:
    world.claims[find(world)].policy = "opens_paused"


def no_such_limit(world: Any, anna: Plan) -> None:
    world.claims[find(world)].reason = "daily_loss"


def stopped_twice(world: Any, anna: Plan) -> None:
    world.seq += 1
    world.now += SECOND
    again = world.claims[find(world)]
    world.claims.append(Claim(
        cause="loss_stop", plan="anna", seq=world.seq, reason=again.reason, policy=again.policy, loss_e8=again.loss_e8,
        limit_e8=again.limit_e8, ts_decided=world.now))


def find(world: Any) -> int:
    return next(at for at, claim in enumerate(world.claims) if claim.cause == "loss_stop")


def left_the_position(world: Any, anna: Plan) -> None:
    at = find(world) + 1
    [cid] = world.claims[at].orders
    del world.claims[at]
    world.orders = [order for order in world.orders if order.client_order_id != cid]


def opened_after(world: Any, anna: Plan) -> None:
    world.trade(100, PX * 98 // 100)


@pytest.mark.parametrize(("spoil", "kind"), [
    (not_reached, "false stop"), (not_so_much, "false stop"), (other_policy, "false stop"), (no_such_limit, "false stop"),
    (stopped_twice, "false stop"), (left_the_position, "out of sync"), (opened_after, "opened after a stop"),
], ids=lambda value: getattr(value, "__name__", value))  # fmt: skip
def test_what_is_wrong_with_a_stop_is_found(make_world: Any, spoil: Callable[[Any, Plan], None], kind: str) -> None:
    world, anna = losing(make_world, total_loss_bps=100)
    stop(world, anna, "total_loss", LOSS, LIMIT)
    assert world.verdict().verified, "the history is right before it is spoiled"
    spoil(world, anna)
    assert kind in world.verdict().problem_counts, world.verdict().problems


def test_a_refusal_by_a_limit_needs_one_that_is_reached(make_world: Any) -> None:
    world, anna = a_world(make_world, total_loss_bps=100)
    refused(world, anna, "total_loss", 100)
    assert "false reason" in world.verdict().problem_counts


def test_a_ratio_is_taken_from_what_the_plan_is_worth(make_world: Any) -> None:
    """Semantics 16: 600 lost of 50,000; the ratio of the allocation alone would buy too much."""
    world, _ = losing(make_world)
    world.trade(-1000, PX * 98 // 100)
    fall(world, PX * 98 // 100)
    world.trade(1000, PX * 98 // 100)
    assert world.verdict().verified
    claim = next(claim for claim in world.claims[::-1] if claim.plan == "anna")
    claim.k_q32 = (1 << 32) // 2
    assert "wrong k" in world.verdict().problem_counts


def test_positions_in_the_middle_are_compared_with_the_targets_of_then(make_world: Any) -> None:
    """A follower who held too little for a while is found although all are flat in the end."""
    world, _ = a_world(make_world)
    held = world.truth().positions
    at = world.now + SECOND
    world.now += 2 * SECOND
    world.trade(-1000, PX)

    def verdict(positions: dict[tuple[str, str, str], int]) -> Any:
        from copyd.demo.verifier import verify

        truth = world.truth()
        truth.held_ts, truth.held = at, positions
        return verify(truth, world.plans, world.claims, world.config)

    assert verdict(held).verified and verdict(held).legs_held_midway == 2
    short = {key: lots - (key[0] == "anna") for key, lots in held.items()}
    assert "out of sync" in verdict(short).problem_counts
