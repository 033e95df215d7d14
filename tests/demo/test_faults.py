"""Judging with faults on: what the exchange did wrong explains a gap, and explains nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from copyd.demo.chaos import LEVELS, READS, Terms, chaos
from copyd.demo.history import MS, SECOND, Fault, Plan, VerifyConfig
from copyd.demo.verifier import verify
from copyd.exchange.faults import Faults, Rule

PLANS = [Plan(follower="anna", allocation="50000", max_position_bps=0)]


def history(make_world: Any, *lots: int) -> Any:
    """One follower, the leader's trades in BTC."""
    world = make_world(PLANS)
    world.config = VerifyConfig(leader_leverage={"BTCUSDT": 10}, other_forgone_ppm=1_000_000, settling=10 * SECOND)
    for at, signed in enumerate(lots):
        world.trade(signed, 600_000 + at)
    return world


def judged(world: Any, faults: list[Fault]) -> Any:
    """The verdict with these faults in the exchange's log."""
    truth = world.truth()
    truth.faults = faults
    return verify(truth, world.plans, world.claims, world.config)


def lose(world: Any, at: int, reason: str) -> Any:
    """Opening number ``at`` never reached the exchange, and its quantity is given up for ``reason``."""
    order = world.orders.pop(at)
    decided = next(claim for claim in world.claims if order.client_order_id in claim.orders)
    end = msgspec.structs.replace(
        decided, cause="order_end", orders=[], client_order_id=order.client_order_id, reason=reason, open="none", open_lots=0,
        forgone_q32=order.side * order.lots << 32, target_q32=decided.target_q32 - (order.side * order.lots << 32),
        ts_decided=decided.ts_decided + 5 * SECOND,
    )  # fmt: skip
    world.claims.insert(world.claims.index(decided) + 1, end)
    return order


def log(order: Any, action: str, account: str = "anna", cid: str = "") -> list[Fault]:
    return [Fault(order.ts, action, account, "order.place", cid or order.client_order_id)]


@pytest.mark.parametrize("action", ["error_dead", "drop_request", "unavailable", "throttled", "disconnect"])
def test_an_opening_that_never_arrived_may_be_given_up(make_world: Any, action: str) -> None:
    world = history(make_world, 1000)
    order = lose(world, 0, "stale_event")
    verdict = judged(world, log(order, action))
    assert verdict.problems == [] and verdict.verified
    assert verdict.forgone == {"stale_event": 1} and verdict.forgone_other_outside_restart == 0


@pytest.mark.parametrize(
    ("action", "cid"), [("", ""), ("drop_reply", ""), ("error_live", ""), ("error_dead", "another")], ids=str
)
def test_nothing_else_explains_a_lost_opening(make_world: Any, action: str, cid: str) -> None:
    """No fault, a fault after which the order was alive, or a fault of another order: the daemon gave up what was live."""
    world = history(make_world, 1000)
    order = lose(world, 0, "stale_event")
    verdict = judged(world, log(order, action, cid=cid) if action else [])
    assert "false reason" in verdict.problem_counts


def test_an_order_the_exchange_had_is_never_given_up_as_dead(make_world: Any) -> None:
    """A 5xx with the order live: whoever calls it dead is wrong, and the position shows it."""
    world = history(make_world, 1000)
    order = lose(world, 0, "stale_event")
    world.orders.append(order)
    verdict = judged(world, log(order, "error_live"))
    assert "false reason" in verdict.problem_counts and verdict.out_of_sync == 1


def test_a_connection_cut_while_it_was_on_its_way_explains_it_too(make_world: Any) -> None:
    world = history(make_world, 1000)
    order = lose(world, 0, "stale_event")
    assert judged(world, [Fault(order.ts + MS, "cut", "", "api")]).verified
    assert not judged(world, [Fault(order.ts + 60 * SECOND, "cut", "", "api")]).verified
    assert not judged(world, [Fault(order.ts + MS, "cut", "anna", "streams")]).verified


