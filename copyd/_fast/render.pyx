# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers.
"""Order rows into templates: masked WebSocket frames or HTTP requests, signed where the template says so, a burst per account.

A venue that wants orders on a connection of the account, or as requests, needs no kernel of its own: its readable twin makes
one text per *shape* (instrument, side, limit or market, position side, reduce-only), that text is cut where an order's own
values stand (``copyd.venues.common.templates``), and orders are spliced in between. So both give the same bytes by construction.

A template is a sequence of literal bytes and fields: ``QTY`` and ``PX`` (shortest decimals), ``CID`` (32 hex digits), ``TIME``
(ms; ``(TIME, n)`` is n ms later), ``KEY``, ``PASS``, ``SIGN`` (HMAC-SHA256 of the template ``signed``), ``LENGTH`` (bytes of a
request's body) and ``BODY`` (that body, inside ``signed``).

Rendering and signing run without the interpreter lock; one call at a time. Text that all orders of a call share is made once;
what is left per order are its id, its quantity and its key. A secret is kept only as the two hash states that follow from it.

Memory: 336 bytes per account, for up to twice the accounts in use; beside that up to 138 bytes per order of the largest call so
far, whoever's they were, and twice the texts of 32 orders. No account has a buffer of its own.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from copyd._fast.columns cimport Columns, Order
from copyd._fast.hashing cimport (
    key_states, many as sha256_many, pad as sha256_pad, put as sha256_put,
)
from copyd._fast.texts cimport (
    STRIDE, explicit_bzero, fetch_soon, grown, mask_text, next_random, put_base64, put_bytes, put_hex, put_scaled,
    put_strides, refuse_unplain,
)

cdef enum:
    ORDERS = 7                     # the order table in Columns
    AHEAD = 12                     # orders whose rows are fetched before they are needed
    ORDER_BYTES = sizeof(Burst) + sizeof(Draft) + 16 + 3 * sizeof(uint32_t)

cdef enum:  # the fields; 0 ends a template
    F_END = 0
    F_QTY = 1
    F_PX = 2
    F_CID = 3
    F_TIME = 4
    F_KEY = 5
    F_PASS = 6
    F_SIGN = 7
    F_LENGTH = 8
    F_BODY = 9

cdef enum:  # why an order cannot be sent
    FINE = 0
    NO_KEY = 1
    NO_INSTRUMENT = 2
    BAD_NUMBERS = 3
    TOO_LARGE = 4
    NO_MEMORY = 5
    NO_SHAPE = 6
    TOO_LONG = 7
    CHANGED = 8

QTY, PX, CID, TIME, KEY, PASS, SIGN, LENGTH, BODY = F_QTY, F_PX, F_CID, F_TIME, F_KEY, F_PASS, F_SIGN, F_LENGTH, F_BODY

_NAMES = dict(enumerate(("QTY", "PX", "CID", "TIME", "KEY", "PASS", "SIGN", "LENGTH", "BODY"), 1))
_DAY_MS = 86_400_000


cdef inline int kind_of(bint buy, bint limit, int position_side, bint reduce_only) noexcept nogil:
    """Place of a shape among those of its instrument."""
    return ((buy * 2 + limit) * 3 + position_side) * 2 + reduce_only


cdef str words_of(bint buy, bint limit, int position_side, bint reduce_only):
    return (f"a {'limit' if limit else 'market'} order, {'buy' if buy else 'sell'}, position side {position_side}"
            f"{', reduce-only' if reduce_only else ''}")


cdef list pieces_of(object template, str what, list body=None):
    """The template as (literal, field, offset) with neighbouring literals as one; ``BODY`` becomes the pieces of ``body``."""
    cdef list pieces = []
    literal = b""
    for part in template:
        field, offset = part if isinstance(part, tuple) and len(part) == 2 else (part, 0)
        if isinstance(part, bytes):
            literal += part
        elif not isinstance(field, int) or field not in _NAMES or not isinstance(offset, int):
            raise ValueError(f"{what}: a template is made of bytes, fields, and (TIME, ms)")
        elif offset and field != F_TIME or not 0 <= offset <= _DAY_MS:
            raise ValueError(f"{what}: only TIME may be moved, by 0 to {_DAY_MS} ms")
        elif field == F_BODY and body is not None:
            for more, inner, offset in body:
                literal += more
                if inner != F_END:
                    pieces.append((literal, inner, offset))
                    literal = b""
        else:
            pieces.append((literal, field, offset))
            literal = b""
    pieces.append((literal, F_END, 0))
    return pieces


cdef int check_fields(list pieces, tuple allowed, str what) except -1:
    """Refuse every other field."""
    for _, field, _ in pieces:
        if field not in (F_END, *allowed):
            raise ValueError(f"{what} cannot hold {_NAMES[field]}")
    return 0


cdef int fill(Template* template, list pieces, str what) except -1:
    """The pieces in C's form."""
    cdef bytes text = b"".join([literal for literal, _, _ in pieces])
    cdef Piece* piece
    if len(pieces) > PIECES:
        raise ValueError(f"{what} has more than {PIECES - 1} fields")
    if len(text) > TEXT_MAX:
        raise ValueError(f"{what} is longer than {TEXT_MAX} bytes")
    template.text = <char*>calloc(1, len(text) + STRIDE)
    if template.text == NULL:
        raise MemoryError()
    memcpy(template.text, PyBytes_AS_STRING(text), len(text))
    template.room = <uint32_t>(len(text) + STRIDE)
    for literal, field, offset in pieces:
        piece = &template.pieces[template.n]
        piece.begin, piece.size, piece.field, piece.offset_ms = template.size, len(literal), field, offset
        template.size += piece.size
        template.counts[piece.field] += 1
        template.n += 1
    return 0


