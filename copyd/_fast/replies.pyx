# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers.
"""What the venue says of our orders, straight into report rows: one pass over the bytes, no object on the way.

Only the shapes that come ten thousand at a time are read here: the answer to ``order.place`` with its result, the refusal
with a code that proves that there is no order, and of the followers' user streams the trade, the order update and the
account after it. The readable twin is ``gateway._on_frame`` and ``accounts._on_frame`` with ``codec``; whatever is the
least unusual (an escape, a character that is not ASCII, a field twice, a number that is no whole lot or tick, an unknown
symbol, status or account, an order that was not asked for like that) is "not mine" here and left to it, untouched. So
accepting is a promise: the frame is JSON that the twin reads, all its checks were made, and the row is the twin's.
"""

from array import array

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from copyd._fast.columns cimport NONE, Columns, Order, Report, ReportBatch
from copyd._fast.pending cimport Owed, Pending

cdef extern from *:
    """
    /* a * b / 10**12, rounded down, for a and b below 10**18; -1 where it does not fit 62 bits. */
    static inline long long product_e8(long long a, long long b) {
        unsigned __int128 wide = (unsigned __int128)a * (unsigned __int128)b / 1000000000000ULL;
        return wide >> 62 ? -1 : (long long)wide;
    }
    /* Bytes of x that end or spoil a plain string: quote, backslash, control, not ASCII. The lowest one is exact. */
    static inline unsigned long long odd_bytes(unsigned long long x) {
        const unsigned long long ones = 0x0101010101010101ULL, tops = 0x8080808080808080ULL;
        unsigned long long quote = x ^ (ones * 0x22), slash = x ^ (ones * 0x5c);
        return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((x - ones * 0x20) & ~x) | x) & tops;
    }
    static inline int lowest_byte(unsigned long long x) { return __builtin_ctzll(x) >> 3; }
    """
    int64_t product_e8(int64_t a, int64_t b) noexcept nogil
    uint64_t odd_bytes(uint64_t x) noexcept nogil
    int lowest_byte(uint64_t x) noexcept nogil

cdef enum:  # ReportKind
    REPLY = 1
    REJECT = 2
    IN_DOUBT = 3
    STREAM = 5
    TRADE = 6
    BALANCE = 7

cdef enum:  # what a call answers
    NOT_MINE = 0
    ROWS = 1
    SKIPPED = 2

cdef enum:
    REJECTED = 8               # OrderState of a refusal
    TERMINAL = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8
    ACCOUNTS = 4               # tables
    ORDERS = 7
    DEPTH_MAX = 6
    CONTROL_MAX = 125
    MS_NS = 1_000_000
    WALLETS_MAX = 8
    POSITIONS_MAX = 32

cdef int64_t MS_MAX = 9_000_000_000_000  # so that ns fit
#: The letters without which ``o`` is no order update, by the bits of ``read_update``.
cdef uint64_t NEEDED = (
    <uint64_t>(1 << 19 | 1 << 24) | <uint64_t>(1 << 3 | 1 << 9 | 1 << 19 | 1 << 24) << 32)  # S X, and c i s x

cdef int64_t[19] POWERS
cdef int64_t _power = 1
for _index in range(19):
    POWERS[_index] = _power
    if _index < 18:
        _power *= 10


# -- JSON, strictly --------------------------------------------------------------------------------------------------

cdef inline void spaces(const char** at, const char* end) noexcept nogil:
    while at[0] < end and (at[0][0] == b" " or at[0][0] == b"\n" or at[0][0] == b"\t" or at[0][0] == b"\r"):
        at[0] += 1


cdef inline bint char_is(const char** at, const char* end, char wanted) noexcept nogil:
    """One punctuation mark with the space around it."""
    if at[0] < end and at[0][0] == wanted:
        at[0] += 1
    else:
        spaces(at, end)
        if at[0] >= end or at[0][0] != wanted:
            return False
        at[0] += 1
    if at[0] < end and at[0][0] <= 32:
        spaces(at, end)
    return True


cdef inline bint string(const char** at, const char* end, Text* text) noexcept nogil:
    """A string of plain ASCII without escapes; its inside."""
    cdef const char* p = at[0]
    cdef uint64_t word, odd
    if p >= end or p[0] != b'"':
        return False
    p += 1
    text.at = p
    if end - p >= 2 and p[1] == b'"' and 64 <= p[0] <= 122 and p[0] != b"\\":  # most names of an event are one letter
        text.size = 1
        at[0] = p + 2
        return True
    while end - p >= 8:
        memcpy(&word, p, 8)
        odd = odd_bytes(word)
        if odd == 0:
            p += 8
            continue
        p += lowest_byte(odd)
        if p[0] != b'"':
            return False
        text.size = p - text.at
        at[0] = p + 1
        return True
    while p < end:
        if p[0] == b'"':
            text.size = p - text.at
            at[0] = p + 1
            return True
        if <uint8_t>p[0] < 32 or <uint8_t>p[0] > 126 or p[0] == b"\\":
            return False
        p += 1
    return False


cdef inline bint integer(const char** at, const char* end, int64_t* value) noexcept nogil:
    """A JSON integer of at most 18 digits."""
    cdef const char* p = at[0]
    cdef const char* begin
    cdef bint negative = p < end and p[0] == b"-"
    cdef int64_t found = 0
    if negative:
        p += 1
    begin = p
    while p < end and 48 <= p[0] <= 57:
        if p - begin == 18:
            return False
        found = found * 10 + (p[0] - 48)
        p += 1
    if p == begin or (begin[0] == b"0" and (p - begin > 1 or negative)):
        return False
    if p < end and (p[0] == b"." or p[0] == b"e" or p[0] == b"E"):
        return False
    value[0] = -found if negative else found
    at[0] = p
    return True


