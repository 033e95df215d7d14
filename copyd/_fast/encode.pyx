# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers, into decimal digits.
"""Order rows to signed, masked WebSocket frames, one contiguous buffer per connection.

The readable twin is ``copyd.venues.binance_usdm.signing.place_text``; a test feeds both and compares bytes. The
signature runs in the standard library's SHA-256 on copied midstates: the key block and ``apiKey=...&newClientOrderId=``
are hashed once per account, which measured 0.9 us per order against 2.2 us for ``hmac.digest`` of the whole string.
A key's secret is kept only as these two midstates.
"""

import hashlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from copyd._fast.columns cimport Columns, Order

cdef const char* HEX = b"0123456789abcdef"
# Longest signed tail and longest frame without key and symbol; both with room to spare, checked by reserve().
cdef enum:
    ORDERS = 7                     # the order table in Columns
    TAIL_MAX = 768
    FRAME_TEXT_MAX = 640


@cython.internal
cdef class Account:
    """One API key: its JSON and its two hash midstates. No repr, no attribute leads to the secret."""
    cdef bytes key_json            # ,"apiKey":"...","timestamp":
    cdef object inner              # SHA-256 after ipad block + apiKey=...&newClientOrderId=
    cdef object outer              # SHA-256 after opad block
    cdef int connection

    def __repr__(self):
        return "<account>"

    def __reduce__(self):
        raise TypeError("an account is not copied or stored")


@cython.internal
cdef class Symbol:
    cdef bytes name
    cdef int price_decimals
    cdef int64_t tick
    cdef int qty_decimals
    cdef int64_t lot


cdef class Out:
    def __cinit__(self, int connection):
        self.connection = connection
        self.data = NULL
        self.size = 0
        self.room = 0
        self.ids = []
        self.slots = []

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef char* bigger
        if self.size + more > self.room:
            bigger = <char*>realloc(self.data, (self.size + more) * 2)
            if bigger == NULL:
                raise MemoryError()
            self.data = bigger
            self.room = (self.size + more) * 2
        return 0


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


