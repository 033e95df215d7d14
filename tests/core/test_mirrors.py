"""A leader on one venue, followers on others: units, rounding, and that nothing else about a decision changes."""

from __future__ import annotations

import array
import random
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd._fast.fanout import Kernel
from copyd.core import engine as e
from copyd.core.copy_instruction import ratio
from copyd.core.instrument import CONVERSION_MAX, PX_MAX, base_price, conversion, converted_price
from copyd.core.rows import (
    DecisionRow,
    FillEvent,
    InstrumentRow,
    LeaderPositionRow,
    LeaderRow,
    LegRow,
    Mode,
    NamedOrder,
    OrderRow,
    Params,
    PlanRow,
    Reason,
    ReportKind,
    ReportRow,
)
from copyd.errors import OperatorError
from copyd.inspect.twin import Twin, observe
from tests.core.worlds import World
from tests.scenarios.language import default_plan

E8 = 10**8
SECOND = 1_000_000_000
BASE = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))


# -- conversions -------------------------------------------------------------------------------------------------------


@given(BASE, BASE)
def test_a_conversion_is_exact_and_in_lowest_terms(one: tuple[int, int], other: tuple[int, int]) -> None:
    """mul / div is the base asset in the leader's lot over that in the follower's; back again it is the inverse."""
    lots = Fraction(*one) / Fraction(*other)
    if max(lots.numerator, lots.denominator) > CONVERSION_MAX:
        with pytest.raises(OperatorError, match="cannot be copied"):
            conversion(one, other, ("a", "b"))
        return
    assert conversion(one, other) == (lots.numerator, lots.denominator)
    assert conversion(other, one) == (lots.denominator, lots.numerator)


def test_a_conversion_has_a_bound() -> None:
    """Either number may be as large as the bound and no larger; a lot of nothing is refused."""
    assert conversion((CONVERSION_MAX, 1), (1, 1)) == (CONVERSION_MAX, 1)
    assert conversion((1, 1), (CONVERSION_MAX, 1)) == (1, CONVERSION_MAX)
    for one, other in [((CONVERSION_MAX + 1, 1), (1, 1)), ((1, 1), (CONVERSION_MAX + 1, 1)), ((0, 1), (1, 1)), ((1, 1), (1, 0))]:
        with pytest.raises(OperatorError):
            conversion(one, other, ("a", "b"))


TERMS = st.one_of(st.integers(1, 20), st.integers(CONVERSION_MAX - 5, CONVERSION_MAX), st.integers(1, CONVERSION_MAX))
EDGES = st.one_of(st.integers(1, 50), st.integers((1 << 63) - 50, (1 << 63) - 1), st.integers(1, (1 << 63) - 1))


@settings(max_examples=300, deadline=None)
@given(
    worth=EDGES, equity=EDGES, leverage=st.sampled_from([1, 125, (1 << 31) - 1]), own=st.sampled_from([1, 3, 125]),
    ppm=st.sampled_from([100_000, 1_234_567, 10_000_000]),
    mode=st.sampled_from([Mode.PROPORTIONAL, Mode.MULTIPLIER, Mode.FIXED_RATIO]), mul=TERMS, div=TERMS,
)
def test_a_converted_ratio_is_truncated_once_at_every_edge(
    worth: int, equity: int, leverage: int, own: int, ppm: int, mode: Mode, mul: int, div: int
) -> None:
    """At the ends of 64 bits and of the conversion the kernel's 128-bit ratio is the exact one, truncated once."""
    world = World(random.Random(1))
    world.edit(1, 0, LeaderRow, equity_e8=equity, ts_equity=world.now)
    world.edit(2, 0, LeaderPositionRow, leverage=leverage, qty=0)
    plan = PlanRow(allocation_e8=worth, mode=mode, multiplier_ppm=ppm, leverage=own, first_leg=0, account=0)
    world.columns.put(3, 0, plan.pack())
    world.columns.put(6, 0, LegRow(plan=0, leader_position=0, instrument=0).pack())
    event = world.leader_fill(0, 1)
    event.lots_mul, event.lots_div = mul, div
    expected, _ = ratio(
        LegRow(), plan, worth, LeaderRow(equity_e8=equity), LeaderPositionRow(leverage=leverage), InstrumentRow(), event)
    world.kernel.fan_out(array.array("I", [0]), event.pack())
    (decision,) = DecisionRow.unpack_all(world.kernel.decisions())
    assert decision.k == expected


