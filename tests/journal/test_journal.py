"""Writing and reading one journal: order, acknowledgement, restart, who may write, checkpoints, retention."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest

from copyd.journal import (
    Journal,
    JournalDamaged,
    JournalForeign,
    JournalMisused,
    JournalWriteError,
    Reader,
    place,
    records,
)
from copyd.journal.check import check, check_in_child

MAP = 64 << 20
ROOT = Path(__file__).resolve().parents[2]


def open_journal(path: Path, **options: object) -> Journal:
    return Journal.open(path, **{"site": 7, "map_size": MAP, "runway_bytes": 0, **options})  # type: ignore[arg-type]


async def test_records_are_acknowledged_in_order_and_only_when_committed(tmp_path: Path) -> None:
    """semantics 33: nothing may leave before the commit; on_durable is that gate."""
    seen: list[int] = []
    with open_journal(tmp_path / "j") as journal:
        journal.attach(asyncio.get_running_loop(), on_durable=seen.append)
        seqs = [journal.append(1, index, (b"a%d" % index, memoryview(b"b"))) for index in range(500)]
        assert seqs == list(range(1, 501))
        assert seen == []  # never called from append
        assert await journal.committed(250) >= 250
        await journal.committed(500)
        assert journal.durable_seq == 500
        assert seen == sorted(seen)
        assert seen[-1] == 500
        assert (await journal.committed(3)) == 500
        with pytest.raises(JournalMisused, match="never appended"):
            await journal.committed(501)
        assert [record.payload for record in journal.reader.iterate(10, 12)] == [b"a9b", b"a10b", b"a11b"]


def test_a_restart_continues_the_numbers_with_a_higher_epoch_and_the_same_site_key(tmp_path: Path) -> None:
    epochs, keys = [], set()
    for start in range(4):
        with open_journal(tmp_path / "j", verify="full" if start == 3 else "tail") as journal:
            epochs.append(journal.epoch)
            keys.add(journal.site_key)
            assert journal.last_seq == start * 3
            for index in range(3):
                journal.append(index, start, (b"x" * index,))
            journal.flush(20)
    assert epochs == [1, 2, 3, 4]
    assert len(keys) == 1
    assert len(keys.pop()) == 16
    with Reader(tmp_path / "j") as reader:
        found = list(reader.iterate())
        assert [(record.seq, record.kind, record.epoch) for record in found] == [
            (start * 3 + index + 1, index, start + 1) for start in range(4) for index in range(3)
        ]
        assert reader.get(13) is None
        assert reader.get(0) is None
    assert check(tmp_path / "j").ok


def test_closing_writes_what_is_still_queued(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    for index in range(1000):
        journal.append(1, index, (bytes(100),))
    journal.close()
    journal.close()
    with pytest.raises(JournalMisused, match="closed"):
        journal.append(1, 0, (b"",))
    with Reader(tmp_path / "j") as reader:
        assert reader.state().last_seq == 1000


def test_a_record_of_many_mebibytes_and_an_empty_one(tmp_path: Path) -> None:
    large = os.urandom(5 << 20)
    with open_journal(tmp_path / "j") as journal:
        journal.append(1, 1, (large[:1000], memoryview(large)[1000:]))
        journal.append(2, 2, ())
        journal.flush(20)
        assert journal.reader.get(1).payload == large  # type: ignore[union-attr]
        assert journal.reader.get(2).payload == b""  # type: ignore[union-attr]
        with pytest.raises(JournalMisused, match="at most"):
            journal.append(1, 1, [large] * 60)
        assert journal.append(3, 3, (b"next",)) == 3


def test_a_part_is_measured_in_bytes_whatever_its_items_are(tmp_path: Path) -> None:
    column = memoryview(bytes(range(64))).cast("Q")
    with open_journal(tmp_path / "j") as journal:
        journal.append(1, 1, (column, bytearray(b"tail")))
        journal.flush(20)
        assert journal.reader.get(1).payload == bytes(range(64)) + b"tail"  # type: ignore[union-attr]


# One writer -------------------------------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_told_who_holds_the_journal(tmp_path: Path) -> None:
    """One daemon per journal (exit 75)."""
    with open_journal(tmp_path / "j"):
        code = (
            "import sys; from copyd.journal import Journal, JournalLocked\n"
            "try: Journal.open(sys.argv[1], site=7)\n"
            "except JournalLocked as error: print(error); sys.exit(error.exit_code)"
        )
        second = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "j"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert second.returncode == 75, second.stderr
        assert f"held by process {os.getpid()}" in second.stdout
        assert second.stdout.count("\n") == 1


def test_a_lock_file_left_by_a_dead_daemon_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / place.LOCK_FILE).write_text("1\n")
    with open_journal(tmp_path / "j"):
        assert place.holder(tmp_path / "j") == os.getpid()
    assert place.holder(tmp_path / "j") == 0


def test_the_journal_is_refused_after_fork(tmp_path: Path) -> None:
    """LMDB and the writer thread do not survive fork."""
    with open_journal(tmp_path / "j") as journal:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                journal.append(1, 1, (b"x",))
            except JournalMisused as error:
                status = 0 if "fork" in str(error) else 2
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        journal.append(1, 1, (b"x",))
        journal.flush(20)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    """LMDB's maps and locks hold only within one machine."""
    table = tmp_path / "mountinfo"
    directory = tmp_path / "a b"
    directory.mkdir()
    point = str(directory).replace(" ", "\\040")
    table.write_text(f"1 0 8:1 / / rw - ext4 /dev/x rw\n2 1 0:9 / {point} rw,noatime shared:1 - {kind} host:/x rw\n")
    assert place.file_system_type(directory / "j", str(table)) == kind
    assert place.file_system_type(tmp_path, str(table)) == "ext4"
    with pytest.raises(JournalForeign, match=f"on a {kind} file system"):
        place.refuse_unfit_file_system(directory / "j", str(table))


