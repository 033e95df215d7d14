"""The signer's own limits: what it signs is held against them once more, whatever decided it.

By account the instruments it may open in and the most one order may be worth; by instrument the prices it may name. What nothing
was said of opens nothing. An order that makes its leg's confirmed attributed quantity smaller always passes. The readable twin is
``copyd.vault.limits``.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from copyd._fast.columns cimport Columns, Instrument, Leg, Order

cdef extern from *:
    """
    typedef unsigned __int128 copyd_u128;
    static inline void guard_fetch(const void* at) { __builtin_prefetch(at, 0); }
    /* Whether qty * px * mul > cap * div; all four above 0 but cap, which may be 0. What leaves 128 bits is above any cap. */
    static inline int worth_more(long long qty, long long px, long long mul, long long cap, long long div) {
        unsigned long long small;
        copyd_u128 notional, most = (copyd_u128)cap * (copyd_u128)div;
        if (!__builtin_mul_overflow((unsigned long long)qty, (unsigned long long)px, &small))
            return (copyd_u128)small * (copyd_u128)mul > most;
        notional = (copyd_u128)qty * (copyd_u128)px;
        if (__builtin_mul_overflow(notional, (copyd_u128)mul, &notional)) return 1;
        return notional > most;
    }
    """
    void guard_fetch(const void* at) noexcept nogil
    int worth_more(int64_t qty, int64_t px, int64_t mul, int64_t cap, int64_t div) noexcept nogil

cdef enum:
    ACCOUNTS_MAX = 1 << 24
    INSTRUMENTS_MAX = 64
    AHEAD = 16           # rows whose memory is fetched before it is needed
    T_INSTRUMENTS = 0    # tables, as ``columns.TABLES`` has them
    T_LEGS = 6
    T_ORDERS = 7
    ORDER_FREE = 255
    OPENING = 0


cdef struct View:
    # Where everything stands for the length of one call.
    Instrument* instruments
    Leg* legs
    Order* orders
    Limits* accounts
    Band* bands
    uint32_t n_instruments
    uint32_t n_legs
    uint32_t n_orders
    uint32_t n_accounts


cdef inline void fetch(const View* view, uint32_t far, uint32_t near) noexcept nogil:
    """The memory of an order that comes later, and of what a nearer one refers to."""
    cdef Order* order
    if far < view.n_orders:
        guard_fetch(&view.orders[far].order_qty)
        guard_fetch(&view.orders[far].leg)
    if near < view.n_orders:
        order = &view.orders[near]
        if order.kind != OPENING:
            if order.leg < view.n_legs:
                guard_fetch(&view.legs[order.leg].attributed)
                guard_fetch(&view.legs[order.leg].account)
        elif order.account < view.n_accounts:
            guard_fetch(&view.accounts[order.account])


cdef inline bint reduces(const Order* order, const Leg* leg) noexcept nogil:
    """Whether the order makes its leg's confirmed attributed quantity smaller, and no more than flat."""
    if leg.account != order.account or leg.instrument != order.instrument:
        return False
    if leg.attributed > 0:
        return order.side < 0 and order.position_side != 2 and order.order_qty <= leg.attributed
    if leg.attributed < 0:
        return (order.side > 0 and order.position_side != 1
                and <uint64_t>order.order_qty <= <uint64_t>0 - <uint64_t>leg.attributed)
    return False


cdef inline bint within(const View* view, const Order* order) noexcept nogil:
    """Whether an opening keeps to what was said of its account and instrument."""
    cdef const Limits* limits
    cdef const Band* band
    cdef const Instrument* item
    if order.account >= view.n_accounts or order.instrument >= INSTRUMENTS_MAX:
        return False
    limits = &view.accounts[order.account]
    band = &view.bands[order.instrument]
    if not limits.known or not (limits.instruments >> order.instrument) & 1 or not band.high:
        return False
    if order.limit_px and not band.low <= order.limit_px <= band.high:
        return False
    if not limits.notional_cap_e8:
        return True
    if order.instrument >= view.n_instruments:
        return False
    item = &view.instruments[order.instrument]
    if item.value_mul <= 0 or item.value_div <= 0:
        return False
    return not worth_more(
        order.order_qty, order.limit_px if order.limit_px else band.high, item.value_mul, limits.notional_cap_e8, item.value_div)