cdef inline bint word_is(const char** at, const char* end, const char* word, Py_ssize_t size) noexcept nogil:
    if end - at[0] < size or memcmp(at[0], word, size) != 0:
        return False
    at[0] += size
    return True


cdef inline bint truth(const char** at, const char* end) noexcept nogil:
    """``true`` or ``false``."""
    return word_is(at, end, b"true", 4) or word_is(at, end, b"false", 5)


cdef bint skip(const char** at, const char* end, int depth) noexcept nogil:
    """Any value, held to the grammar as strictly as what is read; containers only while ``depth`` lasts."""
    cdef Text text
    cdef int64_t number
    cdef const char* p
    cdef char opened
    if at[0] >= end:
        return False
    opened = at[0][0]
    if opened == b'"':
        return string(at, end, &text)
    if opened == b"t" or opened == b"f":
        return truth(at, end)
    if opened == b"n":
        return word_is(at, end, b"null", 4)
    if opened == b"{" or opened == b"[":
        if depth == 0:
            return False
        char_is(at, end, opened)
        if char_is(at, end, b"}" if opened == b"{" else b"]"):
            return True
        while True:
            if opened == b"{" and not (string(at, end, &text) and char_is(at, end, b":")):
                return False
            if not skip(at, end, depth - 1):
                return False
            if not char_is(at, end, b","):
                return char_is(at, end, b"}" if opened == b"{" else b"]")
    p = at[0]
    if p[0] == b"-":
        p += 1
    if p >= end or not 48 <= p[0] <= 57:
        return False
    if integer(at, end, &number):
        return True
    # A plain decimal fraction; other numbers are rare enough for the twin.
    if p[0] == b"0":
        p += 1
    else:
        while p < end and 48 <= p[0] <= 57:
            p += 1
    if p - at[0] > 18 or p + 1 >= end or p[0] != b"." or not 48 <= p[1] <= 57:
        return False
    p += 1
    while p < end and 48 <= p[0] <= 57:
        p += 1
    if p < end and (p[0] == b"e" or p[0] == b"E"):
        return False
    at[0] = p
    return True


cdef inline bint same(Text* text, const char* word, Py_ssize_t size) noexcept nogil:
    return text.size == size and memcmp(text.at, word, size) == 0


# -- numbers and names ---------------------------------------------------------------------------------------------------

cdef inline bint decimal(Text* text, int places, bint cut, bint signed, int64_t* value) noexcept nogil:
    """``text`` x 10**places. Digits beyond are no such number, or with ``cut`` are cut toward zero."""
    cdef const char* p = text.at
    cdef const char* end = p + text.size
    cdef const char* begin
    cdef int64_t found = 0
    cdef int told = 0
    cdef bint negative = False
    if signed and p < end and p[0] == b"-":
        negative = True
        p += 1
    begin = p
    while p < end and 48 <= p[0] <= 57:
        if p - begin + places >= 18:
            return False
        found = found * 10 + (p[0] - 48)
        p += 1
    if p == begin:
        return False
    if p < end:
        if p[0] != b".":
            return False
        p += 1
        while p < end:
            if not 48 <= p[0] <= 57:
                return False
            if told < places:
                found = found * 10 + (p[0] - 48)
                told += 1
            elif not cut and p[0] != b"0":
                return False
            p += 1
    found *= POWERS[places - told]
    value[0] = -found if negative else found
    return True


cdef inline int status_of(Text* text) noexcept nogil:
    """OrderState of the venue's word; 0 = none we know."""
    if text.at == NULL:
        return 0
    if same(text, b"FILLED", 6):
        return 4
    if same(text, b"NEW", 3):
        return 2
    if same(text, b"PARTIALLY_FILLED", 16):
        return 3
    if same(text, b"EXPIRED", 7) or same(text, b"EXPIRED_IN_MATCH", 16):
        return 7
    if same(text, b"CANCELED", 8):
        return 6
    if same(text, b"REJECTED", 8):
        return 8
    if same(text, b"NEW_INSURANCE", 13) or same(text, b"NEW_ADL", 7):
        return 2
    return 0