def test_throttled_is_a_refusal_by_its_code(make_world: Any) -> None:
    world = history(make_world, 1000)
    order = lose(world, 0, "venue_rejected:-1008")
    assert judged(world, log(order, "throttled")).verified
    assert not judged(world, log(order, "error_dead")).verified


def swap(world: Any) -> None:
    """The daemon heard of the two leader trades the other way round, and decided both rightly in that order."""
    (a, b), (a_order, b_order) = world.claims, world.orders
    a_q32, b_q32 = a.delta_q32, b.delta_q32
    b.target_q32, a.target_q32 = b_q32, a_q32 + b_q32
    b.open_lots = b_order.lots = b_order.executed = b.target_q32 >> 32
    a.open_lots = a_order.lots = a_order.executed = (a.target_q32 >> 32) - b.open_lots
    a.seq, b.seq = b.seq, a.seq
    a.ts_decided = a_order.ts = b.ts_decided + MS
    world.claims[:] = [b, a]


def test_openings_may_change_places_where_his_stream_was_disturbed(make_world: Any) -> None:
    """The target is a fold over what was heard; without a fault the order of the exchange is the only one."""
    world = history(make_world, 1000, 500)
    late = Fault(world.trades[0].ts + MS, "delay_event", "leader", "ORDER_TRADE_UPDATE")
    assert judged(world, [late]).verified
    swap(world)
    verdict = judged(world, [late])
    assert verdict.problems == [] and verdict.heard_out_of_order == 1
    verdict = judged(world, [])
    assert verdict.omissions and not verdict.verified


def test_a_close_never_comes_before_its_open(make_world: Any) -> None:
    """Whatever was delayed."""
    world = history(make_world, 1000, -400)
    world.claims[0], world.claims[1] = world.claims[1], world.claims[0]
    world.claims[0].seq, world.claims[1].seq = 1, 2
    late = Fault(world.trades[0].ts + MS, "delay_event", "leader", "ORDER_TRADE_UPDATE")
    assert judged(world, [late]).problem_counts["out of order"] == 1
    assert judged(world, []).omissions


def test_observed_needs_a_disturbed_stream_of_the_leader(make_world: Any) -> None:
    world = history(make_world, 1000)
    world.orders.clear()
    claim = world.claims[0]
    claim.open, claim.reason, claim.open_lots, claim.orders = "forgone", "observed", 0, []
    claim.k_q32 = claim.delta_q32 = claim.forgone_q32 = claim.target_q32 = 0
    ts = world.trades[0].ts
    assert judged(world, [Fault(ts - MS, "cut", "leader", "streams")]).verified
    assert not judged(world, [Fault(ts - MS, "cut", "anna", "streams")]).verified
    assert not judged(world, [Fault(ts - 60 * SECOND, "cut", "leader", "streams")]).verified
    assert not judged(world, []).verified


def test_faults_do_not_excuse_standing_still(make_world: Any) -> None:
    """Each refusal has its fault, but there are more of them than what went wrong can cost."""
    world = make_world(PLANS)
    for at in range(40):
        world.trade(10, 600_000 + at)
    world.config = VerifyConfig(other_forgone_ppm=1_000_000)
    world.orders.clear()
    for claim in world.claims:
        claim.open, claim.reason, claim.open_lots, claim.orders = "forgone", "leader_unsynced", 0, []
        claim.k_q32 = claim.delta_q32 = claim.forgone_q32 = claim.target_q32 = 0
    faults = [Fault(trade.ts, "delay_event", "leader", "ORDER_TRADE_UPDATE") for trade in world.trades]
    verdict = judged(world, faults)
    assert verdict.problem_counts == {"too much forgone": 1} and verdict.forgone_disturbed == 40


