"""Reading a journal: beside a running daemon, after a kill, or a copy of it on another machine.

Reads run in short transactions (bounded by records and bytes) and copy what they return: an open read transaction would
keep the writer from using pages again and the file would grow. Every record's CRC and number are checked before its bytes
are handed out, the chain as well when iterating; what does not agree raises :class:`JournalDamaged`, never returns.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import lmdb

from copyd.journal import pages, place, records
from copyd.journal.errors import JournalDamaged, JournalError, JournalForeign, JournalUnreadable
from copyd.journal.records import Record, State

READ_RECORDS_MAX = 256
READ_BYTES_MAX = 8 << 20
READERS_MAX = 256
#: What the library says of the file itself; all else it raises on opening is the system's.
SPEAKS_OF_THE_FILE = (
    lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError, lmdb.IncompatibleError,
    lmdb.PanicError,
)


class Checkpoint(NamedTuple):
    """State of the caller after record ``seq``; ``chain_hash`` is that record's hash, ``epoch`` the start that wrote it."""

    seq: int
    payload: bytes
    chain_hash: bytes
    epoch: int


def examine(path: Path) -> pages.Snapshot:
    """Look at the data file's meta pages before the library does; raises when it is not a whole copyd journal.

    A live file changes under the look: what does not agree is looked at again before it is believed.
    """
    file = path / place.DATA_FILE
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise JournalForeign(f"{path}: no journal there ({place.DATA_FILE} is missing)") from None
    except OSError as error:
        raise JournalUnreadable(f"{file}: {error.strerror}") from error
    try:
        for attempts_left in range(19, -1, -1):
            try:
                snapshot = pages.read_snapshot(fd)
            except pages.NotAJournalFile as error:
                raise JournalForeign(f"{file}: not a copyd journal: {error}") from None
            except records.StateUnreadable as error:
                raise JournalForeign(f"{file}: {error}") from None
            if snapshot.state is not None and not snapshot.faults:
                return snapshot
            if not attempts_left or (snapshot.state is None and not snapshot.faults):
                break
    finally:
        os.close(fd)
    if not snapshot.faults:
        raise JournalForeign(f"{file}: an LMDB file, but not a copyd journal")
    raise JournalDamaged(f"{file}: {'; '.join(snapshot.faults)}")


def refused(path: Path, error: BaseException) -> JournalError:
    """Why the library would not open it: the system's reasons are not the file's."""
    code = getattr(error, "code", None) or getattr(error, "errno", None) or 0
    if isinstance(error, OSError | MemoryError) or code > 0 or not isinstance(error, SPEAKS_OF_THE_FILE):
        return JournalUnreadable(f"{path}: it could not be opened: {error}")
    return JournalDamaged(f"{path}: LMDB refuses it: {error}")


