"""An LMDB 0.9 data file read as plain bytes: meta pages, B-trees, overflow pages, free list. Never through the library.

The library trusts its file; a flipped byte in a tree page can send it anywhere. ``check`` therefore walks the file with
this module first, which reads with ``pread`` only, believes nothing, and reports what does not agree. It also knows what the
library cannot say: which page and which records a damaged byte belongs to.

Layout (64-bit, host byte order; page size from meta page 0):

    page header   0 8 pgno | 8 2 pad | 10 2 flags (1 branch, 2 leaf, 4 overflow, 8 meta) | 12 2 lower | 14 2 upper
                  (overflow: 12 4 number of pages)
    meta          16 4 magic | 20 4 version | 24 8 address | 32 8 map size | 40 48 free DB | 88 48 main DB
                  136 8 last page | 144 8 transaction
    DB            0 4 pad | 4 2 flags | 6 2 depth | 8 8 branch | 16 8 leaf | 24 8 overflow pages | 32 8 entries | 40 8 root
    node          0 2 size low | 2 2 size high | 4 2 flags | 6 2 key size | 8 key, data
                  (branch: bytes 0-5 are the child's page number)

The two meta pages hold transactions n and n-1. Choosing between them is the one place where a flipped byte could bring back
an older, consistent file without a trace; :func:`read_snapshot` closes it (see there).
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from copyd.journal import records
from copyd.journal.records import State, StateUnreadable

LMDB_MAGIC = 0xBEEFC0DE
LMDB_DATA_VERSION = 1
META_BYTES = 152
PAGE_HEADER_BYTES = 16
NO_PAGE = (1 << 64) - 1
DEPTH_MAX = 32

_ORDER = "<" if sys.byteorder == "little" else ">"
_PAGE = struct.Struct(_ORDER + "QHHHH")
_OVERFLOW = struct.Struct(_ORDER + "QHHI")
_META = struct.Struct(_ORDER + "IIQQ")
_DB = struct.Struct(_ORDER + "IHHQQQQQ")
_TAIL = struct.Struct(_ORDER + "QQ")
_NODE = struct.Struct(_ORDER + "HHHH")
_U64 = struct.Struct(_ORDER + "Q")

P_BRANCH, P_LEAF, P_OVERFLOW, P_META = 1, 2, 4, 8
F_BIGDATA, F_SUBDATA = 1, 2
MDB_INTEGERKEY = 8


class NotAJournalFile(ValueError):
    """The file is no LMDB 0.9 data file of this kind of machine, so nothing more can be said about it."""


class Db(NamedTuple):
    """A database record: where its tree starts and how much it must hold."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Meta(NamedTuple):
    """One meta page."""

    slot: int
    pgno: int
    pad: int
    page_flags: int
    lower: int
    upper: int
    magic: int
    version: int
    address: int
    map_size: int
    free: Db
    main: Db
    last_page: int
    txn_id: int
    raw: bytes

    @property
    def page_bytes(self) -> int:
        return self.free.pad


class Value(NamedTuple):
    """Where an entry's value lies: ``at`` is the file offset, ``size`` its bytes, ``page`` the leaf that names it."""

    key: bytes
    at: int
    size: int
    flags: int
    page: int
    inline: bytes | None


#: Called with (page number, message, first record, last record); records are 0 when the page holds none.
Report = Callable[[int, str, int, int], None]
#: Called with (file offset, length, first record, last record) for every byte range the walk depends on.
Trace = Callable[[int, int, int, int], None]


def parse_meta(raw: bytes, slot: int) -> Meta:
    pgno, pad, flags, lower, upper = _PAGE.unpack_from(raw)
    magic, version, address, map_size = _META.unpack_from(raw, 16)
    free, main = Db(*_DB.unpack_from(raw, 40)), Db(*_DB.unpack_from(raw, 88))
    last_page, txn_id = _TAIL.unpack_from(raw, 136)
    return Meta(
        slot, pgno, pad, flags, lower, upper, magic, version, address, map_size, free, main, last_page, txn_id, raw[:META_BYTES]
    )


