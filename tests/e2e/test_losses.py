"""Loss limits on the real daemon: they act on marks alone, survive a kill, end by name; a wrong mark reaches none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from copyd.core.engine import PLANS
from copyd.core.rows import PlanRow
from copyd.decimals import money_e8
from copyd.inspect.rebuild import fold
from copyd.journal import Reader, kind_name
from tests.e2e.harness import Stage, proportional, wait_for


def move(s: Stage, bps: int) -> None:
    """The market and its mark move, and stay there."""
    s.venue.tell("/market", {"symbol": "BTCUSDT", "move_bps": bps})
    time.sleep(0.3)
    s.venue.tell("/market", {"symbol": "BTCUSDT", "mark_bps": bps})


def losses(s: Stage) -> dict[str, dict[str, Any]]:
    return {row["follower"]: row for row in s.client.losses(10)["plans"]}


def stopped(s: Stage, name: str) -> str:
    return str(losses(s)[name]["stopped_by"])


def test_a_limit_acts_between_trades_survives_a_kill_and_ends_by_name(stage: Callable[..., Stage]) -> None:
    """Nobody trades when it is reached: the first plan closes itself by the exchange's own books, the second stays."""
    s = stage(2)
    # One lot-share of the leader's 1.000 is worth a fifth of the allocation at entry: 5 % down is 1 % of the allocation.
    s.start([
        s.plan(0, total_loss_bps=50, daily_loss_bps=0, leader_drawdown_bps=0),
        s.plan(1, total_loss_bps=2_000, daily_loss_bps=0, leader_drawdown_bps=0),
    ])
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    assert not any(row["stopped_by"] for row in losses(s).values())
    assert all(0 < row["liquidation_bps"] < 10_000 for row in losses(s).values())
    move(s, -150)
    s.holds({s.names[0]: 0, s.names[1]: proportional(1000)}, seconds=20)
    wait_for(lambda: "loss_stop" in s.daemon.text(), 5, s.daemon.tail)
    assert stopped(s, s.names[0]) == "total_loss" and stopped(s, s.names[1]) == ""
    shown = s.ctl("losses", "--count", "5")
    assert shown.returncode == 0 and orjson.loads(shown.stdout)["stopped"] == 1
    assert b'copyd_loss_stops_total{reason="total_loss"} 1.0' in s.http("/metrics")[1]

    closing = s.venue.orders(s.names[0])[-1]["clientOrderId"]
    why = s.copyd("explain", closing, "--journal", s.journal)
    assert why.returncode == 0 and "total_loss: lost" in why.stdout, why.stdout + why.stderr

    s.leader.buy("0.500")
    s.holds({s.names[0]: 0, s.names[1]: proportional(1000, 1500)}, seconds=10)

    s.daemon.kill()
    s.launch()
    s.wait_ready()
    assert stopped(s, s.names[0]) == "total_loss"
    s.leader.buy("0.500")
    s.holds({s.names[0]: 0, s.names[1]: proportional(1000, 1500, 2000)}, seconds=10)
    assert s.ctl("resume", "--leader", "lead").returncode == 0
    assert stopped(s, s.names[0]) == "total_loss", "resuming the leader resumes nobody"
    assert s.ctl("resume", "--plan", s.names[0]).returncode == 0
    assert stopped(s, s.names[0]) == ""

    s.leader.flat()
    s.holds(0, seconds=10)
    s.quiet()
    s.leader.buy("1.000")
    wait_for(lambda: all(lots > 0 for lots in s.lots().values()), 10, s.daemon.tail)
    s.leader.flat()
    s.holds(0, seconds=10)
    s.stop()
    s.verified()


def test_a_wrong_mark_stops_nobody(stage: Callable[..., Stage]) -> None:
    """Half as much again, and the book says otherwise: not believed, said, and reductions ask no mark."""
    s = stage(1)
    s.start([s.plan(0, leverage=1, total_loss_bps=50, daily_loss_bps=50, leader_drawdown_bps=0)])
    s.leader.sell("1.000")
    s.holds(-proportional(1000))
    s.quiet()

    def told() -> bool:
        s.venue.tell("/market", {"symbol": "BTCUSDT", "mark": "95000"})  # the makers put it right with their next quote
        return "mark_doubted" in s.daemon.text()

    wait_for(told, 20, s.daemon.tail)
    assert stopped(s, s.names[0]) == ""
    top = s.venue.tell("/market", {"symbol": "BTCUSDT"})
    s.venue.tell("/market", {"symbol": "BTCUSDT", "mark": top["bid"]})
    wait_for(lambda: s.venue.tell("/market", {"symbol": "BTCUSDT"})["ask"] != "0.00", 10)
    s.leader.buy("0.500")
    s.holds(-(proportional(1000) - proportional(1000) // 2), seconds=10)
    s.leader.flat()
    s.holds(0, seconds=10)
    s.stop()
    s.verified()


def test_funding_is_part_of_what_a_plan_has_earned(stage: Callable[..., Stage]) -> None:
    """Longs pay: each plan's funding is what its account paid, by the exchange's books, to the last unit (semantics 37)."""
    s = stage(2)
    s.start([s.plan(i, total_loss_bps=0, daily_loss_bps=0, leader_drawdown_bps=0) for i in range(2)])
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    s.venue.tell("/market", {"symbol": "BTCUSDT", "funding_ppm": 10_000})
    rows = [row for row in s.venue.ask("/truth/incomes") if row["kind"] == "FUNDING_FEE"]
    paid = {name: sum(money_e8(row["amount"].lstrip("-")) for row in rows if row["account"] == name) for name in s.names}
    assert all(amount > 0 for amount in paid.values()), rows
    s.leader.flat()
    s.holds(0)
    s.stop()
    s.verified()
    with Reader(s.folder / "journal") as reader:
        engine = fold(reader)
    plans = {name: PlanRow.unpack(engine.columns.get(PLANS, engine.plan_index(name))) for name in s.names}
    assert {name: -plan.funding_e8 for name, plan in plans.items()} == paid


def test_what_a_leader_took_out_while_nobody_listened_is_no_drawdown(stage: Callable[..., Stage]) -> None:
    """Half of it, while the daemon was down: read from the history before his equity is heard (semantics 18)."""
    s = stage(1)
    s.start([s.plan(0, total_loss_bps=0, daily_loss_bps=0, leader_drawdown_bps=1_000)])
    s.leader.buy("0.200")
    wait_for(lambda: s.lots()[s.names[0]] > 0, 10, s.daemon.tail)
    s.quiet()
    s.daemon.kill()
    s.venue.tell("/deposit", {"account": s.leader.account["name"], "amount": "-50000"})
    s.launch()
    s.wait_ready()
    time.sleep(3)  # two readings of his equity and more
    assert stopped(s, s.names[0]) == "" and s.lots()[s.names[0]] > 0
    assert losses(s)[s.names[0]]["leader_bps"] < 1_000
    s.venue.tell("/deposit", {"account": s.leader.account["name"], "amount": "-20000"})  # and while it listens
    time.sleep(3)
    assert stopped(s, s.names[0]) == "" and s.lots()[s.names[0]] > 0
    s.leader.flat()
    s.holds(0)
    s.stop()
    s.verified()
    with Reader(s.journal) as reader:
        flows = [record for record in reader.iterate() if kind_name(record.kind) == "leader_flow"]
    assert len(flows) == 2
