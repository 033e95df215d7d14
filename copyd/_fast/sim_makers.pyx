# cython: auto_pickle=False, autotestdict=False
# (raw memory is not to be pickled; there are no doctests in here)
"""Seeded market makers. What they send is a function of the seed, the step number and the operator's shifts: they read no
clock, no book and no fill. The random numbers are splitmix64, one stream per symbol, so markets do not disturb each other."""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free

from copyd._fast.sim_engine cimport (
    POS_BOTH,
    STP_NONE,
    TIF_GTC,
    TIF_IOC,
    TYPE_LIMIT,
    Engine,
    Instrument,
)

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t next64(uint64_t *state) {
        uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    /* 0 <= result < n; the bias is below 2^-32 for the small n used here */
    static inline int64_t below(uint64_t *state, int64_t n) { return (int64_t)(((next64(state) >> 32) * (uint64_t)n) >> 32); }
    static inline int64_t part(int64_t value, int64_t num, int64_t den) { return (int64_t)(((__int128)value * num) / den); }
    static inline uint64_t mixed(uint64_t hash, int64_t value) {
        return (hash ^ (uint64_t)value ^ (hash >> 32)) * 0x9fb21c651e98df25ULL;
    }
    static inline int every(int64_t step, int64_t n) { return n > 0 && step % n == 0; }
    """
    uint64_t next64(uint64_t* state) noexcept nogil
    int64_t below(uint64_t* state, int64_t n) noexcept nogil
    int64_t part(int64_t value, int64_t num, int64_t den) noexcept nogil
    uint64_t mixed(uint64_t hash, int64_t value) noexcept nogil
    bint every(int64_t step, int64_t n) noexcept nogil

cdef int64_t PPM = 1_000_000


cdef class Makers:

    def __cinit__(self, Engine engine not None, uint64_t seed, markets, int makers=4):
        cdef Market* market
        cdef int i
        names = [spec.symbol for spec in engine.specs]
        self.engine = engine
        self.n_markets = len(markets)
        self.n_makers = makers
        self.markets = <Market*>calloc(max(1, self.n_markets), sizeof(Market))
        if self.markets == NULL:
            raise MemoryError
        self.hash = 0xcbf29ce484222325
        for i, spec in enumerate(markets):
            market = &self.markets[i]
            market.symbol = names.index(spec.symbol)
            market.rng = mixed(mixed(0, seed), market.symbol)
            next64(&market.rng)
            market.levels = spec.levels
            market.half_spread = max(1, spec.half_spread)
            market.gap = max(1, spec.gap)
            market.depth_e8 = spec.depth_e8
            market.walk_ppm = spec.walk_ppm
            market.pull_ppm = spec.pull_ppm
            market.mark_every = spec.mark_every
            market.print_every = spec.print_every
            market.mid_q16 = market.anchor_q16 = engine.inst[market.symbol].mark << 16
        self.first_account = engine.n_accounts
        for _ in range(makers + 1):
            engine.add_account(0, ephemeral=True, no_margin=True, maker_ppm=0, taker_ppm=0)

    def __dealloc__(self):
        free(self.markets)

    cdef void note(self, int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil:
        self.hash = mixed(mixed(mixed(mixed(self.hash, a), b), c), d)

    cdef void quote(self, Market* market, int64_t ts) noexcept nogil:
        cdef Instrument* ins = &self.engine.inst[market.symbol]
        cdef int64_t mid, px, qty, base
        cdef int maker, level, side
        cdef int32_t account
        cdef bint marked = every(self.step_no, market.mark_every) or market.moved != 0
        market.moved = 0
        # 1. the walk: a uniform step, and a pull back to the anchor
        market.mid_q16 += part(market.mid_q16, market.walk_ppm * (below(&market.rng, 131073) - 65536), 65536 * PPM)
        market.mid_q16 += part(market.anchor_q16 - market.mid_q16, market.pull_ppm, PPM)
        mid = market.mid_q16 >> 16
        if mid < ins.min_px + market.half_spread + 1:
            mid = ins.min_px + market.half_spread + 1
        # 2. all old quotes away, 3. the mark, so that the new ones stand in its band
        for maker in range(self.n_makers):
            self.engine.c_cancel_all(self.first_account + maker, market.symbol, ts)
        if marked:
            self.engine.move_mark(market.symbol, mid, ts)
            self.note(self.step_no, market.symbol, -1, mid)
        # 4. new quotes: each maker on every level, its size between 1/2 and 3/2 of an even share
        base = part(market.depth_e8, 1, market.levels * self.n_makers * mid * ins.value_mul)
        for maker in range(self.n_makers):
            account = self.first_account + maker
            for level in range(market.levels):
                for side in range(-1, 2, 2):
                    px = mid - side * (market.half_spread + level * market.gap + below(&market.rng, market.gap))
                    qty = base // 2 + below(&market.rng, base + 1)
                    if qty < ins.min_qty:
                        qty = ins.min_qty
                    if qty > ins.max_qty:
                        qty = ins.max_qty
                    self.note((self.step_no << 16) | market.symbol, account, side * px, qty)
                    self.engine.c_place(account, market.symbol, side, TYPE_LIMIT, TIF_GTC, qty, px, False, False, POS_BOTH,
                                        NULL, 0, ts, STP_NONE)
        # 5. a small trade on the tape
        if every(self.step_no, market.print_every):
            side = 1 if below(&market.rng, 2) else -1
            qty = ins.min_qty + part(ins.min_notional_e8, 1 + below(&market.rng, 20), mid * ins.value_mul)
            px = mid + side * (market.half_spread + 2 * market.gap)
            self.note((self.step_no << 16) | market.symbol, self.first_account + self.n_makers, side * px, qty)
            self.engine.c_place(self.first_account + self.n_makers, market.symbol, side, TYPE_LIMIT, TIF_IOC, qty, px, False,
                                False, POS_BOTH, NULL, 0, ts, STP_NONE)
        # 6. what the mark has done to others, with a full book to do it on
        if marked:
            self.engine.sweep(market.symbol, ts)

    cdef void c_step(self, int64_t ts) noexcept nogil:
        """One step of every market. The caller brackets it with ``engine.c_begin()`` and ``engine.c_end(ts)``."""
        cdef int i
        self.step_no += 1
        for i in range(self.n_markets):
            self.quote(&self.markets[i], ts)

    def step(self, int64_t ts_ns):
        self.engine.c_begin()
        self.c_step(ts_ns)
        self.engine.c_end(ts_ns)

    cdef Market* market_of(self, int symbol) except NULL:
        cdef int i
        for i in range(self.n_markets):
            if self.markets[i].symbol == symbol:
                return &self.markets[i]
        raise IndexError(f"no market maker quotes symbol {symbol}")

    def shift(self, int symbol, int64_t ppm):
        cdef Market* market = self.market_of(symbol)
        market.mid_q16 += part(market.mid_q16, ppm, PPM)
        market.anchor_q16 += part(market.anchor_q16, ppm, PPM)
        market.moved = 1

    def move_to(self, int symbol, int64_t px_ticks):
        cdef Market* market = self.market_of(symbol)
        if px_ticks < 1:
            raise ValueError("a price is at least one tick")
        market.mid_q16 = market.anchor_q16 = px_ticks << 16
        market.moved = 1

    def hold(self, int symbol, int64_t walk_ppm):
        self.market_of(symbol).walk_ppm = walk_ppm

    def mid(self, int symbol):
        return self.market_of(symbol).mid_q16 >> 16

    def flow_hash(self):
        return self.hash
