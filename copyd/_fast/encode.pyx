# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers, into decimal digits.
"""Order rows to signed, masked WebSocket frames, one contiguous buffer per connection.

The readable twin is ``copyd.venues.binance_usdm.signing.place_text``; a test feeds both and compares bytes. Rendering and
signing run without the interpreter lock, so that the journal's commit goes on beside them. The signature starts from saved
hash states: the key block and ``apiKey=...&newClientOrderId=`` are hashed once per account. A key's secret is kept only as
these two states.
"""

import hashlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from copyd._fast.columns cimport Columns, Order

cdef extern from "sha256.h" nogil:
    const uint32_t SHA256_START[8]
    void (*sha256_blocks)(uint32_t* state, const uint8_t* data, size_t blocks) noexcept
    int sha256_choose(int instructions) noexcept
    void sha256_finish(uint32_t* state, uint8_t* data, size_t size, uint64_t total, uint8_t* digest) noexcept

cdef extern from "string.h" nogil:
    void explicit_bzero(void* memory, size_t size)

cdef const char* HEX = b"0123456789abcdef"
cdef enum:
    ORDERS = 7                     # the order table in Columns
    TAIL_MAX = 768                 # longest signed text from the id on, behind the rest of a block, with room for the padding
    FRAME_TEXT_MAX = 640           # longest frame without key and symbol

cdef enum:  # why an order cannot be sent
    FINE = 0
    NO_KEY = 1
    NO_INSTRUMENT = 2
    BAD_NUMBERS = 3
    TOO_LARGE = 4
    NO_MEMORY = 5


def use_sha_instructions(bint wanted):
    """Hash with the processor's SHA instructions when ``wanted`` and there; True when they are in use."""
    return bool(sha256_choose(wanted))


def sha256(bytes message):
    """SHA-256 by the implementation in use; for the comparison with the standard library."""
    cdef uint32_t state[8]
    cdef uint8_t digest[32]
    cdef uint8_t* data
    cdef Py_ssize_t size = len(message)
    data = <uint8_t*>realloc(NULL, size + 72)
    if data == NULL:
        raise MemoryError()
    memcpy(data, PyBytes_AS_STRING(message), size)
    memcpy(state, SHA256_START, 32)
    sha256_finish(state, data, size, size, digest)
    free(data)
    return PyBytes_FromStringAndSize(<char*>digest, 32)


# A processor that says it has the instructions and gives something else must not sign.
if use_sha_instructions(True) and sha256(b"copyd" * 40) != hashlib.sha256(b"copyd" * 40).digest():
    use_sha_instructions(False)


