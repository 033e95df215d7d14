# cython: cdivision=True
# cdivision: the only divisions here are of positive C integers by constants.
"""Table rows as the journal keeps them: ten thousand decisions of one event differ little, and only the difference is written.

Packed rows: the number of rows (u32, little-endian); then the first ``raw`` bytes of every row as they are (client order ids
stay searchable); then, row by row, the rest as 64-bit words. Of each word the second difference to the two rows before is
written (a counter costs nothing, what never changes costs nothing): zigzag, little-endian, without its leading zero bytes. In
front of a row's bytes stand their numbers, four bits a word, the first word in the lower half of a byte.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    static inline int bytes_of(unsigned long long value) { return value ? (71 - __builtin_clzll(value)) >> 3 : 0; }
    """
    int bytes_of(uint64_t value) noexcept nogil

cdef enum:
    WORDS_MAX = 16


cdef int _words(int row_size, int raw) except -1:
    """64-bit words of a row behind its raw part."""
    if row_size % 8 or raw % 8 or not 0 <= raw < row_size or row_size - raw > 8 * WORDS_MAX:
        raise ValueError(f"rows of {row_size} bytes, {raw} of them raw, are not packed")
    return (row_size - raw) // 8


cdef Py_ssize_t _pack(const uint8_t* rows, uint8_t* out, uint32_t n, int row_size, int raw, int words) noexcept nogil:
    cdef uint64_t[WORDS_MAX] before
    cdef uint64_t[WORDS_MAX] step
    cdef uint64_t word, change
    cdef uint8_t* at = out
    cdef uint8_t* sizes
    cdef const uint8_t* row
    cdef uint32_t i
    cdef int w, size
    memset(before, 0, sizeof(before))
    memset(step, 0, sizeof(step))
    memcpy(at, &n, 4)
    at += 4
    for i in range(n):
        memcpy(at, rows + <size_t>i * row_size, raw)
        at += raw
    for i in range(n):
        row = rows + <size_t>i * row_size + raw
        sizes = at
        at += (words + 1) // 2
        memset(sizes, 0, (words + 1) // 2)
        for w in range(words):
            memcpy(&word, row + 8 * w, 8)
            change = (word - before[w]) - step[w]
            step[w] = word - before[w]
            before[w] = word
            change = (change << 1) ^ (0 - (change >> 63))
            size = bytes_of(change)
            memcpy(at, &change, 8)
            at += size
            sizes[w >> 1] |= <uint8_t>(size << (4 * (w & 1)))
    return at - out


def pack_rows(bytes rows not None, int row_size, int raw=0):
    """``rows`` packed. ValueError when they are no whole number of rows of ``row_size`` bytes."""
    cdef int words = _words(row_size, raw)
    cdef Py_ssize_t n = len(rows) // row_size
    cdef Py_ssize_t size
    if len(rows) % row_size or n > 0xFFFFFFFF:
        raise ValueError(f"{len(rows)} bytes are no whole number of rows of {row_size}")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 12 + n * (raw + (words + 1) // 2 + 8 * words))
    cdef const uint8_t* source = <const uint8_t*>PyBytes_AS_STRING(rows)
    cdef uint8_t* target = <uint8_t*>PyBytes_AS_STRING(out)
    with nogil:
        size = _pack(source, target, <uint32_t>n, row_size, raw, words)
    return out[:size]


cdef Py_ssize_t _unpack(
        const uint8_t* data, Py_ssize_t size, uint8_t* rows, uint32_t n, int row_size, int raw, int words) noexcept nogil:
    """Bytes of ``data`` that were read; -1 when it ends too soon or says what it cannot say."""
    cdef uint64_t[WORDS_MAX] before
    cdef uint64_t[WORDS_MAX] step
    cdef uint64_t change
    cdef Py_ssize_t at = 4 + <Py_ssize_t>n * raw
    cdef const uint8_t* sizes
    cdef uint8_t* row
    cdef uint32_t i
    cdef int w, count
    memset(before, 0, sizeof(before))
    memset(step, 0, sizeof(step))
    for i in range(n):
        row = rows + <size_t>i * row_size
        memcpy(row, data + 4 + <size_t>i * raw, raw)
        sizes = data + at
        at += (words + 1) // 2
        if at > size:
            return -1
        for w in range(words):
            count = (sizes[w >> 1] >> (4 * (w & 1))) & 15
            if count > 8 or at + count > size:
                return -1
            change = 0
            memcpy(&change, data + at, count)
            at += count
            change = (change >> 1) ^ (0 - (change & 1))
            step[w] += change
            before[w] += step[w]
            memcpy(row + raw + 8 * w, &before[w], 8)
    return at


def unpack_rows(const uint8_t[::1] data not None, int row_size, int raw=0):
    """The inverse of ``pack_rows``. ValueError when ``data`` is not what it gives."""
    cdef int words = _words(row_size, raw)
    cdef uint32_t n
    cdef Py_ssize_t size = data.shape[0]
    cdef Py_ssize_t least = raw + (words + 1) // 2
    if size < 4:
        raise ValueError("packed rows are cut short")
    memcpy(&n, &data[0], 4)
    if 4 + <Py_ssize_t>n * least > size:
        raise ValueError("packed rows are cut short")
    cdef bytes rows = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>n * row_size)
    cdef uint8_t* target = <uint8_t*>PyBytes_AS_STRING(rows)
    cdef Py_ssize_t read
    with nogil:
        read = _unpack(&data[0], size, target, n, row_size, raw, words)
    if read != size:
        raise ValueError("packed rows are damaged")
    return rows
