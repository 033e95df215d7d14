"""Copies from one venue to another: the verifier converts by what the exchanges list, and finds every fault it finds at home."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.demo.across import expressed, groups_of, mirrored, strangers, together, verify_all
from copyd.demo.history import Fault, Instrument, LeaderTrade, Plan, Truth, VerifyConfig
from copyd.demo.ideal import PlanNumbers, k_q32

BTC = "BTC-USDT-SWAP"
ETH = "ETH-USDT-SWAP"
HOME, AWAY = "binance_usdm", "okx"
PLANS = [
    Plan(follower="anna", venue=AWAY, allocation="50000", max_position_bps=0),
    Plan(follower="bert", venue=AWAY, allocation="20000", mode="multiplier", multiplier="1.5", max_notional_symbol="2500"),
    Plan(follower="cleo", venue=AWAY, allocation="9000", mode="fixed_amount", amount="300", instruments=[ETH]),
    Plan(follower="dora", venue=AWAY, allocation="30000", mode="risk_based", risk_bps=20, assumed_stop_bps=100),
    Plan(follower="emil", venue=AWAY, allocation="7000", mode="fixed_ratio", leverage=5),
]


def his() -> dict[str, Instrument]:
    """Where the leader trades: quantities in the base asset."""
    return {
        "BTCUSDT": Instrument("BTCUSDT", "0.10", "0.001", "50", "0.001", "1000", "120", pair=("BTC", "USDT")),
        "ETHUSDT": Instrument("ETHUSDT", "0.01", "0.001", "20", "0.001", "10000", "2000", pair=("ETH", "USDT")),
    }


def theirs() -> dict[str, Instrument]:
    """Where the followers trade: contracts, one lot finer and one coarser than his, other ticks."""
    return {
        BTC: Instrument(
            BTC, "0.5", "0.0001", "0", "0.0001", "1000", "120", book="BTCUSDT", contract="0.01", pair=("BTC", "USDT")
        ),
        ETH: Instrument(
            ETH, "0.05", "0.01", "0", "0.01", "10000", "2000", book="ETHUSDT", contract="0.1", pair=("ETH", "USDT")
        ),
    }


class Across:
    """A history with the leader here and the followers there. ``wrong``: instruments of a daemon that converts otherwise."""

    def __init__(self, make_world: Callable[..., Any], wrong: Callable[[dict[str, Instrument]], None] | None = None) -> None:
        self.his, self.theirs = his(), theirs()
        self.world = make_world(PLANS)
        mirrors = {found.symbol: found for found in mirrored(self.theirs, self.his).values()}
        if wrong is not None:
            wrong(mirrors)
        self.world.instruments = mirrors
        self.world.quotes = {symbol: type(next(iter(self.world.quotes.values())))() for symbol in mirrors}
        self.trades: list[LeaderTrade] = []
        self.config = VerifyConfig(leader_leverage={"BTCUSDT": 10}, other_forgone_ppm=1_000_000)

    def trade(self, lots: int, px: int, symbol: str = "BTCUSDT", **more: Any) -> None:
        """The leader trades at home, in his own lots and ticks."""
        there = {"BTCUSDT": BTC, "ETHUSDT": ETH}[symbol]
        ticks = Fraction(px) * Fraction(self.his[symbol].tick) / Fraction(self.world.instruments[there].tick)
        self.world.trade(lots, ticks.__floor__() if lots > 0 else ticks.__ceil__(), there, **more)
        self.trades.append(msgspec.structs.replace(self.world.trades[-1], symbol=symbol, px=px))

    def truths(self) -> dict[str, Truth]:
        """Both exchanges' books."""
        there = self.world.truth()
        there.instruments, there.leader_trades, there.leader_reads = self.theirs, [], []
        home = Truth(self.his, self.trades, [], {}, leader_reads=self.world.reads)
        return {HOME: home, AWAY: there}

    def verdict(self, spoil: Callable[[dict[str, Truth]], None] = lambda truths: None) -> Any:
        """What is said of it."""
        truths = self.truths()
        spoil(truths)
        groups = groups_of(PLANS, {"leader": HOME})
        return together(verify_all(groups, truths, self.world.claims, self.config, ("BTC", "ETH")))


