"""The engine's tables in contiguous memory, and the index from client order id to order row.

``Columns`` owns the memory. Kernels read and write the rows; Python sees a row as bytes (``get`` / ``put``), which
``copyd.core.rows`` turns into the readable row classes. ``dump`` and ``load`` move whole tables for checkpoints.
"""

from cpython cimport array as arrays
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

import array

cdef extern from "memory.h" nogil:
    void* grow_table(void* old, size_t used, size_t size)
    int keep_freed(size_t size)

cdef extern from *:
    """
    static inline void fetch_row(const void* at) { __builtin_prefetch(at, 1); }
    """
    void fetch_row(const void* at) noexcept nogil

cdef arrays.array SLOTS = array.array("I")  # what every array of slots is made like

TABLES = ("instruments", "leaders", "positions", "plans", "accounts", "account_instruments", "legs", "orders",
          "trades")

cdef enum:
    T_INSTRUMENTS = 0
    T_LEADERS = 1
    T_POSITIONS = 2
    T_PLANS = 3
    T_ACCOUNTS = 4
    T_ACCOUNT_INSTRUMENTS = 5
    T_LEGS = 6
    T_ORDERS = 7
    T_TRADES = 8
    N_TABLES = 9
    AHEAD = 12        # rows whose place in the index is fetched before it is needed
    ORDER_FREE = 255  # Order.state of a row on the free list; Order.leg is then the next free row

cdef size_t[9] ROW_SIZES = [
    sizeof(Instrument), sizeof(Leader), sizeof(LeaderPosition), sizeof(Plan), sizeof(Account),
    sizeof(AccountInstrument), sizeof(Leg), sizeof(Order), sizeof(Trade),
]


def keep_memory(size_t size):
    """Keep up to ``size`` bytes that were freed for the process; True where the allocator can be told so."""
    return bool(keep_freed(size))


def row_sizes():
    """Bytes per row of each table and of a report, for the layout test and the journal header."""
    sizes = {TABLES[i]: ROW_SIZES[i] for i in range(N_TABLES)}
    sizes["reports"] = sizeof(Report)
    return sizes


cdef inline uint64_t _hash_cid(const uint8_t* cid) noexcept nogil:
    # The low 64 bits of an id are already a keyed hash; take them as they are.
    cdef uint64_t h
    memcpy(&h, cid + 8, 8)
    return h ^ (h >> 29)


