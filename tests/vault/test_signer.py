"""The signer's limits in force: honest plans are never refused, exits never dropped, and what no plan allows is not signed."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd._fast.columns import Columns, ReportBatch
from copyd.core import engine as e
from copyd.core.engine import INSTRUMENTS, LEGS, ORDERS, PLANS, Alert, Engine
from copyd.core.risk import limit_price
from copyd.core.rows import InstrumentRow, LegRow, OrderRow, PlanRow, ReportRow
from copyd.credentials import Credential, Secret
from copyd.vault.limits import AccountLimits
from copyd.vault.signer import ANY_PRICE, SignerLimits, plan_cap, price_band
from copyd.venue_side import VenueSide
from tests.runtime.test_pump import E8
from tests.runtime.test_venue_side import buy, side_of, world
from tests.scenarios.language import run_file

TABLES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.txt"))


class Watch:
    """Holds every order an engine decides against limits made from its own tables, as a daemon's would be."""

    def __init__(self) -> None:
        self.limits: WeakKeyDictionary[Engine, SignerLimits] = WeakKeyDictionary()
        self.said: list[Alert] = []
        self.orders = 0

    def look(self, engine: Engine, value: Any, orders: bytes) -> None:
        limits = self.limits.get(engine)
        count = engine.columns.count(INSTRUMENTS)
        if limits is None or isinstance(value, e.Configured):
            limits = self.limits[engine] = SignerLimits(self.said.append)
            limits.bind(engine, range(count))
            limits.configured()
        for index in range(count):
            row = InstrumentRow.unpack(engine.columns.get(INSTRUMENTS, index))
            limits.price(index, row.mark, row.bid, row.ask)
        for account in range(len(engine.names.accounts)):
            limits.allow(account, 0)
        slots = array("I", orders)
        self.orders += len(slots)
        assert not limits.refused(slots), self.said[-1]


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_no_order_of_a_scenario_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the plans, modes, flips, minimums and hands by hand: what the rules decide, the signer signs."""
    watch, step = Watch(), Engine.step

    def watched(engine: Engine, now: int, value: Any, ready: Any = None) -> Any:
        out = step(engine, now, value, ready)
        if out is not None:
            watch.look(engine, value, out.orders)
        return out

    monkeypatch.setattr(Engine, "step", watched)
    run_file(table)
    assert not watch.said


quantities = st.integers(1, 1 << 40) | st.integers((1 << 63) - 4, (1 << 63) - 1)


class Gateway:
    """Takes what is to be signed."""

    def __init__(self) -> None:
        self.rendered: list[int] = []

    def render(self, slots: array[int]) -> list[int]:
        self.rendered += slots
        return list(slots)


class Loop(asyncio.AbstractEventLoop):
    """None runs here: what is to be reported later is reported at once."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        callback(*args)