def story(make_world: Callable[..., Any], wrong: Callable[[dict[str, Instrument]], None] | None = None) -> Across:
    """Opens, an order in several fills, one of them partly copied, partial closes, a flip, and flat in the end."""
    across = Across(make_world, wrong)
    across.trade(1000, 600_000)
    across.trade(500, 600_503, order="A", order_lots=1500)
    across.trade(1000, 600_604, order="A", order_lots=1500, fill_share=0.5)
    across.trade(-700, 601_001)
    across.trade(4000, 300_003, "ETHUSDT")
    across.trade(-2600, 600_002)  # through zero
    across.trade(-1000, 599_001)
    across.trade(-1000, 301_004, "ETHUSDT")
    across.trade(1800, 599_503)
    across.trade(-3000, 300_002, "ETHUSDT")
    return across


def test_a_right_history_across_venues_is_verified(make_world: Callable[..., Any]) -> None:
    """Contracts, a finer and a coarser lot, other ticks, all five modes; flat means exactly nothing."""
    across = story(make_world)
    verdict = across.verdict()
    assert verdict.problems == []
    assert verdict.verified and verdict.followers_in_sync == len(PLANS) and verdict.orders > 40
    assert {reason for reason, count in verdict.forgone.items() if count} >= {"slippage", "max_notional_symbol"}
    assert not any(across.truths()[AWAY].positions.values())


def contracts_for_base(mirrors: dict[str, Instrument]) -> None:
    """A daemon that takes one contract for one unit of the base asset."""
    mirrors[BTC].per_leader_lot *= 100


def lots_for_lots(mirrors: dict[str, Instrument]) -> None:
    """A daemon that takes the leader's lots for its own."""
    for instrument in mirrors.values():
        instrument.per_leader_lot = Fraction(1)


@pytest.mark.parametrize("wrong", [contracts_for_base, lots_for_lots])
def test_a_wrong_unit_is_found(make_world: Callable[..., Any], wrong: Callable[[dict[str, Instrument]], None]) -> None:
    """Claims, orders and positions that agree with each other, all in the wrong unit."""
    verdict = story(make_world, wrong).verdict()
    assert not verdict.verified and verdict.problem_counts["wrong k"] and verdict.problem_counts["wrong target"]


def first_opening(across: Across) -> Any:
    return next(claim for claim in across.world.claims if claim.open == "order" and claim.plan == "anna")


def order_of(across: Across, claim: Any) -> Any:
    return next(order for order in across.world.orders if order.client_order_id == claim.orders[-1])


def doubled(across: Across) -> None:
    order = order_of(across, first_opening(across))
    across.world.orders.append(msgspec.structs.replace(order, client_order_id="f" * 32))


def lost(across: Across) -> None:
    claim = first_opening(across)
    across.world.orders.remove(order_of(across, claim))
    across.world.claims.remove(claim)


def missed_mirror(across: Across) -> None:
    """Nobody follows ETH there, and nobody says why."""
    across.world.claims = [claim for claim in across.world.claims if claim.symbol != ETH]
    across.world.orders = [order for order in across.world.orders if order.symbol != ETH]


def wrong_side(across: Across) -> None:
    order = order_of(across, first_opening(across))
    order.side = -order.side


def wrong_instrument(across: Across) -> None:
    order_of(across, first_opening(across)).symbol = ETH


def stays_open(across: Across) -> None:
    """The leader is flat, a follower's close never came."""
    close = next(order for order in reversed(across.world.orders) if order.account == "anna" and order.symbol == BTC)
    across.world.orders.remove(close)


def unconverted_limit(across: Across) -> None:
    """A limit at the leader's number of ticks, and what it left unfilled."""
    order = next(order for order in across.world.orders if order.executed < order.lots and order.kind == "LIMIT")
    order.px *= 5


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (doubled, "unexplained order"), (lost, "omission"), (missed_mirror, "omission"), (wrong_side, "wrong side"),
        (wrong_instrument, "wrong instrument"), (stays_open, "out of sync"), (unconverted_limit, "false reason"),
    ],
)  # fmt: skip
def test_a_fault_across_venues_is_found(make_world: Callable[..., Any], spoil: Callable[[Across], None], kind: str) -> None:
    """One thing is wrong, and it is named."""
    across = story(make_world)
    spoil(across)
    verdict = across.verdict()
    assert not verdict.verified and verdict.problem_counts.get(kind), verdict.problem_counts


def test_a_double_and_an_omission_are_counted(make_world: Callable[..., Any]) -> None:
    """The two figures a person looks at first."""
    twice, missing = story(make_world), story(make_world)
    doubled(twice)
    lost(missing)
    assert twice.verdict().duplicates == 1 and missing.verdict().omissions >= 1


