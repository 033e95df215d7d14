"""A leader on every session venue: each execution once, in order, whatever the connection does (semantics 9-12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copyd.venues.common.facts import LeaderEquity, LeaderFill, LeaderSync
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Order
from tests.venues.common.conftest import BTC, World, until

pytestmark = pytest.mark.asyncio
_PREFIX = bytes.fromhex("11ead0")


class Leader:
    """One leader: his hands over REST, and what the feed said of him."""

    def __init__(self, world: World, made: dict[str, Any], feed: Any) -> None:
        self.world, self.made, self.feed = world, made, feed
        self.key: Key = world.key(made)
        self._next = 0

    async def trade(self, lots: int, *, reduce_only: bool = False) -> None:
        """A market order of so many engine lots (0.001), signed."""
        self._next += 1
        one = _PREFIX + self._next.to_bytes(5, "big") + hash(self.made["name"]).to_bytes(8, "big", signed=True)
        side = 1 if lots > 0 else -1
        order = Order(0, self.world.btc, one, abs(lots) * self.world.unit(), 0, side, 0, reduce_only)
        rest = self.world.parts.rest
        if hasattr(rest, "prepare"):
            await rest.prepare(self.key)
        answer = await rest.place(self.key, order)
        assert answer.verdict.outcome == 0, answer

    @property
    def fills(self) -> list[LeaderFill]:
        return [event for event in self.world.leader_events if isinstance(event, LeaderFill)]

    @property
    def position(self) -> int:
        return sum(fill.side * fill.qty for fill in self.fills)


@pytest.fixture
async def leader(world: World) -> AsyncIterator[Leader]:
    made = world.made(1)[0]
    feed = world.feed(made)
    await feed.start(timeout_s=10)
    try:
        yield Leader(world, made, feed)
    finally:
        await feed.stop()


async def test_every_execution_is_told_once_with_its_order(leader: Leader) -> None:
    """Opening, adding, reducing, flat: live fills that add up, each execution id once, sizes in our lots, prices in ticks."""
    unit = leader.world.unit()
    for lots in (5, 3, -6, -2):
        await leader.trade(lots)
    await until(lambda: leader.position == 0 and len(leader.fills) >= 4)
    ids = [fill.exec_id for fill in leader.fills]
    assert len(set(ids)) == len(ids) and all(0 < one < 1 << 63 for one in ids)
    by_order: dict[int, int] = {}
    for fill in leader.fills:
        by_order[fill.order_id] = by_order.get(fill.order_id, 0) + fill.side * fill.qty
    assert list(by_order.values()) == [5 * unit, 3 * unit, -6 * unit, -2 * unit]
    assert all(fill.live and fill.px > 0 and fill.instrument == BTC and fill.order_qty >= fill.qty for fill in leader.fills)
    assert any(isinstance(event, LeaderEquity) and event.equity_e8 > 0 for event in leader.world.leader_events)


async def test_what_was_traded_while_the_connection_was_down_is_found_and_is_not_live(leader: Leader) -> None:
    """Cut, trade, reconnect: the missing executions come by back-fill, each once, and the sync says so."""
    await leader.trade(4)
    await until(lambda: leader.position == 4 * leader.world.unit())
    [*lines] = leader.feed._sessions.lines(0)
    for line in lines:
        line.link.url = _held_back(line.link.url)
        line.session.abort("cut by the test")
    await until(lambda: not leader.feed.synced)
    await leader.trade(-1)
    await leader.trade(2)
    await until(lambda: leader.feed.synced and leader.position == 5 * leader.world.unit(), 20)
    ids = [fill.exec_id for fill in leader.fills]
    assert len(set(ids)) == len(ids)
    assert [fill.live for fill in leader.fills][:1] == [True] and not any(fill.live for fill in leader.fills[1:])


def _held_back(url: Any) -> Any:
    """No new connection for a while: long enough for two trades."""

    async def address() -> str:
        await asyncio.sleep(1.0)
        found: str = await url()
        return found

    return address


async def test_a_duplicate_or_a_late_event_changes_nothing(leader: Leader) -> None:
    """Events told twice, late or in another order: the same fills, each once (semantics 10)."""
    name = leader.made["name"]
    leader.world.faults({"action": "duplicate_event", "account": name, "count": 20})
    await leader.trade(3)
    await leader.trade(-1)
    await until(lambda: leader.position == 2 * leader.world.unit())
    leader.world.no_faults()
    leader.world.faults({"action": "delay_event", "account": name, "count": 3, "delay_ms": 300})
    await leader.trade(4)
    await until(lambda: leader.position == 6 * leader.world.unit())
    ids = [fill.exec_id for fill in leader.fills]
    assert len(set(ids)) == len(ids)


async def test_an_event_that_was_never_told_is_found(leader: Leader) -> None:
    """The venue drops what it should have pushed: the next look finds it, and it is copied as history."""
    await leader.trade(2)
    await until(lambda: leader.position == 2 * leader.world.unit())
    leader.world.faults({"action": "drop_event", "account": leader.made["name"], "count": 12})
    await leader.trade(3)
    leader.world.no_faults()
    await until(lambda: leader.position == 5 * leader.world.unit(), 25)
    ids = [fill.exec_id for fill in leader.fills]
    assert len(set(ids)) == len(ids)


async def test_a_restart_goes_on_where_the_journal_stands(world: World) -> None:
    """A second feed that is told the ids handed on before: what happened in between comes once, nothing comes again."""
    made = world.made(1)[0]
    first = world.feed(made)
    await first.start(timeout_s=10)
    hands = Leader(world, made, first)
    await hands.trade(6)
    await until(lambda: hands.position == 6 * world.unit())
    await first.stop()
    known = [fill.exec_id for fill in hands.fills]
    await hands.trade(-2)
    world.leader_events.clear()
    second = world.feed(made)
    await second.start({BTC: min(known) - 1}, 10, seen=[(BTC, one) for one in known], positions={(BTC, 0): 6 * world.unit()})
    try:
        await until(lambda: hands.position == -2 * world.unit())
        assert not set(known) & {fill.exec_id for fill in hands.fills}
        assert any(isinstance(event, LeaderSync) and event.synced for event in world.leader_events)
    finally:
        await second.stop()