cdef inline int nibble(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef inline bint cid_of(Text* text, uint8_t* cid) noexcept nogil:
    """16 bytes of 32 lower-case hex characters, the way we write an id of ours."""
    cdef int i, high, low
    cdef int bad = 0
    if text.at == NULL or text.size != 32:
        return False
    for i in range(16):
        high = nibble(text.at[2 * i])
        low = nibble(text.at[2 * i + 1])
        bad |= high | low
        cid[i] = <uint8_t>(high << 4 | low)
    return bad >= 0


cdef inline bint cost_of(Text* average, Text* quantity, Text* quote, int64_t* cost) noexcept nogil:
    """As ``codec.cost_e8``."""
    cdef int64_t price, size
    cost[0] = 0
    if quote.at != NULL and quote.size:
        if not decimal(quote, 8, True, False, cost):
            return False
        if cost[0]:
            return True
    if average.at == NULL or average.size == 0:
        return True
    if not decimal(average, 12, True, False, &price) or not decimal(quantity, 8, True, False, &size):
        return False
    cost[0] = product_e8(price, size)
    return cost[0] >= 0


cdef inline uint8_t _place(const char* name, Py_ssize_t size) noexcept nogil:
    cdef uint32_t h = 2166136261
    cdef Py_ssize_t i
    for i in range(size):
        h = (h ^ <uint8_t>name[i]) * 16777619
    return <uint8_t>(h ^ (h >> 8) ^ (h >> 16))


cdef class Reader:
    """The instruments, by the venue's names; the orders (``columns``, None: not compared); and where rows go (``batch``)."""

    def __cinit__(self, *args, **kwargs):
        self.batch = ReportBatch()

    def set_instrument(self, int index, str symbol, int price_decimals, int64_t tick, int qty_decimals, int64_t lot, str asset):
        """An instrument; ``tick`` and ``lot`` in units of 10**-decimals, ``asset`` the one margin and fees are in."""
        cdef bytes name = symbol.encode("ascii"), margin = asset.encode("ascii")
        cdef Listed* row
        cdef uint8_t at
        if not 0 <= index < 64 or len(name) > 32 or not name or len(margin) > 16:
            raise ValueError(f"instrument {index} {symbol!r} of {asset!r} has no place here")
        if tick < 1 or lot < 1 or not 0 <= price_decimals <= 12 or not 0 <= qty_decimals <= 12:
            raise ValueError(f"{symbol}: tick, lot or decimals are out of range")
        row = &self.listed[index]
        if row.name_size:
            raise ValueError(f"instrument {index} is known already")
        memcpy(row.name, PyBytes_AS_STRING(name), len(name))
        memcpy(row.asset, PyBytes_AS_STRING(margin), len(margin))
        row.name_size, row.asset_size = len(name), len(margin)
        row.price_decimals, row.tick, row.qty_decimals, row.lot = price_decimals, tick, qty_decimals, lot
        self.count = max(self.count, index + 1)
        at = _place(row.name, row.name_size)
        while self.places[at]:
            at += 1
        self.places[at] = <uint8_t>(index + 1)

    cdef int symbol(self, Text* name) noexcept nogil:
        """Index of an instrument, -1 = none of ours."""
        cdef uint8_t at
        cdef Listed* row
        if name.at == NULL:
            return -1
        at = _place(name.at, name.size)
        while self.places[at]:
            row = &self.listed[self.places[at] - 1]
            if row.name_size == name.size and memcmp(row.name, name.at, name.size) == 0:
                return self.places[at] - 1
            at += 1
        return -1

    cdef bint lots(self, int index, Text* text, bint signed, int64_t* lots) noexcept nogil:
        cdef Listed* row = &self.listed[index]
        cdef int64_t units
        cdef bint negative
        if not decimal(text, row.qty_decimals, False, signed, lots):
            return False
        if row.lot == 1:
            return True
        negative = lots[0] < 0
        units = -lots[0] if negative else lots[0]
        if units % row.lot:
            return False
        units = units / row.lot
        lots[0] = -units if negative else units
        return True

    cdef bint ticks(self, int index, Text* text, int64_t* ticks) noexcept nogil:
        cdef Listed* row = &self.listed[index]
        if not decimal(text, row.price_decimals, False, False, ticks):
            return False
        if row.tick == 1:
            return True
        if ticks[0] % row.tick:
            return False
        ticks[0] = ticks[0] / row.tick
        return True


# -- the order socket ----------------------------------------------------------------------------------------------------

cdef bint read_result(const char** at, const char* end, Result* found) noexcept nogil:
    """The order object of an answer: the fields of ``codec.OrderResult``, each at most once."""
    cdef Text key
    cdef Text* into
    cdef uint32_t seen = 0
    cdef uint32_t bit
    cdef int64_t* number
    memset(found, 0, sizeof(Result))
    if not char_is(at, end, b"{"):
        return False
    while True:
        if not string(at, end, &key) or not char_is(at, end, b":"):
            return False
        into = NULL
        number = NULL
        bit = 0
        if key.size == 4:
            if memcmp(key.at, b"side", 4) == 0:
                into, bit = &found.side, 1
        elif key.size == 6:
            if memcmp(key.at, b"symbol", 6) == 0:
                into, bit = &found.symbol, 2
            elif memcmp(key.at, b"status", 6) == 0:
                into, bit = &found.status, 4
        elif key.size == 7:
            if memcmp(key.at, b"orderId", 7) == 0:
                number, bit = &found.order_id, 8
            elif memcmp(key.at, b"origQty", 7) == 0:
                into, bit = &found.orig, 16
        elif key.size == 8:
            if memcmp(key.at, b"avgPrice", 8) == 0:
                into, bit = &found.average, 32
            elif memcmp(key.at, b"cumQuote", 8) == 0:
                into, bit = &found.quote, 64
        elif key.size == 10:
            if memcmp(key.at, b"updateTime", 10) == 0:
                number, bit = &found.update_ms, 128
        elif key.size == 11:
            if memcmp(key.at, b"executedQty", 11) == 0:
                into, bit = &found.done, 256
        elif key.size == 12:
            if memcmp(key.at, b"positionSide", 12) == 0:
                into, bit = &found.position_side, 512
        elif key.size == 13:
            if memcmp(key.at, b"clientOrderId", 13) == 0:
                into, bit = &found.client, 1024
        if seen & bit:
            return False
        seen |= bit
        if into != NULL:
            if not string(at, end, into):
                return False
        elif number != NULL:
            if not integer(at, end, number):
                return False
        elif not skip(at, end, DEPTH_MAX):
            return False
        if not char_is(at, end, b","):
            return char_is(at, end, b"}")


cdef bint read_error(const char** at, const char* end, int64_t* code) noexcept nogil:
    """``{"code", "msg"}``; with ``data`` it is about what comes next as well, and not for here."""
    cdef Text key, text
    cdef uint32_t seen = 0
    if not char_is(at, end, b"{"):
        return False
    while True:
        if not string(at, end, &key) or not char_is(at, end, b":"):
            return False
        if same(&key, b"code", 4) and not seen & 1:
            seen |= 1
            if not integer(at, end, code):
                return False
        elif same(&key, b"msg", 3) and not seen & 2:
            seen |= 2
            if not string(at, end, &text):
                return False
        else:
            return False
        if not char_is(at, end, b","):
            return char_is(at, end, b"}") and seen & 1


cdef class Replies(Reader):
    """Answers to placements. ``rejects``: the codes that prove that there is no order (``errors.CODES``)."""

    def __init__(self, rejects):
        for code in rejects:
            if not -8192 < code < 0:
                raise ValueError(f"code {code} is no code of the venue")
            self.refused[-code] = 1

    def reply(self, bytes payload not None, Pending pending not None) -> int:
        """One frame: 1 when it was an answer to an order of ``pending``, which is then owed no longer, and its row is in
        ``batch``; 0 when it is not for here and nothing has changed."""
        return self.read(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), pending)

    cdef int read(self, const char* data, Py_ssize_t size, Pending pending) except -1:
        cdef const char* at = data
        cdef const char* end = data + size
        cdef Text key, name
        cdef Result result
        cdef int64_t status = 0, code = 0, cum, cost = 0
        cdef uint32_t seen = 0, bit
        cdef uint8_t cid[16]
        cdef Owed* owed
        cdef Report* row
        cdef int instrument, state
        name.at = NULL
        spaces(&at, end)
        if not char_is(&at, end, b"{"):
            return NOT_MINE
        while True:
            if not string(&at, end, &key) or not char_is(&at, end, b":"):
                return NOT_MINE
            bit = 0
            if same(&key, b"id", 2):
                bit = 1
                if not string(&at, end, &name):
                    return NOT_MINE
            elif same(&key, b"status", 6):
                bit = 2
                if not integer(&at, end, &status):
                    return NOT_MINE
            elif same(&key, b"result", 6):
                bit = 4
                if not read_result(&at, end, &result):
                    return NOT_MINE
            elif same(&key, b"error", 5):
                bit = 8
                if not read_error(&at, end, &code):
                    return NOT_MINE
            elif not skip(&at, end, DEPTH_MAX):
                return NOT_MINE
            if seen & bit:
                return NOT_MINE
            seen |= bit
            if not char_is(&at, end, b","):
                break
        if not char_is(&at, end, b"}") or at != end or not cid_of(&name, cid):
            return NOT_MINE
        if pending.later:
            pending.settle()
        owed = pending.find(cid)
        if owed == NULL:
            return NOT_MINE
        if seen == 11:
            # What a 5xx, 418 or 429 says, and what a code proves that is not certain, the twin says.
            if not 400 <= status < 500 or status == 418 or status == 429:
                return NOT_MINE
            if not -8192 < code < 0 or not self.refused[-code]:
                return NOT_MINE
            row = self.batch.push()
            memcpy(row.cid, cid, 16)
            row.kind, row.status, row.code, row.account = REJECT, REJECTED, <int>code, NONE
            pending.drop(owed)
            self.rejects += 1
            return ROWS
        if seen != 7 or status != 200:
            return NOT_MINE
        instrument = self.symbol(&result.symbol)
        state = status_of(&result.status)
        if instrument < 0 or state == 0 or not 0 <= result.update_ms <= MS_MAX:
            return NOT_MINE
        cum = 0
        if result.done.at != NULL and not self.lots(instrument, &result.done, False, &cum):
            return NOT_MINE
        if cum and not cost_of(&result.average, &result.done, &result.quote, &cost):
            return NOT_MINE
        if result.client.at != NULL and result.client.size and not same(&result.client, name.at, 32):
            return NOT_MINE
        if not self.fits(instrument, &result.side, &result.position_side, &result.orig, owed.slot, cid):
            return NOT_MINE
        row = self.batch.push()
        memcpy(row.cid, cid, 16)
        row.kind, row.status, row.account = REPLY, <uint8_t>state, NONE
        row.cum_qty, row.cost_e8, row.venue_order_id = cum, cost, result.order_id
        row.ts_event = result.update_ms * MS_NS
        pending.drop(owed)
        self.replies += 1
        return ROWS

    cdef bint fits(self, int instrument, Text* side, Text* position_side, Text* quantity, uint32_t slot,
                   const uint8_t* cid) noexcept nogil:
        """As ``gateway._otherwise``: the answer shows the order that was asked for, as far as the tables know it."""
        cdef Order* order
        cdef int64_t lots
        if <PyObject*>self.columns == <PyObject*>None:
            return True
        if slot >= self.columns.counts[ORDERS] or memcmp(self.columns.orders[slot].cid, cid, 16) != 0:
            slot = self.columns.find_order(cid)
            if slot == NONE:
                return True
        order = &self.columns.orders[slot]
        if instrument != order.instrument:
            return False
        if side.at != NULL and side.size:
            if not (same(side, b"BUY", 3) if order.side == 1 else same(side, b"SELL", 4) and order.side == -1):
                return False
        if position_side.at != NULL and position_side.size:
            if order.position_side == 0:
                if not same(position_side, b"BOTH", 4):
                    return False
            elif order.position_side == 1:
                if not same(position_side, b"LONG", 4):
                    return False
            elif order.position_side != 2 or not same(position_side, b"SHORT", 5):
                return False
        if quantity.at != NULL and quantity.size:
            if not self.lots(instrument, quantity, False, &lots):
                return False
            # A reduce-only order is cut by the venue to what there is to close.
            if lots > order.order_qty or (lots < order.order_qty and order.kind == 0):
                return False
        return True


