"""Average cost: what a position cost, and what each reduction of it realised (semantics 37). Integers only.

A position is signed lots and what they cost together, >= 0 in e8 of the quote asset. An increase adds its value to the cost; a
reduction takes the same share of the cost as of the lots, and the difference to its own value is realised. The last
reduction takes all the cost that is left, so over a whole round trip realised money is exactly value out minus value in. A
fill that crosses zero is a reduction and an opening: two entries, two round trips.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

OPENING, REDUCTION = "opening", "reduction"


class Position(msgspec.Struct, array_like=True):
    """One leg's book. ``trip`` numbers its round trips from 1; ``unpriced``: held before any price of it was known."""

    lots: int = 0
    cost_e8: int = 0
    trip: int = 0
    unpriced: bool = False


class Entry(NamedTuple):
    """One booked part; ``lots`` >= 0, ``side`` +1 bought, -1 sold; the last three are the position after it."""

    kind: str
    side: int
    lots: int
    value_e8: int
    fee_e8: int
    realised_e8: int
    position_lots: int
    position_cost_e8: int
    trip: int


def book(position: Position, signed_lots: int, value_e8: int, fee_e8: int = 0) -> list[Entry]:
    """Book a fill of ``signed_lots`` != 0 worth ``value_e8`` >= 0; ``position`` moves. Two entries where it flips, else one."""
    side, lots = (1, signed_lots) if signed_lots > 0 else (-1, -signed_lots)
    held = abs(position.lots)
    closing = min(lots, held) if position.lots * side < 0 else 0
    if position.unpriced:
        position.cost_e8, position.unpriced = value_e8 * held // lots, False
    entries = []
    if closing:
        value, fee = value_e8 * closing // lots, fee_e8 * closing // lots
        cost = position.cost_e8 * closing // held
        position.lots += side * closing
        position.cost_e8 -= cost
        entries.append(_entry(position, REDUCTION, side, closing, value, fee, side * (cost - value)))
        lots, value_e8, fee_e8 = lots - closing, value_e8 - value, fee_e8 - fee
    if lots:
        position.trip += position.lots == 0
        position.lots += side * lots
        position.cost_e8 += value_e8
        entries.append(_entry(position, OPENING, side, lots, value_e8, fee_e8, 0))
    return entries


def adjust(position: Position, kind: str, side: int, value_e8: int, fee_e8: int) -> Entry:
    """A fill already booked turns out to be worth ``value_e8`` more, or to have cost ``fee_e8`` more; no lots move.

    An opening that is still held corrects what the position cost; everything else corrects what was realised.
    """
    realised = -side * value_e8
    if kind == OPENING and position.lots * side > 0:
        position.cost_e8, realised = max(0, position.cost_e8 + value_e8), 0
    return _entry(position, kind, side, 0, value_e8, fee_e8, realised)


def restate(position: Position, lots: int, cost_e8: int) -> Entry:
    """The position is ``lots`` at ``cost_e8`` from now on, without a trade: another lot size, or a history with a hole."""
    position.trip += lots != 0 and position.lots == 0
    position.lots, position.cost_e8, position.unpriced = lots, cost_e8, False
    return _entry(position, OPENING, 1 if lots >= 0 else -1, 0, 0, 0, 0)


def _entry(position: Position, kind: str, side: int, lots: int, value: int, fee: int, realised: int) -> Entry:
    return Entry(kind, side, lots, value, fee, realised, position.lots, position.cost_e8, position.trip)
