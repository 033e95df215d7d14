# cython: cdivision=True
# cdivision: the only divisions here are of sizes in bytes.
"""Orders and reports of the batch protocol as bytes, and which orders are in flight; nothing per order is done in Python.

``Packer`` turns order rows into ORDERS messages, ``Flight`` REPORTS messages into report rows, while it keeps account of
what was answered. The readable twin of the bytes is ``copyd.venues.batch.codec``; a test feeds both and compares.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from copyd._fast.columns cimport Columns, Order, Report, ReportBatch

cdef extern from "crc32c.h" nogil:
    uint32_t crc32c_of "crc32c"(const uint8_t* data, size_t size) noexcept
    void crc32c_seal(uint8_t* at, size_t size, size_t count) noexcept
    size_t crc32c_check(const uint8_t* at, size_t size, size_t count) noexcept
    int crc32c_choose(int instruction) noexcept

cdef extern from "sys/socket.h" nogil:
    Py_ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef extern from *:
    """#define copyd_prefetch(p) __builtin_prefetch(p)"""
    void copyd_prefetch(const void* address) noexcept nogil

cdef packed struct WireOrder:
    uint8_t cid[16]
    uint32_t account
    uint16_t instrument
    uint16_t flags
    int64_t quantity
    int64_t limit
    uint32_t zero
    uint32_t sum

cdef packed struct WireReport:
    uint8_t cid[16]
    int64_t cum_qty
    int64_t cum_quote_e8
    int64_t last_qty
    int64_t last_px
    int64_t fee_e8
    int64_t trade_id
    int64_t venue_order_id
    int64_t venue_ns
    uint32_t zero
    int32_t code
    uint8_t kind
    uint8_t status
    uint16_t more
    uint32_t sum

cdef packed struct Header:
    uint16_t magic
    uint8_t version
    uint8_t type
    uint32_t length
    uint64_t sequence
    uint64_t session
    uint32_t ack
    uint32_t sum

cdef packed struct OrdersHead:
    uint64_t event
    int64_t valid_until
    uint32_t count
    uint32_t flags
    uint32_t zero
    uint32_t sum

REDUCTIONS = 0
TOP_OPENINGS = 1
OPENINGS = 2

cdef enum:
    ORDERS = 7             # the order table in Columns
    PLANS = 3
    NONE = 0xFFFFFFFF
    MAGIC = 0x4243
    HEAD = 64              # bytes before the first record: header and batch header
    TYPE_ORDERS = 5
    # flags of a record
    SELL = 1
    REDUCE_ONLY = 2
    SIDE_SHIFT = 2         # position side
    LIMIT_IOC = 16
    REDUCTION = 32
    # kinds of a report, on the wire and in ReportBatch
    STATE = 1
    REJECT = 2
    IN_DOUBT = 3
    TRADE = 6
    STATUS_MASK = (1 << 2) | (1 << 3) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 8)
    ENDED_MASK = (1 << 4) | (1 << 6) | (1 << 7) | (1 << 8)
    # states of an order in flight
    EMPTY = 0
    SENT = 1               # no report yet
    ALIVE = 2              # reported, not ended
    DOUBTED = 3            # reported IN_DOUBT; whatever still comes is late

assert sizeof(WireOrder) == 48 and sizeof(WireReport) == 96 and sizeof(Header) == 32 and sizeof(OrdersHead) == 32
crc32c_choose(1)


def use_crc_instruction(bint wanted):
    """Sum with the processor's own instruction, where it has one, or with the table; returns whether it does."""
    return bool(crc32c_choose(wanted))


def crc32c(const uint8_t[::1] data):
    """CRC-32C of some bytes."""
    if data.shape[0] == 0:
        return 0
    return crc32c_of(&data[0], data.shape[0])


