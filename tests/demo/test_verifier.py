"""The verifier accepts right histories and rejects every kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from copyd.demo.history import MS, SECOND, Claim, Command, Outage, Plan
from copyd.demo.verifier import Leg, Verifier, verify


def test_a_right_history_is_verified(world: Any) -> None:
    verdict = world.verdict()
    assert verdict.problems == []
    assert verdict.verified
    assert verdict.decisions == len(world.trades) * len(world.plans)
    assert verdict.forgone["slippage"] and verdict.forgone["instrument_not_allowed"] and verdict.forgone["max_notional_symbol"]
    assert verdict.legs_open > 0
    assert verdict.followers_in_sync == len(world.plans)


def first(world: Any, **want: Any) -> Any:
    """The first claim with these fields."""
    return next(c for c in world.claims if all(getattr(c, name) == value for name, value in want.items()))


def order_of(world: Any, claim: Any, at: int = -1) -> Any:
    return next(o for o in world.orders if o.client_order_id == claim.orders[at])


def double_order(world: Any) -> None:
    order = order_of(world, first(world, open="order"))
    world.orders.append(msgspec.structs.replace(order))


def second_id_for_one_intent(world: Any) -> None:
    order = order_of(world, first(world, open="order"))
    world.orders.append(msgspec.structs.replace(order, client_order_id="f" * 32))


def decided_twice(world: Any) -> None:
    claim = first(world, open="order")
    order = order_of(world, claim)
    world.orders.append(msgspec.structs.replace(order, client_order_id="e" * 32))
    world.claims.append(msgspec.structs.replace(claim, orders=["e" * 32], seq=world.seq + 1))


def lost_copy(world: Any) -> None:
    claim = first(world, open="order", plan="anna")
    world.orders.remove(order_of(world, claim))


def lost_copy_and_claim(world: Any) -> None:
    claim = first(world, open="order", plan="anna")
    world.orders.remove(order_of(world, claim))
    world.claims.remove(claim)


def silent_skip(world: Any) -> None:
    claim = first(world, open="order", plan="anna")
    world.orders.remove(order_of(world, claim))
    claim.orders, claim.open, claim.open_lots = [], "rounded", 0


def over_sized_order(world: Any) -> None:
    claim = first(world, open="order", plan="anna")
    order = order_of(world, claim)
    order.lots += 1
    order.executed += 1
    claim.open_lots += 1


def under_sized_order(world: Any) -> None:
    claim = first(world, open="order", plan="anna")
    order = order_of(world, claim)
    order.lots -= 1
    order.executed -= 1
    claim.open_lots -= 1


def order_not_as_decided(world: Any) -> None:
    order_of(world, first(world, open="order")).lots += 2


def wrong_side(world: Any) -> None:
    order_of(world, first(world, open="order")).side *= -1


def missing_close(world: Any) -> None:
    claim = first(world, reduce="order", plan="dora")
    world.orders.remove(order_of(world, claim, 0))
    claim.reduce, claim.reduce_lots, claim.orders = "none", 0, claim.orders[1:]


def close_too_large(world: Any) -> None:
    claim = first(world, reduce="order", plan="anna")
    order = order_of(world, claim, 0)
    order.lots += 3
    order.executed += 3
    claim.reduce_lots += 3


def close_that_may_open(world: Any) -> None:
    order_of(world, first(world, reduce="order"), 0).reduce_only = False


def wrong_k(world: Any) -> None:
    first(world, open="order", plan="anna").k_q32 += 1


def wrong_equity(world: Any) -> None:
    for claim in world.claims:
        claim.leader_equity_e8 += 1


def equity_too_old(world: Any) -> None:
    world.reads[:] = [(ts - 3600 * SECOND, equity) for ts, equity in world.reads]


def false_target(world: Any) -> None:
    first(world, open="order", plan="dora").target_q32 += 1


def false_reason(world: Any) -> None:
    first(world, reason="instrument_not_allowed").reason = "max_open_trades"


def unknown_reason(world: Any) -> None:
    first(world, reason="instrument_not_allowed").reason = "felt_like_it"


def false_cap(world: Any) -> None:
    """A refusal under a cap that the plan does not have."""
    claim = first(world, open="order", plan="anna")
    world.orders.remove(order_of(world, claim))
    claim.open, claim.open_lots, claim.orders, claim.reason = "forgone", 0, [], "max_notional_symbol"
    claim.forgone_q32, claim.target_q32 = claim.delta_q32, 0


def cut_deeper_than_the_cap(world: Any) -> None:
    claim = first(world, reason="max_notional_symbol", open="order")
    order = order_of(world, claim)
    order.lots -= 5
    order.executed = order.lots
    claim.open_lots -= 5
    claim.forgone_q32 += 5 << 32
    claim.target_q32 -= 5 << 32


def false_slippage(world: Any) -> None:
    """An order that was filled in full is said to have been left unfilled."""
    end = first(world, cause="order_end")
    order = next(o for o in world.orders if o.client_order_id == end.client_order_id)
    order.executed = order.lots


def limit_too_tight(world: Any) -> None:
    end = first(world, cause="order_end")
    next(o for o in world.orders if o.client_order_id == end.client_order_id).px -= 1000


def unfilled_and_unsaid(world: Any) -> None:
    """The gap an expired order left is not covered by a claim."""
    world.claims = [c for c in world.claims if c.cause != "order_end"]


def reduction_refused(world: Any) -> None:
    claim = first(world, reduce="order", plan="anna", open="none")
    claim.forgone_q32, claim.reason = -(1 << 32), "quote_stale"


def stranger(world: Any) -> None:
    """An order on a follower's account that nobody decided."""
    order = msgspec.structs.replace(world.orders[0], client_order_id="web_1")
    world.orders.append(order)


