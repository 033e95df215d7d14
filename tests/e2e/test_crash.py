"""SIGKILL at bad moments: nothing twice, nothing lost, unfinished orders settled by asking (semantics 32-36)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from copyd.core.engine import Announced
from copyd.journal import Journal, Reader
from copyd.kinds import tag_of
from tests.e2e.harness import Q32, ROOT, Stage, proportional, wait_for

NINE = proportional(1000)


def crash(s: Stage) -> None:
    s.daemon.kill()
    assert s.daemon.wait(5) == -9


def laws(s: Stage, verify: bool = False) -> None:
    """No id twice, every accepted order named in the journal, the journal verifies."""
    s.no_id_twice()
    s.stop()
    s.all_named()
    if verify:
        s.verified()


def place(action: str, account: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "account": account, "method": "order.place", "count": 1, **more}


FATES = {
    "drop_request": {},                  # dead, silence
    "drop_reply": {},                    # live, silence
    "error_live": {},                    # live, 503
    "error_dead": {},                    # dead, 503
    "delay": {"delay_ms": 400},          # arrives while the daemon is dead, inside its window
    "delay_reply": {"delay_ms": 3000},   # live, the answer goes to nobody
    "disconnect": {},                    # dead, the connection cut (with every order behind it)
    "stall": {"delay_ms": 500},
}


def test_killed_in_mid_fan_out_every_kind_of_doubt_is_settled_by_asking(stage: Callable[..., Stage]) -> None:
    """Live and dead orders alike end at the target after the restart: the living are found, the dead planned once more."""
    s = stage(3 * len(FATES) + 6)
    s.start(s.plan(i) for i in range(len(s.names)))
    rules = [
        place(action, s.names[3 * n + copy], **more) for n, (action, more) in enumerate(FATES.items()) for copy in range(3)
    ]
    s.venue.faults(*rules)
    s.leader.buy("1.000")
    wait_for(lambda: s.venue.fault_hits() >= len(rules) - 6, 3, "the faults do not meet the orders")
    crash(s)
    assert sum(lots != NINE for lots in s.lots().values()) > 5, "the kill came too late to matter"
    s.venue.no_faults()
    s.start(ready=False)
    doubted = s.status()
    s.wait_ready()
    s.holds(NINE)
    assert "orders in doubt" in " ".join(doubted["reasons"]), doubted
    s.quiet()
    s.leader.sell("1.000")
    s.holds(0)
    laws(s, verify=True)


def test_killed_in_mid_reduction_the_reductions_are_continued(stage: Callable[..., Stage]) -> None:
    """A reduction never expires: whatever became of its first order, the leg is at its target in the end (semantics 17, 36)."""
    s = stage(2 * len(FATES))
    s.start(s.plan(i) for i in range(len(s.names)))
    s.leader.buy("1.000")
    s.holds(NINE)
    s.settled(1)
    rules = [place(action, s.names[2 * n + copy], **more) for n, (action, more) in enumerate(FATES.items()) for copy in (0, 1)]
    s.venue.faults(*rules)
    s.leader.sell("0.600")
    wait_for(lambda: s.venue.fault_hits() >= len(rules) - 4, 3, "the faults do not meet the orders")
    crash(s)
    s.venue.no_faults()
    s.start()
    s.holds(proportional(1000, 400))
    s.leader.sell("0.400")
    s.holds(0)
    laws(s)


def test_what_the_leader_does_while_the_daemon_is_down(stage: Callable[..., Stage]) -> None:
    """Openings found by back-fill are observed, reductions found by back-fill are applied (semantics 12)."""
    s = stage(4)
    s.start(s.plan(i) for i in range(4))
    s.leader.buy("1.000")
    s.holds(NINE)
    s.leader.sell("1.000", "ETHUSDT")
    s.settled(2)
    short = s.lots("ETHUSDT")
    assert all(short.values()), short
    crash(s)
    s.leader.buy("0.600")
    s.leader.sell("0.400")
    s.leader.buy("1.000", "ETHUSDT")
    s.start()
    # T stays through the observed opening, then goes with the leader: 1600 -> 1200.
    target = Q32 * 1000 // 100_000 * 1000 * 1200 // 1600
    s.holds(NINE - (NINE * Q32 - target) // Q32)
    s.holds(0, "ETHUSDT")
    s.leader.flat()
    s.holds(0)
    # Whichever of the two binds first names it: found by back-fill, and found while not yet in sync.
    forgone = s.status()["forgone"]
    assert forgone.get("observed", 0) + forgone.get("leader_unsynced", 0) >= 4, forgone
    laws(s)


def test_an_opening_in_doubt_and_a_leader_who_leaves_meanwhile(stage: Callable[..., Stage]) -> None:
    """The leader closes while the daemon is dead: orders that lived are closed again, the dead are not planned once more."""
    s = stage(6)
    s.start(s.plan(i) for i in range(6))
    s.venue.faults(*[
        place(action, s.names[n], **FATES[action])
        for n, action in enumerate(("drop_request", "drop_reply", "delay", "error_live", "error_dead"))
    ])
    s.leader.buy("1.000")
    wait_for(lambda: s.venue.fault_hits() >= 5, 3, "the faults do not meet the orders")
    crash(s)
    s.leader.sell("1.000")
    s.venue.no_faults()
    s.start()
    s.holds(0)
    s.quiet()
    opened = [order for order in s.follower_orders() if order["side"] == "BUY" and order["executedQty"] != "0.000"]
    assert len({order["account"] for order in opened}) == len(opened)
    laws(s, verify=True)


@pytest.mark.parametrize(("delay_ms", "announce_legs"), [(3, 256), (2, 1), (4, 1)])
def test_killed_at_any_moment_of_a_fan_out(stage: Callable[..., Stage], delay_ms: int, announce_legs: int) -> None:
    """Wherever in the fan-out the kill falls, announced or not: every leg at the target its decision gave, or the fill
    observed for all."""
    s = stage(100)
    s.config["runtime"]["announce_legs"] = announce_legs
    s.write_config()
    s.start(s.plan(i) for i in range(100))
    s.leader.buy("1.000")
    time.sleep(delay_ms / 1000)
    crash(s)
    s.start()
    s.quiet()
    time.sleep(0.2)
    s.quiet()
    lots = set(s.lots().values())
    assert len(lots) == 1, lots
    s.leader.sell("1.000")
    s.holds(0)
    laws(s)


def cut_behind_announcement(s: Stage) -> None:
    """Leave the journal that a kill between the last announcement and what was decided by it would have left."""
    with Reader(s.journal) as reader:
        records = list(reader.iterate())
    last = max(record.seq for record in records if record.kind == tag_of(Announced))
    assert last < records[-1].seq
    shutil.move(s.journal, s.folder / "whole")
    journal = Journal.open(s.journal, site=7, map_size=256 << 20)
    for record in records[:last]:
        journal.append(record.kind, record.ts_ns, [record.payload])
    journal.flush()
    journal.close()


def test_killed_before_what_left_was_written_down(stage: Callable[..., Stage]) -> None:
    """Orders had left and filled behind their announcement: the next start decides the same, finds them, sends nothing."""
    s = stage(20)
    s.config["runtime"]["announce_legs"] = 1
    s.write_config()
    s.start(s.plan(i) for i in range(20))
    s.leader.buy("0.500")
    s.settled(1)
    s.leader.buy("0.500")
    s.holds(NINE)
    s.quiet()
    sent = len(s.follower_orders())
    crash(s)
    cut_behind_announcement(s)
    s.start()
    assert '"taken up"' in s.daemon.text()
    s.quiet()
    s.holds_truth(NINE)
    assert len(s.follower_orders()) == sent
    s.leader.sell("1.000")
    s.holds(0)
    laws(s, verify=True)


def test_killed_while_it_starts(stage: Callable[..., Stage]) -> None:
    """A start that was cut off leaves a journal the next start takes up."""
    s = stage(5)
    s.start(s.plan(i) for i in range(5))
    s.leader.buy("1.000")
    s.holds(NINE)
    s.quiet()
    crash(s)
    for delay_s in (0.3, 0.45, 0.6):
        s.launch()
        time.sleep(delay_s)
        crash(s)
    s.leader.sell("0.500")
    s.start()
    s.holds(proportional(1000, 500))
    s.leader.sell("0.500")
    s.holds(0)
    laws(s)


@pytest.mark.parametrize("delay_s", [0.01])
def test_killed_in_mid_import_all_plans_are_there_or_none(stage: Callable[..., Stage], delay_s: float) -> None:
    """An import is one record: after the kill every plan stands and copies, or the operator imports again."""
    s = stage(120)
    s.start(ready=False)
    plans = s.write_plans(s.plan(i) for i in range(120))
    load = subprocess.Popen(
        [sys.executable, "-m", "copyd.cli", "ctl", "import", str(plans), "--socket", str(s.socket)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: "followers/import" in s.daemon.text(), 10, "the import does not arrive")
    time.sleep(delay_s)
    crash(s)
    load.wait(10)
    s.start(ready=False)
    there = s.status()["followers"]
    assert there in (0, 120)
    if not there:
        assert s.ctl("import", plans).returncode == 0
    else:
        assert load.returncode in (0, 1, 69)
        again = s.ctl("import", plans)
        assert again.returncode == 1 and "already" in again.stderr, again.stderr
    s.wait_ready(30)
    s.leader.buy("1.000")
    s.holds(NINE)
    s.leader.sell("1.000")
    s.holds(0)
    laws(s)


def test_a_checkpoint_and_a_kill(stage: Callable[..., Stage]) -> None:
    """The state after a restart is the latest checkpoint and every record behind it; the oldest orders are forgotten."""
    s = stage(5)
    s.config["journal"]["checkpoint_every_records"] = 50
    s.write_config()
    s.start(s.plan(i) for i in range(5))
    for _ in range(3):
        s.leader.buy("1.000")
        s.settled(1)
        s.leader.sell("0.400")
        s.settled(1)
        s.leader.sell("0.600")
        s.settled(1)
    s.leader.buy("1.000")
    s.settled(1)
    held = s.lots()
    assert set(held.values()) <= {9, 10}
    crash(s)
    s.start()
    assert s.lots() == held
    s.leader.sell("1.000")
    s.holds(0)
    laws(s, verify=True)