# What is not ours -------------------------------------------------------------------------------------------------------


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalForeign, match="no journal there"):
        open_journal(tmp_path / "j", create=False)
    with pytest.raises(JournalForeign, match="no journal there"):
        Reader(tmp_path)


def test_a_foreign_lmdb_file_is_refused_unchanged(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "j"), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"someone", b"else")
    before = (tmp_path / "j" / place.DATA_FILE).read_bytes()
    with pytest.raises(JournalForeign, match="not a copyd journal"):
        open_journal(tmp_path / "j")
    assert (tmp_path / "j" / place.DATA_FILE).read_bytes() == before
    assert check(tmp_path / "j").findings[0].code == "foreign"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 8192, os.urandom(40960)])
def test_a_file_that_is_no_lmdb_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / place.DATA_FILE).write_bytes(content)
    with pytest.raises(JournalForeign, match="not a copyd journal"):
        open_journal(tmp_path)
    assert not check_in_child(tmp_path).ok


def test_a_journal_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_journal(tmp_path / "j").close()
    with lmdb.open(str(tmp_path / "j"), map_size=MAP, max_dbs=4) as env:
        for _ in range(2):  # both meta pages get a neighbouring transaction
            with env.begin(write=True) as txn:
                state = bytearray(txn.get(records.STATE_KEY)[: -records.TRAILER_BYTES])
                state[8:10] = (records.FORMAT_VERSION + 1).to_bytes(2, "little")
                txn.put(records.STATE_KEY, bytes(state) + records.zlib.crc32(state).to_bytes(4, "little"))
    with pytest.raises(JournalForeign, match="format 2; this build reads up to format 1"):
        open_journal(tmp_path / "j")


def test_another_sites_journal_is_refused(tmp_path: Path) -> None:
    open_journal(tmp_path / "j", site=0x1234).close()
    with pytest.raises(JournalForeign, match="made for site 1234, this daemon is site 0007"):
        open_journal(tmp_path / "j")


def test_an_interrupted_first_creation_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """The file appears by one rename; what a killed creation left aside is made anew."""
    aside = tmp_path / "j" / ".new"
    aside.mkdir(parents=True)
    (aside / place.DATA_FILE).write_bytes(b"half")
    with open_journal(tmp_path / "j") as journal:
        assert journal.epoch == 1
    assert not aside.exists()


# Reading ----------------------------------------------------------------------------------------------------------------


def test_a_reader_beside_the_daemon_sees_commits_and_holds_no_pages(tmp_path: Path) -> None:
    """In another process, as tools do (LMDB allows one environment per process)."""
    code = (
        "import sys; from copyd.journal import Reader\n"
        "reader = Reader(sys.argv[1])\n"
        "print(sum(1 for _ in reader.iterate()), flush=True); sys.stdin.readline()\n"
        "print(sum(1 for _ in reader.iterate()), reader.get(30).payload.decode(), flush=True); sys.stdin.readline()"
    )
    with open_journal(tmp_path / "j") as journal:
        for index in range(20):
            journal.append(1, index, (b"r%d" % index,))
        journal.flush(20)
        tool = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "j"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert tool.stdin is not None
        assert tool.stdout is not None
        try:
            assert tool.stdout.readline() == "20\n"
            for index in range(20, 40):
                journal.append(1, index, (b"r%d" % index,))
                journal.flush(20)
            tool.stdin.write("\n")
            tool.stdin.flush()
            assert tool.stdout.readline() == "40 r29\n"
            before = (tmp_path / "j" / place.DATA_FILE).stat().st_size
            for index in range(200):  # an open read transaction would keep every old page
                journal.append(1, index, (b"z",))
                journal.flush(20)
            assert (tmp_path / "j" / place.DATA_FILE).stat().st_size - before < 20 * 4096
        finally:
            tool.communicate("\n", timeout=20)
        assert tool.returncode == 0


