"""The journal: an append-only, chained log in one LMDB file. LMDB is used here and nowhere else.

It holds bytes. What a record means is the caller's: kinds are small numbers it registers names for, payloads are its own.

A journal is a directory of four files: ``data.mdb`` (everything), ``lock.mdb`` (LMDB's reader table), ``copyd.lock`` (flock
of the one daemon that writes) and ``copyd.epoch`` (the highest epoch taken here). Only ``data.mdb`` matters to a copy. Put back
an older ``data.mdb`` beside the ``copyd.epoch`` that is there: epochs taken since are then not taken again.

Inside ``data.mdb``:

    unnamed database   copyd.state -> the journal about itself (records.State), rewritten by every commit
    log                seq, u64 big-endian -> one record: header 48, payload n, crc32 4 (byte layout: records.py)
    checkpoint         (seq u64, chunk u32 big-endian) -> chunk; chunk 0 is the head, written last (layout: records.py)

A record with its offsets (little-endian; the same table with remarks opens ``records.py``):

    0 magic CPYJ | 4 version | 5 flags | 6 kind | 8 seq | 16 epoch | 20 payload bytes n | 24 ts_ns | 32 prev_hash (16 bytes)
    48 payload | 48+n crc32

Which byte is vouched for by what:

    record         its CRC32; its key, its own ``seq``, and numbers without gaps; the next record's ``prev_hash`` (blake2b-128)
    last record    its CRC32 and ``last_seq`` in the state
    first record   ``anchor`` in the state (genesis of the site key, or the hash of the last record dropped)
    state          its CRC32; ``txn_id`` against the meta page; ``map_size`` against the meta page
    meta pages     fixed fields; neighbouring transactions; the older one's CRC32 in the state; the newer one's own tree
    tree pages     headers, entries that fill the page exactly, order, counts, separators; each page either in use or free
    not vouched    free pages, the gap inside a page, two pad bytes of page headers: nothing read depends on them

Modules: ``records`` (framing, pure) - ``place`` (lock, file system, epoch) - ``pages`` (the file as bytes, without LMDB) -
``reader`` - ``writer`` - ``check`` (verification, in a child process).
"""

from copyd.journal.errors import (
    JournalDamaged,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalMisused,
    JournalUnreadable,
    JournalWriteError,
)
from copyd.journal.reader import Checkpoint, Reader
from copyd.journal.records import Record, State, kind_name, register_kinds
from copyd.journal.writer import Durability, Journal, Room

__all__ = [
    "Checkpoint",
    "Durability",
    "Journal",
    "JournalDamaged",
    "JournalError",
    "JournalForeign",
    "JournalLocked",
    "JournalMisused",
    "JournalUnreadable",
    "JournalWriteError",
    "Reader",
    "Record",
    "Room",
    "State",
    "kind_name",
    "register_kinds",
]
