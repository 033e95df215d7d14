"""Orders on their way out, parted by what they are for and by the venue of their instrument."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd._fast.columns import Columns
from copyd.core.rows import OrderRow

ORDERS = 7
#: (instrument, kind) of each order.
_orders = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=40)


def tables(orders: list[tuple[int, int]]) -> tuple[Columns, array[int]]:
    """Orders in the tables, and their slots, the last one first."""
    columns = Columns(6)
    slots = []
    for at, (instrument, kind) in enumerate(orders):
        cid = (at + 1).to_bytes(16, "big")
        slots.append(columns.add_order(cid))
        columns.put(ORDERS, slots[-1], OrderRow(cid, instrument=instrument, kind=kind, state=1).pack())
    return columns, array("I", reversed(slots))


@given(_orders, st.binary(min_size=6, max_size=6))
def test_every_order_is_in_its_group_once_in_the_order_given(orders: list[tuple[int, int]], groups: bytes) -> None:
    """As a loop over unpacked rows groups them; groups come as their first orders do."""
    columns, slots = tables(orders)
    expected: dict[int, list[int]] = {}
    for slot in slots:
        row = OrderRow.unpack(columns.get(ORDERS, slot))
        expected.setdefault(groups[row.instrument], []).append(slot)
    assert [(group, list(own)) for group, own in columns.split_orders(slots, groups)] == list(expected.items())


@given(_orders)
def test_reductions_stand_apart_in_the_order_given(orders: list[tuple[int, int]]) -> None:
    """None is lost, none is moved before another of its kind."""
    columns, slots = tables(orders)
    kinds = {slot: OrderRow.unpack(columns.get(ORDERS, slot)).kind for slot in slots}
    reductions, openings = columns.reductions_first(slots)
    assert (list(reductions), list(openings)) == ([s for s in slots if kinds[s]], [s for s in slots if not kinds[s]])


def test_an_order_of_no_group_and_a_row_that_is_none_are_refused() -> None:
    """By name, before anything is parted: an order never goes to another's venue."""
    columns, slots = tables([(0, 0), (3, 1)])
    with pytest.raises(ValueError, match="instrument 3 has no group"):
        columns.split_orders(slots, bytes(3))
    for call in (columns.reductions_first, lambda slots: columns.split_orders(slots, bytes(6))):
        with pytest.raises(IndexError, match="the table has 2 rows"):
            call(array("I", [0, 2]))