cdef void drop(Shape* shape) noexcept:
    if shape != NULL:
        free(shape.text.text)
        free(shape.body.text)
        free(shape.signed.text)
        free(shape)


cdef int cook(Template* done, Template* raw, const char* px, Py_ssize_t px_size, int64_t now_ms) noexcept nogil:
    """The template at a price and a time, of which both become literal; -1 when there is no memory."""
    cdef size_t need = raw.size + raw.counts[F_PX] * px_size + raw.counts[F_TIME] * 24 + 2 * STRIDE
    cdef Piece* piece
    cdef char* at
    cdef void* bigger
    cdef int i
    cdef uint32_t begin = 0
    if done.room < need:
        bigger = realloc(done.text, need)
        if bigger == NULL:
            return -1
        done.text, done.room = <char*>bigger, <uint32_t>need
    memset(done.counts, 0, sizeof(done.counts))
    done.n = 0
    at = done.text
    for i in range(raw.n):
        piece = &raw.pieces[i]
        at = put_strides(at, raw.text + piece.begin, piece.size)
        if piece.field == F_PX:
            at = put_bytes(at, px, px_size)
        elif piece.field == F_TIME:
            at = put_scaled(at, <uint64_t>(now_ms + piece.offset_ms), 0)
        else:
            done.pieces[done.n].begin = begin
            done.pieces[done.n].size = <uint32_t>(at - done.text) - begin
            done.pieces[done.n].field = piece.field
            done.counts[piece.field] += 1
            done.n += 1
            begin = <uint32_t>(at - done.text)
    done.size = begin
    return 0


cdef inline Py_ssize_t size_of(Template* cooked, Values* values, int signature_size) noexcept nogil:
    """Bytes that the template makes with these values."""
    return (cooked.size + cooked.counts[F_CID] * 32 + cooked.counts[F_QTY] * values.qty_size
            + cooked.counts[F_KEY] * values.account.key_size + cooked.counts[F_PASS] * values.account.pass_size
            + cooked.counts[F_SIGN] * signature_size + cooked.counts[F_LENGTH] * values.length_size)


cdef inline int digits_of(Py_ssize_t value) noexcept nogil:
    """Digits of a number below 100 000."""
    return 1 + (value > 9) + (value > 99) + (value > 999) + (value > 9999)


