"""What a connection still owes: the orders written on it whose answers have not come, by client order id.

A burst of ten thousand is entered and taken out again within a tenth of a second, so an entry is 24 bytes in one block and
no object. Entering is put off until somebody asks: it is no work for between two writes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

cdef enum:
    ID = 16
    LEAST = 64     # rows of an empty table, a power of two


cdef inline size_t _hash(const uint8_t* cid) noexcept nogil:
    cdef uint64_t low
    memcpy(&low, cid + 8, 8)
    low = low * <uint64_t>0x9E3779B97F4A7C15  # ids of tests and of operators need not be as even as our own
    return <size_t>(low ^ (low >> 32))


cdef class Pending:
    """Client order ids of 16 bytes and the slot of each order. An id that is added again takes the new slot."""

    def __cinit__(self):
        self.later = []
        self.mask = LEAST - 1
        self.rows = <Owed*>calloc(LEAST, sizeof(Owed))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.rows)

    def add_many(self, bytes ids not None, const uint32_t[::1] slots not None):
        """Owe these: 16 bytes of id per order and its slot, in the same order. ``slots`` must not change afterwards."""
        if PyBytes_GET_SIZE(ids) != ID * slots.shape[0]:
            raise ValueError(f"{PyBytes_GET_SIZE(ids)} bytes of ids for {slots.shape[0]} slots")
        self.later.append((ids, slots))

    def pop(self, bytes cid not None) -> int:
        """No longer owed; its slot, or -1 where it was not."""
        cdef Owed* row
        cdef int64_t slot
        if PyBytes_GET_SIZE(cid) != ID:
            return -1
        if self.later:
            self.settle()
        row = self.find(<const uint8_t*>PyBytes_AS_STRING(cid))
        if row == NULL:
            return -1
        slot = row.slot
        self.drop(row)
        return slot

    def take(self, bytes ids not None) -> bytes:
        """Those of ``ids`` (16 bytes each) that were owed, in the same order; they are owed no longer."""
        cdef Py_ssize_t at, n = PyBytes_GET_SIZE(ids) // ID
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(ids)
        cdef bytes found
        cdef char* out
        cdef Owed* row
        if self.later:
            self.settle()
        found = PyBytes_FromStringAndSize(NULL, n * ID)
        out = PyBytes_AS_STRING(found)
        cdef Py_ssize_t size = 0
        for at in range(n):
            row = self.find(data + at * ID)
            if row != NULL:
                memcpy(out + size, data + at * ID, ID)
                size += ID
                self.drop(row)
        return found[:size]

    def any_of(self, bytes ids not None) -> bool:
        """Whether one of ``ids`` (16 bytes each) is still owed."""
        cdef Py_ssize_t at, n = PyBytes_GET_SIZE(ids) // ID
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(ids)
        if self.later:
            self.settle()
        if self.count == 0:
            return False
        for at in range(n):
            if self.find(data + at * ID) != NULL:
                return True
        return False

    def __contains__(self, cid):
        if not isinstance(cid, bytes) or len(cid) != ID:
            return False
        if self.later:
            self.settle()
        return self.find(<const uint8_t*>PyBytes_AS_STRING(cid)) != NULL

    def __len__(self):
        if self.later:
            self.settle()
        return self.count

    def __iter__(self):
        """The ids, in no particular order, as they are now."""
        cdef size_t at
        found = []
        if self.later:
            self.settle()
        for at in range(self.mask + 1):
            if self.rows[at].used:
                found.append(PyBytes_FromStringAndSize(<char*>self.rows[at].cid, ID))
        return iter(found)

    cdef int settle(self) except -1:
        """Enter what was put off."""
        cdef const uint32_t[::1] slots
        cdef const uint8_t* data
        cdef Py_ssize_t at, n
        later, self.later = self.later, []
        for ids, kept in later:
            slots = kept
            n = slots.shape[0]
            self.reserve(self.count + n)
            data = <const uint8_t*>PyBytes_AS_STRING(ids)
            with nogil:
                for at in range(n):
                    self.put(data + at * ID, slots[at])
        return 0

    cdef Owed* find(self, const uint8_t* cid) noexcept nogil:
        cdef size_t at = _hash(cid) & self.mask
        while self.rows[at].used:
            if memcmp(self.rows[at].cid, cid, ID) == 0:
                return &self.rows[at]
            at = (at + 1) & self.mask
        return NULL

    cdef void put(self, const uint8_t* cid, uint32_t slot) noexcept nogil:
        cdef size_t at = _hash(cid) & self.mask
        while self.rows[at].used:
            if memcmp(self.rows[at].cid, cid, ID) == 0:
                self.rows[at].slot = slot
                return
            at = (at + 1) & self.mask
        memcpy(self.rows[at].cid, cid, ID)
        self.rows[at].slot = slot
        self.rows[at].used = 1
        self.count += 1

    cdef void drop(self, Owed* row) noexcept nogil:
        """Free a row and move up those behind it that could no longer be found across the hole."""
        cdef size_t hole = row - self.rows
        cdef size_t at = hole
        cdef size_t home
        while True:
            at = (at + 1) & self.mask
            if not self.rows[at].used:
                break
            home = _hash(self.rows[at].cid) & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.rows[hole] = self.rows[at]
                hole = at
        self.rows[hole].used = 0
        self.count -= 1

    cdef int reserve(self, size_t rows) except -1:
        """Room for so many rows with half of the table free."""
        cdef size_t size = self.mask + 1
        cdef size_t at, old = size
        cdef Owed* before = self.rows
        if rows * 2 <= size:
            return 0
        while rows * 2 > size:
            size *= 2
        cdef Owed* grown = <Owed*>calloc(size, sizeof(Owed))
        if grown == NULL:
            raise MemoryError
        self.rows = grown
        self.mask = size - 1
        self.count = 0
        for at in range(old):
            if before[at].used:
                self.put(before[at].cid, before[at].slot)
        free(before)
        return 0
