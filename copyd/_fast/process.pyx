"""What a process says of itself to the kernel. Here rather than by ``ctypes``, which wants memory that is writable and executable
as it is imported, and the service is given none."""

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, ...)
    int PR_GET_DUMPABLE
    int PR_SET_DUMPABLE


def set_dumpable(bint on):
    """Whether the memory of this process may be dumped, and be looked at by others of its user. False where it was not taken."""
    return prctl(PR_SET_DUMPABLE, <unsigned long>on, 0UL, 0UL, 0UL) == 0


def dumpable():
    """Whether it may be."""
    return prctl(PR_GET_DUMPABLE, 0UL, 0UL, 0UL, 0UL) == 1