def test_a_reader_follows_a_daemon_that_came_back_with_a_larger_map(tmp_path: Path) -> None:
    open_journal(tmp_path / "j", map_size=1 << 20).close()
    with Reader(tmp_path / "j") as reader:
        code = (
            "import sys; from copyd.journal import Journal\n"
            "with Journal.open(sys.argv[1], site=7, map_size=8 << 20) as journal:\n"
            "    [journal.append(1, 1, (bytes(100000),)) for _ in range(30)]"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "j"], cwd=ROOT, timeout=30, check=True)
        assert sum(1 for _ in reader.iterate()) == 30


def test_a_copied_file_reads_the_same_without_lock_files(tmp_path: Path) -> None:
    """semantics 44: on another machine only data.mdb is needed."""
    with open_journal(tmp_path / "j") as journal:
        for index in range(50):
            journal.append(1, index, (os.urandom(index * 50),))
        journal.flush(20)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "j" / place.DATA_FILE, copy)
    copy.chmod(0o555)
    try:
        one, two = check(tmp_path / "j"), check(copy)
        assert one.ok and two.ok
        assert (one.digest, one.records, one.head) == (two.digest, two.records, two.head)
    finally:
        copy.chmod(0o755)


# Checkpoints and retention -----------------------------------------------------------------------------------------------