# -- the followers' user streams --------------------------------------------------------------------------------------------

cdef bint read_update(const char** at, const char* end, Update* found, bint* placed) noexcept nogil:
    """``o`` of an ORDER_TRADE_UPDATE, with the fields of ``codec.OrderBody``; ``placed``: it says no more than that."""
    cdef Text key, other
    cdef Text* into
    cdef int64_t number
    cdef int64_t* count
    cdef uint64_t seen = 0, bit
    cdef char c
    memset(found, 0, sizeof(Update))
    placed[0] = False
    if not char_is(at, end, b"{"):
        return False
    while True:
        if not string(at, end, &key) or not char_is(at, end, b":"):
            return False
        if key.size == 1:
            c = key.at[0]
            bit = <uint64_t>1 << (c & 63)  # letters of both cases have each a bit of their own
            if not (65 <= c <= 90 or 97 <= c <= 122):
                bit = 0
            into = NULL
            count = NULL
            if c == b"s":
                into = &found.s
            elif c == b"c":
                into = &found.c
            elif c == b"S":
                into = &found.S
            elif c == b"X":
                into = &found.X
            elif c == b"x":
                into = &found.x
            elif c == b"z":
                into = &found.z
            elif c == b"l":
                into = &found.l
            elif c == b"L":
                into = &found.L
            elif c == b"q":
                into = &found.q
            elif c == b"o":
                into = &found.o
            elif c == b"N" or c == b"n":
                into = &found.N if c == b"N" else &found.n
                if at[0] < end and at[0][0] == b"n":
                    if not word_is(at, end, b"null", 4):
                        return False
                    into = NULL
                    bit |= 1  # read already
            elif c == b"i":
                count = &found.i
            elif c == b"t":
                count = &found.t
            elif c == b"T":
                count = &number
            elif c == b"m" or c == b"R":
                if at[0] < end and at[0][0] == b"t":
                    if c == b"m":
                        found.m = True
                    else:
                        found.R = True
                if not truth(at, end):
                    return False
                bit |= 1
            elif c == b"e":
                return False  # as the event's own name it would say that all of it is passed over
            if seen & bit & ~<uint64_t>1:
                return False
            seen |= bit & ~<uint64_t>1
            if into != NULL:
                if not string(at, end, into):
                    return False
                if c == b"x" and same(into, b"NEW", 3) and into.at == key.at + 4:
                    placed[0] = True
                    return True
            elif count != NULL:
                if not integer(at, end, count):
                    return False
            elif not bit & 1 and not skip(at, end, 0):
                return False
        else:
            if key.size == 2:
                into = NULL
                bit = 0
                if memcmp(key.at, b"ap", 2) == 0:
                    into, bit = &found.ap, <uint64_t>1 << 27
                elif memcmp(key.at, b"ps", 2) == 0:
                    into, bit = &found.ps, <uint64_t>1 << 28
                elif memcmp(key.at, b"rp", 2) == 0:
                    into, bit = &found.rp, <uint64_t>1 << 29
                elif memcmp(key.at, b"ot", 2) == 0:
                    into, bit = &other, <uint64_t>1 << 30
                if seen & bit:
                    return False
                seen |= bit
                if into != NULL:
                    if not string(at, end, into):
                        return False
                elif not skip(at, end, 0):
                    return False
            elif not skip(at, end, 0):
                return False
        if not char_is(at, end, b","):
            break
    return char_is(at, end, b"}") and seen & NEEDED == NEEDED


