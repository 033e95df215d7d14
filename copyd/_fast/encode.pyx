# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers, into decimal digits.
"""Order rows to signed, masked WebSocket frames, one contiguous buffer per connection.

The readable twin is ``copyd.venues.binance_usdm.signing.place_text``; a test feeds both and compares bytes. Rendering and
signing run without the interpreter lock, so that the journal's commit goes on beside them. Text that all orders of an event
share is made once; what is left per order are its id, its quantity and its key. The signature starts from saved hash states:
the key block and ``apiKey=...&newClientOrderId=`` are hashed once per account, and the rest of many orders at a time. A key's
secret is kept only as these two states.
"""

import threading

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from copyd._fast.columns cimport Columns, Order
from copyd._fast.hashing cimport (
    blocks as sha256_blocks, key_states, many as sha256_many, pad as sha256_pad, put as sha256_put,
)
from copyd._fast.texts cimport (
    explicit_bzero, fetch_soon, grown, mask_text, next_random, put_bytes, put_hex, put_scaled, put_strides, refuse_unplain,
)

cdef extern from "turns.h" nogil:
    ctypedef struct Turns:
        pass
    Turns* turns_new()
    void turns_free(Turns* turns)
    void turns_give(Turns* turns) noexcept
    void turns_wait_done(Turns* turns) noexcept
    int turns_wait_given(Turns* turns) noexcept
    void turns_done(Turns* turns) noexcept
    void turns_end(Turns* turns) noexcept

cdef enum:
    ORDERS = 7                     # the order table in Columns
    HELPED_LEAST = 256             # orders below which waking the helper costs more than it takes over
    AHEAD = 12                     # orders whose rows are fetched before they are needed

cdef enum:  # why an order cannot be sent
    FINE = 0
    NO_KEY = 1
    NO_INSTRUMENT = 2
    BAD_NUMBERS = 3
    TOO_LARGE = 4
    NO_MEMORY = 5

cdef inline char* put_text(char* at, Text* text) noexcept nogil:
    return put_strides(at, text.data, text.size)


cdef inline void add(Text* text, const char* more, Py_ssize_t size) noexcept nogil:
    memcpy(text.data + text.size, more, size)
    text.size += size


cdef int reserve(Out* out, Py_ssize_t more) noexcept nogil:
    """Room for one more order whose frame has at most ``more`` bytes; -1 when there is no memory."""
    cdef void* bigger
    cdef uint32_t orders
    if out.size + more > out.room:
        bigger = realloc(out.data, (out.size + more) * 2)
        if bigger == NULL:
            return -1
        out.data = <char*>bigger
        out.room = (out.size + more) * 2
    if out.orders == out.orders_room:
        orders = 2 * out.orders + 64
        bigger = realloc(out.ids, <size_t>orders * 16)
        if bigger == NULL:
            return -1
        out.ids = <uint8_t*>bigger
        bigger = realloc(out.slots, <size_t>orders * sizeof(uint32_t))
        if bigger == NULL:
            return -1
        out.slots = <uint32_t*>bigger
        out.orders_room = orders
    return 0


cdef void sign(Group* group, int n) noexcept nogil:
    """HMAC of the first ``n`` lanes: the inner hashes, those of equal length together, then all outer ones."""
    cdef int lane, first, count
    cdef size_t blocks
    cdef uint64_t done = 0
    for first in range(n):
        if done >> first & 1:
            continue
        blocks = group.items[first].blocks
        count = 0
        for lane in range(first, n):
            if group.items[lane].blocks == blocks:
                done |= <uint64_t>1 << lane
                group.states[count] = group.inner[lane]
                group.data[count] = group.lanes[lane]
                count += 1
        sha256_many(group.states, group.data, blocks, count)
    for lane in range(n):
        sha256_put(group.inner[lane], group.outer_lanes[lane])
        group.states[lane] = group.outer[lane]
        group.data[lane] = group.outer_lanes[lane]
    sha256_many(group.states, group.data, 1, n)


