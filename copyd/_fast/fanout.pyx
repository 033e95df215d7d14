"""The rules of ``copyd.core`` for all followers at once: one leader event, one batch of reports, one timer sweep.

Transcribed function by function from the readable twin, under the same names: ``copy_instruction`` (ratio, reduce_target,
defer), ``risk`` (gate, size, caps), ``order`` (make_order, plan_reduction), ``position`` (decide, release, sweep) and
``fill`` (apply_report). The twin is the specification; a property test compares every byte of both. Products are 128-bit.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcpy, memset

from copyd._fast.columns cimport (
    NONE, Account, AccountInstrument, Columns, Instrument, Leader, LeaderPosition, Leg, Order, Plan, Report, ReportBatch,
)

from copyd.errors import BrokenInvariant

cdef extern from *:
    """
    typedef __int128 i128;

    /* a * b / c rounded toward zero: C division does just that, on 128 bits nothing overflows. */
    static inline long long mul_div_trunc(long long a, long long b, long long c) {
        __int128 product = (__int128)a * b;
        if (product == (long long)product && product >= 0 && c > 0)
            return (long long)((unsigned long long)product / (unsigned long long)c);
        return (long long)(product / c);
    }
    static inline __int128 wide(long long a, long long b) { return (__int128)a * b; }
    static inline __int128 wide3(__int128 a, long long b) { return a * b; }
    static inline __int128 shl32(__int128 a) { return a << 32; }
    /* Floor of a / b for a >= 0 and b > 0, where C division and floor agree. */
    static inline __int128 quotient(__int128 a, __int128 b) {
        if (((unsigned __int128)a >> 64) == 0 && ((unsigned __int128)b >> 64) == 0)  /* nearly always, and three times faster */
            return (unsigned long long)a / (unsigned long long)b;
        return a / b;
    }
    /* over / under x mul / div, truncated once, for over >= 0, 0 < under < 2**94 and mul, div of 1 .. 2**32; where it is 2**60
       or more, something that is: floor of floors is exact, and no product passes 2**127. */
    static inline __int128 converted(__int128 over, __int128 under, long long mul, long long div) {
        __int128 whole = over / under, rest = over - whole * under;
        if (whole > ((__int128)1 << 92) / mul)
            return (__int128)1 << 60;
        return (whole * mul + rest * mul / under) / div;
    }
    static inline void fetch_soon(const void* at) { __builtin_prefetch(at, 1); }
    static inline long long narrow(__int128 a) { return (long long)a; }
    static inline int less(__int128 a, __int128 b) { return a < b; }
    static inline int not_positive(__int128 a) { return a <= 0; }
    /* Saturated to what fits, for quantities that are only compared with something small. */
    static inline long long clamp(__int128 a) {
        return a > (__int128)0x3fffffffffffffffLL ? 0x3fffffffffffffffLL : (long long)a;
    }
    """
    ctypedef long long i128
    int64_t mul_div_trunc(int64_t a, int64_t b, int64_t c) noexcept nogil
    i128 wide(int64_t a, int64_t b) noexcept nogil
    i128 wide3(i128 a, int64_t b) noexcept nogil
    i128 shl32(i128 a) noexcept nogil
    i128 quotient(i128 a, i128 b) noexcept nogil
    i128 converted(i128 over, i128 under, int64_t mul, int64_t div) noexcept nogil
    int64_t narrow(i128 a) noexcept nogil
    int less(i128 a, i128 b) noexcept nogil
    int not_positive(i128 a) noexcept nogil
    int64_t clamp(i128 a) noexcept nogil
    void fetch_soon(const void* at) noexcept nogil

cdef enum:
    AHEAD = 6          # legs whose rows are fetched before they are decided
    BPS = 10_000
    PPM = 1_000_000

cdef uint64_t RANK_PLAIN = (<uint64_t>1) << 63   # the netted rest of a close: neither reduce-only nor with a position side
cdef int64_t K_MAX = (<int64_t>1) << 60
cdef int64_t TARGET_MAX = (<int64_t>1) << 61
cdef int64_t FLOW_SLACK = 2_000_000_000
cdef int64_t MARGIN_CALL_PAUSE = 600_000_000_000

cdef enum:  # Mode
    PROPORTIONAL = 0
    MULTIPLIER = 1
    FIXED_AMOUNT = 2
    FIXED_RATIO = 3
    RISK_BASED = 4

cdef enum:  # RatioSnapshot, MinPolicy, OnInsufficient, PlanState
    POSITION_OPEN = 0
    EACH_ORDER = 1
    MIN_CARRY = 0
    MIN_RAISE = 2
    INSUFFICIENT_SKIP = 1
    ACTIVE = 0
    STOPPED = 3

cdef enum:  # LossPolicy
    CLOSE_NOW = 0
    CLOSE_GRACEFULLY = 1
    KEEP = 3

cdef enum:  # Kind
    OPENING = 0
    REDUCTION = 1

cdef enum:  # OrderState
    S_PENDING_NEW = 1
    S_NEW = 2
    S_PARTIALLY_FILLED = 3
    S_FILLED = 4
    S_CANCELED = 6
    S_EXPIRED = 7
    S_REJECTED = 8
    S_IN_DOUBT = 10
    S_DEAD = 11
    S_HELD = 12

cdef enum:  # ReportKind
    R_REPLY = 1
    R_REJECT = 2
    R_IN_DOUBT = 3
    R_DEAD = 4
    R_STREAM = 5
    R_TRADE = 6
    R_BALANCE = 7
    R_NOT_SENT = 8
    R_HELD = 9

cdef enum:  # Part
    P_NONE = 0
    P_ORDER = 1
    P_DEFERRED = 2
    P_CARRIED = 3
    P_FORGONE = 4
    P_ROUNDED = 5

cdef enum:  # Reason
    OK = 0
    KILL_SWITCH = 1
    PLAN_PAUSED = 2
    LEG_NOT_READY = 5
    LEG_DETACHED = 6
    INSTRUMENT_NOT_ALLOWED = 7
    LEADER_NOT_ELIGIBLE = 8
    OBSERVED = 9
    LEADER_UNSYNCED = 10
    LEADER_EQUITY_STALE = 11
    QUOTE_STALE = 12
    STALE_EVENT = 13
    LEADER_DRAWDOWN = 14
    TOTAL_LOSS = 15
    DAILY_LOSS = 16
    MAX_OPEN_TRADES = 17
    LEVERAGE_ABOVE_MAX = 18
    NO_STOP = 19
    MAX_LOSS_PER_TRADE = 20
    MAX_POSITION = 21
    MAX_NOTIONAL_SYMBOL = 22
    MAX_NOTIONAL_TOTAL = 23
    INSUFFICIENT_MARGIN = 24
    SLIPPAGE_LEADER = 25
    SLIPPAGE_MID = 26
    RATE_LIMITED = 27
    BELOW_MINIMUM = 28
    ABOVE_MAXIMUM = 29
    JOURNAL_LOW = 30
    CLOCK_OFF = 31
    PRICE_OUTLIER = 32
    VOLATILITY_PAUSE = 33
    NO_SHORT = 34
    SLIPPAGE = 40
    VENUE_REJECTED = 41

cdef enum:  # Note
    N_NONE = 0
    LATE_FILL = 1
    REPLANNED = 2
    REDUCTION_RETRY = 3
    UNKNOWN_ORDER = 4
    DEAD_BUT_FILLED = 5
    N_HELD = 6
    DUST = 7

cdef enum:
    PRICE_BAND_BPS = 1_000
    PART_OPENING = 0
    PART_REDUCTION = 16
    REDUCTIONS_MAX = 64
    REDUCE_ONLY_REJECTED = -2022
    POSITION_SIDE_REJECTED = -4061
    MIN_NOTIONAL_REJECTED = -4164
    NO_BALANCE_REJECTED = -2019
    FILTER_REJECTED = -1013

cdef struct Params:
    uint8_t key[16]
    int64_t max_event_age
    int64_t replan_max_age
    int64_t quote_max_age
    int64_t equity_max_age
    int64_t order_window
    int64_t retry_min
    int64_t retry_max
    int64_t read_lag
    int64_t mark_max_age
    uint32_t epoch
    uint16_t site
    uint16_t orders_per_window
    uint16_t day_reset_min
    uint16_t runaway_per_plan
    uint8_t killed
    uint8_t journal_low
    uint8_t clock_off
    uint8_t pad[1]

cdef struct FillEvent:
    uint8_t cause[16]
    int64_t seq
    int64_t now
    int64_t ts_event
    int64_t qty_before
    int64_t qty_mid
    int64_t qty_after
    int64_t open_qty
    int64_t px
    int64_t first_px
    int64_t order_qty
    int64_t order_id
    int64_t rotation
    int64_t reduce_qty
    int64_t lots_mul
    int64_t lots_div
    uint32_t leader
    uint32_t position
    uint16_t instrument
    int8_t open_side
    uint8_t live
    uint8_t pad[4]

cdef struct Decision:
    uint32_t plan
    uint32_t leg
    uint8_t reduce
    uint8_t open
    uint8_t reason
    uint8_t release
    uint8_t pad[4]
    int64_t k
    int64_t delta
    int64_t forgone
    int64_t reduce_lots
    int64_t open_lots
    int64_t target

cdef struct OrderEnd:
    uint8_t cid[16]
    int64_t forgone
    uint32_t leg
    int32_t code
    uint8_t reason
    uint8_t note
    uint8_t pad[6]

cdef struct NamedOrder:
    uint8_t cid[16]
    int64_t order_qty
    int64_t limit_px
    uint32_t leg
    uint32_t account
    int8_t side
    uint8_t kind
    uint8_t position_side
    uint8_t reduce_only
    uint8_t attempt
    uint8_t pad[3]

cdef struct Stop:
    int64_t loss_e8
    int64_t limit_e8
    int64_t equity_e8
    uint32_t plan
    uint16_t legs
    uint8_t reason
    uint8_t policy

cdef struct Cause:
    uint8_t cause[16]
    int64_t aux
    int64_t seq
    int64_t now
    int64_t ts_event

cdef struct Touched:  # a leg that a batch of reports changed, and the first of them that did
    Cause cause
    uint32_t leg

cdef struct Opening:
    int64_t want      # Q32, >= 0
    int64_t px        # ticks
    int64_t ts_event
    int64_t age_max
    int64_t now
    int side
    int live

cdef struct Size:
    int64_t lots
    int64_t limit_px
    int64_t defer_until
    int reason
    int raised
    int refused

cdef struct Ranked:   # a reduction and where it comes in the sending order: larger exposure, lower rank
    uint64_t rank
    uint32_t slot

cdef struct Drift:
    int64_t distance
    int64_t missed
    int64_t money_e8
    int64_t ts_retry
    uint32_t leg
    int32_t bps
    uint8_t moving
    uint8_t pad[7]

cdef struct Buffer:
    void* rows
    size_t size       # bytes per row
    uint32_t count
    uint32_t capacity


def row_sizes():
    """Bytes of the rows this module takes and gives, for the layout test."""
    return {
        "params": sizeof(Params), "fill_event": sizeof(FillEvent), "decisions": sizeof(Decision),
        "ends": sizeof(OrderEnd), "named_orders": sizeof(NamedOrder), "drift": sizeof(Drift), "stops": sizeof(Stop),
    }


cdef void* _push(Buffer* buffer) except NULL nogil:
    """Address of one more row."""
    cdef void* rows
    if buffer.count == buffer.capacity:
        buffer.capacity = max(256, buffer.capacity * 2)
        rows = realloc(buffer.rows, buffer.capacity * buffer.size)
        if rows == NULL:
            with gil:
                raise MemoryError
        buffer.rows = rows
    buffer.count += 1
    return <char*>buffer.rows + (buffer.count - 1) * buffer.size


cdef bytes _bytes(Buffer* buffer):
    return PyBytes_FromStringAndSize(<char*>buffer.rows, buffer.count * buffer.size)


cdef inline int64_t _abs(int64_t value) noexcept nogil:
    return -value if value < 0 else value


cdef inline int _sign(int64_t value) noexcept nogil:
    return (value > 0) - (value < 0)


# -- identifiers -----------------------------------------------------------------------------------------------------


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* SipHash-2-4 with 128-bit output; copyd.core.identifiers.siphash128. size is a multiple of 8. */
    #define SIP_ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
    #define SIP_ROUND \
        v0 += v1; v1 = SIP_ROTL(v1, 13) ^ v0; v0 = SIP_ROTL(v0, 32); v2 += v3; v3 = SIP_ROTL(v3, 16) ^ v2; \
        v0 += v3; v3 = SIP_ROTL(v3, 21) ^ v0; v2 += v1; v1 = SIP_ROTL(v1, 17) ^ v2; v2 = SIP_ROTL(v2, 32);

    static inline void siphash128(const uint8_t *key, const uint8_t *message, size_t size, uint8_t *digest) {
        uint64_t k0, k1, word;
        memcpy(&k0, key, 8);
        memcpy(&k1, key + 8, 8);
        uint64_t v0 = k0 ^ 0x736F6D6570736575u, v1 = k1 ^ 0x646F72616E646F6Du ^ 0xEE;
        uint64_t v2 = k0 ^ 0x6C7967656E657261u, v3 = k1 ^ 0x7465646279746573u;
        for (size_t at = 0; at < size; at += 8) {
            memcpy(&word, message + at, 8);
            v3 ^= word;
            SIP_ROUND SIP_ROUND
            v0 ^= word;
        }
        word = (uint64_t)(size & 0xFF) << 56;
        v3 ^= word;
        SIP_ROUND SIP_ROUND
        v0 ^= word;
        v2 ^= 0xEE;
        SIP_ROUND SIP_ROUND SIP_ROUND SIP_ROUND
        word = v0 ^ v1 ^ v2 ^ v3;
        memcpy(digest, &word, 8);
        v1 ^= 0xDD;
        SIP_ROUND SIP_ROUND SIP_ROUND SIP_ROUND
        word = v0 ^ v1 ^ v2 ^ v3;
        memcpy(digest + 8, &word, 8);
    }
    """
    void siphash128(const uint8_t* key, const uint8_t* message, size_t size, uint8_t* digest) noexcept nogil


