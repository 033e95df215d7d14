"""Verification: what is damaged is reported with its record, what is not read disturbs nobody."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from copyd.journal import Journal, JournalDamaged, Reader, pages, place
from copyd.journal.check import check, check_in_child, run_child

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    """Forty records in several commits, closed."""
    path = tmp_path / "j"
    with Journal.open(path, site=7, map_size=1 << 20) as journal:
        for index in range(40):
            journal.append(index, index, (b"payload %02d " % index * 20,))
            journal.flush(20)
    return path


def metas(path: Path) -> tuple[pages.Meta, pages.Meta]:
    """(current, older)"""
    with (path / place.DATA_FILE).open("rb") as file:
        one, two = pages.read_metas(file.fileno())
    return (one, two) if one.txn_id > two.txn_id else (two, one)


def patch(path: Path, offset: int, content: bytes) -> None:
    with (path / place.DATA_FILE).open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_a_sample_of_all_flipped_bytes() -> None:
    """A flip in a live record or tree page is reported with its record, elsewhere it changes nothing.

    ``python -m tests.journal.flip_sweep`` does every byte.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.journal.flip_sweep", "--step", "89"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reported with its record" in done.stdout
    assert "silent, nothing depends on it" in done.stdout


def test_an_older_state_passed_off_as_current_is_noticed(journal_path: Path) -> None:
    """One byte of the newer meta page can make the older tree current: whole, consistent, and without the last commit."""
    current, older = metas(journal_path)
    for number in (current.txn_id - 2, current.txn_id - 4, 0, current.txn_id + 2, current.txn_id + 1):
        patch(journal_path, current.slot * 4096 + 144, number.to_bytes(8, "little"))
        findings = check(journal_path)
        assert [finding.code for finding in findings.findings][:1] == ["meta"], number
        with pytest.raises(JournalDamaged, match="meta page"):
            Reader(journal_path)
        with pytest.raises(JournalDamaged, match="meta page"):
            Journal.open(journal_path, site=7, map_size=1 << 20)
    patch(journal_path, current.slot * 4096, current.raw)
    assert check(journal_path).ok
    patch(journal_path, older.slot * 4096 + 144, (current.txn_id + 1).to_bytes(8, "little"))
    assert check(journal_path).findings[0].code == "meta"


def test_the_older_meta_page_is_vouched_for_too(journal_path: Path) -> None:
    _, older = metas(journal_path)
    patch(journal_path, older.slot * 4096 + 136, b"\x05")
    assert f"meta page {older.slot} is not what transaction" in check(journal_path).findings[0].message


def test_a_commit_put_back_as_a_whole_is_not_this_modules_to_see(journal_path: Path, tmp_path: Path) -> None:
    """A whole older copy of the file is consistent; only the venue's history can tell. Stated, so nobody relies on it."""
    copy = tmp_path / "copy"
    shutil.copytree(journal_path, copy)
    with Journal.open(journal_path, site=7, map_size=1 << 20) as journal:
        journal.append(1, 1, (b"later",))
        journal.flush(20)
    assert check(copy).ok
    assert check(copy).last_seq == 40


def test_a_replaced_record_breaks_the_chain(journal_path: Path) -> None:
    """A record rewritten with a right CRC is found by the next one's hash of it."""
    from copyd.journal import records

    with Reader(journal_path) as reader:
        old = reader.get(20)
    assert old is not None
    forged = records.encode_record(20, old.kind, old.epoch, old.ts_ns, old.prev_hash, [old.payload[::-1]], len(old.payload))
    content = (journal_path / place.DATA_FILE).read_bytes()
    original = records.encode_record(20, old.kind, old.epoch, old.ts_ns, old.prev_hash, [old.payload], len(old.payload))
    (journal_path / place.DATA_FILE).write_bytes(content.replace(original, forged))
    findings = check(journal_path).findings
    assert [(finding.code, finding.seq_first) for finding in findings] == [("chain", 21)]
    with pytest.raises(JournalDamaged, match="record 21: does not follow from record 20"), Reader(journal_path) as reader:
        list(reader.iterate())


def test_a_missing_record_is_named(journal_path: Path) -> None:
    with lmdb.open(str(journal_path), map_size=1 << 20, max_dbs=4) as env:
        log = env.open_db(b"log", create=False)
        with env.begin(write=True) as txn:
            txn.delete((17).to_bytes(8, "big"), db=log)
    assert not check(journal_path).ok  # the commit was not ours: the state does not belong to it
    with pytest.raises(JournalDamaged):
        Reader(journal_path)


def test_a_truncated_file_is_reported(journal_path: Path) -> None:
    """Down to one byte short of the last page in use (free pages at the end may go: nothing reads them)."""
    ends: list[int] = []
    check(journal_path, trace=lambda at, length, first, last: ends.append(at + length))
    size = max(ends)
    for keep in (size - 1, size - 4096, size // 2, 8192, 4096, 100, 0):
        cut = journal_path.parent / f"cut{keep}"
        cut.mkdir()
        (cut / place.DATA_FILE).write_bytes((journal_path / place.DATA_FILE).read_bytes()[:keep])
        assert not check_in_child(cut).ok if keep in (0, size // 2) else not check(cut).ok, keep


def test_the_child_reports_what_it_read(journal_path: Path) -> None:
    findings = check_in_child(journal_path)
    assert findings == check(journal_path)
    assert (findings.ok, findings.records, findings.first_seq, findings.last_seq, findings.epoch) == (True, 40, 1, 40, 1)


def test_a_running_daemons_journal_verifies_while_it_writes(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", site=7, map_size=64 << 20) as journal:
        for _ in range(3):
            for index in range(300):
                journal.append(1, index, (bytes(index * 10),))
            findings = check_in_child(tmp_path / "j")
            assert findings.ok, findings.findings
            assert findings.live
            journal.flush(20)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV) while reading record 33"),
        ("os.abort()", "crashed (SIGABRT) while reading record 33"),
        ("sys.exit('no such thing')", "failed: no such thing while reading record 33"),
    ],
)
def test_a_crash_of_the_library_is_a_finding_with_the_record(tmp_path: Path, end: str, words: str) -> None:
    code = f"import os, resource, signal, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));\
os.pwrite(int(sys.argv[1]), (33).to_bytes(8, 'big'), 0); {end}"
    findings = run_child([sys.executable, "-c", code], tmp_path, 30).findings
    assert [(finding.code, finding.seq_first) for finding in findings] == [("crash", 33)]
    assert words in findings[0].message


def test_a_verification_that_hangs_is_a_finding(tmp_path: Path) -> None:
    findings = run_child([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5).findings
    assert [finding.code for finding in findings] == ["crash"]
    assert "did not end within 0.5 s" in findings[0].message
