# Orders into templates: masked WebSocket frames or HTTP requests, signed where the template says so, one burst per account.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from copyd._fast.columns cimport Order

cdef enum:
    PIECES = 32         # most fields of one template, and one
    FIELDS = 10
    SHAPES = 24         # of an instrument: side, limit or market, position side, reduce-only
    COOKED = 16         # shapes of a call whose shared texts are kept at a time
    GROUP = 32          # orders that are hashed together: their texts stay in the first-level cache's reach
    SIGNED_MAX = 4096   # longest text that is signed
    KEY_MAX = 128
    PASS_MAX = 64
    TEXT_MAX = 65535    # longest payload of a frame with a 16-bit length, and longest request


cdef struct Piece:
    #: what stands before a field, and the field
    uint32_t begin                 # in the template's text
    uint32_t size
    int64_t offset_ms              # of a time: added to the call's
    int field


cdef struct Template:
    #: literal texts back to back, with room for a stride behind them, and the fields between them; the last piece has none
    Piece pieces[PIECES]
    int n
    char* text
    uint32_t size
    uint32_t room
    int counts[FIELDS]             # how often each field stands in it


cdef struct Shape:
    #: what an instrument's orders of one kind are rendered into
    Template text                  # of a frame; of a request what stands before its body
    Template body
    Template signed                # n 0: nothing is signed


cdef struct Cooked:
    #: a shape at one price and time: what is left are ids, quantities, keys and signatures
    Shape* shape                   # NULL: not made in this call
    int64_t limit_px
    Template text
    Template body
    Template signed


cdef struct Symbol:
    int64_t tick                   # 0: not known
    int64_t lot
    int64_t px_max                 # ticks
    int64_t qty_max                # lots
    int price_decimals
    int qty_decimals
    Shape* shapes[SHAPES]


cdef struct Account:
    #: one API key; key_size 0: no key. The secret is kept only as the two hash states.
    uint32_t inner[8]              # SHA-256 after ipad block
    uint32_t outer[8]              # SHA-256 after opad block
    int key_size
    int pass_size
    uint32_t burst                 # of the running call, + 1; 0 between calls
    char key[KEY_MAX + 32]
    char passphrase[PASS_MAX + 32]
    char pad[4]


cdef struct Burst:
    #: the orders of one account in the running call
    uint32_t account
    uint32_t first                 # place of its first order in the sequence
    uint32_t orders
    size_t size                    # of its bytes
    char* to                       # where its next order goes


cdef struct Draft:
    #: what is known of an order before it is rendered
    uint32_t size                  # of its text
    uint8_t qty_size
    char qty[27]


cdef struct Item:
    #: one order of the group under way
    char* at                       # where its bytes begin
    char* to                       # where they go when they are done
    uint32_t size                  # of the text
    uint32_t signature             # where the signature goes, from the text's beginning
    int head                       # bytes of the frame's header; 0 in a request
    int lane                       # of its signed text; -1: it is not signed


cdef struct Group:
    uint8_t texts[GROUP * (SIGNED_MAX + 192)]   # the signed texts of the group, each with its padding
    uint8_t outer_lanes[GROUP][64]
    uint32_t inner[GROUP][8]
    uint32_t outer[GROUP][8]
    size_t blocks[GROUP]
    uint8_t* starts[GROUP]
    int lanes                      # texts in it
    size_t used                    # bytes of ``texts``
    Item items[GROUP]
    uint32_t* states[GROUP]
    const uint8_t* data[GROUP]


cdef struct Values:
    #: what differs from order to order, as text
    char id_text[32]
    char length[32]
    const char* qty
    Py_ssize_t qty_size
    Py_ssize_t length_size
    char* signature                # where its place is
    Account* account


cdef class Renderer:
    cdef readonly str target
    cdef readonly str signature
    cdef bint frames               # WebSocket frames, else requests
    cdef bint hexadecimal          # signatures, else base64
    cdef int signature_size
    cdef Account* accounts         # by account index
    cdef uint32_t n_accounts
    cdef Symbol* symbols           # by instrument index
    cdef uint32_t n_symbols
    cdef Cooked* cooked
    cdef Group* group
    cdef uint64_t random           # xorshift state of the frame masks
    cdef int64_t now_ms            # of the running call
    cdef char* data                # the group's orders as they are made
    cdef size_t room
    cdef void* tables              # bursts, drafts, ids, slots, sequence, burst of each order: room for ``orders_room``
    cdef Burst* bursts
    cdef uint32_t n_bursts
    cdef Draft* drafts             # in the sequence of the bursts
    cdef uint8_t* ids              # likewise
    cdef uint32_t* sent            # slots, likewise
    cdef uint32_t* sequence        # place in the call of each
    cdef uint32_t* burst_of        # by place in the call
    cdef uint32_t orders_room
    cdef list render_all(self, Order* orders, const uint32_t* slots, Py_ssize_t n, int64_t timestamp_ms)
    cdef int begin(self, Py_ssize_t n, int64_t timestamp_ms) except -1
    cdef int measure(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil
    cdef int sort(self, Order* orders, const uint32_t* slots, Py_ssize_t n, Py_ssize_t* failed) noexcept nogil
    cdef int draft(self, Draft* draft, Order* order) noexcept nogil
    cdef inline int head_of(self, uint32_t size) noexcept nogil
    cdef list bursts_made(self)
    cdef int run(self, Order* orders, Py_ssize_t n) noexcept nogil
    cdef int reserve(self, Py_ssize_t base, int size) noexcept nogil
    cdef int put(self, Item* item, Draft* draft, Order* order, char* at) noexcept nogil
    cdef void finish(self, Item* item) noexcept nogil
    cdef Cooked* cooked_of(self, Order* order) noexcept nogil
    cdef void wipe(self) noexcept nogil
    cdef int refuse(self, int problem, Order* order) except -1
