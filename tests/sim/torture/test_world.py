"""What the machine does to a daemon, one check each: the fault is made, counted, and answered as the rules say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from copyd.sim.torture import Summary, world
from copyd.sim.torture.stage import Late
from copyd.sim.torture.world import CHECKS, World

#: Those that take long for what little they add to the journal's own tests: they run with the others in `copyd sim`.
LONG = {"full_map", "small_disk", "bad_data"}


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    """One exchange for all checks."""
    with tempfile.TemporaryDirectory(prefix="copyd-world-") as folder:
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in LONG])
def test_the_machine(machine: World, name: str) -> None:
    """Each check names its rule; it has made its fault, or says why this machine does not let it."""
    before, skipped = machine.faults.total(), len(machine.skipped)
    CHECKS[name](machine)
    if len(machine.skipped) > skipped:
        pytest.skip(machine.skipped[-1])
    assert machine.faults.total() > before


@pytest.mark.parametrize(
    ("mutant", "check", "words"),
    [("send_before_sync", "slow_disk", "before its record was on disk"), ("forget_the_lock", "second_daemon", "exit")],
)
def test_a_daemon_with_a_broken_rule_is_found_out(tmp_path: Path, mutant: str, check: str, words: str) -> None:
    """The canaries: the rule is broken in the daemon, and the check of it must fail."""
    machine = World(tmp_path, mutant)
    try:
        with pytest.raises((AssertionError, Late), match=words):
            CHECKS[check](machine)
    finally:
        machine.close()


def test_a_check_that_fails_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary says so, with the check's name and its reason, and goes on."""
    def fails(machine: World) -> None:
        raise AssertionError("as it must")

    monkeypatch.setitem(CHECKS, "canary", fails)
    summary = world.main(("canary", "forked"))
    assert isinstance(summary, Summary)
    assert summary.done == 2 and summary.violations == ["canary: AssertionError: as it must"]
    assert "VIOLATION canary" in summary.text()
