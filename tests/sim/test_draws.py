"""Draws: each site is a stream of its own, and the faults that fired are a tape that repeats the history."""

from __future__ import annotations

import subprocess
import sys

from copyd.sim.draws import Draws


def test_a_site_does_not_hear_of_others() -> None:
    one, two = Draws(7), Draws(7)
    expected = [one.draw("a", 1000) for _ in range(40)]
    got = []
    for _ in range(40):
        got.append(two.draw("a", 1000))
        two.draw("b", 1000)
        two.fault("X01", 500_000)
    assert got == expected


def test_seeds_and_sites_differ() -> None:
    assert [Draws(1).draw("a", 1 << 32)] != [Draws(2).draw("a", 1 << 32)] != [Draws(2).draw("b", 1 << 32)]


def test_between_reaches_both_ends_and_any_width() -> None:
    draws = Draws(3)
    seen = {draws.between("x", -2, 2) for _ in range(200)}
    assert seen == {-2, -1, 0, 1, 2}
    wide = [draws.between("wide", 0, 10**15) for _ in range(50)]
    assert max(wide) > 1 << 33 and all(0 <= value <= 10**15 for value in wide)


def test_faults_are_recorded_and_kept_ones_alone_fire_again() -> None:
    draws = Draws(11, factor=1000)
    passes = [(name, draws.fault(name, 200_000)) for _ in range(100) for name in ("A", "B", "C", "D", "E", "F")]
    assert draws.fired and sum(draws.counts.values()) == len(draws.fired) == sum(hit for _, hit in passes)
    keep = draws.fired[::3]
    again = Draws(11, keep=keep)
    for name, _ in passes:
        again.fault(name, 200_000)
    assert again.fired == keep


def test_a_parameter_belongs_to_its_passing() -> None:
    one = Draws(5, keep=[("A", 2), ("A", 5)])
    two = Draws(5, keep=[("A", 5)])
    for _ in range(5):
        first, second = one.fault("A", 1), two.fault("A", 1)
    assert first and second
    assert one.param("A", "delay", 0, 10**9) == two.param("A", "delay", 0, 10**9)


def test_a_healthy_world_has_no_faults() -> None:
    draws = Draws(1, factor=10_000)
    draws.healthy = True
    assert not any(draws.fault(f"F{n}", 1_000_000) for n in range(50))
    assert not any(Draws(1, factor=0).fault(f"F{n}", 1_000_000) for n in range(50))


def test_swarm_switches_some_faults_off() -> None:
    struck = sum(Draws(seed).fault("A", 1_000_000) for seed in range(400))
    assert 290 < struck < 350


def test_equal_under_another_hash_seed() -> None:
    code = ("from copyd.sim.draws import Draws; d = Draws(9); "
            "print([d.draw(s, 1000) for s in 'abcabc'], [d.fault('L01', 300000) for _ in range(20)])")
    runs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
