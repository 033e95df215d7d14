# cython: cdivision=True
# cdivision: the only divisions here are of non-negative sizes.
"""SHA-256 and HMAC by the implementation that suits this processor, of many messages at once.

One hash is a chain in which each step waits for the one before; independent messages fill the time. The implementations are
compiled side by side (``sha256_kinds.h``). At import each that the processor can run is held against the standard library
once, and the first of the right ones is taken; ``COPYD_SHA`` names another (``auto``, ``avx512``, ``ni``, ``avx2``, ``plain``).
"""

import hashlib
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from "sha256_kinds.h" nogil:
    ctypedef struct sha256_kind:
        const char* name
        int needs
        int test
        int lanes
        void (*one)(uint32_t* state, const uint8_t* data, size_t blocks) noexcept nogil
        void (*many)(uint32_t** states, const uint8_t** data, size_t blocks, int n) noexcept nogil
    const sha256_kind SHA256_KINDS[]
    const int SHA256_N_KINDS
    int sha256_features() noexcept

cdef extern from "string.h" nogil:
    void explicit_bzero(void* memory, size_t size)

cdef const sha256_kind* in_use = NULL
cdef dict usable = {}              # name to place in SHA256_KINDS, best first
cdef list wrong = []               # names of those that the processor should be able to run, and that do not give SHA-256


cdef int lanes() noexcept nogil:
    return in_use.lanes


cdef void blocks(uint32_t* state, const uint8_t* data, size_t count) noexcept nogil:
    in_use.one(state, data, count)


cdef void many(uint32_t** states, const uint8_t** data, size_t count, int n) noexcept nogil:
    in_use.many(states, data, count, n)


cdef void finish(uint32_t* state, uint8_t* data, size_t size, uint64_t total, uint8_t* digest) noexcept nogil:
    in_use.one(state, data, pad(data, size, total))
    put(state, digest)


cdef void* memory(size_t size) except NULL:
    """Zeroed, and never NULL for nothing."""
    cdef void* made = calloc(1, size if size else 1)
    if made == NULL:
        raise MemoryError()
    return made


