from libc.stdint cimport int64_t, uint32_t, uint64_t

from copyd._fast.columns cimport Columns

cdef struct Limits:
    uint64_t instruments      # bit i: orders in instrument i may be signed
    int64_t notional_cap_e8   # most one order may be worth; 0 = no cap
    uint32_t known            # 0: nothing was said of the account, so it opens nothing
    uint32_t pad

cdef struct Band:
    int64_t low               # ticks, both ends allowed; high 0: nothing was said, so nothing opens in it
    int64_t high

cdef class Guard:
    cdef Limits* accounts
    cdef uint32_t capacity
    cdef Band bands[64]
