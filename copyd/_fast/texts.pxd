# Text into buffers, and tables by index: what the kernels that render orders share. Everything here is compiled into its callers.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from "string.h" nogil:
    void explicit_bzero(void* memory, size_t size)

cdef extern from "memory.h" nogil:
    void* grow_table(void* old, size_t used, size_t size)

cdef extern from *:
    """
    static inline void fetch_soon(const void* at) { __builtin_prefetch(at); }
    """
    void fetch_soon(const void* at) noexcept nogil

cdef extern from "digits.h" nogil:
    #: ``blocks`` times 16 bytes as lower-case hexadecimal digits; behind them
    char* put_hex "digits_hex"(char* at, const uint8_t* data, int blocks) noexcept
    #: the 32 bytes of a digest as 44 characters
    void put_base64 "digits_base64"(char* at, const uint8_t* digest) noexcept

cdef enum:
    STRIDE = 32                    # texts are copied in such pieces, up to one too much


cdef inline char* put_bytes(char* at, const char* text, Py_ssize_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef inline char* put_strides(char* at, const char* text, Py_ssize_t size) noexcept nogil:
    """Copies ``size`` bytes and up to a stride more: both sides have room for them, and what follows overwrites them."""
    cdef Py_ssize_t i = 0
    while i < size:
        memcpy(at + i, text + i, STRIDE)
        i += STRIDE
    return at + size


cdef inline char* put_scaled(char* at, uint64_t value, int decimals) noexcept nogil:
    """``value`` x 10**-decimals without trailing zeros, and without a point for a whole number."""
    cdef char digits[24]
    cdef int n = 0, i
    while decimals > 0 and value % 10 == 0:
        value = value // 10
        decimals -= 1
    while value or n <= decimals:
        digits[n] = <char>(48 + value % 10)
        value = value // 10
        n += 1
    for i in range(n - 1, -1, -1):
        at[0] = digits[i]
        at += 1
        if i == decimals and decimals > 0:
            at[0] = 46
            at += 1
    return at


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    """The next of a xorshift generator, whose state is not 0."""
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x


cdef inline void mask_text(char* text, Py_ssize_t size, uint32_t mask) noexcept nogil:
    """The payload of a client's frame under its mask (RFC 6455, 5.3); ``mask`` as it stands in the frame."""
    cdef uint64_t wide = mask, word
    cdef Py_ssize_t i
    wide = wide << 32 | mask
    for i in range(size >> 3):
        memcpy(&word, text + i * 8, 8)
        word ^= wide
        memcpy(text + i * 8, &word, 8)
    for i in range(size & ~7, size):
        text[i] = text[i] ^ (<char*>&mask)[i & 3]


cdef inline int refuse_unplain(bytes text, str what) except -1:
    """Refuse what would need escaping in JSON or in the signed string; the text itself stays out of the message."""
    cdef unsigned char c
    for c in text:
        if c < 33 or c in b'"\\&=':
            raise ValueError(f"{what} is empty or contains a character that cannot be sent")
    if not text:
        raise ValueError(f"{what} is empty or contains a character that cannot be sent")
    return 0


cdef inline void* grown(void* rows, uint32_t* count, Py_ssize_t index, Py_ssize_t wanted, size_t size) except NULL:
    """The rows with ``wanted`` of them if there is none at ``index`` yet; new ones are zero. What is left behind is wiped,
    it may hold hash states."""
    cdef void* bigger
    if not 0 <= index < (1 << 30):
        raise ValueError(f"index {index} is out of range")
    if index < count[0]:
        return rows
    bigger = grow_table(NULL, 0, wanted * size)
    if bigger == NULL:
        raise MemoryError()
    if rows != NULL:
        memcpy(bigger, rows, count[0] * size)
        explicit_bzero(rows, count[0] * size)
        free(rows)
    count[0] = <uint32_t>wanted
    return bigger