@given(
    px=st.integers(1, 10**9), side=st.sampled_from([1, -1]),
    ticks=st.fractions(min_value=Fraction(1, 10**6), max_value=10**6, max_denominator=10**6))
def test_a_converted_price_never_widens_a_cap(px: int, side: int, ticks: Fraction) -> None:
    """Buys round down, sells up, by less than a tick; never to nothing, and never beyond what 64 bits hold."""
    got = converted_price(px, ticks, side)
    exact = px * ticks
    assert 1 <= got <= PX_MAX
    if 1 < got < PX_MAX:
        assert 0 <= side * (exact - got) < 1
    assert converted_price(px, Fraction(1), side) == px


def test_prices_are_converted_by_what_the_base_asset_is_worth() -> None:
    """A venue that lists a thousand of an asset as one (1000SHIB) quotes a thousand times the price, and it is the same price."""
    thousand = base_price(InstrumentRow(value_mul=100, value_div=1), (1000, 1))  # tick 0.000001 per 1000, lot 1 (of 1000)
    single = base_price(InstrumentRow(value_mul=1, value_div=1), (1, 1))  # tick 0.00000001, lot 1
    assert converted_price(25_000, thousand / single, 1) == 25_000 * 100 // 1000


# -- whole engines -----------------------------------------------------------------------------------------------------


def spec(symbol: str, venue: str, lot: Fraction = Fraction(1, 1000), tick: Fraction = Fraction(1, 10)) -> e.InstrumentSpec:
    value = lot * tick * E8
    row = InstrumentRow(value_mul=value.numerator, value_div=value.denominator)
    return e.InstrumentSpec(symbol, row.pack(), 1, 3, 1, 1, venue, lot.numerator, lot.denominator)


class Daemon:
    """An engine with its inputs so far, driven by hand."""

    def __init__(self, instruments: list[e.InstrumentSpec], mirrors: list[tuple[int, int]], plans: list[dict[str, Any]]) -> None:
        self.engine = e.Engine(4)
        self.now = 1_000 * SECOND
        self.exec_id = 0
        self.outputs: list[e.Outputs] = []
        self.do(e.Started(1, 0xC0DE, bytes(range(16)), "build"))
        self.do(e.Configured(1, Params(key=bytes(range(16))).pack(), instruments, ["L"], mirrors=mirrors))
        self.do(e.Command("import_plans", {"plans": plans}))
        for account in range(len(self.engine.names.accounts)):
            self.do(e.AccountSnapshots([(account, 1_000_000 * E8, [])]))
            self.do(e.LegsReady([(account, i, True, False, True, 5) for i in range(len(instruments))]))
        self.do(e.LeaderEquity(0, 800_000 * E8, self.now))
        self.do(e.LeaderSync(0, True, []))

    def do(self, value: Any, ready: e.Ready | None = None) -> e.Outputs | None:
        self.now += 1_000_000
        out = self.engine.step(self.now, value, ready)
        if out is not None:
            self.outputs.append(out)
        return out

    def quotes(self, px: int) -> None:
        self.do(e.Quotes([(i, px - 1, px + 1, px, self.now) for i in range(len(self.engine.names.instruments))]))

    def fill(self, signed: int, px: int = 640_000, order_qty: int = 0, order_id: int = 1 << 62) -> e.LeaderFill:
        self.exec_id += 1
        return e.LeaderFill(
            0, 0, 0, (1 << 62) + self.exec_id, order_id, 1 if signed > 0 else -1, abs(signed), px, order_qty or abs(signed),
            True, False, "trade", self.now, self.now, b"")

    def answer(self, out: e.Outputs, part: tuple[int, int]) -> None:
        """Every order of a step fills for ``part``."""
        rows = b""
        for slot in array.array("I", out.orders):
            order = OrderRow.unpack(self.engine.columns.get(e.ORDERS, slot))
            cum = order.order_qty * part[0] // part[1]
            rows += ReportRow(
                cid=order.cid, cum_qty=cum, cost_e8=cum * (order.limit_px or 640_000) * 10_000, kind=ReportKind.STREAM,
                status=4 if cum == order.order_qty else 7, ts_event=self.now).pack()
        if rows:
            self.do(e.Reports(rows))