def test_a_checkpoint_of_several_chunks_comes_back_whole_and_the_last_three_are_kept(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        contents = {}
        for index in range(5):
            journal.append(1, index, (b"x",))
            contents[journal.last_seq] = os.urandom(1 + index * 700_000)
            journal.checkpoint(journal.last_seq, (contents[journal.last_seq][:100], contents[journal.last_seq][100:]))
        journal.flush(20)
        assert journal.reader.checkpoints() == [3, 4, 5]
        for seq in (3, 4, 5):
            found = journal.latest_checkpoint(max_seq=seq)
            assert found is not None
            assert (found.seq, found.payload) == (seq, contents[seq])
            assert found.chain_hash == journal.reader.get(seq).hash  # type: ignore[union-attr]
        assert journal.latest_checkpoint(max_seq=2) is None
        assert journal.latest_checkpoint().seq == 5  # type: ignore[union-attr]
        with pytest.raises(JournalMisused, match="holds 1 to 5"):
            journal.checkpoint(6, (b"",))
        journal.checkpoint(5, (b"again",))
        journal.flush(20)
        assert journal.latest_checkpoint().payload == b"again"  # type: ignore[union-attr]
    assert check(tmp_path / "j").checkpoints == [3, 4, 5]


def test_records_are_committed_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Chunks go between commits: an order never waits for a whole checkpoint."""
    with open_journal(tmp_path / "j", map_size=256 << 20) as journal:
        journal.append(1, 0, (b"first",))
        journal.checkpoint(1, (bytes(40 << 20),))
        waited = 0
        while journal.latest_checkpoint() is None:
            journal.wait(journal.append(1, 0, (b"x",)), 20)
            waited += 1
        assert waited > 3
        journal.flush(20)


def test_dropped_records_leave_a_chain_that_still_verifies(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        for index in range(1000):
            journal.append(1, index, (os.urandom(100 + index % 3000),))
        journal.flush(20)
        with pytest.raises(JournalMisused, match="no checkpoint covers"):
            journal.drop_before(10)
        journal.checkpoint(200, (b"early",))
        journal.checkpoint(900, (b"state",))
        journal.flush(20)
        with pytest.raises(JournalMisused, match="no checkpoint covers"):
            journal.drop_before(901)
        used = journal.room().map_free
        journal.drop_before(900)
        journal.flush(20)
        assert journal.first_seq == 900
        assert journal.room().map_free > used
        assert journal.reader.get(899) is None
        assert [record.seq for record in journal.reader.iterate()] == list(range(900, 1001))
        assert journal.reader.checkpoints() == [900]  # the early one has no records to be folded with
    findings = check(tmp_path / "j")
    assert findings.ok, findings.findings
    assert (findings.first_seq, findings.records) == (900, 101)
    with open_journal(tmp_path / "j") as journal:
        assert (journal.first_seq, journal.last_seq) == (900, 1000)


def test_dropping_keeps_the_file_from_growing(tmp_path: Path) -> None:
    """Freed pages are used again."""
    sizes = []
    with open_journal(tmp_path / "j") as journal:
        for _ in range(12):
            for index in range(100):
                journal.append(1, index, (bytes(5000),))
            journal.checkpoint(journal.last_seq, (b"state",))
            journal.flush(20)
            journal.drop_before(journal.last_seq)
            journal.flush(20)
            sizes.append((tmp_path / "j" / place.DATA_FILE).stat().st_size)
    assert sizes[-1] < 3 * sizes[0], sizes  # twelve times without reuse
    assert check(tmp_path / "j").ok


def test_the_runway_is_zeros_beyond_the_last_page_and_disturbs_nothing(tmp_path: Path) -> None:
    """Prepared while idle; commits go into it, copies and verification do not mind it."""
    with open_journal(tmp_path / "j", runway_bytes=2 << 20) as journal:
        file = tmp_path / "j" / place.DATA_FILE
        for _ in range(3):
            for index in range(10):
                journal.append(1, index, (os.urandom(50_000),))
            journal.flush(20)
            deadline = time.monotonic() + 20
            frontier = (journal._env.info()["last_pgno"] + 1) * 4096
            while file.stat().st_size < frontier + (1 << 20) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert frontier + (1 << 20) <= file.stat().st_size <= frontier + (2 << 20)
            assert not any(file.read_bytes()[frontier:])
        assert check_in_child(tmp_path / "j").ok
    assert check(tmp_path / "j").records == 30
    with open_journal(tmp_path / "small", map_size=1 << 20, runway_bytes=32 << 20) as journal:
        journal.append(1, 1, (b"x",))
        journal.flush(20)
        time.sleep(0.1)
        assert (tmp_path / "small" / place.DATA_FILE).stat().st_size <= 1 << 20


# Failure ------------------------------------------------------------------------------------------------------------------


async def test_after_a_full_map_nothing_is_acknowledged_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Bad input: a full map stops the sending (exit 74)."""
    failures: list[JournalWriteError] = []
    with open_journal(tmp_path / "j", map_size=256 << 10) as journal:
        journal.attach(asyncio.get_running_loop(), on_failed=failures.append)
        acknowledged = 0
        with pytest.raises(JournalWriteError, match="map of 262144 bytes is full"):
            for _ in range(100):
                acknowledged = await journal.committed(journal.append(1, 1, (bytes(9000),)))
        assert 10 < acknowledged < 30
        assert journal.durable_seq == acknowledged
        with pytest.raises(JournalWriteError) as caught:
            journal.append(1, 1, (b"small enough to fit",))
        assert caught.value.exit_code == 74
        with pytest.raises(JournalWriteError):
            await journal.committed(acknowledged + 1)
        await asyncio.sleep(0.01)
        assert len(failures) == 1
        assert journal.failure is failures[0]
    assert check(tmp_path / "j").last_seq == acknowledged
    with open_journal(tmp_path / "j", map_size=1 << 20) as journal:  # the operator raised map_size
        assert journal.last_seq == acknowledged
        await journal.committed(journal.append(1, 1, (bytes(9000),)))
    assert check(tmp_path / "j").ok


def test_room_shrinks_as_records_are_written(tmp_path: Path) -> None:
    """The core stops openings before the map is full."""
    with open_journal(tmp_path / "j", map_size=4 << 20) as journal:
        before = journal.room()
        assert before.map_size == 4 << 20
        assert 0 < before.free <= before.map_free < 4 << 20
        for _ in range(20):
            journal.append(1, 1, (bytes(50_000),))
        journal.flush(20)
        taken = before.map_free - journal.room().map_free
        assert 1_000_000 <= taken <= 1_200_000
        assert journal.room().disk_free > 0


def test_a_damaged_record_is_refused_at_the_start_and_named(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        for index in range(20):
            journal.append(1, index, (b"needle %02d" % index + bytes(200),))
        journal.flush(20)
    file = tmp_path / "j" / place.DATA_FILE
    content = bytearray(file.read_bytes())
    content[content.index(b"needle 12")] ^= 1
    file.write_bytes(content)
    with pytest.raises(JournalDamaged, match="record 13: CRC32") as caught:
        open_journal(tmp_path / "j")
    assert caught.value.seq == 13
    with pytest.raises(JournalDamaged, match="record 13"):
        open_journal(tmp_path / "j", verify="full")
    with Reader(tmp_path / "j") as reader:
        assert reader.get(12) is not None
        with pytest.raises(JournalDamaged, match="record 13"):
            reader.get(13)


def test_process_durability_reads_back_after_the_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from copyd.journal import Journal\n"
        "journal = Journal.open(sys.argv[1], site=7, map_size=1 << 24, durability='process')\n"
        "journal.wait(max(journal.append(1, 1, (b'x',)) for _ in range(100)), 20)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "j"], cwd=ROOT, timeout=30, check=False)
    assert check(tmp_path / "j").last_seq == 100


def test_an_idle_writer_thread_ends_with_the_journal(tmp_path: Path) -> None:
    threads = threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        open_journal(tmp_path / "j").close()
    gc.collect()
    time.sleep(0.01)
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