cdef bint is_of_the_venue(Update* update) noexcept nogil:
    """Whether the venue itself traded: its own orders are named otherwise."""
    cdef Py_ssize_t i
    if same(&update.o, b"LIQUIDATION", 11):
        return True
    for i in range(update.c.size - 8):
        if memcmp(update.c.at + i, b"autoclose", 9) == 0:
            return True
    return False


cdef class Executions(Reader):
    """Executions in the frames of a leader's stream, each read in one pass.

    ``make`` is called with the fields of ``leader_stream.Execution``, in their order.
    """

    def __init__(self, make):
        self.make = make

    def execution(self, bytes payload not None, int64_t ts_recv):
        """What ``make`` made of the execution that a frame tells. None: it tells none of an instrument that is known here, or
        nothing that is certain at a glance; nothing is lost by reading it again with more care."""
        cdef const char* at = PyBytes_AS_STRING(payload)
        cdef const char* end = at + PyBytes_GET_SIZE(payload)
        cdef Text key
        cdef Update update
        cdef int64_t number, event_ms = 0
        cdef uint32_t told = 0, bit
        cdef bint placed = False
        spaces(&at, end)
        # The venue names the event first; one that is named later is read with more care.
        if not char_is(&at, end, b"{") or not string(&at, end, &key) or not same(&key, b"e", 1):
            return None
        if not char_is(&at, end, b":") or not string(&at, end, &key) or not same(&key, b"ORDER_TRADE_UPDATE", 18):
            return None
        while char_is(&at, end, b","):
            if not string(&at, end, &key) or not char_is(&at, end, b":"):
                return None
            bit = 0
            if key.size == 1 and key.at[0] == b"E":
                bit = 1
                if not integer(&at, end, &number):
                    return None
            elif key.size == 1 and key.at[0] == b"T":
                bit = 2
                if not integer(&at, end, &event_ms):
                    return None
            elif key.size == 1 and key.at[0] == b"o":
                bit = 4
                if not read_update(&at, end, &update, &placed) or placed:
                    return None
            elif key.size == 1 and key.at[0] == b"e" or not skip(&at, end, 0):
                return None
            if told & bit:
                return None
            told |= bit
        if not char_is(&at, end, b"}") or at != end or told != 7 or not 0 <= event_ms <= MS_MAX:
            return None
        return self.made(&update, event_ms * MS_NS, ts_recv, payload)

    cdef object made(self, Update* update, int64_t ts_event, int64_t ts_recv, bytes payload):
        cdef int64_t qty, px, order_qty = 0, cum = 0
        cdef int side, position_side = 0
        cdef bint realised = False
        cdef Py_ssize_t i
        cdef int instrument = self.symbol(&update.s)
        if instrument < 0 or update.t <= 0 or is_of_the_venue(update):
            return None
        if not same(&update.x, b"TRADE", 5) and not same(&update.x, b"CALCULATED", 10):
            return None
        if same(&update.S, b"BUY", 3):
            side = 1
        elif same(&update.S, b"SELL", 4):
            side = -1
        else:
            return None
        if update.ps.at != NULL and not same(&update.ps, b"BOTH", 4):
            if same(&update.ps, b"LONG", 4):
                position_side = 1
            elif same(&update.ps, b"SHORT", 5):
                position_side = 2
            else:
                return None
        if update.l.at == NULL or not self.lots(instrument, &update.l, False, &qty) or qty == 0:
            return None
        if update.L.at == NULL or not self.ticks(instrument, &update.L, &px):
            return None
        if update.q.at != NULL and not self.lots(instrument, &update.q, False, &order_qty):
            return None
        if update.z.at != NULL and not self.lots(instrument, &update.z, False, &cum):
            return None
        for i in range(update.rp.size):
            realised |= update.rp.at[i] != b"0" and update.rp.at[i] != b"." and update.rp.at[i] != b"-"
        for i in range(update.c.size):
            if update.c.at[i] & 0x80:
                return None
        return self.make(
            instrument, position_side, update.t, update.i, side, qty, px, order_qty, cum, update.R, realised, update.m, True,
            PyUnicode_DecodeASCII(update.c.at, update.c.size, NULL), "", ts_event, ts_recv, payload)