# -- instrument ------------------------------------------------------------------------------------------------------


cdef inline int64_t _notional(Instrument* instrument, int64_t lots, int64_t px) noexcept nogil:
    return narrow(quotient(wide3(wide(lots, px), instrument.value_mul), instrument.value_div))


cdef inline bint _exceeds_declared(
        Leader* leader, LeaderPosition* position, Instrument* instrument, int64_t px) noexcept nogil:
    if not (leader.declared_instruments >> position.instrument) & 1:
        return True
    if leader.declared_leverage != 0 and position.leverage > leader.declared_leverage:
        return True
    return leader.declared_position_e8 > 0 and less(
        wide(leader.declared_position_e8, instrument.value_div),
        wide3(wide(_abs(position.qty), px), instrument.value_mul))


cdef inline int64_t _lots_for(Instrument* instrument, int64_t value_e8, int64_t px) noexcept nogil:
    if value_e8 <= 0:
        return 0
    return clamp(quotient(wide(value_e8, instrument.value_div), wide(px, instrument.value_mul)))


cdef inline int64_t _min_lots(Instrument* instrument, int64_t px) noexcept nogil:
    cdef int64_t least = instrument.lot_min if instrument.lot_min > 1 else 1
    cdef i128 over = wide(instrument.min_notional_e8, instrument.value_div)
    cdef i128 under = wide(px, instrument.value_mul)
    cdef int64_t by_value = narrow(quotient(over + under - 1, under))
    return by_value if by_value > least else least


cdef inline int64_t _fee_value(Instrument* instrument, int64_t fee_q32, int64_t px) noexcept nogil:
    cdef i128 under = shl32(instrument.value_div)
    return narrow(quotient(wide3(wide(fee_q32, px), instrument.value_mul) + under - 1, under))


cdef inline int64_t _leverage_of(Instrument* instrument, int64_t leverage) noexcept nogil:
    return 1 if instrument.spot else leverage


cdef inline int64_t _limit_price(int64_t px, int side, int64_t slippage_bps) noexcept nogil:
    if side > 0:
        return narrow(quotient(wide(px, BPS + slippage_bps), BPS))
    return narrow(quotient(wide(px, BPS - slippage_bps) + BPS - 1, BPS))