cdef class Batch:
    """One ORDERS message, in memory that is used again. ``write`` hands as much of it to the kernel as that takes."""

    def __cinit__(self, uint32_t capacity):
        if not 0 < capacity <= 1 << 20:
            raise ValueError("a batch holds 1 to 1,048,576 records")
        self.data = <uint8_t*>malloc(HEAD + <size_t>capacity * sizeof(WireOrder))
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)

    @property
    def length(self):
        """Bytes of the whole message."""
        return HEAD + self.count * sizeof(WireOrder)

    def stamp(self, uint64_t sequence, uint64_t session, uint64_t ack, int64_t valid_until):
        """Header and batch header: it is to be sent as this message now. ``valid_until``: ns of the engine's clock."""
        cdef Header* head = <Header*>self.data
        cdef OrdersHead* orders = <OrdersHead*>(self.data + sizeof(Header))
        memset(self.data, 0, HEAD)
        head.magic = MAGIC
        head.version = 1
        head.type = TYPE_ORDERS
        head.length = HEAD + self.count * sizeof(WireOrder)
        head.sequence = self.sequence = sequence
        head.session = session
        head.ack = <uint32_t>ack
        crc32c_seal(self.data, sizeof(Header), 1)
        orders.event = self.event
        orders.valid_until = self.valid_until = valid_until
        orders.count = self.count
        orders.flags = 1 if self.rank < 2 else 0
        crc32c_seal(<uint8_t*>orders, sizeof(OrdersHead), 1)
        self.written = 0

    def write(self, int fd):
        """Bytes the kernel took now, 0 when it takes none for the moment; ``OSError`` when the connection is gone."""
        cdef size_t length = HEAD + self.count * sizeof(WireOrder)
        cdef Py_ssize_t taken
        cdef int problem = 0
        with nogil:
            taken = c_send(fd, self.data + self.written, length - self.written, MSG_DONTWAIT | MSG_NOSIGNAL)
            if taken < 0:
                problem = errno
        if taken < 0:
            if problem == EAGAIN or problem == EINTR:
                return 0
            raise OSError(problem, "the connection takes no bytes")
        self.written += taken
        return taken

    def split(self, uint32_t keep, Batch rest):
        """Keep the first records, the others go into ``rest``. Only before it is stamped."""
        if not 0 < keep < self.count or rest.capacity < self.count - keep:
            raise ValueError("a batch is split between its records")
        rest.count = self.count - keep
        memcpy(rest.data + HEAD, self.data + HEAD + keep * sizeof(WireOrder), rest.count * sizeof(WireOrder))
        rest.rank = self.rank
        rest.event = self.event
        rest.handed_ns = self.handed_ns
        self.count = keep

    def report(self, int kind, ReportBatch out):
        """One row of this kind for every record (NOT_SENT: not one byte of it was written)."""
        cdef uint32_t i
        cdef Report* row
        for i in range(self.count):
            row = out.push()
            memcpy(row.cid, self.data + HEAD + i * sizeof(WireOrder), 16)
            row.kind = kind
            row.account = NONE

    def cids(self):
        """The client order ids, in order."""
        return [PyBytes_FromStringAndSize(<char*>self.data + HEAD + i * sizeof(WireOrder), 16) for i in range(self.count)]

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<char*>self.data, HEAD + self.count * sizeof(WireOrder))


