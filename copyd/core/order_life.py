"""The life of an order as one table: what each kind of evidence makes of each state (semantics 34 to 36).

Evidence is what a report of the venue, or the lack of one, proves. A state that is not listed as a key is terminal: it
absorbs whatever comes; a fill that comes late is booked and reported all the same, but moves the state no more.
"""

from __future__ import annotations

from enum import IntEnum

from copyd.core.rows import OrderState, ReportKind


class Evidence(IntEnum):
    """What a report proves about an order that has not ended."""

    DOUBT = 0
    """No answer in time, a connection lost after the write, an ambiguous code."""
    CONFLICT = 1
    """The venue's own sources disagree about it."""
    ABSENT = 2
    """Not found by every authoritative source, asked after the fence, with the position agreeing."""
    REFUSED = 3
    """A documented refusal of its content, or not one byte of it was written."""
    OPEN = 4
    """The venue shows it alive, not filled completely."""
    FILLED = 5
    """The cumulative quantity is the order's."""
    ENDED = 6
    """The venue says canceled, expired or rejected."""


_S, _E = OrderState, Evidence

LIFE: dict[OrderState, dict[Evidence, tuple[OrderState, str]]] = {
    _S.PENDING_NEW: {
        _E.DOUBT: (_S.IN_DOUBT, "it may live: nothing is sent in its place before that is known"),
        _E.CONFLICT: (_S.HELD, "an operator hears of it; evidence alone ends it"),
        _E.ABSENT: (_S.DEAD, "proven never to have been: planned once more under a new attempt"),
        _E.REFUSED: (_S.REJECTED, "the reply to its only transmission: it never became an order"),
        _E.OPEN: (_S.NEW, "accepted"),
        _E.FILLED: (_S.FILLED, "a market order fills at once"),
        _E.ENDED: (_S.EXPIRED, "the venue's own word is taken: canceled, expired or rejected"),
    },
    _S.NEW: {
        _E.DOUBT: (_S.NEW, "that it lived is known; what is asked is how it ended"),
        _E.CONFLICT: (_S.HELD, "seen alive, then contradicted"),
        _E.ABSENT: (_S.EXPIRED, "it was seen alive, so it was: it ended unfilled, and is not planned again as if it never was"),
        _E.REFUSED: (_S.REJECTED, "an asynchronous refusal after the acknowledgement"),
        _E.OPEN: (_S.NEW, "still alive"),
        _E.FILLED: (_S.FILLED, ""),
        _E.ENDED: (_S.EXPIRED, ""),
    },
    _S.PARTIALLY_FILLED: {
        _E.DOUBT: (_S.PARTIALLY_FILLED, "as NEW"),
        _E.CONFLICT: (_S.HELD, "as NEW"),
        _E.ABSENT: (_S.EXPIRED, "its fills stand; the rest ended unfilled"),
        _E.REFUSED: (_S.EXPIRED, "its fills stand: an order that filled was no refused one"),
        _E.OPEN: (_S.PARTIALLY_FILLED, "more may come"),
        _E.FILLED: (_S.FILLED, ""),
        _E.ENDED: (_S.EXPIRED, "its fills stand, the rest is forgone"),
    },
    _S.IN_DOUBT: {
        _E.DOUBT: (_S.IN_DOUBT, "asking is answered by an error: no answer"),
        _E.CONFLICT: (_S.HELD, ""),
        _E.ABSENT: (_S.DEAD, "the fence has passed and every source agrees; one that the venue once showed has EXPIRED"),
        _E.REFUSED: (_S.REJECTED, "the late reply to its only transmission"),
        _E.OPEN: (_S.NEW, "found alive"),
        _E.FILLED: (_S.FILLED, "found filled"),
        _E.ENDED: (_S.EXPIRED, "found ended"),
    },
    _S.HELD: {
        _E.DOUBT: (_S.HELD, "held until evidence"),
        _E.CONFLICT: (_S.HELD, ""),
        _E.ABSENT: (_S.DEAD, "a later look agrees; one that the venue once showed has EXPIRED: it was"),
        _E.REFUSED: (_S.REJECTED, ""),
        _E.OPEN: (_S.NEW, "found after all"),
        _E.FILLED: (_S.FILLED, "found after all"),
        _E.ENDED: (_S.EXPIRED, "found after all"),
    },
}
"""(state, evidence) -> (next state, why). OPEN leads to PARTIALLY_FILLED where something is filled; ENDED to the venue's word."""

ENDED_WORDS = (OrderState.CANCELED, OrderState.EXPIRED, OrderState.REJECTED)


def evidence(kind: int, status: int, cum_qty: int, order_qty: int) -> Evidence:
    """What a report of ``kind`` with the venue's ``status`` proves, ``cum_qty`` of ``order_qty`` lots booked by now."""
    if kind == ReportKind.IN_DOUBT:
        return Evidence.DOUBT
    if kind == ReportKind.HELD:
        return Evidence.CONFLICT
    if cum_qty == order_qty:
        return Evidence.FILLED  # whatever was said with it: nothing of it is left to be in question
    if kind == ReportKind.DEAD:
        return Evidence.ABSENT
    if kind in (ReportKind.REJECT, ReportKind.NOT_SENT):
        return Evidence.REFUSED
    if status in ENDED_WORDS or status == OrderState.FILLED:
        return Evidence.ENDED  # filled of less than was asked: the venue had less to close, the rest is not to come
    return Evidence.OPEN


def next_state(state: OrderState, proof: Evidence, status: int, cum_qty: int, venue_order_id: int) -> OrderState:
    """The state after ``proof``; terminal states absorb. An order with fills or a venue's id was one, whatever is said now."""
    if state not in LIFE:
        return state
    to = LIFE[state][proof][0]
    if proof == Evidence.OPEN:
        return OrderState.PARTIALLY_FILLED if cum_qty else OrderState.NEW
    if proof == Evidence.ENDED:
        return OrderState.EXPIRED if status == OrderState.FILLED else OrderState(status)
    if to == OrderState.DEAD and (cum_qty or venue_order_id):
        return OrderState.EXPIRED
    if to == OrderState.REJECTED and cum_qty:
        return OrderState.EXPIRED
    return to
