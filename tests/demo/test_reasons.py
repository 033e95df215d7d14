"""Each reason: accepted where the truth supports it, refused where it does not. One row per reason and answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from copyd.demo.history import (
    E8,
    MS,
    SECOND,
    Claim,
    Command,
    Instrument,
    LeaderTrade,
    Order,
    Outage,
    Plan,
    Quotes,
    Truth,
    VerifyConfig,
)
from copyd.demo.ideal import PlanNumbers, limit_price
from copyd.demo.reasons import Account, Opening, Reasons, counts_as_plan_limit
from copyd.demo.stops import Stops
from copyd.demo.worth import Worth

NOW = 1_000 * SECOND
BTC = Instrument("BTCUSDT", "0.10", "0.001", "50", "0.001", "1000", "120")
ETH = Instrument("ETHUSDT", "0.01", "0.001", "20", "0.001", "1000", "120")
PX = 600_000  # 60,000 USDT: one lot is 60 USDT


def situation(plan: dict[str, Any], opening: dict[str, Any], config: dict[str, Any]) -> tuple[Reasons, Opening]:
    """A long opening of 20 lots at 60,000 that was refused whole, unless the row says otherwise."""
    quotes = Quotes()
    quotes.add(NOW - 60 * SECOND, PX - 5, PX + 5, PX)
    quotes.add(NOW - 100 * MS, opening.pop("bid", PX - 5), opening.pop("ask", PX + 5), PX)
    truth = Truth(
        instruments={"BTCUSDT": BTC, "ETHUSDT": ETH}, leader_trades=[], orders=opening.pop("orders", []), positions={},
        quotes={"BTCUSDT": quotes}, leader_reads=[(NOW - opening.pop("read_age", SECOND), 10**6 * E8)],
    )  # fmt: skip
    numbers = PlanNumbers(Plan(follower="anna", **{"allocation": "10000", "max_position_bps": 0, **plan}))
    limit = limit_price(PX, 1, numbers.plan.slippage_bps or 50)
    claim = Claim(cause="leader_fill", bid=quotes.bid[-1], ask=quotes.ask[-1], delta_q32=20 << 32, leader_equity_e8=10**6 * E8)
    account = Account(opening.pop("wallet", 10_000) * E8)
    wanted = opening.pop("wanted", 20)
    trade = LeaderTrade("BTCUSDT", "1", "L1", 1000, PX, 1000, NOW - opening.pop("age", 5 * MS))
    facts: dict[str, Any] = {
        "numbers": numbers, "instrument": BTC, "claim": claim, "side": 1, "px": PX, "limit": limit, "trade": trade, "ts": NOW,
        "held_low": 0, "held_high": 0, "wanted_low": wanted, "wanted_high": wanted, "wanted_q32": wanted << 32, "allowed": 0,
        "new_leg": True, "other_legs": {}, "account": account,
    }  # fmt: skip
    settings = VerifyConfig(**config)
    return Reasons(truth, settings, Stops(truth, settings, Worth(truth, settings))), Opening(**{**facts, **opening})


def accepted(at: int) -> Order:
    return Order("c", "anna", "BTCUSDT", 1, "BOTH", "LIMIT", "IOC", PX, 1, False, 1, 1, "FILLED", at)


DOWN = {"outages": [Outage(NOW - 10 * SECOND, NOW - 8 * SECOND, NOW - SECOND)]}
PAUSED = Command("pause", NOW - 10 * SECOND, NOW - 9 * SECOND, plan="anna")
RESUMED = Command("resume", NOW - 5 * SECOND, NOW - 4 * SECOND, plan="anna")

# reason, right?, plan, opening, config
TABLE: list[tuple[str, bool, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("plan_paused", True, {"state": "paused"}, {}, {}),
    ("plan_paused", True, {}, {}, {"commands": [PAUSED]}),
    ("plan_paused", False, {}, {}, {"commands": [PAUSED, RESUMED]}),
    ("plan_paused", False, {}, {}, {}),
    ("plan_close_only", True, {"state": "close_only"}, {}, {}),
    ("plan_close_only", False, {"state": "paused"}, {}, {}),
    ("kill_switch", True, {}, {}, {"commands": [Command("kill_switch", NOW - SECOND, NOW - SECOND)]}),
    ("kill_switch", False, {}, {}, {"commands": [Command("kill_switch", NOW + SECOND, NOW + SECOND)]}),
    ("leg_not_ready", True, {}, {}, {"ready_since": NOW + SECOND}),
    ("leg_not_ready", True, {"instruments": ["ETHUSDT"]}, {}, {"ready_since": NOW - SECOND}),
    ("leg_not_ready", False, {}, {}, {"ready_since": NOW - SECOND}),
    ("instrument_not_allowed", True, {"instruments": ["ETHUSDT"]}, {}, {}),
    ("instrument_not_allowed", False, {"instruments": ["BTCUSDT"]}, {}, {}),
    ("leader_equity_stale", True, {}, {"read_age": 31 * SECOND}, {}),
    ("leader_equity_stale", False, {}, {"read_age": 29 * SECOND}, {}),
    ("quote_stale", True, {}, {"ts": NOW + 10 * SECOND}, {}),
    ("quote_stale", False, {}, {}, {}),
    ("stale_event", True, {}, {"age": 3 * SECOND}, {}),
    ("stale_event", False, {}, {"age": SECOND}, {}),
    ("observed", True, {}, {"age": 5 * SECOND}, DOWN),
    ("observed", False, {}, {"age": 5 * SECOND}, {}),
    ("observed", False, {}, {"age": 5 * MS}, DOWN),
    ("max_open_trades", True, {"max_open_trades": 1}, {"other_legs": {"ETHUSDT": (5, 5)}}, {}),
    ("max_open_trades", False, {"max_open_trades": 2}, {"other_legs": {"ETHUSDT": (5, 5)}}, {}),
    ("max_open_trades", False, {"max_open_trades": 1}, {"other_legs": {"ETHUSDT": (5, 5)}, "new_leg": False}, {}),
    ("no_stop", True, {"mode": "risk_based", "risk_bps": 10}, {}, {}),
    ("no_stop", False, {"mode": "risk_based", "risk_bps": 10, "assumed_stop_bps": 100}, {}, {}),
    ("no_stop", False, {}, {}, {}),
    # 20 lots are 1,200 USDT; at 10x that is 120 USDT of margin, 1.2 % of 10,000
    ("max_position", True, {"max_position_bps": 100, "leverage": 10}, {"allowed": 16}, {}),
    ("max_position", False, {"max_position_bps": 100, "leverage": 10}, {"allowed": 10}, {}),
    ("max_position", False, {"max_position_bps": 130, "leverage": 10}, {"allowed": 16}, {}),
    ("max_position", False, {"max_position_bps": 100, "leverage": 10}, {"allowed": 19}, {}),
    ("max_position", False, {}, {"allowed": 10}, {}),
    # a stop 400 bps away loses 48 USDT of 1,200
    ("max_loss_per_trade", True, {"assumed_stop_bps": 400, "max_loss_per_trade_bps": 40}, {"allowed": 16}, {}),
    ("max_loss_per_trade", False, {"assumed_stop_bps": 400, "max_loss_per_trade_bps": 50}, {"allowed": 16}, {}),
    ("max_loss_per_trade", False, {}, {"allowed": 16}, {}),
    ("max_notional_symbol", True, {"max_notional_symbol": "600"}, {"allowed": 10}, {}),
    ("max_notional_symbol", True, {"max_notional_symbol": "600"}, {"allowed": 4, "held_low": 6, "held_high": 6}, {}),
    ("max_notional_symbol", False, {"max_notional_symbol": "600"}, {"allowed": 10, "held_low": 6, "held_high": 6}, {}),
    ("max_notional_symbol", True, {"max_notional_symbol": "45"}, {"allowed": 0}, {}),
    ("max_notional_symbol", False, {"max_notional_symbol": "600"}, {"allowed": 0}, {}),
    ("max_notional_symbol", True, {"max_notional_symbol": "600", "on_insufficient": "skip"}, {"allowed": 0, "wallet": 60}, {}),
    ("max_notional_symbol", False, {"max_notional_symbol": "600", "on_insufficient": "skip"}, {"allowed": 0}, {}),
    ("max_notional_total", True, {"max_notional_total": "600"}, {"allowed": 9}, {}),
    ("max_notional_total", False, {"max_notional_total": "6000"}, {"allowed": 9}, {}),
    # at 10x, with 0.5 % of slippage and the fee, 60 USDT carry about 566 USDT
    ("insufficient_margin", True, {"leverage": 10}, {"wallet": 60, "allowed": 9}, {}),
    ("insufficient_margin", True, {"leverage": 10, "on_insufficient": "skip"}, {"wallet": 60, "allowed": 0}, {}),
    ("insufficient_margin", False, {"leverage": 10}, {"wallet": 60, "allowed": 0}, {}),
    ("insufficient_margin", False, {"leverage": 10}, {"wallet": 10_000, "allowed": 9}, {}),
    ("slippage_leader", True, {}, {"ask": PX * 1006 // 1000}, {}),
    ("slippage_leader", False, {}, {}, {}),
    ("slippage_mid", True, {"slippage_mid_bps": 10}, {"ask": PX * 1006 // 1000}, {}),
    ("rate_limited", True, {}, {"orders": [accepted(NOW - SECOND)] * 299}, {}),
    ("rate_limited", False, {}, {"orders": [accepted(NOW - SECOND)] * 20}, {}),
    ("below_minimum", True, {"min_policy": "skip"}, {"wanted": 0}, {}),
    ("below_minimum", False, {"min_policy": "skip"}, {"wanted": 3}, {}),
    ("below_minimum", False, {}, {"wanted": 0}, {}),
    ("below_minimum", True, {"min_policy": "raise"}, {"wanted_low": 0, "wanted_q32": 1 << 30}, {}),
    ("below_minimum", False, {"min_policy": "raise", "raise_max_factor": "3"}, {"wanted_low": 0, "wanted_q32": 1 << 31}, {}),
    ("insufficient_margin", True, {"leverage": 10, "min_policy": "raise"}, {"wallet": 1, "wanted": 0}, {}),
    ("felt_like_it", False, {}, {}, {}),
]


NAMES = [f"{row[0]}-{row[1]}-{n}" for n, row in enumerate(TABLE)]


@pytest.mark.parametrize(("reason", "right", "plan", "opening", "config"), TABLE, ids=NAMES)
def test_a_reason_is_believed_only_where_the_truth_supports_it(
    reason: str, right: bool, plan: dict[str, Any], opening: dict[str, Any], config: dict[str, Any]
) -> None:
    reasons, facts = situation(dict(plan), dict(opening), config)
    fault = reasons.opening(facts, reason)
    assert (fault == "") is right, fault


def test_a_quote_the_exchange_never_published_proves_nothing() -> None:
    reasons, facts = situation({}, {"ask": PX * 1006 // 1000}, {})
    facts.claim.ask += 1
    assert "published no quote" in reasons.opening(facts, "slippage_leader")


def test_only_limits_the_plan_sets_itself_excuse_a_forgone_opening() -> None:
    """A slippage cap by class is ours; one that the plan names is the follower's own wish."""
    own, default = (PlanNumbers(Plan(follower="anna", allocation="1", slippage_bps=bps)) for bps in (20, 0))
    assert counts_as_plan_limit("slippage", own, "BTCUSDT")
    assert not counts_as_plan_limit("slippage", default, "BTCUSDT")
    assert not counts_as_plan_limit("stale_event", own, "BTCUSDT")
    assert counts_as_plan_limit("max_position", default, "BTCUSDT")


