"""Who connects first, and what one venue's outage does to another's links."""

from __future__ import annotations

import asyncio
import random

import pytest

from copyd.venues.common import connection
from copyd.venues.common.connection import ConnectPace, Link, RetryPace
from tests.venues.common.conftest import until

pytestmark = pytest.mark.asyncio


async def test_a_leader_waits_behind_no_follower() -> None:
    """Thousands of accounts stand in line; a leader or the market that comes last connects next."""
    pace = ConnectPace(200.0, 2)
    order: list[str] = []

    async def come(name: str, urgent: bool) -> None:
        await pace.turn(urgent)
        order.append(name)

    others = [asyncio.create_task(come(f"follower {n}", False)) for n in range(5_000)]
    await asyncio.sleep(0.1)
    before = len(order)
    leader = asyncio.create_task(come("leader", True))
    await asyncio.wait_for(leader, 5)
    assert before < 1_000 and order.index("leader") <= before + 4  # those whose turn had come already, at most a burst
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.wait_for(pace.turn(), 5)  # those that gave up take nobody's turn


async def test_attempts_keep_below_the_rate() -> None:
    """Urgent and ordinary together: no more than the burst and what time brings."""
    pace = ConnectPace(100.0, 3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(pace.turn(n % 2 == 0) for n in range(13)))
    assert loop.time() - began >= 10 / 100 - 0.01


async def test_links_that_are_paced_by_their_venue_take_nobody_elses_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue is down and its many links knock again and again: the attempts that other links share are all still there."""
    monkeypatch.setattr(connection, "PACE", RetryPace(0.8, 40))
    turns = ConnectPace(10_000.0, 100)

    async def nowhere() -> str:
        await turns.turn()
        return "ws://127.0.0.1:1/"

    links = [
        Link(f"down-{n}", nowhere, on_frame=lambda *a: None, on_open=lambda s: None, on_lost=lambda s: None,
             rng=random.Random(n), life_s=60.0, frame_bytes_max=1 << 16, paced=True)
        for n in range(60)
    ]  # fmt: skip
    for link in links:
        link.start()
    await until(lambda: all(link.last_error for link in links))
    assert connection.PACE.wait_s(asyncio.get_running_loop().time()) == 0.0
    await asyncio.gather(*(link.stop() for link in links))