def test_an_order_on_the_wrong_exchange_is_found(make_world: Callable[..., Any]) -> None:
    """A follower's order belongs to his venue; elsewhere nobody has a plan for it."""
    across = story(make_world)

    def moved(truths: dict[str, Truth]) -> None:
        truths[HOME].orders.append(truths[AWAY].orders.pop())

    verdict = across.verdict(moved)
    assert not verdict.verified and any("has no plan there" in text for text in verdict.problems)


def test_positions_without_a_plan_there_are_found() -> None:
    """A follower who holds something on another venue than his."""
    groups = groups_of(PLANS[:1], {"leader": HOME})
    truths = {HOME: Truth(his(), [], [], {("anna", "BTCUSDT", "BOTH"): 1, ("maker-1", "BTCUSDT", "BOTH"): 9})}
    assert strangers(groups, truths) == [f"anna trades on {HOME}, and has no plan there"]


def test_faults_of_the_leader_are_those_of_his_exchange(make_world: Callable[..., Any]) -> None:
    """An opening may be given up as observed only where the leader's own stream was disturbed, on his exchange."""
    across = story(make_world)
    claim = first_opening(across)
    order = order_of(across, claim)
    across.world.orders.remove(order)
    claim.open, claim.orders, claim.open_lots, claim.reason = "forgone", [], 0, "observed"

    def said(where: str, account: str) -> Any:
        return across.verdict(lambda truths: truths[where].faults.append(Fault(claim.ts_event, "cut", account, "streams")))

    explained = "the daemon was up when the leader traded"
    assert not any(explained in text for text in said(HOME, "leader").problems)
    assert any(explained in text for text in said(AWAY, "anna").problems)


PRICES = st.integers(1, 10**7)
STEPS = st.sampled_from(["0.1", "0.5", "0.01", "0.05", "0.001", "2", "0.25"])


@given(px=PRICES, lots=st.integers(1, 10**6), home=STEPS, away=STEPS, buys=st.booleans())
def test_a_converted_price_never_widens_a_cap(px: int, lots: int, home: str, away: str, buys: bool) -> None:
    """A buy's reference is not above the leader's price, a sale's not below it, and less than a tick away."""
    one, other = Instrument("A", home, "1"), Instrument("B", away, "1")
    found = expressed(LeaderTrade("A", "1", "1", lots if buys else -lots, px, lots, 0), one, other)
    exact, said = px * Decimal(home), found.px * Decimal(away)
    assert found.symbol == "B" and abs(found.lots) == lots
    if found.px > 1:  # there is no price of no ticks
        assert (0 <= exact - said < Decimal(away)) if buys else (0 <= said - exact < Decimal(away))


@given(
    lots=st.tuples(STEPS, STEPS), allocation=st.integers(1, 10**6), equity=st.integers(1, 10**7), traded=st.integers(1, 10**6)
)
def test_in_proportion_is_in_the_base_asset(lots: tuple[str, str], allocation: int, equity: int, traded: int) -> None:
    """Whatever the two lots are, the follower's base asset is to the leader's as their money, to less than one part in 2**32 of a
    follower's lot per lot of the leader."""
    home, away = (Instrument(name, "1", lot, pair=("X", "USDT")) for name, lot in zip("AB", lots, strict=True))
    mirror = mirrored({"B": away}, {"A": home})["A"]
    numbers = PlanNumbers(Plan(follower="f", allocation=str(allocation)))
    k = k_q32(numbers, mirror, traded, 1, equity * 10**8, 1, numbers.allocation_e8)
    exact = traded * Fraction(home.lot) * allocation / equity
    copied = Fraction(traded * k, 1 << 32) * Fraction(away.lot)
    assert 0 <= exact - copied < Fraction(traded, 1 << 32) * Fraction(away.lot)


@given(lots=st.tuples(STEPS, STEPS), traded=st.integers(1, 10**6), px=PRICES, amount=st.integers(1, 10**6))
def test_an_amount_is_the_amount_whatever_the_lots(lots: tuple[str, str], traded: int, px: int, amount: int) -> None:
    """A fixed amount buys for that much and not more, in whichever unit the leader's order is counted."""
    home, away = (Instrument(name, "1", lot, pair=("X", "USDT")) for name, lot in zip("AB", lots, strict=True))
    mirror = mirrored({"B": away}, {"A": home})["A"]
    numbers = PlanNumbers(Plan(follower="f", allocation="1", mode="fixed_amount", amount=str(amount)))
    k = k_q32(numbers, mirror, traded, px, 1, 1, 1)
    worth = Fraction(traded * k, 1 << 32) * Fraction(away.lot) * px
    assert 0 <= amount - worth <= Fraction(traded, 1 << 32) * Fraction(away.lot) * px
