"""The three things an answer to one transmission of a new order can prove (semantics 34)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple


class Outcome(enum.IntEnum):
    """The three things an answer to *one transmission of a new order* can prove."""

    ACCEPTED = 0
    DEFINITE_REJECT = 1
    IN_DOUBT = 2


class Verdict(NamedTuple):
    """An outcome, its reason (a stable word, used in ``venue_rejected:<reason>``) and the venue's code (0 = none)."""

    outcome: Outcome
    reason: str
    code: int = 0


#: What the core books a refusal under where it acts on it (``copyd.core.fill``, ``copyd.core.order``): nothing there to reduce,
#: another position mode, below the minimum, no money for it, too many orders. Of any other it only keeps the venue's number.
CORE_CODES = {
    "reduce_only": -2022, "position_not_sufficient": -2022, "no_position": -2022, "closing_stopped": -2022,
    "position_side": -4061, "position_mode": -4061, "account_mode": -4061,
    "min_notional": -4164, "quantity_below_min": -4164,
    "margin": -2019, "balance": -2019,
    "too_many_orders": -1015, "too_many_requests": -1003, "ip_banned": -1003,
}  # fmt: skip


def word_of(codes: Mapping[int, tuple[Outcome, str]], code: int) -> str:
    """The word for a venue code in its venue's table; our own outcomes carry code 0."""
    known = codes.get(code)
    if known is not None:
        return known[1]
    return "refused_at_edge" if code == 0 else "unknown_code"


def core_code(verdict: Verdict) -> int:
    """The number a refusal is reported under."""
    return CORE_CODES.get(verdict.reason, verdict.code)