cdef void finish(Worker* w, int n) noexcept nogil:
    """The signatures into the frames, headers, masks: FIN + text, masked, 16-bit length (RFC 6455, 5.2)."""
    cdef Item* item
    cdef char* frame
    cdef uint8_t digest[32]
    cdef uint32_t mask
    cdef int lane
    for lane in range(n):
        item = &w.group.items[lane]
        frame = w.outs[item.out].data + item.at
        sha256_put(w.group.outer[lane], digest)
        put_hex(frame + item.signature, digest, 2)
        mask = <uint32_t>(next_random(&w.random) >> 16)
        frame[0] = <char>0x81
        frame[1] = <char>(0x80 | 126)
        frame[2] = <char>(item.size >> 8)
        frame[3] = <char>(item.size & 255)
        memcpy(frame + 4, &mask, 4)
        mask_text(frame + 8, item.size, mask)


cdef class Encoder:
    """Renders and signs orders. ``mask_seed`` seeds the frame masks (RFC 6455: a fresh unpredictable mask per frame)."""

    def __cinit__(self):
        cdef int i, lane
        for i in range(2):
            self.workers[i].shapes = <Shape*>realloc(NULL, SHAPES * sizeof(Shape))
            self.workers[i].group = <Group*>realloc(NULL, sizeof(Group))
            if self.workers[i].shapes == NULL or self.workers[i].group == NULL:
                raise MemoryError()
            memset(self.workers[i].shapes, 0, SHAPES * sizeof(Shape))
            memset(self.workers[i].group, 0, sizeof(Group))
            for lane in range(GROUP):
                sha256_pad(self.workers[i].group.outer_lanes[lane], 32, 96)  # every outer hash ends alike

    def __init__(self, int recv_window_ms, uint64_t mask_seed):
        if recv_window_ms <= 0:
            raise ValueError("recv_window_ms must be positive")
        cdef bytes window = b"%d" % recv_window_ms
        self.window_size = len(window)
        memcpy(self.window, PyBytes_AS_STRING(window), self.window_size)
        self.workers[0].random = mask_seed | 1
        self.workers[1].random = (mask_seed ^ 0x9E3779B97F4A7C15) | 1

    def __dealloc__(self):
        cdef uint32_t i
        cdef int at
        cdef Worker* w
        if self.accounts != NULL:
            explicit_bzero(self.accounts, self.n_accounts * sizeof(Account))
        for at in range(2):
            w = &self.workers[at]
            if w.group != NULL:
                explicit_bzero(w.group, sizeof(Group))
            for i in range(w.n_outs):
                free(w.outs[i].data)
                free(w.outs[i].ids)
                free(w.outs[i].slots)
            free(w.outs)
            free(w.touched)
            free(w.shapes)
            free(w.group)
        free(self.accounts)
        free(self.lanes)
        free(self.symbols)

    def __repr__(self):
        return f"<Encoder for {self.workers[0].n_outs} connections>"

    def start_helper(self):
        """From now on a thread of its own renders and signs the second half of what is much; ``stop_helper`` ends it."""
        if self.helper is not None:
            return
        self.turns = turns_new()
        if self.turns == NULL:
            raise MemoryError()
        # It holds this encoder until it is stopped: what it works with cannot go before it.
        self.helper = threading.Thread(target=self._help, name="encoder-helper", daemon=True)
        self.helper.start()

    def stop_helper(self):
        """The calling thread renders all again."""
        if self.helper is None:
            return
        turns_end(<Turns*>self.turns)
        self.helper.join()
        self.helper = None
        turns_free(<Turns*>self.turns)
        self.turns = NULL

    def _help(self):
        cdef Turns* turns = <Turns*>self.turns
        with nogil:
            while turns_wait_given(turns):
                self.run(&self.jobs[1])
                turns_done(turns)

    def __reduce__(self):
        raise TypeError("an encoder holds keys; it is not copied or stored")

    def set_instrument(self, Py_ssize_t index, str symbol, int price_decimals, int64_t tick, int qty_decimals, int64_t lot):
        """``tick`` in units of 10**-price_decimals, ``lot`` in units of 10**-qty_decimals."""
        if tick <= 0 or lot <= 0 or not 0 <= price_decimals <= 18 or not 0 <= qty_decimals <= 18:
            raise ValueError(f"{symbol}: tick and lot must be positive, decimals 0 to 18")
        cdef bytes name = symbol.encode()
        refuse_unplain(name, "symbol")
        if len(name) > 64:
            raise ValueError("symbol is too long")
        self.symbols = <Symbol*>grown(self.symbols, &self.n_symbols, index, index + 1, sizeof(Symbol))
        cdef Symbol* entry = &self.symbols[index]
        memcpy(entry.name, PyBytes_AS_STRING(name), len(name))
        entry.name_size = len(name)
        entry.price_decimals, entry.tick = price_decimals, tick
        entry.qty_decimals, entry.lot = qty_decimals, lot

    def set_account(self, Py_ssize_t index, bytes api_key not None, bytes secret not None, int connection):
        """Give account ``index`` its key; its orders go to ``connection``. The secret is hashed and not kept."""
        refuse_unplain(api_key, "API key")
        if len(api_key) > 128:
            raise ValueError("API key is longer than 128 characters")
        if not secret:
            raise ValueError("secret is empty")
        if connection < 0:
            raise ValueError("connection must not be negative")
        cdef bytes head = b"apiKey=" + api_key + b"&newClientOrderId="
        cdef Py_ssize_t whole = len(head) // 64 * 64
        cdef bytes text = b'","apiKey":"' + api_key + b'","timestamp":'
        cdef int out = self.out_of(connection)
        self.accounts = <Account*>grown(self.accounts, &self.n_accounts, index, 2 * index + 64, sizeof(Account))
        cdef Account* account = &self.accounts[index]
        memcpy(account.key_text, PyBytes_AS_STRING(text), len(text))
        account.key_size = <int>len(text)
        key_states(secret, account.inner, account.outer)
        account.inner_size = 64 + whole
        account.rest_size = <int>(len(head) - whole)
        sha256_blocks(account.inner, <uint8_t*>PyBytes_AS_STRING(head), whole // 64)
        memcpy(account.rest, PyBytes_AS_STRING(head) + whole, account.rest_size)
        account.out = out
        self.lanes = <uint32_t*>grown(self.lanes, &self.n_lanes, index, 2 * index + 64, sizeof(uint32_t))
        self.lanes[index] = out + 1

    def forget_account(self, Py_ssize_t index):
        """Drop a key (follower removed, key refused); encoding for it is an error from now on."""
        if 0 <= index < self.n_accounts:
            explicit_bzero(&self.accounts[index], sizeof(Account))
        if 0 <= index < self.n_lanes:
            self.lanes[index] = 0

    def connection_of(self, Py_ssize_t index):
        """The connection account ``index`` is pinned to."""
        if not 0 <= index < self.n_accounts or self.accounts[index].key_size == 0:
            raise ValueError(f"account {index} has no key")
        return self.workers[0].outs[self.accounts[index].out].connection

    def arrange(self, Columns cols not None, const uint32_t[::1] slots not None, uint32_t turn):
        """The slots in the order in which they are best sent, as bytes: those of a connection together, so that few large
        writes carry them.

        Reductions stay in front, and of those the first ones too: they are grouped within waves of 64, 256, 1024, ... only.
        Openings, whose order is a rotation (semantics 24), are grouped whole; ``turn`` says whose connection is first.
        """
        cdef Py_ssize_t i, n = slots.shape[0]
        cdef Py_ssize_t reductions = 0, begin = 0, end, wave = 64
        cdef bytes result = PyBytes_FromStringAndSize(NULL, n * sizeof(uint32_t))
        cdef uint32_t* arranged = <uint32_t*>PyBytes_AS_STRING(result)
        cdef uint32_t* starts = NULL
        for i in range(n):
            if slots[i] >= cols.counts[ORDERS]:
                raise ValueError(f"order slot {slots[i]} does not exist")
        if n == 0:
            return result
        starts = <uint32_t*>realloc(NULL, (self.workers[0].n_outs + 2) * sizeof(uint32_t))
        if starts == NULL:
            raise MemoryError()
        with nogil:
            while reductions < n and cols.orders[slots[reductions]].kind != 0:
                reductions += 1
            while begin < n:
                if begin < reductions:
                    end = min(reductions, begin + wave)
                    wave *= 4
                else:
                    end = n
                self.gather(cols.orders, &slots[begin], arranged + begin, end - begin, starts, turn)
                begin = end
        free(starts)
        return result

    cdef void gather(self, Order* orders, const uint32_t* slots, uint32_t* arranged, Py_ssize_t n, uint32_t* starts,
                     uint32_t turn) noexcept nogil:
        """Slots by connection, within one as they were; ``starts`` has room for a number per connection and two more."""
        cdef uint32_t lanes = self.workers[0].n_outs + 1
        cdef uint32_t lane, at, total = 0
        cdef Py_ssize_t i
        memset(starts, 0, (lanes + 1) * sizeof(uint32_t))
        for i in range(n):
            if i + AHEAD < n:
                fetch_soon(&orders[slots[i + AHEAD]].account)
            starts[self.lane_of(orders[slots[i]].account, turn)] += 1
        for lane in range(lanes):
            at = starts[lane]
            starts[lane] = total
            total += at
        for i in range(n):
            lane = self.lane_of(orders[slots[i]].account, turn)
            arranged[starts[lane]] = slots[i]
            starts[lane] += 1

    cdef inline uint32_t lane_of(self, uint32_t account, uint32_t turn) noexcept nogil:
        if account >= self.n_lanes or self.lanes[account] == 0:
            return self.workers[0].n_outs  # refused when it is rendered
        return (self.lanes[account] - 1 + turn) % self.workers[0].n_outs

    def encode(self, Columns cols not None, const uint32_t[::1] slots not None, int64_t timestamp_ms):
        """Frames for the orders in ``slots``, in that order: list of (connection, buffer, ids, slots of that buffer).

        ``ids``: bytes, 16 an order; the slots are bytes of uint32.
        """
        cdef Py_ssize_t i, failed = 0, n = slots.shape[0]
        cdef int problem = FINE
        for i in range(n):
            if slots[i] >= cols.counts[ORDERS]:
                raise ValueError(f"order slot {slots[i]} does not exist")
        self.begin(timestamp_ms)
        if n:
            with nogil:
                problem = self.render(cols.orders, &slots[0], n, &failed)
        if problem != FINE:
            self.refuse(problem, &cols.orders[slots[failed]])
        return self.bursts()

    def encode_rows(self, rows not None, int64_t timestamp_ms):
        """As ``encode`` for rows (account, instrument, cid, lots, ticks, side, position_side, reduce_only); slots count rows."""
        cdef Py_ssize_t failed = 0, n = len(rows)
        cdef bytes cid
        cdef Order* orders = <Order*>realloc(NULL, max(n, 1) * (sizeof(Order) + sizeof(uint32_t)))
        if orders == NULL:
            raise MemoryError()
        cdef uint32_t* slots = <uint32_t*>(orders + n)
        cdef int problem
        try:
            memset(orders, 0, n * sizeof(Order))
            for slot, (account, instrument, cid, lots, ticks, side, position_side, reduce_only) in enumerate(rows):
                if len(cid) != 16:
                    raise ValueError("a client order id has 16 bytes")
                memcpy(orders[slot].cid, PyBytes_AS_STRING(cid), 16)
                orders[slot].account, orders[slot].instrument = account, instrument
                orders[slot].order_qty, orders[slot].limit_px = lots, ticks
                orders[slot].side, orders[slot].position_side, orders[slot].reduce_only = side, position_side, reduce_only
                slots[slot] = slot
            self.begin(timestamp_ms)
            with nogil:
                problem = self.render(orders, slots, n, &failed)
            if problem != FINE:
                self.refuse(problem, &orders[failed])
        finally:
            free(orders)
        return self.bursts()

    cdef int out_of(self, int connection) except -1:
        """Index of a connection's Out, made when first named; the same for every worker."""
        cdef uint32_t i
        cdef int at
        cdef Worker* w = &self.workers[0]
        cdef uint32_t* touched
        for i in range(w.n_outs):
            if w.outs[i].connection == connection:
                return <int>i
        i = w.n_outs
        for at in range(2):
            w = &self.workers[at]
            touched = <uint32_t*>realloc(w.touched, (i + 1) * sizeof(uint32_t))
            if touched == NULL:
                raise MemoryError()
            w.touched = touched
            w.outs = <Out*>grown(w.outs, &w.n_outs, i, i + 1, sizeof(Out))
            w.outs[i].connection = connection
        return <int>i

    cdef int begin(self, int64_t timestamp_ms) except -1:
        """Start a call: whatever an earlier call left after an error is dropped, and texts with its timestamp."""
        cdef uint32_t i
        cdef int at
        cdef Worker* w
        cdef bytes stamp = b"%d" % timestamp_ms
        self.stamp_size = PyBytes_GET_SIZE(stamp)
        memcpy(self.stamp, PyBytes_AS_STRING(stamp), self.stamp_size)
        for at in range(2):
            w = &self.workers[at]
            for i in range(w.n_outs):
                w.outs[i].size = 0
                w.outs[i].orders = 0
            for i in range(SHAPES):
                w.shapes[i].made = False
            w.n_touched = 0
        return 0

    cdef list bursts(self):
        """(connection, buffer, ids, slots) per connection that got a frame, in first-use order, worker by worker."""
        cdef uint32_t i
        cdef int at
        cdef Worker* w
        cdef Out* out
        cdef list done = []
        for at in range(2):
            w = &self.workers[at]
            for i in range(w.n_touched):
                out = &w.outs[w.touched[i]]
                done.append((
                    out.connection, PyBytes_FromStringAndSize(out.data, out.size),
                    PyBytes_FromStringAndSize(<char*>out.ids, out.orders * 16),
                    PyBytes_FromStringAndSize(<char*>out.slots, out.orders * sizeof(uint32_t))))
        return done

    cdef int refuse(self, int problem, Order* order) except -1:
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

    cdef int render(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil:
        """All orders, the second half by the helper where it is worth waking; the first that cannot be sent is told."""
        cdef Job* mine = &self.jobs[0]
        cdef Job* other = &self.jobs[1]
        cdef Py_ssize_t first = n
        if self.turns != NULL and n >= HELPED_LEAST:
            first = (n + 1) // 2
        mine.worker, other.worker = &self.workers[0], &self.workers[1]
        mine.orders = other.orders = orders
        mine.slots, mine.n = slots, first
        other.slots, other.n, other.problem = slots + first, n - first, FINE
        if other.n:
            turns_give(<Turns*>self.turns)
        self.run(mine)
        if other.n:
            turns_wait_done(<Turns*>self.turns)
        if mine.problem != FINE:
            failed[0] = mine.failed
            return mine.problem
        failed[0] = first + other.failed
        return other.problem

    cdef void run(self, Job* job) noexcept nogil:
        """One part, group by group: render, sign together, write the signatures in and mask."""
        cdef Worker* w = job.worker
        cdef Order* orders = job.orders
        cdef const uint32_t* slots = job.slots
        cdef Py_ssize_t base = 0, i
        cdef int size, lane
        cdef Account* account
        job.problem = FINE
        job.failed = 0
        while base < job.n:
            size = <int>min(job.n - base, GROUP)
            for lane in range(size):
                i = base + lane
                if i + AHEAD < job.n and orders[slots[i + AHEAD]].account < self.n_accounts:
                    account = &self.accounts[orders[slots[i + AHEAD]].account]
                    fetch_soon(account.inner)
                    fetch_soon(account.rest)
                    fetch_soon(&account.inner_size)
                    fetch_soon(account.key_text + 64)
                if i + 2 * AHEAD < job.n:
                    fetch_soon(&orders[slots[i + 2 * AHEAD]])
                    fetch_soon(&orders[slots[i + 2 * AHEAD]].leg)
                job.problem = self.put(w, &w.group.items[lane], lane, &orders[slots[i]], slots[i])
                if job.problem != FINE:
                    job.failed = i
                    return
            sign(w.group, size)
            finish(w, size)
            base += size

    cdef Shape* shape_of(self, Worker* w, Order* order) noexcept nogil:
        """The texts that this order shares with others like it, made at the first of them."""
        cdef Shape* shape = &w.shapes[
            (<uint64_t>order.limit_px + 3 * order.instrument + order.side + 5 * order.position_side) % SHAPES]
        cdef Symbol* symbol = &self.symbols[order.instrument]
        cdef char price[32]
        cdef Py_ssize_t price_size
        cdef bint limit = order.limit_px != 0
        if (shape.made and shape.limit_px == order.limit_px and shape.instrument == order.instrument
                and shape.side == order.side and shape.position_side == order.position_side
                and shape.reduce_only == order.reduce_only):
            return shape
        shape.limit_px, shape.instrument = order.limit_px, order.instrument
        shape.side, shape.position_side, shape.reduce_only = order.side, order.position_side, order.reduce_only
        shape.made = True
        shape.signed_head.size = shape.signed_tail.size = shape.head.size = shape.middle.size = shape.tail.size = 0
        price_size = put_scaled(price, <uint64_t>order.limit_px * symbol.tick, symbol.price_decimals) - price

        # 1. the signed string from the id on: all parameters sorted by name, k=v joined by &, nothing percent-encoded
        add(&shape.signed_head, b"&newOrderRespType=RESULT", 24)
        if order.position_side == 1:
            add(&shape.signed_head, b"&positionSide=LONG", 18)
        elif order.position_side == 2:
            add(&shape.signed_head, b"&positionSide=SHORT", 19)
        if limit:
            add(&shape.signed_head, b"&price=", 7)
            add(&shape.signed_head, price, price_size)
        add(&shape.signed_head, b"&quantity=", 10)
        add(&shape.signed_tail, b"&recvWindow=", 12)
        add(&shape.signed_tail, self.window, self.window_size)
        if order.reduce_only:
            add(&shape.signed_tail, b"&reduceOnly=true", 16)
        if order.side > 0:
            add(&shape.signed_tail, b"&side=BUY", 9)
        else:
            add(&shape.signed_tail, b"&side=SELL", 10)
        add(&shape.signed_tail, b"&symbol=", 8)
        add(&shape.signed_tail, symbol.name, symbol.name_size)
        if limit:
            add(&shape.signed_tail, b"&timeInForce=IOC", 16)
        add(&shape.signed_tail, b"&timestamp=", 11)
        add(&shape.signed_tail, self.stamp, self.stamp_size)
        if limit:
            add(&shape.signed_tail, b"&type=LIMIT", 11)
        else:
            add(&shape.signed_tail, b"&type=MARKET", 12)

        # 2. the request
        add(&shape.head, b'","method":"order.place","params":{"symbol":"', 45)
        add(&shape.head, symbol.name, symbol.name_size)
        if order.side > 0:
            add(&shape.head, b'","side":"BUY', 13)
        else:
            add(&shape.head, b'","side":"SELL', 14)
        if order.position_side == 1:
            add(&shape.head, b'","positionSide":"LONG', 22)
        elif order.position_side == 2:
            add(&shape.head, b'","positionSide":"SHORT', 23)
        if limit:
            add(&shape.head, b'","type":"LIMIT","timeInForce":"IOC","quantity":"', 49)
            add(&shape.middle, b'","price":"', 11)
            add(&shape.middle, price, price_size)
        else:
            add(&shape.head, b'","type":"MARKET","quantity":"', 30)
        if order.reduce_only:
            add(&shape.middle, b'","reduceOnly":"true', 20)
        add(&shape.middle, b'","newClientOrderId":"', 22)
        add(&shape.tail, self.stamp, self.stamp_size)
        add(&shape.tail, b',"recvWindow":', 14)
        add(&shape.tail, self.window, self.window_size)
        add(&shape.tail, b',"signature":"', 14)
        return shape

    cdef int put(self, Worker* w, Item* item, int lane, Order* order, uint32_t slot) noexcept nogil:
        """Render one order: its signed text into ``lane``, its frame behind what its connection has, without signature and
        mask; or the reason why not, and nothing is added."""
        cdef Account* account
        cdef Symbol* symbol
        cdef Shape* shape
        cdef Out* out
        cdef char id_text[32]
        cdef char qty[64]
        cdef char* start
        cdef char* at
        cdef Py_ssize_t qty_size, size

        if order.account >= self.n_accounts or self.accounts[order.account].key_size == 0:
            return NO_KEY
        if order.instrument >= self.n_symbols or self.symbols[order.instrument].name_size == 0:
            return NO_INSTRUMENT
        account = &self.accounts[order.account]
        symbol = &self.symbols[order.instrument]
        if order.order_qty <= 0 or order.limit_px < 0 or order.side == 0:
            return BAD_NUMBERS
        if order.order_qty > (<int64_t>1 << 62) / symbol.lot or order.limit_px > (<int64_t>1 << 62) / symbol.tick:
            return TOO_LARGE
        out = &w.outs[account.out]
        if reserve(out, FRAME_MAX) < 0:
            return NO_MEMORY
        if out.orders == 0:
            w.touched[w.n_touched] = account.out
            w.n_touched += 1
        shape = self.shape_of(w, order)
        qty_size = put_scaled(qty, <uint64_t>order.order_qty * symbol.lot, symbol.qty_decimals) - qty
        put_hex(id_text, order.cid, 1)

        # 1. the signed text with its padding (FIPS 180-4, 5.1.1)
        start = <char*>w.group.lanes[lane]
        put_strides(start, <char*>account.rest, 64)
        at = put_bytes(start + account.rest_size, id_text, 32)
        at = put_text(at, &shape.signed_head)
        at = put_strides(at, qty, qty_size)
        at = put_text(at, &shape.signed_tail)
        size = at - start
        item.blocks = sha256_pad(<uint8_t*>start, size, account.inner_size + <uint64_t>size)
        memcpy(w.group.inner[lane], account.inner, 32)
        memcpy(w.group.outer[lane], account.outer, 32)

        # 2. the request, behind room for the longest frame header (8 bytes: every order needs 126..65535 of payload)
        start = out.data + out.size
        at = put_bytes(start + 8, b'{"id":"', 7)
        at = put_bytes(at, id_text, 32)
        at = put_text(at, &shape.head)
        at = put_strides(at, qty, qty_size)
        at = put_text(at, &shape.middle)
        at = put_bytes(at, id_text, 32)
        at = put_bytes(at, b'","newOrderRespType":"RESULT', 28)
        at = put_strides(at, account.key_text, account.key_size)
        at = put_text(at, &shape.tail)
        item.out = account.out
        item.at = out.size
        item.signature = at - start
        item.size = item.signature - 8 + 64 + 3
        at = put_bytes(at + 64, b'"}}', 3)
        memcpy(out.ids + 16 * <size_t>out.orders, order.cid, 16)
        out.slots[out.orders] = slot
        out.orders += 1
        out.size = at - out.data
        return FINE