cdef class Encoder:
    """Renders and signs orders. ``mask_seed`` seeds the frame masks (RFC 6455: a fresh unpredictable mask per frame)."""

    def __init__(self, int recv_window_ms, uint64_t mask_seed):
        if recv_window_ms <= 0:
            raise ValueError("recv_window_ms must be positive")
        self.accounts = []
        self.instruments = []
        self.outs = {}
        self.touched = []
        self.random = mask_seed | 1
        self.recv_window = b"%d" % recv_window_ms

    def __repr__(self):
        return f"<Encoder of {len(self.accounts)} accounts>"

    def __reduce__(self):
        raise TypeError("an encoder holds keys; it is not copied or stored")

    def set_instrument(self, Py_ssize_t index, str symbol, int price_decimals, int64_t tick, int qty_decimals, int64_t lot):
        """``tick`` in units of 10**-price_decimals, ``lot`` in units of 10**-qty_decimals."""
        if tick <= 0 or lot <= 0 or not 0 <= price_decimals <= 18 or not 0 <= qty_decimals <= 18:
            raise ValueError(f"{symbol}: tick and lot must be positive, decimals 0 to 18")
        cdef Symbol entry = Symbol.__new__(Symbol)
        entry.name = symbol.encode()
        _plain(entry.name, "symbol")
        if len(entry.name) > 64:
            raise ValueError("symbol is too long")
        entry.price_decimals, entry.tick = price_decimals, tick
        entry.qty_decimals, entry.lot = qty_decimals, lot
        while len(self.instruments) <= index:
            self.instruments.append(None)
        self.instruments[index] = entry

    def set_account(self, Py_ssize_t index, bytes api_key not None, bytes secret not None, int connection):
        """Give account ``index`` its key; its orders go to ``connection``. The secret is hashed and not kept."""
        _plain(api_key, "API key")
        if len(api_key) > 256:
            raise ValueError("API key is too long")
        if not secret:
            raise ValueError("secret is empty")
        if connection < 0:
            raise ValueError("connection must not be negative")
        block = (hashlib.sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
        cdef Account account = Account.__new__(Account)
        account.inner = hashlib.sha256(bytes([c ^ 0x36 for c in block]) + b"apiKey=" + api_key + b"&newClientOrderId=")
        account.outer = hashlib.sha256(bytes([c ^ 0x5C for c in block]))
        account.key_json = b'","apiKey":"' + api_key + b'","timestamp":'
        account.connection = connection
        while len(self.accounts) <= index:
            self.accounts.append(None)
        self.accounts[index] = account

    def forget_account(self, Py_ssize_t index):
        """Drop a key (follower removed, key refused); encoding for it is an error from now on."""
        if 0 <= index < len(self.accounts):
            self.accounts[index] = None

    def connection_of(self, Py_ssize_t index):
        """The connection account ``index`` is pinned to."""
        cdef Account account = self.accounts[index]
        return account.connection

    def encode(self, Columns cols not None, const uint32_t[::1] slots not None, int64_t timestamp_ms):
        """Frames for the orders in ``slots``, in that order: list of (connection, buffer, ids, slots of that buffer)."""
        cdef OrderText order
        cdef Order* row
        cdef Py_ssize_t i
        cdef bytes stamp = b"%d" % timestamp_ms
        self.begin()
        for i in range(slots.shape[0]):
            if slots[i] >= cols.counts[ORDERS]:
                raise ValueError(f"order slot {slots[i]} does not exist")
            row = &cols.orders[slots[i]]
            order.cid = row.cid
            order.account, order.instrument = row.account, row.instrument
            order.order_qty, order.limit_px = row.order_qty, row.limit_px
            order.side, order.position_side, order.reduce_only = row.side, row.position_side, row.reduce_only
            self.put(&order, slots[i], PyBytes_AS_STRING(stamp), PyBytes_GET_SIZE(stamp))
        return self.bursts()

    def encode_rows(self, rows not None, int64_t timestamp_ms):
        """As ``encode`` for rows (account, instrument, cid, lots, ticks, side, position_side, reduce_only); slots count rows."""
        cdef OrderText order
        cdef bytes cid, stamp = b"%d" % timestamp_ms
        self.begin()
        for slot, (account, instrument, cid, lots, ticks, side, position_side, reduce_only) in enumerate(rows):
            if len(cid) != 16:
                raise ValueError("a client order id has 16 bytes")
            order.cid = <const unsigned char*>PyBytes_AS_STRING(cid)
            order.account, order.instrument = account, instrument
            order.order_qty, order.limit_px = lots, ticks
            order.side, order.position_side, order.reduce_only = side, position_side, reduce_only
            self.put(&order, slot, PyBytes_AS_STRING(stamp), PyBytes_GET_SIZE(stamp))
        return self.bursts()

    cdef int begin(self) except -1:
        """Start a call: whatever an earlier call left after an error is dropped."""
        cdef Out out
        for out in self.outs.values():
            out.size = 0
            out.ids = []
            out.slots = []
        self.touched = []
        return 0

    cdef list bursts(self):
        """(connection, buffer, ids, slots) per connection that got a frame, in first-use order."""
        cdef Out out
        done = []
        for out in self.touched:
            done.append((out.connection, PyBytes_FromStringAndSize(out.data, out.size), out.ids, out.slots))
        self.begin()
        return done

    cdef int put(self, OrderText* order, object slot, const char* stamp, Py_ssize_t stamp_size) except -1:
        cdef Account account
        cdef Symbol symbol
        cdef Out out
        cdef char tail[TAIL_MAX]
        cdef char qty[32]
        cdef char price[32]
        cdef char* at
        cdef char* frame
        cdef char* text
        cdef Py_ssize_t qty_size, price_size = 0, size, name_size, i
        cdef uint32_t mask
        cdef uint8_t* mask_bytes = <uint8_t*>&mask
        cdef uint64_t wide
        cdef uint64_t* word
        cdef bytes signature
        cdef bint limit = order.limit_px != 0
        cdef bint buy = order.side > 0

        account = self.accounts[order.account] if order.account < <uint32_t>len(self.accounts) else None
        symbol = self.instruments[order.instrument] if order.instrument < <uint32_t>len(self.instruments) else None
        if account is None:
            raise ValueError(f"account {order.account} has no key")
        if symbol is None:
            raise ValueError(f"instrument {order.instrument} is not known")
        if order.order_qty <= 0 or order.limit_px < 0 or order.side == 0:
            raise ValueError("an order has a side, a positive quantity and no negative price")
        if order.order_qty > (<int64_t>1 << 62) / symbol.lot or order.limit_px > (<int64_t>1 << 62) / symbol.tick:
            raise ValueError("order quantity or price is too large")
        name_size = PyBytes_GET_SIZE(symbol.name)
        qty_size = put_scaled(qty, <uint64_t>order.order_qty * symbol.lot, symbol.qty_decimals) - qty
        if limit:
            price_size = put_scaled(price, <uint64_t>order.limit_px * symbol.tick, symbol.price_decimals) - price

        # 1. the signed string from the id on: all parameters sorted by name, k=v joined by &, nothing percent-encoded
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
        at = put_bytes(at, PyBytes_AS_STRING(self.recv_window), PyBytes_GET_SIZE(self.recv_window))
        if order.reduce_only:
            at = put_bytes(at, b"&reduceOnly=true", 16)
        at = put_bytes(at, b"&side=BUY", 9) if buy else put_bytes(at, b"&side=SELL", 10)
        at = put_bytes(put_bytes(at, b"&symbol=", 8), PyBytes_AS_STRING(symbol.name), name_size)
        if limit:
            at = put_bytes(at, b"&timeInForce=IOC", 16)
        at = put_bytes(put_bytes(at, b"&timestamp=", 11), stamp, stamp_size)
        at = put_bytes(at, b"&type=LIMIT", 11) if limit else put_bytes(at, b"&type=MARKET", 12)
        inner = account.inner.copy()
        inner.update(PyBytes_FromStringAndSize(tail, at - tail))
        outer = account.outer.copy()
        outer.update(inner.digest())
        signature = outer.digest()

        # 2. the request, behind room for the longest frame header (8 bytes: every order needs 126..65535 of payload)
        out = self.outs.get(account.connection)
        if out is None:
            out = self.outs[account.connection] = Out(account.connection)
        if out.size == 0:
            self.touched.append(out)
        out.reserve(FRAME_TEXT_MAX + PyBytes_GET_SIZE(account.key_json) + name_size)
        frame = out.data + out.size
        text = frame + 8
        at = put_bytes(text, b'{"id":"', 7)
        at = put_hex(at, order.cid, 16)
        at = put_bytes(at, b'","method":"order.place","params":{"symbol":"', 45)
        at = put_bytes(at, PyBytes_AS_STRING(symbol.name), name_size)
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
        at = put_bytes(at, PyBytes_AS_STRING(account.key_json), PyBytes_GET_SIZE(account.key_json))
        at = put_bytes(at, stamp, stamp_size)
        at = put_bytes(at, b',"recvWindow":', 14)
        at = put_bytes(at, PyBytes_AS_STRING(self.recv_window), PyBytes_GET_SIZE(self.recv_window))
        at = put_bytes(at, b',"signature":"', 14)
        at = put_hex(at, <const unsigned char*>PyBytes_AS_STRING(signature), 32)
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
            word = <uint64_t*>(text + i * 8)
            word[0] ^= wide
        for i in range(size & ~7, size):
            text[i] = text[i] ^ <char>mask_bytes[i & 3]
        out.size += 8 + size
        out.ids.append(PyUnicode_DecodeASCII(tail, 32, NULL))
        out.slots.append(slot)
        return 0
