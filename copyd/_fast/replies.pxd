# Answers of the order socket and events of the followers' user streams, read in one pass into report rows.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from copyd._fast.columns cimport Columns, ReportBatch
from copyd._fast.pending cimport Pending

cdef struct Text:              # the inside of a JSON string; at NULL: the field is not there
    const char* at
    Py_ssize_t size

cdef struct Listed:            # an instrument as the venue names and writes it
    char name[32]
    char asset[16]
    Py_ssize_t name_size       # 0: not known
    Py_ssize_t asset_size
    int64_t tick
    int64_t lot
    int price_decimals
    int qty_decimals

cdef struct Result:            # the order object of an answer
    Text symbol
    Text status
    Text client
    Text side
    Text position_side
    Text orig
    Text done
    Text average
    Text quote
    int64_t order_id
    int64_t update_ms

cdef struct Update:            # ``o`` of an ORDER_TRADE_UPDATE, by the venue's letters
    Text s
    Text c
    Text S
    Text X
    Text x
    Text z
    Text l
    Text L
    Text ap
    Text N
    Text n
    Text q
    Text o
    Text ps
    Text rp
    int64_t i
    int64_t t
    bint m
    bint R

cdef struct Wallet:            # a row of ``B`` of an ACCOUNT_UPDATE
    Text a
    Text wb

cdef struct Held:              # a row of ``P``
    Text s
    Text pa
    Text ps

cdef struct AccountBody:       # ``a`` of an ACCOUNT_UPDATE
    int wallets
    int positions
    bint funding
    Wallet wallet[8]
    Held position[32]

cdef class Reader:
    cdef Listed listed[64]
    cdef uint8_t places[256]   # open addressing: symbol -> index + 1
    cdef int count
    cdef public Columns columns
    cdef public ReportBatch batch
    cdef public bint due                # somebody will come for the rows
    cdef int symbol(self, Text* name) noexcept nogil
    cdef bint lots(self, int index, Text* text, bint signed, int64_t* lots) noexcept nogil
    cdef bint ticks(self, int index, Text* text, int64_t* ticks) noexcept nogil

cdef class Executions(Reader):
    cdef object make
    cdef object made(self, Update* update, int64_t ts_event, int64_t ts_recv, bytes payload)

cdef class Ear:
    cdef Reader reader                  # None: every frame is for ``rest``
    cdef Pending pending                # of a lane; None on a user stream
    cdef object rest
    cdef object on_rows
    cdef Py_ssize_t size_max
    cdef public uint64_t heard          # frames that arrived
    cdef public bint parted             # a message is on its way in parts

cdef class Replies(Reader):
    cdef uint8_t refused[8192]          # by -code: 1 = the code proves that there is no order
    cdef readonly uint64_t replies      # rows made of them
    cdef readonly uint64_t rejects
    cdef int read(self, const char* data, Py_ssize_t size, Pending pending) except -1
    cdef bint fits(self, int instrument, Text* side, Text* position_side, Text* quantity, uint32_t slot,
                   const uint8_t* cid) noexcept nogil

cdef class UserEvents(Reader):
    cdef dict accounts                  # listen key -> account
    cdef char tag[8]
    cdef Py_ssize_t tag_size
    cdef public bint positions          # somebody wants to hear of positions: those events are not for here
    cdef readonly uint64_t trades
    cdef readonly uint64_t updates
    cdef readonly uint64_t balances
    cdef readonly uint64_t skipped
    cdef readonly uint64_t frames       # of which one of these became
    cdef int64_t account_of(self, Text* key) except -2
    cdef int read(self, const char* data, Py_ssize_t size) except -1
    cdef int order(self, Update* update, int64_t ts_event) except -1
    cdef int account(self, AccountBody* body, uint32_t account, int64_t ts_event) except -1