def read_metas(fd: int) -> tuple[Meta, Meta]:
    """Both meta pages as they are now; :class:`NotAJournalFile` when the file cannot be one of ours at all."""
    first = os.pread(fd, META_BYTES, 0)
    if len(first) < META_BYTES:
        raise NotAJournalFile("shorter than one meta page")
    page = 0
    for guess in (parse_meta(first, 0).page_bytes, os.sysconf("SC_PAGE_SIZE"), 4096, 16384, 65536):
        if 512 <= guess <= 65536 and not guess & (guess - 1):
            second = os.pread(fd, META_BYTES, guess)
            if len(second) == META_BYTES and parse_meta(second, 1).magic == LMDB_MAGIC:
                page = guess
                break
    if parse_meta(first, 0).magic != LMDB_MAGIC and not page:
        raise NotAJournalFile("no LMDB magic in it")
    if not page:
        raise NotAJournalFile("its second meta page is not where the first says")
    return parse_meta(first, 0), parse_meta(os.pread(fd, META_BYTES, page), 1)


def meta_faults(meta: Meta, page_bytes: int) -> list[str]:
    """What is wrong with one meta page by itself."""
    where = f"meta page {meta.slot}"
    faults = []
    expected = (
        ("page number", meta.pgno, meta.slot),
        ("pad", meta.pad, 0),
        ("page flags", meta.page_flags, P_META),
        ("lower", meta.lower, 0),
        ("upper", meta.upper, 0),
        ("magic", meta.magic, LMDB_MAGIC),
        ("data version", meta.version, LMDB_DATA_VERSION),
        ("address", meta.address, 0),
        ("page size", meta.free.pad, page_bytes),
        ("flags", meta.free.flags, MDB_INTEGERKEY),
        ("main DB pad", meta.main.pad, 0),
        ("main DB flags", meta.main.flags, 0),
    )
    for name, found, wanted in expected:
        if found != wanted:
            faults.append(f"{where}: {name} is {found:#x}, must be {wanted:#x}")
    if meta.txn_id and meta.txn_id & 1 != meta.slot:
        faults.append(f"{where}: transaction {meta.txn_id} belongs on the other meta page")
    return faults


class Snapshot(NamedTuple):
    """The state of the file that counts: its meta page, the copyd state in it, and what was found wrong on the way."""

    meta: Meta
    other: Meta
    state: State | None
    faults: list[str]


def read_snapshot(fd: int, txn_id: int = 0) -> Snapshot:
    """Choose the current meta page as LMDB would, and prove that choice.

    A damaged number on the newer meta page would let the older one pass for current: a whole, consistent file without its
    last commits. Three things rule it out. Every commit writes the state value, which repeats its transaction's number. The
    two pages must hold neighbouring transactions. And the state carries the CRC of the meta page of the transaction
    before it, so no byte of either page is without a witness: the current page by its tree, the older one by that CRC.
    Where the current page was made to look two transactions older, its own tree still says which transaction it is.

    ``txn_id``: the transaction a read pins in a live file; the other page may then already be a newer commit, which is
    left unjudged. Raises :class:`NotAJournalFile`, and :class:`StateUnreadable` for a format newer than this build.
    """
    metas = read_metas(fd)
    page_bytes = metas[0].page_bytes
    if not 512 <= page_bytes <= 65536 or page_bytes & (page_bytes - 1):
        page_bytes = metas[1].page_bytes
    faults = [fault for meta in metas for fault in meta_faults(meta, page_bytes)]
    meta, other = metas if metas[0].txn_id >= metas[1].txn_id else metas[::-1]
    if txn_id and meta.txn_id == txn_id + 1 and other.txn_id == txn_id:
        meta, other = other, meta
    overtaken = bool(txn_id) and other.txn_id == meta.txn_id + 1
    if not overtaken and other.txn_id != meta.txn_id - 1:
        faults.append(f"the meta pages hold transactions {meta.txn_id} and {other.txn_id}, not neighbours")
    if faults:
        return Snapshot(meta, other, None, faults)
    try:
        state: State | None = read_state(fd, meta)
    except StateUnreadable as error:
        if error.newer:
            raise
        return Snapshot(meta, other, None, [f"{error}"])
    if state is not None:
        faults += _state_faults(fd, meta, None if overtaken else other, state)
    return Snapshot(meta, other, state, faults)


