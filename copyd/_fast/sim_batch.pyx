# cython: cdivision=True
# cdivision: the only divisions here are of sizes in bytes.
"""The simulated exchange's desk for the batch protocol: record batches into its engine, report records out, no Python per order.

Written from ``copyd/venues/batch/PROTOCOL.md`` alone and sharing nothing with the client, as an engine team's own would be.
A client order id is executed once: the desk keeps what became of it for at least ``horizon_ns`` and answers with that.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from copyd._fast.sim_engine cimport (
    EV_TRADE,
    STP_EXPIRE_MAKER,
    TIF_GTC,
    TIF_IOC,
    TYPE_LIMIT,
    TYPE_MARKET,
    Engine,
    Event,
    Order,
    Trade,
)

cdef extern from "crc32c.h" nogil:
    uint32_t crc32c_of "crc32c"(const uint8_t* data, size_t size) noexcept
    void crc32c_seal(uint8_t* at, size_t size, size_t count) noexcept
    size_t crc32c_check(const uint8_t* at, size_t size, size_t count) noexcept
    int crc32c_choose(int instruction) noexcept

crc32c_choose(1)

cdef packed struct Ask:      # a record of ORDERS
    uint8_t cid[16]
    uint32_t account
    uint16_t instrument
    uint16_t flags
    int64_t quantity
    int64_t limit
    uint32_t zero
    uint32_t sum

cdef packed struct Told:     # a record of REPORTS
    uint8_t cid[16]
    int64_t cum_qty
    int64_t cum_quote_e8
    int64_t last_qty
    int64_t last_px
    int64_t fee_e8
    int64_t trade_id
    int64_t order_id
    int64_t ns
    uint32_t zero
    int32_t code
    uint8_t kind
    uint8_t status
    uint16_t more
    uint32_t sum

cdef struct Known:           # what became of a client order id
    uint8_t cid[16]
    int32_t slot             # order of the engine; -1 = refused
    int32_t code             # why, as the protocol numbers it
    int64_t ts
    uint8_t used

cdef struct Table:
    Known* rows
    uint64_t mask
    uint64_t count
    int64_t since            # ns: the first id may be as old as this

cdef enum:
    F_SELL = 1
    F_REDUCE_ONLY = 2
    F_LIMIT = 16
    F_ALL = 63
    K_STATE = 1
    K_REJECT = 2
    K_TRADE = 6
    R_ACCOUNT = 1
    R_INSTRUMENT = 2
    R_QUANTITY = 3
    R_PRICE = 4
    R_PRICE_BAND = 5
    R_MIN_NOTIONAL = 6
    R_MARGIN = 7
    R_REDUCE_ONLY = 8
    R_POSITION_SIDE = 9
    R_LIQUIDITY = 10
    R_LEVERAGE = 14
    R_RECORD = 15
    R_OTHER = 16
    TRADES_MAX = 64          # executions told of one order asked for

cdef int64_t NUMBER_MAX = <int64_t>1 << 50
cdef const char* HEX = b"0123456789abcdef"
cdef uint8_t[6] STATUS = [2, 3, 4, 6, 7, 7]


def crc32c(const uint8_t[::1] data):
    """CRC-32C of some bytes."""
    return 0 if data.shape[0] == 0 else crc32c_of(&data[0], data.shape[0])


cdef int refusal(int code) noexcept nogil:
    """The protocol's number for a refusal of the engine."""
    if code == -1121:
        return R_INSTRUMENT
    if code == -4003 or code == -4004 or code == -4005:
        return R_QUANTITY
    if code == -4001 or code == -4002 or code == -4013:
        return R_PRICE
    if code == -4016 or code == -4024:
        return R_PRICE_BAND
    if code == -4164:
        return R_MIN_NOTIONAL
    if code == -2019:
        return R_MARGIN
    if code == -2022:
        return R_REDUCE_ONLY
    if code == -4061 or code == -1106:
        return R_POSITION_SIDE
    if code == -4131:
        return R_LIQUIDITY
    if code == -2027:
        return R_LEVERAGE
    return R_OTHER


