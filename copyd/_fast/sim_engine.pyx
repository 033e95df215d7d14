# cython: auto_pickle=False, autotestdict=False
# (raw memory is not to be pickled; there are no doctests in here)
"""The simulated exchange's engine: matching, accounts, margin. The contract is in the ``.pxd``, the rules in the ``.pyi``.

Reading order: tables (growing), records (events, client ids), the book, the checks, the money, liquidation, then the Python
face. Every quantity is an integer; every division goes through one of the C helpers below, whose name says its rounding.
Orders of maker accounts are recycled when done, all others keep their slot for ever: ``order_id = ORDER_ID_BASE + slot``.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Exact over 128 bits; the quotient must fit (it does: every use divides by what it multiplied with, or more). */
    static inline int64_t mul_div_trunc(int64_t a, int64_t b, int64_t c) { return (int64_t)(((__int128)a * b) / c); }
    static inline int64_t mul_div_ceil(int64_t a, int64_t b, int64_t c) {  /* a, b >= 0, c > 0 */
        return (int64_t)(((__int128)a * b + c - 1) / c);
    }
    static inline int mul_less(int64_t a, int64_t b, int64_t c, int64_t d) { return (__int128)a * b < (__int128)c * d; }
    static inline int64_t div_trunc(int64_t a, int64_t b) { return a / b; }
    static inline int64_t div_floor(int64_t a, int64_t b) {
        int64_t q = a / b;
        return q - ((a % b != 0) && ((a < 0) != (b < 0)));
    }
    static inline int64_t div_ceil(int64_t a, int64_t b) { return -div_floor(-a, b); }
    static inline int64_t rem(int64_t a, int64_t b) { return a % b; }
    static inline uint64_t mix64(uint64_t x) {
        x ^= x >> 30; x *= 0xbf58476d1ce4e5b9ULL; x ^= x >> 27; x *= 0x94d049bb133111ebULL; return x ^ (x >> 31);
    }
    static inline uint32_t client_key(int32_t account, int symbol, const char *p, int n) {
        uint64_t h = mix64(((uint64_t)(uint32_t)account << 16) ^ (uint64_t)symbol ^ 0x9e3779b97f4a7c15ULL);
        uint64_t w;
        while (n >= 8) { memcpy(&w, p, 8); h = (h ^ w) * 0x9fb21c651e98df25ULL; h ^= h >> 32; p += 8; n -= 8; }
        w = (uint64_t)n + 1;
        memcpy((char *)&w + 1, p, (size_t)(n > 7 ? 7 : n));
        h = mix64(h ^ w);
        return (uint32_t)(h >> 32);
    }
    static inline int id_char(unsigned char c) {  /* ^[.A-Z:/a-z0-9_-]{1,36}$ ; '.', '/', '0'-'9', ':' are neighbours */
        return (c >= '.' && c <= ':') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
    }
    static int by_value(const void *a, const void *b) {
        int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
        return (x > y) - (x < y);
    }
    """
    int64_t mul_div_trunc(int64_t a, int64_t b, int64_t c) noexcept nogil
    int64_t mul_div_ceil(int64_t a, int64_t b, int64_t c) noexcept nogil
    bint mul_less(int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil
    int64_t div_trunc(int64_t a, int64_t b) noexcept nogil
    int64_t div_floor(int64_t a, int64_t b) noexcept nogil
    int64_t div_ceil(int64_t a, int64_t b) noexcept nogil
    int64_t rem(int64_t a, int64_t b) noexcept nogil
    uint64_t mix64(uint64_t x) noexcept nogil
    uint32_t client_key(int32_t account, int symbol, const char* p, int n) noexcept nogil
    int id_char(unsigned char c) noexcept nogil
    int by_value(const void* a, const void* b) noexcept nogil

cdef int64_t ID_BASE = 8_389_000_000
cdef int64_t MAKER_ID_BASE = 1 << 52  # apart from kept ids, and still exact in a JavaScript number
cdef int64_t PPM = 1_000_000
cdef int64_t E8 = 100_000_000
cdef int64_t DAY_NS = 86_400_000_000_000
cdef int64_t CLOCK_STEP_NS = 10_000_000_000  # times in a history may be this much out of order
cdef int BLOCK_BITS = 12
cdef int NOT_IN_BOOK = -2
cdef int LEVERAGE_DEFAULT = 20
cdef const char* BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

INSURANCE_ACCOUNT = 0
ORDER_ID_BASE = ID_BASE
EPHEMERAL_ID_BASE = MAKER_ID_BASE


# ---- tables ------------------------------------------------------------------------------------------------------------

cdef void* grown(void* old, int64_t count, int64_t size) noexcept nogil:
    """Memory for ``count`` items. Out of memory stops the process: an exchange that loses a record is worse than none."""
    cdef void* block = realloc(old, <size_t>(count * size))
    if block == NULL:
        abort()
    return block


cdef inline char* chunk_at(Chunks* log, int64_t index) noexcept nogil:
    return log.blocks[index >> BLOCK_BITS] + (index & ((1 << BLOCK_BITS) - 1)) * log.item_size


cdef char* chunk_push(Chunks* log) noexcept nogil:
    """A new zeroed item at the end; earlier items never move."""
    cdef int block = <int>(log.size >> BLOCK_BITS)
    if block >= log.n_blocks:
        if log.n_blocks >= log.room:
            log.room = log.room * 2 + 16
            log.blocks = <char**>grown(log.blocks, log.room, sizeof(char*))
        log.blocks[log.n_blocks] = <char*>calloc(1 << BLOCK_BITS, log.item_size)
        if log.blocks[log.n_blocks] == NULL:
            abort()
        log.n_blocks += 1
    log.size += 1
    return chunk_at(log, log.size - 1)


cdef void chunk_free(Chunks* log) noexcept nogil:
    cdef int i
    for i in range(log.n_blocks):
        free(log.blocks[i])
    free(log.blocks)


cdef inline int64_t absolute(int64_t x) noexcept nogil:
    return -x if x < 0 else x


cdef inline int32_t slot_of(uint64_t entry) noexcept nogil:
    """Of an entry of the client-id table."""
    return <int32_t>(<uint32_t>entry) - 1


cdef inline bint is_open(Order* o) noexcept nogil:
    return o.status <= STATUS_PARTIALLY_FILLED


cdef bint hidden(Order* o, int64_t ts) noexcept nogil:
    """The venue forgets: unfilled cancelled or expired orders after 3 days, everything done after 90."""
    if is_open(o):
        return False
    if ts - o.ts_new > 90 * DAY_NS:
        return True
    return o.cum_qty == 0 and o.status >= STATUS_CANCELED and ts - o.ts_new > 3 * DAY_NS


cdef inline int lower_bound(Side* side, int64_t key, int sign) noexcept nogil:
    """First level whose ``sign * px >= key``; bids are kept ascending (sign 1), asks descending (sign -1), best last.

    Orders come mostly near the best price, so the search gallops from the end before it halves.
    """
    cdef int high = side.size
    cdef int step = 1
    cdef int low, mid
    while high - step >= 0 and sign * side.levels[high - step].px >= key:
        high -= step
        step <<= 1
    low = high - step + 1
    if low < 0:
        low = 0
    while low < high:
        mid = (low + high) >> 1
        if sign * side.levels[mid].px < key:
            low = mid + 1
        else:
            high = mid
    return low


cdef int64_t decimal(const char* text, int size, int precision, int64_t unit_e8, int step_code, int low_code) noexcept nogil:
    """``text`` in units of ``unit_e8``: plain decimals only. Zeros beyond ``precision`` digits are harmless."""
    cdef int64_t value = 0
    cdef int i = 0
    cdef int places = 0
    cdef int digits = 0
    cdef int kept = 0
    cdef bint point = False
    cdef bint negative = False
    cdef bint fine = True
    cdef char c
    if size > 0 and (text[0] == b"-" or text[0] == b"+"):
        negative = text[0] == b"-"
        i = 1
    while i < size:
        c = text[i]
        i += 1
        if c == b".":
            if point:
                return -1100
            point = True
            continue
        if c < b"0" or c > b"9":
            return -1100
        digits += 1
        if point:
            places += 1
            if places > precision and c != b"0":
                fine = False
            if places > 8:
                continue
        if value > 0 or c != b"0":
            kept += 1
        if kept <= 18:
            value = value * 10 + (c - 48)
    if digits == 0:
        return -1100
    while places < 8:
        places += 1
        if value > 0:
            kept += 1
        if kept <= 18:
            value *= 10
    if negative or (value == 0 and fine):
        return low_code
    if not fine:
        return -1111
    if kept > 18:
        return <int64_t>1 << 60  # absurd: refused by the filters that follow
    if rem(value, unit_e8):
        return step_code
    return div_trunc(value, unit_e8)


cdef class Engine:

    def __cinit__(self, instruments, *, expected_orders=65536, quotes_room=200_000, insurance_e8=10**14):
        cdef Instrument* ins
        cdef int i, k
        self.specs = list(instruments)
        self.n_symbols = len(self.specs)
        self.inst = <Instrument*>calloc(max(1, self.n_symbols), sizeof(Instrument))
        if self.inst == NULL:
            raise MemoryError
        for i, spec in enumerate(self.specs):
            ins = &self.inst[i]
            if spec.tick_e8 * spec.lot_e8 % E8 or not 0 < len(spec.tiers) <= 16:
                raise ValueError(f"{spec.symbol}: a tick of a lot must be whole 1e-8 USDT, and there may be 1 to 16 tiers")
            ins.value_mul = spec.value_mul
            ins.min_px, ins.max_px = spec.min_px, spec.max_px
            ins.min_qty, ins.max_qty, ins.market_max_qty = spec.min_qty, spec.max_qty, spec.market_max_qty
            ins.min_notional_e8 = spec.min_notional_e8
            ins.up_ppm, ins.down_ppm, ins.take_bound_ppm = spec.up_ppm, spec.down_ppm, spec.take_bound_ppm
            ins.tick_e8, ins.lot_e8 = spec.tick_e8, spec.lot_e8
            ins.liquidation_fee_ppm = spec.liquidation_fee_ppm
            ins.max_orders = spec.max_orders
            ins.price_precision, ins.qty_precision = spec.price_precision, spec.qty_precision
            ins.n_tiers = len(spec.tiers)
            for k, tier in enumerate(spec.tiers):
                ins.tiers[k].cap_e8, ins.tiers[k].floor_e8 = tier.cap_e8, tier.floor_e8
                ins.tiers[k].cum_e8, ins.tiers[k].mmr_ppm = tier.cum_e8, tier.mmr_ppm
                ins.tiers[k].max_leverage = tier.max_leverage
            ins.max_leverage = ins.tiers[0].max_leverage
            ins.mark = ins.last_px = spec.start_px
        self.order_log.item_size = sizeof(Order)
        self.trade_log.item_size = sizeof(Trade)
        self.income_log.item_size = sizeof(Income)
        self.reject_log.item_size = sizeof(Reject)
        self.free_slot = -1
        self.client_room = 1024
        while self.client_room < 2 * expected_orders:
            self.client_room *= 2
        self.client_table = <uint64_t*>calloc(self.client_room, sizeof(uint64_t))
        self.quotes_room = max(1, quotes_room)
        self.quotes = <Quote*>calloc(self.quotes_room, sizeof(Quote))
        if self.client_table == NULL or self.quotes == NULL:
            raise MemoryError
        self.events_room = 256
        self.events = <Event*>grown(NULL, self.events_room, sizeof(Event))
        self.add_account(insurance_e8, ephemeral=True, no_margin=True, maker_ppm=0, taker_ppm=0)

    def __dealloc__(self):
        cdef int i
        if self.inst != NULL:
            for i in range(self.n_symbols):
                free(self.inst[i].bids.levels)
                free(self.inst[i].asks.levels)
                free(self.inst[i].dirty)
        free(self.inst)
        free(self.accounts)
        free(self.legs)
        free(self.configs)
        free(self.client_table)
        free(self.quotes)
        free(self.events)
        chunk_free(&self.order_log)
        chunk_free(&self.trade_log)
        chunk_free(&self.income_log)
        chunk_free(&self.reject_log)

    cdef void grow_accounts(self, int32_t need) noexcept nogil:
        cdef int64_t per = self.n_symbols
        if need <= self.accounts_room:
            return
        self.accounts_room = need if need > 2 * self.accounts_room else 2 * self.accounts_room
        self.accounts = <Account*>grown(self.accounts, self.accounts_room, sizeof(Account))
        self.legs = <Leg*>grown(self.legs, self.accounts_room * per * 3 + 1, sizeof(Leg))
        self.configs = <Config*>grown(self.configs, self.accounts_room * per + 1, sizeof(Config))

    cdef Order* order_ptr(self, int32_t slot) noexcept nogil:
        return <Order*>chunk_at(&self.order_log, slot)

    cdef Trade* trade_ptr(self, int64_t index) noexcept nogil:
        return <Trade*>chunk_at(&self.trade_log, index)

    cdef Leg* leg_ptr(self, int32_t account, int symbol, int pos_side) noexcept nogil:
        return &self.legs[(<int64_t>account * self.n_symbols + symbol) * 3 + pos_side]

    cdef Config* config_ptr(self, int32_t account, int symbol) noexcept nogil:
        return &self.configs[<int64_t>account * self.n_symbols + symbol]

    # ---- records: events, client ids -------------------------------------------------------------------------------------

    cdef Event* emit(self, int kind, int32_t account, int symbol, int64_t ts) noexcept nogil:
        cdef Event* ev
        if self.n_events >= self.events_room:
            self.events_room *= 2
            self.events = <Event*>grown(self.events, self.events_room, sizeof(Event))
        ev = &self.events[self.n_events]
        self.n_events += 1
        memset(ev, 0, sizeof(Event))
        ev.kind = kind
        ev.account = account
        ev.symbol = symbol
        ev.slot = -1
        ev.ts = ts
        return ev

    cdef void emit_order(self, int kind, Order* o, int64_t ts) noexcept nogil:
        cdef Event* ev
        if o.flags & FLAG_EPHEMERAL:
            return
        ev = self.emit(kind, o.account, o.symbol, ts)
        ev.slot = o.slot
        ev.order_id = o.order_id
        ev.side = o.side
        ev.pos_side = o.pos_side
        ev.status = o.status
        ev.px = o.px
        ev.qty = o.qty
        ev.cum_qty = o.cum_qty
        ev.cum_value_e8 = o.cum_value_e8

    cdef void emit_account(self, int32_t account, int symbol, int pos_side, int reason, int64_t change,
                           int64_t ts) noexcept nogil:
        cdef Account* acc = &self.accounts[account]
        cdef Event* ev
        cdef Leg* leg
        if acc.ephemeral:
            return
        ev = self.emit(EV_ACCOUNT, account, symbol, ts)
        ev.reason = reason
        ev.pos_side = pos_side
        ev.wallet_e8 = acc.wallet_e8
        ev.cross_wallet_e8 = acc.wallet_e8 - acc.iso_total_e8
        ev.change_e8 = change
        if symbol >= 0:
            leg = self.leg_ptr(account, symbol, pos_side)
            ev.qty = leg.qty
            ev.cum_value_e8 = leg.cost_e8
            ev.pnl_e8 = leg.realised_e8
            ev.iso_wallet_e8 = leg.iso_wallet_e8

    cdef int64_t client_place(self, int32_t account, int symbol, const char* client_id, int client_size,
                              uint32_t hash) noexcept nogil:
        """Where the table holds this client id, or the empty place where it belongs."""
        cdef int64_t mask = self.client_room - 1
        cdef int64_t at = hash & mask
        cdef uint64_t entry
        cdef Order* o
        while True:
            entry = self.client_table[at]
            if entry == 0:
                return at
            if <uint32_t>(entry >> 32) == hash:
                o = self.order_ptr(slot_of(entry))
                if (o.account == account and o.symbol == symbol and o.client_size == client_size
                        and memcmp(&o.client_id[0], client_id, client_size) == 0):
                    return at
            at = (at + 1) & mask

    cdef void client_remember(self, Order* o) noexcept nogil:
        """The latest order of an id is the one found: an earlier, finished one is reached by its order id only."""
        cdef int64_t at
        if 5 * self.client_used >= 3 * self.client_room:
            self.client_grow()
        o.client_hash = client_key(o.account, o.symbol, &o.client_id[0], o.client_size)
        at = self.client_place(o.account, o.symbol, &o.client_id[0], o.client_size, o.client_hash)
        if self.client_table[at] == 0:
            self.client_used += 1
        self.client_table[at] = (<uint64_t>o.client_hash << 32) | <uint64_t>(o.slot + 1)

    cdef void client_grow(self) noexcept nogil:
        cdef uint64_t* old = self.client_table
        cdef int64_t old_room = self.client_room
        cdef int64_t i, at, mask
        self.client_room *= 2
        mask = self.client_room - 1
        self.client_table = <uint64_t*>calloc(self.client_room, sizeof(uint64_t))
        if self.client_table == NULL:
            abort()
        for i in range(old_room):
            if old[i]:
                at = <int64_t>(old[i] >> 32) & mask
                while self.client_table[at]:
                    at = (at + 1) & mask
                self.client_table[at] = old[i]
        free(old)

    cdef void c_begin(self) noexcept nogil:
        """Empty the event buffer: what follows, up to ``c_end``, is one call to the outside."""
        self.n_events = 0

    cdef void c_end(self, int64_t ts) noexcept nogil:
        """Tell (EV_BOOK) and log what the best prices have become."""
        cdef int i
        cdef Instrument* ins
        cdef Level* best
        cdef int64_t bid, bid_qty, ask, ask_qty
        cdef Event* ev
        cdef Quote* q
        for i in range(self.n_symbols):
            ins = &self.inst[i]
            bid = bid_qty = ask = ask_qty = 0
            if ins.bids.size:
                best = &ins.bids.levels[ins.bids.size - 1]
                bid, bid_qty = best.px, best.qty
            if ins.asks.size:
                best = &ins.asks.levels[ins.asks.size - 1]
                ask, ask_qty = best.px, best.qty
            if bid != ins.seen_bid or ask != ins.seen_ask or bid_qty != ins.seen_bid_qty or ask_qty != ins.seen_ask_qty:
                ev = self.emit(EV_BOOK, -1, i, ts)
                ev.px = ins.seen_bid = bid
                ev.qty = ins.seen_bid_qty = bid_qty
                ev.cum_qty = ins.seen_ask = ask
                ev.cum_value_e8 = ins.seen_ask_qty = ask_qty
                ev.order_id = ins.update_id
            if bid != ins.logged_bid or ask != ins.logged_ask or ins.mark != ins.logged_mark:
                q = &self.quotes[rem(self.n_quotes, self.quotes_room)]
                self.n_quotes += 1
                q.ts = ts
                q.symbol = i
                q.bid = ins.logged_bid = bid
                q.ask = ins.logged_ask = ask
                q.mark = ins.logged_mark = ins.mark

    # ---- the book ----------------------------------------------------------------------------------------------------------

    cdef Order* new_order(self, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                          int pos_side, int flags, const char* client_id, int client_size, int64_t ts,
                          int stp) noexcept nogil:
        cdef Account* acc = &self.accounts[account]
        cdef Order* o
        cdef int64_t slot
        cdef uint64_t word
        cdef int i
        if acc.ephemeral and self.free_slot >= 0:
            slot = self.free_slot
            o = self.order_ptr(<int32_t>slot)
            self.free_slot = o.book_next
        else:
            slot = self.order_log.size
            o = <Order*>chunk_push(&self.order_log)
        o.slot = <int32_t>slot
        o.qty = qty
        o.cum_qty = 0
        o.cum_value_e8 = 0
        o.px = px
        o.ts_new = o.ts_update = ts
        o.account = account
        o.book_next = -1
        o.book_prev = NOT_IN_BOOK
        o.open_next = o.open_prev = -1
        o.symbol = symbol
        o.side = side
        o.type = type
        o.tif = tif
        o.pos_side = pos_side
        o.stp = stp
        o.status = STATUS_NEW
        o.flags = flags
        if acc.ephemeral:
            o.flags |= FLAG_EPHEMERAL
            o.order_id = MAKER_ID_BASE + self.ephemeral_ids
            self.ephemeral_ids += 1
            o.prev_of_account = -1
            o.client_size = 0
            return o
        o.order_id = ID_BASE + slot
        o.prev_of_account = acc.last_order
        acc.last_order = o.slot
        if client_size > 0:
            memcpy(&o.client_id[0], client_id, client_size)
            o.client_size = client_size
        else:  # an id of the venue's own making, as it gives to orders sent without one
            word = mix64(<uint64_t>o.order_id)
            for i in range(22):
                if i == 11:
                    word = mix64(word ^ <uint64_t>o.order_id)
                o.client_id[i] = BASE62[word % 62]
                word = word // 62
            o.client_size = 22
        self.client_remember(o)
        return o

    cdef void level_changed(self, Instrument* ins, int side, int64_t px) noexcept nogil:
        cdef int i, kept
        ins.update_id += 1
        if not ins.dirty_on:
            return
        if ins.dirty_size >= ins.dirty_room:
            if ins.dirty_room >= 16384:  # nobody drains often enough: keep each level once
                qsort(ins.dirty, ins.dirty_size, sizeof(int64_t), by_value)
                kept = 0
                for i in range(ins.dirty_size):
                    if kept == 0 or ins.dirty[i] != ins.dirty[kept - 1]:
                        ins.dirty[kept] = ins.dirty[i]
                        kept += 1
                ins.dirty_size = kept
            if 2 * ins.dirty_size >= ins.dirty_room:
                ins.dirty_room = 2 * ins.dirty_room + 256
                ins.dirty = <int64_t*>grown(ins.dirty, ins.dirty_room, sizeof(int64_t))
        ins.dirty[ins.dirty_size] = side * px
        ins.dirty_size += 1

    cdef void count_open(self, Order* o, int64_t qty) noexcept nogil:
        """``qty`` more (or fewer) lots of this order rest in the book: only orders that may enlarge a position hold margin."""
        cdef Leg* leg
        cdef int64_t value
        if o.flags & (FLAG_CLOSING | FLAG_EPHEMERAL):
            return
        leg = self.leg_ptr(o.account, o.symbol, o.pos_side)
        value = o.px * qty * self.inst[o.symbol].value_mul
        if o.side > 0:
            leg.open_buy += qty
            leg.open_buy_e8 += value
        else:
            leg.open_sell += qty
            leg.open_sell_e8 += value

    cdef void rest(self, Order* o) noexcept nogil:
        """Into the book behind its level's queue, and into the account's list of open orders."""
        cdef Instrument* ins = &self.inst[o.symbol]
        cdef Side* side = &ins.bids if o.side > 0 else &ins.asks
        cdef int at = lower_bound(side, o.side * o.px, o.side)
        cdef Level* level
        cdef Account* acc = &self.accounts[o.account]
        cdef Config* cfg = self.config_ptr(o.account, o.symbol)
        cdef int64_t leaves = o.qty - o.cum_qty
        if at == side.size or side.levels[at].px != o.px:
            if side.size == side.room:
                side.room = 2 * side.room + 64
                side.levels = <Level*>grown(side.levels, side.room, sizeof(Level))
            level = &side.levels[at]
            memmove(level + 1, level, <size_t>(side.size - at) * sizeof(Level))
            side.size += 1
            level.px = o.px
            level.qty = 0
            level.head = level.tail = -1
            level.count = 0
        level = &side.levels[at]
        o.book_next = -1
        o.book_prev = level.tail
        if level.tail >= 0:
            self.order_ptr(level.tail).book_next = o.slot
        else:
            level.head = o.slot
        level.tail = o.slot
        level.qty += leaves
        level.count += 1
        self.level_changed(ins, o.side, o.px)
        o.open_prev = -1
        o.open_next = acc.first_open
        if acc.first_open >= 0:
            self.order_ptr(acc.first_open).open_prev = o.slot
        acc.first_open = o.slot
        acc.open_orders += 1
        cfg.open_orders += 1
        if o.flags & FLAG_CLOSING:
            cfg.open_closing += 1
        self.count_open(o, leaves)

    cdef void unrest(self, Order* o) noexcept nogil:
        """Out of the book and of the open orders."""
        cdef Instrument* ins = &self.inst[o.symbol]
        cdef Side* side = &ins.bids if o.side > 0 else &ins.asks
        cdef int at = lower_bound(side, o.side * o.px, o.side)
        cdef Level* level = &side.levels[at]
        cdef Account* acc = &self.accounts[o.account]
        cdef Config* cfg = self.config_ptr(o.account, o.symbol)
        cdef int64_t leaves = o.qty - o.cum_qty
        if o.book_prev >= 0:
            self.order_ptr(o.book_prev).book_next = o.book_next
        else:
            level.head = o.book_next
        if o.book_next >= 0:
            self.order_ptr(o.book_next).book_prev = o.book_prev
        else:
            level.tail = o.book_prev
        level.qty -= leaves
        level.count -= 1
        if level.count == 0:
            side.size -= 1
            memmove(level, level + 1, <size_t>(side.size - at) * sizeof(Level))
        self.level_changed(ins, o.side, o.px)
        o.book_prev = NOT_IN_BOOK
        o.book_next = -1
        if o.open_prev >= 0:
            self.order_ptr(o.open_prev).open_next = o.open_next
        else:
            acc.first_open = o.open_next
        if o.open_next >= 0:
            self.order_ptr(o.open_next).open_prev = o.open_prev
        o.open_prev = o.open_next = -1
        acc.open_orders -= 1
        cfg.open_orders -= 1
        if o.flags & FLAG_CLOSING:
            cfg.open_closing -= 1
        self.count_open(o, -leaves)

    cdef void finish(self, Order* o, int status, int64_t ts) noexcept nogil:
        """The order ends as ``status``; what is unfilled is given up. A maker's slot becomes free."""
        if o.book_prev != NOT_IN_BOOK:
            self.unrest(o)
        o.status = status
        o.ts_update = ts
        if status == STATUS_CANCELED:
            self.emit_order(EV_CANCELED, o, ts)
        elif status != STATUS_FILLED:
            self.emit_order(EV_EXPIRED, o, ts)
        if o.flags & FLAG_EPHEMERAL:
            o.account = -1
            o.book_next = self.free_slot
            self.free_slot = o.slot

    cdef int64_t reducible(self, int32_t account, int symbol, int pos_side, int side) noexcept nogil:
        """Lots an order of ``side`` may take off the leg; 0 when it would enlarge it."""
        cdef int64_t qty = self.leg_ptr(account, symbol, pos_side).qty
        if (side < 0) == (qty > 0):
            return absolute(qty)
        return 0

    cdef void trim_closing(self, int32_t account, int symbol, int64_t ts) noexcept nogil:
        """Resting orders that may only reduce expire when nothing is left for them to reduce."""
        cdef int32_t slot = self.accounts[account].first_open
        cdef int32_t after
        cdef Order* o
        while slot >= 0:
            o = self.order_ptr(slot)
            after = o.open_next
            if (o.flags & FLAG_CLOSING and o.symbol == symbol
                    and self.reducible(account, symbol, o.pos_side, o.side) == 0):
                self.finish(o, STATUS_EXPIRED, ts)
            slot = after

    cdef int64_t fillable(self, int32_t account, Instrument* ins, int side, int64_t limit, int64_t need,
                          int stp) noexcept nogil:
        """Lots a FOK is sure to get, counted until ``need``. A resting order that may only reduce counts only when no other
        order of its account could shrink the position before its turn: sure to fill, or not counted."""
        cdef Side* opposite = &ins.asks if side > 0 else &ins.bids
        cdef int i = opposite.size - 1
        cdef int64_t total = 0
        cdef int64_t leaves, room
        cdef Level* level
        cdef Order* o
        cdef int32_t slot
        while i >= 0 and total < need:
            level = &opposite.levels[i]
            if side * level.px > side * limit:
                break
            slot = level.head
            while slot >= 0 and total < need:
                o = self.order_ptr(slot)
                slot = o.book_next
                leaves = o.qty - o.cum_qty
                if o.account == account:
                    if stp == STP_EXPIRE_TAKER or stp == STP_EXPIRE_BOTH:
                        return total
                    if stp == STP_EXPIRE_MAKER or o.flags & FLAG_CLOSING:
                        continue
                if o.flags & FLAG_CLOSING:
                    if self.config_ptr(o.account, o.symbol).open_orders > 1:
                        continue
                    room = self.reducible(o.account, o.symbol, o.pos_side, o.side)
                    leaves = min(leaves, room)
                total += leaves
            i -= 1
        return total

    cdef int match(self, Order* taker, int64_t limit, int64_t ts) noexcept nogil:
        """Execute against the book in price-time priority. 1 when self-trade prevention ends the taker, else 0."""
        cdef Instrument* ins = &self.inst[taker.symbol]
        cdef Side* opposite = &ins.asks if taker.side > 0 else &ins.bids
        cdef Level* level
        cdef Order* maker
        cdef int64_t qty, px, room
        cdef int32_t maker_account
        cdef bint maker_kept
        while taker.cum_qty < taker.qty and opposite.size > 0:
            level = &opposite.levels[opposite.size - 1]
            px = level.px
            if taker.side * px > taker.side * limit:
                break
            maker = self.order_ptr(level.head)
            maker_account = maker.account
            if maker_account == taker.account and taker.stp != STP_NONE:
                if taker.stp == STP_EXPIRE_TAKER:
                    return 1
                self.finish(maker, STATUS_EXPIRED_IN_MATCH, ts)
                if taker.stp == STP_EXPIRE_BOTH:
                    return 1
                continue
            qty = min(taker.qty - taker.cum_qty, maker.qty - maker.cum_qty)
            if maker.flags & FLAG_CLOSING:
                room = self.reducible(maker_account, maker.symbol, maker.pos_side, maker.side)
                if room == 0:
                    self.finish(maker, STATUS_EXPIRED, ts)
                    continue
                qty = min(qty, room)
            if taker.flags & FLAG_CLOSING:
                room = self.reducible(taker.account, taker.symbol, taker.pos_side, taker.side)
                if room == 0:
                    break
                qty = min(qty, room)
            maker_kept = not maker.flags & FLAG_EPHEMERAL
            level.qty -= qty
            self.count_open(maker, -qty)
            self.level_changed(ins, maker.side, px)
            self.execute(taker, maker, qty, px, ts)
            if maker.cum_qty == maker.qty:
                self.finish(maker, STATUS_FILLED, ts)
            if maker_kept:
                self.emit_account(maker_account, taker.symbol, maker.pos_side, REASON_ORDER, 0, ts)
                if self.config_ptr(maker_account, taker.symbol).open_closing:
                    self.trim_closing(maker_account, taker.symbol, ts)
        return 0

    cdef void execute(self, Order* taker, Order* maker, int64_t qty, int64_t px, int64_t ts) noexcept nogil:
        """One execution: both orders, both accounts, the trade log, the events (the accounts' own events come later)."""
        cdef Instrument* ins = &self.inst[taker.symbol]
        cdef int64_t index = self.trade_log.size
        cdef Trade* t = <Trade*>chunk_push(&self.trade_log)
        cdef int64_t value = px * qty * ins.value_mul
        cdef int64_t taker_fee = 0
        cdef int64_t maker_fee = 0
        cdef int64_t taker_pnl, maker_pnl
        cdef Account* taker_acc = &self.accounts[taker.account]
        cdef Account* maker_acc = &self.accounts[maker.account]
        cdef Event* ev
        cdef Order* o
        cdef int i
        taker_pnl = self.apply_fill(taker, qty, px, taker_acc.taker_ppm, ts, &taker_fee)
        maker_pnl = self.apply_fill(maker, qty, px, maker_acc.maker_ppm, ts, &maker_fee)
        for i in range(2):
            o = maker if i else taker
            o.cum_qty += qty
            o.cum_value_e8 += value
            o.ts_update = ts
            o.status = STATUS_FILLED if o.cum_qty == o.qty else STATUS_PARTIALLY_FILLED
        ins.last_px = px
        ins.last_trade_id += 1
        t.trade_id = ins.last_trade_id
        t.symbol = taker.symbol
        t.px = px
        t.qty = qty
        t.ts = ts
        t.taker_side = taker.side
        if taker.side > 0:
            t.buy_account, t.buy_order_id, t.buy_pos_side = taker.account, taker.order_id, taker.pos_side
            t.buy_fee_e8, t.buy_pnl_e8, t.prev_of_buyer = taker_fee, taker_pnl, taker_acc.last_trade
            t.sell_account, t.sell_order_id, t.sell_pos_side = maker.account, maker.order_id, maker.pos_side
            t.sell_fee_e8, t.sell_pnl_e8, t.prev_of_seller = maker_fee, maker_pnl, maker_acc.last_trade
        else:
            t.sell_account, t.sell_order_id, t.sell_pos_side = taker.account, taker.order_id, taker.pos_side
            t.sell_fee_e8, t.sell_pnl_e8, t.prev_of_seller = taker_fee, taker_pnl, taker_acc.last_trade
            t.buy_account, t.buy_order_id, t.buy_pos_side = maker.account, maker.order_id, maker.pos_side
            t.buy_fee_e8, t.buy_pnl_e8, t.prev_of_buyer = maker_fee, maker_pnl, maker_acc.last_trade
        taker_acc.last_trade = maker_acc.last_trade = <int32_t>index
        ev = self.emit(EV_PUBLIC_TRADE, -1, taker.symbol, ts)
        ev.side = taker.side
        ev.px = px
        ev.qty = qty
        ev.trade_id = t.trade_id
        for i in range(2):
            o = maker if i else taker
            if o.flags & FLAG_EPHEMERAL:
                continue
            self.emit_order(EV_TRADE, o, ts)
            ev = &self.events[self.n_events - 1]
            ev.maker = i
            ev.px = px
            ev.qty = qty
            ev.trade_id = t.trade_id
            ev.fee_e8 = maker_fee if i else taker_fee
            ev.pnl_e8 = maker_pnl if i else taker_pnl

    # ---- the checks ---------------------------------------------------------------------------------------------------------

    cdef int check_qty(self, Instrument* ins, int64_t qty, bint market) noexcept nogil:
        if qty <= 0:
            return -4003
        if qty < ins.min_qty:
            return -4004
        if qty > (ins.market_max_qty if market else ins.max_qty):
            return -4005
        return 0

    cdef int check_px(self, Instrument* ins, int side, int64_t px) noexcept nogil:
        """PRICE_FILTER, then PERCENT_PRICE: a buy not above, a sell not below its band around the mark."""
        if px <= 0:
            return -4001
        if px < ins.min_px:
            return -4013
        if px > ins.max_px:
            return -4002
        if side > 0 and mul_less(ins.mark, ins.up_ppm, px, PPM):
            self.reject_value = mul_div_trunc(ins.mark, ins.up_ppm, PPM)
            return -4016
        if side < 0 and mul_less(px, PPM, ins.mark, ins.down_ppm):
            self.reject_value = mul_div_ceil(ins.mark, ins.down_ppm, PPM)
            return -4024
        return 0

    cdef int check_margin(self, int32_t account, int symbol, int pos_side, int side, int64_t qty,
                          int64_t px) noexcept nogil:
        """Bracket, then cost = growth of the initial margin + opening loss against the mark, out of the available balance."""
        cdef Instrument* ins = &self.inst[symbol]
        cdef Config* cfg = self.config_ptr(account, symbol)
        cdef Leg leg = self.leg_ptr(account, symbol, pos_side)[0]
        cdef int64_t before = self.leg_exposure(&leg, ins, pos_side)
        cdef int64_t value = px * qty * ins.value_mul
        cdef int64_t after, growth, loss
        cdef Margin m
        if side > 0:
            leg.open_buy_e8 += value
        else:
            leg.open_sell_e8 += value
        after = self.leg_exposure(&leg, ins, pos_side)
        if after <= before:
            return 0
        if after > cfg.cap_e8:
            return -2027
        growth = div_ceil(after, cfg.leverage) - div_ceil(before, cfg.leverage)
        loss = side * (px - ins.mark) * qty * ins.value_mul
        self.c_margin(account, &m)
        if m.available_e8 < growth + (loss if loss > 0 else 0):
            return -2019
        return 0

    cdef int refuse(self, int code, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                    int pos_side, int flags, const char* client_id, int client_size, int64_t ts) noexcept nogil:
        """Note a refused order for the truth log; makers' refusals are part of their schedule and not noted."""
        cdef Reject* r
        if self.accounts[account].ephemeral:
            return code
        r = <Reject*>chunk_push(&self.reject_log)
        r.ts = ts
        r.qty = qty
        r.px = px
        r.account = account
        r.code = code
        r.symbol = symbol
        r.side = side
        r.type = type
        r.tif = tif
        r.pos_side = pos_side
        r.flags = flags
        r.client_size = client_size if 0 <= client_size <= 36 else 36
        memcpy(&r.client_id[0], client_id, r.client_size)
        return code

    cdef int32_t c_place(self, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                         bint reduce_only, bint close_position, int pos_side, const char* client_id, int client_size,
                         int64_t ts, int stp) noexcept nogil:
        cdef Account* acc = &self.accounts[account]
        cdef Instrument* ins
        cdef Config* cfg
        cdef Side* opposite
        cdef Order* o
        cdef int64_t limit, room, best
        cdef int64_t at
        cdef uint64_t entry
        cdef int32_t slot
        cdef int i
        cdef int code = 0
        cdef int flags = 0
        cdef bint market = type == TYPE_MARKET or close_position
        if symbol < 0 or symbol >= self.n_symbols:
            return self.refuse(-1121, account, -1, side, type, tif, qty, px, pos_side, flags, client_id, client_size, ts)
        ins = &self.inst[symbol]
        cfg = self.config_ptr(account, symbol)
        if reduce_only:
            flags |= FLAG_REDUCE_ONLY | FLAG_CLOSING
        if close_position:
            flags |= FLAG_CLOSE_POSITION | FLAG_CLOSING
        if acc.hedge and (side < 0) == (pos_side == POS_LONG):
            flags |= FLAG_CLOSING
        while True:  # one pass; each break names the first rule broken
            if side != SIDE_BUY and side != SIDE_SELL:
                code = -1117
                break
            if type != TYPE_LIMIT and type != TYPE_MARKET:
                code = -1116
                break
            if tif < TIF_GTC or tif > TIF_GTX:
                code = -1115
                break
            if client_size > 36:
                code = -4015
                break
            for i in range(client_size):
                if not id_char(<unsigned char>client_id[i]):
                    code = -4015
            if code:
                break
            if acc.hedge:
                if pos_side != POS_LONG and pos_side != POS_SHORT:
                    code = -4061
                    break
                if reduce_only:
                    code = -1106
                    break
            elif pos_side != POS_BOTH:
                code = -4061
                break
            if client_size > 0 and not acc.ephemeral:
                at = self.client_place(account, symbol, client_id, client_size,
                                       client_key(account, symbol, client_id, client_size))
                entry = self.client_table[at]
                if entry and is_open(self.order_ptr(slot_of(entry))):
                    code = -4116
                    break
            opposite = &ins.asks if side > 0 else &ins.bids
            if not close_position:
                code = self.check_qty(ins, qty, market)
                if code:
                    break
            if market:
                px = 0
                if opposite.size == 0:
                    code = -4131
                    break
                best = opposite.levels[opposite.size - 1].px
                if (mul_less(ins.mark, ins.up_ppm, best, PPM) if side > 0
                        else mul_less(best, PPM, ins.mark, ins.down_ppm)):
                    code = -4131
                    break
                # a market order walks no further than marketTakeBound from the mark; the rest of it expires
                if side > 0:
                    limit = mul_div_trunc(ins.mark, PPM + ins.take_bound_ppm, PPM)
                else:
                    limit = mul_div_ceil(ins.mark, PPM - ins.take_bound_ppm, PPM)
            else:
                code = self.check_px(ins, side, px)
                if code:
                    break
                limit = px
                best = px
            if flags & FLAG_CLOSING:
                room = self.reducible(account, symbol, pos_side, side)
                if room == 0 or (acc.hedge and not close_position and qty > room):
                    code = -2022
                    break
                if close_position:
                    qty = min(room, ins.market_max_qty)
                qty = min(qty, room)
            elif (ins.mark if market else px) * qty * ins.value_mul < ins.min_notional_e8:
                code = -4164
                break
            if not market and (tif == TIF_GTC or tif == TIF_GTX) and cfg.open_orders >= ins.max_orders \
                    and not acc.no_margin:
                code = -2025
                break
            if not flags & FLAG_CLOSING and not acc.no_margin:
                code = self.check_margin(account, symbol, pos_side, side, qty, best)
                if code:
                    break
            if not market and tif == TIF_GTX and opposite.size \
                    and side * opposite.levels[opposite.size - 1].px <= side * px:
                code = -5022
                break
            if not market and tif == TIF_FOK and self.fillable(account, ins, side, limit, qty, stp) < qty:
                code = -5021
            break
        if code:
            return self.refuse(code, account, symbol, side, type, tif, qty, px, pos_side, flags, client_id, client_size,
                               ts)
        o = self.new_order(account, symbol, side, TYPE_MARKET if market else type, tif, qty, px, pos_side, flags,
                           client_id, client_size, ts, stp)
        slot = o.slot
        self.emit_order(EV_NEW, o, ts)
        code = self.match(o, limit, ts)
        self.settle(o, code, ts)
        return slot

    cdef void settle(self, Order* o, int self_trade, int64_t ts) noexcept nogil:
        """After matching, what is left of the taker rests or expires; then its account is told once."""
        cdef int32_t account = o.account
        cdef int symbol = o.symbol
        cdef int pos_side = o.pos_side
        cdef bint traded = o.cum_qty > 0
        cdef bint kept = not o.flags & FLAG_EPHEMERAL
        if o.cum_qty == o.qty:
            self.finish(o, STATUS_FILLED, ts)
        elif self_trade:
            self.finish(o, STATUS_EXPIRED_IN_MATCH, ts)
        elif o.type == TYPE_MARKET or o.tif == TIF_IOC or o.tif == TIF_FOK:
            self.finish(o, STATUS_EXPIRED, ts)
        elif o.flags & FLAG_CLOSING and self.reducible(account, symbol, pos_side, o.side) == 0:
            self.finish(o, STATUS_EXPIRED, ts)
        else:
            self.rest(o)
        if traded and kept:
            self.emit_account(account, symbol, pos_side, REASON_ORDER, 0, ts)
            if self.config_ptr(account, symbol).open_closing:
                self.trim_closing(account, symbol, ts)

    cdef int c_cancel(self, int32_t account, int32_t slot, int64_t ts) noexcept nogil:
        cdef Order* o
        if slot < 0 or slot >= self.order_log.size:
            return -2011
        o = self.order_ptr(slot)
        if o.account != account or not is_open(o):
            return -2011
        self.finish(o, STATUS_CANCELED, ts)
        return 0

    cdef int c_cancel_all(self, int32_t account, int symbol, int64_t ts) noexcept nogil:
        cdef int32_t slot = self.accounts[account].first_open
        cdef int32_t after
        cdef int count = 0
        cdef Order* o
        while slot >= 0:
            o = self.order_ptr(slot)
            after = o.open_next
            if symbol < 0 or o.symbol == symbol:
                self.finish(o, STATUS_CANCELED, ts)
                count += 1
            slot = after
        return count

    cdef int c_modify(self, int32_t account, int32_t slot, int64_t qty, int64_t px, int64_t ts) noexcept nogil:
        cdef Order* o
        cdef Instrument* ins
        cdef Side* opposite
        cdef Level* level
        cdef int64_t room
        cdef int code
        if slot < 0 or slot >= self.order_log.size:
            return -2013
        o = self.order_ptr(slot)
        if o.account != account or not is_open(o):
            return -2013
        ins = &self.inst[o.symbol]
        if o.flags & FLAG_CLOSING:
            room = self.reducible(account, o.symbol, o.pos_side, o.side) + o.cum_qty
            qty = min(qty, room)
        if qty == o.qty and px == o.px:
            return -5027
        code = self.check_qty(ins, qty, False)
        if not code:
            code = self.check_px(ins, o.side, px)
        if not code and not o.flags & FLAG_CLOSING and px * qty * ins.value_mul < ins.min_notional_e8:
            code = -4164
        if code:
            return code
        opposite = &ins.asks if o.side > 0 else &ins.bids
        if qty <= o.cum_qty or (o.tif == TIF_GTX and opposite.size
                                and o.side * opposite.levels[opposite.size - 1].px <= o.side * px):
            self.finish(o, STATUS_CANCELED, ts)
            return 0
        if not o.flags & FLAG_CLOSING and not self.accounts[account].no_margin:
            self.count_open(o, -(o.qty - o.cum_qty))
            code = self.check_margin(account, o.symbol, o.pos_side, o.side, qty - o.cum_qty, px)
            self.count_open(o, o.qty - o.cum_qty)
            if code:
                return code
        if px == o.px and qty < o.qty:
            level = &(&ins.bids if o.side > 0 else &ins.asks).levels[
                lower_bound(&ins.bids if o.side > 0 else &ins.asks, o.side * px, o.side)]
            level.qty -= o.qty - qty
            self.count_open(o, qty - o.qty)
            self.level_changed(ins, o.side, px)
            o.qty = qty
            o.flags |= FLAG_AMENDED
            o.ts_update = ts
            self.emit_order(EV_AMENDED, o, ts)
            return 0
        self.unrest(o)
        o.qty = qty
        o.px = px
        o.flags |= FLAG_AMENDED
        o.ts_update = ts
        self.emit_order(EV_AMENDED, o, ts)
        code = self.match(o, px, ts)
        self.settle(o, code, ts)
        return 0

    cdef int32_t c_find_id(self, int32_t account, int symbol, int64_t order_id, int64_t ts) noexcept nogil:
        cdef int64_t slot = order_id - ID_BASE
        cdef Order* o
        if slot < 0 or slot >= self.order_log.size:
            return -2013
        o = self.order_ptr(<int32_t>slot)
        if o.account != account or o.symbol != symbol or o.order_id != order_id or hidden(o, ts):
            return -2013
        return <int32_t>slot

    cdef int32_t c_find_client(self, int32_t account, int symbol, const char* client_id, int client_size,
                               int64_t ts) noexcept nogil:
        cdef uint64_t entry
        cdef int32_t slot
        if client_size <= 0 or client_size > 36:
            return -2013
        entry = self.client_table[self.client_place(account, symbol, client_id, client_size,
                                                    client_key(account, symbol, client_id, client_size))]
        if entry == 0:
            return -2013
        slot = slot_of(entry)
        return -2013 if hidden(self.order_ptr(slot), ts) else slot

    # ---- the money ----------------------------------------------------------------------------------------------------------

    cdef int64_t apply_fill(self, Order* o, int64_t qty, int64_t px, int64_t ppm, int64_t ts,
                            int64_t* fee_out) noexcept nogil:
        """Book one execution into the leg and the wallet; the realised P&L.

        What is closed releases its share of the entry cost, truncated toward zero; the last lot releases all that is left,
        so no remainder stays. A one-way position may pass through zero: the rest opens anew at this price. The fee is
        ``value * ppm / 1e6`` truncated.
        """
        cdef Instrument* ins = &self.inst[o.symbol]
        cdef Account* acc = &self.accounts[o.account]
        cdef Config* cfg = self.config_ptr(o.account, o.symbol)
        cdef Leg* leg = self.leg_ptr(o.account, o.symbol, o.pos_side)
        cdef int64_t opened = qty
        cdef int64_t pnl = 0
        cdef int64_t closed, released, held, value
        if leg.qty != 0 and (leg.qty > 0) != (o.side > 0):
            held = absolute(leg.qty)
            closed = min(qty, held)
            opened = qty - closed
            released = mul_div_trunc(leg.cost_e8, closed, held)
            pnl = -o.side * (px * closed * ins.value_mul) - released
            leg.cost_e8 -= released
            leg.realised_e8 += pnl
            acc.wallet_e8 += pnl
            if leg.iso_wallet_e8:
                released = mul_div_trunc(leg.iso_wallet_e8, closed, held)
                leg.iso_wallet_e8 -= released
                acc.iso_total_e8 -= released
            leg.qty += o.side * closed
        if opened:
            value = px * opened * ins.value_mul
            leg.qty += o.side * opened
            leg.cost_e8 += o.side * value
            if cfg.margin_type == MARGIN_ISOLATED:
                value = div_ceil(value, cfg.leverage)
                leg.iso_wallet_e8 += value
                acc.iso_total_e8 += value
        leg.ts_update = ts
        value = mul_div_trunc(px * qty * ins.value_mul, ppm, PPM)
        acc.wallet_e8 -= value
        acc.fees_e8 += value
        self.fees_total_e8 += value
        fee_out[0] = value
        return pnl

    cdef int64_t leg_value(self, Leg* leg, Instrument* ins) noexcept nogil:
        """Signed value at the mark."""
        return leg.qty * ins.mark * ins.value_mul

    cdef int64_t leg_exposure(self, Leg* leg, Instrument* ins, int pos_side) noexcept nogil:
        """The larger side of position and open orders: what initial margin and bracket are taken of."""
        cdef int64_t value = self.leg_value(leg, ins)
        cdef int64_t up, down
        if pos_side == POS_LONG:
            return value + leg.open_buy_e8
        if pos_side == POS_SHORT:
            return leg.open_sell_e8 - value
        up = absolute(value + leg.open_buy_e8)
        down = absolute(value - leg.open_sell_e8)
        up = up if up > down else down
        value = absolute(value)
        return up if up > value else value

    cdef int64_t maintenance(self, Instrument* ins, int64_t notional) noexcept nogil:
        """Maintenance margin of a position value, rounded up."""
        cdef int i = 0
        while i < ins.n_tiers - 1 and notional > ins.tiers[i].cap_e8:
            i += 1
        return mul_div_ceil(notional, ins.tiers[i].mmr_ppm, PPM) - ins.tiers[i].cum_e8

    cdef int64_t cap_at(self, Instrument* ins, int leverage) noexcept nogil:
        """Largest position value at this leverage; 0 when no bracket allows it."""
        cdef int i
        for i in range(ins.n_tiers - 1, -1, -1):
            if ins.tiers[i].max_leverage >= leverage:
                return ins.tiers[i].cap_e8
        return 0

    cdef void c_margin(self, int32_t account, Margin* out) noexcept nogil:
        """Margin figures at the present marks; ``available_e8`` unclamped (may be negative)."""
        cdef Account* acc = &self.accounts[account]
        cdef Instrument* ins
        cdef Config* cfg
        cdef Leg* leg
        cdef int symbol, pos_side
        cdef int64_t value, upnl, im, order_im, maint
        memset(out, 0, sizeof(Margin))
        for symbol in range(self.n_symbols):
            ins = &self.inst[symbol]
            cfg = self.config_ptr(account, symbol)
            for pos_side in range(3):
                leg = self.leg_ptr(account, symbol, pos_side)
                if leg.qty == 0 and leg.open_buy == 0 and leg.open_sell == 0:
                    continue
                value = self.leg_value(leg, ins)
                upnl = value - leg.cost_e8
                im = div_ceil(absolute(value), cfg.leverage)
                order_im = div_ceil(self.leg_exposure(leg, ins, pos_side), cfg.leverage) - im
                maint = self.maintenance(ins, absolute(value)) if leg.qty else 0
                out.position_im_e8 += im
                out.order_im_e8 += order_im
                out.maint_e8 += maint
                if cfg.margin_type == MARGIN_ISOLATED:
                    out.iso_upnl_e8 += upnl
                else:
                    out.cross_upnl_e8 += upnl
                    out.cross_im_e8 += im
                    out.cross_maint_e8 += maint
        out.available_e8 = (acc.wallet_e8 - acc.iso_total_e8 + out.cross_upnl_e8 - out.cross_im_e8 - out.order_im_e8)

    cdef void add_wallet(self, int32_t account, int symbol, int pos_side, int64_t amount, int kind,
                         int64_t ts) noexcept nogil:
        """A wallet change that is no trade: noted as income, told to the account."""
        cdef Income* income
        self.accounts[account].wallet_e8 += amount
        income = <Income*>chunk_push(&self.income_log)
        income.ts = ts
        income.amount_e8 = amount
        income.account = account
        income.symbol = symbol
        income.kind = kind
        self.emit_account(account, symbol, pos_side, kind, amount, ts)

    # ---- mark price, margin calls, liquidation --------------------------------------------------------------------------------

    cdef void move_mark(self, int symbol, int64_t px, int64_t ts) noexcept nogil:
        """The new mark without its consequences; makers quote around it before ``sweep`` needs their book."""
        cdef Instrument* ins = &self.inst[symbol]
        cdef Event* ev
        if px != ins.mark:
            ins.mark = px
            ev = self.emit(EV_MARK, -1, symbol, ts)
            ev.px = px

    cdef int c_set_mark(self, int symbol, int64_t px, int64_t ts) noexcept nogil:
        self.move_mark(symbol, px, ts)
        return self.sweep(symbol, ts)

    cdef int sweep(self, int symbol, int64_t ts) noexcept nogil:
        """Liquidate until all is in order: a liquidation order may fill someone already looked at. A cascade longer than
        16 rounds goes on at the next mark."""
        cdef int total = 0
        cdef int count = 1
        cdef int rounds = 0
        while count and rounds < 16:
            count = self.sweep_once(symbol, ts)
            total += count
            rounds += 1
        return total

    cdef int sweep_once(self, int symbol, int64_t ts) noexcept nogil:
        """Every account with a position in the symbol against its maintenance margin: at a new mark price, and at the same
        one again, for trades and transfers count as well."""
        cdef Instrument* ins = &self.inst[symbol]
        cdef int32_t account
        cdef Account* acc
        cdef Leg* leg
        cdef Margin m
        cdef int64_t balance, held
        cdef int pos_side
        cdef int count = 0
        cdef Event* ev
        for account in range(1, self.n_accounts):
            leg = self.leg_ptr(account, symbol, 0)
            if leg[0].qty == 0 and leg[1].qty == 0 and leg[2].qty == 0:
                continue
            acc = &self.accounts[account]
            if acc.no_margin:
                continue
            if self.config_ptr(account, symbol).margin_type == MARGIN_ISOLATED:
                for pos_side in range(3):
                    leg = self.leg_ptr(account, symbol, pos_side)
                    balance = leg.iso_wallet_e8 + self.leg_value(leg, ins) - leg.cost_e8
                    if leg.qty and balance < self.maintenance(ins, absolute(self.leg_value(leg, ins))):
                        # bankrupt where the isolated wallet is used up, rounded against the account
                        held = absolute(leg.qty) * ins.value_mul
                        if leg.qty > 0:
                            balance = div_ceil(leg.cost_e8 - leg.iso_wallet_e8, held)
                        else:
                            balance = div_floor(leg.iso_wallet_e8 - leg.cost_e8, held)
                        self.c_cancel_all(account, symbol, ts)
                        self.liquidate_leg(account, symbol, pos_side, balance, ts)
                        count += 1
                continue
            self.c_margin(account, &m)
            balance = acc.wallet_e8 - acc.iso_total_e8 + m.cross_upnl_e8
            if balance < m.cross_maint_e8:
                self.liquidate_crossed(account, ts)
                count += 1
            elif balance * 4 < m.cross_maint_e8 * 5:
                if not acc.in_call:
                    acc.in_call = 1
                    if not acc.ephemeral:
                        ev = self.emit(EV_MARGIN_CALL, account, symbol, ts)
                        ev.wallet_e8 = acc.wallet_e8
                        ev.cross_wallet_e8 = acc.wallet_e8 - acc.iso_total_e8
            else:
                acc.in_call = 0
        return count

    cdef void liquidate_crossed(self, int32_t account, int64_t ts) noexcept nogil:
        """Open orders away, then every crossed leg at the price where the rest of the balance is used up."""
        cdef Account* acc = &self.accounts[account]
        cdef Instrument* ins
        cdef Leg* leg
        cdef Margin m
        cdef int symbol, pos_side
        cdef int64_t balance, held
        for symbol in range(self.n_symbols):
            if self.config_ptr(account, symbol).margin_type == MARGIN_CROSSED:
                self.c_cancel_all(account, symbol, ts)
        for symbol in range(self.n_symbols):
            if self.config_ptr(account, symbol).margin_type == MARGIN_ISOLATED:
                continue
            ins = &self.inst[symbol]
            for pos_side in range(3):
                leg = self.leg_ptr(account, symbol, pos_side)
                if leg.qty == 0:
                    continue
                self.c_margin(account, &m)
                balance = acc.wallet_e8 - acc.iso_total_e8 + m.cross_upnl_e8
                held = absolute(leg.qty) * ins.value_mul
                if leg.qty > 0:
                    balance = div_ceil(self.leg_value(leg, ins) - balance, held)
                else:
                    balance = div_floor(balance - self.leg_value(leg, ins), held)
                self.liquidate_leg(account, symbol, pos_side, balance, ts)

    cdef void liquidate_leg(self, int32_t account, int symbol, int pos_side, int64_t px, int64_t ts) noexcept nogil:
        """Close one leg: an ``autoclose-`` IOC at the bankruptcy price hits the book; the insurance fund (or, when that is
        spent, the best placed opposite positions: ADL) takes the rest at that price. Then the clearance fee goes to the
        fund out of what the account has left of this margin, or the fund makes a shortfall good."""
        cdef Account* acc = &self.accounts[account]
        cdef Instrument* ins = &self.inst[symbol]
        cdef Leg* leg = self.leg_ptr(account, symbol, pos_side)
        cdef int side = -1 if leg.qty > 0 else 1
        cdef bint isolated = self.config_ptr(account, symbol).margin_type == MARGIN_ISOLATED
        cdef int64_t value = absolute(self.leg_value(leg, ins))
        cdef int64_t left_before = leg.iso_wallet_e8 - acc.wallet_e8
        cdef int64_t left, charge, leaves
        cdef char[36] name
        cdef int size
        cdef Order* o
        cdef Order* other
        cdef int32_t who
        cdef int who_side = 0
        cdef int traded
        if px < 1:
            px = 1
        size = autoclose_name(&name[0], ID_BASE + self.order_log.size)
        o = self.new_order(account, symbol, side, TYPE_LIMIT, TIF_IOC, absolute(leg.qty), px, pos_side,
                           FLAG_CLOSING | FLAG_LIQUIDATION, &name[0], size, ts, STP_EXPIRE_MAKER)
        self.emit_order(EV_NEW, o, ts)
        self.match(o, px, ts)
        while o.cum_qty < o.qty:
            leaves = o.qty - o.cum_qty
            who = -1
            if self.accounts[0].wallet_e8 < 0:
                who = self.adl_candidate(symbol, side, &who_side)
            if who > 0:
                leaves = min(leaves, absolute(self.leg_ptr(who, symbol, who_side).qty))
                other = self.new_order(who, symbol, -side, TYPE_LIMIT, TIF_IOC, leaves, px, who_side,
                                       FLAG_CLOSING | FLAG_LIQUIDATION, b"adl_autoclose", 13, ts, STP_NONE)
                self.emit_order(EV_NEW, other, ts)
            else:
                who = 0
                who_side = POS_BOTH
                other = self.new_order(0, symbol, -side, TYPE_LIMIT, TIF_IOC, leaves, px, POS_BOTH, FLAG_LIQUIDATION,
                                       NULL, 0, ts, STP_NONE)
            self.execute(o, other, leaves, px, ts)
            self.finish(other, STATUS_FILLED, ts)
            if who > 0:
                self.emit_account(who, symbol, who_side, REASON_ORDER, 0, ts)
                if self.config_ptr(who, symbol).open_closing:
                    self.trim_closing(who, symbol, ts)
        self.finish(o, STATUS_FILLED, ts)
        self.emit_account(account, symbol, pos_side, REASON_ORDER, 0, ts)
        # what is left of the margin that backed this leg: the isolated wallet plus the wallet's change, or the cross wallet
        left = left_before + acc.wallet_e8 if isolated else acc.wallet_e8 - acc.iso_total_e8
        if left < 0:
            traded = REASON_INSURANCE_CLEAR
            if not isolated and self.crossed_open(account):
                return  # other crossed legs still back it: settled with the last of them
            charge = left
        else:
            traded = REASON_ADJUSTMENT
            charge = min(left, mul_div_trunc(value, ins.liquidation_fee_ppm, PPM))
        if charge:
            self.add_wallet(account, symbol, pos_side, -charge, traded, ts)
            self.add_wallet(0, symbol, POS_BOTH, charge, traded, ts)

    cdef bint crossed_open(self, int32_t account) noexcept nogil:
        """Whether the account still has a position in crossed margin."""
        cdef int symbol, pos_side
        for symbol in range(self.n_symbols):
            if self.config_ptr(account, symbol).margin_type == MARGIN_CROSSED:
                for pos_side in range(3):
                    if self.leg_ptr(account, symbol, pos_side).qty:
                        return True
        return False

    cdef int32_t adl_candidate(self, int symbol, int side, int* pos_side) noexcept nogil:
        """The account whose opposite position has the best profit ratio, -1 when none is in profit. ``side`` is the liquidation
        order's: it sells a long, so a short must be closed."""
        cdef Instrument* ins = &self.inst[symbol]
        cdef int32_t account
        cdef int32_t found = -1
        cdef int64_t best = 0
        cdef int64_t upnl, ratio
        cdef int k
        cdef Leg* leg
        for account in range(1, self.n_accounts):
            if self.accounts[account].ephemeral:
                continue
            for k in range(3):
                leg = self.leg_ptr(account, symbol, k)
                if leg.qty == 0 or (leg.qty > 0) != (side > 0):
                    continue
                upnl = self.leg_value(leg, ins) - leg.cost_e8
                ratio = mul_div_trunc(upnl, PPM, absolute(leg.cost_e8)) if leg.cost_e8 else 0
                if ratio > best:
                    best = ratio
                    found = account
                    pos_side[0] = k
        return found

    # ---- text --------------------------------------------------------------------------------------------------------------

    cdef int64_t c_parse_qty(self, int symbol, const char* text, int size) noexcept nogil:
        cdef Instrument* ins = &self.inst[symbol]
        return decimal(text, size, ins.qty_precision, ins.lot_e8, -4023, -4003)

    cdef int64_t c_parse_px(self, int symbol, const char* text, int size) noexcept nogil:
        cdef Instrument* ins = &self.inst[symbol]
        return decimal(text, size, ins.price_precision, ins.tick_e8, -4014, -4001)

    # ---- the Python face -----------------------------------------------------------------------------------------------------

    cdef int need_account(self, int32_t account) except -1:
        if account < 0 or account >= self.n_accounts:
            raise IndexError(f"no account {account}")
        return 0

    cdef int need_symbol(self, int symbol) except -1:
        if symbol < 0 or symbol >= self.n_symbols:
            raise IndexError(f"no symbol {symbol}")
        return 0

    cdef int need_leg(self, int32_t account, int symbol, int pos_side) except -1:
        self.need_account(account)
        self.need_symbol(symbol)
        if pos_side < 0 or pos_side > 2:
            raise IndexError(f"no position side {pos_side}")
        return 0

    def add_account(self, int64_t balance_e8=0, *, bint ephemeral=False, bint no_margin=False, int maker_ppm=200,
                    int taker_ppm=500, int64_t ts_ns=0):
        cdef int32_t account = self.n_accounts
        cdef Account* acc
        cdef Config* cfg
        cdef int symbol
        cdef int leverage
        self.grow_accounts(account + 1)
        acc = &self.accounts[account]
        memset(acc, 0, sizeof(Account))
        acc.maker_ppm = maker_ppm
        acc.taker_ppm = taker_ppm
        acc.last_order = acc.last_trade = acc.first_open = -1
        acc.ephemeral = ephemeral
        acc.no_margin = no_margin
        memset(&self.legs[<int64_t>account * self.n_symbols * 3], 0, self.n_symbols * 3 * sizeof(Leg))
        for symbol in range(self.n_symbols):
            cfg = self.config_ptr(account, symbol)
            memset(cfg, 0, sizeof(Config))
            leverage = min(LEVERAGE_DEFAULT, self.inst[symbol].max_leverage)
            cfg.leverage = leverage
            cfg.cap_e8 = self.cap_at(&self.inst[symbol], leverage)
        self.n_accounts = account + 1
        if balance_e8:
            self.c_begin()
            self.deposits_total_e8 += balance_e8
            self.add_wallet(account, -1, 0, balance_e8, REASON_DEPOSIT, ts_ns)
        return account

    def add_accounts(self, int32_t n, int64_t balance_e8=0, *, int maker_ppm=200, int taker_ppm=500, int64_t ts_ns=0):
        cdef int32_t first = self.n_accounts
        self.grow_accounts(first + n)
        for _ in range(n):
            self.add_account(balance_e8, maker_ppm=maker_ppm, taker_ppm=taker_ppm, ts_ns=ts_ns)
        return first

    def set_fees(self, int32_t account, int maker_ppm, int taker_ppm):
        self.need_account(account)
        self.accounts[account].maker_ppm = maker_ppm
        self.accounts[account].taker_ppm = taker_ppm

    def transfer(self, int32_t account, int64_t amount_e8, int64_t ts_ns):
        cdef Margin m
        self.need_account(account)
        self.c_begin()
        self.c_margin(account, &m)
        if amount_e8 < 0 and not self.accounts[account].no_margin and m.available_e8 + amount_e8 < 0:
            return -5013
        self.deposits_total_e8 += amount_e8
        self.add_wallet(account, -1, 0, amount_e8, REASON_DEPOSIT if amount_e8 > 0 else REASON_WITHDRAW, ts_ns)
        return 0

    def set_position_mode(self, int32_t account, bint hedge, int64_t ts_ns):
        cdef int i
        self.need_account(account)
        self.c_begin()
        if self.accounts[account].hedge == hedge:
            return -4059
        if self.accounts[account].open_orders:
            return -4067
        for i in range(self.n_symbols * 3):
            if self.legs[<int64_t>account * self.n_symbols * 3 + i].qty:
                return -4068
        self.accounts[account].hedge = hedge
        return 0

    def set_margin_type(self, int32_t account, int symbol, int margin_type, int64_t ts_ns):
        cdef Config* cfg
        cdef int k
        self.need_leg(account, symbol, 0)
        self.c_begin()
        cfg = self.config_ptr(account, symbol)
        if cfg.margin_type == margin_type:
            return -4046
        if cfg.open_orders:
            return -4047
        for k in range(3):
            if self.leg_ptr(account, symbol, k).qty:
                return -4048
        cfg.margin_type = margin_type
        return 0

    def set_leverage(self, int32_t account, int symbol, int leverage, int64_t ts_ns):
        cdef Config* cfg
        cdef Config before
        cdef Instrument* ins
        cdef Margin m
        cdef int64_t cap
        cdef int k
        cdef bint held = False
        cdef Event* ev
        self.need_leg(account, symbol, 0)
        self.c_begin()
        ins = &self.inst[symbol]
        cfg = self.config_ptr(account, symbol)
        if leverage < 1 or leverage > ins.max_leverage:
            self.reject_value = leverage
            return -4028
        cap = self.cap_at(ins, leverage)
        for k in range(3):
            if self.leg_ptr(account, symbol, k).qty:
                held = True
            if self.leg_exposure(self.leg_ptr(account, symbol, k), ins, k) > cap:
                return -2027
        if held and cfg.margin_type == MARGIN_ISOLATED and leverage < cfg.leverage:
            return -4161
        before = cfg[0]
        cfg.leverage = leverage
        cfg.cap_e8 = cap
        if leverage < before.leverage and not self.accounts[account].no_margin:
            self.c_margin(account, &m)
            if m.available_e8 < 0:
                cfg[0] = before
                return -2028
        if not self.accounts[account].ephemeral:
            ev = self.emit(EV_LEVERAGE, account, symbol, ts_ns)
            ev.qty = leverage
        return 0

    def move_isolated_margin(self, int32_t account, int symbol, int pos_side, int64_t amount_e8, int64_t ts_ns):
        cdef Leg* leg
        cdef Instrument* ins
        cdef Margin m
        cdef int64_t value
        self.need_leg(account, symbol, pos_side)
        self.c_begin()
        leg = self.leg_ptr(account, symbol, pos_side)
        ins = &self.inst[symbol]
        if leg.qty == 0 or self.config_ptr(account, symbol).margin_type != MARGIN_ISOLATED:
            return -4054
        self.c_margin(account, &m)
        if amount_e8 > 0 and m.available_e8 < amount_e8:
            return -4050
        if amount_e8 < 0:
            value = self.leg_value(leg, ins)
            if (leg.iso_wallet_e8 + amount_e8 + min(<int64_t>0, value - leg.cost_e8)
                    < div_ceil(absolute(value), self.config_ptr(account, symbol).leverage)):
                return -4051
        leg.iso_wallet_e8 += amount_e8
        self.accounts[account].iso_total_e8 += amount_e8
        self.emit_account(account, symbol, pos_side, REASON_MARGIN_TRANSFER, 0, ts_ns)
        return 0

    def is_hedge(self, int32_t account):
        self.need_account(account)
        return bool(self.accounts[account].hedge)

    def account_config(self, int32_t account, int symbol):
        cdef Config* cfg
        self.need_leg(account, symbol, 0)
        cfg = self.config_ptr(account, symbol)
        return cfg.leverage, cfg.margin_type, cfg.open_orders

    def max_notional_e8(self, int symbol, int leverage):
        self.need_symbol(symbol)
        return self.cap_at(&self.inst[symbol], leverage)

    def account_state(self, int32_t account):
        cdef Margin m
        cdef Account* acc
        self.need_account(account)
        self.c_margin(account, &m)
        acc = &self.accounts[account]
        return (acc.wallet_e8, acc.wallet_e8 - acc.iso_total_e8, m.cross_upnl_e8, m.iso_upnl_e8, m.position_im_e8,
                m.order_im_e8, m.maint_e8, m.cross_im_e8, max(<int64_t>0, m.available_e8), acc.fees_e8)

    def position(self, int32_t account, int symbol, int pos_side):
        cdef Leg* leg
        cdef Instrument* ins
        cdef Margin m
        cdef int64_t own, upnl
        cdef int i = 0
        self.need_leg(account, symbol, pos_side)
        leg = self.leg_ptr(account, symbol, pos_side)
        ins = &self.inst[symbol]
        upnl = self.leg_value(leg, ins) - leg.cost_e8
        price = 0
        if leg.qty:
            # where balance + upnl(p) = maintenance(p) in the bracket of today's value; an estimate, as the venue's is
            own = absolute(self.leg_value(leg, ins))
            while i < ins.n_tiers - 1 and own > ins.tiers[i].cap_e8:
                i += 1
            if self.config_ptr(account, symbol).margin_type == MARGIN_ISOLATED:
                balance = leg.iso_wallet_e8
            else:
                self.c_margin(account, &m)
                balance = (self.accounts[account].wallet_e8 - self.accounts[account].iso_total_e8
                           + m.cross_upnl_e8 - upnl - m.cross_maint_e8 + self.maintenance(ins, own))
            side = 1 if leg.qty > 0 else -1
            top = (leg.cost_e8 - balance - ins.tiers[i].cum_e8) * PPM
            price = top // (leg.qty * ins.value_mul * (PPM - side * ins.tiers[i].mmr_ppm))
        return leg.qty, leg.cost_e8, leg.iso_wallet_e8, leg.realised_e8, leg.ts_update, upnl, max(0, price)

    def position_margins(self, int32_t account, int symbol, int pos_side):
        cdef Leg* leg
        cdef Instrument* ins
        cdef int64_t value, im
        cdef int leverage
        self.need_leg(account, symbol, pos_side)
        leg = self.leg_ptr(account, symbol, pos_side)
        ins = &self.inst[symbol]
        leverage = self.config_ptr(account, symbol).leverage
        value = self.leg_value(leg, ins)
        im = div_ceil(absolute(value), leverage)
        return (value, im, div_ceil(self.leg_exposure(leg, ins, pos_side), leverage) - im,
                self.maintenance(ins, absolute(value)) if leg.qty else 0)

    def place(self, int32_t account, int symbol, int side, int type, int tif, int64_t qty_lots, int64_t px_ticks,
              bint reduce_only, bint close_position, int position_side, bytes client_id, int64_t ts_ns,
              int stp_mode=STP_EXPIRE_MAKER):
        cdef int32_t out
        self.need_account(account)
        self.c_begin()
        out = self.c_place(account, symbol, side, type, tif, qty_lots, px_ticks, reduce_only, close_position,
                           position_side, <const char*>client_id, <int>len(client_id), ts_ns, stp_mode)
        self.c_end(ts_ns)
        return out

    def cancel(self, int32_t account, int32_t slot, int64_t ts_ns):
        cdef int out
        self.need_account(account)
        self.c_begin()
        out = self.c_cancel(account, slot, ts_ns)
        self.c_end(ts_ns)
        return out

    def cancel_all(self, int32_t account, int symbol, int64_t ts_ns):
        cdef int out
        self.need_account(account)
        self.c_begin()
        out = self.c_cancel_all(account, symbol, ts_ns)
        self.c_end(ts_ns)
        return out

    def modify(self, int32_t account, int32_t slot, int64_t qty_lots, int64_t px_ticks, int64_t ts_ns):
        cdef int out
        self.need_account(account)
        self.c_begin()
        out = self.c_modify(account, slot, qty_lots, px_ticks, ts_ns)
        self.c_end(ts_ns)
        return out

    def find_order(self, int32_t account, int symbol, int64_t order_id, int64_t ts_ns):
        self.need_account(account)
        return self.c_find_id(account, symbol, order_id, ts_ns)

    def find_client(self, int32_t account, int symbol, bytes client_id, int64_t ts_ns):
        self.need_account(account)
        return self.c_find_client(account, symbol, <const char*>client_id, <int>len(client_id), ts_ns)

    def order(self, int32_t slot):
        cdef Order* o
        if slot < 0 or slot >= self.order_log.size:
            raise IndexError(f"no order slot {slot}")
        o = self.order_ptr(slot)
        return (o.slot, o.order_id, o.account, o.symbol, o.client_id[:o.client_size], o.side, o.pos_side, o.type, o.tif,
                o.stp, o.status, o.flags, o.qty, o.px, o.cum_qty, o.cum_value_e8, o.ts_new, o.ts_update)

    def open_orders(self, int32_t account, int symbol=-1):
        cdef int32_t slot
        cdef Order* o
        cdef list out = []
        self.need_account(account)
        slot = self.accounts[account].first_open
        while slot >= 0:
            o = self.order_ptr(slot)
            if symbol < 0 or o.symbol == symbol:
                out.append(slot)
            slot = o.open_next
        out.sort()
        return out

    def orders_of(self, int32_t account, int symbol=-1, int limit=500, int32_t before_slot=-1, int64_t since_ns=0):
        cdef int32_t slot
        cdef Order* o
        cdef list out = []
        self.need_account(account)
        slot = self.accounts[account].last_order
        while slot >= 0 and len(out) < limit:
            o = self.order_ptr(slot)
            if o.ts_new < since_ns - CLOCK_STEP_NS:
                break
            if (symbol < 0 or o.symbol == symbol) and (before_slot < 0 or slot < before_slot):
                out.append(slot)
            slot = o.prev_of_account
        out.reverse()
        return out

    cdef tuple trade_tuple(self, int64_t index):
        cdef Trade* t = self.trade_ptr(index)
        return (index, t.trade_id, t.symbol, t.px, t.qty, t.ts, t.taker_side,
                t.buy_account, t.buy_order_id, t.buy_fee_e8, t.buy_pnl_e8, t.buy_pos_side,
                t.sell_account, t.sell_order_id, t.sell_fee_e8, t.sell_pnl_e8, t.sell_pos_side)

    def trades_of(self, int32_t account, int symbol=-1, int limit=500, int64_t from_index=0, int64_t since_ns=0,
                  int64_t first_id=0):
        cdef int64_t index
        cdef Trade* t
        cdef list out = []
        self.need_account(account)
        index = self.accounts[account].last_trade
        while index >= from_index and len(out) < limit:
            t = self.trade_ptr(index)
            if t.ts < since_ns - CLOCK_STEP_NS or (t.symbol == symbol and t.trade_id < first_id):
                break
            if symbol < 0 or t.symbol == symbol:
                out.append(self.trade_tuple(index))
            index = t.prev_of_buyer if t.buy_account == account else t.prev_of_seller
        out.reverse()
        return out

    def parse_qty(self, int symbol, bytes text):
        self.need_symbol(symbol)
        return self.c_parse_qty(symbol, <const char*>text, <int>len(text))

    def parse_px(self, int symbol, bytes text):
        self.need_symbol(symbol)
        return self.c_parse_px(symbol, <const char*>text, <int>len(text))

    def top(self, int symbol):
        cdef Instrument* ins
        cdef int64_t bid = 0, bid_qty = 0, ask = 0, ask_qty = 0
        self.need_symbol(symbol)
        ins = &self.inst[symbol]
        if ins.bids.size:
            bid, bid_qty = ins.bids.levels[ins.bids.size - 1].px, ins.bids.levels[ins.bids.size - 1].qty
        if ins.asks.size:
            ask, ask_qty = ins.asks.levels[ins.asks.size - 1].px, ins.asks.levels[ins.asks.size - 1].qty
        return bid, bid_qty, ask, ask_qty

    def depth(self, int symbol, int limit=100):
        cdef Instrument* ins
        cdef int i
        self.need_symbol(symbol)
        ins = &self.inst[symbol]
        bids = [(ins.bids.levels[i].px, ins.bids.levels[i].qty)
                for i in range(ins.bids.size - 1, max(-1, ins.bids.size - 1 - limit), -1)]
        asks = [(ins.asks.levels[i].px, ins.asks.levels[i].qty)
                for i in range(ins.asks.size - 1, max(-1, ins.asks.size - 1 - limit), -1)]
        return ins.update_id, bids, asks

    def watch_depth(self, int symbol, bint on=True):
        self.need_symbol(symbol)
        self.inst[symbol].dirty_on = on
        self.inst[symbol].dirty_size = 0

    def drain_depth(self, int symbol):
        cdef Instrument* ins
        cdef Side* side
        cdef int i, at, sign
        self.need_symbol(symbol)
        ins = &self.inst[symbol]
        bids = []
        asks = []
        for px in sorted({ins.dirty[i] for i in range(ins.dirty_size)}, reverse=True):
            sign = 1 if px > 0 else -1
            side = &ins.bids if sign > 0 else &ins.asks
            at = lower_bound(side, px, sign)
            qty = side.levels[at].qty if at < side.size and sign * side.levels[at].px == px else 0
            (bids if sign > 0 else asks).append((sign * px, qty))
        ins.dirty_size = 0
        return ins.update_id, bids, asks

    def mark(self, int symbol):
        self.need_symbol(symbol)
        return self.inst[symbol].mark

    def last_price(self, int symbol):
        self.need_symbol(symbol)
        return self.inst[symbol].last_px

    def set_mark(self, int symbol, int64_t px_ticks, int64_t ts_ns):
        cdef int out
        self.need_symbol(symbol)
        if px_ticks < 1:
            raise ValueError("a mark price is at least one tick")
        self.c_begin()
        out = self.c_set_mark(symbol, px_ticks, ts_ns)
        self.c_end(ts_ns)
        return out

    def apply_funding(self, int symbol, int64_t rate_e8, int64_t ts_ns):
        cdef Instrument* ins
        cdef Leg* leg
        cdef int32_t account
        cdef int k
        cdef int count = 0
        cdef int64_t pay
        self.need_symbol(symbol)
        self.c_begin()
        ins = &self.inst[symbol]
        for account in range(self.n_accounts):
            for k in range(3):
                leg = self.leg_ptr(account, symbol, k)
                if leg.qty == 0:
                    continue
                pay = -mul_div_trunc(self.leg_value(leg, ins), rate_e8, E8)
                self.funding_residue_e8 -= pay  # truncation leaves at most 1e-8 per position over: it stays here
                if self.config_ptr(account, symbol).margin_type == MARGIN_ISOLATED:
                    leg.iso_wallet_e8 += pay
                    self.accounts[account].iso_total_e8 += pay
                self.add_wallet(account, symbol, k, pay, REASON_FUNDING_FEE, ts_ns)
                count += 1
        return count

    def event_list(self):
        cdef Event* ev
        cdef int i
        cdef list out = []
        for i in range(self.n_events):
            ev = &self.events[i]
            out.append((ev.kind, ev.account, ev.symbol, ev.slot, ev.side, ev.pos_side, ev.status, ev.maker, ev.reason,
                        ev.ts, ev.order_id, ev.px, ev.qty, ev.trade_id, ev.cum_qty, ev.cum_value_e8, ev.fee_e8,
                        ev.pnl_e8, ev.wallet_e8, ev.cross_wallet_e8, ev.change_e8, ev.iso_wallet_e8))
        return out

    def n_orders(self):
        return self.order_log.size

    def n_trades(self):
        return self.trade_log.size

    def n_rejects(self):
        return self.reject_log.size

    def orders_after(self, int64_t slot, int limit=1000):
        cdef Order* o
        cdef list out = []
        slot = max(slot, -1) + 1
        while slot < self.order_log.size and len(out) < limit:
            o = self.order_ptr(<int32_t>slot)
            if not o.flags & FLAG_EPHEMERAL:
                out.append(self.order(<int32_t>slot))
            slot += 1
        return out

    def trades_after(self, int64_t index, int limit=1000):
        cdef int64_t first = max(index, -1) + 1
        return [self.trade_tuple(i) for i in range(first, min(first + limit, self.trade_log.size))]

    def quotes_after(self, int64_t seq, int limit=1000):
        cdef Quote* q
        cdef int64_t first = max(seq, 0, self.n_quotes - self.quotes_room)
        cdef int64_t i
        cdef list out = []
        for i in range(first, min(first + limit, self.n_quotes)):
            q = &self.quotes[rem(i, self.quotes_room)]
            out.append((i + 1, q.ts, q.symbol, q.bid, q.ask, q.mark))
        return out

    def rejects_after(self, int64_t index, int limit=1000):
        cdef int64_t first = max(index, -1) + 1
        cdef int64_t i
        cdef Reject* r
        cdef list out = []
        for i in range(first, min(first + limit, self.reject_log.size)):
            r = <Reject*>chunk_at(&self.reject_log, i)
            out.append((i, r.ts, r.account, r.symbol, r.code, r.client_id[:r.client_size], r.side, r.pos_side, r.type,
                        r.tif, r.flags, r.qty, r.px))
        return out

    cdef tuple income_tuple(self, int64_t index):
        cdef Income* x = <Income*>chunk_at(&self.income_log, index)
        return index, x.ts, x.account, x.symbol, x.kind, x.amount_e8

    def incomes_after(self, int64_t index, int limit=1000):
        cdef int64_t first = max(index, -1) + 1
        return [self.income_tuple(i) for i in range(first, min(first + limit, self.income_log.size))]

    def incomes_of(self, int32_t account, int limit=1000):
        cdef int64_t i
        cdef list out = []
        for i in range(self.income_log.size - 1, -1, -1):
            if (<Income*>chunk_at(&self.income_log, i)).account == account:
                out.append(self.income_tuple(i))
                if len(out) >= limit:
                    break
        out.reverse()
        return out

    def totals(self):
        cdef int64_t i
        wallets = 0
        for i in range(self.n_accounts):
            wallets += self.accounts[i].wallet_e8
        for i in range(<int64_t>self.n_accounts * self.n_symbols * 3):
            wallets -= self.legs[i].cost_e8
        return wallets, self.fees_total_e8, self.funding_residue_e8, self.deposits_total_e8

    def memory_bytes(self):
        cdef int64_t total = <int64_t>sizeof(Instrument) * self.n_symbols
        cdef int i
        total += self.accounts_room * <int64_t>(sizeof(Account) + self.n_symbols * (3 * sizeof(Leg) + sizeof(Config)))
        total += self.client_room * <int64_t>sizeof(uint64_t) + self.quotes_room * <int64_t>sizeof(Quote)
        total += self.events_room * <int64_t>sizeof(Event)
        total += (<int64_t>1 << BLOCK_BITS) * (
            <int64_t>self.order_log.n_blocks * <int64_t>sizeof(Order) + self.trade_log.n_blocks * <int64_t>sizeof(Trade)
            + self.income_log.n_blocks * <int64_t>sizeof(Income) + self.reject_log.n_blocks * <int64_t>sizeof(Reject))
        for i in range(self.n_symbols):
            total += (self.inst[i].bids.room + self.inst[i].asks.room) * <int64_t>sizeof(Level)
            total += self.inst[i].dirty_room * <int64_t>sizeof(int64_t)
        return total


cdef int autoclose_name(char* out, int64_t number) noexcept nogil:
    """``autoclose-<number>``; its size."""
    cdef int size = 10
    cdef int digits = 1
    cdef int64_t n = number
    memcpy(out, b"autoclose-", 10)
    while n > 9:
        n = div_trunc(n, 10)
        digits += 1
    size += digits
    while digits > 0:
        out[9 + digits] = <char>(48 + rem(number, 10))
        number = div_trunc(number, 10)
        digits -= 1
    return size
