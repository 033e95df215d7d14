"""The journal when single calls fail, and when its file is not the one it left."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from copyd.journal import Journal, JournalDamaged, JournalForeign, JournalUnreadable
from copyd.journal.check import check
from copyd.sim.torture import calls
from copyd.sim.torture.stage import ROOT


def test_every_call_of_a_journals_life_may_fail_or_be_the_last() -> None:
    """EIO, ENOSPC, no descriptor, or a kill at each one: said with exit 74, nothing acknowledged lost, the next start goes on."""
    summary = calls.main(seed=1)
    assert not summary.violations, summary.text()
    assert summary.done > 200 and {"J01", "J06", "J10", "J12", "J13", "P10"} <= summary.faults.keys(), summary.text()


def opened(path: Path) -> Journal:
    return Journal.open(path, site=7, map_size=1 << 20, runway_bytes=0)


def append(journal: Journal, size: int = 100) -> None:
    journal.wait(journal.append(1, 1, (bytes(size),)), 10)


def test_an_older_data_file_put_back_takes_no_epoch_twice(tmp_path: Path) -> None:
    """The mark beside the data file remembers; whoever opens is told."""
    path = tmp_path / "j"
    with opened(path) as journal:
        append(journal)
        assert (journal.epoch, journal.put_back) == (1, False)
    shutil.copy(path / "data.mdb", tmp_path / "old")
    for epoch in (2, 3):
        with opened(path) as journal:
            append(journal)
            assert (journal.epoch, journal.put_back) == (epoch, False)
    shutil.copy(tmp_path / "old", path / "data.mdb")
    (path / "lock.mdb").unlink()
    with opened(path) as journal:
        assert (journal.epoch, journal.put_back, journal.last_seq) == (4, True, 1)
        append(journal)
    assert check(path).ok
    with opened(path) as journal:
        assert (journal.epoch, journal.put_back) == (5, False)


def test_a_journal_from_before_the_mark_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "j"
    opened(path).close()
    (path / "copyd.epoch").unlink()
    with opened(path) as journal:
        assert (journal.epoch, journal.put_back) == (2, False)
    assert (path / "copyd.epoch").read_text() == "2\n"


def test_a_mark_that_says_nothing_is_refused(tmp_path: Path) -> None:
    """Bad input: better no start than an epoch twice."""
    path = tmp_path / "j"
    opened(path).close()
    (path / "copyd.epoch").write_text("garbage\n")
    with pytest.raises(JournalForeign, match="not an epoch"):
        opened(path)
    (path / "copyd.epoch").write_text(f"{1 << 24}\n")
    with pytest.raises(JournalForeign, match="used up"):
        opened(path)


def test_a_file_that_lost_its_end_is_refused_and_does_not_kill(tmp_path: Path) -> None:
    """Found before the map is read: a read behind the end of the file would be a SIGBUS."""
    path = tmp_path / "j"
    with opened(path) as journal:
        for _ in range(20):
            append(journal, 5000)
    size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", size - 6 * 4096)
    with pytest.raises(JournalDamaged):
        opened(path)


NO_DESCRIPTORS = """
import resource, sys
from copyd.journal import Journal, JournalUnreadable
Journal.open(sys.argv[1], site=7, map_size=1 << 20).close()
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), 4096))
try:
    Journal.open(sys.argv[1], site=7, map_size=1 << 20).close()
except JournalUnreadable as error:
    sys.exit(error.exit_code)
"""


def test_no_descriptors_is_not_called_damage(tmp_path: Path) -> None:
    """Whichever open fails: exit 74, or it goes well; never 65, never a traceback."""
    for limit in range(3, 10):
        done = subprocess.run(
            [sys.executable, "-c", NO_DESCRIPTORS, str(tmp_path / "j"), str(limit)], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )
        assert done.returncode in (0, 74), f"{limit}: {done.returncode} {done.stderr}"
    assert JournalUnreadable("").exit_code == 74
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
