"""The runaway breaker (more orders a minute than followers can need) stops openings and nothing else (semantics 17, 18)."""

from __future__ import annotations

from pathlib import Path

from copyd.core import engine as core
from copyd.core.rows import Kind, NamedOrder, Params, Reason
from tests.scenarios.language import Runner

SETUP = """
instrument BTCUSDT
leader L equity 800000
follower F1 allocation 100000
leader buy 0.400 @ 64000
F1 order buy 0.050 limit 64320
F1 filled 0.050
"""


def test_it_trips_above_the_bound_and_lets_exits_pass(monkeypatch) -> None:
    monkeypatch.setattr(core, "RUNAWAY_LEAST", 3)
    runner = Runner()
    runner.world.params = Params(key=bytes(range(16)), runaway_per_plan=3)
    runner.run(SETUP + """
leader buy 0.400 @ 64000
F1 order buy 0.050 limit 64320
F1 filled 0.050
leader buy 0.400 @ 64000
F1 order buy 0.050 limit 64320
F1 filled 0.050
leader sell 0.400 @ 64000
F1 order sell 0.050 market reduce_only
F1 alert runaway
F1 filled 0.050
leader buy 0.400 @ 64000
F1 forgone kill_switch 0.050
leader sell 1.200 @ 64000
F1 order sell 0.100 market reduce_only
""")
    out = runner.world.last
    assert out is not None and [row.kind for row in NamedOrder.unpack_all(out.named)] == [Kind.REDUCTION]
    assert Reason.KILL_SWITCH == 1


def test_another_minute_counts_anew() -> None:
    runner = Runner()
    runner.world.params = Params(key=bytes(range(16)), runaway_per_plan=1)
    runner.run(SETUP)
    assert runner.world.engine.names.minute_orders == 1
    runner.run("wait 60\nleader equity 800000\nleader sell 0.400 @ 64000\nF1 order sell 0.050 market reduce_only\n")
    assert runner.world.engine.names.minute_orders == 1


def test_the_demo_and_every_table_stay_below_it() -> None:
    """The default is far from what any table needs: none of them trips it."""
    for path in sorted(Path(__file__).parent.parent.glob("scenarios/*.txt")):
        world = Runner().run(path.read_text(), path.name)
        assert world.engine.names.minute_orders < core.RUNAWAY_LEAST