cdef class Kernel:
    """The rules bound to one set of tables; one instance per engine.

    ``set_params`` takes the bytes of ``copyd.core.rows.Params``. After a call the results are read with ``decisions()``,
    ``ends()``, ``orders()`` (slots in sending order) and ``suspects()``; the next call clears them.
    """

    cdef readonly Columns columns
    cdef Params params
    cdef Buffer _decisions
    cdef Buffer _ends
    cdef Buffer _reductions
    cdef Buffer _openings
    cdef Buffer _suspects
    cdef Buffer _touched
    cdef Buffer _stops
    cdef int64_t[64] _marks
    cdef int64_t[64] _ts_marks

    def __cinit__(self, Columns columns):
        self.columns = columns
        self._decisions.size = sizeof(Decision)
        self._ends.size = sizeof(OrderEnd)
        self._reductions.size = sizeof(uint32_t)
        self._openings.size = sizeof(uint32_t)
        self._suspects.size = sizeof(uint32_t)
        self._touched.size = sizeof(Touched)
        self._stops.size = sizeof(Stop)

    def __dealloc__(self):
        free(self._decisions.rows)
        free(self._ends.rows)
        free(self._reductions.rows)
        free(self._openings.rows)
        free(self._suspects.rows)
        free(self._touched.rows)
        free(self._stops.rows)

    def set_params(self, bytes data):
        """Take over the bytes of a ``Params`` row."""
        if len(data) != sizeof(Params):
            raise ValueError(f"Params is {sizeof(Params)} bytes, got {len(data)}")
        memcpy(&self.params, PyBytes_AS_STRING(data), sizeof(Params))

    # -- the three entries ----------------------------------------------------------------------------------------

    def fan_out(self, const uint32_t[::1] legs, bytes event_row, ready=None, uint32_t first=1):
        """Decide one leader fill for every leg of ``legs``, starting at the event's rotation.

        ``ready``: where the fill only opens, ``ready(slots)`` is given the orders (uint32 slots as bytes, in sending order) as
        they become whole, the ``first`` of them first, while the rest is still to be decided; it returns how many more it waits
        for before it is called again. It must not touch the tables. Reductions are put in order when all are known: it is not
        called for them.
        """
        self.fan_out_each([(legs, event_row)], ready, first)

    def fan_out_each(self, groups, ready=None, uint32_t first=1):
        """As ``fan_out``, for one leader fill that is followed in several instruments: ``groups`` are (legs, the event as those
        legs see it), decided in their order as one: the reductions of all come first, the openings of each in its rotation."""
        cdef uint32_t told = 0
        cdef uint32_t more = first if ready is not None else NONE
        cdef Py_ssize_t left = len(groups)
        self._clear()
        for legs, event_row in groups:
            left -= 1
            self._fan_out_group(legs, event_row, ready, &told, &more, left == 0)

    cdef int _fan_out_group(
            self, const uint32_t[::1] legs, bytes event_row, ready, uint32_t* so_far, uint32_t* wait_for,
            bint last) except -1:
        if len(event_row) != sizeof(FillEvent):
            raise ValueError(f"FillEvent is {sizeof(FillEvent)} bytes, got {len(event_row)}")
        cdef FillEvent event
        memcpy(&event, PyBytes_AS_STRING(event_row), sizeof(FillEvent))
        cdef uint32_t n = <uint32_t>legs.shape[0]
        cdef uint32_t i = 0
        if n == 0:
            return 0
        cdef uint32_t start = <uint32_t>(<uint64_t>event.rotation % n)
        cdef uint32_t told = so_far[0]
        cdef uint32_t more = wait_for[0] if event.reduce_qty == 0 else NONE
        while i < n:
            with nogil:  # the journal's thread has a record to commit meanwhile
                while i < n and self._openings.count - told < more:
                    if i + 2 * AHEAD < n:
                        self._fetch_leg(&self.columns.legs[legs[(start + i + 2 * AHEAD) % n]])
                    if i + AHEAD < n:
                        self._fetch_rows(&self.columns.legs[legs[(start + i + AHEAD) % n]])
                    self._decide(legs[(start + i) % n], &event)
                    i += 1
            self._index()
            if more != NONE and self._openings.count > told and (last or self._openings.count - told >= more):
                more = ready(self._openings_from(told))
                told = self._openings.count
        so_far[0] = told
        wait_for[0] = more
        return 0

    cdef bytes _openings_from(self, uint32_t first):
        return PyBytes_FromStringAndSize(
            <char*>(<uint32_t*>self._openings.rows + first), (self._openings.count - first) * sizeof(uint32_t))

    cdef inline void _fetch_leg(self, Leg* leg) noexcept nogil:
        fetch_soon(leg)
        fetch_soon(&leg.deferred_ts)
        fetch_soon(&leg.ts_open)
        fetch_soon(&leg.instrument)

    cdef inline void _fetch_rows(self, Leg* leg) noexcept nogil:
        """What deciding this leg will read."""
        cdef Plan* plan = &self.columns.plans[leg.plan]
        fetch_soon(plan)
        fetch_soon(&plan.commission_e8)
        fetch_soon(&plan.instruments)
        fetch_soon(&plan.max_loss_bps)
        fetch_soon(&plan.killed)
        fetch_soon(&self.columns.accounts[leg.account])
        fetch_soon(self._account_instrument(leg))

    def apply_reports(self, ReportBatch batch, int64_t now, int64_t seq):
        """Book a batch of reports in their order; then, for each leg they touched, what follows."""
        cdef uint32_t i
        cdef Touched* touched
        cdef Leg* leg
        self._clear()
        for i in range(batch.count):
            if i + 4 * AHEAD < batch.count:
                self.columns.fetch_index(batch.rows[i + 4 * AHEAD].cid)
            if i + 2 * AHEAD < batch.count:
                self.columns.fetch_order(batch.rows[i + 2 * AHEAD].cid)
            self._book_report(&batch.rows[i], now, seq)
        for i in range(self._touched.count):
            touched = &(<Touched*>self._touched.rows)[i]
            leg = &self.columns.legs[touched.leg]
            leg.touched = 0
            _set_off(leg)
            if leg.retry_ts == 0:
                self._plan_reduction(touched.leg, &touched.cause)
            self._release(touched.leg, &touched.cause)
            if self.columns.plans[leg.plan].keeping and self.columns.plans[leg.plan].stopped_by:
                self._keep(&self.columns.plans[leg.plan])
        self._index()

    cdef int _index(self) except -1:
        """The ids of the orders just made into the index; every id is derived once."""
        cdef uint32_t twice = self.columns.index_fresh()
        if twice != NONE:
            raise BrokenInvariant(f"client order id {bytes(self.columns.orders[twice].cid[:16]).hex()} derived twice")
        return 0

    def stop_losses(self, bytes cause, int64_t now, int64_t seq):
        """Hold every plan that is not stopped against its loss limits, at the marks in the tables; ``stops()`` are the result."""
        cdef Cause c
        cdef uint32_t i
        cdef Plan* plan
        cdef int64_t earned
        cdef bint fresh
        cdef int reason
        self._clear()
        memcpy(c.cause, PyBytes_AS_STRING(cause), 16)
        c.aux = 0
        c.seq = seq
        c.now = now
        c.ts_event = now
        self._take_marks()
        for i in range(self.columns.counts[3]):
            plan = &self.columns.plans[i]
            if self._is_done(plan):
                continue
            earned = self._profit(plan, now, &fresh)
            reason = self._loss_reason(plan, earned, fresh)
            if reason != OK:
                self._stop(i, reason, earned, &c)
        self._index()

    def losses_due(self, marks, int64_t now):
        """True when ``stop_losses`` would stop a plan if these were the marks: (instrument, ticks, ts); reads only."""
        cdef uint32_t i
        cdef Plan* plan
        cdef int64_t earned
        cdef bint fresh
        self._take_marks()
        for instrument, mark, ts in marks:
            self._marks[instrument & 63] = mark
            self._ts_marks[instrument & 63] = ts
        for i in range(self.columns.counts[3]):
            plan = &self.columns.plans[i]
            if self._is_done(plan):
                continue
            if not (plan.total_loss_bps or plan.daily_loss_bps or plan.leader_drawdown_bps):
                continue
            earned = self._profit(plan, now, &fresh)
            if self._loss_reason(plan, earned, fresh) != OK or (plan.day_pending and fresh):
                return True
        return False

    def near_liquidation(self, marks, int64_t maintenance_bps, int64_t warn_bps):
        """(leg, ``pnl.margin_left`` in bps) of every leg on isolated margin that is nearer than ``warn_bps`` at these marks."""
        cdef uint32_t i
        cdef Leg* leg
        cdef int64_t mark, worth, left
        cdef list found = []
        self._take_marks()
        for instrument, mark, _ in marks:
            self._marks[instrument & 63] = mark
        for i in range(self.columns.counts[6]):
            leg = &self.columns.legs[i]
            mark = self._marks[leg.instrument]
            if (leg.attributed == 0 or mark <= 0 or not self._account_instrument(leg).isolated
                    or self.columns.instruments[leg.instrument].spot):
                continue
            worth = _notional(&self.columns.instruments[leg.instrument], _abs(leg.attributed), mark)
            if worth <= 0:
                continue
            left = leg.margin_e8 + _unrealised(&self.columns.instruments[leg.instrument], leg, mark) - narrow(
                quotient(wide(worth, maintenance_bps), BPS))
            left = mul_div_trunc(left, BPS, worth)
            if left < warn_bps:
                found.append((i, left))
        return found

    def profits(self, int64_t now, marks=()):
        """(profit in e8 at mark, whether every mark is fresh) of every plan, with ``marks`` in place of the tables'."""
        cdef uint32_t i
        cdef bint fresh
        cdef int64_t earned
        cdef list found = []
        self._take_marks()
        for instrument, mark, ts in marks:
            self._marks[instrument & 63] = mark
            self._ts_marks[instrument & 63] = ts
        for i in range(self.columns.counts[3]):
            earned = self._profit(&self.columns.plans[i], now, &fresh)
            found.append((earned, fresh))
        return found

    def reanchor(self, const uint32_t[::1] legs, int64_t leader_qty):
        """From now on reductions of these legs are measured from what they should hold and ``leader_qty`` lots of the leader."""
        cdef Py_ssize_t i
        for i in range(legs.shape[0]):
            self._set_anchor(&self.columns.legs[legs[i]], leader_qty)

    def follow_peak(self, uint32_t leader):
        """The leader's highest equity since each plan began."""
        cdef uint32_t i
        cdef Plan* plan
        cdef int64_t equity = min(self.columns.leaders[leader].equity_e8, self.columns.leaders[leader].equity_before_e8)
        for i in range(self.columns.counts[3]):
            plan = &self.columns.plans[i]
            if plan.leader == leader and plan.leader_peak_e8 < equity:
                plan.leader_peak_e8 = equity

    def leader_flow(self, uint32_t leader, int64_t amount_e8, int64_t ts):
        """The leader paid in (negative: took out): his peak moves in the proportion his equity does."""
        cdef Leader* row = &self.columns.leaders[leader]
        cdef bint inside = ts <= row.ts_told + FLOW_SLACK
        cdef bint outside = ts > row.ts_told
        cdef int64_t equity = row.equity_e8
        cdef int64_t peak, other
        cdef uint32_t i
        cdef Plan* plan
        for i in range(self.columns.counts[3]):
            plan = &self.columns.plans[i]
            if plan.leader != leader:
                continue
            peak = _moved(plan.leader_peak_e8, equity - amount_e8, amount_e8, True)
            other = _moved(plan.leader_peak_e8, equity, amount_e8, False)
            if inside and outside:
                plan.leader_peak_e8 = min(peak, other)
            else:
                plan.leader_peak_e8 = peak if inside else other
        row.equity_before_e8 += amount_e8
        if outside:
            row.equity_e8 = equity + max(0, amount_e8) if inside else equity + amount_e8

    def begin_day(self, int64_t now, bint anew):
        """The daily limit counts from what each plan is worth now; where no fresh mark says, from the first one that does.

        ``anew``: a day begins for every plan, else only for those that have waited for a mark.
        """
        cdef uint32_t i
        cdef Plan* plan
        cdef int64_t earned
        cdef bint fresh
        self._take_marks()
        for i in range(self.columns.counts[3]):
            plan = &self.columns.plans[i]
            if not anew and not plan.day_pending:
                continue
            earned = self._profit(plan, now, &fresh)
            plan.day_pending = not fresh
            if fresh:
                plan.day_pnl_e8 = earned
                plan.day_equity_e8 = _allocation_equity(plan, earned)

    def sweep(self, bytes cause, int64_t now, int64_t seq):
        """The timer: reductions whose back-off has passed, openings that still wait. False when nothing has changed."""
        cdef Cause c
        cdef uint32_t i
        cdef bint changed = False
        cdef Leg* leg
        self._clear()
        memcpy(c.cause, PyBytes_AS_STRING(cause), 16)
        c.aux = 0
        c.seq = seq
        c.now = now
        c.ts_event = now
        for i in range(self.columns.counts[6]):
            leg = &self.columns.legs[i]
            if leg.retry_ts != 0 and self._retry_due(leg, now):
                leg.retry_ts = 0
                self._plan_reduction(i, &c)
                changed = True
            if leg.deferred != 0:
                changed |= self._release(i, &c)
        self._index()
        return changed

    def timers_due(self, int64_t now):
        """True when a sweep at ``now`` could have something to do; reads only."""
        cdef uint32_t i
        cdef Leg* leg
        for i in range(self.columns.counts[6]):
            leg = &self.columns.legs[i]
            if self._release_due(leg, now):
                return True
            if leg.retry_ts != 0 and self._retry_due(leg, now):
                return True
        return False

    cdef bint _release_due(self, Leg* leg, int64_t now) noexcept nogil:
        """What waits can be sent or given up now: not while something stands before it, nor while the rate window is full."""
        cdef Account* account
        cdef int64_t age_max
        if leg.deferred == 0 or leg.open_slot != NONE or _close_unsettled(leg, _sign(leg.deferred)):
            return False
        account = &self.columns.accounts[leg.account]
        age_max = self.params.replan_max_age if leg.replan else self.params.max_event_age
        return not (account.orders_in_window >= self.params.orders_per_window
                    and account.ts_window <= now < account.ts_window + self.params.order_window
                    and now - leg.deferred_ts <= age_max)

    cdef inline bint _retry_due(self, Leg* leg, int64_t now) noexcept nogil:
        return leg.retry_ts <= now or leg.retry_ts > now + self.params.retry_max

    # -- results --------------------------------------------------------------------------------------------------

    def decisions(self):
        """Packed ``DecisionRow`` bytes of the last call."""
        return _bytes(&self._decisions)

    def ends(self):
        """Packed ``OrderEndRow`` bytes of the last call."""
        return _bytes(&self._ends)

    def stops(self):
        """Packed ``StopRow`` bytes of the last call."""
        return _bytes(&self._stops)

    def suspects(self):
        """Slots of reductions the venue refused as not reducing: ask for the position."""
        return _bytes(&self._suspects)

    def orders(self):
        """uint32 slots as bytes: reductions by exposure, largest first, plain ones last, then openings in their rotation."""
        cdef uint32_t n = self._reductions.count
        cdef uint32_t i
        cdef uint32_t* slots = <uint32_t*>self._reductions.rows
        cdef Ranked* ranked
        cdef Order* order
        cdef Instrument* instrument
        if n > 1:
            ranked = <Ranked*>realloc(NULL, 2 * n * sizeof(Ranked))
            if ranked == NULL:
                raise MemoryError
            for i in range(n):
                order = &self.columns.orders[slots[i]]
                instrument = &self.columns.instruments[order.instrument]
                ranked[i].rank = RANK_PLAIN - 1 - <uint64_t>_notional(instrument, order.order_qty, instrument.mark)
                if order.reduce_only == 0 and order.position_side == 0 and not instrument.spot:
                    ranked[i].rank += RANK_PLAIN
                ranked[i].slot = slots[i]
            _sort_ranked(ranked, ranked + n, n)
            for i in range(n):
                slots[i] = ranked[i].slot
            free(ranked)
        return _bytes(&self._reductions) + _bytes(&self._openings)

    def named_orders(self, bytes slots):
        """The part of each order that the journal must hold before it may be sent; 48 bytes each, ``NamedOrder``."""
        cdef Py_ssize_t n = len(slots) // 4
        cdef const uint32_t* slot = <const uint32_t*>PyBytes_AS_STRING(slots)
        cdef bytes result = PyBytes_FromStringAndSize(NULL, n * sizeof(NamedOrder))
        cdef NamedOrder* named = <NamedOrder*>PyBytes_AS_STRING(result)
        cdef Order* order
        cdef Py_ssize_t i
        memset(named, 0, n * sizeof(NamedOrder))
        for i in range(n):
            order = &self.columns.orders[slot[i]]
            memcpy(named[i].cid, order.cid, 16)
            named[i].order_qty = order.order_qty
            named[i].limit_px = order.limit_px
            named[i].leg = order.leg
            named[i].account = order.account
            named[i].side = order.side
            named[i].kind = order.kind
            named[i].position_side = order.position_side
            named[i].reduce_only = order.reduce_only
            named[i].attempt = order.attempt
        return result

    def tally(self):
        """(parts by what became of them, {reason: decisions that left quantity out}, {reason: order ends}) of the last call.

        The first is a list indexed by ``Part``, reduce and open parts together.
        """
        cdef uint32_t i
        cdef Decision* decision = <Decision*>self._decisions.rows
        cdef OrderEnd* end = <OrderEnd*>self._ends.rows
        cdef uint32_t[6] parts
        cdef uint32_t[256] refused
        cdef uint32_t[256] unfilled
        memset(parts, 0, sizeof(parts))
        memset(refused, 0, sizeof(refused))
        memset(unfilled, 0, sizeof(unfilled))
        for i in range(self._decisions.count):
            parts[decision[i].reduce] += 1
            parts[decision[i].open] += 1
            if decision[i].forgone != 0 or decision[i].open == P_FORGONE:
                refused[decision[i].reason] += 1
        for i in range(self._ends.count):
            if end[i].forgone != 0:
                unfilled[end[i].reason] += 1
        return (
            [parts[i] for i in range(6)],
            {i: refused[i] for i in range(256) if refused[i]},
            {i: unfilled[i] for i in range(256) if unfilled[i]},
        )

    def census(self):
        """(orders unfinished, of them in doubt, legs that wait to open, legs holding a lot or more too much, orders held).

        What the venue takes no order for, so that it waits for the leg's next close (semantics 6), is not too much.
        """
        cdef uint32_t i
        cdef uint32_t unfinished = 0
        cdef uint32_t in_doubt = 0
        cdef uint32_t waiting = 0
        cdef uint32_t excess = 0
        cdef uint32_t held = 0
        cdef Columns columns = self.columns
        for i in range(columns.counts[7]):
            if columns.orders[i].state == S_IN_DOUBT or columns.orders[i].state == S_HELD:
                in_doubt += 1
                unfinished += 1
                held += columns.orders[i].state == S_HELD
            elif columns.orders[i].state != 0 and columns.orders[i].state <= 5 and columns.orders[i].state != S_FILLED:
                unfinished += 1
        for i in range(columns.counts[6]):
            if columns.legs[i].deferred != 0:
                waiting += 1
            if self._due(&columns.legs[i]) > 0:
                excess += 1
        return unfinished, in_doubt, waiting, excess, held

    def drift(self, edges, uint32_t worst_max, int64_t least_bps=0):
        """How far each leg is from what copying without limits would hold (``copyd.core.reconcile.drift``).

        Returns (packed ``DriftRow`` of up to ``worst_max`` legs at or above ``least_bps``, worst first; legs per bucket of
        ``edges``, upper bounds in bps, and one more above the last). Legs that hold and should hold nothing are not counted.
        """
        cdef Columns columns = self.columns
        cdef uint32_t i, n
        cdef Leg* leg
        cdef Buffer found
        cdef int64_t[32] bounds
        cdef uint32_t[33] buckets
        cdef uint32_t edge_count = len(edges)
        if edge_count > 32:
            raise ValueError("at most 32 edges")
        for i in range(edge_count):
            bounds[i] = edges[i]
        memset(buckets, 0, sizeof(buckets))
        memset(&found, 0, sizeof(Buffer))
        found.size = sizeof(Drift)
        cdef Drift one
        try:
            for i in range(columns.counts[6]):
                leg = &columns.legs[i]
                if leg.target == 0 and leg.missed == 0 and leg.attributed == 0:
                    continue
                self._drift(i, &one)
                n = 0
                while n < edge_count and one.bps > bounds[n]:
                    n += 1
                buckets[n] += 1
                if one.bps >= least_bps and one.distance != 0:
                    memcpy(_push(&found), &one, sizeof(Drift))
            if found.count > 1:
                qsort(found.rows, found.count, sizeof(Drift), &_compare_drift)
            found.count = min(found.count, worst_max)
            rows = _bytes(&found) if found.count else b""
        finally:
            free(found.rows)
        return rows, [buckets[i] for i in range(edge_count + 1)]

    cdef void _drift(self, uint32_t index, Drift* row) noexcept nogil:
        cdef Leg* leg = &self.columns.legs[index]
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef int64_t allocation = self.columns.plans[leg.plan].allocation_e8
        cdef int64_t bps
        memset(row, 0, sizeof(Drift))
        row.distance = leg.target + leg.missed - (leg.attributed << 32)
        row.missed = leg.missed
        row.money_e8 = clamp(quotient(
            wide3(wide(_abs(row.distance) >> 32, instrument.mark), instrument.value_mul), instrument.value_div))
        row.ts_retry = leg.retry_ts
        row.leg = index
        if allocation > 0:
            bps = clamp(quotient(wide(row.money_e8, BPS), allocation))
            row.bps = <int32_t>(bps if bps < 0x7FFFFFFF else 0x7FFFFFFF)
        row.moving = leg.open_slot != NONE or leg.reduce_leaves != 0 or leg.deferred != 0

    def counts(self):
        """(decisions, reductions, openings, ends) of the last call."""
        return self._decisions.count, self._reductions.count, self._openings.count, self._ends.count

    cdef void _clear(self) noexcept:
        self._decisions.count = 0
        self._ends.count = 0
        self._reductions.count = 0
        self._openings.count = 0
        self._suspects.count = 0
        self._touched.count = 0
        self._stops.count = 0

    cdef int _end(
            self, const uint8_t* cid, int64_t forgone, uint32_t leg, int32_t code, int reason, int note) except -1 nogil:
        cdef OrderEnd* end = <OrderEnd*>_push(&self._ends)
        memset(end, 0, sizeof(OrderEnd))
        memcpy(end.cid, cid, 16)
        end.forgone = forgone
        end.leg = leg
        end.code = code
        end.reason = reason
        end.note = note
        return 0

    cdef inline AccountInstrument* _account_instrument(self, Leg* leg) noexcept nogil:
        return &self.columns.account_instruments[
            <size_t>leg.account * self.columns.instruments_max + leg.instrument]

    # -- copy_instruction -----------------------------------------------------------------------------------------

    cdef int64_t _ratio(self, Leg* leg, Plan* plan, FillEvent* event, int* reason) noexcept nogil:
        cdef Leader* leader = &self.columns.leaders[event.leader]
        cdef LeaderPosition* position = &self.columns.positions[event.position]
        cdef Instrument* instrument = &self.columns.instruments[event.instrument]
        cdef i128 over, under, k
        cdef int64_t worth = 0
        reason[0] = OK
        if plan.mode != FIXED_AMOUNT and plan.mode != RISK_BASED and leg.target != 0:
            if plan.ratio_snapshot == POSITION_OPEN:
                return leg.k
            if plan.ratio_snapshot == EACH_ORDER and leg.k_order == event.order_id:
                return leg.k
        if plan.mode != FIXED_AMOUNT and plan.mode != RISK_BASED:
            worth = _allocation_equity(plan, self._profit_now(plan))
            if worth <= 0:
                reason[0] = TOTAL_LOSS
                return 0
        if plan.mode == PROPORTIONAL:
            over = shl32(worth)
            under = leader.equity_e8
        elif plan.mode == MULTIPLIER:
            over = shl32(wide(worth, plan.multiplier_ppm))
            under = wide(leader.equity_e8, PPM)
        elif plan.mode == FIXED_AMOUNT:
            over = shl32(wide(plan.amount_e8, instrument.value_div))
            under = wide3(wide(event.order_qty, event.px), instrument.value_mul)
        elif plan.mode == FIXED_RATIO:
            over = shl32(wide(worth, _leverage_of(instrument, plan.leverage)))
            under = wide(leader.equity_e8, position.leverage)
        else:
            if plan.assumed_stop_bps <= 0:
                reason[0] = NO_STOP
                return 0
            over = shl32(wide3(wide(plan.allocation_e8, plan.risk_bps), instrument.value_div))
            under = wide3(wide3(wide(plan.assumed_stop_bps, event.order_qty), event.first_px), instrument.value_mul)
        if not_positive(under):
            reason[0] = LEADER_EQUITY_STALE
            return 0
        if (event.lots_mul == event.lots_div) or plan.mode == FIXED_AMOUNT or plan.mode == RISK_BASED:
            k = quotient(over, under)
        else:
            k = converted(over, under, event.lots_mul, event.lots_div)
        if not less(k, K_MAX):
            reason[0] = ABOVE_MAXIMUM
            return 0
        return narrow(k)

    cdef void _reduce_target(self, Leg* leg, FillEvent* event) noexcept nogil:
        leg.missed = mul_div_trunc(leg.missed, event.qty_mid, event.qty_before)
        if leg.target == 0 and leg.pending == 0 and leg.deferred == 0:
            return
        if event.qty_mid == 0 or leg.anchor_leader == 0:
            leg.target = 0
            leg.pending = 0
            leg.deferred = 0
            return
        leg.target = mul_div_trunc(leg.anchor_target, event.qty_mid, leg.anchor_leader)
        leg.pending = mul_div_trunc(leg.pending, event.qty_mid, event.qty_before)
        leg.deferred = mul_div_trunc(leg.deferred, event.qty_mid, event.qty_before)
        self._drop_deferred(leg)

    cdef void _drop_deferred(self, Leg* leg) noexcept nogil:
        cdef int side = _sign(leg.target)
        cdef int64_t waits = _abs(leg.deferred)
        cdef int64_t held, uncovered, taken, kept
        if _sign(leg.pending) == side:
            taken = min(waits, (leg.open_leaves << 32) - _abs(leg.pending))
            leg.pending += side * taken
            waits -= taken
        held = _abs(leg.attributed) - leg.reduce_leaves if _sign(leg.attributed) == side else 0
        uncovered = side * (leg.target - leg.pending) - (held << 32)
        kept = min(uncovered, waits)
        leg.deferred = side * kept if kept > 0 else 0

    cdef void _set_anchor(self, Leg* leg, int64_t leader_qty) noexcept nogil:
        leg.anchor_target = leg.target
        leg.anchor_leader = leader_qty

    cdef void _defer(self, Leg* leg, int64_t part, int64_t px, int64_t ts_event) noexcept nogil:
        cdef int64_t held = _abs(leg.deferred)
        cdef int64_t new = _abs(part)
        if held == 0:
            leg.deferred_px_q16 = px << 16
            leg.deferred_ts = ts_event
        else:
            leg.deferred_px_q16 = narrow(quotient(
                wide(leg.deferred_px_q16, held) + wide(px << 16, new), <i128>held + new))
            if ts_event < leg.deferred_ts:
                leg.deferred_ts = ts_event
        leg.deferred += part

    # -- risk -----------------------------------------------------------------------------------------------------

    cdef int _gate(self, Leg* leg, Plan* plan, Opening* opening) noexcept nogil:
        cdef Leader* leader = &self.columns.leaders[plan.leader]
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef AccountInstrument* ai = self._account_instrument(leg)
        cdef LeaderPosition* lead
        cdef Instrument* traded
        cdef int reason
        if self.params.killed or leader.killed or plan.killed or instrument.halted:
            return KILL_SWITCH
        if plan.state != ACTIVE:
            return PLAN_PAUSED + plan.state - 1
        if leader.state != ACTIVE:
            return PLAN_PAUSED + leader.state - 1
        if (not ai.ready or _leverage_of(instrument, ai.leverage) < 1
                or (leg.side != 0 and not self.columns.accounts[leg.account].hedge)):
            return LEG_NOT_READY
        if leg.detached:
            return LEG_DETACHED
        if not (plan.instruments >> leg.instrument) & 1:
            return INSTRUMENT_NOT_ALLOWED
        if instrument.spot and opening.side < 0:
            return NO_SHORT
        if not leader.eligible or (0 < leader.ts_margin_call <= opening.now < leader.ts_margin_call + MARGIN_CALL_PAUSE):
            return LEADER_NOT_ELIGIBLE
        lead = &self.columns.positions[leg.leader_position]
        traded = &self.columns.instruments[lead.instrument]
        if _exceeds_declared(leader, lead, traded, opening.px if lead.instrument == leg.instrument else traded.mark):
            return LEADER_NOT_ELIGIBLE
        if not opening.live:
            return OBSERVED
        if not self.columns.positions[leg.leader_position].synced:
            return LEADER_UNSYNCED
        if leader.equity_e8 <= 0 or opening.now - leader.ts_equity > self.params.equity_max_age:
            return LEADER_EQUITY_STALE
        if instrument.bid <= 0 or instrument.ask <= 0 or opening.now - instrument.ts_quote > self.params.quote_max_age:
            return QUOTE_STALE
        if _is_outlier(instrument, opening.px):
            return PRICE_OUTLIER
        if instrument.turbulent:
            return VOLATILITY_PAUSE
        if opening.now - opening.ts_event > opening.age_max:
            return STALE_EVENT
        reason = self._loss_stop(plan)
        if reason != OK:
            return reason
        if (plan.max_open_trades != 0 and leg.target == 0 and leg.attributed == 0 and leg.open_leaves == 0
                and self._open_trades(plan, leg) >= plan.max_open_trades):
            return MAX_OPEN_TRADES
        if self.params.journal_low:
            return JOURNAL_LOW
        if self.params.clock_off or instrument.clock_off:
            return CLOCK_OFF
        return OK

    cdef int _loss_stop(self, Plan* plan) noexcept nogil:
        if plan.stopped_by:
            return plan.stopped_by
        if not (plan.total_loss_bps or plan.daily_loss_bps or plan.leader_drawdown_bps):
            return OK
        return self._loss_reason(plan, self._profit_now(plan), True)

    cdef int _loss_reason(self, Plan* plan, int64_t earned, bint fresh) noexcept nogil:
        cdef int64_t equity = _standing(&self.columns.leaders[plan.leader])
        cdef int64_t peak = plan.leader_peak_e8
        cdef int64_t lost
        if (plan.leader_drawdown_bps and peak > 0 and self.columns.leaders[plan.leader].ts_equity > 0
                and not less(wide(peak - equity, BPS), wide(peak, plan.leader_drawdown_bps))):
            return LEADER_DRAWDOWN
        if not fresh:
            return OK
        lost = plan.loss_base_e8 - earned
        if plan.total_loss_bps and lost > 0 and not less(wide(lost, BPS), wide(plan.allocation_e8, plan.total_loss_bps)):
            return TOTAL_LOSS
        lost = plan.day_pnl_e8 - earned
        if (plan.daily_loss_bps and not plan.day_pending and lost > 0
                and not less(wide(lost, BPS), wide(max(0, plan.day_equity_e8), plan.daily_loss_bps))):
            return DAILY_LOSS
        return OK

    # -- pnl ------------------------------------------------------------------------------------------------------

    cdef void _take_marks(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.columns.counts[0]):
            self._marks[i] = self.columns.instruments[i].mark
            self._ts_marks[i] = self.columns.instruments[i].ts_mark

    cdef int64_t _profit(self, Plan* plan, int64_t now, bint* fresh) noexcept nogil:
        cdef int64_t total = plan.realised_e8 - plan.commission_e8 + plan.funding_e8
        cdef uint32_t at = plan.first_leg
        cdef Leg* leg
        cdef int64_t mark
        fresh[0] = True
        while at != NONE:
            leg = &self.columns.legs[at]
            at = leg.next_leg
            if leg.attributed == 0:
                continue
            mark = self._marks[leg.instrument]
            if mark > 0:
                total += _unrealised(&self.columns.instruments[leg.instrument], leg, mark)
            if mark <= 0 or now - self._ts_marks[leg.instrument] > self.params.mark_max_age:
                fresh[0] = False
        return total

    cdef inline bint _is_done(self, Plan* plan) noexcept nogil:
        return plan.stopped_by != 0 or (plan.state == STOPPED and not self._holds(plan))

    cdef bint _holds(self, Plan* plan) noexcept nogil:
        cdef uint32_t at = plan.first_leg
        while at != NONE:
            if self.columns.legs[at].attributed != 0:
                return True
            at = self.columns.legs[at].next_leg
        return False

    cdef int64_t _profit_now(self, Plan* plan) noexcept nogil:
        """As ``_profit``, at the marks in the tables, fresh or not."""
        cdef int64_t total = plan.realised_e8 - plan.commission_e8 + plan.funding_e8
        cdef uint32_t at = plan.first_leg
        cdef Leg* leg
        cdef Instrument* instrument
        while at != NONE:
            leg = &self.columns.legs[at]
            at = leg.next_leg
            instrument = &self.columns.instruments[leg.instrument]
            if leg.attributed != 0 and instrument.mark > 0:
                total += _unrealised(instrument, leg, instrument.mark)
        return total

    # -- protection -----------------------------------------------------------------------------------------------

    cdef int _stop(self, uint32_t index, int reason, int64_t earned, Cause* cause) except -1:
        cdef Plan* plan = &self.columns.plans[index]
        cdef Stop* row = <Stop*>_push(&self._stops)
        cdef uint32_t at = plan.first_leg
        cdef uint32_t held = 0
        cdef Leg* leg
        memset(row, 0, sizeof(Stop))
        if reason == LEADER_DRAWDOWN:
            row.loss_e8 = plan.leader_peak_e8 - _standing(&self.columns.leaders[plan.leader])
            row.limit_e8 = narrow(quotient(wide(plan.leader_peak_e8, plan.leader_drawdown_bps), BPS))
        elif reason == TOTAL_LOSS:
            row.loss_e8 = plan.loss_base_e8 - earned
            row.limit_e8 = narrow(quotient(wide(plan.allocation_e8, plan.total_loss_bps), BPS))
        else:
            row.loss_e8 = plan.day_pnl_e8 - earned
            row.limit_e8 = narrow(quotient(wide(max(0, plan.day_equity_e8), plan.daily_loss_bps), BPS))
        row.equity_e8 = _allocation_equity(plan, earned)
        row.plan = index
        row.reason = reason
        row.policy = plan.loss_policy
        plan.stopped_by = reason
        while at != NONE:
            leg = &self.columns.legs[at]
            held += leg.attributed != 0
            if plan.loss_policy == CLOSE_NOW:
                leg.target = 0
                leg.pending = 0
                leg.deferred = 0
                leg.anchor_target = 0
                leg.missed = 0
                leg.replan = 0
                leg.retry_ts = 0
                self._plan_reduction(at, cause)
            elif plan.loss_policy == CLOSE_GRACEFULLY:
                leg.detached = self.columns.positions[leg.leader_position].qty != 0
            at = leg.next_leg
        row.legs = held if held < 0xFFFF else 0xFFFF
        if plan.loss_policy == KEEP:
            self._keep(plan)
        return 0

    cdef void _keep(self, Plan* plan) noexcept nogil:
        cdef uint32_t at = plan.first_leg
        cdef Leg* leg
        plan.keeping = 0
        while at != NONE:
            leg = &self.columns.legs[at]
            at = leg.next_leg
            if leg.open_slot == NONE and leg.reduce_leaves == 0 and leg.retry_ts == 0 and self._due(leg) == 0:
                self._give_back(plan, leg)
                continue
            leg.target -= leg.deferred
            leg.deferred = 0
            leg.missed = 0
            leg.replan = 0
            self._set_anchor(leg, self.columns.positions[leg.leader_position].qty)
            plan.keeping = 1

    cdef void _give_back(self, Plan* plan, Leg* leg) noexcept nogil:
        cdef AccountInstrument* ai = self._account_instrument(leg)
        cdef Account* account = &self.columns.accounts[leg.account]
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        if account.hedge and leg.attributed < 0:
            ai.unattributed_short += leg.attributed
        else:
            ai.unattributed += leg.attributed
        if instrument.mark > 0:
            plan.realised_e8 += _unrealised(instrument, leg, instrument.mark)
        account.margin_e8 -= leg.margin_e8
        leg.attributed = 0
        leg.cost_e8 = 0
        leg.margin_e8 = 0
        leg.dust_q32 = 0
        leg.target = 0
        leg.pending = 0
        leg.deferred = 0
        leg.anchor_target = 0
        leg.missed = 0
        leg.replan = 0
        leg.retry_ts = 0

    cdef int _open_trades(self, Plan* plan, Leg* leg) noexcept nogil:
        cdef uint32_t at = plan.first_leg
        cdef Leg* other
        cdef int count = 0
        while at != NONE:
            other = &self.columns.legs[at]
            if other != leg and (other.attributed != 0 or other.open_leaves != 0 or other.deferred != 0):
                count += 1
            at = other.next_leg
        return count

    cdef void _size(self, Leg* leg, Plan* plan, Opening* opening, Size* sized) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef Account* account = &self.columns.accounts[leg.account]
        cdef int64_t slip = plan.slippage_bps if plan.slippage_bps != 0 else instrument.slippage_bps
        cdef int64_t limit_px = _limit_price(opening.px, opening.side, slip)
        cdef int64_t least = _min_lots(instrument, limit_px) if limit_px > 0 else 1
        cdef int64_t lots = opening.want >> 32
        cdef int64_t allowed, window_end
        cdef int raised = 0
        cdef int too_small = 0
        cdef int reason, refusal
        memset(sized, 0, sizeof(Size))
        sized.limit_px = limit_px
        if less(opening.want, shl32(least)):
            if (plan.min_policy == MIN_RAISE
                    and not less(wide(opening.want, plan.raise_max_ppm), wide3(shl32(least), PPM))):
                lots = least
                raised = 1
            elif plan.min_policy != MIN_CARRY and lots > 0:
                too_small = 1  # refused, but the minimum is the last rule: another that binds names the decision
            else:
                refusal = self._market_refusal(leg, plan, opening, limit_px) if lots != 0 else OK
                if refusal != OK:
                    sized.reason = refusal
                    sized.refused = 1
                    return
                sized.reason = BELOW_MINIMUM if lots != 0 else OK
                return
        allowed = self._apply_caps(leg, plan, opening, lots, &reason)
        if allowed < lots:
            lots = allowed
            raised = 0
            if lots < least:
                sized.reason = reason
                sized.refused = 1
                return
        refusal = self._market_refusal(leg, plan, opening, limit_px)
        if refusal != OK:
            sized.reason = refusal
            sized.refused = 1
            return
        window_end = account.ts_window + self.params.order_window
        if (account.ts_window <= opening.now < window_end
                and account.orders_in_window >= self.params.orders_per_window):
            if window_end - opening.ts_event > opening.age_max:
                sized.reason = RATE_LIMITED
                sized.refused = 1
                return
            if not too_small:
                sized.reason = RATE_LIMITED
                sized.defer_until = window_end
                return
        if too_small:
            sized.reason = BELOW_MINIMUM
            sized.refused = 1
            return
        sized.lots = lots
        sized.reason = reason
        sized.raised = raised

    cdef int64_t _apply_caps(self, Leg* leg, Plan* plan, Opening* opening, int64_t lots, int* reason) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef Account* account = &self.columns.accounts[leg.account]
        cdef AccountInstrument* ai = self._account_instrument(leg)
        cdef int64_t px = opening.px
        cdef int64_t held = _abs(leg.attributed)
        cdef int64_t value, affordable
        cdef int64_t symbol = 0
        cdef int64_t total = 0
        reason[0] = OK
        self._plan_notional(plan, leg, px, &symbol, &total)
        if plan.leverage_max != 0:
            value = clamp(wide(plan.allocation_e8, plan.leverage_max)) - total
            lots = _cut(lots, _lots_for(instrument, value, px), LEVERAGE_ABOVE_MAX, reason)
        if plan.require_stop and plan.assumed_stop_bps == 0:
            lots = _cut(lots, 0, NO_STOP, reason)
        if plan.max_loss_bps != 0 and plan.assumed_stop_bps != 0:
            value = clamp(quotient(wide(plan.allocation_e8, plan.max_loss_bps), plan.assumed_stop_bps))
            lots = _cut(lots, _lots_for(instrument, value, px) - held, MAX_LOSS_PER_TRADE, reason)
        if plan.max_position_bps != 0:
            value = clamp(quotient(
                wide3(wide(plan.allocation_e8, plan.max_position_bps), _leverage_of(instrument, ai.leverage)), BPS))
            lots = _cut(lots, _lots_for(instrument, value, px) - held, MAX_POSITION, reason)
        if plan.max_notional_symbol_e8 != 0:
            value = plan.max_notional_symbol_e8 - symbol
            lots = _cut(lots, _lots_for(instrument, value, px), MAX_NOTIONAL_SYMBOL, reason)
        if plan.max_notional_total_e8 != 0:
            value = plan.max_notional_total_e8 - total
            lots = _cut(lots, _lots_for(instrument, value, px), MAX_NOTIONAL_TOTAL, reason)
        affordable = _lots_for(instrument, self._feasible_notional(leg, plan, account, ai), px)
        if plan.on_insufficient == INSUFFICIENT_SKIP and affordable < lots:
            affordable = 0
        return _cut(lots, affordable, INSUFFICIENT_MARGIN, reason)

    cdef void _plan_notional(self, Plan* plan, Leg* leg, int64_t px, int64_t* symbol, int64_t* total) noexcept nogil:
        cdef uint32_t at = plan.first_leg
        cdef Leg* other
        cdef Instrument* instrument
        cdef int64_t value
        while at != NONE:
            other = &self.columns.legs[at]
            instrument = &self.columns.instruments[other.instrument]
            value = _notional(
                instrument, _abs(other.attributed) + other.open_leaves,
                px if other.instrument == leg.instrument else instrument.mark)
            total[0] += value
            if other.instrument == leg.instrument:
                symbol[0] += value
            at = other.next_leg

    cdef int64_t _feasible_notional(
            self, Leg* leg, Plan* plan, Account* account, AccountInstrument* ai) noexcept nogil:
        cdef int64_t available = account.balance_e8 - account.margin_e8 - account.reserved_e8
        if available <= 0:
            return 0
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef int64_t slip = plan.slippage_bps if plan.slippage_bps != 0 else instrument.slippage_bps
        cdef int64_t leverage = _leverage_of(instrument, ai.leverage)
        cdef int64_t rest = BPS - slip
        cdef int64_t under = rest * PPM + slip * leverage * PPM + instrument.taker_fee_ppm * leverage * rest
        return clamp(quotient(wide3(wide(available, leverage), rest * PPM), under))

    cdef int _market_refusal(self, Leg* leg, Plan* plan, Opening* opening, int64_t limit_px) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef int64_t touch = instrument.ask if opening.side > 0 else instrument.bid
        cdef int64_t slip_mid = plan.slippage_mid_bps if plan.slippage_mid_bps != 0 else instrument.slippage_bps
        if _sign(touch - limit_px) == opening.side:
            return SLIPPAGE_LEADER
        if less(wide(slip_mid, instrument.ask + instrument.bid), wide(instrument.ask - instrument.bid, BPS)):
            return SLIPPAGE_MID
        return OK

    # -- order ----------------------------------------------------------------------------------------------------

    cdef uint32_t _make_order(
            self, uint32_t leg_index, Cause* cause, int part, int kind, int side, int64_t lots, int64_t limit_px,
            int64_t ref_px) except? 0xFFFFFFFE nogil:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef Account* account = &self.columns.accounts[leg.account]
        cdef uint8_t message[40]
        cdef uint8_t digest[16]
        cdef uint8_t cid[16]
        cdef uint32_t slot
        memset(message, 0, 40)
        memcpy(message, cause.cause, 16)
        memcpy(message + 16, &cause.aux, 8)
        memcpy(message + 24, &leg.account, 4)
        memcpy(message + 28, &leg.plan, 4)
        memcpy(message + 32, &leg.instrument, 2)
        message[34] = leg.side
        message[35] = part
        message[36] = leg.attempt
        siphash128(self.params.key, message, 40, digest)
        cid[0] = self.params.site >> 8
        cid[1] = self.params.site & 0xFF
        cid[2] = (self.params.epoch >> 16) & 0xFF
        cid[3] = (self.params.epoch >> 8) & 0xFF
        cid[4] = self.params.epoch & 0xFF
        memcpy(cid + 5, digest, 11)
        slot = self.columns.new_order(cid)
        cdef Order* order = &self.columns.orders[slot]
        order.order_qty = lots
        order.limit_px = limit_px
        order.ref_px = ref_px
        order.ts_event = cause.ts_event
        order.ts_decided = cause.now
        order.seq = cause.seq
        order.leg = leg_index
        order.account = leg.account
        order.plan = leg.plan
        order.instrument = leg.instrument
        order.side = side
        order.kind = kind
        order.state = S_PENDING_NEW
        order.attempt = leg.attempt
        if account.hedge and not self.columns.instruments[leg.instrument].spot:
            order.position_side = 1 if (side > 0) == (kind == OPENING) else 2
        if cause.now >= account.ts_window + self.params.order_window or cause.now < account.ts_window:
            account.ts_window = cause.now
            account.orders_in_window = 0
        account.orders_in_window += 1
        return slot

    cdef int _make_opening(
            self, uint32_t leg_index, Cause* cause, int side, int64_t lots, int64_t limit_px, int64_t ref_px) except -1 nogil:
        cdef uint32_t slot = self._make_order(leg_index, cause, PART_OPENING, OPENING, side, lots, limit_px, ref_px)
        cdef Order* order = &self.columns.orders[slot]
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef Account* account = &self.columns.accounts[leg.account]
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        cdef int64_t leverage = _leverage_of(instrument, self._account_instrument(leg).leverage)
        cdef int64_t value
        order.replanned = leg.replan
        leg.replan = 0
        leg.open_slot = slot
        leg.open_leaves = lots
        leg.pending = side * (lots << 32)
        value = _notional(instrument, lots, limit_px)
        order.reserve_e8 = narrow(quotient(<i128>value + leverage - 1, leverage))
        account.reserved_e8 += order.reserve_e8
        (<uint32_t*>_push(&self._openings))[0] = slot
        return 0

    cdef int64_t _reducible(self, Leg* leg) noexcept nogil:
        cdef int64_t held = leg.attributed
        cdef int64_t wanted = leg.target - leg.pending - leg.deferred
        cdef int64_t lots
        wanted = _abs(wanted) if _sign(wanted) == _sign(held) and _sign(held) != -_sign(leg.deferred) else 0
        lots = (((_abs(held) << 32) + leg.dust_q32 - wanted) >> 32) - leg.reduce_leaves
        return lots if lots > 0 else 0

    cdef int64_t _room_of(self, Leg* leg) noexcept nogil:
        cdef int64_t room
        if self.columns.instruments[leg.instrument].spot or self.columns.accounts[leg.account].hedge:
            return _abs(leg.attributed)
        room = self._account_instrument(leg).net * _sign(leg.attributed) - leg.reduce_leaves
        return room if room > 0 else 0

    cdef int64_t _due(self, Leg* leg) noexcept nogil:
        cdef int64_t lots = self._reducible(leg)
        return _tradable(&self.columns.instruments[leg.instrument], leg, lots, self._room_of(leg)) if lots > 0 else 0

    cdef int64_t _plan_reduction(self, uint32_t leg_index, Cause* cause) except -1 nogil:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef int64_t total = self._due(leg)
        cdef int64_t left, room, lots
        cdef int direction, plain, reduce_only
        cdef int part = PART_REDUCTION
        cdef uint32_t slot
        cdef Instrument* instrument = &self.columns.instruments[leg.instrument]
        if total == 0:
            return 0
        left = total
        room = self._room_of(leg)
        direction = _sign(leg.attributed)
        plain = instrument.spot or self.columns.accounts[leg.account].hedge
        while left > 0 and part < PART_REDUCTION + REDUCTIONS_MAX:
            lots = min(left, instrument.lot_max_market)
            reduce_only = 0
            if not plain and room > 0:
                lots = min(lots, room)
                reduce_only = 1
            slot = self._make_order(leg_index, cause, part, REDUCTION, -direction, lots, 0, 0)
            self.columns.orders[slot].reduce_only = reduce_only
            leg.reduce_leaves += lots
            (<uint32_t*>_push(&self._reductions))[0] = slot
            if reduce_only:
                room -= lots
            left -= lots
            part += 1
        return total - left

    # -- position -------------------------------------------------------------------------------------------------

    cdef int _decide(self, uint32_t leg_index, FillEvent* event) except -1 nogil:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef Decision decision
        cdef Cause cause
        memset(&decision, 0, sizeof(Decision))
        decision.plan = leg.plan
        decision.leg = leg_index
        decision.k = leg.k
        memcpy(cause.cause, event.cause, 16)
        cause.aux = 0
        cause.seq = event.seq
        cause.now = event.now
        cause.ts_event = event.ts_event
        if event.reduce_qty != 0:
            self._reduce_target(leg, event)
            decision.reduce_lots = self._plan_reduction(leg_index, &cause)
            if decision.reduce_lots != 0:
                decision.reduce = P_ORDER
            elif leg.attributed != 0 and leg.reduce_leaves == 0:
                decision.reduce = P_ROUNDED
            if event.qty_mid == 0:
                leg.detached = 0
                self._leave_dust(leg_index, leg, NULL, 0)
        if event.open_qty != 0:
            self._decide_opening(leg_index, event, &cause, &decision)
            if event.live and decision.reason != PRICE_OUTLIER and decision.reason != NO_SHORT:
                _book_missed(leg, decision.forgone)
        decision.target = leg.target
        memcpy(_push(&self._decisions), &decision, sizeof(Decision))
        return 0

    cdef int _decide_opening(self, uint32_t leg_index, FillEvent* event, Cause* cause, Decision* decision) except -1 nogil:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef Plan* plan = &self.columns.plans[leg.plan]
        cdef int no_ratio = OK
        cdef int refusal
        cdef int64_t k = self._ratio(leg, plan, event, &no_ratio)
        cdef i128 wide_delta = wide(k, event.open_qty)
        cdef int64_t delta
        cdef Opening opening
        cdef Size sized
        opening.side = event.open_side
        opening.want = 0
        opening.px = event.px
        opening.ts_event = event.ts_event
        opening.age_max = self.params.max_event_age
        opening.live = event.live
        if leg.deferred == 0:
            leg.replan = 0
        opening.now = event.now
        refusal = self._gate(leg, plan, &opening)
        if refusal == OK:
            refusal = no_ratio
        if less(TARGET_MAX, wide_delta):
            # Far beyond what a leg may hold: the decision records the bound itself.
            delta = event.open_side * TARGET_MAX
            if refusal == OK:
                refusal = ABOVE_MAXIMUM
        else:
            delta = event.open_side * narrow(wide_delta)
        decision.k = k
        decision.delta = delta
        if refusal == OK and _abs(leg.target + delta) > TARGET_MAX:
            refusal = ABOVE_MAXIMUM
        if refusal != OK:
            _refuse(decision, refusal, delta)
        elif leg.open_slot != NONE or leg.deferred != 0 or _close_unsettled(leg, event.open_side):
            leg.target += delta
            self._defer(leg, delta, event.px, event.ts_event)
            decision.open = P_DEFERRED
        else:
            opening.want = self._wanted(leg, event.open_side, delta)
            self._size(leg, plan, &opening, &sized)
            self._settle_size(leg_index, &opening, &sized, delta, cause, decision)
        if decision.open != P_FORGONE:
            leg.k = k
            leg.k_order = event.order_id
        self._set_anchor(leg, event.qty_after)
        return 0

    cdef int64_t _wanted(self, Leg* leg, int side, int64_t delta) noexcept nogil:
        cdef int64_t kept = _abs(leg.attributed) - leg.reduce_leaves
        cdef int64_t holding = side * (((kept << 32) if kept > 0 else 0) + <int64_t>leg.dust_q32)
        cdef int64_t want = side * (leg.target + delta - holding)
        return want if want > 0 else 0

    cdef int _settle_size(
            self, uint32_t leg_index, Opening* opening, Size* sized, int64_t delta, Cause* cause,
            Decision* decision) except -1 nogil:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef int side = opening.side
        cdef int64_t lots = sized.lots
        cdef int64_t raised, cut, lot_max
        if sized.refused:
            _refuse(decision, sized.reason, delta)
            return 0
        leg.target += delta
        if sized.defer_until != 0:
            self._defer(leg, side * opening.want, opening.px, opening.ts_event)
            decision.open = P_DEFERRED
            decision.reason = sized.reason
            return 0
        if lots == 0:
            decision.open = P_CARRIED if sized.reason != OK else P_ROUNDED
            decision.reason = sized.reason
            return 0
        if sized.raised:
            raised = (lots << 32) - opening.want
            leg.target += side * raised
            decision.forgone = -side * raised
            decision.reason = BELOW_MINIMUM
        elif lots < opening.want >> 32:
            cut = ((opening.want >> 32) - lots) << 32
            leg.target -= side * cut
            decision.forgone = side * cut
            decision.reason = sized.reason
        lot_max = self.columns.instruments[leg.instrument].lot_max
        if lots > lot_max:
            self._defer(leg, side * ((lots - lot_max) << 32), opening.px, opening.ts_event)
            lots = lot_max
        decision.open = P_ORDER
        decision.open_lots = lots
        self._make_opening(leg_index, cause, side, lots, sized.limit_px, opening.px)
        return 0

    cdef int _release(self, uint32_t leg_index, Cause* cause) except -1:
        cdef Leg* leg = &self.columns.legs[leg_index]
        cdef Plan* plan
        cdef Opening opening
        cdef Size sized
        cdef Decision decision
        cdef Cause waiting
        cdef int64_t delta = leg.deferred
        cdef int64_t target
        cdef int side, refusal, replan
        if delta == 0 or leg.open_slot != NONE:
            return 0
        side = _sign(delta)
        if _close_unsettled(leg, side):
            return 0
        plan = &self.columns.plans[leg.plan]
        opening.side = side
        opening.want = 0
        opening.px = leg.deferred_px_q16 >> 16
        opening.ts_event = leg.deferred_ts
        opening.age_max = self.params.replan_max_age if leg.replan else self.params.max_event_age
        opening.live = 1
        opening.now = cause.now
        replan = leg.replan
        target = leg.target
        leg.target -= delta
        leg.deferred = 0
        memset(&decision, 0, sizeof(Decision))
        decision.plan = leg.plan
        decision.leg = leg_index
        decision.k = leg.k
        decision.delta = delta
        decision.release = 1
        refusal = self._gate(leg, plan, &opening)
        if refusal != OK:
            _refuse(&decision, refusal, delta)
        else:
            opening.want = self._wanted(leg, side, delta)
            waiting = cause[0]
            waiting.ts_event = opening.ts_event
            self._size(leg, plan, &opening, &sized)
            self._settle_size(leg_index, &opening, &sized, delta, &waiting, &decision)
        if decision.open == P_FORGONE and replan:
            decision.reason = STALE_EVENT
        if decision.open != P_DEFERRED:
            leg.replan = 0
        _book_missed(leg, decision.forgone)
        if leg.target != target:
            self._set_anchor(leg, self.columns.positions[leg.leader_position].qty)
        decision.target = leg.target
        memcpy(_push(&self._decisions), &decision, sizeof(Decision))
        return 1

    # -- fill -----------------------------------------------------------------------------------------------------

    cdef int _book_report(self, Report* report, int64_t now, int64_t seq) except -1:
        cdef uint32_t slot
        cdef Order* order
        cdef Leg* leg
        cdef Touched* touched
        cdef int was_terminal, ended
        cdef int64_t filled, hole
        cdef int64_t kept_back = 0
        if report.kind == R_BALANCE:
            if report.account >= self.columns.counts[4]:
                raise BrokenInvariant(f"balance of account {report.account}, which is not in the tables")
            self.columns.accounts[report.account].balance_e8 = report.cost_e8
            return 0
        slot = self.columns.find_order(report.cid)
        if slot == NONE:
            return self._end(report.cid, 0, NONE, report.code, OK, UNKNOWN_ORDER)
        order = &self.columns.orders[slot]
        if report.venue_order_id != 0:
            order.venue_order_id = report.venue_order_id
        if report.kind == R_TRADE and self.columns.book_trade(slot, report.trade_id):
            order.exec_qty += report.last_qty
            order.exec_cost_e8 += _notional(
                &self.columns.instruments[order.instrument], report.last_qty, report.last_px)
            if not report.fee_base:
                order.fee_e8 += report.fee_e8
                self.columns.plans[order.plan].commission_e8 += report.fee_e8
            elif order.side > 0:
                kept_back = max(0, min(report.fee_e8, order.order_qty << 32))
        was_terminal = _is_terminal(order.state)
        hole = _lacking(&self.columns.legs[order.leg])
        filled = self._book_quantity(order, report, now)
        if filled == 0:
            self._correct_value(order, report)
        if kept_back != 0:
            self._take_base_fee(order, report, kept_back, now)
        if filled != 0 and order.kind == REDUCTION:
            self._forgo_hole(order, hole)
        if filled != 0 and was_terminal:
            self._end(order.cid, 0, order.leg, report.code, OK, LATE_FILL)
        ended = 0
        if not was_terminal:
            ended = self._advance(slot, report, now)
        if filled != 0 or ended:
            leg = &self.columns.legs[order.leg]
            if not leg.touched:
                leg.touched = 1
                touched = <Touched*>_push(&self._touched)
                touched.leg = order.leg
                memcpy(touched.cause.cause, order.cid, 16)
                touched.cause.aux = (report.cum_qty << 8) | (<int64_t>(ended != 0) << 7) | report.kind
                touched.cause.seq = seq
                touched.cause.now = now
                touched.cause.ts_event = order.ts_event
        return 0

    cdef void _take_base_fee(self, Order* order, Report* report, int64_t fee_q32, int64_t now) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[order.instrument]
        cdef Leg* leg = &self.columns.legs[order.leg]
        cdef AccountInstrument* ai = self._account_instrument(leg)
        cdef Plan* plan = &self.columns.plans[order.plan]
        cdef int64_t px = report.last_px
        cdef int64_t value, real, taken, lots, share
        if px == 0:
            px = order.limit_px if order.limit_px != 0 else instrument.mark
        value = _fee_value(instrument, fee_q32, px)
        order.fee_e8 += value
        plan.commission_e8 += value
        real = ((leg.attributed << 32) if leg.attributed > 0 else 0) + <int64_t>leg.dust_q32
        taken = min(fee_q32, real)
        if taken == 0:
            return
        lots = leg.attributed - ((real - taken) >> 32)
        leg.attributed -= lots
        leg.dust_q32 = <uint32_t>(real - taken)
        leg.cost_e8 = max(0, leg.cost_e8 - value)
        share = min(taken, leg.target - leg.pending - leg.deferred - 1)
        leg.target -= share if share > 0 else 0
        self._set_anchor(leg, self.columns.positions[leg.leader_position].qty)
        ai.net -= lots
        ai.ts_active = now

    cdef int _leave_dust(self, uint32_t leg_index, Leg* leg, const uint8_t* cid, int32_t code) except -1 nogil:
        cdef uint8_t[16] nobody
        if leg.dust_q32 == 0 or leg.attributed != 0 or leg.target != 0 or leg.open_slot != NONE:
            return 0
        leg.dust_q32 = 0
        memset(nobody, 0, 16)
        return self._end(cid if cid != NULL else nobody, 0, leg_index, code, OK, DUST)

    cdef int _forgo_hole(self, Order* order, int64_t before) except -1:
        cdef uint8_t[16] nobody
        cdef Leg* leg = &self.columns.legs[order.leg]
        cdef int64_t hole = _lacking(leg)
        if before < 0:
            before = 0
        if hole < (<int64_t>1 << 32) or hole <= before:
            return 0
        hole = _sign(leg.target) * (hole - before)
        leg.target -= hole
        self._set_anchor(leg, self.columns.positions[leg.leader_position].qty)
        memset(nobody, 0, 16)
        return self._end(nobody, hole, order.leg, 0, LEG_DETACHED, N_NONE)

    cdef int64_t _fill_value(self, Order* order, Report* report, int64_t filled) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[order.instrument]
        if _tells_value(order, report, filled):
            return report.cost_e8 - order.cost_e8
        if report.last_px != 0:
            return _notional(instrument, filled, report.last_px)
        return _notional(instrument, filled, order.limit_px if order.limit_px != 0 else instrument.mark)

    cdef void _correct_value(self, Order* order, Report* report) noexcept nogil:
        cdef Leg* leg = &self.columns.legs[order.leg]
        cdef Plan* plan = &self.columns.plans[order.plan]
        cdef int64_t difference
        cdef int64_t kept = 0
        cdef int64_t told = 0
        if report.kind == R_TRADE and order.exec_qty == order.cum_qty:
            told = order.exec_cost_e8
        elif report.kind != R_TRADE and report.cum_qty == order.cum_qty and order.estimated:
            told = report.cost_e8
        if told <= 0:
            return
        difference = told - order.cost_e8
        order.cost_e8 = told
        order.estimated = 0
        if order.kind == OPENING and _sign(leg.attributed) == order.side:
            kept = mul_div_trunc(difference, min(_abs(leg.attributed), order.cum_qty), order.cum_qty)
        leg.cost_e8 += kept
        plan.realised_e8 -= order.side * (difference - kept)

    cdef int64_t _book_quantity(self, Order* order, Report* report, int64_t now) noexcept nogil:
        cdef int64_t filled = min(report.cum_qty, order.order_qty) - order.cum_qty
        cdef int64_t leaves, value, held, share, freed, margin, gone, gone_value, cost
        cdef int64_t beyond = 0
        cdef bint spot
        cdef Plan* plan
        cdef Leg* leg
        cdef Account* account
        cdef AccountInstrument* ai
        if filled <= 0:
            return 0
        leaves = order.order_qty - order.cum_qty
        value = self._fill_value(order, report, filled)
        if (not (report.last_px > 0 and (report.kind != R_TRADE or filled <= report.last_qty))
                and not _tells_value(order, report, filled)):
            order.estimated = 1
        order.cum_qty += filled
        order.cost_e8 += value
        leg = &self.columns.legs[order.leg]
        account = &self.columns.accounts[order.account]
        ai = self._account_instrument(leg)
        ai.ts_active = now
        held = _abs(leg.attributed)
        gone = min(filled, held) if _sign(leg.attributed) == -order.side else 0
        gone_value = mul_div_trunc(value, gone, filled)
        cost = mul_div_trunc(leg.cost_e8, gone, held) if held != 0 else 0
        margin = mul_div_trunc(leg.margin_e8, gone, held) if held != 0 else 0
        leg.cost_e8 -= cost
        leg.margin_e8 -= margin
        account.margin_e8 -= margin
        plan = &self.columns.plans[order.plan]
        plan.realised_e8 -= order.side * (gone_value - cost)
        spot = self.columns.instruments[order.instrument].spot
        if spot:
            account.balance_e8 -= order.side * value
        if order.kind == OPENING:
            if gone == held:
                leg.ts_open = min(order.ts_decided, now)
            if not _is_terminal(order.state):
                share = leg.pending if filled == leaves else mul_div_trunc(leg.pending, filled, leaves)
                leg.pending -= share
                leg.open_leaves -= filled
                freed = mul_div_trunc(order.reserve_e8, filled, leaves)
                order.reserve_e8 -= freed
                account.reserved_e8 -= freed
            margin = 0 if spot else narrow(quotient(value - gone_value, ai.leverage if ai.leverage > 1 else 1))
            leg.cost_e8 += value - gone_value
            leg.margin_e8 += margin
            account.margin_e8 += margin
        else:
            if not _is_terminal(order.state):
                leg.reduce_leaves -= filled
            beyond = order.side * (filled - gone)
        leg.attributed += order.side * filled - beyond
        if _on_short_side(order, account):
            ai.net_short += order.side * filled
            ai.unattributed_short += beyond
        else:
            ai.net += order.side * filled
            ai.unattributed += beyond
        return filled

    cdef int _advance(self, uint32_t slot, Report* report, int64_t now) except -1:
        cdef Order* order = &self.columns.orders[slot]
        if report.code != 0:
            order.code = report.code
        if report.kind == R_IN_DOUBT:
            if order.state == S_PENDING_NEW:
                order.state = S_IN_DOUBT
            return 0
        if report.kind == R_HELD:
            if order.state != S_HELD:
                self._end(order.cid, 0, order.leg, report.code, OK, N_HELD)
            order.state = S_HELD
            return 0
        if order.cum_qty == order.order_qty:
            order.state = S_FILLED
        elif report.kind == R_DEAD:
            if order.cum_qty != 0:
                self._end(order.cid, 0, order.leg, report.code, OK, DEAD_BUT_FILLED)
            # What was seen alive or has filled was an order: it has ended, and is not planned as if it never was.
            if (order.cum_qty != 0 or order.venue_order_id != 0 or order.state == S_NEW
                    or order.state == S_PARTIALLY_FILLED):
                order.state = S_EXPIRED
            else:
                order.state = S_DEAD
        elif report.kind == R_REJECT or report.kind == R_NOT_SENT:
            order.state = S_EXPIRED if order.cum_qty != 0 else S_REJECTED
        elif report.status == S_CANCELED or report.status == S_EXPIRED or report.status == S_REJECTED:
            order.state = report.status
        elif report.status == S_FILLED:
            order.state = S_EXPIRED  # filled of less than was asked: the venue had less to close
        else:
            order.state = S_PARTIALLY_FILLED if order.cum_qty != 0 else S_NEW
            return 0
        if order.kind == OPENING:
            self._end_opening(slot, report, now)
        else:
            self._end_reduction(slot, report, now)
        return 1

    cdef int _end_opening(self, uint32_t slot, Report* report, int64_t now) except -1:
        cdef Order* order = &self.columns.orders[slot]
        cdef Leg* leg = &self.columns.legs[order.leg]
        cdef int64_t rest
        cdef int never_was, reason, waiting
        self.columns.accounts[order.account].reserved_e8 -= order.reserve_e8
        order.reserve_e8 = 0
        if leg.open_slot != slot:
            return 0
        rest = leg.pending
        leg.pending = 0
        leg.open_leaves = 0
        leg.open_slot = NONE
        if rest == 0:
            return 0
        never_was = order.state == S_DEAD or report.kind == R_NOT_SENT
        waiting = _sign(leg.deferred)
        if (never_was and now - order.ts_event <= self.params.replan_max_age and not order.replanned
                and (waiting == 0 or waiting == _sign(rest))):
            self._defer(leg, rest, order.ref_px, order.ts_event)
            leg.replan = 1
            leg.attempt += 1
            return self._end(order.cid, 0, order.leg, report.code, OK, REPLANNED)
        leg.target -= rest
        _book_missed(leg, rest)
        self._set_anchor(leg, self.columns.positions[leg.leader_position].qty)
        if order.state == S_REJECTED and order.code == POSITION_SIDE_REJECTED:
            (<uint32_t*>_push(&self._suspects))[0] = slot
        if never_was:
            reason = STALE_EVENT
        elif order.state == S_REJECTED:
            reason = _reject_reason(order.code)
        else:
            reason = SLIPPAGE
        return self._end(order.cid, rest, order.leg, report.code, reason, N_NONE)

    cdef bint _is_dust(self, Leg* leg, Order* order, int64_t rest) noexcept nogil:
        cdef Instrument* instrument = &self.columns.instruments[order.instrument]
        cdef int64_t value
        cdef bint few = rest < instrument.lot_min
        cdef bint too_small = (
            order.code == MIN_NOTIONAL_REJECTED or ((few or instrument.spot) and order.code == FILTER_REJECTED))
        if (order.state != S_REJECTED or not too_small
                or leg.target != 0 or leg.reduce_leaves != 0 or _abs(leg.attributed) != rest or leg.open_slot != NONE):
            return False
        if few:
            return True
        if order.reduce_only or order.position_side:
            return False
        value = _notional(instrument, rest, instrument.mark)
        return 0 < value < instrument.min_notional_e8

    cdef int _end_reduction(self, uint32_t slot, Report* report, int64_t now) except -1:
        cdef Order* order = &self.columns.orders[slot]
        cdef Leg* leg = &self.columns.legs[order.leg]
        cdef int64_t rest = order.order_qty - order.cum_qty
        cdef int64_t wait
        leg.reduce_leaves -= rest
        self._leave_dust(order.leg, leg, order.cid, order.code)
        if rest == 0:
            leg.retries = 0
            leg.retry_ts = 0
            return 0
        leg.attempt += 1
        wait = self.params.retry_min << min(leg.retries, 16)
        if wait > self.params.retry_max:
            wait = self.params.retry_max
        leg.retry_ts = now + wait
        if leg.retries < 16:
            leg.retries += 1
        if self._is_dust(leg, order, rest):
            self._give_back(&self.columns.plans[order.plan], leg)
            leg.retries = 0
            return self._end(order.cid, 0, order.leg, order.code, OK, DUST)
        if ((order.code == REDUCE_ONLY_REJECTED or order.code == POSITION_SIDE_REJECTED
                or order.code == NO_BALANCE_REJECTED and self.columns.instruments[order.instrument].spot)
                and order.state != S_DEAD and report.kind != R_NOT_SENT):
            (<uint32_t*>_push(&self._suspects))[0] = slot
        return self._end(order.cid, 0, order.leg, report.code, OK, REDUCTION_RETRY)


