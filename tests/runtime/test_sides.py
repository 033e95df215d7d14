"""Several venues are started as one: at once, and what ends the start says whose trouble it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from copyd.errors import BrokenInvariant, OperatorError, VenueUnavailable
from copyd.sides import VenueSides
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.rest import RestError

Work = Callable[[], Awaitable[None]]
STEPS = ("open", "start_orders", "start_market", "start_leaders")


def sides_of(**work: Work) -> VenueSides:
    """Venues that do this in every step of the start."""
    config = SimpleNamespace(
        venues=[SimpleNamespace(name=name) for name in work],
        instruments=[SimpleNamespace(venue=name, symbol="BTCUSDT") for name in work])

    def make(config: Any, venue: Any, wanted: Any, *more: Any) -> Any:
        async def step(**how: Any) -> None:
            await work[venue.name]()

        return SimpleNamespace(venue=venue, wanted=wanted, **dict.fromkeys(STEPS, step))

    return VenueSides(config, None, None, None, make)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", STEPS)
async def test_the_venues_are_started_at_once(step: str) -> None:
    """No venue waits for another: each is done only when all have begun."""
    meeting = asyncio.Barrier(2)

    async def meet() -> None:
        async with asyncio.timeout(10):
            await meeting.wait()

    await getattr(sides_of(a=meet, b=meet), step)()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("problem", "kind", "text"), [
    (VenueUnavailable("no answer"), VenueUnavailable, "venue b: no answer"),
    (RestError("GET /x", 500, 1, "down", Verdict(Outcome.IN_DOUBT, "down", 1)), VenueUnavailable, "venue b: GET /x: HTTP 500"),
    (OperatorError("leader l: no such key"), OperatorError, "venue b: leader l: no such key"),
    (BrokenInvariant("ours"), BrokenInvariant, "ours"),
])  # fmt: skip
async def test_a_venue_that_ends_the_start_is_named_and_nothing_goes_on_behind_it(
    step: str, problem: Exception, kind: type[Exception], text: str
) -> None:
    """The error keeps its exit code, and what the other venues were at is over when it is raised."""
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("a")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise problem

    with pytest.raises(kind, match=text) as raised:
        await getattr(sides_of(a=long, b=fail), step)()
    assert str(raised.value).startswith(text) and ended == ["a"]


async def test_a_start_that_is_given_up_leaves_no_venue_starting() -> None:
    """A signal ends the start: every venue's part of it is ended too."""
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("")

    start = asyncio.ensure_future(sides_of(a=long, b=long).start_leaders())
    await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert len(ended) == 2
