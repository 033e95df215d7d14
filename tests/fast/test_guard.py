"""The signer's own limits: the compiled check gives what the readable rule gives, and no exit is ever refused."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from copyd._fast.columns import Columns
from copyd._fast.guard import Guard
from copyd.core.engine import INSTRUMENTS, LEGS, ORDERS
from copyd.core.rows import InstrumentRow, LegRow, OrderRow, OrderState
from copyd.vault.limits import AccountLimits, refusal

I64 = (1 << 63) - 1
BIG = st.integers(0, 12) | st.integers(0, 1 << 40) | st.integers(I64 - 3, I64)
SIGNED = st.integers(-12, 12) | st.integers(-(1 << 40), 1 << 40) | st.integers(-I64 - 1, I64)

orders = st.builds(
    OrderRow,
    order_qty=SIGNED, limit_px=SIGNED, leg=st.integers(0, 4) | st.just(0xFFFFFFFF), account=st.integers(0, 4),
    instrument=st.integers(0, 4) | st.integers(60, 70), side=st.sampled_from([1, 1, -1, -1, 0, 2]), kind=st.integers(0, 1),
    state=st.sampled_from([1, 10, 255]), position_side=st.integers(0, 2), reduce_only=st.integers(0, 1))  # fmt: skip
legs = st.builds(LegRow, attributed=SIGNED, account=st.integers(0, 3), instrument=st.integers(0, 3))
instruments = st.builds(InstrumentRow, value_mul=SIGNED, value_div=SIGNED)
limits = st.dictionaries(
    st.integers(0, 3), st.builds(AccountLimits, st.integers(0, (1 << 64) - 1) | st.just(15), BIG), max_size=4)
bands = st.dictionaries(
    st.integers(0, 3) | st.integers(60, 63), st.tuples(BIG, BIG).map(sorted).filter(lambda band: band[0] > 0), max_size=4)


def table(rows: list[OrderRow], of: list[LegRow], items: list[InstrumentRow]) -> Columns:
    columns = Columns(4)
    for kind, many in ((INSTRUMENTS, items), (LEGS, of)):
        for row in many:
            columns.add(kind, row.pack())
    for number, row in enumerate(rows):
        slot = columns.add_order(number.to_bytes(16, "big"))
        row.cid = number.to_bytes(16, "big")
        columns.put(ORDERS, slot, row.pack())
    return columns


def guard(accounts: dict[int, AccountLimits], prices: dict[int, tuple[int, int]]) -> Guard:
    made = Guard()
    for account, terms in accounts.items():
        made.set_account(account, terms.instruments, terms.notional_cap_e8)
    for instrument, (low, high) in prices.items():
        made.set_price(instrument, low, high)
    return made


@given(st.lists(orders, max_size=12), st.lists(legs, max_size=4), st.lists(instruments, max_size=4), limits, bands)
@example([OrderRow(order_qty=I64, limit_px=I64, side=1, state=1, leg=9)], [], [InstrumentRow(value_mul=I64, value_div=1)],
         {0: AccountLimits(1, I64)}, {0: (1, I64)})
@example([OrderRow(order_qty=I64, side=1, state=1)], [LegRow(attributed=-I64 - 1)], [], {}, {})
def test_the_kernel_refuses_what_the_rule_refuses(rows, of, items, accounts, prices) -> None:
    """Every order, every limit, numbers up to the last bit: the same slots, in the order they were asked for."""
    columns = table(rows, of, items)
    slots = [*reversed(range(len(rows))), len(rows), 0xFFFFFFFF]
    wanted = [
        slot for slot in slots
        if slot >= len(rows) or refusal(
            rows[slot], of[rows[slot].leg] if rows[slot].leg < len(of) else None,
            items[rows[slot].instrument] if rows[slot].instrument < len(items) else None,
            accounts.get(rows[slot].account), prices.get(rows[slot].instrument))
    ]
    assert array("I", guard(accounts, prices).check(columns, array("I", slots))).tolist() == wanted


@given(st.integers(1, I64), st.integers(0, I64), st.sampled_from([1, -1]), st.data())
def test_what_reduces_the_confirmed_quantity_always_passes(held: int, px: int, sign: int, data: st.DataObject) -> None:
    """Exits are never refused: no account, no list, no price, no cap known, whatever kind it says it is."""
    row = OrderRow(
        order_qty=data.draw(st.integers(1, held)), limit_px=px, side=-sign, state=OrderState.PENDING_NEW, account=7, instrument=3,
        kind=data.draw(st.integers(0, 1)), reduce_only=data.draw(st.integers(0, 1)),
        position_side=data.draw(st.sampled_from([0, 1 if sign > 0 else 2])))  # fmt: skip
    columns = table([row], [LegRow(attributed=sign * held, account=7, instrument=3)], [])
    assert guard({}, {}).check(columns, array("I", [0])) == b""


def one(**more: int) -> tuple[OrderRow, LegRow]:
    return (OrderRow(**{"order_qty": 5, "limit_px": 100, "side": 1, "state": 1, **more}), LegRow(attributed=5))


@pytest.mark.parametrize(("more", "passes"), [
    ({}, True),
    ({"limit_px": 0}, True),
    ({"limit_px": 89}, False),
    ({"limit_px": 111}, False),
    ({"order_qty": 10}, True),
    ({"order_qty": 11}, False),
    ({"order_qty": 10, "limit_px": 0}, False),  # at the market it counts at 110
    ({"account": 1}, False),
    ({"instrument": 1}, False),
    ({"instrument": 64}, False),
    ({"side": -1, "order_qty": 5, "limit_px": 1}, True),  # closes the leg
    ({"side": -1, "order_qty": 6, "limit_px": 1}, False),  # one lot beyond flat
    ({"side": -1, "order_qty": 5, "limit_px": 1, "position_side": 2}, False),  # would open a short
    ({"side": -1, "order_qty": 5, "limit_px": 1, "account": 1}, False),  # another's leg
    ({"kind": 1, "reduce_only": 1, "limit_px": 1}, False),  # says so, but the leg is long as well
    ({"order_qty": 0}, False), ({"side": 0}, False), ({"limit_px": -1}, False), ({"state": 255}, False),
])  # fmt: skip
def test_each_limit_by_itself(more: dict[str, int], passes: bool) -> None:
    """Instrument list, price band with both ends, notional cap, and what counts as an exit."""
    order, leg = one(**more)
    columns = table([order], [leg], [InstrumentRow(value_mul=2, value_div=1), InstrumentRow()])
    made = guard({0: AccountLimits(1, 2000)}, {0: (90, 110), 1: (90, 110)})
    assert (made.check(columns, array("I", [0])) == b"") is passes


def test_an_account_that_is_forgotten_opens_nothing() -> None:
    """Limits are taken back; what was never said or is out of range is refused with a sentence."""
    columns = table([one()[0]], [], [InstrumentRow()])
    made = guard({0: AccountLimits(1, 0), 5: AccountLimits(0, 0)}, {0: (90, 110)})
    assert made.check(columns, array("I", [0])) == b""
    made.set_price(0, 0, 0)
    assert made.check(columns, array("I", [0])) == b"\0\0\0\0"
    made.set_price(0, 90, 110)
    made.forget_account(0)
    made.forget_account(99)
    assert made.check(columns, array("I", [0])) == b"\0\0\0\0"
    for wrong in ((64, 1, 2), (0, 3, 2), (0, 0, 2), (0, -1, 2)):
        with pytest.raises(ValueError, match="out of range"):
            made.set_price(*wrong)
    for account, cap in ((1 << 24, 1), (0, -1)):
        with pytest.raises(ValueError, match="out of range"):
            made.set_account(account, 1, cap)
