"""The three things an answer to one transmission of a new order can prove (semantics 34)."""

from __future__ import annotations

import enum
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