cdef inline char* put_template(Template* cooked, char* at, Values* values, int signature_size) noexcept nogil:
    """Splices the values in; behind what is written up to two strides are spoilt."""
    cdef Piece* piece = cooked.pieces
    cdef Piece* last = piece + cooked.n
    while piece < last:
        at = put_strides(at, cooked.text + piece.begin, piece.size)
        if piece.field == F_CID:
            at = put_bytes(at, values.id_text, 32)
        elif piece.field == F_QTY:
            at = put_strides(at, values.qty, values.qty_size)
        elif piece.field == F_KEY:
            at = put_strides(at, values.account.key, values.account.key_size)
        elif piece.field == F_SIGN:
            values.signature = at
            at += signature_size
        elif piece.field == F_LENGTH:
            at = put_strides(at, values.length, values.length_size)
        elif piece.field == F_PASS:
            at = put_strides(at, values.account.passphrase, values.account.pass_size)
        piece += 1
    return at


cdef void sign(Group* group) noexcept nogil:
    """HMAC of every lane: the inner hashes, those of equal length together, then all outer ones."""
    cdef int lane, first, count, n = group.lanes
    cdef uint64_t done = 0
    for first in range(n):
        if done >> first & 1:
            continue
        count = 0
        for lane in range(first, n):
            if group.blocks[lane] == group.blocks[first]:
                done |= <uint64_t>1 << lane
                group.states[count] = group.inner[lane]
                group.data[count] = group.starts[lane]
                count += 1
        sha256_many(group.states, group.data, group.blocks[first], count)
    for lane in range(n):
        sha256_put(group.inner[lane], group.outer_lanes[lane])
        group.states[lane] = group.outer[lane]
        group.data[lane] = group.outer_lanes[lane]
    if n:
        sha256_many(group.states, group.data, 1, n)


