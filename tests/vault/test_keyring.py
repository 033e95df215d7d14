"""The ring beside the journal: whole values, several processes, damage named."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from copyd.journal import Journal, JournalDamaged, JournalForeign, JournalMisused, keyring
from copyd.journal.keyring import Keyring, KeysForbidden, exists
from tests.exchange.wire_helpers import ROOT


def test_a_journal_without_a_ring_opens_and_a_ring_needs_no_journal(tmp_path: Path) -> None:
    """The journal's own file knows nothing of it: journals made before there were rings are as good as ever."""
    with Journal.open(tmp_path, site=1, map_size=1 << 20) as journal:
        assert not exists(tmp_path)
        with pytest.raises(JournalForeign, match="no keys there; `copyd key add` makes the first"):
            Keyring(tmp_path)
        with Keyring(tmp_path, create=True) as ring:
            assert ring.replace("a", None, b"1") and ring.items() == [("a", b"1")]
        journal.append(1, 1, [b"x"])
        journal.flush()
    from copyd.journal.check import check

    assert check(tmp_path).ok
    with Journal.open(tmp_path, site=1, map_size=1 << 20), Keyring(tmp_path) as ring:
        assert ring.get("a") == b"1"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_value_is_replaced_only_where_the_old_one_still_stands(tmp_path: Path) -> None:
    """Who was slower is told so and overwrites nothing; the others of his transaction are written."""
    with Keyring(tmp_path, create=True) as ring:
        assert ring.replace("a", None, b"1") and not ring.replace("a", None, b"2") and not ring.replace("a", b"0", b"2")
        assert ring.replace("a", b"1", b"2") and ring.get("a") == b"2" and ring.get("b") is None
        assert ring.replace_all([("a", b"1", b"3"), ("b", None, b"4")]) == ["a"]
        assert ring.items() == [("a", b"2"), ("b", b"4")]
        for name in ("", "x" * 257):
            with pytest.raises(ValueError, match="1 to 256 bytes"):
                ring.get(name)
        with pytest.raises(ValueError, match="at most"):
            ring.replace("c", None, bytes(16385))
    with pytest.raises(JournalMisused, match="closed"):
        ring.get("a")
    ring.close()


def test_more_names_than_one_transaction_reads(tmp_path: Path) -> None:
    """Every name comes once, in order."""
    wanted = [(f"n{i:05}", b"%d" % i) for i in range(1300)]
    with Keyring(tmp_path, create=True) as ring:
        assert ring.replace_all([(name, None, value) for name, value in wanted]) == []
        assert ring.items() == wanted


WRITER = """
import sys
from copyd.journal.keyring import Keyring
ring = Keyring(sys.argv[1])
for i in range(int(sys.argv[3])):
    while True:
        old = ring.get("n") or b"0"
        if ring.replace("n", ring.get("n") if ring.get("n") == old else None, b"%d" % (int(old) + 1)):
            break
    ring.replace(f"{sys.argv[2]}{i:06}", None, b"x" * 700)
    print(i, flush=True)
"""


def writer(path: Path, who: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), who, str(count)], cwd=ROOT, stdout=subprocess.PIPE)


def test_processes_write_at_the_same_time_and_lose_nothing(tmp_path: Path) -> None:
    """Two writers and a reader that holds the ring open: every count and every name is there."""
    with Keyring(tmp_path, create=True) as ring:
        ring.replace("n", None, b"0")
        children = [writer(tmp_path, who, 40) for who in "ab"]
        while any(child.poll() is None for child in children):
            ring.items()
        for child in children:
            child.communicate()
            assert child.returncode == 0
        assert ring.get("n") == b"80" and len(ring.items()) == 81


def test_a_writer_killed_at_any_moment_leaves_the_ring_whole(tmp_path: Path) -> None:
    """What it said it wrote is there; the next one goes on."""
    draw = random.Random(3)
    with Keyring(tmp_path, create=True) as ring:
        ring.replace("n", None, b"0")
    for turn in range(5):
        child = writer(tmp_path, f"t{turn}-", 100000)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(draw.randrange(1, 30))]
        child.send_signal(signal.SIGKILL)
        child.communicate()
        with Keyring(tmp_path) as ring:
            names = {name for name, _ in ring.items()}
        assert {f"t{turn}-{int(line):06}" for line in said} <= names


