# Orders to signed, masked WebSocket frames (Binance USD-M order.place).

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct OrderText:
    #: one order as the renderer needs it; quantities in lots, prices in ticks (0 = market)
    const unsigned char* cid       # 16 bytes, written as 32 hex characters
    int64_t order_qty
    int64_t limit_px
    uint32_t account
    uint32_t instrument
    int side                       # +1 buy, -1 sell
    int position_side              # 0 BOTH (not written), 1 LONG, 2 SHORT
    bint reduce_only


cdef struct Account:
    #: one API key; key_json NULL: no key. The secret is kept only as the two hash states.
    char* key_json                 # ","apiKey":"...","timestamp":
    Py_ssize_t key_json_size
    uint32_t inner[8]              # SHA-256 after ipad block + the whole blocks of apiKey=...&newClientOrderId=
    uint32_t outer[8]              # SHA-256 after opad block
    uint64_t inner_size            # bytes in ``inner``
    uint8_t rest[64]               # what did not fill a block
    int rest_size
    int out                        # index of its Out


cdef struct Symbol:
    char name[64]                  # name_size 0: not known
    Py_ssize_t name_size
    int price_decimals
    int64_t tick
    int qty_decimals
    int64_t lot


cdef struct Out:
    #: the frames of one connection, back to back
    int connection
    char* data
    Py_ssize_t size
    Py_ssize_t room


cdef class Encoder:
    cdef Account* accounts         # by account index
    cdef uint32_t n_accounts
    cdef Symbol* symbols           # by instrument index
    cdef uint32_t n_symbols
    cdef Out* outs                 # one per connection, in the order they were first named
    cdef uint32_t n_outs
    cdef uint64_t random           # xorshift state of the frame masks
    cdef uint32_t* touched         # outs that the running call has put a frame into, in first-use order
    cdef uint32_t n_touched
    cdef char window[16]           # recvWindow as text
    cdef Py_ssize_t window_size
    cdef int out_of(self, int connection) except -1
    cdef void begin(self) noexcept nogil
    cdef list bursts(self, list named)
    cdef int put(self, OrderText* order, const char* stamp, Py_ssize_t stamp_size) noexcept nogil
    cdef int refuse(self, int problem, OrderText* order) except -1
