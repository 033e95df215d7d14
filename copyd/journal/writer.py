"""The journal the daemon writes: appends from the loop, commits in one thread, says when a record is on disk.

    loop:    append(kind, ts_ns, parts) -> seq          never blocks; what was handed over must stay unchanged until durable
    writer:  everything queued -> one transaction -> sync -> durable(seq)          (group commit, no timer)
    loop:    on_durable(seq), committed(seq)            by call_soon_threadsafe

The writer thread owns every write transaction from begin to commit (LMDB's writer lock belongs to a thread); the GIL is
released while it writes and syncs. After one failed commit nothing is acknowledged any more and ``append`` raises: the
kernel may have dropped the pages it could not write, so trying again would prove nothing. The process ends with exit code
74 and restart is replay.

Durability: ``strict`` syncs data and meta page in every commit; nothing acknowledged is lost to a power cut. ``process``
does not sync: nothing is lost when the process dies, but after an operating-system crash or power cut everything since the
last sync (made at checkpoints and at close) may be missing **and the file may be unreadable**. For benchmarks and rehearsals.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import heapq
import os
import queue
import secrets
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import lmdb

from copyd.journal import pages, place, records
from copyd.journal.errors import (
    JournalDamaged,
    JournalError,
    JournalForeign,
    JournalMisused,
    JournalUnreadable,
    JournalWriteError,
)
from copyd.journal.reader import READERS_MAX, Checkpoint, Reader, examine, refused
from copyd.journal.records import Buffer, CheckpointHead, State

MAP_BYTES_DEFAULT = 64 << 30
MAP_BYTES_MIN = 64 << 10
CHECKPOINTS_KEPT = 3

BATCH_RECORDS_MAX = 4096
BATCH_BYTES_MAX = 32 << 20
DROP_RECORDS_MAX = 256
DROP_BYTES_MAX = 8 << 20
#: Written ahead of the last page while nothing is to do: a commit into pages the file already has costs about half.
RUNWAY_BYTES_DEFAULT = 32 << 20
RUNWAY_STEP_BYTES = 256 << 10
RUNWAY_IDLE_S = 0.02
#: So often the places of readers that were killed are freed; until then their pages are not used again.
READERS_CLEARED_S = 60.0
#: With less than this free, a write that was cut short is put down to a full disk.
DISK_FULL_BYTES = 1 << 20
#: A chore (checkpoint chunk, drop batch) waits for an idle moment, but for no more than this many commits.
CHORE_WAITS_COMMITS_MAX = 8

Durability = Literal["strict", "process"]


class Room(NamedTuple):
    """What is left, in bytes. ``map_free``: unused and reusable pages of the map; ``disk_free``: of the file system."""

    map_free: int
    disk_free: int
    map_size: int

    @property
    def free(self) -> int:
        """The smaller of the two: what openings are stopped by."""
        return min(self.map_free, self.disk_free)


class _Append(NamedTuple):
    seq: int
    kind: int
    ts_ns: int
    parts: Sequence[Buffer]
    payload_bytes: int


class _Chore(NamedTuple):
    """Work in bounded transactions between commits; each step of ``steps`` is one transaction."""

    steps: Iterator[None]
    done: Callable[[], None]


class Journal:
    """One daemon's journal: the only writer of its directory. Made by :meth:`open`; used from one thread (the loop's).

    ``epoch``: 24-bit number of this start, larger than any before it, committed before :meth:`open` returns.
    ``site_key``: 16 random bytes made with the journal, for keyed ids. ``reader``: reads through the same environment.
    ``put_back``: later epochs were taken in this directory than its data file knows of: an older copy was put back, orders
    and fills of that time are at the venue only.
    """

    def __init__(
        self,
        path: Path,
        lock_fd: int,
        env: lmdb.Environment,
        durability: Durability,
        state: State,
        runway_bytes: int,
    ) -> None:
        self.path = path
        self.durability = durability
        self._lock_fd = lock_fd
        self._env = env
        self._log = env.open_db(records.LOG_DB, create=False)
        self._checkpoints = env.open_db(records.CHECKPOINT_DB, create=False)
        self.reader = Reader.sharing(path, env, self._log, self._checkpoints)
        self._data_fd = os.open(path / place.DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        self._runway_bytes = runway_bytes
        self._page_bytes = env.stat()["psize"]
        self._map_size = env.info()["map_size"]
        self._pid = os.getpid()
        self._state = state
        self._next_seq = state.last_seq + 1
        self._durable = state.last_seq
        self._head = state.anchor  # chain hash of the last record committed
        self.put_back = False
        self._used_bytes = 0
        self._runway_short = False
        self._runway_end = 0
        #: Both meta pages as their transactions left them, and which transaction's CRC was taken last.
        self._metas = [os.pread(self._data_fd, pages.META_BYTES, slot * self._page_bytes) for slot in (0, 1)]
        self._last_meta = (-1, 0)  # (transaction, CRC32 of its meta page)
        self._readers_cleared = time.monotonic()
        self._queue: queue.SimpleQueue[_Append | _Chore | None] = queue.SimpleQueue()
        self._failure: JournalWriteError | None = None
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_durable: Callable[[int], None] | None = None
        self._on_failed: Callable[[JournalWriteError], None] | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[int]]] = []
        self._waiters_made = 0
        self._chores_pending = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    # Opening ----------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        site: int,
        map_size: int = MAP_BYTES_DEFAULT,
        durability: Durability = "strict",
        create: bool = True,
        verify: Literal["tail", "full"] = "tail",
        runway_bytes: int = RUNWAY_BYTES_DEFAULT,
    ) -> Journal:
        """Take the journal directory ``path`` and make it ready to append.

        site: 16-bit tag of this installation; must be the one the journal was made with. map_size: bytes, the most the file
        can grow to (sparse); never shrunk below what it was. create: make a new journal when there is none. verify: ``tail``
        checks the meta pages and the chain from the latest checkpoint on, ``full`` also walks everything in a child process.
        runway_bytes: zeros kept written beyond the last page, prepared while idle; 0 = none.

        Raises JournalLocked (another daemon; exit 75), JournalForeign (not ours, newer, other site, network disk; 65),
        JournalDamaged (65), JournalUnreadable (the system will not open it; 74), JournalWriteError (no room for the first
        commit; 74).
        """
        directory = Path(path)
        if not 0 <= site <= 0xFFFF:
            raise JournalMisused(f"site {site} does not fit 16 bits")
        if durability not in ("strict", "process"):
            raise JournalMisused(f"durability {durability!r}: strict or process")
        try:
            if create:
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            elif not (directory / place.DATA_FILE).exists():
                raise JournalForeign(f"{directory}: no journal there ({place.DATA_FILE} is missing)")
            place.refuse_unfit_file_system(directory)
            lock_fd = place.lock(directory)
        except OSError as error:
            raise JournalUnreadable(f"{directory}: {error.strerror}: {error.filename or ''}".rstrip(": ")) from error
        try:
            if not (directory / place.DATA_FILE).exists():
                _create(directory, site, map_size)
            return cls._open_locked(directory, lock_fd, site, map_size, durability, verify, runway_bytes)
        except BaseException:
            os.close(lock_fd)
            raise

    @classmethod
    def _open_locked(
        cls, path: Path, lock_fd: int, site: int, map_size: int, durability: Durability, verify: str, runway_bytes: int
    ) -> Journal:
        snapshot = examine(path)
        # A file that lost its end is not for the library: a page behind the end of the map's file kills the process.
        short = (path / place.DATA_FILE).stat().st_size < (snapshot.meta.last_page + 1) * snapshot.meta.page_bytes
        if verify == "full" or short:
            from copyd.journal.check import check_in_child  # its child imports this package again

            findings = check_in_child(path)
            if findings.findings:
                first = findings.findings[0]
                raise JournalDamaged(f"{path}: {first.message}", first.seq_first)
        state = snapshot.state
        assert state is not None
        if state.site != site:
            raise JournalForeign(f"{path}: made for site {state.site:04x}, this daemon is site {site:04x}")
        page = snapshot.meta.page_bytes
        size = max((max(map_size, MAP_BYTES_MIN) + page - 1) // page * page, snapshot.meta.map_size)
        strict = durability == "strict"
        try:
            env = lmdb.open(
                str(path),
                map_size=size,
                max_dbs=4,
                max_readers=READERS_MAX,
                sync=strict,
                metasync=True,
                writemap=False,
                create=False,
                readahead=False,
                mode=0o640,
            )
        except (lmdb.Error, OSError) as error:
            raise refused(path, error) from error
        try:
            env.reader_check()  # slots of readers that were killed
            journal = cls(path, lock_fd, env, durability, state, runway_bytes)
        except OSError as error:
            env.close()
            raise refused(path, error) from error
        except BaseException:
            env.close()
            raise
        try:
            journal._begin()
        except OSError as error:
            journal._close_files()
            raise refused(path, error) from error
        except BaseException:
            journal._close_files()
            raise
        return journal

    def _begin(self) -> None:
        """Verify the tail, remove what an interrupted checkpoint left, commit the new epoch, start the writer."""
        self._head = self._verify_tail()
        taken = place.epoch_mark(self.path)
        self.put_back = taken > self._state.epoch
        state = self._state._replace(epoch=max(taken, self._state.epoch) + 1)
        if state.epoch > records.EPOCH_MAX:
            raise JournalForeign(f"{self.path}: its {records.EPOCH_MAX} epochs are used up; start a new journal")
        try:
            with self._transaction(state) as txn:
                self._remove_headless_checkpoints(txn)
            place.mark_epoch(self.path, state.epoch)
            self._look_after()
        except (lmdb.Error, OSError) as error:
            raise _write_error(self.path, error, self._map_size) from error
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def _verify_tail(self) -> bytes:
        """Chain hash of the last record, everything from the latest checkpoint on checked."""
        state = self._state
        checkpoint = self.reader.latest_checkpoint()
        if checkpoint is not None and checkpoint.seq > state.last_seq:
            raise JournalDamaged(f"{self.path}: a checkpoint at record {checkpoint.seq}, records end at {state.last_seq}")
        head = state.anchor
        for record in self.reader.iterate(checkpoint.seq if checkpoint else state.first_seq):
            if checkpoint and record.seq == checkpoint.seq and record.hash != checkpoint.chain_hash:
                raise JournalDamaged(f"record {record.seq}: not the one its checkpoint was made at (chain hash)", record.seq)
            head = record.hash
        return head

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_durable: Callable[[int], None] | None = None,
        on_failed: Callable[[JournalWriteError], None] | None = None,
    ) -> None:
        """Deliver on ``loop``: ``on_durable(seq)`` after each commit (all records up to ``seq`` are durable),
        ``on_failed(error)`` once when a commit fails."""
        self._loop, self._on_durable, self._on_failed = loop, on_durable, on_failed
        if self._failure is not None:
            loop.call_soon(self._deliver_failure)

    # The loop's side --------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def site(self) -> int:
        return self._state.site

    @property
    def site_key(self) -> bytes:
        return self._state.site_key

    @property
    def first_seq(self) -> int:
        """Number of the first record kept."""
        return self._state.first_seq

    @property
    def last_seq(self) -> int:
        """Number of the last record appended (durable or not); first_seq - 1 when there is none."""
        return self._next_seq - 1

    @property
    def durable_seq(self) -> int:
        """Number up to which every record is on disk (at the chosen durability)."""
        return self._durable

    @property
    def failure(self) -> JournalWriteError | None:
        """Why the journal stopped, None while it works."""
        return self._failure

    def append(self, kind: int, ts_ns: int, parts: Sequence[Buffer]) -> int:
        """Queue one record and return its number. Never blocks.

        kind: u16; ts_ns: i64, ns since 1970; parts: bytes-likes, joined in order. They are referenced, not copied: they
        must not change until the record is durable.
        """
        self._usable()
        if not 0 <= kind <= 0xFFFF:
            raise JournalMisused(f"record kind {kind} does not fit 16 bits")
        size = 0
        for part in parts:
            size += len(part) if type(part) is bytes else memoryview(part).nbytes
        if size > records.PAYLOAD_BYTES_MAX:
            raise JournalMisused(f"a record of {size} bytes; at most {records.PAYLOAD_BYTES_MAX}")
        seq = self._next_seq
        self._next_seq = seq + 1
        self._queue.put(_Append(seq, kind, ts_ns, parts, size))
        return seq

    def committed(self, seq: int) -> asyncio.Future[int]:
        """A future of the running loop: done when record ``seq`` is durable, failed when it never will be."""
        loop = self._loop or asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        future: asyncio.Future[int] = loop.create_future()
        if seq <= self._durable:
            future.set_result(self._durable)
        elif self._failure is not None:
            future.set_exception(self._failure)
        elif seq >= self._next_seq:
            future.set_exception(JournalMisused(f"record {seq} was never appended; the last is {self.last_seq}"))
        else:
            self._waiters_made += 1
            heapq.heappush(self._waiters, (seq, self._waiters_made, future))
            if seq <= self._durable or self._failure is not None:  # it happened since
                loop.call_soon(self._deliver)
        return future

    def wait(self, seq: int, timeout_s: float | None = None) -> None:
        """Block until ``seq`` is durable (for tools and tests; the daemon uses :meth:`committed`)."""
        with self._changed:
            self._changed.wait_for(lambda: self._durable >= seq or self._failure is not None, timeout_s)
        if self._durable >= seq:
            return
        raise self._failure or JournalError(f"record {seq} was not durable within {timeout_s} s")

    def flush(self, timeout_s: float | None = None) -> None:
        """Block until everything appended is durable and every checkpoint and drop asked for is done."""
        self._usable()
        self._add_chore(iter(()))  # done when everything queued before it is
        with self._changed:
            self._changed.wait_for(lambda: not self._chores_pending or self._failure is not None, timeout_s)
        if self._failure is not None:
            raise self._failure

    def room(self) -> Room:
        """Free bytes of the map (reusable pages included) and of the disk."""
        disk = os.statvfs(self.path)
        return Room(max(0, self._map_size - self._used_bytes), disk.f_bavail * disk.f_frsize, self._map_size)

    def clear_dead_readers(self) -> int:
        """Free the places of readers that were killed: pages they were looking at may be used again. How many there were.

        The writer does it by itself, about once a minute.
        """
        self._usable()
        return int(self._env.reader_check())

    def checkpoint(self, seq: int, parts: Sequence[Buffer]) -> None:
        """Queue the caller's state after record ``seq``: written in chunks between commits, valid when whole.

        ``parts`` must not change until it is written (:meth:`flush`, or ``latest_checkpoint`` showing it). The newest
        three are kept. ``seq`` must have been appended; the records before it are durable before the checkpoint counts.
        """
        self._usable()
        if not self.first_seq <= seq <= self.last_seq:
            raise JournalMisused(f"a checkpoint at record {seq}; the journal holds {self.first_seq} to {self.last_seq}")
        self._add_chore(self._write_checkpoint(seq, parts))

    def latest_checkpoint(self, max_seq: int | None = None) -> Checkpoint | None:
        """The newest complete checkpoint at or below ``max_seq``. Reads the disk: for start-up, not for the loop."""
        return self.reader.latest_checkpoint(max_seq)

    def drop_before(self, seq: int) -> None:
        """Queue the removal of all records before ``seq``, in bounded transactions between commits.

        Only what a complete checkpoint covers may go: ``seq`` at most the latest checkpoint's record (which stays).
        """
        self._usable()
        covered = [at for at in self.reader.checkpoints() if at >= seq]
        if not covered:
            raise JournalMisused(f"records before {seq} may not be dropped: no checkpoint covers them")
        self._add_chore(self._drop_records(seq))

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is queued, sync, and give the journal back. Safe to call twice; raises nothing but a stuck disk."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._pid:
            return  # a forked child: the parent's thread, transactions and lock are not ours
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise JournalWriteError(f"{self.path}: the disk did not finish a commit within {timeout_s} s")
        self._close_files()
        os.close(self._lock_fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _close_files(self) -> None:
        self._closed = True
        self._env.close()
        os.close(self._data_fd)

    def _usable(self) -> None:
        if os.getpid() != self._pid:
            raise JournalMisused("the journal was used after fork: only the process that opened it may write it")
        if self._closed:
            raise JournalMisused("the journal is closed")
        if self._failure is not None:
            raise self._failure

    def _add_chore(self, steps: Iterator[None]) -> None:
        with self._changed:
            self._chores_pending += 1
        self._queue.put(_Chore(steps, self._chore_done))

    def _chore_done(self) -> None:
        with self._changed:
            self._chores_pending -= 1
            self._changed.notify_all()

    def _deliver(self) -> None:
        """On the loop: everything up to the durable record is acknowledged."""
        durable = self._durable
        while self._waiters and self._waiters[0][0] <= durable:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(durable)
        if self._on_durable is not None:
            self._on_durable(durable)
        if self._failure is not None:
            self._deliver_failure()

    def _deliver_failure(self) -> None:
        failure = self._failure
        assert failure is not None
        waiters, self._waiters = self._waiters, []
        for seq, _, future in waiters:
            if not future.done():
                if seq <= self._durable:
                    future.set_result(self._durable)
                else:
                    future.set_exception(failure)
        callback, self._on_failed = self._on_failed, None
        if callback is not None:
            callback(failure)

    # The writer thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
            if self.durability == "process":
                self._env.sync(True)
        except BaseException as error:
            failure = _write_error(self.path, error, self._map_size)
            failure.__cause__ = error
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
            self._tell(self._deliver_failure)

    def _serve(self) -> None:
        chores: list[_Chore] = []
        commits_since_chore = 0
        stopping = False
        while True:
            batch: list[_Append] = []
            size = 0
            while len(batch) < BATCH_RECORDS_MAX and size < BATCH_BYTES_MAX:
                idle = not (batch or chores or stopping)
                try:
                    item = self._queue.get(block=idle, timeout=RUNWAY_IDLE_S if self._runway_short else None)
                except queue.Empty:
                    if not idle:
                        break
                    while self._queue.empty() and self._runway_short:
                        self._lengthen_runway()
                    continue
                if item is None:
                    stopping = True
                elif isinstance(item, _Append):
                    batch.append(item)
                    size += item.payload_bytes
                else:
                    chores.append(item)
            if batch:
                self._commit(batch)
                commits_since_chore += 1
            if chores and (not batch or commits_since_chore >= CHORE_WAITS_COMMITS_MAX):
                commits_since_chore = 0
                try:
                    next(chores[0].steps)
                except StopIteration:
                    done = chores.pop(0).done
                    self._look_after()
                    done()
            if stopping and not batch and not chores:
                return

    @contextlib.contextmanager
    def _transaction(self, state: State) -> Iterator[lmdb.Transaction]:
        """A write transaction that ends with the state value and the commit; ``self._state`` follows when it holds.

        ``first_seq`` and ``anchor`` may be changed by the body through ``self._pending``.
        """
        txn = self._env.begin(write=True)
        try:
            self._pending = state
            yield txn
            state = self._pending._replace(
                txn_id=txn.id(), map_size=self._map_size, previous_meta_crc=self._meta_crc(txn.id() - 1)
            )
            if not txn.put(records.STATE_KEY, records.encode_state(state)):
                raise JournalWriteError(f"{self.path}: the state value was not taken")
            txn.commit()
        except BaseException:
            with contextlib.suppress(lmdb.Error):
                txn.abort()
            self._undo_meta()
            raise
        self._state = state

    def _meta_crc(self, txn_id: int) -> int:
        """CRC of the meta page of the transaction before: the next commit leaves that page alone and vouches for it."""
        if self._last_meta[0] != txn_id:
            self._read_meta(txn_id)
        return self._last_meta[1]

    def _read_meta(self, txn_id: int) -> None:
        raw = os.pread(self._data_fd, pages.META_BYTES, (txn_id & 1) * self._page_bytes)
        self._metas[txn_id & 1] = raw
        self._last_meta = txn_id, zlib.crc32(raw)

    def _undo_meta(self) -> None:
        """After a commit that failed: the meta page it was to replace, as it was.

        Where writing that page fails, the library puts the old transaction's number back, beside the trees of the new one: a
        page no transaction wrote, which no start would take for ours. The page of the last good commit is never touched.
        """
        slot = (self._state.txn_id + 1) & 1
        at, whole = slot * self._page_bytes, self._metas[slot]
        with contextlib.suppress(OSError):
            if os.pread(self._data_fd, pages.META_BYTES, at) != whole:
                os.pwrite(self._data_fd, whole, at)
                os.fdatasync(self._data_fd)

    def _look_after(self) -> None:
        """After a commit, when nobody waits: the meta page it wrote, and the room that is left.

        Used: pages of the trees, plus a little for the free list and what a commit copies.
        """
        self._read_meta(self._state.txn_id)
        total = 16
        with self._env.begin() as txn:
            for database in (self._log, self._checkpoints):
                stat = txn.stat(database)
                total += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        self._used_bytes = total * self._page_bytes
        if time.monotonic() - self._readers_cleared > READERS_CLEARED_S:
            self._readers_cleared = time.monotonic()
            self._env.reader_check()
        frontier = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        if self._runway_bytes:  # made whole when half of it is used up: small commits must not pay for a sync each
            end = os.fstat(self._data_fd).st_size
            self._runway_short = end < min(frontier + self._runway_bytes // 2, self._map_size)
            self._runway_end = min(frontier + self._runway_bytes, self._map_size)

    def _lengthen_runway(self) -> None:
        """Extend the file by zeros beyond its end (never over anything), synced, so that the next commits need not.

        Runs in the writer thread between transactions: nobody else can be taking those pages. A disk or a limit that
        will not give them is no failure here; the commit that needs the room will say so.
        """
        end = os.fstat(self._data_fd).st_size
        try:
            os.pwrite(self._data_fd, bytes(min(RUNWAY_STEP_BYTES, self._runway_end - end)), end)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            self._runway_bytes = 0
            self._runway_short = False
            return
        if self.durability == "strict":
            os.fdatasync(self._data_fd)
        self._runway_short = end + RUNWAY_STEP_BYTES < self._runway_end

    def _commit(self, batch: list[_Append]) -> None:
        """One transaction for everything queued, then the good news, then the last record's hash (nobody waits for it)."""
        head, epoch = self._head, self._state.epoch
        value = b""
        with self._transaction(self._state._replace(last_seq=batch[-1].seq)) as txn:
            for seq, kind, ts_ns, parts, size in batch:
                if value:
                    head = records.chain_hash(value)
                value = records.encode_record(seq, kind, epoch, ts_ns, head, parts, size)
                if not txn.put(records.seq_key(seq), value, append=True, overwrite=False, db=self._log):
                    raise JournalWriteError(f"{self.path}: record {seq} is already there")
        with self._changed:
            self._durable = batch[-1].seq
            self._changed.notify_all()
        self._tell(self._deliver)
        self._head = records.chain_hash(value)
        self._look_after()

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(callback)

    def _write_checkpoint(self, seq: int, parts: Sequence[Buffer]) -> Iterator[None]:
        """Chunks, one per transaction; the head last, with the removal of the oldest checkpoint."""
        content = memoryview(b"".join(parts))
        size = max(records.CHUNK_BYTES_MIN, -(-content.nbytes // records.CHUNKS_PER_CHECKPOINT))
        digest = hashlib.blake2b(digest_size=records.HASH_BYTES)
        with self._transaction(self._state) as txn:
            self._remove_checkpoint(txn, seq)  # written again: the new content replaces it
        index = 0
        for start in range(0, content.nbytes, size):
            chunk = content[start : start + size]
            digest.update(chunk)
            index += 1
            with self._transaction(self._state) as txn:
                txn.put(records.checkpoint_key(seq, index), records.encode_chunk(seq, index, chunk), db=self._checkpoints)
            yield
        record = self.reader.get(seq)
        if record is None:
            raise JournalDamaged(f"record {seq} is missing, a checkpoint was to be made at it", seq)
        head = CheckpointHead(seq, self._state.epoch, index, content.nbytes, record.hash, digest.digest())
        kept = [at for at in self.reader.checkpoints() if at != seq][-(CHECKPOINTS_KEPT - 1) :]
        with self._transaction(self._state) as txn:
            txn.put(records.checkpoint_key(seq, 0), records.encode_checkpoint_head(head), db=self._checkpoints)
            for at in self.reader.checkpoints():
                if at != seq and at not in kept:
                    self._remove_checkpoint(txn, at)
        if self.durability == "process":
            self._env.sync(True)

    def _remove_checkpoint(self, txn: lmdb.Transaction, seq: int) -> None:
        with txn.cursor(db=self._checkpoints) as cursor:
            chunks = [bytes(key) for key in cursor.iternext(keys=True, values=False)]
        for key in chunks:
            if records.split_checkpoint_key(key)[0] == seq:
                txn.delete(key, db=self._checkpoints)

    def _remove_headless_checkpoints(self, txn: lmdb.Transaction) -> None:
        whole = set(self.reader.checkpoints())
        with txn.cursor(db=self._checkpoints) as cursor:
            found = {records.split_checkpoint_key(key)[0] for key in cursor.iternext(keys=True, values=False)}
        for seq in found - whole:
            self._remove_checkpoint(txn, seq)

    def _drop_records(self, before: int) -> Iterator[None]:
        """Delete from the front; the hash the first kept record must follow is kept in the state.

        Older checkpoints go first: the records that would have to be folded onto them are about to go.
        """
        with self._transaction(self._state) as txn:
            for at in self.reader.checkpoints():
                if at < before:
                    self._remove_checkpoint(txn, at)
        yield
        while (first := self._state.first_seq) < before:
            with self._transaction(self._state) as txn, txn.cursor(db=self._log) as cursor:
                dropped = taken = 0
                cursor.set_key(records.seq_key(first))
                while first < before and dropped < DROP_RECORDS_MAX and taken < DROP_BYTES_MAX:
                    if cursor.key() != records.seq_key(first):
                        break
                    taken += len(cursor.value())
                    cursor.delete()  # moves on to the next
                    first += 1
                    dropped += 1
                if cursor.key() != records.seq_key(first):
                    raise JournalDamaged(f"record {first} is missing", first)
                anchor = records.decode_record(cursor.value(), first, with_hash=False).prev_hash
                self._pending = self._pending._replace(first_seq=first, anchor=anchor)
            yield


def _create(directory: Path, site: int, map_size: int) -> None:
    """Make an empty journal aside, sync it, and put it in place with one rename: never a half-made one.

    LMDB's own first creation is the one moment in which a power cut can leave a file it cannot open.
    """
    aside = directory / ".new"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o750)
        page = os.sysconf("SC_PAGE_SIZE")
        size = (max(map_size, MAP_BYTES_MIN) + page - 1) // page * page
        site_key = secrets.token_bytes(16)
        with lmdb.open(str(aside), map_size=size, max_dbs=4, mode=0o640) as env:
            with env.begin(write=True) as txn:
                env.open_db(records.LOG_DB, txn=txn)
                env.open_db(records.CHECKPOINT_DB, txn=txn)
                previous = (aside / place.DATA_FILE).read_bytes()[: pages.META_BYTES]

                state = State(
                    site=site,
                    epoch=0,
                    created_ns=time.time_ns(),
                    site_key=site_key,
                    txn_id=txn.id(),
                    map_size=size,
                    first_seq=1,
                    last_seq=0,
                    anchor=records.genesis(site, site_key),
                    previous_meta_crc=zlib.crc32(previous),
                )
                txn.put(records.STATE_KEY, records.encode_state(state))
            env.sync(True)
        place.sync_directory(aside)
        (aside / place.DATA_FILE).rename(directory / place.DATA_FILE)
        (directory / "lock.mdb").unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        place.sync_directory(directory)
    except (lmdb.Error, OSError) as error:
        raise _write_error(directory, error, map_size) from error


def _write_error(path: Path, error: BaseException, map_size: int) -> JournalWriteError:
    """The one sentence an operator gets when a commit failed."""
    if isinstance(error, JournalWriteError):
        return error
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if isinstance(error, lmdb.MapFullError):
        why = f"its map of {map_size} bytes is full; raise the journal's map_size and start again"
    elif code in (errno.ENOSPC, errno.EDQUOT) or (code == errno.EIO and _disk_is_full(path)):
        why = "the disk is full; make room and start again"
    elif code == errno.EFBIG:
        why = "the file may not grow any further (file size limit of this process)"
    elif not isinstance(error, (lmdb.Error, OSError)):
        why = f"{error}" if isinstance(error, JournalError) else f"the writer stopped on {error!r}"
    else:
        why = f"a write failed or was cut short ({error}); check the disk and the file size limit before the next start"
    return JournalWriteError(f"{path}: nothing more is written to the journal: {why}")


def _disk_is_full(path: Path) -> bool:
    """LMDB calls a write cut short by a full disk an input/output error; the free space tells the two apart."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(path)
        return disk.f_bavail * disk.f_frsize < DISK_FULL_BYTES
    return False