cdef int finish_all(list messages, uint32_t* states, uint64_t before, int offset=0) except -1:
    """Each message to the end of its stream, which has ``before`` bytes in its state already; the states are what remains.
    The copies that are padded begin ``offset`` bytes behind where memory is aligned."""
    cdef uint32_t* group_states[MANY]
    cdef const uint8_t* group_data[MANY]
    cdef bytes message
    cdef Py_ssize_t i = 0, at, size
    cdef size_t count, held = offset
    cdef int n
    # equal numbers of blocks side by side: together they are hashed
    cdef list order = sorted([((len(<bytes?>message) + 72) // 64, at) for at, message in enumerate(messages)])
    for count, _ in order:
        held += count * 64
    cdef uint8_t* data = <uint8_t*>memory(held)
    cdef uint8_t* to = data + offset
    try:
        while i < len(order):
            count = order[i][0]
            n = 0
            while i < len(order) and n < MANY and <size_t>order[i][0] == count:
                at = order[i][1]
                message = messages[at]
                size = PyBytes_GET_SIZE(message)
                memcpy(to, PyBytes_AS_STRING(message), size)
                pad(to, size, before + size)
                group_states[n] = states + 8 * at
                group_data[n] = to
                to += count * 64
                n += 1
                i += 1
            with nogil:
                many(group_states, group_data, count, n)
    finally:
        explicit_bzero(data, held)
        free(data)
    return 0


cdef list digests(const uint32_t* states, Py_ssize_t n):
    cdef uint8_t digest[32]
    cdef Py_ssize_t i
    cdef list made = []
    for i in range(n):
        put(states + 8 * i, digest)
        made.append(PyBytes_FromStringAndSize(<char*>digest, 32))
    return made


def sha256(bytes message not None):
    """One digest, by the one-stream function of the implementation in use."""
    cdef uint32_t state[8]
    cdef uint8_t digest[32]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    cdef uint8_t* data = <uint8_t*>memory(size + 72)
    memcpy(data, PyBytes_AS_STRING(message), size)
    memcpy(state, START, 32)
    with nogil:
        finish(state, data, size, size, digest)
    explicit_bzero(data, size + 72)
    free(data)
    return PyBytes_FromStringAndSize(<char*>digest, 32)


def sha256_many(list messages not None, int offset=0):
    """The digest of each message; the lengths may differ. With an ``offset`` (0 to 63) they are hashed from unaligned memory."""
    cdef Py_ssize_t i, n = len(messages)
    if not 0 <= offset < 64:
        raise ValueError(f"offset {offset} is not within a block")
    cdef uint32_t* states = <uint32_t*>memory(32 * n)
    try:
        for i in range(n):
            memcpy(states + 8 * i, START, 32)
        finish_all(messages, states, 0, offset)
        return digests(states, n)
    finally:
        free(states)


cdef int key_states(bytes key, uint32_t* inner, uint32_t* outer) except -1:
    cdef uint8_t block[128]    # the inner key block, the outer
    cdef uint32_t* states[2]
    cdef const uint8_t* data[2]
    cdef Py_ssize_t at
    if len(key) > 64:
        key = sha256(key)
    memset(block, 0x36, 64)
    memset(block + 64, 0x5C, 64)
    for at in range(len(key)):
        block[at] ^= <uint8_t>key[at]
        block[64 + at] ^= <uint8_t>key[at]
    data[0], data[1] = block, block + 64
    states[0], states[1] = inner, outer
    memcpy(inner, START, 32)
    memcpy(outer, START, 32)
    many(states, data, 1, 2)
    explicit_bzero(block, sizeof(block))
    return 0


cdef class Keys:
    """HMAC keys, each kept only as the two hash states that follow from it (RFC 2104); as secret as the keys, and wiped."""

    def __cinit__(self, list keys not None):
        cdef Py_ssize_t i
        self.saved = <uint32_t*>memory(64 * len(keys))
        for i in range(len(keys)):
            key_states(keys[i], self.saved + 16 * i, self.saved + 16 * i + 8)
            self.n += 1

    def __dealloc__(self):
        if self.saved != NULL:
            explicit_bzero(self.saved, 64 * self.n)
        free(self.saved)

    def __len__(self):
        return self.n

    def __reduce__(self):
        raise TypeError("these are keys; they are not copied or stored")

    def sign(self, list messages not None):
        """The HMAC-SHA256 of each message, the i-th by the i-th key."""
        cdef Py_ssize_t i
        if len(messages) != self.n:
            raise ValueError(f"{len(messages)} messages for {self.n} keys")
        cdef uint32_t* states = <uint32_t*>memory(32 * self.n)
        try:
            for i in range(self.n):
                memcpy(states + 8 * i, self.saved + 16 * i, 32)
            finish_all(messages, states, 64)
            inner = digests(states, self.n)
            for i in range(self.n):
                memcpy(states + 8 * i, self.saved + 16 * i + 8, 32)
            finish_all(inner, states, 64)
            return digests(states, self.n)
        finally:
            free(states)

    def sign_rows(self, const uint8_t[::1] rows not None, Py_ssize_t size, int group=0):
        """As ``sign`` for messages of one size that lie back to back, and so do the signatures: no object per message.

        ``group`` messages go through the hash together; 0: as many as the implementation in use likes best.
        """
        cdef uint32_t states[MANY][8]
        cdef uint32_t* group_states[MANY]
        cdef const uint8_t* group_data[MANY]
        cdef const uint8_t* group_outer[MANY]
        cdef uint8_t outer[MANY][64]
        cdef Py_ssize_t done = 0, i
        cdef size_t count, room
        cdef int n
        if size <= 0 or rows.shape[0] != size * self.n or not 0 <= group <= MANY:
            raise ValueError(f"{self.n} rows of {size} bytes are wanted, {group} (at most {MANY}) at a time")
        if group == 0:
            group = lanes()
        room = (size + 72) // 64 * 64
        cdef bytes made = PyBytes_FromStringAndSize(NULL, 32 * self.n)
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(made)
        cdef uint8_t* padded = <uint8_t*>memory(group * room)
        with nogil:
            for i in range(group):
                group_states[i] = states[i]
                group_data[i] = padded + i * room
                group_outer[i] = outer[i]
                pad(outer[i], 32, 96)          # every outer hash ends alike: only the digest before it changes
            while done < self.n:
                n = <int>min(group, self.n - done)
                count = 0
                for i in range(n):
                    memcpy(states[i], self.saved + 16 * (done + i), 32)
                    memcpy(padded + i * room, &rows[(done + i) * size], size)
                    count = pad(padded + i * room, size, 64 + size)
                many(group_states, group_data, count, n)
                for i in range(n):
                    put(states[i], outer[i])
                    memcpy(states[i], self.saved + 16 * (done + i) + 8, 32)
                many(group_states, group_outer, 1, n)
                for i in range(n):
                    put(states[i], out + 32 * (done + i))
                done += n
        free(padded)
        return made


def hmac_many(list pairs not None):
    """The HMAC-SHA256 of each (key, message)."""
    return Keys([key for key, _ in pairs]).sign([message for _, message in pairs])


def available():
    """The implementations that this processor can run and that were found right, best first."""
    return tuple([name for name, at in usable.items() if not SHA256_KINDS[<int>at].test])


def passed_over():
    """The implementations that this processor should be able to run and that were found wrong: none, as a rule."""
    return tuple(wrong)


def chosen():
    """The implementation in use."""
    return in_use.name.decode()


def choose(str name not None):
    """Hash by this implementation from now on; returns the one before. Beside the available ones there are those that exist to
    test the logic of another: ``vector16-generic`` and ``vector16-avx2`` are ``avx512`` compiled for less."""
    global in_use
    if name not in usable:
        raise ValueError(f"no SHA-256 implementation {name!r} here: there are {', '.join(available())}")
    before = chosen()
    in_use = &SHA256_KINDS[<int>usable[name]]
    return before


def _is_right():
    """Whether the implementation in use agrees with the standard library: a message each of one to five blocks, alone, in
    full groups and in every group that is not full."""
    for n in range(1, 33):
        messages = [bytes([n, i]) * (31 * (n % 5) + 7) for i in range(n)]
        if sha256_many(messages) != [hashlib.sha256(message).digest() for message in messages]:
            return False
        if sha256(messages[0]) != hashlib.sha256(messages[0]).digest():
            return False
    return True


def _begin():
    """Try them all; take the first that is right, or the one that is wished for."""
    global in_use
    cdef int at, features = sha256_features()
    for at in range(SHA256_N_KINDS):
        name = SHA256_KINDS[at].name.decode()
        if SHA256_KINDS[at].needs & ~features or name in usable:
            continue
        in_use = &SHA256_KINDS[at]
        # A processor that says it has the instructions and gives something else must not sign.
        if _is_right():
            usable[name] = at
        else:
            wrong.append(name)
    if not available():
        raise ImportError("no implementation of SHA-256 agrees with the standard library")
    wish = os.environ.get("COPYD_SHA") or "auto"
    if wish != "auto" and wish not in available():
        raise ValueError(f"COPYD_SHA={wish}: no such SHA-256 implementation here; there are auto, {', '.join(available())}")
    choose(available()[0] if wish == "auto" else wish)


_begin()