cdef int read_rows(const char** at, const char* end, AccountBody* found, bint wallets) noexcept nogil:
    """``B`` or ``P`` of an ACCOUNT_UPDATE; -1 where it is not for here."""
    cdef Text key, other
    cdef Text* into
    cdef Wallet* wallet = NULL
    cdef Held* held = NULL
    cdef int count = 0
    cdef uint32_t seen, bit
    if not char_is(at, end, b"["):
        return -1
    if char_is(at, end, b"]"):
        return 0
    while True:
        if count == (WALLETS_MAX if wallets else POSITIONS_MAX) or not char_is(at, end, b"{"):
            return -1
        if wallets:
            wallet = &found.wallet[count]
            memset(wallet, 0, sizeof(Wallet))
        else:
            held = &found.position[count]
            memset(held, 0, sizeof(Held))
        count += 1
        seen = 0
        while True:
            if not string(at, end, &key) or not char_is(at, end, b":"):
                return -1
            into = NULL
            bit = 0
            if key.size == 1:
                if key.at[0] == b"e" or key.at[0] == b"x":
                    return -1
                if wallets and key.at[0] == b"a":
                    into, bit = &wallet.a, 1
                elif not wallets and key.at[0] == b"s":
                    into, bit = &held.s, 1
            elif key.size == 2:
                if wallets:
                    if memcmp(key.at, b"wb", 2) == 0:
                        into, bit = &wallet.wb, 2
                    elif memcmp(key.at, b"bc", 2) == 0:
                        into, bit = &other, 4
                elif memcmp(key.at, b"pa", 2) == 0:
                    into, bit = &held.pa, 2
                elif memcmp(key.at, b"ps", 2) == 0:
                    into, bit = &held.ps, 4
                elif memcmp(key.at, b"ep", 2) == 0:
                    into, bit = &other, 8
                elif memcmp(key.at, b"mt", 2) == 0:
                    into, bit = &other, 16
            if seen & bit:
                return -1
            seen |= bit
            if into != NULL:
                if not string(at, end, into):
                    return -1
            elif not skip(at, end, 0):
                return -1
            if not char_is(at, end, b","):
                break
        if seen & 3 != 3 or not char_is(at, end, b"}"):
            return -1
        if not char_is(at, end, b","):
            return count if char_is(at, end, b"]") else -1


cdef bint read_account(const char** at, const char* end, AccountBody* found) noexcept nogil:
    """``a`` of an ACCOUNT_UPDATE, with the fields of ``codec.AccountBody``."""
    cdef Text key, reason
    cdef uint32_t seen = 0, bit
    cdef int count
    found.wallets = found.positions = 0
    found.funding = False
    if not char_is(at, end, b"{"):
        return False
    while True:
        if not string(at, end, &key) or not char_is(at, end, b":") or key.size != 1:
            return False
        if key.at[0] == b"m":
            bit = 1
            if not string(at, end, &reason):
                return False
            found.funding = same(&reason, b"FUNDING_FEE", 11)
        elif key.at[0] == b"B" or key.at[0] == b"P":
            bit = 2 if key.at[0] == b"B" else 4
            count = read_rows(at, end, found, bit == 2)
            if count < 0:
                return False
            if bit == 2:
                found.wallets = count
            else:
                found.positions = count
        else:
            return False
        if seen & bit:
            return False
        seen |= bit
        if not char_is(at, end, b","):
            return char_is(at, end, b"}")


cdef enum Kind:
    OTHER
    ORDER_TRADE_UPDATE
    ACCOUNT_UPDATE


