from libc.stdint cimport int64_t

# Leaf without objects: failed 1 = no decimal, 2 = digits beyond the scale, 3 = over 63 bits.
cdef int64_t scan(const char* text, Py_ssize_t size, int decimals, int* failed) noexcept nogil
cdef int64_t scaled(object text, int decimals) except? -1