def test_what_was_replaced_is_in_the_file_no_more(tmp_path: Path) -> None:
    """Pages no tree leads to and gaps in pages are overwritten; what is there stays, and the ring is whole by every page."""
    draw = random.Random(7)
    old = {f"n{i:03}": b"old-" + draw.randbytes(600 + i * 9) for i in range(120)}
    file = tmp_path / "keys" / "data.mdb"
    with Keyring(tmp_path, create=True) as ring:
        ring.replace_all([(name, None, value) for name, value in old.items()])
        for _ in range(3):
            ring.replace("n000", ring.get("n000"), old["n000"])
        new = {name: b"new-" + draw.randbytes(draw.randrange(10, 1500)) for name in old}
        ring.replace_all([(name, old[name], new[name]) for name in list(old)[::2]])
        gone = [value for name, value in list(old.items())[::2]]
        assert any(value[:40] in file.read_bytes() or value[-40:] in file.read_bytes() for value in gone), "nothing to scrub"
        assert ring.scrub()
        raw = file.read_bytes()
        for value in gone:
            for at in range(4, len(value) - 40, 40):
                assert value[at : at + 24] not in raw
        wanted = {**old, **{name: new[name] for name in list(old)[::2]}}
        assert dict(ring.items()) == wanted
        ring.replace("zz", None, b"goes on")
    with Keyring(tmp_path) as ring:
        assert dict(ring.items()) == {**wanted, "zz": b"goes on"}


def test_nothing_is_overwritten_under_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that still looks at an older state: said, not done; once it has ended it is done."""
    monkeypatch.setattr(keyring, "SCRUB_TIMEOUT_S", 0.2)
    with Keyring(tmp_path, create=True) as ring:
        ring.replace("a", None, b"old" * 200)
        reader = "import lmdb, sys; e = lmdb.open(sys.argv[1], max_dbs=2); t = e.begin(); print(flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-c", reader, str(tmp_path / "keys")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        ring.replace("a", b"old" * 200, b"new")
        assert not ring.scrub() and b"old" * 100 in (tmp_path / "keys" / "data.mdb").read_bytes()
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert ring.scrub() and b"old" * 3 not in (tmp_path / "keys" / "data.mdb").read_bytes()
        assert ring.items() == [("a", b"new")]


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    """LMDB allows one environment per process and file: the second waits until the first is closed."""
    ring = Keyring(tmp_path, create=True)
    seen: list[bytes | None] = []

    def other() -> None:
        with Keyring(tmp_path) as second:
            seen.append(second.get("a"))

    thread = threading.Thread(target=other)
    thread.start()
    time.sleep(0.05)
    assert not seen
    ring.replace("a", None, b"1")
    ring.close()
    thread.join(10)
    assert seen == [b"1"]


def test_damage_is_named_and_never_ends_the_process(tmp_path: Path) -> None:
    """A file cut anywhere, or of something else, is refused with one sentence naming it (exit 65)."""
    with Keyring(tmp_path, create=True) as ring:
        ring.replace_all([(f"n{i}", None, bytes(700)) for i in range(50)])
    file = tmp_path / "keys" / "data.mdb"
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:4096], whole[:8192], whole[:-4096], b"x" * len(whole), whole[4096:]):
        file.write_bytes(content)
        with pytest.raises((JournalDamaged, JournalForeign)) as caught:
            Keyring(tmp_path)
        assert str(tmp_path) in str(caught.value) and caught.value.exit_code == 65 and "\n" not in str(caught.value)
    file.write_bytes(whole)
    with Keyring(tmp_path) as ring:
        assert len(ring.items()) == 50


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_that_he_may_not(tmp_path: Path) -> None:
    """Exit 77, and as whom to run it."""
    with Keyring(tmp_path, create=True):
        pass
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setuid(65534)
            Keyring(tmp_path)
        except KeysForbidden as error:
            code = error.exit_code if "run the command as the daemon's user" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