class Reader:
    """A read-only view of a journal directory. One object per process and journal; use as a context manager.

    The daemon's lock is not needed. Where the directory cannot be written (a read-only copy), LMDB's reader table cannot
    be kept; that is allowed only while no daemon holds the journal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._env = self._open()
        self._log, self._checkpoints = self._databases()
        self._pid = os.getpid()
        self._owned = True

    @classmethod
    def sharing(cls, path: Path, env: lmdb.Environment, log: lmdb._Database, checkpoints: lmdb._Database) -> Reader:
        """A reader inside the process that writes (LMDB allows one environment per process and file)."""
        reader = cls.__new__(cls)
        reader.path, reader._env, reader._log, reader._checkpoints = path, env, log, checkpoints
        reader._pid, reader._owned = os.getpid(), False
        return reader

    def _open(self) -> lmdb.Environment:
        snapshot = examine(self.path)
        writable = os.access(self.path, os.W_OK)
        if not writable and not os.access(self.path / "lock.mdb", os.W_OK) and place.holder(self.path):
            raise JournalError(f"{self.path}: a daemon is writing it and this user may not register as a reader (lock.mdb)")
        try:
            return lmdb.open(
                str(self.path),
                map_size=snapshot.meta.map_size,
                max_dbs=4,
                max_readers=READERS_MAX,
                readonly=True,
                lock=writable or os.access(self.path / "lock.mdb", os.W_OK),
                create=False,
                readahead=False,
            )
        except (lmdb.Error, OSError) as error:
            raise refused(self.path, error) from error

    def _databases(self) -> tuple[lmdb._Database, lmdb._Database]:
        try:
            log = self._env.open_db(records.LOG_DB, create=False)
            return log, self._env.open_db(records.CHECKPOINT_DB, create=False)
        except lmdb.Error as error:
            raise JournalDamaged(f"{self.path}: its databases cannot be opened: {error}") from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._owned:
            self._env.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        if os.getpid() != self._pid:
            raise JournalError("a journal reader does not survive fork: open a new one in the child")
        try:
            try:
                txn = self._env.begin(buffers=True)
            except lmdb.MapResizedError:  # the daemon came back with a larger map
                if not self._owned:
                    raise
                self._env.close()
                self._env = self._open()
                self._log, self._checkpoints = self._databases()
                txn = self._env.begin(buffers=True)
            with txn:
                yield txn
        except lmdb.Error as error:
            raise JournalDamaged(f"{self.path}: LMDB cannot read it: {error}") from error

    def _state(self, txn: lmdb.Transaction) -> State:
        value = txn.get(records.STATE_KEY)
        if value is None:
            raise JournalDamaged(f"{self.path}: its state value is gone")
        try:
            state = records.decode_state(value)
        except records.StateUnreadable as error:
            raise JournalDamaged(f"{self.path}: {error}") from None
        if state.txn_id != txn.id():
            raise JournalDamaged(f"{self.path}: transaction {txn.id()} shows the tree of transaction {state.txn_id}")
        return state

    def state(self) -> State:
        """The journal about itself as of the latest commit: site, epoch, first and last record."""
        with self._reading() as txn:
            return self._state(txn)

    def get(self, seq: int) -> Record | None:
        """Record ``seq``, or None when the journal does not hold it (not yet written, or dropped by retention)."""
        with self._reading() as txn:
            state = self._state(txn)
            if not state.first_seq <= seq <= state.last_seq:
                return None
            return self._record(txn, seq)

    def _record(self, txn: lmdb.Transaction, seq: int) -> Record:
        value = txn.get(records.seq_key(seq), db=self._log)
        if value is None:
            raise JournalDamaged(f"{self.path}: record {seq} is missing", seq)
        return records.decode_record(value, seq)

    def iterate(self, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Record]:
        """Records ``from_seq`` .. ``to_seq`` inclusive (default: to the last one at the time of the call), chain checked.

        Starts at the first record kept when earlier ones were dropped.
        """
        with self._reading() as txn:
            state = self._state(txn)
            first = max(from_seq, state.first_seq)
            last = state.last_seq if to_seq is None else min(to_seq, state.last_seq)
            expected = state.anchor if first == state.first_seq else None
        while first <= last:
            batch: list[Record] = []
            taken = 0
            with self._reading() as txn, txn.cursor(db=self._log) as cursor:
                present = cursor.set_key(records.seq_key(first))
                while present and len(batch) < READ_RECORDS_MAX and taken < READ_BYTES_MAX and first <= last:
                    if bytes(cursor.key()) != records.seq_key(first):
                        present = False
                        break
                    value = cursor.value()
                    record = records.decode_record(value, first)
                    if expected is not None and record.prev_hash != expected:
                        raise JournalDamaged(f"record {first}: does not follow from record {first - 1} (chain hash)", first)
                    expected = record.hash
                    taken += len(value)
                    batch.append(record)
                    first += 1
                    present = first > last or cursor.next()
                if not present:
                    kept = self._state(txn).first_seq
                    if kept <= first:
                        raise JournalDamaged(f"{self.path}: record {first} is missing", first)
            yield from batch
            if not present:
                raise JournalError(f"{self.path}: records below {kept} were dropped while they were being read")

    def checkpoints(self) -> list[int]:
        """Record numbers of the complete checkpoints, oldest first."""
        with self._reading() as txn, txn.cursor(db=self._checkpoints) as cursor:
            found = []
            for key in cursor.iternext(keys=True, values=False):
                seq, chunk = self._checkpoint_key(key)
                if chunk == 0:
                    found.append(seq)
            return found

    def _checkpoint_key(self, key: records.Buffer) -> tuple[int, int]:
        try:
            return records.split_checkpoint_key(key)
        except ValueError as error:
            raise JournalDamaged(f"{self.path}: {error}") from None

    def latest_checkpoint(self, max_seq: int | None = None) -> Checkpoint | None:
        """The newest complete checkpoint at or below ``max_seq``; None when there is none.

        A damaged one raises: choosing an older one is the caller's decision (``max_seq``), not a silent fallback.
        """
        while True:
            wanted = [seq for seq in self.checkpoints() if max_seq is None or seq <= max_seq]
            if not wanted:
                return None
            found = self._checkpoint(wanted[-1])
            if found is not None:
                return found

    def _checkpoint(self, seq: int) -> Checkpoint | None:
        """One checkpoint, a chunk per transaction; None when the daemon removed it meanwhile."""
        content: list[bytes] = []
        head = None
        index = 0
        while head is None or index <= head.chunks:
            with self._reading() as txn:
                value = txn.get(records.checkpoint_key(seq, index), db=self._checkpoints)
                if value is None:
                    if txn.get(records.checkpoint_key(seq, 0), db=self._checkpoints) is None:
                        return None
                    raise JournalDamaged(f"checkpoint at record {seq}: chunk {index} is missing", seq)
                if head is None:
                    head = records.decode_checkpoint_head(value, seq)
                else:
                    content.append(records.decode_chunk(value, seq, index))
            index += 1
        payload = b"".join(content)
        if len(payload) != head.length or hashlib.blake2b(payload, digest_size=16).digest() != head.digest:
            raise JournalDamaged(f"checkpoint at record {seq}: its content is not what was written", seq)
        return Checkpoint(seq, payload, head.chain_hash, head.epoch)
