"""Counters and latency histograms the hot path can afford: a record is a few instructions on memory it owns.

Histogram: log-linear buckets. Values below 128 ns have a bucket each; above, every power of two is cut into 64 equal
buckets, so a reported value is at most 1/64 (1.6 %) above the true one. 64-bit values fit: 3,712 buckets, 30 kB.
"""

cimport cython
from libc.stdint cimport int64_t


cdef enum:
    LINEAR_BITS = 7                     # values below 2**7 are exact
    HALF = 64                           # buckets per power of two above
    BUCKETS = 128 + 56 * 64             # up to 2**63 - 1


@cython.final
cdef class Histogram:
    cdef int64_t counts[BUCKETS]
    cdef readonly int64_t count         #: int, how many were recorded
    cdef readonly int64_t total_ns      #: int, their sum; saturates at 2**63 - 1
    cdef readonly int64_t max_ns        #: int, the largest, exact
    cdef readonly int64_t min_ns        #: int, the smallest, exact; 0 when empty

    cdef void record(self, int64_t ns) noexcept nogil
    cdef void record_many(self, int64_t ns, int64_t n) noexcept nogil


@cython.final
cdef class Counters:
    cdef int64_t *slots
    cdef readonly int64_t size          #: int, number of slots

    cdef void add(self, int64_t slot, int64_t n) noexcept nogil
