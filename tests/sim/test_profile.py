"""Long runs: small worlds with as much that breaks, constant memory, and a summary however they end."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copyd import cli
from copyd.sim import main as sim
from copyd.sim import sweep as sweeping
from copyd.sim.faults import CATALOGUE
from copyd.sim.report import Bar, repeat_command
from copyd.sim.run import PROFILES, Options, run_seed
from copyd.sim.shrink import Case, read_case, run_case, write_case
from copyd.sim.sweep import Runner, Summary, memory_kib, sweep, twice

FAKE = f"{Path(__file__).parent / 'fake.py'}:run_seed"
BULK = {"profile": "bulk"}
SEEDS = range(400)


@pytest.fixture(scope="module")
def bulk() -> Summary:
    return sweep(SEEDS, os.cpu_count() or 1, BULK)


def test_a_bulk_history_is_short_and_much_breaks_in_it(bulk):
    """Steps are what a seed costs, faults what it is worth."""
    assert 110 <= bulk.steps / bulk.seeds <= 200
    assert bulk.fault_total / bulk.seeds >= 10
    assert bulk.crash_points and sum(bulk.crash_points.values()) >= bulk.seeds // 5


def test_every_rule_holds_in_every_bulk_history(bulk):
    """Hundreds of small worlds; a failure names the command that repeats it."""
    assert [repeat_command(report.seed, options=BULK) for report in bulk.failed] == []


def test_a_bulk_sweep_has_the_mix_of_faults_of_the_default_worlds(bulk):
    """Nothing that this level can inject is left out: a few hundred seeds meet nearly all of it."""
    here = {id_ for id_, fault in CATALOGUE.items() if "A" in fault.levels}
    assert len(here & set(bulk.faults)) >= len(here) - 10


def test_the_default_worlds_are_those_without_a_profile():
    """A profile named is a profile meant; the default one changes no history."""
    assert run_seed(7).digest == run_seed(7, Options(profile="default")).digest
    assert run_seed(7).digest != run_seed(7, Options(profile="bulk")).digest


def test_what_is_given_goes_before_the_profile():
    """Options pin a world of either profile, and a healthy one stays healthy."""
    for profile in PROFILES:
        result = run_seed(11, Options(profile=profile, strength=0))
        assert result.violations == [] and result.crash_points == {}
    small = run_seed(11, Options(profile="bulk", followers=1, moves=1, strength=0))
    large = run_seed(11, Options(profile="bulk", followers=4, moves=9, strength=0))
    assert large.steps > 2 * small.steps


def test_an_unknown_profile_is_refused(capsys):
    """As an option of the command and as an option of the world."""
    assert cli.main(["sim", "--seed", "1", "--profile", "huge"]) == 2
    assert cli.main(["sim", "--seed", "1", "--option", "profile=huge"]) == 2
    assert cli.main(["sim", "--seed", "1", "--level", "b", "--profile", "bulk"]) == 2


def test_the_profile_is_part_of_the_command_that_repeats_a_failure():
    """A seed alone does not say which world it was."""
    assert repeat_command(4, options={"profile": "bulk", "moves": 2}) == "copyd sim --seed 4 --profile bulk --option moves=2"
    assert repeat_command(4) == "copyd sim --seed 4"


def test_the_repeated_history_is_the_one_of_the_sweep(capsys):
    """The digest printed for one seed is the digest the sweep's worker had."""
    digest = run_seed(3, Options(profile="bulk")).digest
    assert cli.main(["sim", "--seed", "3", "--profile", "bulk"]) == 0
    assert digest in capsys.readouterr().out


def test_a_saved_failure_keeps_its_profile(tmp_path):
    """What is saved is the world it broke in."""
    file = tmp_path / "case.json"
    write_case(file, Case(3, "S4", "the story", BULK))
    assert run_case(read_case(file), Runner()).digest == run_seed(3, Options(profile="bulk")).digest