cdef inline uint32_t _hash_trade(uint32_t slot, int64_t trade_id) noexcept nogil:
    cdef uint64_t h = <uint64_t>trade_id * <uint64_t>0x9E3779B97F4A7C15 + slot
    h = (h ^ (h >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    return <uint32_t>(h >> 32)


cdef inline bint _untold(Order* order, uint64_t terminal_mask) noexcept nogil:
    """It has ended, and some execution of it was never told by itself."""
    return (order.state < 64 and (terminal_mask >> order.state) & 1
            and (order.exec_qty < order.cum_qty or order.estimated))


cdef inline int check_order(Columns columns, uint32_t slot) except -1:
    if slot >= columns.counts[T_ORDERS]:
        raise IndexError(f"orders[{slot}]: the table has {columns.counts[T_ORDERS]} rows")
    return 0


cdef class Columns:
    """All mutable tables of the engine.

    ``instruments_max`` is the stride of the account x instrument table (at most 64: a plan's allow-list is one word).
    """

    def __cinit__(self, int instruments_max=1):
        if not 1 <= instruments_max <= 64:
            raise ValueError("instruments_max must be 1..64")
        self.instruments_max = instruments_max
        self.order_free = NONE
        self.index_mask = (1 << 10) - 1
        self.index = <uint64_t*>grow_table(NULL, 0, (self.index_mask + 1) * sizeof(uint64_t))
        self.trade_mask = (1 << 10) - 1
        self.trade_index = <uint32_t*>calloc(self.trade_mask + 1, sizeof(uint32_t))
        if self.index == NULL or self.trade_index == NULL:
            raise MemoryError
        cdef int t
        for t in range(N_TABLES):
            self._reserve(t, 16)

    def __dealloc__(self):
        cdef int t
        for t in range(N_TABLES):
            free(self.tables[t])
        free(self.index)
        free(self.trade_index)
        free(self.first_order)
        free(self.next_order)
        free(self.fresh)

    cdef int _reserve(self, int table, uint32_t rows) except -1 nogil:
        """Room for ``rows`` rows; new memory is zeroed so that equal histories give equal bytes."""
        if rows <= self.capacity[table]:
            return 0
        cdef uint32_t capacity = max(rows, self.capacity[table] * 2)
        cdef size_t size = ROW_SIZES[table]
        cdef void* memory = grow_table(self.tables[table], self.capacity[table] * size, capacity * size)
        if memory == NULL:
            with gil:
                raise MemoryError
        self.tables[table] = memory
        self.capacity[table] = capacity
        self.instruments = <Instrument*>self.tables[T_INSTRUMENTS]
        self.leaders = <Leader*>self.tables[T_LEADERS]
        self.positions = <LeaderPosition*>self.tables[T_POSITIONS]
        self.plans = <Plan*>self.tables[T_PLANS]
        self.accounts = <Account*>self.tables[T_ACCOUNTS]
        self.account_instruments = <AccountInstrument*>self.tables[T_ACCOUNT_INSTRUMENTS]
        self.legs = <Leg*>self.tables[T_LEGS]
        self.orders = <Order*>self.tables[T_ORDERS]
        self.trades = <Trade*>self.tables[T_TRADES]
        return 0

    # -- rows as bytes ----------------------------------------------------------------------------------------------

    def count(self, int table):
        """Rows in a table (index into ``TABLES``); for orders this counts freed rows too."""
        return self.counts[table]

    def get(self, int table, uint32_t row):
        """One row as bytes."""
        if row >= self.counts[table]:
            raise IndexError(f"{TABLES[table]}[{row}]: the table has {self.counts[table]} rows")
        return PyBytes_FromStringAndSize(<char*>self.tables[table] + row * ROW_SIZES[table], ROW_SIZES[table])

    def put(self, int table, uint32_t row, bytes data):
        """Overwrite one existing row."""
        if row >= self.counts[table]:
            raise IndexError(f"{TABLES[table]}[{row}]: the table has {self.counts[table]} rows")
        if len(data) != <Py_ssize_t>ROW_SIZES[table]:
            raise ValueError(f"{TABLES[table]}: a row is {ROW_SIZES[table]} bytes, got {len(data)}")
        memcpy(<char*>self.tables[table] + row * ROW_SIZES[table], PyBytes_AS_STRING(data), ROW_SIZES[table])

    def add(self, int table, bytes data):
        """Append one row to any table but orders; returns its index."""
        if table == T_ORDERS:
            raise ValueError("orders are added by add_order")
        self._reserve(table, self.counts[table] + 1)
        self.counts[table] += 1
        self.put(table, self.counts[table] - 1, data)
        return self.counts[table] - 1

    def extend(self, int table, uint32_t rows):
        """Append ``rows`` zeroed rows (none of them orders)."""
        if table == T_ORDERS:
            raise ValueError("orders are added by add_order")
        self._reserve(table, self.counts[table] + rows)
        self.counts[table] += rows

    def widen(self, int instruments):
        """Room for so many instruments per account; rows keep what they hold. Only ever wider, by powers of two."""
        cdef int wanted = self.instruments_max
        cdef uint32_t account
        cdef uint32_t accounts = self.counts[T_ACCOUNTS]
        cdef size_t size = sizeof(AccountInstrument)
        cdef void* wider
        if not 1 <= instruments <= 64:
            raise ValueError("instruments must be 1..64")
        if instruments <= wanted:
            return
        while wanted < instruments:
            wanted *= 2
        wanted = min(wanted, 64)
        wider = grow_table(NULL, 0, max(16, <size_t>accounts * wanted) * size)
        if wider == NULL:
            raise MemoryError
        for account in range(accounts):
            memcpy(<char*>wider + <size_t>account * wanted * size,
                   &self.account_instruments[<size_t>account * self.instruments_max], self.instruments_max * size)
        free(self.tables[T_ACCOUNT_INSTRUMENTS])
        self.tables[T_ACCOUNT_INSTRUMENTS] = wider
        self.account_instruments = <AccountInstrument*>wider
        self.capacity[T_ACCOUNT_INSTRUMENTS] = max(16, accounts * <uint32_t>wanted)
        self.counts[T_ACCOUNT_INSTRUMENTS] = accounts * <uint32_t>wanted
        self.instruments_max = wanted

    # -- orders -----------------------------------------------------------------------------------------------------

    # An entry of the index: the upper half of the id's hash, and the slot + 1; 0 = none. The half tells others apart without
    # a look at their rows.

    cdef uint32_t find_order(self, const uint8_t* cid) noexcept nogil:
        cdef uint64_t hashed = _hash_cid(cid)
        cdef uint32_t at = <uint32_t>(hashed & self.index_mask)
        cdef uint64_t entry
        while True:
            entry = self.index[at]
            if entry == 0:
                return NONE
            if entry >> 32 == hashed >> 32 and memcmp(self.orders[<uint32_t>entry - 1].cid, cid, 16) == 0:
                return <uint32_t>entry - 1
            at = (at + 1) & self.index_mask

    cdef bint index_put(self, uint32_t slot) noexcept nogil:
        """False when the id is in the index."""
        cdef uint64_t hashed = _hash_cid(self.orders[slot].cid)
        cdef uint32_t at = <uint32_t>(hashed & self.index_mask)
        cdef uint64_t entry
        while True:
            entry = self.index[at]
            if entry == 0:
                break
            if entry >> 32 == hashed >> 32 and memcmp(
                    self.orders[<uint32_t>entry - 1].cid, self.orders[slot].cid, 16) == 0:
                return False
            at = (at + 1) & self.index_mask
        self.index[at] = hashed >> 32 << 32 | (slot + 1)
        return True

    cdef void fetch_index(self, const uint8_t* cid) noexcept nogil:
        """Have the place of an id in the index at hand soon."""
        fetch_row(&self.index[_hash_cid(cid) & self.index_mask])

    cdef void fetch_order(self, const uint8_t* cid) noexcept nogil:
        """Have the row that is probably this id's at hand soon."""
        cdef uint32_t slot = <uint32_t>self.index[_hash_cid(cid) & self.index_mask]
        if slot != 0:
            fetch_row(&self.orders[slot - 1])
            fetch_row(&self.orders[slot - 1].cost_e8)
            fetch_row(&self.orders[slot - 1].seq)
            fetch_row(&self.orders[slot - 1].side)

    cdef uint32_t new_order(self, const uint8_t* cid) except? 0xFFFFFFFE nogil:
        """A zeroed order row with this id. It is in no index before ``index_fresh``, which the caller owes: one look at the
        index for each of ten thousand orders would wait for memory ten thousand times."""
        cdef uint32_t slot
        if self.order_free != NONE:
            slot = self.order_free
            self.orders_free -= 1
            self.order_free = self.orders[slot].leg
            if self.order_free != NONE:
                fetch_row(&self.orders[self.order_free])
                fetch_row(&self.orders[self.order_free].cost_e8)
                fetch_row(&self.orders[self.order_free].leg)
        else:
            self._reserve(T_ORDERS, self.counts[T_ORDERS] + 1)
            slot = self.counts[T_ORDERS]
            self.counts[T_ORDERS] += 1
        memset(&self.orders[slot], 0, sizeof(Order))
        memcpy(self.orders[slot].cid, cid, 16)
        self._note_fresh(slot)
        self.unindexed += 1
        return slot

    cdef uint32_t index_fresh(self) except? 0xFFFFFFFE:
        """Enter the newest rows in the index; NONE when all ids were new, else the first row whose id is there already: one id
        is put on the wire once."""
        cdef uint32_t first = self.fresh_count - self.unindexed
        cdef uint32_t i, slot
        if (<uint64_t>self.counts[T_ORDERS] + 1) * 2 > self.index_mask:
            self.unindexed = 0
            return self._rehash()  # it takes the newest with it
        for i in range(first, self.fresh_count):
            if i + AHEAD < self.fresh_count:
                fetch_row(&self.index[_hash_cid(self.orders[self.fresh[i + AHEAD]].cid) & self.index_mask])
            slot = self.fresh[i]
            self.unindexed -= 1
            if not self.index_put(slot):
                return slot
        return NONE

    def make_room(self, uint32_t orders):
        """Memory for so many new orders, so that the next event need not wait for it; changes no row."""
        cdef uint64_t wanted = <uint64_t>self.counts[T_ORDERS] + max(orders, self.orders_free) - self.orders_free
        cdef uint32_t* fresh
        if wanted >= <uint64_t>1 << 30:
            return
        self._reserve(T_ORDERS, <uint32_t>wanted)
        if (wanted + 1) * 2 > self.index_mask:
            self._rehash(<uint32_t>wanted)
        if self.fresh_capacity < orders:
            fresh = <uint32_t*>realloc(self.fresh, 2 * orders * sizeof(uint32_t))
            if fresh == NULL:
                raise MemoryError
            self.fresh, self.fresh_capacity = fresh, 2 * orders

    cdef int _note_fresh(self, uint32_t slot) except -1 nogil:
        cdef uint32_t* fresh
        if self.fresh_count == self.fresh_capacity:
            self.fresh_capacity = max(1_024, self.fresh_capacity * 2)
            fresh = <uint32_t*>realloc(self.fresh, self.fresh_capacity * sizeof(uint32_t))
            if fresh == NULL:
                with gil:
                    raise MemoryError
            self.fresh = fresh
        self.fresh[self.fresh_count] = slot
        self.fresh_count += 1
        return 0

    cdef int _link(self) except -1:
        """Every order into the chain of its account, so that asking about one account costs what that account has."""
        cdef uint32_t i, slot
        cdef uint32_t* grown
        if self.accounts_linked < self.counts[T_ACCOUNTS]:
            grown = <uint32_t*>realloc(self.first_order, self.capacity[T_ACCOUNTS] * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.first_order = grown
            for i in range(self.accounts_linked, self.capacity[T_ACCOUNTS]):
                grown[i] = NONE
            self.accounts_linked = self.capacity[T_ACCOUNTS]
        if self.orders_linked < self.counts[T_ORDERS]:
            grown = <uint32_t*>realloc(self.next_order, self.capacity[T_ORDERS] * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.next_order = grown
            self.orders_linked = self.capacity[T_ORDERS]
        if self.relink:
            self.relink = False
            for i in range(self.accounts_linked):
                self.first_order[i] = NONE
            self.fresh_count = 0
            for slot in range(self.counts[T_ORDERS]):
                if self.orders[slot].state != ORDER_FREE and self.orders[slot].state != 0:
                    self._note_fresh(slot)
        for i in range(self.fresh_count):
            slot = self.fresh[i]
            if self.orders[slot].account >= self.accounts_linked:
                raise ValueError(f"order {slot} is of account {self.orders[slot].account}, which is not in the tables")
            self.next_order[slot] = self.first_order[self.orders[slot].account]
            self.first_order[self.orders[slot].account] = slot
        self.fresh_count = 0
        return 0

    cdef uint32_t _rehash(self, uint32_t orders=0) except? 0xFFFFFFFE:
        """An index for the orders there are and ``orders`` at least, at most half full; the result is ``_reindex``'s."""
        cdef uint32_t mask = self.index_mask
        cdef uint64_t wanted = max(orders, self.counts[T_ORDERS] + 1)
        while wanted * 2 > mask:
            mask = mask * 2 + 1
        cdef uint64_t* index = <uint64_t*>grow_table(NULL, 0, (<size_t>mask + 1) * sizeof(uint64_t))
        if index == NULL:
            raise MemoryError
        free(self.index)
        self.index = index
        self.index_mask = mask
        return self._reindex()

    cdef uint32_t _reindex(self) noexcept:
        """Every order into an index made anew; NONE, or an order whose id another has."""
        cdef uint32_t slot
        cdef uint32_t twice = NONE
        memset(self.index, 0, (<size_t>self.index_mask + 1) * sizeof(uint64_t))
        for slot in range(self.counts[T_ORDERS]):
            if self.orders[slot].state != ORDER_FREE and self.orders[slot].state != 0 and not self.index_put(slot):
                twice = slot
        return twice

    cdef int book_trade(self, uint32_t slot, int64_t trade_id) except -1:
        """Remember a trade of an order; 1 when it is new, 0 when it was booked before."""
        cdef uint32_t at = _hash_trade(slot, trade_id) & self.trade_mask
        cdef Trade* trade
        while self.trade_index[at] != 0:
            trade = &self.trades[self.trade_index[at] - 1]
            if trade.trade_id == trade_id and trade.slot == slot:
                return 0
            at = (at + 1) & self.trade_mask
        self._reserve(T_TRADES, self.counts[T_TRADES] + 1)
        trade = &self.trades[self.counts[T_TRADES]]
        memset(trade, 0, sizeof(Trade))
        trade.trade_id = trade_id
        trade.slot = slot
        self.counts[T_TRADES] += 1
        self.trade_index[at] = self.counts[T_TRADES]
        if <uint64_t>self.counts[T_TRADES] * 2 > self.trade_mask:
            self._rehash_trades()
        return 1

    cdef _rehash_trades(self):
        cdef uint32_t mask = self.trade_mask
        cdef uint32_t i, at
        while <uint64_t>self.counts[T_TRADES] * 2 > mask:
            mask = mask * 2 + 1
        cdef uint32_t* index = <uint32_t*>calloc(<size_t>mask + 1, sizeof(uint32_t))
        if index == NULL:
            raise MemoryError
        free(self.trade_index)
        self.trade_index = index
        self.trade_mask = mask
        for i in range(self.counts[T_TRADES]):
            at = _hash_trade(self.trades[i].slot, self.trades[i].trade_id) & mask
            while index[at] != 0:
                at = (at + 1) & mask
            index[at] = i + 1

    cdef _retire_trades(self):
        """Drop the trades of orders that were freed; keeps the order of the rest."""
        cdef uint32_t i
        cdef uint32_t kept = 0
        for i in range(self.counts[T_TRADES]):
            if self.orders[self.trades[i].slot].state != ORDER_FREE:
                self.trades[kept] = self.trades[i]
                kept += 1
        memset(&self.trades[kept], 0, (self.counts[T_TRADES] - kept) * sizeof(Trade))
        self.counts[T_TRADES] = kept
        self._rehash_trades()

    def add_order(self, bytes cid):
        """A new zeroed order row under a 16-byte id; for the readable twin and tests."""
        if len(cid) != 16:
            raise ValueError("a client order id is 16 bytes")
        if self.find_order(<const uint8_t*>PyBytes_AS_STRING(cid)) != NONE:
            raise ValueError("client order id is already in the table")
        cdef uint32_t slot = self.new_order(<const uint8_t*>PyBytes_AS_STRING(cid))
        self.index_fresh()
        self.orders[slot].state = 1
        return slot

    def order_slot(self, bytes cid):
        """Row of a 16-byte client order id, or None."""
        if len(cid) != 16:
            raise ValueError("a client order id is 16 bytes")
        cdef uint32_t slot = self.find_order(<const uint8_t*>PyBytes_AS_STRING(cid))
        return None if slot == NONE else slot

    def retire_orders(self, int64_t before_seq, terminal_mask, int64_t untold_before=0):
        """Forget finished orders named before journal record ``before_seq``; returns how many.

        ``terminal_mask`` has bit s set for every terminal state s. The rows are reused. An order of which less was told
        than filled is kept, unless it was decided before ``untold_before`` (ns): its fee and price may still be told.
        """
        cdef uint64_t mask = terminal_mask
        cdef uint32_t slot
        cdef uint32_t freed = 0
        for slot in range(self.counts[T_ORDERS]):
            if (self.orders[slot].state < 64 and (mask >> self.orders[slot].state) & 1
                    and self.orders[slot].seq < before_seq
                    and (self.orders[slot].ts_decided < untold_before or not _untold(&self.orders[slot], mask))):
                memset(&self.orders[slot], 0, sizeof(Order))
                self.orders[slot].state = ORDER_FREE
                self.orders[slot].leg = self.order_free
                self.order_free = slot
                freed += 1
        self.orders_free += freed
        if freed:
            self._reindex()
            self._retire_trades()
            self.relink = True
        return freed

    def orders_untold(self, uint32_t first, uint32_t count, int64_t since, int64_t now, terminal_mask, uint32_t most=NONE):
        """Slots, of ``count`` from ``first`` on, of finished orders of which less was told than filled; at most ``most``.

        Some execution of them was never told by itself: its fee is not known, perhaps not even its price. Those decided from
        ``since`` to ``now`` (ns) may still be told; one of later was decided before the clock was put back.
        """
        cdef uint64_t mask = terminal_mask
        cdef uint32_t slot
        found = []
        for slot in range(first, min(first + count, self.counts[T_ORDERS])):
            if _untold(&self.orders[slot], mask) and not since <= self.orders[slot].ts_decided <= now:
                if len(found) == most:
                    break
                found.append(slot)
        return found

    def count_untold(self, terminal_mask):
        """How many orders there are of which less was told than filled."""
        cdef uint64_t mask = terminal_mask
        cdef uint32_t slot
        cdef uint32_t found = 0
        for slot in range(self.counts[T_ORDERS]):
            found += _untold(&self.orders[slot], mask)
        return found

    def orders_in_state(self, state_mask, uint32_t account=NONE):
        """Slots of orders whose state has its bit set in ``state_mask`` (of one account, or all), ascending."""
        cdef uint64_t mask = state_mask
        cdef uint32_t slot
        found = []
        if account == NONE:
            for slot in range(self.counts[T_ORDERS]):
                if self.orders[slot].state < 64 and (mask >> self.orders[slot].state) & 1:
                    found.append(slot)
            return found
        self._link()
        slot = self.first_order[account] if account < self.accounts_linked else NONE
        while slot != NONE:
            if self.orders[slot].state < 64 and (mask >> self.orders[slot].state) & 1:
                found.append(slot)
            slot = self.next_order[slot]
        found.sort()
        return found

    # -- orders on their way out ------------------------------------------------------------------------------------

    def reductions_first(self, const uint32_t[::1] slots not None):
        """(slots of reductions, slots of openings), each in the order given."""
        cdef Py_ssize_t i, n = slots.shape[0], count = 0, reductions = 0, openings = 0
        for i in range(n):
            check_order(self, slots[i])
            count += self.orders[slots[i]].kind != 0
        cdef arrays.array first = arrays.clone(SLOTS, count, False)
        cdef arrays.array second = arrays.clone(SLOTS, n - count, False)
        for i in range(n):
            if self.orders[slots[i]].kind != 0:
                first.data.as_uints[reductions] = slots[i]
                reductions += 1
            else:
                second.data.as_uints[openings] = slots[i]
                openings += 1
        return first, second

    def split_orders(self, const uint32_t[::1] slots not None, bytes groups not None):
        """[(group, its slots in the order given)], in the order in which the groups come first.

        ``groups``: of each instrument, a byte. ``ValueError`` for an order in an instrument that has none.
        """
        cdef const uint8_t* group_of = <const uint8_t*>PyBytes_AS_STRING(groups)
        cdef Py_ssize_t i, n = slots.shape[0], known = len(groups)
        cdef Py_ssize_t[256] counts
        cdef uint8_t[256] seen
        cdef int group, found = 0
        cdef arrays.array one
        memset(counts, 0, sizeof(counts))
        for i in range(n):
            check_order(self, slots[i])
            if self.orders[slots[i]].instrument >= known:
                raise ValueError(f"order {slots[i]}: instrument {self.orders[slots[i]].instrument} has no group")
            group = group_of[self.orders[slots[i]].instrument]
            if counts[group] == 0:
                seen[found] = <uint8_t>group
                found += 1
            counts[group] += 1
        split = []
        for at in range(found):
            group = seen[at]
            one = arrays.clone(SLOTS, counts[group], False)
            counts[group] = 0
            for i in range(n):
                if group_of[self.orders[slots[i]].instrument] == group:
                    one.data.as_uints[counts[group]] = slots[i]
                    counts[group] += 1
            split.append((group, one))
        return split

    # -- whole tables -----------------------------------------------------------------------------------------------

    def dump(self):
        """Every table as bytes, in the order of ``TABLES``, plus the head of the order free list."""
        parts = [
            PyBytes_FromStringAndSize(<char*>self.tables[t], self.counts[t] * ROW_SIZES[t]) for t in range(N_TABLES)
        ]
        parts.append(int(self.order_free).to_bytes(4, "little"))
        return parts

    @staticmethod
    def load(int instruments_max, list parts):
        """The inverse of ``dump``."""
        cdef Columns columns = Columns(instruments_max)
        cdef int t
        cdef uint32_t row
        cdef bytes data
        for t in range(N_TABLES):
            data = bytes(parts[t])
            if len(data) % ROW_SIZES[t]:
                raise ValueError(f"{TABLES[t]}: {len(data)} bytes is no whole number of rows")
            columns._reserve(t, <uint32_t>(len(data) // ROW_SIZES[t]))
            columns.counts[t] = <uint32_t>(len(data) // ROW_SIZES[t])
            memcpy(columns.tables[t], PyBytes_AS_STRING(data), len(data))
        columns.order_free = int.from_bytes(parts[N_TABLES], "little")
        for row in range(columns.counts[T_ORDERS]):
            columns.orders_free += columns.orders[row].state == ORDER_FREE
        columns._rehash()
        columns._rehash_trades()
        columns.relink = True
        return columns


cdef class ReportBatch:
    """What the venue said, as rows, in the order it was read; filled by an adapter, consumed once by the engine."""

    def __cinit__(self):
        self.capacity = 256
        self.rows = <Report*>calloc(self.capacity, sizeof(Report))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.rows)

    def __len__(self):
        return self.count

    cdef Report* push(self) except NULL:
        cdef Report* rows
        if self.count == self.capacity:
            rows = <Report*>realloc(self.rows, self.capacity * 2 * sizeof(Report))
            if rows == NULL:
                raise MemoryError
            self.rows = rows
            self.capacity *= 2
        self.count += 1
        memset(&self.rows[self.count - 1], 0, sizeof(Report))
        return &self.rows[self.count - 1]

    def append(self, int kind, int status, bytes cid, int64_t cum_qty=0, int64_t cost_e8=0, int64_t last_qty=0,
               int64_t last_px=0, int64_t fee_e8=0, int64_t trade_id=0, int64_t venue_order_id=0, int64_t ts_event=0,
               int32_t code=0, bint fee_base=False):
        """One report about one order; ``cid``: the 16-byte id or its 32 hex characters. ``fee_base``: ``fee_e8`` is Q32 lots."""
        if len(cid) == 32:
            cid = bytes.fromhex(cid.decode("ascii"))
        if len(cid) != 16:
            raise ValueError("a client order id is 16 bytes or 32 hex characters")
        cdef Report* row = self.push()
        memcpy(row.cid, PyBytes_AS_STRING(cid), 16)
        row.kind = kind
        row.status = status
        row.cum_qty = cum_qty
        row.cost_e8 = cost_e8
        row.last_qty = last_qty
        row.last_px = last_px
        row.fee_e8 = fee_e8
        row.trade_id = trade_id
        row.venue_order_id = venue_order_id
        row.ts_event = ts_event
        row.account = NONE
        row.code = code
        row.fee_base = fee_base

    def append_balance(self, uint32_t account, int64_t balance_e8, int64_t ts_event):
        """The wallet balance of an account as the venue pushed it."""
        cdef Report* row = self.push()
        row.kind = 7
        row.account = account
        row.cost_e8 = balance_e8
        row.ts_event = ts_event

    def to_bytes(self):
        """The rows, for the journal."""
        return PyBytes_FromStringAndSize(<char*>self.rows, self.count * sizeof(Report))

    @staticmethod
    def from_bytes(data):
        """The inverse of ``to_bytes``."""
        cdef bytes raw = bytes(data)
        if len(raw) % sizeof(Report):
            raise ValueError("not a whole number of report rows")
        cdef ReportBatch batch = ReportBatch()
        cdef uint32_t n = <uint32_t>(len(raw) // sizeof(Report))
        cdef uint32_t i
        cdef Report* row
        for i in range(n):
            row = batch.push()
            memcpy(row, PyBytes_AS_STRING(raw) + i * sizeof(Report), sizeof(Report))
        return batch

    def clear(self):
        """Forget the rows, keep the memory."""
        self.count = 0