def order_while_dead(world: Any) -> None:
    order = world.orders[-1]
    world.config = msgspec.structs.replace(
        world.config, outages=[Outage(order.ts - 10 * SECOND, order.ts + SECOND, order.ts + 2 * SECOND)]
    )


def order_after_kill_switch(world: Any) -> None:
    """An opening long after the kill switch was acknowledged."""
    claim = first(world, open="order", plan="anna")
    sent = order_of(world, claim).ts - 60 * SECOND
    world.config = msgspec.structs.replace(world.config, commands=[Command("kill_switch", sent, sent + MS)])


def decided_before_the_trade_was_known(world: Any) -> None:
    order_of(world, first(world, open="order")).ts -= 3600 * SECOND


def phantom_trade(world: Any) -> None:
    first(world, open="order").exec_id = "424242"


FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (double_order, "duplicate"),
    (second_id_for_one_intent, "unexplained order"),
    (decided_twice, "decided twice"),
    (lost_copy, "out of sync"),
    (lost_copy_and_claim, "omission"),
    (silent_skip, "omission"),
    (over_sized_order, "over-sized order"),
    (under_sized_order, "under-sized order"),
    (order_not_as_decided, "wrong quantity"),
    (wrong_side, "wrong side"),
    (missing_close, "out of sync"),
    (close_too_large, "over-sized order"),
    (close_that_may_open, "wrong kind"),
    (wrong_k, "wrong k"),
    (wrong_equity, "wrong k"),
    (equity_too_old, "wrong k"),
    (false_target, "wrong target"),
    (false_reason, "false reason"),
    (unknown_reason, "false reason"),
    (false_cap, "false reason"),
    (cut_deeper_than_the_cap, "false reason"),
    (false_slippage, "false reason"),
    (limit_too_tight, "false reason"),
    (unfilled_and_unsaid, "wrong target"),
    (reduction_refused, "blocked reduction"),
    (stranger, "unexplained order"),
    (order_while_dead, "order after kill"),
    (order_after_kill_switch, "order after kill"),
    (decided_before_the_trade_was_known, "wrong time"),
    (phantom_trade, "phantom event"),
]


