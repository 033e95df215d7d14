"""Followers' accounts against ours: their own hand, modes, distance from the leader, slow accounts, the way out."""

from __future__ import annotations

import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.e2e.harness import Process, Stage, Trader, proportional, wait_for

STREAM = ("ORDER_TRADE_UPDATE", "TRADE_LITE", "ACCOUNT_UPDATE")


def looked_at(s: Stage, **sync: Any) -> None:
    """Accounts are looked at all the time."""
    s.config["sync"] = {"compare_interval_s": 5, "weight_share_bps": 10_000, **sync}
    s.write_config()


def deaf(s: Stage, name: str) -> None:
    """Nothing that happens on this account is told."""
    s.venue.faults(*[{"action": "drop_event", "account": name, "event": event} for event in STREAM])


def test_a_trade_by_hand_that_no_event_told_is_found(stage: Callable[..., Stage]) -> None:
    """Semantics 29: two looks at rest that agree are believed; the leg shrinks with its target and follows the leader out."""
    s = stage(2)
    looked_at(s)
    s.start(s.plan(i) for i in range(2))
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    hand = Trader(s.venue, s.followers[0])
    deaf(s, s.names[0])
    hand.sell("0.004")
    wait_for(lambda: "position_mismatch" in s.daemon.text() and '"adopted":true' in s.daemon.text().replace(" ", ""), 25,
             s.daemon.tail)
    s.venue.no_faults()
    assert s.lots() == {s.names[0]: proportional(1000) - 4, s.names[1]: proportional(1000)}
    s.leader.buy("1.000")
    s.holds({s.names[0]: proportional(1000) - 4, s.names[1]: proportional(1000, 2000)})
    s.leader.flat()
    s.holds(0)
    s.stop()
    s.verified()


def test_a_position_mode_changed_behind_our_back(stage: Callable[..., Stage]) -> None:
    """Semantics 25: the plan becomes close-only with an alarm; the other follower is copied on; resumed by name it trades."""
    s = stage(2)
    s.start(s.plan(i) for i in range(2))
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.leader.flat()
    s.holds(0)
    s.quiet()
    set_hedge(s, 0)
    s.leader.buy("1.000")
    s.holds({s.names[0]: 0, s.names[1]: proportional(1000)})
    wait_for(lambda: "position_mode_changed" in s.daemon.text(), 10, s.daemon.tail)
    s.leader.flat()
    s.holds(0)
    s.quiet()
    assert s.ctl("resume", "--plan", s.names[0]).returncode == 0
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.leader.flat()
    s.holds(0)
    s.no_id_twice()
    s.stop()
    s.verified()


