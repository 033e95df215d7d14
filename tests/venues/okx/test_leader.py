"""A leader on the simulated exchange, heard through the wiring that the daemon uses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from copyd.venues.common.facts import LeaderFill, LeaderPosition, LeaderSync
from copyd.venues.common.parts import Hooks, LeaderTerms, SessionParts, Terms
from copyd.venues.common.signing import Key
from copyd.venues.okx.parts import KIND
from tests.exchange.okx_bench import Bench, exchange


def _hooks(events: list[Any]) -> Hooks:
    """Only what a leader's feed tells is kept."""
    deaf: dict[str, Any] = {name: lambda *_: None for name in Hooks._fields}
    return Hooks(**{**deaf, "clock": time.time_ns, "on_leader_event": events.append, "site_tag": "ffff"})


@contextlib.asynccontextmanager
async def led(x: Bench, key: Key, events: list[Any]) -> AsyncIterator[Any]:
    """A synced feed of the account."""
    parts = SessionParts(KIND, KIND.contract, x.endpoints, Terms(6_000, 2_000, True), _hooks(events))
    await parts.open([(item.index, item.symbol) for item in x.instruments], 5)
    feed = parts.leader_feed(LeaderTerms(1, key, 5.0, 10.0))
    await feed.start(timeout_s=10)
    try:
        yield feed
    finally:
        await feed.stop()
        await parts.rest.close()


async def until(done: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


def fills(events: list[Any]) -> list[LeaderFill]:
    return [event for event in events if isinstance(event, LeaderFill)]


async def test_fills_while_connected_are_live_and_others_back_filled() -> None:
    """Each execution once, in order; what happened while the line was cut is found and is no news."""
    async with exchange() as x:
        key, events = await x.key(), list[Any]()
        async with led(x, key, events) as feed:
            await x.rest.place(key, x.order(qty=10))
            await until(lambda: len(fills(events)) == 1)
            await x.tell("/disconnect", {"kind": "private"})
            await x.rest.place(key, x.order(qty=4, side=-1, reduce_only=True))
            await until(lambda: len(fills(events)) == 2 and feed.synced)
            await x.rest.place(key, x.order(qty=3))
            await until(lambda: len(fills(events)) == 3)
            assert [(f.side * f.qty, f.live) for f in fills(events)] == [(10, True), (-4, False), (3, True)]
            assert len({f.exec_id for f in fills(events)}) == 3
            synced = [event for event in events if isinstance(event, LeaderSync) and event.synced]
            assert [p.qty for p in synced[-1].positions if p.instrument == 0] == [6]
            positions = [event for event in events if isinstance(event, LeaderPosition)]
            await until(lambda: [e for e in events if isinstance(e, LeaderPosition)][-1].qty == 9)
            assert positions[0].leverage == 20 and positions[0].isolated


async def test_a_leaders_liquidation_is_a_reduction_at_once() -> None:
    """It comes over the stream under an id of its own, though the venue's list of executions leaves it out of that order."""
    async with exchange() as x:
        key, events = await x.key(balance="700"), list[Any]()
        await x.rest.set_leverage(key, x.instruments[0], 100, True)
        async with led(x, key, events) as feed:
            await x.rest.place(key, x.order(qty=500))
            await until(lambda: sum(f.qty for f in fills(events)) == 500)
            mark = x.host.engine.mark(0) * x.host.instruments[0].tick_e8 // 10**8
            await x.tell("/market", {"symbol": "BTCUSDT", "mark": str(mark * 97 // 100)})
            await until(lambda: sum(f.side * f.qty for f in fills(events)) == 0)
            forced = [f for f in fills(events) if f.cause]
            assert {f.cause for f in forced} == {"liquidation"} and all(f.live and f.exec_id >> 62 for f in forced)
            feed.request_sync("to see that nothing is told twice")
            await until(lambda: feed.stats.syncs == 2)
            await x.rest.place(key, x.order(qty=1))
            await until(lambda: fills(events)[-1].qty == 1)
            assert sum(f.side * f.qty for f in fills(events)) == 1
