"""One seed is one history: healthy ones end where the leader is, disturbed ones too, and the tape repeats them."""

from __future__ import annotations

import pytest

from copyd.sim import run as run_module
from copyd.sim.faults import CATALOGUE
from copyd.sim.run import Options, Result, run_seed


def clean(result: Result) -> None:
    assert not result.violations, f"seed {result.seed}: {result.violations[:3]}"


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_world_ends_in_agreement(seed: int) -> None:
    result = run_seed(seed, Options(strength=0))
    clean(result)
    assert result.steps > 50 and not result.crash_points


def test_faults_strike_and_are_known_to_the_catalogue() -> None:
    total: dict[str, int] = {}
    for seed in range(60):
        for name, n in run_seed(seed).faults.items():
            total[name] = total.get(name, 0) + n
    assert set(total) <= set(CATALOGUE)
    assert len(total) > 60 and sum(total.values()) > 60 * 15


def test_the_tape_repeats_the_history() -> None:
    first = run_seed(5)
    again = run_seed(5, keep=first.fired)
    assert [(name, n) for name, n in again.fired] == first.fired
    assert again.crash_points == first.crash_points and again.digest == first.digest


def test_less_on_the_tape_is_another_history() -> None:
    first = run_seed(5)
    kept = first.fired[::4]
    fewer = run_seed(5, keep=kept)
    assert set(fewer.fired) <= set(kept)


def test_a_crash_strikes_where_it_is_asked_for() -> None:
    result = run_seed(2, Options(strength=0, crashes=(40, 90)))
    clean(result)
    assert sum(result.crash_points.values()) == 2 and result.faults["P01"] == 2


def test_only_named_faults_exist() -> None:
    counted: dict[str, int] = {}
    for seed in range(30):
        result = run_seed(seed, Options(faults=("O01", "L01/follower"), strength=400))
        counted |= result.faults
        assert all(name in ("O01", "L01/follower") for name, _ in result.fired)
    assert counted["O01"] and counted["L01"]


def test_the_trace_tells_what_happened() -> None:
    lines: list[str] = []
    run_seed(1, trace=lines.append)
    text = "\n".join(lines)
    for word in ("leader", "venue", "daemon", "core", "from here on nothing breaks"):
        assert word in text


def test_a_trace_changes_nothing() -> None:
    assert run_seed(4, trace=lambda line: None).digest == run_seed(4).digest


def test_a_world_without_end_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "STEPS_MAX", 20)
    assert [violation.invariant for violation in run_seed(0).violations] == ["L6"]
