"""What operators do through `copyd ctl`, and what becomes of real orders: openings stop, reductions pass."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Stage


def ok(s: Stage, *words: str) -> None:
    done = s.ctl(*words)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def s(venue, tmp_path_factory):  # type: ignore[no-untyped-def]
    """One daemon for the module: two plans; every test leaves everyone flat and following."""
    with Stage(tmp_path_factory.mktemp("control"), venue, 2) as one:
        one.start([one.plan(0), one.plan(1)])
        yield one
        one.no_id_twice()
        one.stop()
        one.all_named()
        one.verified()


@pytest.mark.parametrize(
    ("stop", "go", "reason"),
    [
        (("pause", "--leader", "lead"), ("resume", "--leader", "lead"), "plan_paused"),
        (("pause", "--plan", "{0}"), ("resume", "--plan", "{0}"), "plan_paused"),
        (("pause", "--instrument", "BTCUSDT"), ("resume", "--instrument", "BTCUSDT"), "kill_switch"),
        (("close-only", "--leader", "lead"), ("resume", "--leader", "lead"), "plan_close_only"),
        (("close-only", "--plan", "{0}"), ("resume", "--plan", "{0}"), "plan_close_only"),
        (("kill-switch", "on", "--reason", "drill"), ("kill-switch", "off", "--reason", "drill over"), "kill_switch"),
        (("kill-switch", "on", "--leader", "lead", "--reason", "drill"),
         ("kill-switch", "off", "--leader", "lead", "--reason", "over"), "kill_switch"),
        (("kill-switch", "on", "--plan", "{0}", "--reason", "drill"),
         ("kill-switch", "off", "--plan", "{0}", "--reason", "over"), "kill_switch"),
        (("kill-switch", "on", "--instrument", "BTCUSDT", "--reason", "drill"),
         ("kill-switch", "off", "--instrument", "BTCUSDT", "--reason", "over"), "kill_switch"),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, tuple) else v,
)
def test_a_stop_holds_openings_and_lets_reductions_pass(
    s: Stage, stop: tuple[str, ...], go: tuple[str, ...], reason: str
) -> None:
    """Semantics 17, 18: the opening is forgone under the stop's name, the leader's close is followed, then all goes on."""
    one, two = s.names
    stopped, free = ([one], [two]) if "--plan" in stop else ([one, two], [])
    s.leader.buy("1.000")
    s.settled(1)
    held = s.lots()
    assert set(held.values()) <= {9, 10}, held
    before = s.status()["forgone"]
    ok(s, *[word.format(one) for word in stop])
    s.leader.buy("1.000")
    s.settled(1)
    for name in stopped:
        assert s.venue.lots(name) == held[name]
    for name in free:
        assert s.venue.lots(name) > held[name]
    forgone = s.status()["forgone"]
    assert forgone.get(reason, 0) >= before.get(reason, 0) + len(stopped), forgone
    s.leader.sell("1.000")
    s.settled(1)
    for name in stopped:
        assert s.venue.lots(name) in (5, 6)
    s.leader.sell("1.000")
    s.holds(0)
    ok(s, *[word.format(one) for word in go])
    s.leader.buy("0.500")
    s.settled(1)
    assert set(s.lots().values()) <= {4, 5}
    s.leader.sell("0.500")
    s.holds(0)


@pytest.mark.parametrize("scope", [("--leader", "lead"), ("--plan", "{0}"), ("--instrument", "BTCUSDT"), ("--all",)])
def test_resume_does_not_release_a_kill_switch(s: Stage, scope: tuple[str, ...]) -> None:
    """Two stops, two releases: an operator who resumes after a pause does not undo another's kill switch."""
    where = [word.format(s.names[0]) for word in scope]
    ok(s, "kill-switch", "on", "--reason", "drill", *where)
    ok(s, "pause", *where)
    ok(s, "resume", *where)
    s.leader.buy("0.500")
    s.settled(1)
    assert s.lots()[s.names[0]] == 0
    s.leader.sell("0.500")
    s.holds(0)
    ok(s, "kill-switch", "off", "--reason", "over", *where)


def test_plan_change_and_stop_and_add(s: Stage) -> None:
    """Semantics 31: a changed limit holds from the next opening; a stopped plan closes with the leader and opens no more."""
    one, two = s.names
    s.leader.buy("1.000")
    s.settled(1)
    first = s.venue.lots(one)
    assert first == s.venue.lots(two) >= 9
    ok(s, "plan", "change", one, "max_notional_symbol=100")
    s.leader.buy("1.000")
    s.settled(1)
    assert s.venue.lots(two) > first and s.venue.lots(one) == first
    ok(s, "plan", "stop", two)
    held = s.venue.lots(two)
    s.leader.buy("1.000")
    s.settled(1)
    assert s.venue.lots(two) == held
    s.leader.flat()
    s.holds(0)
    refused = s.ctl("plan", "change", "nobody", "max_notional_symbol=100")
    assert refused.returncode == 1 and "nobody" in refused.stderr