def set_hedge(s: Stage, index: int) -> None:
    """The follower's own click in the exchange's settings."""
    account = s.followers[index]
    import hashlib
    import hmac

    text = urllib.parse.urlencode({"dualSidePosition": "true", "timestamp": int(time.time() * 1000)})
    signature = hmac.new(account["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()
    urllib.request.urlopen(urllib.request.Request(
        f"{s.venue.at['rest']}/fapi/v1/positionSide/dual?{text}&signature={signature}", method="POST",
        headers={"X-MBX-APIKEY": account["api_key"]}), timeout=10).read()


def test_drift_shows_who_is_away_from_the_leader_and_catch_up_brings_them_back(stage: Callable[..., Stage]) -> None:
    """Forgone quantity is what the sync score shows; only an explicit catch-up restores it, through every rule (semantics 1)."""
    s = stage(2)
    looked_at(s, policy="catch_up", enter_bps=100, leave_bps=10, after_s=1, catch_up_interval_s=1)
    s.start(s.plan(i) for i in range(2))
    assert s.ctl("pause", "--plan", s.names[0]).returncode == 0
    s.leader.buy("1.000")
    s.holds({s.names[0]: 0, s.names[1]: proportional(1000)})
    worst = s.client.drift(5)["worst"][0]
    assert (worst["follower"], worst["holds"], worst["forgone"]) == (s.names[0], "0.000", "0.010")
    assert worst["bps"] > 100
    time.sleep(2.5)  # paused: the catch-up is refused like any opening, and the quantity stays forgone
    assert s.lots()[s.names[0]] == 0
    assert s.ctl("resume", "--plan", s.names[0]).returncode == 0
    s.holds(proportional(1000))
    after = s.client.drift(5)["worst"]
    assert all(row["bps"] < 10 for row in after), after
    body = s.http("/metrics")[1]
    assert b'copyd_sync_score_legs{le="0"}' in body
    shown = s.ctl("drift", "--count", "3")
    assert shown.returncode == 0 and orjson.loads(shown.stdout)["policy"] == "catch_up"
    s.leader.flat()
    s.holds(0)
    s.stop()
    s.verified()


def test_out_of_sync_can_stop_a_plan_from_opening(stage: Callable[..., Stage]) -> None:
    """Policy reduce_only: the plan only closes from then on; its reductions go on (semantics 17)."""
    s = stage(1)
    looked_at(s, policy="reduce_only", enter_bps=100, leave_bps=10, after_s=1)
    s.start([s.plan(0, max_position_bps=200)])
    s.leader.buy("1.000")  # cut to what max_position allows
    wait_for(lambda: s.client.drift(1)["worst"][0]["plan"] == "close_only", 15, s.daemon.tail)
    held = s.lots()[s.names[0]]
    assert 0 < held < proportional(1000)
    s.leader.buy("0.500")
    s.settled(1)
    assert s.lots()[s.names[0]] == held
    s.leader.flat()
    s.holds(0)


def test_one_slow_account_delays_nobody(stage: Callable[..., Stage]) -> None:
    """Bulkhead: an account whose every answer takes seconds is activated, copied and looked at without the others waiting."""
    s = stage(20)
    looked_at(s)
    slow = s.names[0]
    s.venue.faults({"action": "delay_reply", "account": slow, "delay_ms": 4_000})
    s.start((s.plan(i) for i in range(20)), ready=False)
    wait_for(lambda: s.status().get("legs_ready", 0) >= 19, 15, lambda: str(s.status()))
    time.sleep(0.3)  # until that is journaled
    wanted = {name: proportional(1000) for name in s.names[1:]}
    s.leader.buy("1.000")
    s.holds(wanted, seconds=3)
    s.venue.no_faults()
    s.leader.flat()
    s.holds(0, seconds=30)


@pytest.mark.parametrize("policy", ["hold", "flatten"])
def test_the_way_out_is_the_operators(stage: Callable[..., Stage], policy: str) -> None:
    """on_fatal: hold leaves positions as they are and a restart goes on; flatten closes them first and stops the plans."""
    s = stage(3)
    s.config["runtime"]["on_fatal"] = policy
    s.write_config()
    launch_failing(s)
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    s.daemon.signal(signal.SIGUSR2)
    code, text = s.ends()
    assert code == 69, text[-2000:]
    if policy == "hold":
        s.holds_truth(proportional(1000))
        s.start()
        s.leader.flat()
        s.holds(0)
    else:
        s.holds_truth(0)
        s.start()
        s.leader.buy("1.000")
        s.settled(1)
        s.holds_truth(0)
    s.no_id_twice()
    s.stop()
    s.verified()


def test_flatten_never_acts_on_a_broken_rule(stage: Callable[..., Stage]) -> None:
    """Where the engine's state cannot be trusted nothing more is sent, whatever on_fatal says."""
    s = stage(1)
    s.config["runtime"]["on_fatal"] = "flatten"
    s.write_config()
    launch_failing(s)
    s.leader.buy("1.000")
    s.holds(proportional(1000))
    s.quiet()
    s.daemon.signal(signal.SIGUSR1)
    code, text = s.ends()
    assert code == 70, text[-2000:]
    s.holds_truth(proportional(1000))


def launch_failing(s: Stage) -> None:
    """As ``Stage.start``, with the daemon that gives up on a signal."""
    log = s.folder / f"daemon-{len(s.processes)}.log"
    s.daemon = Process(["-m", "tests.e2e.failing_daemon", "run", "-c", str(s.path)], log)
    s.processes.append(s.daemon)
    s.wait_up()
    done = s.ctl("import", s.write_plans([s.plan(i) for i in range(len(s.names))]))
    assert done.returncode == 0, done.stderr
    s.wait_ready()


def test_a_second_daemon_does_nothing_at_all(stage: Callable[..., Stage]) -> None:
    """The journal's lock comes before anything else: exit 75, and the first daemon trades on."""
    s = stage(1)
    first = s.start([s.plan(0)])
    second = Process(["-m", "copyd.cli", "run", "-c", str(s.path)], s.folder / "second.log")
    s.processes.append(second)
    assert second.wait(15) == 75, second.text()
    assert first.running
    s.leader.buy("1.000")
    s.holds(proportional(1000))
