# Orders to signed, masked WebSocket frames (Binance USD-M order.place).

from libc.stdint cimport int64_t, uint32_t, uint64_t


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


cdef class Out:
    #: the frames of one connection, back to back
    cdef readonly int connection
    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef list ids
    cdef list slots
    cdef int reserve(self, Py_ssize_t more) except -1


cdef class Encoder:
    cdef list accounts             # Account or None, by account index
    cdef list instruments          # Symbol or None, by instrument index
    cdef dict outs                 # connection -> Out
    cdef list touched              # Outs used by the running call, in first-use order
    cdef uint64_t random           # xorshift state of the frame masks
    cdef bytes recv_window
    cdef int begin(self) except -1
    cdef list bursts(self)
    cdef int put(self, OrderText* order, object slot, const char* stamp, Py_ssize_t stamp_size) except -1
