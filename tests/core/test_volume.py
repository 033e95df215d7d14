"""A leader's real volume counts for thirty days; the window moves, a restart does not empty it (semantics 18)."""

from __future__ import annotations

from copyd.core import engine as e
from copyd.core.engine import LEADERS
from copyd.core.rows import LeaderRow
from tests.scenarios.language import Runner

DAY = 86_400 * 10**9


def eligible(runner: Runner) -> bool:
    return bool(LeaderRow.unpack(runner.world.engine.columns.get(LEADERS, 0)).eligible)


def test_what_he_traded_counts_for_thirty_days() -> None:
    runner = Runner()
    for line in ("instrument BTCUSDT", "leader L equity 800000", "follower F1 allocation 100000", "leader declares volume 60000",
                 "leader buy 0.500 @ 64000"):
        runner.act(line.split())
    world = runner.world
    assert not eligible(runner), "32 000 of 60 000"
    for day in range(1, 31):
        world.now += DAY
        world.step(e.Marks([(0, 640_000, world.now)]))
        if day == 10:
            runner.act(["leader", "sell", "0.500", "@", "64000"])
        assert eligible(runner) is (10 <= day < 30), f"day {day}: 64 000 while both count"
        if day == 20:
            world.engine = e.Engine.restore([bytes(part) for part in world.engine.checkpoint()])


def test_orders_of_our_own_making_are_no_volume() -> None:
    runner = Runner()
    for line in ("instrument BTCUSDT", "leader L equity 800000", "follower F1 allocation 100000", "leader declares volume 60000",
                 "leader buy 1.000 @ 64000 own"):
        runner.act(line.split())
    assert not eligible(runner)
