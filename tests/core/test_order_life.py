"""The life of an order: one table, and the compiled rules follow it in every cell."""

from __future__ import annotations

import random

import pytest

from copyd.core.order_life import LIFE, Evidence, evidence, next_state
from copyd.core.rows import NONE, TERMINAL, LegRow, OrderRow, OrderState, ReportKind, ReportRow
from tests.core.worlds import World

UNFINISHED = tuple(LIFE)
KINDS = (ReportKind.REPLY, ReportKind.REJECT, ReportKind.IN_DOUBT, ReportKind.DEAD, ReportKind.STREAM, ReportKind.TRADE,
         ReportKind.NOT_SENT, ReportKind.HELD)
WORDS = (OrderState.NEW, OrderState.PARTIALLY_FILLED, OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED,
         OrderState.REJECTED)


def test_the_table_says_something_for_every_evidence_in_every_unfinished_state() -> None:
    """No state leaves a piece of evidence to chance, and no cell leads back to the beginning."""
    for state, row in LIFE.items():
        assert set(row) == set(Evidence), state
        for to, _ in row.values():
            assert to != OrderState.PENDING_NEW


def test_only_evidence_ends_doubt() -> None:
    """Doubt and conflict never end an order (semantics 35); every other evidence but "alive" does."""
    for state, row in LIFE.items():
        for proof, (to, _) in row.items():
            ends = proof not in (Evidence.DOUBT, Evidence.CONFLICT, Evidence.OPEN)
            assert (to in TERMINAL) == ends, (state, proof)


def test_dead_only_where_it_was_never_seen() -> None:
    """An order that was seen alive or has filled is never called DEAD: it would be planned again as if it never was."""
    for state in UNFINISHED:
        for cum, venue_order_id in ((0, 0), (3, 0), (0, 77)):
            to = next_state(state, Evidence.ABSENT, 0, cum, venue_order_id)
            seen = cum or venue_order_id or state in (OrderState.NEW, OrderState.PARTIALLY_FILLED)
            assert to == (OrderState.EXPIRED if seen else OrderState.DEAD), (state, cum)


@pytest.mark.parametrize("state", TERMINAL)
def test_terminal_states_absorb(state: OrderState) -> None:
    """Whatever comes, an order that has ended stays as it ended."""
    for proof in Evidence:
        for status in WORDS:
            assert next_state(state, proof, status, 5, 1) == state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [*UNFINISHED, *TERMINAL])
def test_twin_and_kernel_follow_the_table(state: OrderState, kind: ReportKind) -> None:
    """Every state x kind of report x word of the venue x quantity, opening and reduction: same bytes, and the table's state."""
    qty = 6
    for reduction in (0, 1):
        for status in WORDS:
            for cum_before, cum in ((0, 0), (0, 2), (2, 2), (2, 0), (0, qty), (2, qty)):
                if state in (OrderState.NEW, OrderState.PENDING_NEW) and cum_before:
                    continue
                if state == OrderState.PARTIALLY_FILLED and not cum_before:
                    continue
                venue_order_id = 7 if cum_before else 0
                world = World(random.Random(5))
                cid = bytes(15) + b"\x09"
                slot = world.columns.add_order(cid)
                leg = LegRow.unpack(world.columns.get(6, 0))
                leg.attributed = 20 if reduction else cum_before
                if state not in TERMINAL:
                    if reduction:
                        leg.reduce_leaves = qty - cum_before
                        leg.target = 14 << 32
                    else:
                        leg.open_slot, leg.open_leaves = slot, qty - cum_before
                        leg.pending, leg.target = (qty - cum_before) << 32, qty << 32
                world.columns.put(6, 0, leg.pack())
                world.columns.put(7, slot, OrderRow(
                    cid=cid, order_qty=qty, cum_qty=cum_before, limit_px=600_000, leg=0, plan=leg.plan, account=leg.account,
                    instrument=leg.instrument, side=-1 if reduction else 1, kind=reduction, state=state, ts_event=world.now,
                    venue_order_id=venue_order_id,
                ).pack())
                report = ReportRow(cid=cid, cum_qty=cum, kind=kind, status=status, last_px=600_000, trade_id=7, account=NONE)
                tables = world.tables()
                out = world.run_twin_reports(tables, [report])
                world.run_kernel_reports([report])
                world.assert_equal(tables, out)
                booked = max(cum, cum_before)
                proof = evidence(kind, status, booked, qty)
                assert tables.orders[slot].state == next_state(
                    state, proof, status, booked, venue_order_id), (state, kind, status, cum)