def test_bulk_histories_are_the_same_in_another_process():
    """Equal digests under another hash seed and in the opposite order, whatever a worker keeps between seeds."""
    result = twice(range(40), 2, BULK)
    assert result.differ == [] and result.failed == []


def test_what_a_history_leaves_behind_is_taken_up():
    """The objects alive after many seeds are those alive after few."""
    options = Options(profile="bulk")
    counts = []
    for first in (0, 60, 120):
        for seed in range(first, first + 60):
            run_seed(seed, options)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[2] - counts[1] < 200


def test_a_worker_collects_its_garbage_now_and_then(monkeypatch):
    """Never within a seed, and not after each."""
    calls = []
    for name in ("collect", "freeze", "disable"):
        monkeypatch.setattr(sweeping.gc, name, lambda name=name: calls.append(name))
    for done in range(2 * sweeping.COLLECT_EVERY + 1):
        sweeping.tidy(done)
    assert calls == ["collect", "freeze", "disable", "collect", "collect"]


def test_a_summary_keeps_nothing_of_a_seed_that_held():
    """A million seeds take the room of one."""
    summary = sweep(range(300), 1, runner=FAKE)
    first = len(json.dumps(sim.msgspec.to_builtins(summary)))
    summary = sweep(range(3_000), 1, runner=FAKE)
    assert summary.seeds == 3_000 and len(json.dumps(sim.msgspec.to_builtins(summary))) < first + 60
    assert memory_kib() > 0


def test_progress_is_told_now_and_then_and_at_the_end():
    """Not once a seed: the last report counts all of them."""
    told = []
    sweep(range(2_000), 1, runner=FAKE, progress=lambda so_far: told.append(so_far.seeds))
    assert told[-1] == 2_000 and len(told) < 200


def test_without_a_terminal_lines_come_every_few_seconds(capsys):
    """A log of a long run stays short."""
    with Bar("seeds", 1_000, sys.stderr) as bar:
        for done in range(999):
            bar.at(done)
    assert capsys.readouterr().err == ""


def test_the_figures_are_a_file(capsys, tmp_path):
    """Everything that was counted, and under which terms."""
    file = tmp_path / "figures.json"
    words = ["--seeds", "0..40", "--jobs", "2", "--profile", "bulk", "--no-coverage", "--out", str(file)]
    assert cli.main(["sim", *words]) == 0
    figures = json.loads(file.read_text())
    assert figures["profile"] == "bulk" and figures["options"] == BULK and figures["seeds"] == 40
    assert figures["violations"] == 0 and figures["interrupted"] == "" and figures["jobs"] == 2
    assert figures["fault_total"] == sum(figures["faults"].values()) > 100
    assert figures["crash_point_total"] == sum(figures["crash_points"].values())
    for name in ("steps", "steps_per_s_core", "steps_per_cpu_s", "seeds_per_cpu_s", "simulated_hours", "slowest_us", "wall_s",
                 "worker_memory_kib", "cores"):
        assert figures[name] > 0
    assert "a seed" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_tells_what_it_has_so_far(tmp_path, number):
    """The summary, the file, no failure of a seed that was merely under way, and an exit code that says it."""
    file = tmp_path / "figures.json"
    words = ["--seeds", "0..1000000", "--jobs", "2", "--option", "strength=0", "--no-coverage", "--out", str(file)]
    child = subprocess.Popen([sys.executable, "-m", "copyd", "sim", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True)
    time.sleep(4)
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 130
    assert number.name in out and "every rule held" in out
    figures = json.loads(file.read_text())
    assert figures["interrupted"] == number.name and 0 < figures["seeds"] < 1_000_000 and figures["failed"] == []


def test_a_keyboard_interrupt_is_for_the_sweep_not_for_its_workers():
    """They stand in groups of their own: Ctrl-C reaches the one that prints the summary."""
    worker = sweeping._Worker(FAKE, "0")
    try:
        assert os.getpgid(worker.process.pid) != os.getpgid(0)
    finally:
        worker.end(kill=True)
