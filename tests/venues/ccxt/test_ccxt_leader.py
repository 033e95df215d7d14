"""A leader behind ccxt: each execution once, with its order, whatever his account's polls meet (semantics 9-12)."""

from __future__ import annotations

import os
import signal

from copyd.venues.common.facts import LeaderSync
from tests.venues.ccxt.conftest import CcxtWorld
from tests.venues.common.conftest import until
from tests.venues.common.test_leader import (
    Leader,
    leader,
    test_a_restart_goes_on_where_the_journal_stands,
    test_every_execution_is_told_once_with_its_order,
)

__all__ = ["leader", "test_a_restart_goes_on_where_the_journal_stands", "test_every_execution_is_told_once_with_its_order"]


async def test_what_was_traded_while_the_process_was_dead_is_found_once(world: CcxtWorld, leader: Leader) -> None:
    """ccxt's process is killed and started anew: nothing is lost, nothing comes twice, and the adapter goes on by itself."""
    await leader.trade(4)
    await until(lambda: leader.position == 4 * world.unit())
    process = world.parts.rest.process
    before = process.starts
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: process.starts > before and process.up, 20)
    await until(lambda: leader.feed.synced, 20)
    await leader.trade(-1)
    await until(lambda: leader.position == 3 * world.unit(), 20)
    ids = [fill.exec_id for fill in leader.fills]
    assert len(set(ids)) == len(ids)
    assert any(isinstance(event, LeaderSync) and event.synced for event in world.leader_events)
