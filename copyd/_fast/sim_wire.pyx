# cython: cdivision=True
# cdivision: every C division here is of non-negative integers, or says its rounding where it stands.
"""The simulated exchange's wire: WebSocket frames in, orders to the engine, answers and user events out. One pass, one write.

A receive buffer is walked frame by frame. `order.place`, the one request that comes in bursts, is read, checked, matched and
answered here without a Python object per field; every other request goes to the Python shell (`copyd.exchange.server`).
Events of the engine become JSON only for accounts and symbols that somebody listens to. What a buffer caused for one
connection leaves in one `transport.write`.

Shapes follow the venue's documents: answers and events of Binance USD-M futures.
"""

from _hashlib import hmac_digest

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport abort, free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, strlen
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from copyd._fast.sim_engine cimport (
    EV_ACCOUNT,
    EV_AMENDED,
    EV_BOOK,
    EV_CANCELED,
    EV_EXPIRED,
    EV_LEVERAGE,
    EV_MARGIN_CALL,
    EV_NEW,
    EV_PUBLIC_TRADE,
    EV_TRADE,
    FLAG_CLOSE_POSITION,
    FLAG_LIQUIDATION,
    FLAG_REDUCE_ONLY,
    MARGIN_ISOLATED,
    REASON_FUNDING_FEE,
    TIF_GTC,
    TYPE_LIMIT,
    TYPE_MARKET,
    Config,
    Engine,
    Event,
    Instrument,
    Leg,
    Order,
)

cdef extern from *:
    """
    typedef __int128 copyd_i128;
    """
    ctypedef long long i128 "copyd_i128"

MAX_MESSAGE = 1 << 20  #: bytes of one message; a longer one closes the connection with 1009
MAX_PENDING = 64 << 20  #: bytes a slow reader may leave unread before its connection is cut

cdef Py_ssize_t max_message = MAX_MESSAGE
cdef Py_ssize_t max_pending = MAX_PENDING

cdef const char** STATUS_TEXT = ["NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"]
cdef const char** TIF_TEXT = ["GTC", "IOC", "FOK", "GTX"]
cdef const char** POS_TEXT = ["BOTH", "LONG", "SHORT"]
cdef const char** STP_TEXT = ["NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"]
cdef const char** REASON_TEXT = ["", "ORDER", "DEPOSIT", "WITHDRAW", "FUNDING_FEE", "INSURANCE_CLEAR", "MARGIN_TRANSFER",
                                 "ADJUSTMENT", "MARGIN_TYPE_CHANGE"]
cdef int64_t* POW10 = [1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000]


# -- a growing byte buffer -----------------------------------------------------------------------------------------------

cdef struct Buf:
    char* data
    Py_ssize_t size
    Py_ssize_t room


cdef void grow(Buf* b, Py_ssize_t more) noexcept nogil:
    cdef Py_ssize_t room = b.room if b.room > 0 else 1024
    while room < b.size + more:
        room *= 2
    b.data = <char*> realloc(b.data, room)
    if b.data == NULL:
        abort()  # nothing sensible is left to do for a simulator out of memory
    b.room = room


cdef inline void put(Buf* b, const char* text, Py_ssize_t size) noexcept nogil:
    if b.size + size > b.room:
        grow(b, size)
    memcpy(b.data + b.size, text, size)
    b.size += size


cdef inline void lit(Buf* b, const char* text) noexcept nogil:
    put(b, text, strlen(text))


cdef inline void put_int(Buf* b, int64_t value) noexcept nogil:
    cdef char[24] digits
    cdef int at = 24
    cdef uint64_t rest = <uint64_t> (-value) if value < 0 else <uint64_t> value
    while True:
        at -= 1
        digits[at] = 48 + <char> (rest % 10)
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        at -= 1
        digits[at] = 45
    put(b, digits + at, 24 - at)