def _state_faults(fd: int, meta: Meta, other: Meta | None, state: State) -> list[str]:
    faults = []
    if state.txn_id != meta.txn_id:
        faults.append(f"meta page {meta.slot} says transaction {meta.txn_id}, its tree was written by {state.txn_id}")
    if state.map_size != meta.map_size:
        faults.append(f"meta page {meta.slot} says a map of {meta.map_size} bytes, the commit had {state.map_size}")
    if other is not None:
        if zlib.crc32(other.raw) != state.previous_meta_crc:
            faults.append(f"meta page {other.slot} is not what transaction {other.txn_id} wrote")
        try:
            hidden = read_state(fd, other)
        except (StateUnreadable, NotAJournalFile):
            hidden = None  # the older tree's pages may be in use again
        if hidden is not None and hidden.txn_id > meta.txn_id:
            faults.append(f"meta page {other.slot} hides transaction {hidden.txn_id} behind number {other.txn_id}")
    return faults


def read_state(fd: int, meta: Meta) -> State | None:
    """The copyd state as ``meta``'s main database holds it; None when there is none (not a copyd journal)."""
    walk = Walk(fd, meta, lambda page, message, first, last: None)
    found = [walk.read(value) for value in walk.tree("main", meta.main) if value.key == records.STATE_KEY]
    return records.decode_state(found[0]) if found else None


