"""The process dies or the disk does not take it: nothing acknowledged is lost, nothing lost is acknowledged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from copyd.journal import Journal, Reader
from copyd.journal.check import check

ROOT = Path(__file__).resolve().parents[2]

#: Appends until the disk refuses; prints what was acknowledged and the error. ``limit``: bytes the file may grow to, 0 = none.
FILLER = """
import asyncio, resource, sys
from copyd.journal import Journal, JournalWriteError
path, limit = sys.argv[1], int(sys.argv[2])
async def main():
    journal = Journal.open(path, site=7, map_size=1 << 30)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    failed = []
    journal.attach(asyncio.get_running_loop(), on_failed=failed.append)
    acknowledged = 0
    try:
        while True:
            acknowledged = await journal.committed(journal.append(1, 1, (bytes(20000),)))
    except JournalWriteError as error:
        await asyncio.sleep(0.01)
        print(acknowledged, error.exit_code, len(failed), journal.durable_seq, error, sep="|")
    journal.close()
asyncio.run(main())
"""


def fill(path: Path, limit: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, path, str(limit)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_every_acknowledged_record_survives_sigkill_at_random_moments() -> None:
    """A few of the many rounds of ``python -m tests.journal.kill_loop``; it asserts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.journal.kill_loop", "--rounds", "6", "--seed", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "round 6/6" in done.stdout


def test_a_file_that_may_not_grow_stops_the_journal_cleanly(tmp_path: Path) -> None:
    """Bad input: a disk that takes no more (here: a file size limit) ends with exit code 74 and one sentence."""
    acknowledged, code, failed, durable, sentence = fill(tmp_path / "j", 1 << 20)
    assert (code, failed, durable) == ("74", "1", acknowledged)
    assert int(acknowledged) > 20
    assert "nothing more is written to the journal" in sentence
    findings = check(tmp_path / "j")
    assert findings.ok, findings.findings
    assert findings.last_seq == int(acknowledged)
    with Journal.open(tmp_path / "j", site=7, map_size=1 << 30) as journal:
        journal.wait(journal.append(1, 1, (bytes(20000),)), 20)


def test_a_full_disk_stops_the_journal_cleanly(tmp_path: Path) -> None:
    """The same on a real full file system of 2 MiB, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs; the file size limit test covers the same path")
    try:
        acknowledged, code, failed, durable, sentence = fill(disk / "j", 0)
        assert (code, failed, durable) == ("74", "1", acknowledged)
        assert "the disk is full" in sentence
        with Reader(disk / "j") as reader:
            assert sum(1 for _ in reader.iterate()) == int(acknowledged)
        assert check(disk / "j").ok
    finally:
        subprocess.run(["umount", disk], check=True)
