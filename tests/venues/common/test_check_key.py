"""A leader's key before he is listened to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from copyd.errors import OperatorError
from copyd.telemetry.logs import get_logger
from copyd.venue_side import VenueSide
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import RestError
from copyd.venues.common.signing import Key

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("problem", "ends"), [
    (ValueError("some instruments keep a position per side and others do not"), False),
    (RestError("GET /x", 400, 1, "busy", Verdict(Outcome.IN_DOUBT, "busy", 1)), False),
    (RestError("GET /x", 400, 2, "no such key", Verdict(Outcome.DEFINITE_REJECT, "key_refused", 2)), True),
])  # fmt: skip
async def test_only_a_refused_key_ends_the_start(problem: Exception, ends: bool) -> None:
    """What the venue says of anything else, or says unreadably, is a warning: his connection tells more."""

    async def check_key(key: Key) -> None:
        raise problem

    side: Any = SimpleNamespace(parts=SimpleNamespace(check_key=check_key), log=get_logger("venue"))
    if ends:
        with pytest.raises(OperatorError):
            await VenueSide._check_key(side, "leader a", "a", Key(b"k", b"s"))
    else:
        await VenueSide._check_key(side, "leader a", "a", Key(b"k", b"s"))