@pytest.mark.parametrize("level", LEVELS)
def test_every_rule_of_a_level_is_one_the_exchange_knows(level: str) -> None:
    """Shares, actions and fields; none of them can touch what the leader himself sends."""
    plan = chaos(level, 7, "f", "leader", "0001")
    assert bool(plan.rules) is (level != "none")
    faults = Faults()
    for row in plan.rules:
        rule = msgspec.convert(row, Rule)
        assert 0 < rule.ppm < 1_000_000
        faults.add(rule)
    for _ in range(2_000):
        assert faults.request("leader", "BTCUSDT", "order.place", "lead-000001") is None
        assert faults.request("leader", "BTCUSDT", "order.status", "") is None
    assert {rule.action for rule in faults.rules} >= ({"drop_reply", "error_live", "error_dead"} if plan.rules else set())


def test_the_daemon_is_told_terms_that_hold() -> None:
    """No read lags, and no request waits, longer than the contract the daemon is given says."""
    plan, terms = chaos("heavy", 1, "f", "leader", "0001"), Terms()
    assert all(row.get("delay_ms", 0) <= terms.read_lag_ms for row in plan.rules if row["action"] == "stale_read")
    assert all(row.get("delay_ms", 0) < terms.recv_window_ms for row in plan.rules if row["action"] == "delay")
    assert terms.fence_ms() > terms.recv_window_ms + terms.read_lag_ms


def test_a_level_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no such level"):
        chaos("apocalyptic", 1, "f", "leader", "0001")


@pytest.mark.parametrize("code", [51008, 110007, 40762, 25203, -2019])
def test_too_little_margin_in_any_venues_words(make_world: Any, code: int) -> None:
    """An opening the venue refused for margin may be given up for it; one refused for something else may not."""
    world = history(make_world, 1000)
    order = lose(world, 0, "insufficient_margin")

    def judged_with(refusal: int) -> Any:
        truth = world.truth()
        truth.rejects = {order.client_order_id: refusal}
        return verify(truth, world.plans, world.claims, world.config)

    assert judged_with(code).problems == []
    assert "refused it with 51020" in judged_with(51020).problems[0]


@pytest.mark.parametrize("action", ["throttled", "cut"])
def test_what_stopped_an_account_explains_its_orders_alone(make_world: Any, action: str) -> None:
    """An order that never left because the venue had just said "too many", or whose account's own connection was cut: another
    account's explains nothing, and neither does one long past."""
    world = history(make_world, 1000)
    order = lose(world, 0, "stale_event")
    method = "order.place" if action == "throttled" else "session"
    ago = [MS * 400, SECOND * 30]
    near, past = (Fault(order.ts - before, action, "anna", method, "another") for before in ago)
    assert judged(world, [near]).verified
    assert not judged(world, [past]).verified
    assert not judged(world, [msgspec.structs.replace(near, account="bert")]).verified


@pytest.mark.parametrize(
    ("action", "code"), [("throttled", 50011), ("throttled", 10429), ("unavailable", 51030), ("unavailable", 41114)]
)
def test_a_venue_that_was_too_busy_on_purpose(make_world: Any, action: str, code: int) -> None:
    """Its own code for it is believed, another's is not."""
    world = history(make_world, 1000)
    order = lose(world, 0, f"venue_rejected:{code}")
    assert judged(world, log(order, action)).problems == []
    end = next(claim for claim in world.claims if claim.cause == "order_end")
    end.reason = "venue_rejected:51008"
    assert not judged(world, log(order, action)).verified


@pytest.mark.parametrize("kind", sorted(READS))
@pytest.mark.parametrize("level", LEVELS)
def test_the_rules_of_every_dialect_are_rules_of_the_exchange(kind: str, level: str) -> None:
    """The exchange takes them all, and none of them touches the leader's own orders."""
    plan = chaos(level, 7, "f", "leader-x", "0001", kind)
    faults = Faults()
    for row in plan.rules:
        faults.add(msgspec.convert(row, Rule))
    for method in ("order.place", "place"):
        for _ in range(200):
            assert faults.request("leader-x", "BTCUSDT", method, "lead000001") is None
