/* SHA-256 (FIPS 180-4) around the compression of blocks: where a state begins, the padding, the digest.
 *
 * A state is the eight words a..h. Whoever signs starts from a saved state, has hashing.pyx hash whole blocks of 64 bytes, and
 * pads by itself. These stand in a header so that they are compiled into their callers.
 */
#ifndef COPYD_SHA256_H
#define COPYD_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static const uint32_t SHA256_START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/* Pad a message of which the last `size` bytes lie in `data`, `total` in all; `data` has room for 72 more. Blocks it makes. */
static inline size_t sha256_pad(uint8_t *data, size_t size, uint64_t total) {
    size_t padded = (size + 9 + 63) & ~(size_t)63;
    uint64_t bits = total * 8;
    data[size] = 0x80;
    memset(data + size + 1, 0, padded - 9 - size);
    for (int i = 0; i < 8; i++) data[padded - 1 - i] = (uint8_t)(bits >> 8 * i);
    return padded / 64;
}

/* In halves of 16 bytes: that is how an outer hash reads it again at once, and a read waits for smaller writes to be done. */
static inline void sha256_put(const uint32_t state[8], uint8_t *digest) {
    typedef uint32_t four __attribute__((vector_size(16)));
    for (int i = 0; i < 2; i++) {
        four w;
        memcpy(&w, state + 4 * i, 16);
        if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
            w = w << 24 | (w & 0xff00) << 8 | ((w >> 8) & 0xff00) | w >> 24;
        memcpy(digest + 16 * i, &w, 16);
    }
}

#endif
