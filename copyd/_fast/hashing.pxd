# SHA-256 by the best implementation this processor has, of one stream or of many at once. Every kernel that hashes comes here:
# which implementation is in use is known in this module alone.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "sha256.h" nogil:
    #: the state before the first block
    const uint32_t START "SHA256_START"[8]
    #: pad a message of which the last ``size`` bytes lie in ``data``, which has room for 72 more; the blocks that makes
    size_t pad "sha256_pad"(uint8_t* data, size_t size, uint64_t total) noexcept
    #: a state as the 32 bytes of a digest
    void put "sha256_put"(const uint32_t* state, uint8_t* digest) noexcept


cdef enum:
    MANY = 64                      # the most streams in one call of ``many``

#: how many streams the implementation in use likes best at a time: 1 to 16
cdef int lanes() noexcept nogil
#: ``count`` blocks into one state
cdef void blocks(uint32_t* state, const uint8_t* data, size_t count) noexcept nogil
#: ``count`` blocks of each of ``n`` streams (1 to MANY) into the state of each
cdef void many(uint32_t** states, const uint8_t** data, size_t count, int n) noexcept nogil
#: pad, hash what that makes, and the digest
cdef void finish(uint32_t* state, uint8_t* data, size_t size, uint64_t total, uint8_t* digest) noexcept nogil

#: the two states that follow from an HMAC key (RFC 2104): after its inner block, after its outer; the key is left nowhere
cdef int key_states(bytes key, uint32_t* inner, uint32_t* outer) except -1


cdef class Keys:
    cdef uint32_t* saved           # 16 words per key: the state after the inner key block, the state after the outer
    cdef Py_ssize_t n
