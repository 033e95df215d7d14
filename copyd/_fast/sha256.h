/* SHA-256 over whole blocks (FIPS 180-4), so that a signer can start from a saved state and pad by itself.
 *
 * Two implementations of one function: plain C, and the SHA instructions of x86-64 where the processor has them (chosen once,
 * at import, by sha256_choose). `state` is the eight words a..h, `blocks` 64-byte blocks are taken from `data`.
 */
#ifndef COPYD_SHA256_H
#define COPYD_SHA256_H

#include <stddef.h>
#include <stdint.h>

static const uint32_t SHA256_K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static const uint32_t SHA256_START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static inline uint32_t sha256_rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_blocks_plain(uint32_t state[8], const unsigned char *data, size_t blocks) {
    uint32_t w[64], s[8];
    for (; blocks; blocks--, data += 64) {
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)data[4 * t] << 24 | (uint32_t)data[4 * t + 1] << 16 | (uint32_t)data[4 * t + 2] << 8
                 | data[4 * t + 3];
        for (int t = 16; t < 64; t++) {
            uint32_t low = sha256_rotr(w[t - 15], 7) ^ sha256_rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
            uint32_t high = sha256_rotr(w[t - 2], 17) ^ sha256_rotr(w[t - 2], 19) ^ w[t - 2] >> 10;
            w[t] = w[t - 16] + low + w[t - 7] + high;
        }
        for (int i = 0; i < 8; i++) s[i] = state[i];
        for (int t = 0; t < 64; t++) {
            uint32_t high = sha256_rotr(s[4], 6) ^ sha256_rotr(s[4], 11) ^ sha256_rotr(s[4], 25);
            uint32_t low = sha256_rotr(s[0], 2) ^ sha256_rotr(s[0], 13) ^ sha256_rotr(s[0], 22);
            uint32_t one = s[7] + high + ((s[4] & s[5]) ^ (~s[4] & s[6])) + SHA256_K[t] + w[t];
            uint32_t two = low + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            s[7] = s[6]; s[6] = s[5]; s[5] = s[4]; s[4] = s[3] + one;
            s[3] = s[2]; s[2] = s[1]; s[1] = s[0]; s[0] = one + two;
        }
        for (int i = 0; i < 8; i++) state[i] += s[i];
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

static int sha256_has_instructions(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 9) || !(c & 1u << 19)) return 0; /* SSSE3, SSE4.1 */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);                  /* SHA */
}

__attribute__((target("sha,sse4.1,ssse3")))
static void sha256_blocks_ni(uint32_t state[8], const unsigned char *data, size_t blocks) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    /* The instructions want the words as (f e b a) and (h g d c), lowest lane first. */
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i feba = _mm_alignr_epi8(badc, hgfe, 8);
    __m128i hgdc = _mm_blend_epi16(hgfe, badc, 0xF0);
    for (; blocks; blocks--, data += 64) {
        __m128i feba_before = feba, hgdc_before = hgdc, w[4];
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* four rounds each; w holds the last sixteen schedule words */
            __m128i now;
            if (g < 4) {
                now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * g)), big_endian);
            } else {
                __m128i last = w[(g + 3) & 3];
                now = _mm_sha256msg1_epu32(w[g & 3], w[(g + 1) & 3]);
                now = _mm_add_epi32(now, _mm_alignr_epi8(last, w[(g + 2) & 3], 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            w[g & 3] = now;
            now = _mm_add_epi32(now, _mm_load_si128((const __m128i *)(SHA256_K + 4 * g)));
            hgdc = _mm_sha256rnds2_epu32(hgdc, feba, now);
            feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(now, 0x0E));
        }
        feba = _mm_add_epi32(feba, feba_before);
        hgdc = _mm_add_epi32(hgdc, hgdc_before);
    }
    badc = _mm_shuffle_epi32(feba, 0x1B);
    hgfe = _mm_shuffle_epi32(hgdc, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(badc, hgfe, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(hgfe, badc, 8));
}
#else
static int sha256_has_instructions(void) { return 0; }
#define sha256_blocks_ni sha256_blocks_plain
#endif

static void (*sha256_blocks)(uint32_t state[8], const unsigned char *data, size_t blocks) = sha256_blocks_plain;

/* Take the SHA instructions when they are wanted and there; 1 when they are in use. */
static int sha256_choose(int instructions) {
    int use = instructions && sha256_has_instructions();
    sha256_blocks = use ? sha256_blocks_ni : sha256_blocks_plain;
    return use;
}

static inline void sha256_put(const uint32_t state[8], unsigned char *digest) {
    for (int i = 0; i < 8; i++) {
        digest[4 * i] = (unsigned char)(state[i] >> 24);
        digest[4 * i + 1] = (unsigned char)(state[i] >> 16);
        digest[4 * i + 2] = (unsigned char)(state[i] >> 8);
        digest[4 * i + 3] = (unsigned char)state[i];
    }
}

/* Finish a message: `size` bytes lie in `data`, `total` were hashed in all, and `data` has room for 72 more of padding. */
static inline void sha256_finish(uint32_t state[8], unsigned char *data, size_t size, uint64_t total, unsigned char *digest) {
    size_t padded = (size + 9 + 63) & ~(size_t)63;
    uint64_t bits = total * 8;
    data[size] = 0x80;
    for (size_t i = size + 1; i < padded - 8; i++) data[i] = 0;
    for (int i = 0; i < 8; i++) data[padded - 1 - i] = (unsigned char)(bits >> 8 * i);
    sha256_blocks(state, data, padded / 64);
    sha256_put(state, digest);
}

#endif
