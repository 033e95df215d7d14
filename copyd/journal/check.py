"""Verification of a whole journal: every record, every checkpoint, every page of the file.

Two readings of the same bytes. First :mod:`copyd.journal.pages` walks the file without the library and each record is checked:
magic, CRC, number, chain, epoch; checkpoints likewise; then the tree itself, down to each page being either in use or free.
Only when nothing was found does the library read it too, and must return exactly what the walk saw: what was verified is
what readers get.

:func:`check_in_child` does this in a process of its own, so a crash of the library (SIGSEGV, SIGBUS, an assertion) or a hang
is a finding like any other, with the record it was reading. It works on a running daemon's journal (one read transaction is
held meanwhile: the file may grow by what the daemon writes in that time) and on a copy on another machine.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import lmdb
import msgspec

from copyd.journal import pages, place, records
from copyd.journal.errors import JournalDamaged, JournalError
from copyd.journal.reader import Reader
from copyd.journal.records import State

FINDINGS_MAX = 200
CHECK_TIMEOUT_S = 900.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it was written.

    code: file, foreign, meta, page, record, chain, checkpoint, library, crash. seq_first .. seq_last: the records it concerns
    (0: none or all). page: number of the LMDB page, -1 when it is not about one.
    """

    code: str
    message: str
    seq_first: int = 0
    seq_last: int = 0
    page: int = -1


class Findings(msgspec.Struct):
    """What a verification found and what it covered. ``digest`` (hex) is over all records as read, for comparing copies."""

    path: str
    findings: list[Finding] = []
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    epoch: int = 0
    checkpoints: list[int] = []
    head: str = ""
    digest: str = ""
    file_bytes: int = 0
    live: bool = False
    suppressed: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


def check(path: str | os.PathLike[str], *, trace: pages.Trace | None = None, progress_fd: int = -1) -> Findings:
    """Verify the journal in this process; see :func:`check_in_child` for the safe form. Damage is returned, not raised.

    ``trace`` learns every byte range the result depends on; ``progress_fd`` gets the record the library is reading.
    """
    for _ in range(3):
        work = _Check(Path(path), trace, progress_fd)
        if work.run():
            return work.result
    work.found("file", "the file changed while it was read, again and again; stop what writes it, or verify a copy")
    return work.result