cdef inline bint _tells_value(Order* order, Report* report, int64_t filled) noexcept nogil:
    return (report.cost_e8 > order.cost_e8
            and not (report.kind == R_TRADE and report.last_px > 0 and filled <= report.last_qty))


cdef inline int64_t _moved(int64_t peak, int64_t before, int64_t amount_e8, bint taken) noexcept nogil:
    cdef int64_t after = before + amount_e8
    if before <= 0 or after <= 0:
        return peak
    if taken and amount_e8 > 0 and peak <= after:
        return after
    return mul_div_trunc(peak, after, before)


cdef inline int64_t _standing(Leader* leader) noexcept nogil:
    return leader.equity_e8 if leader.equity_e8 > leader.equity_before_e8 else leader.equity_before_e8


cdef inline int64_t _allocation_equity(Plan* plan, int64_t profit_e8) noexcept nogil:
    return plan.allocation_e8 + profit_e8 - plan.paid_e8


cdef inline int64_t _unrealised(Instrument* instrument, Leg* leg, int64_t mark) noexcept nogil:
    return _sign(leg.attributed) * (_notional(instrument, _abs(leg.attributed), mark) - leg.cost_e8)


cdef inline bint _close_unsettled(Leg* leg, int side) noexcept nogil:
    return _sign(leg.attributed) == -side or leg.reduce_leaves != 0


