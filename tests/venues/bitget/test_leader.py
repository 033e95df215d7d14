"""A leader on this venue, heard through the feed that all session venues share."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from copyd.venues.bitget.contract import CONTRACT
from copyd.venues.common.facts import LeaderFill, LeaderPosition, LeaderSync
from copyd.venues.common.feed import LeaderFeed
from copyd.venues.common.sessions import paces_of
from tests.exchange.bitget_bench import exchange
from tests.venues.bitget.test_against_exchange import GENERATIONS, MODES, Side, side, until


def _feed(me: Side, heard: list[Any]) -> LeaderFeed:
    return LeaderFeed(
        leader=9, key=me.key, wire=me.wire, channels=lambda key: me.wire.channels(me.rest.endpoints, key),
        prepare=me.rest.prepare, reads=me.rest, instruments=me.instruments, contract=CONTRACT, clock=time.time_ns,
        venue_clock=me.rest.venue_clock, bans=me.rest.bans, paces=paces_of(CONTRACT), on_event=heard.append,
    )  # fmt: skip


@GENERATIONS
@MODES
async def test_a_leader_is_heard_once_in_order_and_live(unified: bool, hedge: bool) -> None:
    """Opening, adding, reducing and closing: each execution once, live, with its position side, adding up to what is held; no
    reading over again is needed for any of them."""
    async with exchange() as bench, side(bench, unified=unified, hedge=hedge) as me:
        heard: list[Any] = []
        feed = _feed(me, heard)
        await feed.start(timeout_s=20)
        try:
            syncs = len([fact for fact in heard if isinstance(fact, LeaderSync)])
            at = 2 if hedge else 0
            for direction, qty in ((-1, 10), (-1, 5), (1, 4), (1, 11)):
                await me.place(side=direction, qty=qty, position_side=at, reduce_only=direction > 0 and not hedge)
            await until(lambda: sum(f.qty for f in heard if isinstance(f, LeaderFill)) >= 30)
            await asyncio.sleep(0.3)
        finally:
            await feed.stop()
        fills = [fact for fact in heard if isinstance(fact, LeaderFill)]
        assert [(f.side, f.qty, f.position_side) for f in fills] == [(-1, 10, at), (-1, 5, at), (1, 4, at), (1, 11, at)]
        assert all(f.live and f.instrument == 3 and f.leader == 9 for f in fills)
        assert len({f.exec_id for f in fills}) == 4 and [f.exec_id for f in fills] == sorted(f.exec_id for f in fills)
        assert len([fact for fact in heard if isinstance(fact, LeaderSync)]) == syncs
        assert any(isinstance(fact, LeaderPosition) for fact in heard)


@GENERATIONS
@pytest.mark.parametrize("channel", ["orders", "fill", "order", "fast-fill"])
async def test_a_lost_push_is_found(unified: bool, channel: str) -> None:
    """One channel's events are lost: what it would have told is told by another, or read from the list."""
    async with exchange() as bench, side(bench, unified=unified, hedge=True) as me:
        heard: list[Any] = []
        feed = _feed(me, heard)
        await feed.start(timeout_s=20)
        try:
            await me.place(position_side=1)
            await until(lambda: sum(f.qty for f in heard if isinstance(f, LeaderFill)) == 10)
            await bench.tell("POST", "/faults", {"action": "drop_event", "account": "alice", "event": channel})
            await me.place(side=-1, position_side=1, qty=4)
            await until(lambda: sum(f.side * f.qty for f in heard if isinstance(f, LeaderFill)) == 6)
        finally:
            await feed.stop()
        fills = [fact for fact in heard if isinstance(fact, LeaderFill)]
        assert {(f.side, f.position_side) for f in fills} == {(1, 1), (-1, 1)}
        assert len({f.exec_id for f in fills}) == len(fills)