@given(st.data())
def test_no_exit_is_dropped_whatever_the_limits(data: st.DataObject) -> None:
    """Through the daemon's own way to the signature: any leg, either side, any quantity up to flat, at any price; whatever the
    account may trade, whatever the cap, wherever the band is, and beside openings that are refused."""
    draw = data.draw
    columns = Columns(4)
    for _ in range(4):
        columns.add(INSTRUMENTS, InstrumentRow(value_mul=draw(st.integers(0, 1 << 40)), value_div=draw(st.integers(0, 9))).pack())
    exits, slots = [], array("I")
    for number in range(draw(st.integers(1, 6))):
        held, sign, hedge = draw(quantities), draw(st.sampled_from([1, -1])), draw(st.booleans())
        leg = LegRow(attributed=sign * held, account=draw(st.integers(0, 3)), instrument=draw(st.integers(0, 3)))
        index = columns.add(LEGS, leg.pack())
        closes = draw(st.booleans())
        row = OrderRow(
            cid=number.to_bytes(16, "big"), order_qty=draw(st.integers(1, held)) if closes else draw(quantities),
            limit_px=draw(st.integers(0, 1 << 50)), leg=index, account=leg.account, instrument=leg.instrument, state=1,
            side=-sign if closes else sign, kind=int(closes), reduce_only=draw(st.integers(0, 1)),
            position_side=(1 if sign > 0 else 2) if hedge else 0)  # fmt: skip
        slot = columns.add_order(row.cid)
        columns.put(ORDERS, slot, row.pack())
        slots.append(slot)
        if closes:
            exits.append(slot)
    engine = SimpleNamespace(
        columns=columns, names=SimpleNamespace(accounts=list("abcd")), symbol=lambda index: f"i{index}", plans_of=lambda a: [])
    side: Any = object.__new__(VenueSide)
    side.engine, side._keyless, side.gateway = engine, set(), Gateway()
    side.clock, side._reports = SimpleNamespace(now_ns=lambda: 0), lambda batch, at: reports.append(batch)
    reports: list[ReportBatch] = []
    said: list[Alert] = []
    side.limits = SignerLimits(said.append)
    side.limits.bind(engine, range(4))
    for account in range(4):
        if draw(st.booleans()):
            limits = AccountLimits(draw(st.integers(0, 15)), draw(st.integers(0, 1 << 62)))
            side.limits._guard.set_account(account, *limits)
            side.limits._accounts[account] = limits, 0
    for instrument in range(4):
        side.limits.price(instrument, draw(st.integers(0, 1 << 30)))
    asyncio.events._set_running_loop(Loop())  # type: ignore[attr-defined]
    try:
        rendered = side.render(slots)
    finally:
        asyncio.events._set_running_loop(None)  # type: ignore[attr-defined]
    assert set(exits) <= set(rendered) and rendered == side.gateway.rendered
    refused = [slot for slot in slots if slot not in rendered]
    cids = [row.cid for batch in reports for row in ReportRow.unpack_all(batch.to_bytes())]
    assert cids == [OrderRow.unpack(columns.get(ORDERS, slot)).cid for slot in refused]
    assert bool(said) == bool(refused)


def scene(followers: int = 1) -> tuple[Engine, Any, VenueSide, list[Any], list[Alert]]:
    """An engine that copies, the venue side with limits as a daemon sets them, what it offers and what it says."""
    engine, step = world(followers)
    offered: list[Any] = []
    side = side_of(engine, offered, {})
    said: list[Alert] = []
    side.owner = SimpleNamespace(offer=offered.append, alert=said.append)  # type: ignore[assignment]
    side.gateway = Gateway()
    side.gateway.queries_open = 0  # type: ignore[attr-defined]
    side.limits = SignerLimits(said.append)
    side.limits.bind(engine, [0, 1])
    side.limits.configured()
    for account in range(followers):
        engine._edit(PLANS, account, PlanRow, leverage_max=1)
        side.limits.allow(account, 0)
    for instrument in (0, 1):
        side.limits.price(instrument, 600_000, 599_999, 600_001)
    return engine, step, side, offered, said


@pytest.mark.parametrize(("wrong", "reason"), [
    ({"order_qty": 1000}, "above_notional_cap"),
    ({"instrument": 7}, "instrument_not_listed"),
    ({"limit_px": 1_200_000}, "price_out_of_band"),
    ({"limit_px": 300_000}, "price_out_of_band"),
    ({"account": 9}, "account_unknown"),
    ({"side": 0}, "malformed"),
])  # fmt: skip
async def test_what_is_changed_between_decision_and_signature_is_not_signed(wrong: dict[str, int], reason: str) -> None:
    """A mistake elsewhere makes of an opening what no plan allows: it comes back as never sent, said once; the next one goes."""
    engine, step, side, offered, said = scene(2)
    slots = array("I", buy(step, 1).orders)
    row = OrderRow.unpack(engine.columns.get(ORDERS, slots[0]))
    before = row.pack()
    for name, value in wrong.items():
        setattr(row, name, row.order_qty * value if name == "order_qty" else value)
    engine.columns.put(ORDERS, slots[0], row.pack())
    assert side.render(slots) == [slots[1]]
    assert side.render(slots) == [slots[1]]
    engine.columns.put(ORDERS, slots[0], before)
    assert [(alert.name, alert.fields["reason"]) for alert in said] == [("signer_refused", reason)]
    await asyncio.sleep(0)
    reports = [ReportRow.unpack(value.rows) for value in offered]
    assert [(report.kind, report.cid) for report in reports] == [(8, row.cid)] * 2
    assert side.render(slots) == list(slots)


