"""Corners where a rule is easily lost: several leaders on one account, a leader never seen before, very large plans."""

from __future__ import annotations

import random
from array import array

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copyd.core import engine as e
from copyd.core.rows import DecisionRow, OrderState, Part, Reason, ReportKind
from tests.scenarios.language import E8, ONE, Runner, World


def set_up(*lines: str) -> World:
    """A started world."""
    runner = Runner()
    for line in lines:
        runner.act(line.split())
    runner.world.start()
    return runner.world


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_several_leaders_on_one_account_never_close_each_other(seed: int) -> None:
    """Semantics 22 and 28: three legs net on one one-way account; the venue refuses a reduce-only order that would not reduce."""
    rng = random.Random(seed)
    world = set_up(
        "instrument BTCUSDT", "leader L equity 800000", "leader M equity 800000", "leader N equity 800000",
        "follower F1 allocation 100000 account A max_position_bps 0 leverage_max 100 allow_netting true",
        "follower F2 allocation 130000 copies M account A max_position_bps 0 leverage_max 100 allow_netting true",
        "follower F3 allocation 90000 copies N account A max_position_bps 0 leverage_max 100 allow_netting true",
    )
    instrument = world.first
    instrument.by_hand = True
    net = 0
    leaders = [0, 0, 0]
    for exec_id in range(1, 26):
        world.now += 1_000_000_000
        world.quote(instrument, 639_999, 640_001)
        which = rng.randrange(3)
        signed = rng.choice([-leaders[which] or 5, rng.randint(-300, 300) or 1])
        leaders[which] += signed
        world.step(e.LeaderEquity(which, 800_000 * E8, world.now))
        out = world.step(e.LeaderFill(which, 0, 0, exec_id, exec_id, 1 if signed > 0 else -1, abs(signed), 640_000, abs(signed),
                                      True, False, "trade", world.now, world.now, b""))
        assert out is not None
        queue = list(array("I", out.orders))
        while queue:
            slot = queue.pop(0)
            order = world.order(slot)
            assert order.leg == world.legs().index(next(leg for leg in world.legs() if leg.plan == which)), "his legs only"
            if order.reduce_only:
                assert net * order.side < 0 and abs(net) >= order.order_qty, "in the order sent, every reduce-only order reduces"
            net += order.side * order.order_qty
            world.report(slot, ReportKind.REPLY, OrderState.FILLED, cum_qty=order.order_qty,
                         cost_e8=order.order_qty * 640_000 * 10_000)
            assert world.last is not None
            queue += array("I", world.last.orders)
        for leg in world.legs():
            assert abs(leg.attributed * ONE - leg.target) < ONE
        assert net == sum(leg.attributed for leg in world.legs())


def test_a_new_instrument_of_an_unsynced_leader_opens_nothing() -> None:
    """Semantics 11: out of sync means all of him, also where he has never traded before."""
    world = set_up("instrument BTCUSDT", "leader L equity 800000", "follower F1 allocation 100000 hedge")
    engine = world.engine
    before = engine.columns.count(e.POSITIONS)
    world.step(e.LeaderSync(0, False, [], "lost"))
    world.quote(world.first, 639_999, 640_001)
    out = world.step(e.LeaderFill(0, 0, 1, 1, 1, 1, 400, 640_000, 400, True, False, "trade", world.now, world.now, b""))
    assert out is not None
    rows = DecisionRow.unpack_all(out.decisions)
    assert [(row.open, row.reason) for row in rows] == [(Part.FORGONE, Reason.LEADER_UNSYNCED)], before


def test_unsynced_from_the_start_without_a_book() -> None:
    """Semantics 11, 36: after a restart nobody is in sync until told; a book made then is not either, restored or not."""
    for restored in (False, True):
        engine = e.Engine(4)
        world = World(engine=engine)
        runner = Runner()
        runner.world = world
        for line in ("instrument BTCUSDT", "leader L equity 800000", "follower F1 allocation 100000"):
            runner.act(line.split())
        world.restart()
        world.configure()
        world.restart()
        if restored:
            world.engine = e.Engine.restore([bytes(part) for part in world.engine.checkpoint()])
        world.step(e.Command("import_plans", {"plans": world.specs["F1"]}))
        world.account("F1")
        world.step(e.LeaderEquity(0, 800_000 * E8, world.now))
        world.quote(world.first, 639_999, 640_001)
        out = world.step(e.LeaderFill(0, 0, 0, 1, 1, 1, 400, 640_000, 400, True, False, "trade", world.now, world.now, b""))
        assert out is not None
        rows = DecisionRow.unpack_all(out.decisions)
        assert [(row.open, row.reason) for row in rows] == [(Part.FORGONE, Reason.LEADER_UNSYNCED)]


def test_a_very_large_plan_is_not_refused_by_arithmetic() -> None:
    """Semantics 42: 700 million at 150x is more than an int64 of 1e-8 holds; the cap must still be a cap, not a refusal."""
    world = set_up(
        "instrument BTCUSDT", "leader L equity 5600000000",
        "follower F1 allocation 700000000 leverage 100 leverage_max 150 balance 1000000000 max_position_bps 1000000",
    )
    world.quote(world.first, 639_999, 640_001)
    out = world.step(e.LeaderFill(0, 0, 0, 1, 1, 1, 400, 640_000, 400, True, False, "trade", world.now, world.now, b""))
    assert out is not None
    assert [(row.open, row.open_lots) for row in DecisionRow.unpack_all(out.decisions)] == [(Part.ORDER, 50)]
