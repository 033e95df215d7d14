"""The ring of sealed exchange keys: a small LMDB environment in the folder ``keys`` of the journal's directory.

It lies beside the journal's own file, not in it. Of that file every byte is vouched for by the one process that writes it (its
state value names the transaction, the next commit vouches for the meta page before), and every order waits for its
writer's lock: a command stopped in the middle of a transaction there would hold up exits. Here commands and a running daemon
may read and write at the same time; transactions are short and none is on the way of an order. What is replaced for good is
overwritten in the file (``scrub``); what a disk keeps of overwritten blocks is beyond it.

    unnamed database   copyd.ring -> magic, format version, crc32
    keys               name of the credential -> one value, whose meaning is the caller's (bytes, at most 16 KiB)
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from copyd.journal import pages, place
from copyd.journal.errors import JournalDamaged, JournalForeign, JournalMisused, JournalUnreadable, JournalWriteError
from copyd.journal.reader import refused
from copyd.journal.records import Buffer

FOLDER = "keys"
RING_DB = b"keys"
HEADER_KEY = b"copyd.ring"
FORMAT = 1
MAP_BYTES = 1 << 30
VALUE_BYTES_MAX = 16 << 10
NAME_BYTES_MAX = 256
#: Entries read in one transaction: an open one keeps the file from using pages again.
READ_ENTRIES_MAX = 512
READERS_MAX = 64

#: One environment per process and file is LMDB's rule; threads take turns.
_TURN = threading.Lock()
TURN_TIMEOUT_S = 60.0
#: Transactions that read are over in milliseconds.
SCRUB_TIMEOUT_S = 5.0

_HEADER = struct.Struct("<8sH2x")
_CRC = struct.Struct("<I")
_MAGIC = b"copydRNG"


def _header() -> bytes:
    body = _HEADER.pack(_MAGIC, FORMAT)
    return body + _CRC.pack(zlib.crc32(body))


class KeysForbidden(JournalUnreadable):
    """This user may not open the ring."""

    exit_code = 77


class Keyring:
    """The keys of one journal directory. Use as a context manager, not for long (other threads wait), not over a fork.

    Raises ``JournalForeign`` where there is none or it is of a newer format (exit 65), ``JournalDamaged`` (65),
    ``KeysForbidden`` (77), ``JournalUnreadable`` (74) and ``JournalWriteError`` (74).
    """

    def __init__(self, journal: str | os.PathLike[str], *, create: bool = False) -> None:
        """``journal``: the journal's directory. ``create``: make a ring where there is none."""
        self.path = Path(journal) / FOLDER
        if not _TURN.acquire(timeout=TURN_TIMEOUT_S):
            raise JournalUnreadable(f"{self.path}: another part of this process holds it open")
        self._closed = False
        self._env: lmdb.Environment | None = None
        try:
            self._open(Path(journal), create)
        except BaseException:
            self.close()
            raise

    def _open(self, journal: Path, create: bool) -> None:
        try:
            there = exists(journal)
        except PermissionError as error:
            raise _forbidden(self.path, error) from None
        if not there:
            if not create:
                raise JournalForeign(f"{self.path}: no keys there; `copyd key add` makes the first")
            self._create()
        self._examine()
        try:
            self._env = self._opened()
            self._env.reader_check()
        except (lmdb.Error, OSError) as error:
            if isinstance(error, PermissionError) or getattr(error, "code", 0) == errno.EACCES:
                raise _forbidden(self.path, error) from None
            raise refused(self.path, error) from error
        with self._reading() as txn:
            self._check_header(txn.get(HEADER_KEY))
        try:
            self._db = self._env.open_db(RING_DB, create=False)
        except lmdb.Error as error:
            raise JournalDamaged(f"{self.path}: its keys cannot be opened: {error}") from error

    def _opened(self) -> lmdb.Environment:
        return lmdb.open(
            str(self.path), map_size=MAP_BYTES, max_dbs=2, max_readers=READERS_MAX, create=False, readahead=False, mode=0o600
        )

    def _create(self) -> None:
        """An empty ring, made aside and put in place by one rename: never a half-made one."""
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            place.refuse_unfit_file_system(self.path.parent)
            aside = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=self.path.parent))
            try:
                with lmdb.open(str(aside), map_size=MAP_BYTES, max_dbs=2, mode=0o600) as env:
                    with env.begin(write=True) as txn:
                        env.open_db(RING_DB, txn=txn)
                        txn.put(HEADER_KEY, _header())
                    env.sync(True)
                (aside / "lock.mdb").unlink(missing_ok=True)
                place.sync_directory(aside)
                with contextlib.suppress(OSError):  # another command made one in the meantime: that one counts
                    aside.rename(self.path)
                place.sync_directory(self.path.parent)
            finally:
                if aside.exists():
                    for file in aside.iterdir():
                        file.unlink()
                    aside.rmdir()
        except PermissionError as error:
            raise _forbidden(self.path, error) from None
        except (lmdb.Error, OSError) as error:
            raise JournalUnreadable(f"{self.path}: it could not be made: {error}") from error

    def _examine(self) -> None:
        """A file cut short or not of LMDB's is not for the library: it would end the process instead of saying so."""
        file = self.path / place.DATA_FILE
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError as error:
            raise _forbidden(self.path, error) from None
        except OSError as error:
            raise JournalUnreadable(f"{file}: {error.strerror}") from error
        try:
            for attempts_left in range(9, -1, -1):
                metas = pages.read_metas(fd)
                size = metas[0].page_bytes
                faults = [fault for meta in metas for fault in pages.meta_faults(meta, size)]
                newest = max(metas, key=lambda meta: meta.txn_id)
                if not faults and os.fstat(fd).st_size < (newest.last_page + 1) * size:
                    faults.append("the file ends before its last page")
                if not faults:
                    return
                if not attempts_left:
                    raise JournalDamaged(f"{file}: {faults[0]}")
        except pages.NotAJournalFile as error:
            raise JournalDamaged(f"{file}: {error}") from None
        finally:
            os.close(fd)

    def _check_header(self, found: Buffer | None) -> None:
        value = None if found is None else bytes(found)
        if value is None or len(value) != _HEADER.size + _CRC.size or value[:8] != _MAGIC:
            raise JournalForeign(f"{self.path}: an LMDB file, but no ring of keys")
        if value[8:] != _header()[8:]:
            _, version = _HEADER.unpack_from(value)
            if zlib.crc32(value[: _HEADER.size]) == _CRC.unpack_from(value, _HEADER.size)[0] and version > FORMAT:
                raise JournalForeign(f"{self.path}: keys of format {version}, this build knows up to {FORMAT}")
            raise JournalDamaged(f"{self.path}: its header is not what was written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; safe to call twice."""
        if not self._closed:
            self._closed = True
            if self._env is not None:
                self._env.close()
            _TURN.release()

    def _environment(self) -> lmdb.Environment:
        if self._closed or self._env is None:
            raise JournalMisused("the ring of keys is closed")
        return self._env

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._environment().begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise JournalDamaged(f"{self.path}: LMDB cannot read it: {error}") from error

    def get(self, name: str) -> bytes | None:
        """The value under a name, None where there is none."""
        with self._reading() as txn:
            value = txn.get(_key(name), db=self._db)
        return None if value is None else bytes(value)

    def items(self) -> list[tuple[str, bytes]]:
        """Every name with its value, by name; read in bounded transactions, so what changes meanwhile may be seen or not."""
        found: list[tuple[str, bytes]] = []
        after = b""
        while True:
            with self._reading() as txn, txn.cursor(db=self._db) as cursor:
                more = cursor.set_range(after) if after else cursor.first()
                taken = 0
                while more and taken < READ_ENTRIES_MAX:
                    key = bytes(cursor.key())
                    found.append((_name(self.path, key), bytes(cursor.value())))
                    taken += 1
                    after = key + b"\0"
                    more = cursor.next()
            if not more:
                return found

    def replace(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Put ``new`` under a name where ``old`` still stands (None: nothing); False where another was quicker. Durable."""
        return not self.replace_all([(name, old, new)])

    def replace_all(self, changes: Sequence[tuple[str, bytes | None, bytes]]) -> list[str]:
        """As ``replace``, in one transaction; the names where another was quicker, which stay as they are."""
        for _, _, new in changes:
            if len(new) > VALUE_BYTES_MAX:
                raise ValueError(f"a value of {len(new)} bytes; at most {VALUE_BYTES_MAX}")
        late: list[str] = []
        try:
            with self._environment().begin(write=True) as txn:
                for name, old, new in changes:
                    key = _key(name)
                    if txn.get(key, db=self._db) != old:
                        late.append(name)
                    else:
                        txn.put(key, new, db=self._db)
        except (lmdb.Error, OSError) as error:
            raise JournalWriteError(f"{self.path}: not stored: {error}") from error
        return late


    def scrub(self) -> bool:
        """Overwrite what the file still holds of earlier values: pages no tree leads to, and gaps in pages. False where a reader
        of an older state would not end: nothing is overwritten under it, try again.

        LMDB fills gaps with what its page buffers held before. So it is opened anew, which makes them fresh, and every value is
        written once more; after two commits neither meta page leads to the pages they stood on before. Free pages are then
        overwritten under the writer's lock, when no reader is older than that.
        """
        try:
            self._environment().close()
            env = self._env = self._opened()
            self._db = env.open_db(RING_DB, create=False)
            for _ in range(2):
                with env.begin(write=True) as txn, txn.cursor(db=self._db) as cursor:
                    txn.put(HEADER_KEY, _header())
                    for key, value in cursor:
                        cursor.put(bytes(key), bytes(value))
            until = time.monotonic() + SCRUB_TIMEOUT_S
            while time.monotonic() < until:
                with env.begin(write=True) as lock:
                    if _oldest_reader(env) >= lock.id() - 2:
                        self._overwrite_free(lock.id() - 1)
                        return True
                time.sleep(0.01)
                env.reader_check()
            return False
        except (lmdb.Error, OSError) as error:
            raise JournalWriteError(f"{self.path}: what was deleted is not overwritten yet: {error}") from error

    def _overwrite_free(self, txn_id: int) -> None:
        """Zeros over pages that were freed before transaction ``txn_id``, the last one committed: no meta page leads there."""
        fd = os.open(self.path / place.DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            meta = max(pages.read_metas(fd), key=lambda meta: meta.txn_id)
            if meta.txn_id != txn_id:
                raise JournalDamaged(f"{self.path}: transaction {meta.txn_id} on disk, {txn_id} in memory")
            faults: list[str] = []
            walk = pages.Walk(fd, meta, lambda page, message, first, last: faults.append(message))
            free: list[int] = []
            for entry in walk.tree("free", meta.free):
                if int.from_bytes(entry.key, sys.byteorder) < txn_id:
                    listed = memoryview(walk.read(entry)).cast("Q")
                    free += listed[1 : 1 + listed[0]]
            if faults:
                raise JournalDamaged(f"{self.path}: {faults[0]}")
            for page in free:
                if 2 <= page <= meta.last_page:
                    os.pwrite(fd, bytes(meta.page_bytes), page * meta.page_bytes)
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _oldest_reader(env: lmdb.Environment) -> int:
    """The oldest transaction that a reader of any process looks at."""
    oldest = 1 << 62
    for line in env.readers().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2].isdigit():
            oldest = min(oldest, int(fields[2]))
    return oldest


def _forbidden(path: Path, error: BaseException) -> KeysForbidden:
    return KeysForbidden(f"{path}: this user may not open the keys: run the command as the daemon's user ({error})")


def exists(journal: str | os.PathLike[str]) -> bool:
    """Whether a journal's directory has a ring of keys."""
    return (Path(journal) / FOLDER / place.DATA_FILE).exists()


def _key(name: str) -> bytes:
    key = name.encode()
    if not 0 < len(key) <= NAME_BYTES_MAX:
        raise ValueError("a name has 1 to 256 bytes")
    return key


def _name(path: Path, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise JournalDamaged(f"{path}: a name in it is no text") from None
