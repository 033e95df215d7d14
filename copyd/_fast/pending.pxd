# What a connection still owes: client order id -> order slot, open addressing with linear probing.

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef struct Owed:
    uint8_t cid[16]
    uint32_t slot
    uint32_t used      # 0: free

cdef class Pending:
    cdef Owed* rows
    cdef size_t mask
    cdef size_t count
    cdef list later              # (ids, slots) that were added and not yet looked at
    cdef int settle(self) except -1
    cdef Owed* find(self, const uint8_t* cid) noexcept nogil
    cdef void put(self, const uint8_t* cid, uint32_t slot) noexcept nogil
    cdef void drop(self, Owed* row) noexcept nogil
    cdef int reserve(self, size_t rows) except -1