@pytest.mark.parametrize(("spoil", "kind"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_every_kind_of_fault_is_found(world: Any, spoil: Callable[[Any], None], kind: str) -> None:
    assert world.verdict().verified, "the history is right before it is spoiled"
    spoil(world)
    verdict = world.verdict()
    assert not verdict.verified
    assert kind in verdict.problem_counts, verdict.problems


@pytest.mark.parametrize("spoil", [double_order, second_id_for_one_intent, decided_twice, over_sized_order])
def test_an_intent_executed_twice_counts_as_a_duplicate(world: Any, spoil: Callable[[Any], None]) -> None:
    spoil(world)
    assert world.verdict().duplicates >= 1


@pytest.mark.parametrize("spoil", [lost_copy, lost_copy_and_claim, silent_skip])
def test_a_trade_neither_copied_nor_refused_counts_as_an_omission(world: Any, spoil: Callable[[Any], None]) -> None:
    spoil(world)
    assert world.verdict().omissions >= 1


def test_a_position_off_by_one_lot_is_out_of_sync(world: Any) -> None:
    truth = world.truth()
    key = next(key for key, lots in truth.positions.items() if lots)
    truth.positions[key] += 1
    verdict = verify(truth, world.plans, world.claims, world.config)
    assert not verdict.verified
    assert verdict.problem_counts["books"] == 1 or verdict.out_of_sync


def test_the_trade_book_must_agree_with_the_orders(world: Any) -> None:
    truth = world.truth()
    truth.fills = {o.client_order_id: o.executed for o in truth.orders}
    assert verify(truth, world.plans, world.claims, world.config).verified
    truth.fills[truth.orders[0].client_order_id] -= 1
    assert not verify(truth, world.plans, world.claims, world.config).verified


def test_a_gap_at_the_end_needs_a_reason(make_world: Any) -> None:
    """Half of the last order stayed unfilled; without its claim the position is simply wrong."""
    world = make_world([Plan(follower="anna", allocation="50000")])
    world.config = msgspec.structs.replace(world.config, other_forgone_ppm=1_000_000)
    world.trade(1000, fill_share=0.5)
    assert world.verdict().verified
    world.claims.pop()
    verdict = world.verdict()
    assert verdict.out_of_sync == 1
    assert not verdict.verified


def test_what_waits_for_the_venues_minimum_is_in_sync(make_world: Any) -> None:
    """A carried quantity below the minimum notional is a gap of more than a lot that the rules allow."""
    world = make_world([Plan(follower="anna", allocation="500")])
    world.trade(1000)  # 0.5 lots: rounded
    world.trade(250)  # 0.625 lots
    world.trade(1000, 1_000)  # cheap: 1.125 lots, below 50 USDT
    verdict = world.verdict()
    assert verdict.verified, verdict.problems
    assert verdict.waiting_for_minimum == 1


def test_opening_during_an_outage_is_observed_and_its_reduction_followed(make_world: Any) -> None:
    world = make_world([Plan(follower="anna", allocation="50000")])
    world.trade(1000)
    world.now += 10 * SECOND
    down = world.now
    world.trade(400)
    claim, order = world.claims.pop(), world.orders.pop()
    leg = world.legs[("anna", "BTCUSDT")]
    leg.lots -= order.lots
    leg.target -= claim.delta_q32
    leg.reset()
    ready = world.now + 5 * SECOND
    world.claims.append(
        msgspec.structs.replace(
            claim, open="forgone", open_lots=0, orders=[], reason="observed", forgone_q32=claim.delta_q32, target_q32=leg.target
        )
    )
    world.now = ready
    world.trade(-700)
    outage = Outage(down, down + SECOND, ready)
    world.config = msgspec.structs.replace(world.config, outages=[outage])
    verdict = world.verdict()
    assert verdict.verified, verdict.problems
    assert verdict.forgone == {"observed": 1}
    world.config = msgspec.structs.replace(world.config, outages=[])
    assert not world.verdict().verified, "without the outage nothing explains it"


def test_a_percent_of_decisions_forgone_for_other_causes_is_too_much(make_world: Any) -> None:
    world = make_world([Plan(follower=f"f{n}", allocation="50000") for n in range(10)])
    for _ in range(5):
        world.trade(1000, fill_share=1)
        world.trade(-1000)
    assert world.verdict().verified
    world.trade(1000, fill_share=0.5)
    verdict = world.verdict()
    assert set(verdict.problem_counts) == {"too much forgone"}


@pytest.mark.parametrize(("opens", "target", "reduces", "right"), [
    ("deferred", 416, 4_000, True),  # he came round to the side that is still held: the rest of the old close goes first
    ("deferred", 416, 4_001, False),
    ("none", 416, 4_000, False),  # nothing waits behind it: what the target keeps stays
    ("none", 416, 3_584, True),
    ("deferred", -416, 4_000, True),
])  # fmt: skip
def test_what_is_left_of_an_earlier_close_goes_before_an_opening_that_waits(
    world: Any, opens: str, target: int, reduces: int, right: bool
) -> None:
    """A leg of 4.000 lots' worth whose close had not gone yet when its leader turned again."""
    verifier = Verifier(world.truth(), world.plans, world.config)
    leg = Leg(0)
    leg.lots, leg.target = 4_000, target << 32
    claim = Claim("leader_fill", symbol="BTCUSDT", plan="anna", reduce="order", open=opens, reduce_lots=reduces)
    claim.target_q32 = claim.delta_q32 = target << 32
    verifier.orders_law(claim, verifier.numbers["anna"], world.instruments["BTCUSDT"], leg, None)
    assert (verifier.counts["over-sized order"] == 0) is right


def test_a_rest_that_is_closed_while_an_opening_waits_may_be_all_that_is_held(world: Any) -> None:
    """The close is sent again by the timer, and the opening was deferred by an earlier decision; not more than is held."""
    for reduces, waits, right in ((45, True, True), (46, True, False), (45, False, False)):
        verifier = Verifier(world.truth(), world.plans, world.config)
        leg = Leg(0)
        leg.lots, leg.target, leg.k = -45, -195 << 32, 1 << 32
        leg.deferred = [(195, 600_000)] if waits else []
        claim = Claim("timer", symbol="BTCUSDT", plan="anna", reduce="order", reduce_lots=reduces, target_q32=leg.target)
        verifier.orders_law(claim, verifier.numbers["anna"], world.instruments["BTCUSDT"], leg, None)
        assert (verifier.counts["over-sized order"] == 0) is right