cdef inline char* put_bytes(char* at, const char* text, Py_ssize_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef inline char* put_scaled(char* at, uint64_t value, int decimals) noexcept nogil:
    """``value`` x 10**-decimals without trailing zeros, and without a point for a whole number."""
    cdef char digits[24]
    cdef int n = 0, i
    while decimals > 0 and value % 10 == 0:
        value = value / 10
        decimals -= 1
    while value or n <= decimals:
        digits[n] = <char>(48 + value % 10)
        value = value / 10
        n += 1
    for i in range(n - 1, -1, -1):
        at[0] = digits[i]
        at += 1
        if i == decimals and decimals > 0:
            at[0] = 46
            at += 1
    return at


cdef inline char* put_hex(char* at, const unsigned char* data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        at[0] = HEX[data[i] >> 4]
        at[1] = HEX[data[i] & 15]
        at += 2
    return at


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x


def _plain(bytes text, str what):
    """Refuse what would need escaping in JSON or in the signed string; the text itself stays out of the message."""
    if not text or any(c < 33 or c in b'"\\&=' for c in text):
        raise ValueError(f"{what} is empty or contains a character that cannot be sent")


cdef int reserve(Out* out, Py_ssize_t more) noexcept nogil:
    """Room for ``more`` bytes; -1 when there is no memory."""
    cdef char* bigger
    if out.size + more > out.room:
        bigger = <char*>realloc(out.data, (out.size + more) * 2)
        if bigger == NULL:
            return -1
        out.data = bigger
        out.room = (out.size + more) * 2
    return 0


cdef void* _grown(void* rows, uint32_t* count, Py_ssize_t index, Py_ssize_t wanted, size_t size) except NULL:
    """The rows with ``wanted`` of them if there is none at ``index`` yet; new ones are zero. What is left behind is wiped,
    it may hold hash states."""
    cdef void* bigger
    if not 0 <= index < (1 << 30):
        raise ValueError(f"index {index} is out of range")
    if index < count[0]:
        return rows
    bigger = realloc(NULL, wanted * size)
    if bigger == NULL:
        raise MemoryError()
    memset(<char*>bigger + count[0] * size, 0, (wanted - count[0]) * size)
    if rows != NULL:
        memcpy(bigger, rows, count[0] * size)
        explicit_bzero(rows, count[0] * size)
        free(rows)
    count[0] = <uint32_t>wanted
    return bigger


cdef int _name(list named, int out, const unsigned char* cid, object slot) except -1:
    """The id as its 32 characters, and the slot, to the lists of a connection."""
    cdef char text[32]
    put_hex(text, cid, 16)
    (<list>(<tuple>named[out])[0]).append(PyUnicode_DecodeASCII(text, 32, NULL))
    (<list>(<tuple>named[out])[1]).append(slot)
    return 0


cdef class Encoder:
    """Renders and signs orders. ``mask_seed`` seeds the frame masks (RFC 6455: a fresh unpredictable mask per frame)."""

    def __init__(self, int recv_window_ms, uint64_t mask_seed):
        if recv_window_ms <= 0:
            raise ValueError("recv_window_ms must be positive")
        cdef bytes window = b"%d" % recv_window_ms
        self.window_size = len(window)
        memcpy(self.window, PyBytes_AS_STRING(window), self.window_size)
        self.random = mask_seed | 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_accounts):
            free(self.accounts[i].key_json)
        if self.accounts != NULL:
            explicit_bzero(self.accounts, self.n_accounts * sizeof(Account))
        for i in range(self.n_outs):
            free(self.outs[i].data)
        free(self.accounts)
        free(self.symbols)
        free(self.outs)
        free(self.touched)

    def __repr__(self):
        return f"<Encoder for {self.n_outs} connections>"

    def __reduce__(self):
        raise TypeError("an encoder holds keys; it is not copied or stored")

    def set_instrument(self, Py_ssize_t index, str symbol, int price_decimals, int64_t tick, int qty_decimals, int64_t lot):
        """``tick`` in units of 10**-price_decimals, ``lot`` in units of 10**-qty_decimals."""
        if tick <= 0 or lot <= 0 or not 0 <= price_decimals <= 18 or not 0 <= qty_decimals <= 18:
            raise ValueError(f"{symbol}: tick and lot must be positive, decimals 0 to 18")
        cdef bytes name = symbol.encode()
        _plain(name, "symbol")
        if len(name) > 64:
            raise ValueError("symbol is too long")
        self.symbols = <Symbol*>_grown(self.symbols, &self.n_symbols, index, index + 1, sizeof(Symbol))
        cdef Symbol* entry = &self.symbols[index]
        memcpy(entry.name, PyBytes_AS_STRING(name), len(name))
        entry.name_size = len(name)
        entry.price_decimals, entry.tick = price_decimals, tick
        entry.qty_decimals, entry.lot = qty_decimals, lot

    def set_account(self, Py_ssize_t index, bytes api_key not None, bytes secret not None, int connection):
        """Give account ``index`` its key; its orders go to ``connection``. The secret is hashed and not kept."""
        _plain(api_key, "API key")
        if len(api_key) > 256:
            raise ValueError("API key is too long")
        if not secret:
            raise ValueError("secret is empty")
        if connection < 0:
            raise ValueError("connection must not be negative")
        cdef bytes block = (hashlib.sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
        cdef bytes inner = bytes([c ^ 0x36 for c in block]) + b"apiKey=" + api_key + b"&newClientOrderId="
        cdef bytes outer = bytes([c ^ 0x5C for c in block])
        cdef bytes json = b'","apiKey":"' + api_key + b'","timestamp":'
        cdef int out = self.out_of(connection)
        cdef char* kept = <char*>realloc(NULL, len(json))
        if kept == NULL:
            raise MemoryError()
        memcpy(kept, PyBytes_AS_STRING(json), len(json))
        try:
            self.accounts = <Account*>_grown(
                self.accounts, &self.n_accounts, index, 2 * index + 64, sizeof(Account))
        except BaseException:
            free(kept)
            raise
        cdef Account* account = &self.accounts[index]
        free(account.key_json)
        account.key_json, account.key_json_size = kept, len(json)
        account.inner_size = len(inner) // 64 * 64
        account.rest_size = <int>(len(inner) - account.inner_size)
        memcpy(account.inner, SHA256_START, 32)
        sha256_blocks(account.inner, <uint8_t*>PyBytes_AS_STRING(inner), account.inner_size // 64)
        memcpy(account.rest, PyBytes_AS_STRING(inner) + account.inner_size, account.rest_size)
        memcpy(account.outer, SHA256_START, 32)
        sha256_blocks(account.outer, <uint8_t*>PyBytes_AS_STRING(outer), 1)
        account.out = out

    def forget_account(self, Py_ssize_t index):
        """Drop a key (follower removed, key refused); encoding for it is an error from now on."""
        if 0 <= index < self.n_accounts:
            free(self.accounts[index].key_json)
            explicit_bzero(&self.accounts[index], sizeof(Account))

    def connection_of(self, Py_ssize_t index):
        """The connection account ``index`` is pinned to."""
        if not 0 <= index < self.n_accounts or self.accounts[index].key_json == NULL:
            raise ValueError(f"account {index} has no key")
        return self.outs[self.accounts[index].out].connection

    def encode(self, Columns cols not None, const uint32_t[::1] slots not None, int64_t timestamp_ms):
        """Frames for the orders in ``slots``, in that order: list of (connection, buffer, ids, slots of that buffer)."""
        cdef OrderText order
        cdef Order* row
        cdef Py_ssize_t i, n = slots.shape[0]
        cdef bytes stamp = b"%d" % timestamp_ms
        cdef const char* stamp_text = PyBytes_AS_STRING(stamp)
        cdef Py_ssize_t stamp_size = PyBytes_GET_SIZE(stamp)
        cdef int problem = FINE
        for i in range(n):
            if slots[i] >= cols.counts[ORDERS]:
                raise ValueError(f"order slot {slots[i]} does not exist")
        with nogil:
            self.begin()
            for i in range(n):
                row = &cols.orders[slots[i]]
                order.cid = row.cid
                order.account, order.instrument = row.account, row.instrument
                order.order_qty, order.limit_px = row.order_qty, row.limit_px
                order.side, order.position_side, order.reduce_only = row.side, row.position_side, row.reduce_only
                problem = self.put(&order, stamp_text, stamp_size)
                if problem != FINE:
                    break
        if problem != FINE:
            self.refuse(problem, &order)
        cdef list named = [([], []) for _ in range(self.n_outs)]
        for i in range(n):
            row = &cols.orders[slots[i]]
            _name(named, self.accounts[row.account].out, row.cid, slots[i])
        return self.bursts(named)

    def encode_rows(self, rows not None, int64_t timestamp_ms):
        """As ``encode`` for rows (account, instrument, cid, lots, ticks, side, position_side, reduce_only); slots count rows."""
        cdef OrderText order
        cdef bytes cid, stamp = b"%d" % timestamp_ms
        cdef list named = [([], []) for _ in range(self.n_outs)]
        cdef int problem
        self.begin()
        for slot, (account, instrument, cid, lots, ticks, side, position_side, reduce_only) in enumerate(rows):
            if len(cid) != 16:
                raise ValueError("a client order id has 16 bytes")
            order.cid = <const unsigned char*>PyBytes_AS_STRING(cid)
            order.account, order.instrument = account, instrument
            order.order_qty, order.limit_px = lots, ticks
            order.side, order.position_side, order.reduce_only = side, position_side, reduce_only
            problem = self.put(&order, PyBytes_AS_STRING(stamp), PyBytes_GET_SIZE(stamp))
            if problem != FINE:
                self.refuse(problem, &order)
            _name(named, self.accounts[order.account].out, order.cid, slot)
        return self.bursts(named)

    cdef int out_of(self, int connection) except -1:
        """Index of a connection's Out, made when first named."""
        cdef uint32_t i
        cdef uint32_t* touched
        for i in range(self.n_outs):
            if self.outs[i].connection == connection:
                return <int>i
        i = self.n_outs
        touched = <uint32_t*>realloc(self.touched, (i + 1) * sizeof(uint32_t))
        if touched == NULL:
            raise MemoryError()
        self.touched = touched
        self.outs = <Out*>_grown(self.outs, &self.n_outs, i, i + 1, sizeof(Out))
        self.outs[i].connection = connection
        return <int>i

    cdef void begin(self) noexcept nogil:
        """Start a call: whatever an earlier call left after an error is dropped."""
        cdef uint32_t i
        for i in range(self.n_outs):
            self.outs[i].size = 0
        self.n_touched = 0

    cdef list bursts(self, list named):
        """(connection, buffer, ids, slots) per connection that got a frame, in first-use order."""
        cdef uint32_t i
        cdef Out* out
        cdef list done = []
        for i in range(self.n_touched):
            out = &self.outs[self.touched[i]]
            ids, slots = named[self.touched[i]]
            done.append((out.connection, PyBytes_FromStringAndSize(out.data, out.size), ids, slots))
        return done

    cdef int refuse(self, int problem, OrderText* order) except -1:
        """Say why an order cannot be sent."""
        if problem == NO_KEY:
            raise ValueError(f"account {order.account} has no key")
        if problem == NO_INSTRUMENT:
            raise ValueError(f"instrument {order.instrument} is not known")
        if problem == BAD_NUMBERS:
            raise ValueError("an order has a side, a positive quantity and no negative price")
        if problem == TOO_LARGE:
            raise ValueError("order quantity or price is too large")
        raise MemoryError()

    cdef int put(self, OrderText* order, const char* stamp, Py_ssize_t stamp_size) noexcept nogil:
        """Render, sign and frame one order behind what its connection has; or the reason why not, and nothing is added."""
        cdef Account* account
        cdef Symbol* symbol
        cdef Out* out
        cdef char signed_text[TAIL_MAX]
        cdef char qty[32]
        cdef char price[32]
        cdef uint32_t state[8]
        cdef uint8_t digest[104]       # 32 bytes, behind them room for the padding of the outer hash
        cdef char* tail
        cdef char* at
        cdef char* frame
        cdef char* text
        cdef Py_ssize_t qty_size, price_size = 0, size, i
        cdef uint32_t mask
        cdef uint8_t* mask_bytes = <uint8_t*>&mask
        cdef uint64_t wide
        cdef uint64_t word
        cdef bint limit = order.limit_px != 0
        cdef bint buy = order.side > 0

        if order.account >= self.n_accounts or self.accounts[order.account].key_json == NULL:
            return NO_KEY
        if order.instrument >= self.n_symbols or self.symbols[order.instrument].name_size == 0:
            return NO_INSTRUMENT
        account = &self.accounts[order.account]
        symbol = &self.symbols[order.instrument]
        if order.order_qty <= 0 or order.limit_px < 0 or order.side == 0:
            return BAD_NUMBERS
        if order.order_qty > (<int64_t>1 << 62) / symbol.lot or order.limit_px > (<int64_t>1 << 62) / symbol.tick:
            return TOO_LARGE
        qty_size = put_scaled(qty, <uint64_t>order.order_qty * symbol.lot, symbol.qty_decimals) - qty
        if limit:
            price_size = put_scaled(price, <uint64_t>order.limit_px * symbol.tick, symbol.price_decimals) - price

        # 1. the signed string from the id on: all parameters sorted by name, k=v joined by &, nothing percent-encoded
        memcpy(signed_text, account.rest, account.rest_size)
        tail = signed_text + account.rest_size
        at = put_hex(tail, order.cid, 16)
        at = put_bytes(at, b"&newOrderRespType=RESULT", 24)
        if order.position_side == 1:
            at = put_bytes(at, b"&positionSide=LONG", 18)
        elif order.position_side == 2:
            at = put_bytes(at, b"&positionSide=SHORT", 19)
        if limit:
            at = put_bytes(put_bytes(at, b"&price=", 7), price, price_size)
        at = put_bytes(put_bytes(at, b"&quantity=", 10), qty, qty_size)
        at = put_bytes(at, b"&recvWindow=", 12)
        at = put_bytes(at, self.window, self.window_size)
        if order.reduce_only:
            at = put_bytes(at, b"&reduceOnly=true", 16)
        at = put_bytes(at, b"&side=BUY", 9) if buy else put_bytes(at, b"&side=SELL", 10)
        at = put_bytes(put_bytes(at, b"&symbol=", 8), symbol.name, symbol.name_size)
        if limit:
            at = put_bytes(at, b"&timeInForce=IOC", 16)
        at = put_bytes(put_bytes(at, b"&timestamp=", 11), stamp, stamp_size)
        at = put_bytes(at, b"&type=LIMIT", 11) if limit else put_bytes(at, b"&type=MARKET", 12)
        size = at - signed_text
        memcpy(state, account.inner, 32)
        sha256_finish(state, <uint8_t*>signed_text, size, account.inner_size + size, digest)
        memcpy(state, account.outer, 32)
        sha256_finish(state, digest, 32, 96, digest)

        # 2. the request, behind room for the longest frame header (8 bytes: every order needs 126..65535 of payload)
        out = &self.outs[account.out]
        if reserve(out, FRAME_TEXT_MAX + account.key_json_size + symbol.name_size) < 0:
            return NO_MEMORY
        if out.size == 0:
            self.touched[self.n_touched] = account.out
            self.n_touched += 1
        frame = out.data + out.size
        text = frame + 8
        at = put_bytes(text, b'{"id":"', 7)
        at = put_hex(at, order.cid, 16)
        at = put_bytes(at, b'","method":"order.place","params":{"symbol":"', 45)
        at = put_bytes(at, symbol.name, symbol.name_size)
        at = put_bytes(at, b'","side":"BUY', 13) if buy else put_bytes(at, b'","side":"SELL', 14)
        if order.position_side == 1:
            at = put_bytes(at, b'","positionSide":"LONG', 22)
        elif order.position_side == 2:
            at = put_bytes(at, b'","positionSide":"SHORT', 23)
        if limit:
            at = put_bytes(at, b'","type":"LIMIT","timeInForce":"IOC","quantity":"', 49)
        else:
            at = put_bytes(at, b'","type":"MARKET","quantity":"', 30)
        at = put_bytes(at, qty, qty_size)
        if limit:
            at = put_bytes(put_bytes(at, b'","price":"', 11), price, price_size)
        if order.reduce_only:
            at = put_bytes(at, b'","reduceOnly":"true', 20)
        at = put_bytes(at, b'","newClientOrderId":"', 22)
        at = put_hex(at, order.cid, 16)
        at = put_bytes(at, b'","newOrderRespType":"RESULT', 28)
        at = put_bytes(at, account.key_json, account.key_json_size)
        at = put_bytes(at, stamp, stamp_size)
        at = put_bytes(at, b',"recvWindow":', 14)
        at = put_bytes(at, self.window, self.window_size)
        at = put_bytes(at, b',"signature":"', 14)
        at = put_hex(at, digest, 32)
        at = put_bytes(at, b'"}}', 3)

        # 3. the frame: FIN + text, masked, 16-bit length (RFC 6455, 5.2)
        size = at - text
        mask = <uint32_t>(next_random(&self.random) >> 16)
        frame[0] = <char>0x81
        frame[1] = <char>(0x80 | 126)
        frame[2] = <char>(size >> 8)
        frame[3] = <char>(size & 255)
        memcpy(frame + 4, &mask, 4)
        wide = mask
        wide = wide << 32 | mask
        for i in range(size >> 3):
            memcpy(&word, text + i * 8, 8)
            word ^= wide
            memcpy(text + i * 8, &word, 8)
        for i in range(size & ~7, size):
            text[i] = text[i] ^ <char>mask_bytes[i & 3]
        out.size += 8 + size
        return FINE