def test_a_plan_that_changes_takes_its_limits_along() -> None:
    """A larger allocation, another instrument, a cap of the key: from the step on that changes it."""
    engine, step, side, _, said = scene()
    limits, slots = side.limits, array("I", buy(step, 1).orders)
    before = limits._accounts[0][0]
    assert not limits.refused(slots)
    old = engine.names.specs[0]
    spec = {**old, "allocation_e8": 10 * old["allocation_e8"], "instruments": ["ETHUSDT"], "leverage_max": 1}
    step(e.Command("change_plan", {"follower": "f0", "leader": "L", "spec": spec}))
    limits.plans_changed([0, 5])
    after = limits._accounts[0][0]
    assert before.instruments == 3 and after == AccountLimits(2, 10 * before.notional_cap_e8)
    limits.allow(0, 7 * E8)
    limits.plans_changed([0])
    assert limits._accounts[0][0].notional_cap_e8 == 7 * E8
    limits.forget(0)
    limits.plans_changed([0])
    assert limits.refused(slots) == slots and said[-1].fields["reason"] == "account_unknown"


def test_what_is_held_beside_the_plan_may_still_be_closed_beyond_its_quantity() -> None:
    """A plan that lists an instrument no more keeps the leg it has there; nothing is opened in it by the rules."""
    engine, step, side, _, _ = scene()
    engine._edit(LEGS, 0, LegRow, attributed=5)
    spec = {**engine.names.specs[0], "instruments": ["ETHUSDT"]}
    step(e.Command("change_plan", {"follower": "f0", "leader": "L", "spec": spec}))
    side.limits.plans_changed([0])
    held = LegRow.unpack(engine.columns.get(LEGS, 0)).instrument
    assert side.limits._accounts[0][0].instruments == 2 | 1 << held


@given(
    st.integers(1, 10**15), st.integers(1, 150), st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10_000),
    st.integers(9, 11), st.sampled_from([1, -1]))
def test_an_opening_at_the_edge_of_its_plan_is_within_cap_and_band(
    allocation: int, leverage: int, symbol: int, total: int, slippage: int, tenths: int, side: int
) -> None:
    """As large as the plan may ever hold, at the leader's price as far from the market as one may be, at the end of the slippage
    cap: the limits stand further out; also for an order without a limit, which counts at the end of the band."""
    row = PlanRow(
        allocation_e8=allocation, leverage_max=leverage, max_notional_symbol_e8=symbol, max_notional_total_e8=total,
        slippage_bps=slippage)  # fmt: skip
    middle = 10**6
    px = middle * tenths // 10
    most = min(value for value in (allocation * leverage, symbol, total) if value)
    lots = most // px
    limit = limit_price(px, side, slippage)
    low, high = price_band((middle, middle), slippage)
    assert not limit or low <= limit <= high
    assert lots * limit <= plan_cap(row, 0)
    if slippage <= 5_000:
        assert lots * (limit or high) <= plan_cap(row, 0)


def test_without_a_price_nothing_is_held_up() -> None:
    """The core opens nothing without a market; the signer adds no refusal of its own to that."""
    assert price_band((), 50) == price_band((0, 0), 50) == ANY_PRICE
    _, step, side, _, said = scene()
    side.limits.price(0)
    assert not side.limits.refused(array("I", buy(step, 1).orders)) and not said


def test_a_plan_without_any_limit_has_no_cap() -> None:
    """0 means none."""
    assert plan_cap(PlanRow(leverage_max=0), 50) == 0
    engine, _, side, _, _ = scene()
    engine._edit(PLANS, 0, PlanRow, leverage_max=0)
    side.limits.plans_changed([0])
    assert side.limits._accounts[0][0].notional_cap_e8 == 0


def test_the_cap_travels_with_the_key() -> None:
    """Two credentials that sign alike are the same key whatever their cap; any other part makes another."""
    one = Credential("a", Secret("k"), Secret("s"), cap_e8=5)
    assert one.cap_e8 == 5 and one.same_key(Credential("a", Secret("k"), Secret("s")))
    assert not one.same_key(Credential("a", Secret("k"), Secret("t")))
    assert not one.same_key(Credential("a", Secret("k"), Secret("s"), passphrase=Secret("p")))