cdef inline bint _is_outlier(Instrument* instrument, int64_t px) noexcept nogil:
    cdef int64_t middle_twice = instrument.bid + instrument.ask
    return less(wide(PRICE_BAND_BPS, middle_twice), wide(_abs(2 * px - middle_twice), BPS))


cdef inline int64_t _lacking(Leg* leg) noexcept nogil:
    return _sign(leg.target) * (leg.target - leg.pending - leg.deferred - (leg.attributed << 32) - <int64_t>leg.dust_q32)


cdef inline int64_t _least_reduction(Instrument* instrument) noexcept nogil:
    if instrument.spot and instrument.mark > 0:
        return _min_lots(instrument, instrument.mark)
    return instrument.lot_min if instrument.lot_min > 1 else 1


cdef inline int64_t _tradable(Instrument* instrument, Leg* leg, int64_t lots, int64_t room) noexcept nogil:
    cdef int64_t least = _least_reduction(instrument)
    cdef int64_t kept = _abs(leg.attributed) - leg.reduce_leaves - lots
    cdef int64_t value
    if kept <= 0:
        return 0 if lots < least and (leg.reduce_leaves != 0 or _sign(leg.target) == _sign(leg.attributed)) else lots
    if kept < least:
        lots -= least - kept
    if lots > room:
        value = _notional(instrument, lots - room, instrument.mark)
        if 0 < value < instrument.min_notional_e8:
            lots = room
    return lots if lots >= least else 0