def plan(follower: str, **cells: Any) -> dict[str, Any]:
    return default_plan() | {
        "follower": follower, "leader": "L", "account": follower, "allocation_e8": 100_000 * E8, "leverage": 5} | cells


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), mode=st.sampled_from(list(Mode)),
    fills=st.lists(st.tuples(st.integers(-400, 400).filter(bool), st.sampled_from([(1, 1), (1, 2), (0, 1)])), max_size=12))
def test_a_mirror_of_an_identical_instrument_decides_as_the_instrument_itself(
    seed: int, mode: Mode, fills: list[tuple[int, tuple[int, int]]]
) -> None:
    """Two followers with the same terms, one on the leader's venue and one on another that lists the very same instrument, are
    decided for and sent the same, whatever happens; only the ids and the leg differ."""
    rng = random.Random(seed)
    cells = {
        "mode": int(mode), "amount_e8": rng.choice([50, 3_000]) * E8, "risk_bps": 20, "assumed_stop_bps": 200,
        "min_policy": rng.randrange(3), "ratio_snapshot": rng.randrange(3), "multiplier_ppm": rng.choice([500_000, 1_234_567]),
    }
    daemon = Daemon([spec("BTC", "a"), spec("BTC", "b")], [(0, 1)], [plan("F", **cells), plan("G", venue="b", **cells)])
    twin = Twin(daemon.engine)
    observe(daemon.engine, twin)
    for signed, part in fills:
        px = 640_000 + rng.randint(-900, 900)
        daemon.quotes(px)
        twin.begin()
        out = daemon.do(daemon.fill(signed, px))
        assert out is not None
        recorded = e.decode_payload(b"".join(out.payload()))
        assert (twin.computed.decisions, twin.computed.named) == (recorded.decisions, recorded.named)
        ours, theirs = DecisionRow.unpack_all(out.decisions)
        theirs.plan, theirs.leg = ours.plan, ours.leg
        assert ours == theirs
        named = [(row.account, row.side, row.order_qty, row.limit_px, row.kind, row.reduce_only)
                 for row in NamedOrder.unpack_all(out.named)]
        assert sorted(row[1:] for row in named if row[0] == 0) == sorted(row[1:] for row in named if row[0] == 1)
        daemon.answer(out, part)
        e.check_law(daemon.engine)


def test_reductions_of_every_venue_go_before_any_opening() -> None:
    """One event followed on three venues: its reductions come first, the largest exposure first, then its openings."""
    lots = [Fraction(1, 1000), Fraction(1, 10_000), Fraction(1, 100)]
    specs = [spec("BTC", venue, lot) for venue, lot in zip("abc", lots, strict=True)]
    plans = [plan(f"{venue}{n}", venue=venue, allocation_e8=(100_000 + 10_000 * n) * E8) for venue in "abc" for n in range(3)]
    daemon = Daemon(specs, [(0, 1), (0, 2)], plans)
    daemon.quotes(640_000)
    out = daemon.do(daemon.fill(800))
    assert out is not None
    assert len(out.named) == 9 * NamedOrder.LAYOUT.size
    rows = [OrderRow.unpack(daemon.engine.columns.get(e.ORDERS, slot)) for slot in array.array("I", out.orders)]
    assert [row.instrument for row in rows] == [0] * 3 + [1] * 3 + [2] * 3, "the leader's own venue first, then by index"
    kept = [row for row in rows if daemon.engine.names.accounts[row.account][1] != "2"]
    daemon.do(e.Reports(b"".join(
        ReportRow(cid=row.cid, cum_qty=row.order_qty if row in kept else 0, kind=ReportKind.STREAM,
                  status=4 if row in kept else 7, ts_event=daemon.now).pack() for row in rows)))
    out = daemon.do(daemon.fill(-1_600))
    assert out is not None
    rows = [OrderRow.unpack(daemon.engine.columns.get(e.ORDERS, slot)) for slot in array.array("I", out.orders)]
    assert [row.kind for row in rows] == [1] * 6 + [0] * 3
    worth = [row.order_qty * lots[row.instrument] for row in rows[:6]]
    assert worth == sorted(worth, reverse=True)


