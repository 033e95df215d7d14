"""Seeded market makers on the simulated exchange's engine: the contract for compiled callers."""

from libc.stdint cimport int32_t, int64_t, uint64_t

from copyd._fast.sim_engine cimport Engine

cdef struct Market:            # one symbol's quoting
    uint64_t rng               #: own stream of random numbers
    int64_t mid_q16            #: the walk, ticks << 16
    int64_t anchor_q16         #: what it is pulled back to
    int64_t half_spread        #: ticks from the middle to the first level
    int64_t gap                #: ticks between levels
    int64_t depth_e8           #: value on one side, all makers together
    int64_t walk_ppm           #: largest move of one step
    int64_t pull_ppm           #: of the way back to the anchor, each step
    int32_t symbol
    int32_t levels
    int32_t mark_every         #: steps
    int32_t print_every        #: steps; 0 = never
    int32_t moved              #: by the operator since the last step: the mark follows at once


cdef class Makers:
    cdef readonly Engine engine
    cdef readonly int64_t step_no
    cdef Market* markets
    cdef int n_markets
    cdef int32_t first_account
    cdef int n_makers
    cdef uint64_t hash

    cdef void c_step(self, int64_t ts) noexcept nogil
    cdef void quote(self, Market* market, int64_t ts) noexcept nogil
    cdef void note(self, int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil
    cdef Market* market_of(self, int symbol) except NULL