cdef inline uint64_t _hash(const uint8_t* cid) noexcept nogil:
    # Whoever makes the ids need not have made them random.
    cdef uint64_t a, b
    memcpy(&a, cid, 8)
    memcpy(&b, cid + 8, 8)
    a = (a ^ (b >> 31)) * <uint64_t>0x9E3779B97F4A7C15 + b
    a = (a ^ (a >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    return a ^ (a >> 32)


cdef class Desk:
    """One engine's batch desk. ``horizon_ns``: how long an id is remembered at least."""

    cdef Engine engine
    cdef Table[2] tables                 # ids of now, and those before
    cdef readonly int64_t horizon_ns
    cdef Told* told
    cdef readonly uint32_t n_told        # report records that wait to be taken
    cdef uint32_t room
    cdef readonly int64_t n_placed, n_refused, n_repeated

    def __cinit__(self, Engine engine, int64_t horizon_ns, int64_t now_ns):
        cdef int i
        self.engine = engine
        self.horizon_ns = horizon_ns
        for i in range(2):
            self.tables[i].mask = (1 << 16) - 1
            self.tables[i].rows = <Known*>calloc(1 << 16, sizeof(Known))
            self.tables[i].since = now_ns
            if self.tables[i].rows == NULL:
                raise MemoryError

    def __dealloc__(self):
        free(self.tables[0].rows)
        free(self.tables[1].rows)
        free(self.told)

    @property
    def known_since_ns(self):
        """Every id taken since then is remembered."""
        return self.tables[1].since

    # -- ids ---------------------------------------------------------------------------------------------------------

    cdef Known* find(self, const uint8_t* cid) noexcept nogil:
        cdef int i
        cdef uint64_t at
        cdef Table* table
        for i in range(2):
            table = &self.tables[i]
            if table.count == 0:
                continue
            at = _hash(cid) & table.mask
            while table.rows[at].used:
                if memcmp(table.rows[at].cid, cid, 16) == 0:
                    return &table.rows[at]
                at = (at + 1) & table.mask
        return NULL

    cdef Known* note(self, const uint8_t* cid, int64_t now) noexcept nogil:
        """A new row for a new id; room was made before."""
        cdef Table* table = &self.tables[0]
        cdef uint64_t at = _hash(cid) & table.mask
        while table.rows[at].used:
            at = (at + 1) & table.mask
        memcpy(table.rows[at].cid, cid, 16)
        table.rows[at].used = 1
        table.rows[at].ts = now
        table.count += 1
        return &table.rows[at]

    cdef int make_room(self, uint32_t count, int64_t now) except -1:
        cdef Table* table = &self.tables[0]
        cdef Table spare
        cdef Known* old
        cdef uint64_t old_mask, i, at
        if now - table.since >= self.horizon_ns and table.count:
            spare = self.tables[1]
            self.tables[1] = self.tables[0]
            memset(spare.rows, 0, (spare.mask + 1) * sizeof(Known))
            spare.count = 0
            spare.since = now
            self.tables[0] = spare
        if (table.count + count) * 2 > table.mask:
            old = table.rows
            old_mask = table.mask
            while (table.count + count) * 2 > table.mask:
                table.mask = table.mask * 2 + 1
            table.rows = <Known*>calloc(table.mask + 1, sizeof(Known))
            if table.rows == NULL:
                table.rows = old
                table.mask = old_mask
                raise MemoryError
            for i in range(old_mask + 1):
                if old[i].used:
                    at = _hash(old[i].cid) & table.mask
                    while table.rows[at].used:
                        at = (at + 1) & table.mask
                    table.rows[at] = old[i]
            free(old)
        return 0

    # -- reports -------------------------------------------------------------------------------------------------------

    cdef Told* tell(self, const uint8_t* cid, int kind, int status, int64_t ns) noexcept nogil:
        cdef Told* row
        if self.n_told == self.room:
            self.room = 2 * self.room + 4096
            self.told = <Told*>realloc(self.told, self.room * sizeof(Told))
        row = &self.told[self.n_told]
        self.n_told += 1
        memset(row, 0, sizeof(Told))
        memcpy(row.cid, cid, 16)
        row.kind = kind
        row.status = status
        row.ns = ns
        return row

    cdef void tell_reject(self, const uint8_t* cid, int code, int64_t ns) noexcept nogil:
        self.tell(cid, K_REJECT, 8, ns).code = code

    cdef void tell_state(self, const uint8_t* cid, Order* o) noexcept nogil:
        cdef Told* row = self.tell(cid, K_STATE, STATUS[o.status], o.ts_update)
        row.cum_qty = o.cum_qty
        row.cum_quote_e8 = o.cum_value_e8
        row.order_id = o.order_id

    cdef void tell_known(self, Known* known) noexcept nogil:
        """All that became of an id: its executions, then its state; or why it was refused."""
        cdef Order* o
        cdef Trade* t
        cdef Told* row
        cdef int64_t[TRADES_MAX] found
        cdef int n = 0
        cdef int64_t index, cum = 0, value = 0
        if known.slot < 0:
            self.tell_reject(known.cid, known.code, known.ts)
            return
        o = self.engine.order_ptr(known.slot)
        index = self.engine.accounts[o.account].last_trade if o.cum_qty else -1
        while index >= 0 and n < TRADES_MAX:
            t = self.engine.trade_ptr(index)
            if t.ts < o.ts_new:
                break
            if t.buy_order_id == o.order_id or t.sell_order_id == o.order_id:
                found[n] = index
                n += 1
            index = t.prev_of_buyer if t.buy_account == o.account else t.prev_of_seller
        while n > 0:
            n -= 1
            t = self.engine.trade_ptr(found[n])
            cum += t.qty
            value += t.px * t.qty * self.engine.inst[o.symbol].value_mul
            row = self.tell(known.cid, K_TRADE, 4 if cum == o.qty else 3, t.ts)
            row.cum_qty = cum
            row.cum_quote_e8 = value
            row.last_qty = t.qty
            row.last_px = t.px
            row.fee_e8 = t.buy_fee_e8 if o.side > 0 else t.sell_fee_e8
            row.trade_id = t.trade_id
            row.order_id = o.order_id
        self.tell_state(known.cid, o)

    def take(self, uint32_t most):
        """Up to ``most`` report records as bytes, sealed, oldest first."""
        cdef uint32_t count = min(most, self.n_told)
        if count == 0:
            return b""
        crc32c_seal(<uint8_t*>self.told, sizeof(Told), count)
        out = PyBytes_FromStringAndSize(<char*>self.told, count * sizeof(Told))
        self.n_told -= count
        if self.n_told:
            memmove(self.told, <char*>self.told + count * sizeof(Told), self.n_told * sizeof(Told))
        return out

    # -- orders ----------------------------------------------------------------------------------------------------------

    def check(self, const uint8_t[::1] data, Py_ssize_t at, uint32_t count):
        """Whether ``count`` records at ``at`` are undamaged."""
        if at < 0 or at + <Py_ssize_t>count * <Py_ssize_t>sizeof(Ask) > data.shape[0]:
            return False
        return count == 0 or crc32c_check(&data[at], sizeof(Ask), count) == count

    def orders(self, const uint8_t[::1] data, Py_ssize_t at, uint32_t count, int64_t now_ns, int refuse=0):
        """Put ``count`` checked records through the engine; ``refuse``: refuse those that are new, with this code.

        The engine's events are those of all of them; the caller tells whoever listens to them.
        """
        cdef Ask* asks
        cdef uint32_t i
        if at < 0 or at + <Py_ssize_t>count * <Py_ssize_t>sizeof(Ask) > data.shape[0]:
            raise ValueError("the records do not fit the data")
        self.make_room(count, now_ns)
        self.engine.c_begin()
        if count:
            asks = <Ask*>&data[at]
            with nogil:
                for i in range(count):
                    self.order(&asks[i], now_ns, refuse)
        self.engine.c_end(now_ns)

    cdef void order(self, Ask* ask, int64_t now, int refuse) noexcept nogil:
        cdef Known* known = self.find(ask.cid)
        cdef char[32] name
        cdef int i, code, before
        cdef int pos_side = (ask.flags >> 2) & 3
        cdef int32_t slot
        cdef Event* e
        cdef Order* o
        cdef Told* row
        if known != NULL:
            self.n_repeated += 1
            self.tell_known(known)
            return
        known = self.note(ask.cid, now)
        known.slot = -1
        code = refuse
        if code == 0:
            if ask.flags & ~F_ALL or pos_side > 2 or ask.zero or ((ask.flags & F_LIMIT) != 0) != (ask.limit != 0):
                code = R_RECORD
            elif (ask.account == 0 or ask.account >= <uint32_t>self.engine.n_accounts
                    or self.engine.accounts[ask.account].ephemeral):
                code = R_ACCOUNT
            elif ask.instrument >= self.engine.n_symbols:
                code = R_INSTRUMENT
            elif ask.quantity <= 0 or ask.quantity > NUMBER_MAX:
                code = R_QUANTITY
            elif ask.limit < 0 or ask.limit > NUMBER_MAX:
                code = R_PRICE
        if code:
            known.code = code
            self.n_refused += 1
            self.tell_reject(ask.cid, code, now)
            return
        for i in range(16):
            name[2 * i] = HEX[ask.cid[i] >> 4]
            name[2 * i + 1] = HEX[ask.cid[i] & 15]
        before = self.engine.n_events
        slot = self.engine.c_place(
            <int32_t>ask.account, ask.instrument, -1 if ask.flags & F_SELL else 1,
            TYPE_LIMIT if ask.flags & F_LIMIT else TYPE_MARKET, TIF_IOC if ask.flags & F_LIMIT else TIF_GTC,
            ask.quantity, ask.limit, (ask.flags & F_REDUCE_ONLY) != 0, False, pos_side, name, 32, now, STP_EXPIRE_MAKER)
        if slot < 0:
            known.code = refusal(slot)
            self.n_refused += 1
            self.tell_reject(ask.cid, known.code, now)
            return
        self.n_placed += 1
        known.slot = slot
        o = self.engine.order_ptr(slot)
        for i in range(before, self.engine.n_events):
            e = &self.engine.events[i]
            if e.kind != EV_TRADE or e.slot != slot:
                continue
            row = self.tell(ask.cid, K_TRADE, STATUS[e.status], e.ts)
            row.cum_qty = e.cum_qty
            row.cum_quote_e8 = e.cum_value_e8
            row.last_qty = e.qty
            row.last_px = e.px
            row.fee_e8 = e.fee_e8
            row.trade_id = e.trade_id
            row.order_id = o.order_id
        if o.cum_qty != o.qty or o.qty != ask.quantity:
            self.tell_state(ask.cid, o)

    def query(self, list cids):
        """Tell what became of these ids; returns those that were never taken."""
        cdef Known* known
        missing = []
        for cid in cids:
            if len(cid) != 16:
                raise ValueError("a client order id is 16 bytes")
            known = self.find(<const uint8_t*>PyBytes_AS_STRING(cid))
            if known == NULL:
                missing.append(cid)
            else:
                self.tell_known(known)
        return missing
