"""Orders and reports of the batch protocol (copyd/venues/batch/PROTOCOL.md) as bytes, and which orders are in flight."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from copyd._fast.columns cimport ReportBatch

cdef struct Entry:       # an order in flight
    uint8_t cid[16]
    void* batch          # the Batch it went out in, until it has ended or is in doubt
    uint8_t state        # 0 = empty
    uint8_t pad[7]

cdef class Batch:
    cdef uint8_t* data
    cdef readonly uint32_t count        # records
    cdef readonly uint32_t capacity
    cdef readonly int rank              # REDUCTIONS, TOP_OPENINGS, OPENINGS
    cdef readonly uint64_t event
    cdef readonly uint64_t sequence
    cdef readonly int64_t valid_until
    cdef readonly uint32_t written      # bytes of the message the kernel has taken
    cdef readonly uint32_t unanswered   # records without a report
    cdef readonly uint32_t open         # records that have not ended and are in no doubt
    cdef public int64_t handed_ns       # when it was handed over, and when it was stamped, by the caller's clock
    cdef public int64_t sent_ns
    cdef public bint acked

cdef class Packer:
    cdef uint32_t batch_records
    cdef int32_t[64] instrument_numbers  # -1 = not at the engine
    cdef uint32_t* account_numbers       # NONE = not at the engine
    cdef uint32_t accounts_room
    cdef uint8_t[64] top_words           # one bit a leader
    cdef bint any_top
    cdef uint8_t* ranks
    cdef uint32_t ranks_room
    cdef list free
    cdef Batch take(self)

cdef class Flight:
    cdef Entry* table
    cdef uint64_t mask
    cdef readonly uint64_t count         # orders in the table
    cdef readonly uint64_t waiting       # of them without any report
    cdef readonly uint64_t doubted       # of them in doubt
    cdef int32_t[64] codes               # refusals as the core numbers them, 0 = no such
    cdef dict live
    cdef public list settled             # orders in doubt that a report ended
    cdef readonly uint64_t answered, late, unmatched
    cdef Entry* find(self, const uint8_t* cid) noexcept nogil
    cdef void remove(self, Entry* entry) noexcept nogil
    cdef int grow(self, uint64_t room) except -1
    cdef int ended(self, Batch batch) except -1
    cdef int put_in_doubt(self, uint64_t at, ReportBatch out) except -1