cdef inline void _set_off(Leg* leg) noexcept nogil:
    cdef int side = _sign(leg.deferred)
    cdef int64_t wanted, over, waits
    if side == 0 or _sign(leg.attributed) != side:
        return
    wanted = side * (leg.target - leg.pending - leg.deferred)
    over = ((_abs(leg.attributed) - leg.reduce_leaves) << 32) - (wanted if wanted > 0 else 0)
    if over <= 0:
        return
    waits = _abs(leg.deferred)
    leg.deferred -= side * (over if over < waits else waits)
    if leg.deferred == 0:
        leg.replan = 0


cdef inline void _book_missed(Leg* leg, int64_t forgone) noexcept nogil:
    cdef int64_t missed = leg.missed + forgone  # both within 2**61
    leg.missed = max(-TARGET_MAX, min(TARGET_MAX, missed))


cdef inline bint _on_short_side(Order* order, Account* account) noexcept nogil:
    if not account.hedge or order.position_side != 0:
        return account.hedge and order.position_side == 2
    return (order.side < 0) == (order.kind == OPENING)


cdef inline int _is_terminal(int state) noexcept nogil:
    return (state == S_FILLED or state == S_CANCELED or state == S_EXPIRED or state == S_REJECTED
            or state == S_DEAD)


cdef inline int _reject_reason(int code) noexcept nogil:
    if code == NO_BALANCE_REJECTED:
        return INSUFFICIENT_MARGIN
    if code == -1015 or code == -1003:
        return RATE_LIMITED
    return VENUE_REJECTED


