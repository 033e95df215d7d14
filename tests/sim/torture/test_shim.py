"""The preloaded shim: counts, fails, delays and kills at the k-th call, and records what a process writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copyd.sim.torture.shim import Act, Control, Op, changes
from copyd.sim.torture.stage import ROOT

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
for n in range(6):
    try:
        os.pwrite(fd, bytes([n]) * 1000, 8192 + 1000 * n)
        os.fdatasync(fd)
        print(n, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control")


def run(control: Control, code: str, *words: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env={**os.environ, **(env or control.environment())},
        capture_output=True, text=True, check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.split()


def test_it_kills_at_the_call_before_it_behind_it_or_in_it(control: Control, tmp_path: Path) -> None:
    """The file shows exactly the writes that were let through."""
    path = tmp_path / "data.mdb"
    for act, arg, size in ((Act.KILL_BEFORE, 0, 2000), (Act.KILL_AFTER, 0, 3000), (Act.KILL_TORN, 500, 2500)):
        path.unlink(missing_ok=True)
        control.reset()
        control.rule(Op.DATA, act, 3, arg)
        assert run(control, WRITER, str(path)) == (-signal.SIGKILL, ["0", "1"])
        assert path.stat().st_size == 8192 + size
        assert control.hits(Op.DATA) == 1


def test_it_fails_once_or_from_a_call_on(control: Control, tmp_path: Path) -> None:
    """With the number it was given; a file of another name is left alone."""
    path = tmp_path / "data.mdb"
    control.rule(Op.SYNC, Act.FAIL_ONCE, 2, 5)
    assert run(control, WRITER, str(path)) == (0, ["0", "5", "2", "3", "4", "5"])
    control.reset()
    control.rule(Op.DATA, Act.FAIL_FROM, 4, 28)
    assert run(control, WRITER, str(path)) == (0, ["0", "1", "2", "28", "28", "28"])
    control.reset()
    control.rule(Op.DATA, Act.FAIL_FROM, 1, 28)
    assert run(control, WRITER, str(tmp_path / "other")) == (0, ["0", "1", "2", "3", "4", "5"])


def test_it_delays_and_steps_the_clock(control: Control, tmp_path: Path) -> None:
    control.rule(Op.SYNC, Act.DELAY_FROM, 4, 50_000_000)
    control.clock(3_600_000_000_000)
    began = time.monotonic()
    code, words = run(control, WRITER + "import time; print(time.time_ns())", str(tmp_path / "data.mdb"))
    assert code == 0 and time.monotonic() - began > 0.15
    assert abs(int(words[-1]) - time.time_ns() - 3_600_000_000_000) < 10_000_000_000


def test_its_rules_are_for_one_process(control: Control, tmp_path: Path) -> None:
    """A child of the process under torture is not killed in its place."""
    control.rule(Op.DATA, Act.KILL_BEFORE, 1)
    code = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {WRITER!r}, sys.argv[1]]).returncode)"
    assert run(control, code, str(tmp_path / "data.mdb"))[1][-1] == "0"


def test_it_records_every_change_below_the_folder(control: Control, tmp_path: Path) -> None:
    """In order: creation, writes with their bytes, syncs, renames, removals; nothing of other folders."""
    folder = tmp_path / "folder"
    folder.mkdir()
    code = """
import os, sys
os.chdir(sys.argv[1])
fd = os.open("a", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"one"); os.write(fd, b"two"); os.fsync(fd)
sync = os.open("a", os.O_RDWR | os.O_DSYNC)
os.pwrite(sync, b"x", 1)
os.ftruncate(fd, 2)
os.rename("a", "b"); os.unlink("b")
open(sys.argv[1] + "-outside", "w").write("no")
"""
    run(control, code, str(folder), env=control.environment(folder, tmp_path / "record"))
    found = [(c.kind, Path(c.path).name, c.offset, c.data) for c in changes(tmp_path / "record")]
    assert found == [
        ("C", "a", 0, b""), ("W", "a", 0, b"one"), ("W", "a", 3, b"two"), ("S", "a", 0, b""), ("W", "a", 1, b"x"),
        ("E", "", 0, b""), ("T", "a", 0, b""), ("R", "a", 0, b""), ("U", "b", 0, b""),
    ]