def test_what_an_order_left_unfilled() -> None:
    reasons, _ = situation({}, {}, {})
    order = Order("c", "anna", "BTCUSDT", 1, "BOTH", "LIMIT", "IOC", PX, 10, False, 4, 1, "EXPIRED", NOW)
    assert reasons.order_end("slippage", order, "c", 6 << 32, NOW, NOW) == ""
    assert reasons.order_end("slippage", order, "c", 7 << 32, NOW, NOW)
    assert reasons.order_end("slippage", None, "c", 1 << 32, NOW, NOW)
    filled = msgspec.structs.replace(order, executed=10, status="FILLED")
    assert reasons.order_end("slippage", filled, "c", 1 << 32, NOW, NOW)
    assert reasons.order_end("venue_rejected:-2019", None, "c", 10 << 32, NOW, NOW)
    reasons.truth.rejects["c"] = -2019
    assert reasons.order_end("venue_rejected:-2019", None, "c", 10 << 32, NOW, NOW) == ""
    assert reasons.order_end("venue_rejected:-4164", None, "c", 10 << 32, NOW, NOW)
    assert reasons.order_end("insufficient_margin", None, "c", 10 << 32, NOW, NOW) == ""
    assert reasons.order_end("insufficient_margin", None, "d", 10 << 32, NOW, NOW)
    assert reasons.order_end("stale_event", None, "d", 10 << 32, NOW, NOW), "without a restart an order does not get lost"


@pytest.mark.parametrize(("heard_ms", "done_ms", "right"), [(3_200, 1_300, True), (1_500, 1_300, False), (3_200, None, False)])
def test_what_waited_for_a_late_order_of_its_leg_may_have_grown_too_old(
    heard_ms: int, done_ms: int | None, right: bool
) -> None:
    """Old enough, and an order in the instrument ended at the exchange after the leader's fill: else it need not have waited."""
    reasons, opening = situation({}, {"trade": None}, {})
    opening.claim.ts_event = NOW - heard_ms * MS
    if done_ms is not None:
        opening.account.recent.append((NOW - done_ms * MS, "BTCUSDT", 0, 0))
    opening.account.recent.append((NOW - 100 * MS, "ETHUSDT", 0, 0))
    assert (reasons.opening(opening, "stale_event") == "") is right