cdef inline bint allowed(const View* view, uint32_t slot) noexcept nogil:
    cdef const Order* order
    if slot >= view.n_orders:
        return False
    order = &view.orders[slot]
    if order.state == ORDER_FREE or order.order_qty <= 0 or (order.side != 1 and order.side != -1) or order.limit_px < 0:
        return False
    # Either suffices; what the order calls itself says only which of the two is looked at first.
    if order.kind != OPENING:
        return (order.leg < view.n_legs and reduces(order, &view.legs[order.leg])) or within(view, order)
    return within(view, order) or (order.leg < view.n_legs and reduces(order, &view.legs[order.leg]))


cdef class Guard:
    """Limits in compiled form. Accounts and instruments are numbered as in the engine's tables."""

    def __cinit__(self):
        memset(self.bands, 0, sizeof(self.bands))

    def __dealloc__(self):
        free(self.accounts)

    def set_account(self, uint32_t account, uint64_t instruments_mask, int64_t notional_cap_e8):
        """What an account may open: bit i = instrument i; ``notional_cap_e8``: most one order may be worth, 1e-8 quote, 0 = none.

        ``ValueError`` for an account or a cap that can be none.
        """
        if account >= ACCOUNTS_MAX or notional_cap_e8 < 0:
            raise ValueError(f"account {account}, cap {notional_cap_e8}: out of range")
        cdef uint32_t capacity
        cdef Limits* accounts
        if account >= self.capacity:
            capacity = max(account + 1, self.capacity * 2)
            accounts = <Limits*>realloc(self.accounts, capacity * sizeof(Limits))
            if accounts == NULL:
                raise MemoryError
            memset(&accounts[self.capacity], 0, (capacity - self.capacity) * sizeof(Limits))
            self.accounts, self.capacity = accounts, capacity
        self.accounts[account].instruments = instruments_mask
        self.accounts[account].notional_cap_e8 = notional_cap_e8
        self.accounts[account].known = 1

    def forget_account(self, uint32_t account):
        """Nothing is said of it any more: it opens nothing."""
        if account < self.capacity:
            self.accounts[account].known = 0

    def set_price(self, uint32_t instrument, int64_t low_ticks, int64_t high_ticks):
        """The prices an opening may name, both ends included, ticks; an order at the market counts at ``high_ticks``.

        0 and 0: none is known, nothing opens. ``ValueError`` for a band that is none.
        """
        if instrument >= INSTRUMENTS_MAX or not (0 < low_ticks <= high_ticks or low_ticks == high_ticks == 0):
            raise ValueError(f"instrument {instrument}, prices {low_ticks} to {high_ticks}: out of range")
        self.bands[instrument].low, self.bands[instrument].high = low_ticks, high_ticks

    def check(self, Columns columns not None, const uint32_t[::1] slots not None):
        """The slots among ``slots`` that must not be signed, in their order, as bytes of uint32; empty when all may."""
        cdef Py_ssize_t i, n = slots.shape[0]
        cdef const uint32_t* asked
        cdef View view
        cdef list refused = []
        if not n:
            return b""
        view.instruments, view.legs, view.orders = columns.instruments, columns.legs, columns.orders
        view.accounts, view.bands = self.accounts, &self.bands[0]
        view.n_instruments, view.n_legs = columns.counts[T_INSTRUMENTS], columns.counts[T_LEGS]
        view.n_orders, view.n_accounts = columns.counts[T_ORDERS], self.capacity
        asked = &slots[0]
        for i in range(n):
            if i + AHEAD < n:
                fetch(&view, asked[i + AHEAD], asked[i + AHEAD // 2])
            if not allowed(&view, asked[i]):
                refused.append(PyBytes_FromStringAndSize(<char*>&asked[i], sizeof(uint32_t)))
        return b"".join(refused)