cdef class Packer:
    """Order rows to batches of at most ``batch_records``. Numbers of accounts and instruments are the engine's."""

    def __cinit__(self, uint32_t batch_records=2048):
        cdef int i
        if not 0 < batch_records <= 1 << 20:
            raise ValueError("a batch holds 1 to 1,048,576 records")
        self.batch_records = batch_records
        self.free = []
        for i in range(64):
            self.instrument_numbers[i] = -1
        memset(self.top_words, 0, 64)

    def __dealloc__(self):
        free(self.account_numbers)
        free(self.ranks)

    def set_instrument(self, int index, int number):
        """Our instrument is the engine's ``number``; -1 = it has none: orders in it are refused here."""
        if not 0 <= index < 64 or not -1 <= number < 65536:
            raise ValueError(f"no such instrument: {index} -> {number}")
        self.instrument_numbers[index] = number

    def set_account(self, uint32_t index, uint32_t number):
        """Our account is the engine's ``number``; 0xFFFFFFFF = it has none: its orders are refused here."""
        cdef uint32_t room
        cdef uint32_t* grown
        if index >= 1 << 24:
            raise ValueError(f"no such account: {index}")
        if index >= self.accounts_room:
            room = max(index + 1, self.accounts_room * 2, 64)
            grown = <uint32_t*>realloc(self.account_numbers, room * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            memset(grown + self.accounts_room, 0xFF, (room - self.accounts_room) * sizeof(uint32_t))
            self.account_numbers = grown
            self.accounts_room = room
        self.account_numbers[index] = number

    def set_top(self, leaders):
        """The leaders whose openings may use the reserved share of the window."""
        memset(self.top_words, 0, 64)
        self.any_top = False
        for leader in leaders:
            if not 0 <= leader < 512:
                raise ValueError(f"no such leader: {leader}")
            self.top_words[leader >> 3] |= 1 << (leader & 7)
            self.any_top = True

    cdef Batch take(self):
        cdef Batch batch
        if self.free:
            batch = <Batch>self.free.pop()
        else:
            batch = Batch(self.batch_records)
        batch.count = 0
        batch.written = batch.unanswered = batch.open = 0
        batch.sequence = 0
        batch.acked = False
        return batch

    def spare(self):
        """An empty batch, for ``Batch.split``."""
        return self.take()

    def release(self, Batch batch):
        """Nobody needs it any more: its memory is for the next."""
        if batch.capacity == self.batch_records and batch.open == 0:
            self.free.append(batch)

    def pack(self, Columns cols, const uint32_t[::1] slots):
        """(batches in the order of sending, slots that cannot go to the engine: unknown there, or without quantity).

        Reductions first, then openings of top leaders, then the others, each in the order given.
        """
        cdef Py_ssize_t n = slots.shape[0], i
        cdef uint32_t slot, leader
        cdef Order* order
        cdef int rank
        cdef int seen = 0
        cdef Batch batch
        cdef uint32_t room
        cdef uint8_t* at
        if n > self.ranks_room:
            free(self.ranks)
            self.ranks_room = 0
            self.ranks = <uint8_t*>malloc(n)
            if self.ranks == NULL:
                raise MemoryError
            self.ranks_room = n
        refused = []
        for i in range(n):
            slot = slots[i]
            if slot >= cols.counts[ORDERS]:
                raise IndexError(f"order slot {slot}: the table has {cols.counts[ORDERS]}")
            if i + 8 < n and slots[i + 8] < cols.counts[ORDERS]:
                copyd_prefetch(&cols.orders[slots[i + 8]])
                copyd_prefetch(<uint8_t*>&cols.orders[slots[i + 8]] + 128)
            order = &cols.orders[slot]
            rank = 2
            if order.kind:
                rank = 0
            elif self.any_top and order.plan < cols.counts[PLANS]:
                leader = cols.plans[order.plan].leader
                if leader < 512 and self.top_words[leader >> 3] >> (leader & 7) & 1:
                    rank = 1
            if (order.instrument >= 64 or self.instrument_numbers[order.instrument] < 0 or order.account >= self.accounts_room
                    or self.account_numbers[order.account] == NONE or order.order_qty <= 0 or order.limit_px < 0
                    or order.position_side > 2 or (order.side != 1 and order.side != -1)):
                refused.append(slot)
                rank = 3
            self.ranks[i] = rank
            seen |= 1 << rank
        batches = []
        for rank in range(3):
            if not seen >> rank & 1:
                continue
            i = 0
            while True:
                while i < n and self.ranks[i] != rank:
                    i += 1
                if i == n:
                    break
                batch = self.take()
                batch.rank = rank
                batch.event = cols.orders[slots[i]].seq
                room = self.batch_records
                at = batch.data + HEAD
                with nogil:
                    while i < n and room > 0:
                        if self.ranks[i] == rank:
                            fill_record(<WireOrder*>at, &cols.orders[slots[i]], self.instrument_numbers, self.account_numbers)
                            at += sizeof(WireOrder)
                            room -= 1
                        i += 1
                    batch.count = self.batch_records - room
                    crc32c_seal(batch.data + HEAD, sizeof(WireOrder), batch.count)
                batches.append(batch)
        return batches, refused


cdef inline void fill_record(WireOrder* wire, Order* order, int32_t* instruments, uint32_t* accounts) noexcept nogil:
    """One record but its sum."""
    memcpy(wire.cid, order.cid, 16)
    wire.account = accounts[order.account]
    wire.instrument = <uint16_t>instruments[order.instrument]
    wire.flags = (
        (SELL if order.side < 0 else 0) | (REDUCE_ONLY if order.reduce_only else 0)
        | (<uint16_t>order.position_side << SIDE_SHIFT) | (LIMIT_IOC if order.limit_px else 0)
        | (REDUCTION if order.kind else 0))
    wire.quantity = order.order_qty
    wire.limit = order.limit_px
    wire.zero = 0


cdef inline uint64_t _hash(const uint8_t* cid) noexcept nogil:
    # The low 64 bits of an id are a keyed hash already.
    cdef uint64_t h
    memcpy(&h, cid + 8, 8)
    return h ^ (h >> 29)


cdef inline bint _possible(WireReport* w, const int32_t* codes) noexcept nogil:
    """Whether a record can be true; the twin is ``codec._possible``."""
    if (w.cum_qty | w.cum_quote_e8 | w.last_qty | w.last_px | w.venue_order_id) < 0 or w.zero or w.more:
        return False
    if w.kind == REJECT:
        return 0 < w.code < 64 and codes[w.code] != 0 and w.status == 8 and w.cum_qty == 0
    if w.code or w.status > 8 or not (STATUS_MASK >> w.status) & 1:
        return False
    if w.kind == TRADE:
        return 0 < w.last_qty <= w.cum_qty and w.last_px > 0 and w.trade_id > 0
    return w.kind == STATE and w.last_qty == 0 and w.last_px == 0


cdef class Flight:
    """The orders that were written and have not ended, by client order id, and what REPORTS say about them.

    ``codes``: {refusal on the wire: number the core books it under}.
    """

    def __cinit__(self, dict codes):
        self.mask = (1 << 16) - 1
        self.table = <Entry*>calloc(self.mask + 1, sizeof(Entry))
        if self.table == NULL:
            raise MemoryError
        self.live = {}
        self.settled = []
        memset(self.codes, 0, sizeof(self.codes))
        for refusal, code in codes.items():
            if not 0 < refusal < 64:
                raise ValueError(f"no such refusal: {refusal}")
            self.codes[refusal] = code

    def __dealloc__(self):
        free(self.table)

    def __len__(self):
        return self.count

    def __contains__(self, bytes cid):
        return len(cid) == 16 and self.find(<const uint8_t*><const char*>cid).state != EMPTY

    cdef Entry* find(self, const uint8_t* cid) noexcept nogil:
        """Its entry, or the empty one where it would be."""
        cdef uint64_t at = _hash(cid) & self.mask
        while self.table[at].state != EMPTY and memcmp(self.table[at].cid, cid, 16) != 0:
            at = (at + 1) & self.mask
        return &self.table[at]

    cdef void remove(self, Entry* entry) noexcept nogil:
        """Empty an entry and close the gap behind it, so that whoever was pushed further is still found."""
        cdef uint64_t hole = entry - self.table
        cdef uint64_t at = hole
        cdef uint64_t home
        while True:
            at = (at + 1) & self.mask
            if self.table[at].state == EMPTY:
                break
            home = _hash(self.table[at].cid) & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.table[hole] = self.table[at]
                hole = at
        self.table[hole].state = EMPTY
        self.count -= 1

    cdef int grow(self, uint64_t room) except -1:
        cdef uint64_t mask = self.mask, i
        cdef Entry* old = self.table
        cdef uint64_t old_mask = self.mask
        while room * 2 > mask:
            mask = mask * 2 + 1
        if mask == self.mask:
            return 0
        self.table = <Entry*>calloc(mask + 1, sizeof(Entry))
        if self.table == NULL:
            self.table = old
            raise MemoryError
        self.mask = mask
        for i in range(old_mask + 1):
            if old[i].state != EMPTY:
                self.find(old[i].cid)[0] = old[i]
        free(old)
        return 0

    cdef int ended(self, Batch batch) except -1:
        """One record of the batch has ended, or is in doubt; the last one lets the batch go."""
        batch.open -= 1
        if batch.open == 0:
            del self.live[batch.sequence]
        return 0

    def book(self, Batch batch):
        """A batch of which at least a byte was written."""
        cdef uint32_t i
        cdef Entry* entry
        cdef uint8_t* cid
        self.grow(self.count + batch.count)
        batch.open = batch.unanswered = 0
        for i in range(batch.count):
            cid = batch.data + HEAD + i * sizeof(WireOrder)
            if i + 8 < batch.count:
                copyd_prefetch(&self.table[_hash(cid + 8 * sizeof(WireOrder)) & self.mask])
            entry = self.find(cid)
            if entry.state != EMPTY:
                continue  # sent again: it is known
            memcpy(entry.cid, cid, 16)
            entry.state = SENT
            entry.batch = <void*>batch
            self.count += 1
            self.waiting += 1
            batch.open += 1
            batch.unanswered += 1
        if batch.open:
            self.live[batch.sequence] = batch

    def decode(self, const uint8_t[::1] data, Py_ssize_t at, uint32_t count, ReportBatch out):
        """Append the ``count`` records at ``at`` to ``out``: 0 = done, 1 = a sum is wrong, 2 = one contradicts itself.

        All or none. Ids that were in doubt and have ended with it are appended to ``settled``.
        """
        cdef WireReport* wire
        cdef Report* row
        cdef Report* rows
        cdef Entry* entry
        cdef Batch batch
        cdef uint32_t i, need
        if at < 0 or at + <Py_ssize_t>count * <Py_ssize_t>sizeof(WireReport) > data.shape[0]:
            raise ValueError("the records do not fit the data")
        if count == 0:
            return 0
        wire = <WireReport*>&data[at]
        with nogil:
            if crc32c_check(<uint8_t*>wire, sizeof(WireReport), count) != count:
                with gil:
                    return 1
            for i in range(count):
                if not _possible(&wire[i], self.codes):
                    with gil:
                        return 2
        need = out.count + count
        if need > out.capacity:
            rows = <Report*>realloc(out.rows, max(need, 2 * out.capacity) * sizeof(Report))
            if rows == NULL:
                raise MemoryError
            out.rows = rows
            out.capacity = max(need, 2 * out.capacity)
        row = &out.rows[out.count]
        for i in range(count):
            if i + 4 < count:
                copyd_prefetch(&self.table[_hash(wire[i + 4].cid) & self.mask])
            memcpy(row, &wire[i], 88)
            row.account = NONE
            if wire[i].kind == REJECT:
                row.code = self.codes[wire[i].code]
            row.kind = wire[i].kind
            row.status = wire[i].status
            memset(row.pad, 0, 6)
            row += 1
            entry = self.find(wire[i].cid)
            if entry.state == EMPTY:
                self.unmatched += 1
                continue
            if entry.state == SENT:
                self.answered += 1
                self.waiting -= 1
                (<Batch>entry.batch).unanswered -= 1
                entry.state = ALIVE
            elif entry.state == DOUBTED:
                self.late += 1
            if (ENDED_MASK >> wire[i].status) & 1:
                if entry.state == DOUBTED:
                    self.doubted -= 1
                    self.settled.append(PyBytes_FromStringAndSize(<char*>entry.cid, 16))
                else:
                    batch = <Batch>entry.batch
                    self.ended(batch)
                self.remove(entry)
        out.count = need
        return 0

    def doubt_all(self, ReportBatch out):
        """IN_DOUBT for every order that has not ended and is not in doubt already; returns how many."""
        cdef uint64_t i
        cdef uint32_t found = 0
        for i in range(self.mask + 1):
            if self.table[i].state == SENT or self.table[i].state == ALIVE:
                self.put_in_doubt(i, out)
                found += 1
        return found

    def doubt(self, Batch batch, ReportBatch out):
        """The same for the orders of one batch."""
        cdef uint32_t i
        cdef uint32_t found = 0
        cdef Entry* entry
        for i in range(batch.count):
            entry = self.find(batch.data + HEAD + i * sizeof(WireOrder))
            if (entry.state == SENT or entry.state == ALIVE) and entry.batch == <void*>batch:
                self.put_in_doubt(entry - self.table, out)
                found += 1
        return found

    cdef int put_in_doubt(self, uint64_t at, ReportBatch out) except -1:
        cdef Entry* entry = &self.table[at]
        cdef Batch batch = <Batch>entry.batch
        cdef Report* row = out.push()
        memcpy(row.cid, entry.cid, 16)
        row.kind = IN_DOUBT
        row.account = NONE
        if entry.state == SENT:
            self.waiting -= 1
            batch.unanswered -= 1
        entry.state = DOUBTED
        entry.batch = NULL
        self.doubted += 1
        self.ended(batch)

    def forget(self, bytes cid):
        """An order in doubt was settled otherwise."""
        cdef Entry* entry
        if len(cid) != 16:
            raise ValueError("a client order id is 16 bytes")
        entry = self.find(<const uint8_t*><const char*>cid)
        if entry.state == DOUBTED:
            self.doubted -= 1
            self.remove(entry)