cdef void put_e8(Buf* b, int64_t value, int places) noexcept nogil:
    """`value` in 1e-8 as a decimal text of `places` (0..8) digits, cut toward zero."""
    cdef uint64_t size = <uint64_t> (-value) if value < 0 else <uint64_t> value
    cdef uint64_t frac
    cdef char[8] digits
    cdef int at
    size //= <uint64_t> POW10[8 - places]
    if value < 0 and size != 0:
        lit(b, "-")
    put_int(b, <int64_t> (size // <uint64_t> POW10[places]))
    if places == 0:
        return
    frac = size % <uint64_t> POW10[places]
    at = places
    while at > 0:
        at -= 1
        digits[at] = 48 + <char> (frac % 10)
        frac //= 10
    lit(b, ".")
    put(b, digits, places)


cdef inline void put_px(Buf* b, Instrument* inst, int64_t px) noexcept nogil:
    put_e8(b, px * inst.tick_e8, inst.price_precision)


cdef inline void put_qty(Buf* b, Instrument* inst, int64_t qty) noexcept nogil:
    put_e8(b, qty * inst.lot_e8, inst.qty_precision)


cdef inline int64_t average_e8(Instrument* inst, int64_t value_e8, int64_t qty) noexcept nogil:
    """Price in 1e-8 of `qty` lots worth `value_e8` (same sign), cut toward zero."""
    if qty == 0:
        return 0
    return <int64_t> ((<i128> value_e8 * 100000000) // (<i128> qty * inst.lot_e8)) if (value_e8 >= 0) == (qty > 0) \
        else -<int64_t> ((<i128> -value_e8 * 100000000) // (<i128> qty * inst.lot_e8))


cdef inline int average_places(Instrument* inst) noexcept nogil:
    return 8 if inst.price_precision + 3 > 8 else inst.price_precision + 3


cdef void frame(Buf* out, int opcode, const char* data, Py_ssize_t size) noexcept nogil:
    """One unfragmented, unmasked frame (RFC 6455 5.2)."""
    cdef uint8_t[10] head
    cdef int n = 2, i
    head[0] = 0x80 | opcode
    if size < 126:
        head[1] = <uint8_t> size
    elif size < 65536:
        head[1] = 126
        head[2] = <uint8_t> (size >> 8)
        head[3] = <uint8_t> size
        n = 4
    else:
        head[1] = 127
        for i in range(8):
            head[2 + i] = <uint8_t> (size >> (56 - 8 * i))
        n = 10
    put(out, <const char*> head, n)
    put(out, data, size)


cdef void unmask(uint8_t* data, Py_ssize_t size, const uint8_t* key) noexcept nogil:
    cdef uint64_t wide, word
    cdef Py_ssize_t i = 0
    memcpy(&wide, key, 4)
    memcpy((<char*> &wide) + 4, key, 4)
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        word ^= wide
        memcpy(data + i, &word, 8)
        i += 8
    while i < size:
        data[i] ^= key[i & 3]
        i += 1


# -- requests ------------------------------------------------------------------------------------------------------------

cdef struct Tok:           # one parameter as it was sent
    const char* k
    const char* v
    int kn
    int vn

cdef struct Req:
    const char* id         # raw text, quotes included
    int id_n
    const char* method
    int method_n
    int n
    Tok[40] toks           # sorted by name once scanned


cdef inline const char* blank(const char* p, const char* end) noexcept nogil:
    while p < end and (p[0] == 32 or p[0] == 10 or p[0] == 13 or p[0] == 9):
        p += 1
    return p


cdef inline const char* text_end(const char* p, const char* end) noexcept nogil:
    """`p` is behind the opening quote; the closing quote, or NULL when there is none or an escape is inside."""
    cdef const char* q = <const char*> memchr(p, 34, end - p)
    if q == NULL or memchr(p, 92, q - p) != NULL:
        return NULL
    return q


cdef inline const char* word_end(const char* p, const char* end) noexcept nogil:
    """End of a number or of true / false; NULL when none stands here."""
    cdef const char* q = p
    while q < end and (48 <= q[0] <= 57 or 97 <= q[0] <= 122 or q[0] == 43 or q[0] == 45 or q[0] == 46 or q[0] == 69):
        q += 1
    if q == p or p[0] == 110:  # null: the careful path says what is missing
        return NULL
    return q


cdef bint scan_params(const char** at, const char* end, Req* r) noexcept nogil:
    cdef const char* p = blank(at[0] + 1, end)
    cdef const char* q
    cdef Tok* t
    if p < end and p[0] == 125:
        at[0] = p + 1
        return True
    while True:
        if p >= end or p[0] != 34 or r.n == 40:
            return False
        t = &r.toks[r.n]
        q = text_end(p + 1, end)
        if q == NULL:
            return False
        t.k = p + 1
        t.kn = <int> (q - p - 1)
        p = blank(q + 1, end)
        if p >= end or p[0] != 58:
            return False
        p = blank(p + 1, end)
        if p >= end:
            return False
        if p[0] == 34:
            q = text_end(p + 1, end)
            if q == NULL:
                return False
            t.v = p + 1
            t.vn = <int> (q - p - 1)
            p = q + 1
        else:
            q = word_end(p, end)
            if q == NULL:
                return False
            t.v = p
            t.vn = <int> (q - p)
            p = q
        r.n += 1
        p = blank(p, end)
        if p >= end:
            return False
        if p[0] == 125:
            at[0] = p + 1
            return True
        if p[0] != 44:
            return False
        p = blank(p + 1, end)


cdef bint scan_request(const char* p, Py_ssize_t size, Req* r) noexcept nogil:
    """A flat {"id", "method", "params"} with no escapes and no repeated names; False sends it the careful way."""
    cdef const char* end = p + size
    cdef const char* k
    cdef const char* q
    cdef int kn, i, j, c, m
    cdef Tok t
    r.id_n = r.method_n = r.n = 0
    p = blank(p, end)
    if p >= end or p[0] != 123:
        return False
    p = blank(p + 1, end)
    while True:
        if p >= end or p[0] != 34:
            return False
        q = text_end(p + 1, end)
        if q == NULL:
            return False
        k = p + 1
        kn = <int> (q - p - 1)
        p = blank(q + 1, end)
        if p >= end or p[0] != 58:
            return False
        p = blank(p + 1, end)
        if p >= end:
            return False
        if kn == 6 and memcmp(k, b"params", 6) == 0:
            if p[0] != 123 or not scan_params(&p, end, r):
                return False
        elif kn == 2 and memcmp(k, b"id", 2) == 0:
            r.id = p
            if p[0] == 34:
                q = text_end(p + 1, end)
                if q == NULL:
                    return False
                p = q + 1
            else:
                p = word_end(p, end)
                if p == NULL:
                    return False
            r.id_n = <int> (p - r.id)
        elif kn == 6 and memcmp(k, b"method", 6) == 0 and p[0] == 34:
            q = text_end(p + 1, end)
            if q == NULL:
                return False
            r.method = p + 1
            r.method_n = <int> (q - p - 1)
            p = q + 1
        else:
            return False
        p = blank(p, end)
        if p < end and p[0] == 44:
            p = blank(p + 1, end)
            continue
        if p >= end or p[0] != 125 or blank(p + 1, end) != end:
            return False
        break
    for i in range(1, r.n):  # insertion sort: clients mostly send them nearly sorted, and there are few
        t = r.toks[i]
        j = i
        while j > 0:
            m = t.kn if t.kn < r.toks[j - 1].kn else r.toks[j - 1].kn
            c = memcmp(t.k, r.toks[j - 1].k, m)
            if c == 0:
                c = t.kn - r.toks[j - 1].kn
                if c == 0:
                    return False
            if c > 0:
                break
            r.toks[j] = r.toks[j - 1]
            j -= 1
        r.toks[j] = t
    return r.id_n > 0 and r.method_n > 0


cdef inline bint same(const char* a, int n, const char* word) noexcept nogil:
    return n == <int> strlen(word) and memcmp(a, word, n) == 0


cdef inline bint same_fold(const char* a, int n, const char* lower) noexcept nogil:
    """Like `same`, `a` in either case."""
    cdef int i
    if n != <int> strlen(lower):
        return False
    for i in range(n):
        if (a[i] | 32) != lower[i]:
            return False
    return True


cdef int64_t whole(const char* text, int n) noexcept nogil:
    """A non-negative integer of at most 18 digits, else -1."""
    cdef int64_t value = 0
    cdef int i
    if n == 0 or n > 18:
        return -1
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    return value


cdef struct OrderArgs:
    int symbol
    int side
    int type
    int tif
    int pos_side
    int stp
    bint reduce_only
    bint close_position
    bint result
    const char* client
    int client_n
    int64_t qty
    int64_t px
    const char* bad        # the parameter an error is about, NULL when the text does not name one


cdef int64_t last_ns = 0


cdef inline int64_t clock_ns() noexcept nogil:
    """Wall clock, never going back (the engine's rule)."""
    global last_ns
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    cdef int64_t now = <int64_t> t.tv_sec * 1000000000 + t.tv_nsec
    if now > last_ns:
        last_ns = now
    return last_ns


def now_ns() -> int:
    """Wall clock in ns, never going back."""
    return clock_ns()


# -- who is asking -------------------------------------------------------------------------------------------------------

cdef class OrderMeter:
    """Order counts of one account in the venue's two fixed windows (10 s, 1 min)."""

    cdef int64_t window_10s, window_1m
    cdef readonly int64_t count_10s, count_1m

    cdef void roll(self, int64_t ns) noexcept:
        cdef int64_t w = ns // 10000000000
        if w != self.window_10s:
            self.window_10s = w
            self.count_10s = 0
        w = ns // 60000000000
        if w != self.window_1m:
            self.window_1m = w
            self.count_1m = 0

    def add(self, ns: int, n_10s: int, n_1m: int) -> None:
        self.roll(ns)
        self.count_10s += n_10s
        self.count_1m += n_1m

    def counts(self, ns: int) -> tuple:
        self.roll(ns)
        return self.count_10s, self.count_1m


cdef class IpMeter:
    """Request weight of one address in the current minute; refusals beyond the limit lead to a ban."""

    cdef int64_t window
    cdef readonly int64_t used
    cdef public int64_t refused, banned_until_ns
    cdef readonly str ip

    def __init__(self, ip: str) -> None:
        self.ip = ip

    cdef int64_t c_used(self, int64_t ns) noexcept:
        cdef int64_t w = ns // 60000000000
        if w != self.window:
            self.window = w
            self.used = 0
            self.refused = 0
        return self.used

    def add(self, ns: int, weight: int) -> int:
        self.c_used(ns)
        self.used += weight
        return self.used


cdef class Key:
    """One API key: whose it is and how its signatures are checked."""

    cdef readonly bytes api_key
    cdef bytes secret                #: HMAC secret; empty for the other kinds
    cdef readonly str kind           #: hmac, ed25519 or rsa
    cdef object verify               #: (message, signature text) -> bool for ed25519 and rsa
    cdef readonly int32_t account
    cdef readonly str name
    cdef public OrderMeter meter
    cdef public bint can_trade

    def __init__(self, api_key: bytes, secret: bytes, kind: str, verify: object, account: int, name: str,
                 meter: OrderMeter) -> None:
        self.api_key = api_key
        self.secret = secret
        self.kind = kind
        self.verify = verify
        self.account = account
        self.name = name
        self.meter = meter
        self.can_trade = True

    cdef bint c_signed(self, bytes message, const char* signature, int n):
        cdef bytes digest
        cdef const uint8_t* d
        cdef int i, c
        if self.verify is not None:
            return self.verify(message, signature[:n])
        if n != 64:
            return False
        digest = hmac_digest(self.secret, message, "sha256")
        d = <const uint8_t*> PyBytes_AS_STRING(digest)
        for i in range(64):  # hex, either case (the venue takes both)
            c = (d[i >> 1] >> (4 if i & 1 == 0 else 0)) & 15
            c = c + 48 if c < 10 else c + 87
            if (signature[i] | 32 if signature[i] > 57 else signature[i]) != c:
                return False
        return True

    def signed(self, message: bytes, signature: bytes) -> bool:
        return self.c_signed(message, PyBytes_AS_STRING(signature), <int> PyBytes_GET_SIZE(signature))


# -- connections ---------------------------------------------------------------------------------------------------------

cdef enum:
    WAITING = 0     # for the upgrade request
    OPEN = 1
    CLOSING = 2     # close frame sent
    CLOSED = 3


cdef class Listener:
    """One subscription: events of one listen key or symbol stream on one connection."""

    cdef readonly WsConn conn
    cdef readonly bytes stream       #: its name; goes around each event on a combined connection
    cdef readonly object events      #: allow-list of event names, None = all
    cdef readonly list place         #: the list this listener is in

    def __init__(self, conn: WsConn, stream: bytes, place: list, events: object = None) -> None:
        self.conn = conn
        self.stream = stream
        self.place = place
        self.events = events
        place.append(self)


cdef class WsConn:
    """A WebSocket connection, as asyncio protocol. No extension is ever negotiated."""

    cdef Wire wire
    cdef object transport
    cdef Buf inbox
    cdef Buf out
    cdef int state
    cdef bint dirty
    cdef bint stalled
    cdef bytearray partial           # fragments of an unfinished message
    cdef readonly str path
    cdef readonly str peer
    cdef public bint is_api          #: True: WebSocket API, False: streams
    cdef public bint combined        #: events are wrapped in {"stream", "data"}
    cdef public bint rate_limits     #: answers carry "rateLimits"
    cdef public object session       #: Key after session.logon
    cdef public object session_info
    cdef public IpMeter meter
    cdef public object streams       #: name -> Listener
    cdef public str area             #: public, market, private or "" for the old unrouted path
    cdef public int64_t opened_ns, last_ping_ns, last_pong_ns, message_window, message_count

    def __cinit__(self, wire: Wire) -> None:
        self.wire = wire
        self.rate_limits = True
        self.streams = {}

    def __dealloc__(self):
        free(self.inbox.data)
        free(self.out.data)

    # asyncio.Protocol

    def connection_made(self, transport: object) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self.opened_ns = self.last_ping_ns = self.last_pong_ns = clock_ns()

    def connection_lost(self, exc: object) -> None:
        self.state = CLOSED
        free(self.inbox.data)
        free(self.out.data)
        self.inbox.data = self.out.data = NULL
        self.inbox.size = self.inbox.room = self.out.size = self.out.room = 0
        self.wire.shell.on_lost(self)

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        if self.state >= CLOSING:
            return
        put(&self.inbox, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if self.state == WAITING and not self.shake_hands():
            return
        self.walk()
        self.wire.finish()

    cdef bint shake_hands(self) except -1:
        cdef bytes text = self.inbox.data[:self.inbox.size]
        cdef Py_ssize_t end = text.find(b"\r\n\r\n")
        if end < 0:
            if self.inbox.size > 131072:  # an address may name 1024 listen keys
                self.transport.abort()
            return False
        self.eat(end + 4)
        lines = text[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        parts = lines[0].split(" ")
        self.path = parts[1] if len(parts) > 1 else ""
        answer, accepted = self.wire.shell.on_open(self, parts[0], self.path, headers)
        if not accepted:
            self.transport.write(answer)
            self.transport.close()
            self.state = CLOSED
            return False
        self.transport.write(answer)
        self.state = OPEN
        self.wire.shell.on_opened(self)
        return True

    cdef void eat(self, Py_ssize_t n) noexcept:
        self.inbox.size -= n
        if self.inbox.size > 0:
            memmove(self.inbox.data, self.inbox.data + n, self.inbox.size)
        elif self.inbox.room > 65536:
            free(self.inbox.data)
            self.inbox.data = NULL
            self.inbox.room = 0

    cdef int walk(self) except -1:
        """Every complete frame in the inbox."""
        cdef Py_ssize_t at = 0, size, left
        cdef uint8_t* p
        cdef int opcode, head, i
        cdef bint fin
        while self.state == OPEN:
            left = self.inbox.size - at
            if left < 2:
                break
            p = <uint8_t*> self.inbox.data + at
            fin = (p[0] & 0x80) != 0
            opcode = p[0] & 15
            size = p[1] & 127
            head = 6
            if p[0] & 0x70 or not p[1] & 0x80:
                self.close(1002, "frames of a client are masked and carry no extension")
                break
            if size == 126:
                head = 8
            elif size == 127:
                head = 14
            if left < head:
                break
            if size == 126:
                size = (p[2] << 8) | p[3]
            elif size == 127:
                size = 0
                for i in range(8):
                    size = (size << 8) | p[2 + i]
            if size < 0 or size > max_message or (self.partial is not None and len(self.partial) + size > max_message):
                self.close(1009, "message too big")
                break
            if opcode >= 8 and (size > 125 or not fin):
                self.close(1002, "malformed control frame")
                break
            if left < head + size:
                break
            unmask(p + head, size, p + head - 4)
            at += head + size
            if opcode == 1 and fin and self.partial is None:
                self.text(<const char*> p + head, size)
            elif opcode <= 2:
                self.piece(opcode, fin, <const char*> p + head, size)
            elif opcode == 8:
                frame(&self.out, 8, <const char*> p + head, size if size >= 2 else 0)
                self.state = CLOSING
                self.flush()
                self.transport.close()
                break
            elif opcode == 9:
                frame(&self.out, 10, <const char*> p + head, size)
                self.touch()
            elif opcode == 10:
                self.last_pong_ns = clock_ns()
            else:
                self.close(1002, "unknown opcode")
                break
        if self.state == CLOSED:
            return 0
        if self.state == CLOSING:
            self.inbox.size = 0
        elif at > 0:
            self.eat(at)
        return 0

    cdef int piece(self, int opcode, bint fin, const char* data, Py_ssize_t size) except -1:
        """Fragmented and binary messages; rare, so plainly."""
        cdef bytes whole_text
        if (opcode == 0) == (self.partial is None):
            self.close(1002, "continuation out of order")
            return 0
        if opcode == 2:
            self.close(1003, "text only")
            return 0
        if self.partial is None:
            self.partial = bytearray()
        self.partial += data[:size]
        if fin:
            whole_text = bytes(self.partial)
            self.partial = None
            self.text(PyBytes_AS_STRING(whole_text), PyBytes_GET_SIZE(whole_text))
        return 0

    cdef int text(self, const char* data, Py_ssize_t size) except -1:
        if self.is_api:
            if self.wire.fast_order(self, data, size):
                return 0
            self.wire.settle()
            self.wire.shell.on_api_text(self, data[:size])
        else:
            self.wire.settle()
            self.wire.shell.on_stream_text(self, data[:size])
        return 0

    cdef void touch(self):
        if not self.dirty:
            self.dirty = True
            self.wire.dirty.append(self)

    cdef int flush(self) except -1:
        self.dirty = False
        if self.out.size == 0 or self.stalled or self.state == WAITING:
            return 0
        if self.state == CLOSED or self.transport is None or self.transport.is_closing():
            self.out.size = 0
            return 0
        if self.transport.get_write_buffer_size() > max_pending:
            self.out.size = 0
            self.transport.abort()
            return 0
        self.transport.write(PyBytes_FromStringAndSize(self.out.data, self.out.size))
        self.out.size = 0
        if self.out.room > 262144:
            free(self.out.data)
            self.out.data = NULL
            self.out.room = 0
        return 0

    # for the shell

    @property
    def is_open(self) -> bool:
        return self.state == OPEN

    def send(self, payload: bytes) -> None:
        """Queue one text message; it leaves with the next flush of the wire."""
        if self.state == OPEN:
            frame(&self.out, 1, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
            self.touch()

    def ping(self) -> None:
        if self.state == OPEN:
            self.last_ping_ns = clock_ns()
            text = b"%d" % (self.last_ping_ns // 1000000)
            frame(&self.out, 9, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            self.touch()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; a moment later close the transport. What arrives until then is read and thrown away:
        closing over unread bytes would reset the connection and lose the close frame."""
        if self.state != OPEN:
            return
        body = code.to_bytes(2, "big") + reason.encode()[:120]
        frame(&self.out, 8, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        self.state = CLOSING
        self.stalled = False
        self.flush()
        self.wire.shell.call_later(0.2, self.transport.close)

    def abort(self) -> None:
        """Cut the connection without a close frame; what was queued is lost."""
        self.out.size = 0
        if self.transport is not None:
            self.transport.abort()

    def stall(self, on: bool) -> None:
        """While stalled nothing leaves; everything queued leaves when it ends."""
        self.stalled = on
        if not on:
            self.flush()


cdef class Wire:
    """Engine, keys and subscriptions as the compiled path sees them. `shell` is the Python side (`ExchangeServer`)."""

    cdef readonly Engine engine
    cdef public object shell
    cdef readonly dict keys          #: api key bytes -> Key
    cdef readonly list listeners     #: account -> None or list of Listener
    cdef readonly list book_listeners, trade_listeners, agg_listeners   #: symbol -> list of Listener
    cdef readonly list all_book_listeners
    cdef list symbols                # symbol bytes by index
    cdef list dirty                  # connections with something to flush
    cdef public bint slow            #: True while fault rules exist: every request takes the careful path
    cdef public object event_fault   #: None, or called (account, event name, client id, payload) -> payloads to send now
    cdef public int64_t limit_10s, limit_1m   #: orders of an account, 0 = lifted
    cdef public int64_t skew_ns      #: what the exchange's clients see of its clock minus the truth, for tests of clock errors
    cdef const char* auth_bad        # the parameter a -1102 of the last authentication is about
    cdef bint batching               # between c_begin and c_end
    cdef Buf scratch, reply
    cdef readonly int64_t n_placed, n_events_sent

    def __init__(self, engine: Engine, shell: object) -> None:
        self.engine = engine
        self.shell = shell
        self.keys = {}
        self.listeners = []
        self.symbols = [spec.symbol.encode() for spec in engine.specs]
        self.book_listeners = [[] for _ in self.symbols]
        self.trade_listeners = [[] for _ in self.symbols]
        self.agg_listeners = [[] for _ in self.symbols]
        self.all_book_listeners = []
        self.dirty = []
        self.limit_10s, self.limit_1m = 300, 1200

    def __dealloc__(self):
        free(self.scratch.data)
        free(self.reply.data)

    def connection(self) -> WsConn:
        """Protocol factory for `loop.create_server`."""
        return WsConn(self)

    def time_ns(self) -> int:
        """The exchange's clock."""
        return clock_ns()

    def server_ns(self) -> int:
        """The clock its clients are told and their timestamps are held against: the same but for a skew set on purpose."""
        return clock_ns() + self.skew_ns

    def add_key(self, key: Key) -> None:
        self.keys[key.api_key] = key
        while len(self.listeners) <= key.account:
            self.listeners.append(None)

    # -- the fast path -------------------------------------------------------------------------------------------------

    cdef bint fast_order(self, WsConn conn, const char* data, Py_ssize_t size) except -1:
        """`order.place` in one pass: True when it was answered here."""
        cdef Req r
        cdef OrderArgs a
        cdef Key key
        cdef int code
        cdef int32_t slot
        cdef int64_t now
        if self.slow or not scan_request(data, size, &r) or not same(r.method, r.method_n, "order.place"):
            return False
        now = clock_ns()
        code = 0
        key = self.authenticate(conn, &r, now + self.skew_ns, &code)
        if key is None:
            self.refuse(conn, &r, code, self.auth_bad if code == -1102 else NULL, None, now)
            return True
        code = self.count_order(key, now)
        if code < 0:
            self.refuse(conn, &r, code, NULL, key, now)
            return True
        code = self.read_order(r.toks, r.n, &a)
        if code < 0:
            self.refuse(conn, &r, code, a.bad, key, now)
            return True
        if not self.batching:
            self.engine.c_begin()
            self.batching = True
        slot = self.engine.c_place(key.account, a.symbol, a.side, a.type, a.tif, a.qty, a.px, a.reduce_only,
                                   a.close_position, a.pos_side, a.client, a.client_n, now, a.stp)
        if slot < 0:
            self.refuse(conn, &r, slot, NULL, key, now)
            return True
        self.n_placed += 1
        self.reply.size = 0
        lit(&self.reply, '{"id":')
        put(&self.reply, r.id, r.id_n)
        lit(&self.reply, ',"status":200,"result":')
        self.put_order(&self.reply, slot, a.result, False)
        self.put_limits(&self.reply, conn, key, now)
        frame(&conn.out, 1, self.reply.data, self.reply.size)
        conn.touch()
        return True

    cdef Key authenticate(self, WsConn conn, Req* r, int64_t now, int* code):
        """The key of a signed request, or None and the error code."""
        cdef int i, ki = -1, si = -1, ti = -1, wi = -1
        cdef int64_t stamp, window = 5000, now_ms = now // 1000000
        cdef Key key
        for i in range(r.n):
            if same(r.toks[i].k, r.toks[i].kn, "apiKey"):
                ki = i
            elif same(r.toks[i].k, r.toks[i].kn, "signature"):
                si = i
            elif same(r.toks[i].k, r.toks[i].kn, "timestamp"):
                ti = i
            elif same(r.toks[i].k, r.toks[i].kn, "recvWindow"):
                wi = i
        if ki < 0:
            if conn.session is None:
                code[0] = -2014
                return None
            key = conn.session
        else:
            key = self.keys.get(r.toks[ki].v[:r.toks[ki].vn])
            if key is None:
                code[0] = -2015 if r.toks[ki].vn >= 16 else -2014
                return None
        self.auth_bad = "timestamp"
        if ti < 0:
            code[0] = -1102
            return None
        stamp = whole(r.toks[ti].v, r.toks[ti].vn)
        if stamp < 0:
            code[0] = -1102
            return None
        if wi >= 0:
            window = whole(r.toks[wi].v, r.toks[wi].vn)
            if window < 0 or window > 60000:
                code[0] = -1131
                return None
        if stamp >= now_ms + 1000 or now_ms - stamp > window:
            code[0] = -1021
            return None
        if ki < 0 and si < 0:
            return key  # logged on: no signature needed
        if si < 0:
            self.auth_bad = "signature"
            code[0] = -1102
            return None
        self.scratch.size = 0
        for i in range(r.n):
            if i == si:
                continue
            if self.scratch.size > 0:
                lit(&self.scratch, "&")
            put(&self.scratch, r.toks[i].k, r.toks[i].kn)
            lit(&self.scratch, "=")
            put(&self.scratch, r.toks[i].v, r.toks[i].vn)
        if not key.c_signed(PyBytes_FromStringAndSize(self.scratch.data, self.scratch.size), r.toks[si].v, r.toks[si].vn):
            code[0] = -1022
            return None
        return key

    cdef int count_order(self, Key key, int64_t now) noexcept:
        """Take one order of the account's allowance: 0, -1015 (too many) or -2015 (a key that may not trade)."""
        if not key.can_trade:
            return -2015
        key.meter.roll(now)
        if (self.limit_10s > 0 and key.meter.count_10s >= self.limit_10s) or \
                (self.limit_1m > 0 and key.meter.count_1m >= self.limit_1m):
            return -1015
        key.meter.count_10s += 1
        key.meter.count_1m += 1
        return 0

    cdef int read_order(self, Tok* toks, int n, OrderArgs* a) except? -999999:
        """Parameters of a new order: 0 or an error code, with the offending parameter in `a.bad`."""
        cdef int i, j, kn, vn
        cdef const char* k
        cdef const char* v
        cdef const char* qty = NULL
        cdef const char* px = NULL
        cdef int qty_n = 0, px_n = 0
        cdef bint has_side = False, has_type = False, has_tif = False, has_symbol = False
        cdef bytes name
        a.bad = NULL
        a.symbol = a.side = a.type = a.tif = 0
        a.pos_side = 0
        a.stp = 2
        a.reduce_only = a.close_position = a.result = False
        a.client = ""
        a.client_n = 0
        a.qty = a.px = 0
        for i in range(n):
            k = toks[i].k
            kn = toks[i].kn
            v = toks[i].v
            vn = toks[i].vn
            if same(k, kn, "symbol"):
                has_symbol = vn > 0
                a.symbol = -1
                for j in range(len(self.symbols)):
                    name = <bytes> self.symbols[j]
                    if PyBytes_GET_SIZE(name) == vn and memcmp(PyBytes_AS_STRING(name), v, vn) == 0:
                        a.symbol = j
                        break
            elif same(k, kn, "side"):
                has_side = vn > 0
                if same_fold(v, vn, "buy"):
                    a.side = 1
                elif same_fold(v, vn, "sell"):
                    a.side = -1
                elif has_side:
                    return -1117
            elif same(k, kn, "type"):
                has_type = vn > 0
                if same_fold(v, vn, "limit"):
                    a.type = TYPE_LIMIT
                elif same_fold(v, vn, "market"):
                    a.type = TYPE_MARKET
                elif has_type:
                    for word in (b"STOP", b"STOP_MARKET", b"TAKE_PROFIT", b"TAKE_PROFIT_MARKET", b"TRAILING_STOP_MARKET"):
                        if v[:vn] == word:
                            return -4120
                    return -1116
            elif same(k, kn, "timeInForce"):
                has_tif = vn > 0
                for j in range(4):
                    if same(v, vn, TIF_TEXT[j]):
                        a.tif = j
                        break
                else:
                    if has_tif:
                        return -1115  # GTD and RPI are not modelled
            elif same(k, kn, "quantity"):
                qty = v
                qty_n = vn
            elif same(k, kn, "price"):
                px = v
                px_n = vn
            elif same(k, kn, "reduceOnly"):
                a.reduce_only = same_fold(v, vn, "true")
                if not a.reduce_only and not same_fold(v, vn, "false"):
                    a.bad = "reduceOnly"
                    return -1130
            elif same(k, kn, "closePosition"):
                a.close_position = same_fold(v, vn, "true")
            elif same(k, kn, "newClientOrderId"):
                a.client = v
                a.client_n = vn
                if vn == 0 or vn > 36:
                    return -4015
            elif same(k, kn, "newOrderRespType"):
                a.result = same(v, vn, "RESULT")
                if not a.result and not same(v, vn, "ACK"):
                    a.bad = "newOrderRespType"
                    return -1130
            elif same(k, kn, "positionSide"):
                for j in range(3):
                    if same(v, vn, POS_TEXT[j]):
                        a.pos_side = j
                        break
                else:
                    a.bad = "positionSide"
                    return -1130
            elif same(k, kn, "selfTradePreventionMode"):
                for j in range(4):
                    if same(v, vn, STP_TEXT[j]):
                        a.stp = j
                        break
                else:
                    a.bad = "selfTradePreventionMode"
                    return -1130
            elif same(k, kn, "priceMatch") and not same(v, vn, "NONE"):
                a.bad = "priceMatch"
                return -1130  # not modelled
        if not has_symbol:
            a.bad = "symbol"
            return -1102
        if a.symbol < 0:
            return -1121
        if not has_side:
            a.bad = "side"
            return -1102
        if not has_type:
            a.bad = "type"
            return -1102
        if qty == NULL and not a.close_position:
            a.bad = "quantity"
            return -1102
        if qty != NULL:
            a.bad = "quantity"
            a.qty = self.engine.c_parse_qty(a.symbol, qty, qty_n)
            if a.qty < 0:
                return <int> a.qty
        if a.type == TYPE_LIMIT:
            if not has_tif:
                a.bad = "timeInForce"
                return -1102
            a.bad = "price"
            if px == NULL:
                return -1102
            a.px = self.engine.c_parse_px(a.symbol, px, px_n)
            if a.px < 0:
                return <int> a.px
        elif has_tif and a.tif == 3:
            return -1115
        a.bad = NULL
        return 0

    cdef int refuse(self, WsConn conn, Req* r, int code, const char* parameter, Key key, int64_t now) except -1:
        """Queue the error answer and remember it for the truth."""
        cdef bytes body
        cdef str about = parameter.decode() if parameter != NULL else None
        cdef int i
        client = symbol = b""
        for i in range(r.n):
            if same(r.toks[i].k, r.toks[i].kn, "newClientOrderId"):
                client = r.toks[i].v[:r.toks[i].vn]
            elif same(r.toks[i].k, r.toks[i].kn, "symbol"):
                symbol = r.toks[i].v[:r.toks[i].vn]
        status, body = self.shell.on_refused(code, about, key, "order.place", symbol, client)
        self.reply.size = 0
        lit(&self.reply, '{"id":')
        put(&self.reply, r.id, r.id_n)
        lit(&self.reply, ',"status":')
        put_int(&self.reply, status)
        lit(&self.reply, ',"error":')
        put(&self.reply, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        self.put_limits(&self.reply, conn, key, now)
        frame(&conn.out, 1, self.reply.data, self.reply.size)
        conn.touch()
        return 0

    cdef void put_limits(self, Buf* b, WsConn conn, Key key, int64_t now):
        """The `rateLimits` array, unless the connection asked not to have it, and the end of the answer."""
        if conn.rate_limits:
            lit(b, ',"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":2400,"count":')
            put_int(b, conn.meter.c_used(now) if conn.meter is not None else 0)
            if key is not None:
                key.meter.roll(now)
                lit(b, '},{"rateLimitType":"ORDERS","interval":"SECOND","intervalNum":10,"limit":300,"count":')
                put_int(b, key.meter.count_10s)
                lit(b, '},{"rateLimitType":"ORDERS","interval":"MINUTE","intervalNum":1,"limit":1200,"count":')
                put_int(b, key.meter.count_1m)
            lit(b, '}]')
        lit(b, '}')

    # -- for the careful path ------------------------------------------------------------------------------------------

    def open_request(self, conn: WsConn, payload: bytes) -> object:
        """(raw id, method, parameters in order of name, Key or None, error code or 0), or None when it cannot be read flat.

        Authentication is tried when the request carries a key or the connection is logged on."""
        cdef Req r
        cdef int code = 0, i
        cdef Key key = None
        cdef bint keyed = conn.session is not None
        if not scan_request(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), &r):
            return None
        params = {}
        for i in range(r.n):
            params[r.toks[i].k[:r.toks[i].kn].decode()] = r.toks[i].v[:r.toks[i].vn].decode()
            if same(r.toks[i].k, r.toks[i].kn, "apiKey"):
                keyed = True
        if keyed:
            key = self.authenticate(conn, &r, clock_ns() + self.skew_ns, &code)
        return r.id[:r.id_n], r.method[:r.method_n].decode(), params, key, code

    def open_params(self, conn: WsConn, params: dict) -> tuple:
        """(Key or None, error code or 0) of a request whose parameters were read by a JSON decoder."""
        cdef Req r
        cdef int code = 0
        r.n = 0
        if len(params) > 40:
            return None, -1101
        alive = []
        for name in sorted(params):
            k = name.encode()
            v = params[name].encode()
            alive.append((k, v))
            r.toks[r.n].k = PyBytes_AS_STRING(k)
            r.toks[r.n].kn = <int> PyBytes_GET_SIZE(k)
            r.toks[r.n].v = PyBytes_AS_STRING(v)
            r.toks[r.n].vn = <int> PyBytes_GET_SIZE(v)
            r.n += 1
        if "apiKey" not in params and conn.session is None:
            return None, 0
        key = self.authenticate(conn, &r, clock_ns() + self.skew_ns, &code)
        return key, code

    def limits_json(self, conn: WsConn, Key key) -> bytes:
        """The tail of an answer: `,"rateLimits":[...]}` or `}`."""
        self.reply.size = 0
        self.put_limits(&self.reply, conn, key, clock_ns())
        return self.reply.data[:self.reply.size]

    def count_new_order(self, key: Key) -> int:
        """Take one order of the account's allowance: 0, -1015 or -2015."""
        return self.count_order(key, clock_ns())

    def place(self, key: Key, params: dict) -> tuple:
        """New order from parameters as bytes: (slot or code, parameter the error is about or None, RESULT wanted)."""
        cdef Tok[40] toks
        cdef OrderArgs a
        cdef int n = 0, code
        cdef int32_t slot
        cdef int64_t now = clock_ns()
        if len(params) > 40:
            return -1101, None, False
        for name, value in params.items():
            toks[n].k = PyBytes_AS_STRING(name)
            toks[n].kn = <int> PyBytes_GET_SIZE(name)
            toks[n].v = PyBytes_AS_STRING(value)
            toks[n].vn = <int> PyBytes_GET_SIZE(value)
            n += 1
        code = self.read_order(toks, n, &a)
        if code < 0:
            return code, (a.bad.decode() if a.bad != NULL else None), a.result
        self.settle()
        self.engine.c_begin()
        slot = self.engine.c_place(key.account, a.symbol, a.side, a.type, a.tif, a.qty, a.px, a.reduce_only,
                                   a.close_position, a.pos_side, a.client, a.client_n, now, a.stp)
        self.engine.c_end(now)
        if slot >= 0:
            self.n_placed += 1
        self.tell()
        return slot, None, a.result

    def order_json(self, slot: int, result: bool = True, times: bool = True) -> bytes:
        """An order as the venue shows it. `result` False: as it was at acceptance (ACK)."""
        self.reply.size = 0
        self.put_order(&self.reply, slot, result, times)
        return self.reply.data[:self.reply.size]

    cdef void put_order(self, Buf* b, int32_t slot, bint result, bint times):
        cdef Order* o = self.engine.order_ptr(slot)
        cdef Instrument* inst = &self.engine.inst[o.symbol]
        cdef int64_t done = o.cum_qty, value = o.cum_value_e8
        cdef int status = o.status
        if not result or (not times and o.type == TYPE_LIMIT and o.tif == TIF_GTC):
            done = value = status = 0  # only MARKET, IOC, FOK and GTX answers wait for the engine's result
        lit(b, '{"orderId":')
        put_int(b, o.order_id)
        lit(b, ',"symbol":"')
        self.put_symbol(b, o.symbol)
        lit(b, '","status":"')
        lit(b, STATUS_TEXT[status])
        lit(b, '","clientOrderId":"')
        put(b, o.client_id, o.client_size)
        lit(b, '","price":"')
        put_px(b, inst, o.px)
        lit(b, '","avgPrice":"')
        put_e8(b, average_e8(inst, value, done), average_places(inst))
        lit(b, '","origQty":"')
        put_qty(b, inst, o.qty)
        lit(b, '","executedQty":"')
        put_qty(b, inst, done)
        if not times:
            lit(b, '","cumQty":"')
            put_qty(b, inst, done)
        lit(b, '","cumQuote":"')
        put_e8(b, value, 8)
        lit(b, '","timeInForce":"')
        lit(b, TIF_TEXT[o.tif])
        lit(b, '","type":"')
        lit(b, "LIMIT" if o.type == TYPE_LIMIT else "MARKET")
        lit(b, '","reduceOnly":')
        lit(b, "true" if o.flags & FLAG_REDUCE_ONLY else "false")
        lit(b, ',"closePosition":')
        lit(b, "true" if o.flags & FLAG_CLOSE_POSITION else "false")
        lit(b, ',"side":"')
        lit(b, "BUY" if o.side > 0 else "SELL")
        lit(b, '","positionSide":"')
        lit(b, POS_TEXT[o.pos_side])
        lit(b, '","stopPrice":"')
        put_px(b, inst, 0)
        lit(b, '","workingType":"CONTRACT_PRICE","priceProtect":false,"origType":"')
        lit(b, "LIMIT" if o.type == TYPE_LIMIT else "MARKET")
        lit(b, '","priceMatch":"NONE","selfTradePreventionMode":"')
        lit(b, STP_TEXT[o.stp])
        lit(b, '","goodTillDate":0,')
        if times:
            lit(b, '"time":')
            put_int(b, o.ts_new // 1000000)
            lit(b, ',')
        lit(b, '"updateTime":')
        put_int(b, (o.ts_update if result else o.ts_new) // 1000000)
        lit(b, '}')

    cdef void put_symbol(self, Buf* b, int symbol):
        cdef bytes name = <bytes> self.symbols[symbol]
        put(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    # -- events out ----------------------------------------------------------------------------------------------------

    cdef int settle(self) except -1:
        """End a batch of fast orders, so that the engine can be called from Python."""
        if self.batching:
            self.batching = False
            self.engine.c_end(clock_ns())
            self.tell()
        return 0

    cdef int finish(self) except -1:
        self.settle()
        self.flush()
        return 0

    def drain(self) -> None:
        """Send out what the engine's last call caused. To be called right after every changing call made from Python."""
        self.tell()

    def flush(self) -> None:
        """Hand every connection's queued bytes to its transport."""
        cdef WsConn conn
        if self.dirty:
            conns = self.dirty
            self.dirty = []
            for conn in conns:
                conn.flush()

    cdef int tell(self) except -1:
        cdef int i, n = self.engine.n_events
        cdef Event* e
        for i in range(n):
            e = &self.engine.events[i]
            if e.account >= 0:
                if e.account < len(self.listeners) and self.listeners[e.account]:
                    self.tell_user(e)
            elif e.kind == EV_BOOK:
                if self.book_listeners[e.symbol] or self.all_book_listeners:
                    self.put_book(e)
                    self.deliver(<list> self.book_listeners[e.symbol], &self.scratch)
                    self.deliver(self.all_book_listeners, &self.scratch)
            elif e.kind == EV_PUBLIC_TRADE:
                if self.agg_listeners[e.symbol]:
                    self.put_public(e, True)
                    self.deliver(<list> self.agg_listeners[e.symbol], &self.scratch)
                if self.trade_listeners[e.symbol]:
                    self.put_public(e, False)
                    self.deliver(<list> self.trade_listeners[e.symbol], &self.scratch)
        return 0

    cdef int deliver(self, list listeners, Buf* payload, const char* name = NULL) except -1:
        cdef Listener listener
        cdef WsConn conn
        for listener in listeners:
            conn = listener.conn
            if conn.state != OPEN:
                continue
            if listener.events is not None and name != NULL and name.decode() not in listener.events:
                continue
            self.n_events_sent += 1
            if conn.combined:
                self.reply.size = 0
                lit(&self.reply, '{"stream":"')
                put(&self.reply, PyBytes_AS_STRING(listener.stream), PyBytes_GET_SIZE(listener.stream))
                lit(&self.reply, '","data":')
                put(&self.reply, payload.data, payload.size)
                lit(&self.reply, '}')
                frame(&conn.out, 1, self.reply.data, self.reply.size)
            else:
                frame(&conn.out, 1, payload.data, payload.size)
            conn.touch()
        return 0

    def publish(self, listeners: list, payload: bytes, name: bytes = b"") -> None:
        """Send one event to each of the listeners (that take events of this name)."""
        cdef Buf b
        b.data = PyBytes_AS_STRING(payload)
        b.size = PyBytes_GET_SIZE(payload)
        b.room = 0
        self.deliver(listeners, &b, PyBytes_AS_STRING(name) if name else NULL)

    def publish_user(self, account: int, name: bytes, payload: bytes) -> None:
        """Send one event to whoever listens to this account."""
        if account < len(self.listeners) and self.listeners[account]:
            self.publish(self.listeners[account], payload, name)

    cdef int user_event(self, Event* e, const char* name) except -1:
        cdef list listeners = <list> self.listeners[e.account]
        cdef Order* o
        cdef bytes client
        if self.event_fault is None:
            return self.deliver(listeners, &self.scratch, name)
        client = b""
        if e.slot >= 0:
            o = self.engine.order_ptr(e.slot)
            client = o.client_id[:o.client_size]
        payload = self.scratch.data[:self.scratch.size]
        for item in self.event_fault(e.account, name.decode(), client, payload):
            self.publish(listeners, item, name)
        return 0

    cdef int tell_user(self, Event* e) except -1:
        if e.kind == EV_NEW or e.kind == EV_TRADE or e.kind == EV_CANCELED or e.kind == EV_EXPIRED or e.kind == EV_AMENDED:
            if e.kind == EV_TRADE:
                self.put_trade_lite(e)
                self.user_event(e, "TRADE_LITE")
            self.put_order_event(e)
            self.user_event(e, "ORDER_TRADE_UPDATE")
        elif e.kind == EV_ACCOUNT:
            self.put_account_event(e)
            self.user_event(e, "ACCOUNT_UPDATE")
        elif e.kind == EV_LEVERAGE:
            self.head("ACCOUNT_CONFIG_UPDATE", e.ts)
            lit(&self.scratch, ',"ac":{"s":"')
            self.put_symbol(&self.scratch, e.symbol)
            lit(&self.scratch, '","l":')
            put_int(&self.scratch, e.qty)
            lit(&self.scratch, '}}')
            self.user_event(e, "ACCOUNT_CONFIG_UPDATE")
        elif e.kind == EV_MARGIN_CALL:
            self.put_margin_call(e)
            self.user_event(e, "MARGIN_CALL")
        return 0

    cdef void head(self, const char* name, int64_t ts):
        cdef Buf* b = &self.scratch
        b.size = 0
        lit(b, '{"e":"')
        lit(b, name)
        lit(b, '","T":')
        put_int(b, ts // 1000000)
        lit(b, ',"E":')
        put_int(b, ts // 1000000)

    cdef void put_trade_lite(self, Event* e):
        cdef Buf* b = &self.scratch
        cdef Order* o = self.engine.order_ptr(e.slot)
        cdef Instrument* inst = &self.engine.inst[e.symbol]
        self.head("TRADE_LITE", e.ts)
        lit(b, ',"s":"')
        self.put_symbol(b, e.symbol)
        lit(b, '","q":"')
        put_qty(b, inst, o.qty)
        lit(b, '","p":"')
        put_px(b, inst, o.px)
        lit(b, '","m":')
        lit(b, "true" if e.maker else "false")
        lit(b, ',"c":"')
        put(b, o.client_id, o.client_size)
        lit(b, '","S":"')
        lit(b, "BUY" if e.side > 0 else "SELL")
        lit(b, '","L":"')
        put_px(b, inst, e.px)
        lit(b, '","l":"')
        put_qty(b, inst, e.qty)
        lit(b, '","t":')
        put_int(b, e.trade_id)
        lit(b, ',"i":')
        put_int(b, e.order_id)
        lit(b, '}')

    cdef void put_order_event(self, Event* e):
        cdef Buf* b = &self.scratch
        cdef Order* o = self.engine.order_ptr(e.slot)
        cdef Instrument* inst = &self.engine.inst[e.symbol]
        cdef bint trade = e.kind == EV_TRADE
        self.head("ORDER_TRADE_UPDATE", e.ts)
        lit(b, ',"o":{"s":"')
        self.put_symbol(b, e.symbol)
        lit(b, '","c":"')
        put(b, o.client_id, o.client_size)
        lit(b, '","S":"')
        lit(b, "BUY" if e.side > 0 else "SELL")
        lit(b, '","o":"')
        lit(b, "LIQUIDATION" if o.flags & FLAG_LIQUIDATION else ("LIMIT" if o.type == TYPE_LIMIT else "MARKET"))
        lit(b, '","f":"')
        lit(b, TIF_TEXT[o.tif])
        lit(b, '","q":"')
        put_qty(b, inst, o.qty)
        lit(b, '","p":"')
        put_px(b, inst, o.px)
        lit(b, '","ap":"')
        put_e8(b, average_e8(inst, e.cum_value_e8, e.cum_qty), average_places(inst))
        lit(b, '","sp":"')
        put_px(b, inst, 0)
        lit(b, '","x":"')
        if trade:
            lit(b, "CALCULATED" if o.flags & FLAG_LIQUIDATION else "TRADE")
        elif e.kind == EV_NEW:
            lit(b, "NEW")
        elif e.kind == EV_CANCELED:
            lit(b, "CANCELED")
        elif e.kind == EV_AMENDED:
            lit(b, "AMENDMENT")
        else:
            lit(b, "EXPIRED")
        lit(b, '","X":"')
        lit(b, STATUS_TEXT[e.status])
        lit(b, '","i":')
        put_int(b, e.order_id)
        lit(b, ',"l":"')
        put_qty(b, inst, e.qty if trade else 0)
        lit(b, '","z":"')
        put_qty(b, inst, e.cum_qty)
        lit(b, '","L":"')
        put_px(b, inst, e.px if trade else 0)
        if trade:
            lit(b, '","N":"USDT","n":"')
            put_e8(b, e.fee_e8, 8)
        lit(b, '","T":')
        put_int(b, e.ts // 1000000)
        lit(b, ',"t":')
        put_int(b, e.trade_id if trade else 0)
        lit(b, ',"b":"0","a":"0","m":')
        lit(b, "true" if trade and e.maker else "false")
        lit(b, ',"R":')
        lit(b, "true" if o.flags & FLAG_REDUCE_ONLY else "false")
        lit(b, ',"wt":"CONTRACT_PRICE","ot":"')
        lit(b, "LIQUIDATION" if o.flags & FLAG_LIQUIDATION else ("LIMIT" if o.type == TYPE_LIMIT else "MARKET"))
        lit(b, '","ps":"')
        lit(b, POS_TEXT[o.pos_side])
        lit(b, '","cp":')
        lit(b, "true" if o.flags & FLAG_CLOSE_POSITION else "false")
        lit(b, ',"rp":"')
        put_e8(b, e.pnl_e8 if trade else 0, 8)
        lit(b, '","pP":false,"si":0,"ss":0,"V":"')
        lit(b, STP_TEXT[o.stp])
        lit(b, '","pm":"NONE","gtd":0,"er":"0"}}')

    cdef void put_account_event(self, Event* e):
        cdef Buf* b = &self.scratch
        cdef Instrument* inst
        cdef Config* config
        cdef int64_t upnl
        cdef bint isolated
        self.head("ACCOUNT_UPDATE", e.ts)
        lit(b, ',"a":{"m":"')
        lit(b, REASON_TEXT[e.reason])
        lit(b, '","B":[{"a":"USDT","wb":"')
        put_e8(b, e.wallet_e8, 8)
        lit(b, '","cw":"')
        put_e8(b, e.cross_wallet_e8, 8)
        lit(b, '","bc":"')
        put_e8(b, e.change_e8, 8)
        lit(b, '"}],"P":[')
        if e.symbol >= 0:
            inst = &self.engine.inst[e.symbol]
            config = self.engine.config_ptr(e.account, e.symbol)
            isolated = config.margin_type == MARGIN_ISOLATED
            if e.reason != REASON_FUNDING_FEE or isolated:  # funding of a crossed position pushes no position
                upnl = e.qty * inst.mark * inst.value_mul - e.cum_value_e8
                lit(b, '{"s":"')
                self.put_symbol(b, e.symbol)
                lit(b, '","pa":"')
                put_qty(b, inst, e.qty)
                lit(b, '","ep":"')
                put_e8(b, average_e8(inst, e.cum_value_e8, e.qty), 8)
                lit(b, '","bep":"')
                put_e8(b, average_e8(inst, e.cum_value_e8, e.qty), 8)
                lit(b, '","cr":"')
                put_e8(b, e.pnl_e8, 8)
                lit(b, '","up":"')
                put_e8(b, upnl, 8)
                lit(b, '","mt":"')
                lit(b, "isolated" if isolated else "cross")
                lit(b, '","iw":"')
                put_e8(b, e.iso_wallet_e8, 8)
                lit(b, '","ps":"')
                lit(b, POS_TEXT[e.pos_side])
                lit(b, '"}')
        lit(b, ']}}')

    cdef void put_margin_call(self, Event* e):
        cdef Buf* b = &self.scratch
        cdef Instrument* inst
        cdef Leg* leg
        cdef int symbol, side
        cdef bint first = True
        self.head("MARGIN_CALL", e.ts)
        lit(b, ',"cw":"')
        put_e8(b, e.cross_wallet_e8, 8)
        lit(b, '","p":[')
        for symbol in range(self.engine.n_symbols):
            inst = &self.engine.inst[symbol]
            for side in range(3):
                leg = self.engine.leg_ptr(e.account, symbol, side)
                if leg.qty == 0:
                    continue
                if not first:
                    lit(b, ',')
                first = False
                lit(b, '{"s":"')
                self.put_symbol(b, symbol)
                lit(b, '","ps":"')
                lit(b, POS_TEXT[side])
                lit(b, '","pa":"')
                put_qty(b, inst, leg.qty)
                lit(b, '","mt":"')
                lit(b, "ISOLATED" if self.engine.config_ptr(e.account, symbol).margin_type == MARGIN_ISOLATED else "CROSSED")
                lit(b, '","iw":"')
                put_e8(b, leg.iso_wallet_e8, 8)
                lit(b, '","mp":"')
                put_px(b, inst, inst.mark)
                lit(b, '","up":"')
                put_e8(b, leg.qty * inst.mark * inst.value_mul - leg.cost_e8, 8)
                lit(b, '"}')
        lit(b, ']}')

    cdef void put_book(self, Event* e):
        cdef Buf* b = &self.scratch
        cdef Instrument* inst = &self.engine.inst[e.symbol]
        b.size = 0
        lit(b, '{"e":"bookTicker","u":')
        put_int(b, inst.update_id)
        lit(b, ',"s":"')
        self.put_symbol(b, e.symbol)
        lit(b, '","b":"')
        put_px(b, inst, e.px)
        lit(b, '","B":"')
        put_qty(b, inst, e.qty)
        lit(b, '","a":"')
        put_px(b, inst, e.cum_qty)
        lit(b, '","A":"')
        put_qty(b, inst, e.cum_value_e8)
        lit(b, '","T":')
        put_int(b, e.ts // 1000000)
        lit(b, ',"E":')
        put_int(b, e.ts // 1000000)
        lit(b, '}')

    cdef void put_public(self, Event* e, bint aggregate):
        """aggTrade or trade. Every execution is its own aggregate, so both ids are the trade id."""
        cdef Buf* b = &self.scratch
        cdef Instrument* inst = &self.engine.inst[e.symbol]
        b.size = 0
        lit(b, '{"e":"aggTrade","E":' if aggregate else '{"e":"trade","E":')
        put_int(b, e.ts // 1000000)
        lit(b, ',"a":' if aggregate else ',"t":')
        put_int(b, e.trade_id)
        lit(b, ',"s":"')
        self.put_symbol(b, e.symbol)
        lit(b, '","p":"')
        put_px(b, inst, e.px)
        lit(b, '","q":"')
        put_qty(b, inst, e.qty)
        if aggregate:
            lit(b, '","f":')
            put_int(b, e.trade_id)
            lit(b, ',"l":')
            put_int(b, e.trade_id)
            lit(b, ',"T":')
        else:
            lit(b, '","X":"MARKET","T":')
        put_int(b, e.ts // 1000000)
        lit(b, ',"m":')
        lit(b, "true" if e.side < 0 else "false")
        lit(b, '}')