@pytest.mark.parametrize("first", [1, 2, 5, 100])
def test_an_announced_execution_is_told_whole_over_all_venues(first: int) -> None:
    """What ``ready`` hears is what the record names, in its order, over every venue; without it the bytes are the same."""
    specs = [spec("BTC", venue) for venue in "abc"]
    plans = [plan(f"{venue}{n}", venue=venue) for venue in "acb" for n in range(4)]
    one, other = (Daemon(specs, [(0, 1), (0, 2)], plans) for _ in range(2))
    for daemon in (one, other):
        daemon.quotes(640_000)
        daemon.engine.ready_first = first
    fill = one.fill(800)
    assert one.engine.announces(fill, 12)
    assert not one.engine.announces(fill, 13)
    told: list[bytes] = []

    def ready(orders: bytes) -> int:
        told.append(orders)
        return 3

    said, silent = one.do(fill, ready), other.do(fill)
    assert said is not None
    assert silent is not None
    assert b"".join(told) == said.orders
    assert len(told[0]) // 4 == min(first, 12)
    assert b"".join(said.payload()) == b"".join(silent.payload())
    assert one.engine.checkpoint() == other.engine.checkpoint()


def test_a_mirror_is_never_taken_back_and_stands_on_another_venue() -> None:
    """What would leave legs without their instrument, or give a plan two legs in one, is refused before anything has changed."""
    specs = [spec("BTC", "a"), spec("BTC", "b"), spec("ETH", "a"), spec("ETH", "b")]
    daemon = Daemon(specs, [(0, 1)], [plan("F"), plan("G", venue="b")])
    for listed, mirrors, says in [
        (specs, [], "never removed"), (specs[:1], [], "never removed"), (specs, [(0, 1), (2, 1)], "already"),
        (specs, [(0, 1), (0, 3)], "already"), (specs, [(0, 1), (0, 2)], "same venue"), (specs, [(0, 1), (2, 9)], "no such"),
        ([*specs[:1], msgspec.structs.replace(specs[1], venue="c")], [(0, 1)], "keeps its venue"),
        ([*specs[:3], msgspec.structs.replace(specs[3], base_mul=0)], [(0, 1), (2, 3)], "above 0"),
    ]:
        before = daemon.engine.checkpoint()
        with pytest.raises(OperatorError, match=says):
            daemon.do(e.Configured(2, Params().pack(), listed, ["L"], mirrors=mirrors))
        assert daemon.engine.checkpoint() == before
    with pytest.raises(OperatorError, match="cannot be moved"):
        daemon.do(e.Configured(2, Params().pack(), specs, ["L"], mirrors=[(0, 1)], leader_venues={"L": "b"}))


def test_a_lot_told_wrong_trades_nothing() -> None:
    """Price and quantity are converted by the same base asset: one that is ten times off shows as a price out of the market."""
    wrong = msgspec.structs.replace(spec("BTC", "b"), base_mul=10)
    daemon = Daemon([spec("BTC", "a"), wrong], [(0, 1)], [plan("G", venue="b")])
    daemon.quotes(640_000)
    for signed in (100, -300):
        out = daemon.do(daemon.fill(signed))
        assert out is not None
        assert not out.orders
        assert [Reason(row.reason) for row in DecisionRow.unpack_all(out.decisions)] == [Reason.PRICE_OUTLIER]


