"""A wall clock put back holds nobody in: back-offs and order counts set before it do not wait for it to come round again."""

from __future__ import annotations

import random

from copyd._fast.columns import ReportBatch
from copyd.core.rows import AccountRow, LegRow, Part, ReportKind
from tests.core.worlds import SECOND, World


def holding_world() -> tuple[World, int]:
    """A world in which some leg holds lots after a filled opening; returns it and that leg."""
    for seed in range(200):
        world = World(random.Random(seed))
        world.quotes()
        world.run_kernel_fill(world.leader_fill(0, 50))
        for slot in range(world.columns.count(7)):
            batch = ReportBatch()
            batch.append(ReportKind.REPLY, 4, world.columns.get(7, slot)[:16], cum_qty=1 << 40)
            world.kernel.apply_reports(batch, world.now, world.seq)
            leg = int.from_bytes(world.columns.get(7, slot)[120:124], "little")
            if LegRow.unpack(world.columns.get(6, leg)).attributed and world.leader_row().qty > 0:
                return world, leg
    raise AssertionError("no world holds anything")


def test_a_reduction_that_waits_is_due_after_the_clock_is_put_back() -> None:
    """The back-off of a refused reduction ends at the latest ``retry_max`` from now, whatever the clock did (semantics 17)."""
    world, leg = holding_world()
    world.run_kernel_fill(world.leader_fill(0, -world.leader_row().qty))
    slot = world.columns.count(7) - 1
    batch = ReportBatch()
    for at in range(slot + 1):
        batch.append(ReportKind.REJECT, 8, world.columns.get(7, at)[:16], code=-1008)
    world.kernel.apply_reports(batch, world.now, world.seq)
    assert LegRow.unpack(world.columns.get(6, leg)).retry_ts > world.now
    world.now -= 3600 * SECOND
    world.seq += 1
    assert world.kernel.timers_due(world.now)
    world.kernel.sweep(world.sweep_cause(), world.now, world.seq)
    assert world.kernel.counts()[1] >= 1


def test_an_order_count_from_the_future_blocks_nothing() -> None:
    """A full window that begins after now belongs to another clock."""
    world, _ = holding_world()
    for account in range(world.columns.count(4)):
        world.edit(4, account, AccountRow, ts_window=world.now + 3600 * SECOND, orders_in_window=60_000)
    world.order_id += 1
    world.run_kernel_fill(world.leader_fill(0, 50))
    from copyd.core.rows import DecisionRow, Reason

    rows = DecisionRow.unpack_all(world.kernel.decisions())
    assert all(row.reason != Reason.RATE_LIMITED for row in rows)
    assert any(row.open != Part.NONE for row in rows)