cdef class Renderer:
    """Renders and signs orders.

    ``target``: ``"frame"`` (a masked WebSocket text frame per order) or ``"request"`` (an HTTP request per order).
    ``mask_seed`` seeds the frame masks (RFC 6455: a fresh unpredictable mask per frame). ``signature``: its encoding,
    ``"hex"`` or ``"base64"``.
    """

    def __cinit__(self):
        cdef int lane
        self.cooked = <Cooked*>calloc(COOKED, sizeof(Cooked))
        self.group = <Group*>calloc(1, sizeof(Group))
        if self.cooked == NULL or self.group == NULL:
            raise MemoryError()
        for lane in range(GROUP):
            sha256_pad(self.group.outer_lanes[lane], 32, 96)  # every outer hash ends alike

    def __init__(self, str target not None, uint64_t mask_seed, str signature not None="hex"):
        if target not in ("frame", "request"):
            raise ValueError(f'target {target!r} is neither "frame" nor "request"')
        if signature not in ("hex", "base64"):
            raise ValueError(f'signature {signature!r} is neither "hex" nor "base64"')
        self.target, self.signature = target, signature
        self.frames = target == "frame"
        self.hexadecimal = signature == "hex"
        self.signature_size = 64 if self.hexadecimal else 44
        self.random = mask_seed | 1

    def __dealloc__(self):
        cdef uint32_t i
        cdef int at
        if self.accounts != NULL:
            explicit_bzero(self.accounts, self.n_accounts * sizeof(Account))
        for i in range(self.n_symbols):
            for at in range(SHAPES):
                drop(self.symbols[i].shapes[at])
        if self.cooked != NULL:
            for at in range(COOKED):
                free(self.cooked[at].text.text)
                free(self.cooked[at].body.text)
                free(self.cooked[at].signed.text)
        if self.group != NULL:
            self.wipe()
        free(self.accounts)
        free(self.symbols)
        free(self.cooked)
        free(self.group)
        free(self.data)
        free(self.tables)

    def __repr__(self):
        return f"<Renderer of {'frames' if self.frames else 'requests'}>"

    def __reduce__(self):
        raise TypeError("a renderer holds keys; it is not copied or stored")

    def set_instrument(self, Py_ssize_t index, int price_decimals, int64_t tick, int qty_decimals, int64_t lot):
        """``tick`` in units of 10**-price_decimals, ``lot`` in units of 10**-qty_decimals."""
        if tick <= 0 or lot <= 0 or not 0 <= price_decimals <= 18 or not 0 <= qty_decimals <= 18:
            raise ValueError(f"instrument {index}: tick and lot must be positive, decimals 0 to 18")
        if index > 0xFFFF:
            raise ValueError(f"index {index} is out of range")
        self.symbols = <Symbol*>grown(self.symbols, &self.n_symbols, index, index + 1, sizeof(Symbol))
        cdef Symbol* entry = &self.symbols[index]
        entry.price_decimals, entry.tick = price_decimals, tick
        entry.qty_decimals, entry.lot = qty_decimals, lot
        entry.px_max, entry.qty_max = (<int64_t>1 << 62) // tick, (<int64_t>1 << 62) // lot

    def set_shape(self, Py_ssize_t instrument, int side, bint limit, int position_side, bint reduce_only,
                  object text not None, *, object signed not None=(), object body not None=()):
        """The templates of an instrument's orders of one kind. ``side`` +1 or -1; ``text``: the frame's payload, or the request
        up to where ``body`` begins; ``signed``: what the signature is made of.

        An order's id and quantity must stand in its text or body, a limit order's price too; a signature at most once.
        """
        if not 0 <= instrument < self.n_symbols or self.symbols[instrument].tick == 0:
            raise ValueError(f"instrument {instrument} is not known")
        if side not in (1, -1) or not 0 <= position_side <= 2:
            raise ValueError("a shape has a side, +1 or -1, and a position side, 0 to 2")
        words = f"instrument {instrument}, {words_of(side > 0, limit, position_side, reduce_only)}"
        inner = pieces_of(body, words)
        outer = pieces_of(text, words)
        covered = pieces_of(signed, words, inner)
        check_fields(inner, (F_QTY, F_PX, F_CID, F_TIME, F_KEY), f"{words}: the body")
        check_fields(outer, (F_QTY, F_PX, F_CID, F_TIME, F_KEY, F_PASS, F_SIGN) + (() if self.frames else (F_LENGTH,)),
                     f"{words}: the text")
        check_fields(covered, (F_QTY, F_PX, F_CID, F_TIME, F_KEY, F_PASS), f"{words}: what is signed")
        fields = [field for _, field, _ in outer + inner]
        if self.frames and body:
            raise ValueError(f"{words}: a frame has no body")
        if F_QTY not in fields or F_CID not in fields or (F_PX in fields) != limit:
            raise ValueError(f"{words}: the text needs QTY and CID, and PX exactly where it is a limit order's")
        if fields.count(F_SIGN) != (1 if signed else 0):
            raise ValueError(f"{words}: the text needs one SIGN where something is signed, else none")
        if sum([len(literal) for literal, _, _ in covered]) > SIGNED_MAX:
            raise ValueError(f"{words}: what is signed is longer than {SIGNED_MAX} bytes")
        cdef Shape* shape = <Shape*>calloc(1, sizeof(Shape))
        if shape == NULL:
            raise MemoryError()
        try:
            fill(&shape.text, outer, words)
            fill(&shape.body, inner, words)
            if signed:
                fill(&shape.signed, covered, words)
        except BaseException:
            drop(shape)
            raise
        cdef Shape** place = &self.symbols[instrument].shapes[kind_of(side > 0, limit, position_side, reduce_only)]
        drop(place[0])
        place[0] = shape

    def set_account(self, Py_ssize_t index, bytes api_key not None, bytes secret not None, bytes passphrase not None=b""):
        """Give account ``index`` its key. The secret is hashed and not kept."""
        refuse_unplain(api_key, "API key")
        if len(api_key) > KEY_MAX:
            raise ValueError(f"API key is longer than {KEY_MAX} characters")
        if not secret:
            raise ValueError("secret is empty")
        if len(passphrase) > PASS_MAX:
            raise ValueError(f"passphrase is longer than {PASS_MAX} characters")
        for c in passphrase:
            if not 32 <= c < 127 or self.frames and c in b'"\\':
                raise ValueError("passphrase contains a character that cannot be sent")
        self.accounts = <Account*>grown(self.accounts, &self.n_accounts, index, 2 * index + 64, sizeof(Account))
        cdef Account* account = &self.accounts[index]
        explicit_bzero(account, sizeof(Account))
        memcpy(account.key, PyBytes_AS_STRING(api_key), len(api_key))
        account.key_size = <int>len(api_key)
        memcpy(account.passphrase, PyBytes_AS_STRING(passphrase), len(passphrase))
        account.pass_size = <int>len(passphrase)
        key_states(secret, account.inner, account.outer)

    def forget_account(self, Py_ssize_t index):
        """Drop a key (follower removed, key refused), also from what was rendered with it; rendering for it is an error from now
        on."""
        if 0 <= index < self.n_accounts:
            explicit_bzero(&self.accounts[index], sizeof(Account))
            self.wipe()

    def render(self, Columns cols not None, const uint32_t[::1] slots not None, int64_t timestamp_ms):
        """The orders in ``slots``: list of (account, buffer, ids, slots of that buffer), accounts in the order in which they come
        first, each account's orders in the order given.

        ``ids``: bytes, 16 an order; the slots are bytes of uint32. Where an order cannot be sent nothing is rendered, and
        ``ValueError`` names why.
        """
        cdef Py_ssize_t i, n = slots.shape[0]
        for i in range(n):
            if slots[i] >= cols.counts[ORDERS]:
                raise ValueError(f"order slot {slots[i]} does not exist")
        return self.render_all(cols.orders, &slots[0] if n else NULL, n, timestamp_ms)

    def render_rows(self, rows not None, int64_t timestamp_ms):
        """As ``render`` for rows (account, instrument, cid, lots, ticks, side, position_side, reduce_only); slots count rows."""
        cdef Py_ssize_t n = len(rows)
        cdef bytes cid
        cdef Order* orders = <Order*>calloc(max(n, 1), sizeof(Order) + sizeof(uint32_t))
        if orders == NULL:
            raise MemoryError()
        cdef uint32_t* slots = <uint32_t*>(orders + n)
        try:
            for slot, (account, instrument, cid, lots, ticks, side, position_side, reduce_only) in enumerate(rows):
                if len(cid) != 16:
                    raise ValueError("a client order id has 16 bytes")
                memcpy(orders[slot].cid, PyBytes_AS_STRING(cid), 16)
                orders[slot].account, orders[slot].instrument = account, instrument
                orders[slot].order_qty, orders[slot].limit_px = lots, ticks
                orders[slot].side, orders[slot].position_side, orders[slot].reduce_only = side, position_side, reduce_only
                slots[slot] = slot
            return self.render_all(orders, slots, n, timestamp_ms)
        finally:
            free(orders)

    cdef list render_all(self, Order* orders, const uint32_t* slots, Py_ssize_t n, int64_t timestamp_ms):
        """Measure, make the objects, render into them; an order that cannot be sent is told before anything is rendered."""
        cdef Py_ssize_t failed = 0
        cdef int problem
        self.begin(n, timestamp_ms)
        with nogil:
            problem = self.measure(orders, slots, n, &failed)
        if problem != FINE:
            self.refuse(problem, &orders[slots[failed]])
        cdef list made = self.bursts_made()
        with nogil:
            problem = self.run(orders, n)
        if problem != FINE:
            self.refuse(problem, NULL)
        return made

    cdef int begin(self, Py_ssize_t n, int64_t timestamp_ms) except -1:
        """Start a call of ``n`` orders: whatever an earlier call left is dropped."""
        cdef void* bigger
        cdef size_t room
        cdef int i
        if not 0 <= timestamp_ms <= 10**15:
            raise ValueError(f"timestamp {timestamp_ms} is no time in ms")
        if n > self.orders_room:
            room = n + n // 2
            bigger = realloc(self.tables, room * ORDER_BYTES)
            if bigger == NULL:
                raise MemoryError()
            self.tables = bigger
            self.bursts = <Burst*>bigger
            self.drafts = <Draft*>(self.bursts + room)
            self.ids = <uint8_t*>(self.drafts + room)
            self.sent = <uint32_t*>(self.ids + 16 * room)
            self.sequence = self.sent + room
            self.burst_of = self.sequence + room
            self.orders_room = <uint32_t>room
        for i in range(COOKED):
            self.cooked[i].shape = NULL
        self.now_ms = timestamp_ms
        self.n_bursts = 0
        return 0

    cdef list bursts_made(self):
        """(account, buffer, ids, slots) per account; the buffers are still to be filled."""
        cdef uint32_t i
        cdef Burst* burst
        cdef bytes buffer
        cdef list made = []
        for i in range(self.n_bursts):
            burst = &self.bursts[i]
            buffer = PyBytes_FromStringAndSize(NULL, burst.size)
            burst.to = PyBytes_AS_STRING(buffer)
            made.append((
                burst.account, buffer, PyBytes_FromStringAndSize(<char*>self.ids + 16 * <size_t>burst.first, burst.orders * 16),
                PyBytes_FromStringAndSize(<char*>(self.sent + burst.first), burst.orders * sizeof(uint32_t))))
        return made

    cdef int refuse(self, int problem, Order* order) except -1:
        """Say why an order cannot be sent."""
        if problem == NO_KEY:
            raise ValueError(f"account {order.account} has no key")
        if problem == NO_INSTRUMENT:
            raise ValueError(f"instrument {order.instrument} is not known")
        if problem == BAD_NUMBERS:
            raise ValueError("an order has a side, a position side, a positive quantity and no negative price")
        if problem == TOO_LARGE:
            raise ValueError("order quantity or price is too large")
        if problem == NO_SHAPE:
            words = words_of(order.side > 0, order.limit_px != 0, order.position_side, order.reduce_only != 0)
            raise ValueError(f"instrument {order.instrument} has no text for {words}")
        if problem == CHANGED:
            raise RuntimeError("an order or its account changed while it was rendered: one call at a time")
        if problem == TOO_LONG:
            raise ValueError(f"an order's text is longer than {TEXT_MAX} bytes, or what it signs than {SIGNED_MAX}")
        raise MemoryError()

    cdef void wipe(self) noexcept nogil:
        """Nothing of what was rendered stays here."""
        if self.data != NULL:
            explicit_bzero(self.data, self.room)
        explicit_bzero(self.group.texts, sizeof(self.group.texts))
        explicit_bzero(self.group.inner, sizeof(self.group.inner))
        explicit_bzero(self.group.outer, sizeof(self.group.outer))

    cdef int measure(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil:
        """The bursts, their orders in sequence, and every length; or the place of an order that cannot be sent, and why."""
        cdef size_t place
        cdef uint32_t b, i
        cdef Order* order
        cdef Burst* burst
        cdef int problem = self.sort(orders, slots, n, failed)
        for b in range(self.n_bursts):
            burst = &self.bursts[b]
            self.accounts[burst.account].burst = 0
            if problem != FINE:
                continue  # the marks of the others go too
            for i in range(burst.orders):
                place = burst.first + i
                order = &orders[slots[self.sequence[place]]]
                problem = self.draft(&self.drafts[place], order)
                if problem != FINE:
                    failed[0] = self.sequence[place]
                    break
                burst.size += self.head_of(self.drafts[place].size) + self.drafts[place].size
                memcpy(self.ids + 16 * place, order.cid, 16)
                self.sent[place] = slots[self.sequence[place]]
        return problem

    cdef int sort(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil:
        """The bursts, and the sequence in which their orders stand together."""
        cdef Py_ssize_t i
        cdef uint32_t at = 0, b
        cdef Account* account
        cdef Burst* burst
        for i in range(n):
            if i + AHEAD < n and orders[slots[i + AHEAD]].account < self.n_accounts:
                fetch_soon(&self.accounts[orders[slots[i + AHEAD]].account].key_size)
            if i + 2 * AHEAD < n:
                fetch_soon(&orders[slots[i + 2 * AHEAD]])
                fetch_soon(&orders[slots[i + 2 * AHEAD]].account)
            if orders[slots[i]].account >= self.n_accounts or self.accounts[orders[slots[i]].account].key_size == 0:
                failed[0] = i
                return NO_KEY
            account = &self.accounts[orders[slots[i]].account]
            if account.burst == 0:
                burst = &self.bursts[self.n_bursts]
                burst.account, burst.orders, burst.size = orders[slots[i]].account, 0, 0
                self.n_bursts += 1
                account.burst = self.n_bursts
            self.burst_of[i] = account.burst - 1
            self.bursts[account.burst - 1].orders += 1
        for b in range(self.n_bursts):
            self.bursts[b].first = at
            at += self.bursts[b].orders
            self.bursts[b].orders = 0
        for i in range(n):
            burst = &self.bursts[self.burst_of[i]]
            self.sequence[burst.first + burst.orders] = <uint32_t>i
            burst.orders += 1
        return FINE

    cdef int draft(self, Draft* draft, Order* order) noexcept nogil:
        """The quantity as text, and the length of the order's text; or why it cannot be sent."""
        cdef Symbol* symbol
        cdef Cooked* cooked
        cdef Values values
        cdef Py_ssize_t body_size, size
        if order.instrument >= self.n_symbols or self.symbols[order.instrument].tick == 0:
            return NO_INSTRUMENT
        symbol = &self.symbols[order.instrument]
        if order.order_qty <= 0 or order.limit_px < 0 or order.side == 0 or order.position_side > 2:
            return BAD_NUMBERS
        if order.order_qty > symbol.qty_max or order.limit_px > symbol.px_max:
            return TOO_LARGE
        if symbol.shapes[kind_of(order.side > 0, order.limit_px != 0, order.position_side, order.reduce_only != 0)] == NULL:
            return NO_SHAPE
        cooked = self.cooked_of(order)
        if cooked == NULL:
            return NO_MEMORY
        draft.qty_size = <uint8_t>(
            put_scaled(draft.qty, <uint64_t>order.order_qty * symbol.lot, symbol.qty_decimals) - draft.qty)
        values.account = &self.accounts[order.account]
        values.qty_size = draft.qty_size
        values.length_size = 0  # no body has one
        body_size = size_of(&cooked.body, &values, 0)
        values.length_size = digits_of(body_size)
        size = size_of(&cooked.text, &values, self.signature_size) + body_size
        if size > TEXT_MAX or size_of(&cooked.signed, &values, 0) > SIGNED_MAX:
            return TOO_LONG
        draft.size = <uint32_t>size
        return FINE

    cdef inline int head_of(self, uint32_t size) noexcept nogil:
        """Bytes of the header before a text: FIN + text, masked, 7 or 16 bits of length (RFC 6455, 5.2)."""
        return 0 if not self.frames else 6 if size < 126 else 8

    cdef int run(self, Order* orders, Py_ssize_t n) noexcept nogil:
        """What was measured, group by group: render, sign together, write the signatures in, mask, and copy where it belongs."""
        cdef Py_ssize_t base = 0, place
        cdef Account* account
        cdef Burst* burst
        cdef Item* item
        cdef char* at
        cdef int i, size, problem
        while base < n:
            size = <int>min(n - base, GROUP)
            if self.reserve(base, size) < 0:
                return NO_MEMORY
            at = self.data
            self.group.lanes = 0
            self.group.used = 0
            for i in range(size):
                place = base + i
                if place + AHEAD < n:
                    account = &self.accounts[orders[self.sent[place + AHEAD]].account]
                    fetch_soon(account.inner)
                    fetch_soon(account.key)
                item = &self.group.items[i]
                problem = self.put(item, &self.drafts[place], &orders[self.sent[place]], at)
                if problem != FINE:
                    return problem
                burst = &self.bursts[self.burst_of[self.sequence[place]]]
                item.to = burst.to
                burst.to += item.head + item.size
                at += item.head + item.size
            sign(self.group)
            for i in range(size):
                self.finish(&self.group.items[i])
            for i in range(size):  # not at once: what was written in small pieces is not read again fast
                item = &self.group.items[i]
                memcpy(item.to, item.at, item.head + item.size)
            base += size
        return FINE

    cdef int reserve(self, Py_ssize_t base, int size) noexcept nogil:
        """Room for the orders of a group; -1 when there is no memory. What is left behind is wiped."""
        cdef size_t need = 2 * STRIDE
        cdef int i
        for i in range(size):
            need += self.drafts[base + i].size + 8
        if need <= self.room:
            return 0
        if self.data != NULL:
            explicit_bzero(self.data, self.room)
            free(self.data)
        self.room = 0
        self.data = <char*>malloc(2 * need)
        if self.data == NULL:
            return -1
        self.room = 2 * need
        return 0

    cdef Cooked* cooked_of(self, Order* order) noexcept nogil:
        """The texts that this order shares with others like it, made at the first of them; NULL when there is no memory."""
        cdef Symbol* symbol = &self.symbols[order.instrument]
        cdef int kind = kind_of(order.side > 0, order.limit_px != 0, order.position_side, order.reduce_only != 0)
        cdef Shape* shape = symbol.shapes[kind]
        cdef Cooked* cooked = &self.cooked[(<uint64_t>order.limit_px + 3 * <uint64_t>order.instrument + kind) % COOKED]
        cdef char price[64]
        cdef Py_ssize_t price_size
        if cooked.shape == shape and cooked.limit_px == order.limit_px:
            return cooked
        cooked.shape = NULL
        price_size = put_scaled(price, <uint64_t>order.limit_px * symbol.tick, symbol.price_decimals) - price
        if (cook(&cooked.text, &shape.text, price, price_size, self.now_ms) < 0
                or cook(&cooked.body, &shape.body, price, price_size, self.now_ms) < 0
                or cook(&cooked.signed, &shape.signed, price, price_size, self.now_ms) < 0):
            return NULL
        cooked.shape, cooked.limit_px = shape, order.limit_px
        return cooked

    cdef int put(self, Item* item, Draft* draft, Order* order, char* at) noexcept nogil:
        """Render one order: its text without signature, header and mask, and what it signs into a lane of the group."""
        cdef Cooked* cooked = self.cooked_of(order)
        cdef Group* group = self.group
        cdef Values values
        cdef char* start
        cdef Py_ssize_t body_size, signed_size
        cdef int lane
        if cooked == NULL:
            return NO_MEMORY
        values.account = &self.accounts[order.account]
        values.qty, values.qty_size = draft.qty, draft.qty_size
        put_hex(values.id_text, order.cid, 1)
        values.length_size = 0  # no body has one
        body_size = size_of(&cooked.body, &values, 0)
        if cooked.text.counts[F_LENGTH]:
            values.length_size = put_scaled(values.length, body_size, 0) - values.length
        signed_size = size_of(&cooked.signed, &values, 0)
        if size_of(&cooked.text, &values, self.signature_size) + body_size != draft.size or signed_size > SIGNED_MAX:
            return CHANGED

        # 1. the text, behind room for the frame's header
        item.at, item.size, item.head = at, draft.size, self.head_of(draft.size)
        item.lane = -1
        start = at + item.head
        at = put_template(&cooked.text, start, &values, self.signature_size)
        put_template(&cooked.body, at, &values, 0)
        if cooked.signed.n == 0:
            return FINE

        # 2. the signed text with its padding (FIPS 180-4, 5.1.1)
        item.signature = <uint32_t>(values.signature - start)
        item.lane = lane = group.lanes
        group.lanes += 1
        group.starts[lane] = group.texts + group.used
        put_template(&cooked.signed, <char*>group.starts[lane], &values, 0)
        group.blocks[lane] = sha256_pad(group.starts[lane], signed_size, 64 + <uint64_t>signed_size)
        group.used += group.blocks[lane] * 64
        memcpy(group.inner[lane], values.account.inner, 32)
        memcpy(group.outer[lane], values.account.outer, 32)
        return FINE

    cdef void finish(self, Item* item) noexcept nogil:
        """The signature into the text, header and mask."""
        cdef char* text = item.at + item.head
        cdef uint8_t digest[32]
        cdef uint32_t mask
        if item.lane >= 0:
            sha256_put(self.group.outer[item.lane], digest)
            if self.hexadecimal:
                put_hex(text + item.signature, digest, 2)
            else:
                put_base64(text + item.signature, digest)
        if not self.frames:
            return
        item.at[0] = <char>0x81
        if item.head == 6:
            item.at[1] = <char>(0x80 | item.size)
        else:
            item.at[1] = <char>(0x80 | 126)
            item.at[2] = <char>(item.size >> 8)
            item.at[3] = <char>(item.size & 255)
        mask = <uint32_t>(next_random(&self.random) >> 16)
        memcpy(text - 4, &mask, 4)
        mask_text(text, item.size, mask)
