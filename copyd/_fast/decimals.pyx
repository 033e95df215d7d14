# cython: cdivision=True
# cdivision: the only divisions here are of non-negative C integers.
"""Decimal text of a venue to exact scaled integers and back, without a float on the way.

A venue's number is text with at most a known number of decimals; anything that does not fit exactly (more digits than
the scale, no multiple of the tick or lot, over 63 bits) is an error, never a rounding.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint64_t

cdef uint64_t LIMIT = 9223372036854775807


cdef int64_t scan(const char* text, Py_ssize_t size, int decimals, int* failed) noexcept nogil:
    """``text`` x 10**decimals; ``failed``: 1 = no plain decimal, 2 = digits beyond the scale, 3 = overflow."""
    cdef Py_ssize_t at = 0
    cdef uint64_t value = 0
    cdef int digits = 0, places = -1, digit
    cdef bint negative = False
    cdef char c
    failed[0] = 0
    if size > 0 and (text[0] == b"-" or text[0] == b"+"):
        negative = text[0] == b"-"
        at = 1
    while at < size:
        c = text[at]
        at += 1
        if c == b".":
            if places >= 0:
                failed[0] = 1
                return 0
            places = 0
            continue
        if c < 48 or c > 57:
            failed[0] = 1
            return 0
        digits += 1
        digit = c - 48
        if places >= 0:
            if places == decimals:
                if digit != 0:
                    failed[0] = 2
                    return 0
                continue
            places += 1
        if value > (LIMIT - digit) / 10:
            failed[0] = 3
            return 0
        value = value * 10 + digit
    if digits == 0:
        failed[0] = 1
        return 0
    if places < 0:
        places = 0
    while places < decimals:
        if value > LIMIT / 10:
            failed[0] = 3
            return 0
        value = value * 10
        places += 1
    return -<int64_t>value if negative else <int64_t>value


cdef int64_t scaled(object text, int decimals) except? -1:
    cdef const char* data
    cdef Py_ssize_t size = 0
    cdef int failed = 0
    cdef int64_t value
    if decimals < 0 or decimals > 18:
        raise ValueError("decimals must be 0 to 18")
    if isinstance(text, bytes):
        data = PyBytes_AS_STRING(text)
        size = PyBytes_GET_SIZE(text)
    elif isinstance(text, str):
        data = PyUnicode_AsUTF8AndSize(text, &size)
    else:
        raise TypeError("a decimal is text")
    value = scan(data, size, decimals, &failed)
    if failed:
        shown = repr(text[:40])
        if failed == 1:
            raise ValueError(f"not a decimal: {shown}")
        if failed == 2:
            raise ValueError(f"more than {decimals} decimals: {shown}")
        raise ValueError(f"too large: {shown}")
    return value


def parse_scaled(object text not None, int decimals) -> int:
    """``b"7100.50", 2`` -> 710050. Trailing zeros beyond the scale are allowed, other digits are an error."""
    return scaled(text, decimals)


def cut_scaled(object text not None, int decimals) -> int:
    """As ``parse_scaled``, but digits beyond the scale are cut toward zero: for averages and money, never for orders."""
    cdef const char* data
    cdef Py_ssize_t size = 0, at
    cdef int failed = 0
    cdef int64_t value
    if decimals < 0 or decimals > 18:
        raise ValueError("decimals must be 0 to 18")
    if isinstance(text, bytes):
        data = PyBytes_AS_STRING(text)
        size = PyBytes_GET_SIZE(text)
    elif isinstance(text, str):
        data = PyUnicode_AsUTF8AndSize(text, &size)
    else:
        raise TypeError("a decimal is text")
    for at in range(size):
        if data[at] == 46:
            if size - at - 1 > decimals and is_digits(data + at + 1, size - at - 1):
                size = at + 1 + decimals
            break
    value = scan(data, size, decimals, &failed)
    if failed:
        raise ValueError(f"not a decimal of this size: {text[:40]!r}")
    return value


cdef bint is_digits(const char* text, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(size):
        if text[at] < 48 or text[at] > 57:
            return False
    return True


def parse_steps(object text not None, int decimals, int64_t step) -> int:
    """The number of steps: ``"7100.5", 1, 1`` -> 71005; ``step`` in units of 10**-decimals. No multiple is an error."""
    cdef int64_t value
    cdef uint64_t size
    if step <= 0:
        raise ValueError("step must be positive")
    value = scaled(text, decimals)
    size = <uint64_t>(-value) if value < 0 else <uint64_t>value
    if size % <uint64_t>step:
        raise ValueError(f"not a multiple of the step: {text[:40]!r}")
    size = size / <uint64_t>step
    return -<int64_t>size if value < 0 else <int64_t>size


def format_scaled(int64_t value, int decimals) -> str:
    """``710050, 2`` -> ``"7100.50"``: all decimals of the scale, the way the venue writes them."""
    if decimals < 0 or decimals > 18:
        raise ValueError("decimals must be 0 to 18")
    if decimals == 0:
        return str(value)
    sign = "-" if value < 0 else ""
    digits = str(abs(<object>value)).rjust(decimals + 1, "0")
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"