cdef class UserEvents(Reader):
    """Events of a combined user stream. ``site_tag``: how ids of ours begin, lower-case hex.

    ``positions`` False: nobody wants to hear of positions, so that an account's update is only its wallet. With ``columns``
    a trade of an order that is not in them is not for here.
    """

    def __init__(self, str site_tag, bint positions=True):
        cdef bytes tag = site_tag.encode("ascii")
        if len(tag) > 8:
            raise ValueError("a site's tag has at most 8 characters")
        memcpy(self.tag, PyBytes_AS_STRING(tag), len(tag))
        self.tag_size = len(tag)
        self.accounts = {}
        self.positions = positions

    def listen(self, str key not None, uint32_t account):
        """Events that name this listen key are the account's."""
        self.accounts[key.encode()] = account

    def forget(self, str key not None):
        """They are no longer."""
        self.accounts.pop(key.encode(), None)

    def event(self, bytes payload not None) -> int:
        """One frame: 1 when its rows are in ``batch``, 2 when it says nothing that is not said better elsewhere (it is the
        thin copy of a trade, or "the order is in the book"); 0 when it is not for here and nothing has changed."""
        cdef int told = self.read(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        self.frames += told != NOT_MINE
        return told

    cdef int64_t account_of(self, Text* key) except -2:
        """Whose listen key it is; -1 = nobody's."""
        cdef PyObject* found
        if key.at == NULL:
            return -1
        found = PyDict_GetItem(self.accounts, PyBytes_FromStringAndSize(key.at, key.size))
        return -1 if found == NULL else <int64_t><object>found

    cdef int read(self, const char* data, Py_ssize_t size) except -1:
        cdef const char* at = data
        cdef const char* end = data + size
        cdef Text key, stream, name
        cdef Update update
        cdef AccountBody account
        cdef int64_t number, event_ms = 0
        cdef uint32_t seen = 0, told = 0, bit
        cdef Kind kind = OTHER
        cdef bint placed = False
        stream.at = NULL
        spaces(&at, end)
        if not char_is(&at, end, b"{"):
            return NOT_MINE
        while True:
            if not string(&at, end, &key) or not char_is(&at, end, b":"):
                return NOT_MINE
            if same(&key, b"stream", 6):
                if seen & 1 or not string(&at, end, &stream):
                    return NOT_MINE
                seen |= 1
            elif same(&key, b"data", 4):
                if seen & 2 or not char_is(&at, end, b"{"):
                    return NOT_MINE
                seen |= 2
                # The venue names the event first; one that is named later is not for here.
                if not string(&at, end, &key) or not same(&key, b"e", 1) or not char_is(&at, end, b":"):
                    return NOT_MINE
                if not string(&at, end, &name):
                    return NOT_MINE
                if same(&name, b"ORDER_TRADE_UPDATE", 18):
                    kind = ORDER_TRADE_UPDATE
                elif same(&name, b"ACCOUNT_UPDATE", 14) and not self.positions:
                    kind = ACCOUNT_UPDATE
                elif same(&name, b"TRADE_LITE", 10) and name.at == key.at + 4:
                    self.skipped += 1
                    return SKIPPED
                else:
                    return NOT_MINE
                while char_is(&at, end, b","):
                    if not string(&at, end, &key) or not char_is(&at, end, b":"):
                        return NOT_MINE
                    bit = 0
                    if key.size == 1:
                        if key.at[0] == b"E":
                            bit = 1
                            if not integer(&at, end, &number):
                                return NOT_MINE
                        elif key.at[0] == b"T":
                            bit = 2
                            if not integer(&at, end, &event_ms):
                                return NOT_MINE
                        elif key.at[0] == b"o" and kind == ORDER_TRADE_UPDATE:
                            bit = 4
                            if not read_update(&at, end, &update, &placed):
                                return NOT_MINE
                            if placed:
                                self.skipped += 1
                                return SKIPPED
                        elif key.at[0] == b"a" and kind == ACCOUNT_UPDATE:
                            bit = 4
                            if not read_account(&at, end, &account):
                                return NOT_MINE
                        elif key.at[0] == b"e" or key.at[0] == b"x" or not skip(&at, end, 0):
                            return NOT_MINE
                    elif not skip(&at, end, 0):
                        return NOT_MINE
                    if told & bit:
                        return NOT_MINE
                    told |= bit
                if not char_is(&at, end, b"}"):
                    return NOT_MINE
            elif key.size == 1 or not skip(&at, end, 0):
                return NOT_MINE
            if not char_is(&at, end, b","):
                break
        if not char_is(&at, end, b"}") or at != end or seen != 3 or told != 7 or not 0 <= event_ms <= MS_MAX:
            return NOT_MINE
        number = self.account_of(&stream)
        if number < 0:
            return NOT_MINE
        if kind == ORDER_TRADE_UPDATE:
            return self.order(&update, event_ms * MS_NS)
        return self.account(&account, <uint32_t>number, event_ms * MS_NS)

    cdef int order(self, Update* update, int64_t ts_event) except -1:
        """As ``accounts._order``, for an order of ours."""
        cdef Report* row
        cdef uint8_t cid[16]
        cdef int64_t cum = 0, cost = 0, last_qty = 0, last_px = 0, fee = 0
        cdef int instrument = self.symbol(&update.s)
        cdef int state = status_of(&update.X)
        cdef bint is_trade = update.t > 0 and (same(&update.x, b"TRADE", 5) or same(&update.x, b"CALCULATED", 10))
        cdef Text none
        if instrument < 0 or state == 0 or not cid_of(&update.c, cid):
            return NOT_MINE
        if memcmp(update.c.at, self.tag, self.tag_size) != 0:
            return NOT_MINE
        if update.z.at != NULL and not self.lots(instrument, &update.z, False, &cum):
            return NOT_MINE
        none.at = NULL
        none.size = 0
        if cum and not cost_of(&update.ap, &update.z, &none, &cost):
            return NOT_MINE
        if is_trade:
            if update.n.at != NULL and update.n.size:
                if update.N.at == NULL or not same(
                        &update.N, self.listed[instrument].asset, self.listed[instrument].asset_size):
                    return NOT_MINE
                if not decimal(&update.n, 8, True, True, &fee):
                    return NOT_MINE
            if update.l.at != NULL and not self.lots(instrument, &update.l, False, &last_qty):
                return NOT_MINE
            if update.L.at != NULL and not self.ticks(instrument, &update.L, &last_px):
                return NOT_MINE
            if <PyObject*>self.columns != <PyObject*>None and self.columns.find_order(cid) == NONE:
                return NOT_MINE
        row = self.batch.push()
        memcpy(row.cid, cid, 16)
        row.status, row.account = <uint8_t>state, NONE
        row.cum_qty, row.cost_e8, row.venue_order_id, row.ts_event = cum, cost, update.i, ts_event
        if not is_trade:
            row.kind = STREAM
            self.updates += 1
            return ROWS
        row.kind = TRADE
        row.last_qty, row.last_px, row.fee_e8, row.trade_id = last_qty, last_px, fee, update.t
        self.trades += 1
        return ROWS

    cdef int account(self, AccountBody* body, uint32_t account, int64_t ts_event) except -1:
        """As ``accounts._account``: wallets in an asset that margin is held in."""
        cdef Report* row
        cdef int64_t[8] balances
        cdef bint[8] held
        cdef int64_t lots
        cdef int i, k, instrument
        if body.funding:
            return NOT_MINE
        for i in range(body.wallets):
            held[i] = False
            for k in range(self.count):
                if self.listed[k].name_size and same(&body.wallet[i].a, self.listed[k].asset, self.listed[k].asset_size):
                    held[i] = True
                    break
            if held[i] and not decimal(&body.wallet[i].wb, 8, True, True, &balances[i]):
                return NOT_MINE
        for i in range(body.positions):
            instrument = self.symbol(&body.position[i].s)
            if instrument < 0 or not self.lots(instrument, &body.position[i].pa, True, &lots):
                return NOT_MINE
            if body.position[i].ps.at != NULL and not (
                    same(&body.position[i].ps, b"BOTH", 4) or same(&body.position[i].ps, b"LONG", 4)
                    or same(&body.position[i].ps, b"SHORT", 5)):
                return NOT_MINE
        for i in range(body.wallets):
            if held[i]:
                row = self.batch.push()
                row.kind, row.account, row.cost_e8, row.ts_event = BALANCE, account, balances[i], ts_event
                self.balances += 1
        return ROWS


# -- a connection's frames -----------------------------------------------------------------------------------------------

cdef class Ear:
    """Hears every frame of a connection first; ``on_ws_frame`` stands in for the listener's own.

    ``rest(transport, frame)`` takes what is not read here: all frames until ``reads`` was called, control frames, messages
    in parts, those above ``size_max`` bytes, and those a reader does not accept.
    """

    def __init__(self, rest, Py_ssize_t size_max):
        self.rest = rest
        self.size_max = size_max

    def reads(self, Reader reader, on_rows, Pending pending=None):
        """From now on frames go to ``reader`` first (answers to the orders of ``pending``); ``on_rows()`` is called with the
        first row after which nobody is known to come for it (``reader.due``)."""
        if isinstance(reader, Replies) and pending is None:
            raise ValueError("answers are to orders that are owed")
        self.reader, self.on_rows, self.pending = reader, on_rows, pending

    def deaf(self):
        """No reader any more."""
        self.reader = self.on_rows = self.pending = None

    def on_ws_frame(self, transport, frame):
        """One frame of the library's."""
        cdef bytes payload
        cdef Py_ssize_t size
        cdef int told = NOT_MINE
        self.heard += 1
        if self.reader is not None and not self.parted and frame.fin:
            payload = frame.get_payload_as_bytes()
            size = PyBytes_GET_SIZE(payload)
            # Nothing shorter than this is an answer to an order, and nothing longer is a control frame (RFC 6455, 5.5).
            if CONTROL_MAX < size <= self.size_max:
                if self.pending is None:
                    told = (<UserEvents>self.reader).read(PyBytes_AS_STRING(payload), size)
                    (<UserEvents>self.reader).frames += told != NOT_MINE
                else:
                    told = (<Replies>self.reader).read(PyBytes_AS_STRING(payload), size, self.pending)
                if told == ROWS and not self.reader.due:
                    self.on_rows()
                if told != NOT_MINE:
                    return
        self.rest(transport, frame)


# -- rows, in bulk ---------------------------------------------------------------------------------------------------------

def tell_apart(ReportBatch batch not None, bint asking):
    """(fills, doubted, ended, alive) of a batch: how many trades moved a quantity, and the 16-byte ids of orders that came
    into doubt, that were told to have ended on another way than an answer (only where ``asking``), and that were answered
    as alive."""
    cdef uint32_t i
    cdef uint64_t fills = 0
    cdef Report* row
    cdef bint ended
    doubted, over, alive = [], [], []
    for i in range(batch.count):
        row = &batch.rows[i]
        ended = row.status < 64 and (<uint64_t>TERMINAL >> row.status) & 1
        if row.kind == TRADE:
            fills += row.cum_qty != 0
        elif row.kind == IN_DOUBT:
            doubted.append(PyBytes_FromStringAndSize(<char*>row.cid, 16))
        elif asking and row.kind != REPLY and ended:
            over.append(PyBytes_FromStringAndSize(<char*>row.cid, 16))
        elif row.kind == REPLY and not ended:
            alive.append(PyBytes_FromStringAndSize(<char*>row.cid, 16))
    return fills, doubted, over, alive


def rows_of(Columns columns not None, bytes rows not None, accounts):
    """Those of packed report rows that tell a quantity of an order of one of these accounts, in their order."""
    cdef uint32_t known = columns.counts[ACCOUNTS]
    cdef bytearray wanted = bytearray(known)
    cdef Report* row
    cdef uint32_t slot, account
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(rows) // <Py_ssize_t>sizeof(Report)
    found = []
    for one in accounts:
        if 0 <= one < known:
            wanted[one] = 1
    for i in range(n):
        row = &(<Report*>PyBytes_AS_STRING(rows))[i]
        if row.cum_qty == 0:
            continue
        slot = columns.find_order(row.cid)
        if slot == NONE:
            continue
        account = columns.orders[slot].account
        if account < known and wanted[account]:
            found.append(PyBytes_FromStringAndSize(<char*>row, sizeof(Report)))
    return b"".join(found)


def rows_about(bytes rows not None, ids):
    """Those of packed report rows that are about one of these orders (16-byte ids), in their order."""
    cdef Pending wanted = Pending()
    cdef Report* row
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(rows) // <Py_ssize_t>sizeof(Report)
    names = b"".join(ids)
    found = []
    wanted.add_many(names, array("I", bytes(4 * (len(names) // 16))))
    wanted.settle()
    for i in range(n):
        row = &(<Report*>PyBytes_AS_STRING(rows))[i]
        if wanted.find(row.cid) != NULL:
            found.append(PyBytes_FromStringAndSize(<char*>row, sizeof(Report)))
    return b"".join(found)