class _Check:
    """One verification; ``run`` is False when the file changed under an unpinned walk."""

    def __init__(self, path: Path, trace: pages.Trace | None, progress_fd: int) -> None:
        self.path = path
        self.trace = trace
        self.progress_fd = progress_fd
        self.result = Findings(str(path))
        self.first = self.last = 0
        self.rolling = {records.LOG_DB: 0, records.CHECKPOINT_DB: 0}  # CRC32 over (key, value) as the walk read them

    def found(self, code: str, message: str, first: int = 0, last: int = 0, page: int = -1) -> None:
        if len(self.result.findings) >= FINDINGS_MAX:
            self.result.suppressed += 1
        else:
            self.result.findings.append(Finding(code, message, first, last or first, page))

    def run(self) -> bool:
        try:
            fd = os.open(self.path / place.DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.found("file", f"{self.path / place.DATA_FILE}: {error.strerror}")
            return True
        try:
            self.result.file_bytes = os.fstat(fd).st_size
            self.result.live = place.holder(self.path) != 0
            if self.result.live:
                return self._run_pinned(fd)
            before = self._metas(fd)
            self._walk(fd, 0)
            if self._metas(fd) != before:
                return False
            if self.result.ok:
                with Reader(self.path) as reader, reader._reading() as txn:
                    self._library(reader, txn)
        except OSError as error:
            self.found("file", f"{self.path / place.DATA_FILE}: {error.strerror}")
        except JournalError as error:
            self.found("library", str(error), getattr(error, "seq", 0))
        finally:
            os.close(fd)
        return True

    def _run_pinned(self, fd: int) -> bool:
        """Beside a running daemon: a read transaction keeps the pages of one state from being used again."""
        with Reader(self.path) as reader, reader._reading() as txn:
            if not self._walk(fd, txn.id()):
                return False
            if self.result.ok:
                self._library(reader, txn)
        return True

    @staticmethod
    def _metas(fd: int) -> tuple[bytes, ...]:
        try:
            return tuple(meta.raw for meta in pages.read_metas(fd))
        except pages.NotAJournalFile:
            return ()

    def _walk(self, fd: int, txn_id: int) -> bool:
        """The reading without the library; False when the pinned state is no longer on a meta page (look again)."""
        try:
            snapshot = pages.read_snapshot(fd, txn_id)
        except pages.NotAJournalFile as error:
            self.found("file", f"not a journal: {error}")
            return True
        except records.StateUnreadable as error:
            self.found("foreign", str(error))
            return True
        if txn_id and snapshot.meta.txn_id != txn_id:
            return False
        for fault in snapshot.faults:
            self.found("meta", fault)
        state = snapshot.state
        if snapshot.faults:
            return True
        if state is None:
            self.found("foreign", "an LMDB file, but not a copyd journal: it has no state value")
            return True
        self.first, self.last = state.first_seq, state.last_seq
        self.result.first_seq, self.result.last_seq, self.result.epoch = state.first_seq, state.last_seq, state.epoch
        if self.trace:
            for meta in (snapshot.meta, snapshot.other):
                at = meta.slot * meta.page_bytes
                self.trace(at, pages.META_BYTES, 0, 0)
        walk = pages.Walk(fd, snapshot.meta, self._page_report, self.trace)
        databases = self._main(walk, snapshot.meta)
        links = self._checkpoints(walk, databases.get(records.CHECKPOINT_DB), state)
        self._records(walk, databases.get(records.LOG_DB), state, links)
        walk.free_list()
        if self.result.ok:
            walk.finish()
        return True

    def _page_report(self, page: int, message: str, low: int, high: int) -> None:
        """A report of the walk: separators (upper one exclusive) become the records the page stands for."""
        if low or high:
            first = low or self.first
            last = max(high - 1 if high else self.last, first)
            message = f"{message} (record {first})" if first == last else f"{message} (records {first} to {last})"
            self.found("page", message, first, last, page)
        else:
            whole = message.startswith("log:")  # the root stands for every record
            self.found("page", message, self.first if whole else 0, self.last if whole else 0, page)

    def _main(self, walk: pages.Walk, meta: pages.Meta) -> dict[bytes, pages.Db]:
        """The unnamed database: the state and the two named ones, nothing else."""
        databases: dict[bytes, pages.Db] = {}
        seen = []
        for value in walk.tree("main", meta.main):
            seen.append(value.key)
            named = value.key in (records.LOG_DB, records.CHECKPOINT_DB)
            if value.flags != (pages.F_SUBDATA if named else 0):
                self.found("page", f"main: entry {value.key!r} has flags {value.flags:#x}", page=value.page)
            elif named:
                try:
                    database = pages.db_record(walk.read(value))
                except ValueError as error:
                    self.found("page", f"main: entry {value.key!r}: {error}", page=value.page)
                    continue
                if database.pad or database.flags:
                    told = f"pad {database.pad}, flags {database.flags:#x}"
                    self.found("page", f"main: database {value.key!r} has {told}", page=value.page)
                databases[value.key] = database
        wanted = sorted((records.CHECKPOINT_DB, records.LOG_DB, records.STATE_KEY))
        if seen != wanted and self.result.ok:
            self.found("page", f"main: holds {seen}, must hold {wanted}")
        return databases

    def _checkpoints(self, walk: pages.Walk, database: pages.Db | None, state: State) -> dict[int, bytes]:
        """Every complete checkpoint; returns the chain hash each one claims for its record."""
        heads: dict[int, records.CheckpointHead] = {}
        digests: dict[int, hashlib.blake2b] = {}
        sizes: dict[int, int] = {}
        chunks: dict[int, int] = {}
        rolling = 0
        if database is None:
            return {}
        for value in walk.tree("checkpoint", database, seq_keys=True):
            content = walk.read(value)
            rolling = zlib.crc32(content, zlib.crc32(value.key, rolling))
            try:
                seq, index = records.split_checkpoint_key(value.key)
            except ValueError as error:
                self.found("checkpoint", str(error), page=value.page)
                continue
            try:
                if index == 0:
                    heads[seq] = records.decode_checkpoint_head(content, seq)
                    continue
                part = records.decode_chunk(content, seq, index)
            except JournalDamaged as error:
                self.found("checkpoint", str(error), seq, page=value.page)
                continue
            digests.setdefault(seq, hashlib.blake2b(digest_size=records.HASH_BYTES)).update(part)
            sizes[seq] = sizes.get(seq, 0) + len(part)
            chunks[seq] = chunks.get(seq, 0) + 1
        self.rolling[records.CHECKPOINT_DB] = rolling
        links = {}
        for seq, head in heads.items():
            digest = digests.get(seq) or hashlib.blake2b(digest_size=records.HASH_BYTES)
            if (head.chunks, head.length, head.digest) != (chunks.get(seq, 0), sizes.get(seq, 0), digest.digest()):
                self.found("checkpoint", f"checkpoint at record {seq}: its chunks are not what its head says", seq)
            elif not state.first_seq <= seq <= state.last_seq or head.epoch > state.epoch:
                self.found("checkpoint", f"checkpoint at record {seq} of epoch {head.epoch} is outside the journal", seq)
            else:
                links[seq] = head.chain_hash
        self.result.checkpoints = sorted(links)
        return links

    def _records(self, walk: pages.Walk, database: pages.Db | None, state: State, links: dict[int, bytes]) -> None:
        """Every record in order: its frame, its place, the chain."""
        expected = state.first_seq
        previous: bytes | None = state.anchor
        epoch = rolling = 0
        digest = hashlib.blake2b(digest_size=records.HASH_BYTES)
        for value in walk.tree("log", database, seq_keys=True) if database else ():
            content = walk.read(value)
            rolling = zlib.crc32(content, zlib.crc32(value.key, rolling))
            seq = int.from_bytes(value.key, "big")
            if len(value.key) != 8 or not state.first_seq <= seq <= state.last_seq:
                where = f"outside {self.first} to {self.last}"
                self.found("record", f"a record under key {value.key.hex()}, {where}", page=value.page)
                previous = None
                continue
            if seq > expected:
                self._missing(expected, seq - 1)
                previous = None
            expected = seq + 1
            try:
                record = records.decode_record(content, seq)
            except JournalDamaged as error:
                self.found("record", str(error), seq, page=value.page)
                previous = None
                continue
            if previous is not None and record.prev_hash != previous:
                self.found("chain", f"record {seq}: does not follow from record {seq - 1} (chain hash)", seq)
            if record.epoch < epoch or record.epoch > state.epoch:
                self.found("record", f"record {seq}: epoch {record.epoch} after {epoch}, the journal's is {state.epoch}", seq)
            if links.get(seq, record.hash) != record.hash:
                self.found("chain", f"record {seq}: not the one its checkpoint was made at (chain hash)", seq)
            previous, epoch = record.hash, max(epoch, record.epoch)
            digest.update(record.hash)
            self.result.records += 1
        if expected <= state.last_seq:
            self._missing(expected, state.last_seq)
        self.rolling[records.LOG_DB] = rolling
        self.result.head = (previous or b"").hex()
        self.result.digest = digest.hexdigest()

    def _missing(self, first: int, last: int) -> None:
        what = f"record {first} is missing" if first == last else f"records {first} to {last} are missing"
        self.found("record", what, first, last)

    def _library(self, reader: Reader, txn: lmdb.Transaction) -> None:
        """The library must hand out the very bytes the walk read."""
        reader._state(txn)
        for name, database in ((records.LOG_DB, reader._log), (records.CHECKPOINT_DB, reader._checkpoints)):
            rolling = 0
            with txn.cursor(db=database) as cursor:
                for key in cursor.iternext(keys=True, values=False):
                    if self.progress_fd >= 0:
                        os.pwrite(self.progress_fd, bytes(key[:8]), 0)
                    rolling = zlib.crc32(cursor.value(), zlib.crc32(key, rolling))
            if rolling != self.rolling[name]:
                self.found("library", f"{name.decode()}: LMDB returns other bytes than the file holds")


# In a process of its own ------------------------------------------------------------------------------------------------


def check_in_child(path: str | os.PathLike[str], *, timeout_s: float = CHECK_TIMEOUT_S) -> Findings:
    """Verify in a child process: whatever the library does to it comes back as a finding."""
    return run_child([sys.executable, "-m", "copyd.journal.check", os.fspath(path)], path, timeout_s)


def run_child(command: list[str], path: str | os.PathLike[str], timeout_s: float) -> Findings:
    """Run ``command`` with the number of a progress file added; its last line of output is a :class:`Findings` in JSON."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    progress = os.memfd_create("journal-check")
    try:
        try:
            child = subprocess.run(
                [*command, str(progress)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=(progress,),
                env=environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            result = Findings(os.fspath(path))
            result.findings.append(Finding("crash", f"verification did not end within {timeout_s} s", *_reading(progress)))
            return result
        if child.returncode == 0:
            return msgspec.json.decode(child.stdout, type=Findings)
        result = Findings(os.fspath(path))
        seq = _reading(progress)
        where = f" while reading record {seq[0]}" if seq else ""
        if child.returncode < 0:
            ended = f"crashed ({signal.Signals(-child.returncode).name})"
        else:
            last_words = child.stderr.decode(errors="replace").strip().splitlines()
            ended = f"failed: {last_words[-1] if last_words else f'exit {child.returncode}'}"
        result.findings.append(Finding("crash", f"verification {ended}{where}", *seq))
        return result
    finally:
        os.close(progress)


def _reading(progress: int) -> tuple[int, ...]:
    seq = int.from_bytes(os.pread(progress, 8, 0), "big")
    return (seq, seq) if seq else ()


def main(arguments: list[str]) -> int:
    """The child: verify ``arguments[0]``, print the findings as one JSON line. Exit 0 whatever was found."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result = check(arguments[0], progress_fd=int(arguments[1]) if len(arguments) > 1 else -1)
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