class Walk:
    """Visits every page one meta page leads to, once, and reports what does not agree.

    ``tree`` yields the entries of one database in key order; ``finish`` checks that pages in use and free pages together
    are exactly the pages of the file. Reports name the records a page stands for when the tree's keys say so.
    """

    def __init__(self, fd: int, meta: Meta, report: Report, trace: Trace | None = None) -> None:
        self.fd = fd
        self.meta = meta
        self.page_bytes = meta.page_bytes
        self.next_page = min(meta.last_page + 1, os.fstat(fd).st_size // self.page_bytes + 1)
        self.used = bytearray(self.next_page)
        self.free = bytearray(self.next_page)
        self._report = report
        self._trace = trace

    def pread(self, at: int, size: int) -> bytes:
        return os.pread(self.fd, size, at)

    def read(self, value: Value) -> bytes:
        """The bytes of an entry."""
        return value.inline if value.inline is not None else self.pread(value.at, value.size)

    def tree(self, name: str, db: Db, *, seq_keys: bool = False) -> Iterator[Value]:
        """Entries of one database in order. ``seq_keys``: its keys start with a record number, used in reports."""
        counts = [0, 0, 0, 0]  # branch, leaf, overflow pages, entries
        self._counts, self._name, self._depth, self._seq_keys = counts, name, db.depth, seq_keys
        if db.root == NO_PAGE:
            if any((db.depth, db.branch_pages, db.leaf_pages, db.overflow_pages, db.entries)):
                self._report(0, f"{name}: an empty tree with counts", 0, 0)
            return
        if not 1 <= db.depth <= DEPTH_MAX:
            self._report(db.root, f"{name}: a tree of depth {db.depth}", 0, 0)
            return
        last: bytes | None = None
        for value in self._page(db.root, 1, None, None):
            if last is not None and not (self._order(last) < self._order(value.key) if name == "free" else last < value.key):
                self._fault(value.page, "keys out of order", last, value.key)
            last = value.key
            yield value
        wanted = [db.branch_pages, db.leaf_pages, db.overflow_pages, db.entries]
        if counts != wanted:
            self._report(
                db.root, f"{name}: branch, leaf, overflow pages and entries are {counts}, the database record says {wanted}", 0, 0
            )

    def _records(self, low: bytes | None, high: bytes | None) -> tuple[int, int]:
        """The records between two separators (the upper one exclusive), 0 where unknown."""
        if not self._seq_keys:
            return 0, 0
        first = int.from_bytes(low[:8], "big") if low else 0
        last = int.from_bytes(high[:8], "big") if high else 0
        return first, last

    def _fault(self, page: int, message: str, low: bytes | None, high: bytes | None) -> None:
        first, last = self._records(low, high)
        self._report(page, f"{self._name}: page {page}: {message}", first, last)

    def _claim(self, page: int, count: int, low: bytes | None, high: bytes | None) -> bool:
        """Mark pages as in use; False (and a report) when they are not the file's or already in use."""
        if page < 2 or page + count > self.next_page or (page + count) * self.page_bytes > os.fstat(self.fd).st_size:
            self._fault(page, f"{count} page(s) from there are outside the file of {self.next_page} pages", low, high)
            return False
        if any(self.used[page : page + count]):
            self._fault(page, "reached twice", low, high)
            return False
        self.used[page : page + count] = b"\x01" * count
        return True

    def _page(self, number: int, depth: int, low: bytes | None, high: bytes | None) -> Iterator[Value]:
        if not self._claim(number, 1, low, high):
            return
        page = self.pread(number * self.page_bytes, self.page_bytes)
        pgno, _, flags, lower, upper = _PAGE.unpack_from(page)
        leaf = depth == self._depth
        if pgno != number or flags != (P_LEAF if leaf else P_BRANCH):
            self._fault(number, f"header says page {pgno}, flags {flags:#x}", low, high)
            return
        if lower < PAGE_HEADER_BYTES or lower & 1 or upper & 1 or lower > upper or upper > self.page_bytes:
            self._fault(number, f"header says entries from {upper}, table to {lower}", low, high)
            return
        self._counts[1 if leaf else 0] += 1
        offsets = struct.unpack_from(f"{_ORDER}{(lower - PAGE_HEADER_BYTES) // 2}H", page, PAGE_HEADER_BYTES)
        if not offsets:
            self._fault(number, "no entries", low, high)
            return
        nodes = self._nodes(number, page, offsets, upper, leaf, low, high)
        if nodes is None:
            return
        at = number * self.page_bytes
        first, last = self._records(low, high)
        if self._trace:
            self._trace(at, 8, first, last)
            self._trace(at + 10, lower - 10, first, last)
        if leaf:
            yield from self._leaf(number, page, nodes, low, high)
            return
        children = []
        for index, (offset, key_bytes, _) in enumerate(nodes):
            child = page[offset] | page[offset + 1] << 8 | page[offset + 2] << 16 | page[offset + 3] << 24
            child |= page[offset + 4] << 32 | page[offset + 5] << 40
            key = page[offset + 8 : offset + 8 + key_bytes]
            children.append((child, low if index == 0 else key))
            if self._trace:  # the first key of a branch page is never read
                self._trace(at + offset, 8 if index == 0 else 8 + key_bytes, first, last)
        for index, (child, separator) in enumerate(children):
            right = children[index + 1][1] if index + 1 < len(children) else high
            yield from self._between(
                number,
                separator if index else None,
                children[index + 1][1] if index + 1 < len(children) else None,
                self._page(child, depth + 1, separator, right),
            )

    def _between(self, number: int, separator: bytes | None, right: bytes | None, values: Iterator[Value]) -> Iterator[Value]:
        """Entries between two separators. Record numbers are dense, so in the log a separator is the first key behind it."""
        order = self._order
        for value in values:
            if separator is not None:
                exact = self._name == records.LOG_DB.decode()
                if order(value.key) < order(separator) or (exact and value.key != separator):
                    self._fault(number, "a separator does not fit the first key behind it", separator, value.key)
                separator = None
            if right is not None and order(value.key) >= order(right):
                self._fault(number, "a separator does not fit the keys before it", value.key, right)
                right = None
            yield value

    def _order(self, key: bytes) -> int:
        """Keys as numbers: the free list's are native integers, all others compare as bytes of one length."""
        return int.from_bytes(key, sys.byteorder if self._name == "free" else "big")

    def _nodes(
        self, number: int, page: bytes, offsets: tuple[int, ...], upper: int, leaf: bool, low: bytes | None, high: bytes | None
    ) -> list[tuple[int, int, int]] | None:
        """(offset, key bytes, data bytes) per node, proven to fill the page from ``upper`` to its end without a gap."""
        nodes = []
        spans = []
        for offset in offsets:
            if offset < upper or offset + 8 > self.page_bytes or offset & 1:
                self._fault(number, f"an entry at {offset}", low, high)
                return None
            size_low, size_high, flags, key_bytes = _NODE.unpack_from(page, offset)
            if leaf:
                size = size_low | size_high << 16
                if flags not in (0, F_BIGDATA, F_SUBDATA):
                    self._fault(number, f"an entry with flags {flags:#x}", low, high)
                    return None
                held = 8 if flags == F_BIGDATA else size
            else:
                size = held = 0
            spans.append((offset, offset + ((8 + key_bytes + held + 1) & ~1)))
            nodes.append((offset, key_bytes, size))
        spans.sort()
        end = upper
        for start, stop in spans:
            if start != end:
                break
            end = stop
        if end != self.page_bytes:
            self._fault(number, "entries overlap, leave a gap or leave the page", low, high)
            return None
        return nodes

    def _leaf(
        self, number: int, page: bytes, nodes: list[tuple[int, int, int]], low: bytes | None, high: bytes | None
    ) -> Iterator[Value]:
        at = number * self.page_bytes
        for offset, key_bytes, size in nodes:
            flags = page[offset + 4]
            key = page[offset + 8 : offset + 8 + key_bytes]
            start = offset + 8 + key_bytes
            self._counts[3] += 1
            first, last = self._records(low, high)
            if flags == F_BIGDATA:
                if self._trace:
                    self._trace(at + offset, 16 + key_bytes, first, last)
                (target,) = _U64.unpack_from(page, start)
                place = self._overflow(target, size, key, key)
                if place:
                    yield Value(key, place, size, flags, number, None)
            else:
                if self._trace:
                    self._trace(at + offset, 8 + key_bytes + size, first, last)
                yield Value(key, at + start, size, flags, number, page[start : start + size])

    def _overflow(self, number: int, size: int, low: bytes, high: bytes) -> int:
        """File offset of an overflow value; 0 (and a report) when its pages do not hold it."""
        needed = (PAGE_HEADER_BYTES + size - 1) // self.page_bytes + 1
        at = number * self.page_bytes
        if number < 2 or (number + needed) * self.page_bytes > os.fstat(self.fd).st_size:
            self._fault(number, f"a value of {size} bytes there is outside the file", low, high)
            return 0
        pgno, _, flags, pages = _OVERFLOW.unpack_from(self.pread(at, PAGE_HEADER_BYTES))
        # The free list may keep a larger extent than its value needs; records and checkpoints are written once.
        fits = pages >= needed if self._name == "free" else pages == needed
        if pgno != number or flags != P_OVERFLOW or not fits:
            self._fault(number, f"header says page {pgno}, flags {flags:#x}, {pages} pages (needs {needed})", low, high)
            return 0
        if not self._claim(number, pages, low, high):
            return 0
        self._counts[2] += pages
        if self._trace:
            first, last = self._records(low, high)
            self._trace(at, 8, first, last)
            self._trace(at + 10, 6 + size, first, last)
        return at + PAGE_HEADER_BYTES

    def free_list(self) -> None:
        """Walk the free list; its pages must be in range, in falling order, and listed once."""
        for value in self.tree("free", self.meta.free):
            if len(value.key) != 8 or not 1 <= _U64.unpack(value.key)[0] <= self.meta.txn_id:
                self._report(value.page, f"free list: page {value.page}: an entry of no transaction so far", 0, 0)
                continue
            content = self.read(value)
            if len(content) < 8 or len(content) & 7 or _U64.unpack_from(content)[0] != len(content) // 8 - 1:
                self._report(value.page, f"free list: page {value.page}: not a list of pages", 0, 0)
                continue
            above = NO_PAGE
            for (number,) in _U64.iter_unpack(content[8:]):
                if not 2 <= number < self.next_page or number >= above or self.free[number]:
                    self._report(value.page, f"free list: page {value.page}: lists page {number} wrongly", 0, 0)
                    return
                self.free[number] = 1
                above = number

    def finish(self) -> None:
        """Every page of the file must be in use or free, and none both."""
        if self.next_page != self.meta.last_page + 1:
            self._report(self.meta.slot, f"the meta page counts {self.meta.last_page + 1} pages, the file is shorter", 0, 0)
            return
        used = int.from_bytes(self.used, "little")
        free = int.from_bytes(self.free, "little")
        both, either = used & free, used | free
        everything = int.from_bytes(b"\x00\x00" + b"\x01" * (self.next_page - 2), "little")
        if both:
            page = ((both & -both).bit_length() - 1) // 8
            self._report(page, f"page {page} is in use and on the free list", 0, 0)
        if either != everything:
            missing = either ^ everything
            page = ((missing & -missing).bit_length() - 1) // 8
            self._report(page, f"page {page} is neither in use nor on the free list", 0, 0)


def db_record(content: bytes) -> Db:
    """The database record stored as a named database's value."""
    if len(content) != _DB.size:
        raise ValueError(f"a database record of {len(content)} bytes")
    return Db(*_DB.unpack(content))
