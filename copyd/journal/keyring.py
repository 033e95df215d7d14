"""The ring of sealed exchange keys: a small LMDB environment in the folder ``keys`` of the journal's directory.

It lies beside the journal's own file, not in it. Of that file every byte is vouched for by the one process that writes it (its
state value names the transaction, the next commit vouches for the meta page before), and every order waits for its
writer's lock: a command stopped in the middle of a transaction there would hold up exits. Here commands and a running daemon
may read and write at the same time; transactions are short and none is on the way of an order.

    unnamed database   copyd.ring -> magic, format version, crc32
    keys               name of the credential -> one value, whose meaning is the caller's (bytes, at most 16 KiB)
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from copyd.journal import pages, place
from copyd.journal.errors import JournalDamaged, JournalForeign, JournalUnreadable, JournalWriteError
from copyd.journal.reader import refused

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

_HEADER = struct.Struct("<8sH2x")
_CRC = struct.Struct("<I")
_MAGIC = b"copydRNG"


def _header() -> bytes:
    body = _HEADER.pack(_MAGIC, FORMAT)
    return body + _CRC.pack(zlib.crc32(body))


class Keyring:
    """The keys of one journal directory. Use as a context manager; not to be kept over a fork.

    Raises ``JournalForeign`` where there is none or it is of a newer format (exit 65), ``JournalDamaged`` (65),
    ``JournalUnreadable`` (74) and ``JournalWriteError`` (74).
    """

    def __init__(self, journal: str | os.PathLike[str], *, create: bool = False) -> None:
        """``journal``: the journal's directory. ``create``: make a ring where there is none."""
        self.path = Path(journal) / FOLDER
        if not exists(journal):
            if not create:
                raise JournalForeign(f"{self.path}: no keys there; `copyd key add` makes the first")
            self._create()
        self._examine()
        try:
            self._env = lmdb.open(
                str(self.path), map_size=MAP_BYTES, max_dbs=2, max_readers=READERS_MAX, create=False, readahead=False, mode=0o600
            )
        except (lmdb.Error, OSError) as error:
            raise refused(self.path, error) from error
        try:
            self._env.reader_check()
            with self._reading() as txn:
                self._check_header(txn.get(HEADER_KEY))
            self._db = self._env.open_db(RING_DB, create=False)
        except lmdb.Error as error:
            self._env.close()
            raise JournalDamaged(f"{self.path}: its keys cannot be opened: {error}") from error
        except BaseException:
            self._env.close()
            raise

    def _create(self) -> None:
        """An empty ring, made aside and put in place by one rename: never a half-made one."""
        aside = self.path.with_name(f".{FOLDER}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            place.refuse_unfit_file_system(self.path.parent)
            aside.mkdir(mode=0o700)
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
        except (lmdb.Error, OSError) as error:
            raise JournalUnreadable(f"{self.path}: it could not be made: {error}") from error

    def _examine(self) -> None:
        """A file cut short or not of LMDB's is not for the library: it would end the process instead of saying so."""
        file = self.path / place.DATA_FILE
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
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

    def _check_header(self, value: bytes | None) -> None:
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
        self._env.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise JournalDamaged(f"{self.path}: LMDB cannot read it: {error}") from error

    def get(self, name: str) -> bytes | None:
        """The value under a name, None where there is none."""
        with self._reading() as txn:
            value: bytes | None = txn.get(_key(name), db=self._db)
        return value

    def items(self) -> list[tuple[str, bytes]]:
        """Every name with its value, by name; read in bounded transactions, so what changes meanwhile may be seen or not."""
        found: list[tuple[str, bytes]] = []
        after = b""
        while True:
            with self._reading() as txn, txn.cursor(db=self._db) as cursor:
                more = cursor.set_range(after) if after else cursor.first()
                taken = 0
                while more and taken < READ_ENTRIES_MAX:
                    key = cursor.key()
                    found.append((_name(self.path, key), cursor.value()))
                    taken += 1
                    after = key + b"\0"
                    more = cursor.next()
            if not more:
                return found

    def replace(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Put ``new`` under a name where ``old`` still stands (None: nothing); False where another was quicker. Durable."""
        if len(new) > VALUE_BYTES_MAX:
            raise ValueError(f"a value of {len(new)} bytes; at most {VALUE_BYTES_MAX}")
        key = _key(name)
        try:
            with self._env.begin(write=True) as txn:
                if txn.get(key, db=self._db) != old:
                    return False
                txn.put(key, new, db=self._db)
            return True
        except (lmdb.Error, OSError) as error:
            raise JournalWriteError(f"{self.path}: the key was not stored: {error}") from error


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
