# Orders to signed, masked WebSocket frames (Binance USD-M order.place).

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from copyd._fast.columns cimport Order

cdef enum:
    GROUP = 32          # orders that are hashed together: their texts stay in the first-level cache's reach
    LANE = 512          # longest signed text from the id on, behind the rest of a block, with its padding
    KEY_TEXT = 160      # longest ","apiKey":"...","timestamp":
    SHAPES = 16
    FRAME_MAX = 1024    # longest frame, and a stride more


cdef struct Account:
    #: one API key; key_size 0: no key. The secret is kept only as the two hash states. What an order needs of it stands
    #: together, in four cache lines.
    uint32_t inner[8]              # SHA-256 after ipad block + the whole blocks of apiKey=...&newClientOrderId=
    uint32_t outer[8]              # SHA-256 after opad block
    uint8_t rest[64]               # what did not fill a block
    uint64_t inner_size            # bytes in ``inner``
    int rest_size
    int key_size
    int out                        # index of its Out
    char key_text[KEY_TEXT]        # ","apiKey":"...","timestamp":
    char pad[4]


cdef struct Symbol:
    char name[64]                  # name_size 0: not known
    Py_ssize_t name_size
    int price_decimals
    int64_t tick
    int qty_decimals
    int64_t lot


cdef struct Text:
    #: a piece of text that is copied in whole strides
    Py_ssize_t size
    char data[256]


cdef struct Shape:
    #: what all orders of one instrument, side, price and kind share: the text between id, quantity and key
    int64_t limit_px
    uint32_t instrument
    int side
    int position_side
    bint reduce_only
    bint made
    Text signed_head               # behind the id, up to the quantity
    Text signed_tail               # behind the quantity
    Text head                      # behind the first id, up to the quantity
    Text middle                    # behind the quantity, up to the second id
    Text tail                      # behind the key, up to the signature


cdef struct Item:
    #: one order of the group under way
    uint32_t out
    Py_ssize_t at                  # where its frame begins in its Out
    Py_ssize_t size                # of the frame's payload
    Py_ssize_t signature           # where the signature goes, from the frame's beginning
    size_t blocks                  # of the signed text


cdef struct Group:
    uint8_t lanes[GROUP][LANE]
    uint8_t outer_lanes[GROUP][64]
    uint32_t inner[GROUP][8]
    uint32_t outer[GROUP][8]
    Item items[GROUP]
    uint32_t* states[GROUP]
    const uint8_t* data[GROUP]


cdef struct Out:
    #: the frames of one connection, back to back, and whose they are
    int connection
    char* data
    Py_ssize_t size
    Py_ssize_t room
    uint8_t* ids                   # 16 bytes an order
    uint32_t* slots
    uint32_t orders
    uint32_t orders_room


cdef struct Worker:
    #: what one thread renders with, and into; no two threads share one
    Group* group
    Shape* shapes
    Out* outs                      # one per connection, in the order they were first named
    uint32_t n_outs
    uint32_t* touched              # outs that the running call has put a frame into, in first-use order
    uint32_t n_touched
    uint64_t random                # xorshift state of the frame masks


cdef struct Job:
    #: a part of a call; given to a worker, and back with what became of it
    Worker* worker
    Order* orders
    const uint32_t* slots
    Py_ssize_t n
    Py_ssize_t failed
    int problem


cdef class Encoder:
    cdef Account* accounts         # by account index
    cdef uint32_t n_accounts
    cdef uint32_t* lanes           # Out of each of them + 1; 0 = no key
    cdef uint32_t n_lanes
    cdef Symbol* symbols           # by instrument index
    cdef uint32_t n_symbols
    cdef Worker[2] workers         # the calling thread's, the helper's
    cdef Job[2] jobs
    cdef object helper             # the thread; None: there is none
    cdef void* turns               # its Turns
    cdef char window[16]           # recvWindow as text
    cdef Py_ssize_t window_size
    cdef char stamp[24]            # timestamp of the running call as text
    cdef Py_ssize_t stamp_size
    cdef int out_of(self, int connection) except -1
    cdef int begin(self, int64_t timestamp_ms) except -1
    cdef list bursts(self)
    cdef int render(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil
    cdef void run(self, Job* job) noexcept nogil
    cdef void gather(self, Order* orders, const uint32_t* slots, uint32_t* arranged, Py_ssize_t n, uint32_t* starts,
                     uint32_t turn) noexcept nogil
    cdef inline uint32_t lane_of(self, uint32_t account, uint32_t turn) noexcept nogil
    cdef int put(self, Worker* w, Item* item, int lane, Order* order, uint32_t slot) noexcept nogil
    cdef Shape* shape_of(self, Worker* w, Order* order) noexcept nogil
    cdef int refuse(self, int problem, Order* order) except -1
