"""``copyd sim``: what it prints, what it exits with, and the one command that repeats a failure."""

import json
from pathlib import Path

import pytest

from copyd import cli
from copyd.sim import main as sim
from copyd.sim.shrink import Case, read_case, write_case

FAKE = f"{Path(__file__).parent / 'fake.py'}:run_seed"


@pytest.fixture(autouse=True)
def fake_runner(monkeypatch, tmp_path):
    monkeypatch.setitem(sim.RUNNERS, "a", FAKE)
    monkeypatch.setattr(sim, "regressions", lambda: tmp_path / "regressions")


def test_the_help_names_every_way_to_run_and_has_examples(capsys):
    """Everything a person may want is one --help away, from the command itself and from copyd's own help."""
    assert cli.main(["sim", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--seed ", "--seeds", "--mutants", "--regression", "--crash-sweep", "--kills", "--images", "--twice", "--save",
                 "--jobs", "--level", "copyd sim --seeds 0..20000"):
        assert word in text
    assert cli.main(["--help"]) == 0
    assert "│ sim " in capsys.readouterr().out


def test_a_clean_sweep_exits_0_with_figures_and_coverage(capsys, tmp_path):
    """Seeds, steps, hours, faults by id, crash points: what was really done."""
    file = tmp_path / "figures.json"
    assert cli.main(["sim", "--seeds", "1..21", "--jobs", "1", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "seeds" in text and "20 in" in text and "every rule held in every history" in text
    assert "faults: 5 of 162 injected" in text and "post_commit" in text
    figures = json.loads(file.read_text())
    assert figures["seeds"] == 20 and figures["faults"]["L01"] == 100 and figures["failed"] == []


def test_a_failure_exits_1_names_its_command_and_is_shrunk_and_saved(capsys, tmp_path):
    """The seed, the rule, the command that repeats it, and a small file that does."""
    words = ["--jobs", "1", "--option", "fail_every=10", "--no-coverage"]
    assert cli.main(["sim", "--seeds", "5..15", *words, "--save", "--note", "a dead order lived"]) == 1
    text = capsys.readouterr().out
    assert "S4 at 0.000000 s: dead order is live" in text
    assert "again: copyd sim --seed 10 --option fail_every=10" in text
    assert "from 25 faults to 2: L02#3, O01#4" in text
    case = read_case(tmp_path / "regressions" / "s4_10.json")
    assert case.keep == [("L02", 3), ("O01", 4)] and case.options["followers"] == 2 and case.note == "a dead order lived"
    assert cli.main(["sim", "--seed", "10", "--option", "fail_every=10"]) == 1


def test_a_saved_failure_runs_again(capsys, tmp_path):
    """While it fails it exits 1; once it is mended, 0."""
    file = tmp_path / "case.json"
    write_case(file, Case(10, "S4", "the story", {"fail_every": 10}))
    assert cli.main(["sim", "--regression", str(file)]) == 1
    assert "the story" in capsys.readouterr().out
    write_case(file, Case(10, "S4"))
    assert cli.main(["sim", "--regression", str(file)]) == 0


def test_two_histories_of_one_seed_are_a_failure(capsys):
    """Equal digests exit 0, different ones 1 with the seed."""
    assert cli.main(["sim", "--seeds", "1..9", "--twice", "--jobs", "2"]) == 0
    assert "8 seeds, each in two processes with different hash seeds: equal digests" in capsys.readouterr().out
    assert cli.main(["sim", "--seeds", "1..9", "--twice", "--jobs", "2", "--option", "unstable=4"]) == 1
    assert "seed 4: 4" in capsys.readouterr().out


@pytest.mark.parametrize("words", [
    ["--seeds", "9..3"], ["--seeds", "many"], ["--jobs", "0"], ["--option", "followers"], ["--option", "nope=1"],
    ["--mutants", "--mutant", "nobody"], ["--seed", "1", "--seeds", "1..2"], ["--frobnicate"],
])
def test_wrong_usage_exits_2(words):
    """And says what was wrong."""
    assert cli.main(["sim", *words]) == 2


def test_the_catalogue_is_shown_without_a_run(capsys):
    """Where each fault can be injected, and why some cannot."""
    assert cli.main(["sim", "--coverage"]) == 0
    text = capsys.readouterr().out
    assert "0 of 162 injected" in text and "O40" in text