cdef inline int64_t _cut(int64_t lots, int64_t cap, int name, int* reason) noexcept nogil:
    if cap >= lots:
        return lots
    if reason[0] == OK:
        reason[0] = name
    return cap if cap > 0 else 0


cdef inline void _refuse(Decision* decision, int reason, int64_t delta) noexcept nogil:
    decision.open = P_FORGONE
    decision.reason = reason
    decision.forgone = delta


cdef int _compare_drift(const void* left, const void* right) noexcept nogil:
    """The largest value first, then the lower leg."""
    cdef const Drift* a = <const Drift*>left
    cdef const Drift* b = <const Drift*>right
    if a.money_e8 != b.money_e8:
        return -1 if a.money_e8 > b.money_e8 else 1
    return -1 if a.leg < b.leg else 1


cdef void _sort_ranked(Ranked* rows, Ranked* spare, uint32_t n) noexcept nogil:
    """By rank, equal ones as they were: one pass per byte in which ranks differ. ``spare`` has room for as many."""
    cdef uint32_t[256] starts
    cdef Ranked* source = rows
    cdef Ranked* target = spare
    cdef Ranked* swap
    cdef uint32_t i, total, count
    cdef int shift, byte
    for shift in range(0, 64, 8):
        memset(starts, 0, sizeof(starts))
        for i in range(n):
            starts[(source[i].rank >> shift) & 255] += 1
        if starts[(source[0].rank >> shift) & 255] == n:
            continue
        total = 0
        for byte in range(256):
            count = starts[byte]
            starts[byte] = total
            total += count
        for i in range(n):
            byte = (source[i].rank >> shift) & 255
            target[starts[byte]] = source[i]
            starts[byte] += 1
        swap = source
        source = target
        target = swap
    if source != rows:
        memcpy(rows, source, n * sizeof(Ranked))


def client_order_id_digest(bytes key, bytes message):
    """SipHash-2-4-128 of ``message`` (a multiple of 8 bytes) under a 16-byte key; for the comparison with the twin."""
    if len(key) != 16 or len(message) % 8:
        raise ValueError("key 16 bytes, message a multiple of 8 bytes")
    cdef uint8_t digest[16]
    siphash128(
        <const uint8_t*>PyBytes_AS_STRING(key), <const uint8_t*>PyBytes_AS_STRING(message), len(message), digest)
    return PyBytes_FromStringAndSize(<char*>digest, 16)