def test_the_declared_profile_is_held_against_the_instrument_the_leader_trades() -> None:
    """What he declared names his own instruments and the worth of his own position, wherever his followers stand."""
    specs = [spec("BTC", "a"), spec("BTC", "b", Fraction(1, 10))]
    daemon = Daemon(specs, [(0, 1)], [plan("G", venue="b", instruments=["b:BTC"])])
    configured = e.Configured(2, Params(key=bytes(range(16))).pack(), daemon.engine.names.instruments, ["L"], [], {
        "L": e.Declared(1, 0, 60_000 * E8)}, [(0, 1)])
    daemon.do(configured)
    daemon.quotes(640_000)
    out = daemon.do(daemon.fill(800))
    assert out is not None
    assert [row.reason for row in DecisionRow.unpack_all(out.decisions)] == [0], "51 200 of 60 000 in his own instrument"
    out = daemon.do(daemon.fill(200))
    assert out is not None
    assert [Reason(row.reason) for row in DecisionRow.unpack_all(out.decisions)] == [Reason.LEADER_NOT_ELIGIBLE]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def of_one_venue(engine: e.Engine) -> list[bytes]:
    """The checkpoint that a build which knew one venue would have written."""
    version, instruments_max, names = msgspec.msgpack.decode(engine.checkpoint()[0])
    for name in ("mirrors", "leader_venues", "account_venues"):
        del names[name]
    names["instruments"] = [row[:6] for row in names["instruments"]]
    names["external_seen"] = [(trade << 6 | instrument) << 20 | account for account, instrument, trade in names["external_seen"]]
    parts = engine.checkpoint()
    rows = LeaderPositionRow.unpack_all(parts[3])
    parts[3] = b"".join(LeaderPositionRow(row.qty, row.leverage, row.synced, 0).pack() for row in rows)
    return [msgspec.msgpack.encode((version - 2, instruments_max, names)), *parts[1:]]


@pytest.mark.parametrize("announced", [False, True])
def test_a_checkpoint_of_one_venue_is_still_read(announced: bool) -> None:
    """What a build that knew one venue kept leads to the same state and the same decisions, trades seen by hand included."""
    specs = [msgspec.structs.replace(spec(symbol, ""), base_mul=1, base_div=1) for symbol in ("BTC", "ETH")]
    daemon = Daemon(specs, [], [plan("F"), plan("G")])
    daemon.quotes(640_000)
    daemon.do(e.ExternalFill(1, 1, 0, 5, 77, "manual", daemon.now))
    daemon.do(daemon.fill(100))
    fill = msgspec.structs.replace(daemon.fill(100), instrument=1)
    if announced:
        daemon.do(e.Announced(fill))
    restored = e.Engine.restore(of_one_venue(daemon.engine))
    assert restored.checkpoint() == daemon.engine.checkpoint()
    if not announced:
        assert restored.step(daemon.now + 1, e.ExternalFill(1, 1, 0, 5, 77, "manual", daemon.now)) is None
    ours, theirs = (engine.step(daemon.now + 2, fill) for engine in (daemon.engine, restored))
    assert ours is not None
    assert theirs is not None
    assert ours.payload() == theirs.payload()


def test_numbers_of_any_venue_fit() -> None:
    """Trades, orders and executions are numbered up to 63 bits, and a checkpoint keeps every one apart."""
    daemon = Daemon([spec("BTC", "a")], [], [plan("F")])
    largest = (1 << 63) - 1
    daemon.quotes(640_000)
    daemon.do(daemon.fill(100, order_id=largest))
    for trade in (largest, largest - 1):
        assert daemon.do(e.ExternalFill(0, 0, 0, 5, trade, "manual", daemon.now)) is not None
    daemon.engine = e.Engine.restore(daemon.engine.checkpoint())
    for trade in (largest, largest - 1):
        assert daemon.do(e.ExternalFill(0, 0, 0, 5, trade, "manual", daemon.now)) is None


def test_a_kernel_without_groups_decides_nothing() -> None:
    """Nobody follows in any instrument: no decision, and what was decided before is gone."""
    world = World(random.Random(3))
    kernel: Kernel = world.kernel
    world.run_kernel_fill(world.leader_fill(0, 5))
    kernel.fan_out_each([])
    assert kernel.counts() == (0, 0, 0, 0)
    assert FillEvent.unpack(FillEvent().pack()).lots_div == 1
