/* The implementations of SHA-256's compression, each compiled for its own processor; hashing.pyx chooses among them.
 *
 * An implementation hashes one stream, or up to 64 independent ones of the same number of 64-byte blocks; states are updated in
 * place. No branch and no address depends on what is hashed, only on how much.
 */
#ifndef COPYD_SHA256_KINDS_H
#define COPYD_SHA256_KINDS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

static inline uint32_t sha256_rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_blocks_plain(uint32_t state[8], const uint8_t *data, size_t blocks) {
    uint32_t w[16], s[8];
    for (; blocks; blocks--, data += 64) {
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)data[4 * t] << 24 | (uint32_t)data[4 * t + 1] << 16 | (uint32_t)data[4 * t + 2] << 8
                 | data[4 * t + 3];
        for (int i = 0; i < 8; i++) s[i] = state[i];
        for (int g = 0; g < 64; g += 16)
#pragma GCC unroll 16
            for (int t = 0; t < 16; t++) { /* w holds the next sixteen schedule words */
                uint32_t high = sha256_rotr(s[4], 6) ^ sha256_rotr(s[4], 11) ^ sha256_rotr(s[4], 25);
                uint32_t low = sha256_rotr(s[0], 2) ^ sha256_rotr(s[0], 13) ^ sha256_rotr(s[0], 22);
                uint32_t one = s[7] + high + (s[6] ^ (s[4] & (s[5] ^ s[6]))) + SHA256_K[g + t] + w[t];
                uint32_t two = low + (s[1] ^ ((s[0] ^ s[1]) & (s[1] ^ s[2])));
                s[7] = s[6]; s[6] = s[5]; s[5] = s[4]; s[4] = s[3] + one;
                s[3] = s[2]; s[2] = s[1]; s[1] = s[0]; s[0] = one + two;
                if (g < 48) {
                    uint32_t next = w[(t + 1) & 15], last = w[(t + 14) & 15];
                    w[t] += (sha256_rotr(next, 7) ^ sha256_rotr(next, 18) ^ next >> 3) + w[(t + 9) & 15]
                          + (sha256_rotr(last, 17) ^ sha256_rotr(last, 19) ^ last >> 10);
                }
            }
        for (int i = 0; i < 8; i++) state[i] += s[i];
    }
}

static void sha256_many_plain(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    for (int i = 0; i < n; i++) sha256_blocks_plain(states[i], data[i], blocks);
}

/* What the processor has, and the system saves the registers of. */
enum { SHA256_NI = 1, SHA256_AVX2 = 2, SHA256_AVX512 = 4 };

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

static int sha256_features(void) {
    unsigned a, b, c, d, saved = 0;
    int found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    int vectors = c >> 9 & c >> 19 & 1;                                                  /* SSSE3, SSE4.1 */
    if (c >> 27 & c >> 28 & 1) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));        /* OSXSAVE, AVX */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (vectors && b >> 29 & 1) found |= SHA256_NI;
    if ((saved & 0x06) == 0x06 && b >> 5 & 1) found |= SHA256_AVX2;
    if ((saved & 0xe6) == 0xe6 && b >> 16 & b >> 30 & b >> 31 & 1) found |= SHA256_AVX512; /* F, BW, VL */
    return found;
}

/* The SHA instructions, for up to four streams in turn: one stream waits for each result, others fill the time. */
__attribute__((target("sha,sse4.1,ssse3"), always_inline))
static inline void sha256_interleaved(uint32_t **states, const uint8_t **data, size_t blocks, const int n) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i feba[4], hgdc[4], feba_before[4], hgdc_before[4], w[4][4];
    const uint8_t *at[4];
    /* The instructions want the words as (f e b a) and (h g d c), lowest lane first. */
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)states[i]), 0xB1);
        __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(states[i] + 4)), 0x1B);
        feba[i] = _mm_alignr_epi8(badc, hgfe, 8);
        hgdc[i] = _mm_blend_epi16(hgfe, badc, 0xF0);
        at[i] = data[i];
    }
    for (size_t block = 0; block < blocks; block++) {
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) feba_before[i] = feba[i], hgdc_before[i] = hgdc[i];
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* four rounds each; w holds the last sixteen schedule words */
            const __m128i k = _mm_load_si128((const __m128i *)(SHA256_K + 4 * g));
#pragma GCC unroll 4
            for (int i = 0; i < n; i++) {
                __m128i now;
                if (g < 4) {
                    now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(at[i] + 64 * block + 16 * g)), big_endian);
                } else {
                    __m128i last = w[i][(g + 3) & 3];
                    now = _mm_sha256msg1_epu32(w[i][g & 3], w[i][(g + 1) & 3]);
                    now = _mm_add_epi32(now, _mm_alignr_epi8(last, w[i][(g + 2) & 3], 4));
                    now = _mm_sha256msg2_epu32(now, last);
                }
                w[i][g & 3] = now;
                now = _mm_add_epi32(now, k);
                hgdc[i] = _mm_sha256rnds2_epu32(hgdc[i], feba[i], now);
                feba[i] = _mm_sha256rnds2_epu32(feba[i], hgdc[i], _mm_shuffle_epi32(now, 0x0E));
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            feba[i] = _mm_add_epi32(feba[i], feba_before[i]);
            hgdc[i] = _mm_add_epi32(hgdc[i], hgdc_before[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        __m128i badc = _mm_shuffle_epi32(feba[i], 0x1B);
        __m128i hgfe = _mm_shuffle_epi32(hgdc[i], 0xB1);
        _mm_storeu_si128((__m128i *)states[i], _mm_blend_epi16(badc, hgfe, 0xF0));
        _mm_storeu_si128((__m128i *)(states[i] + 4), _mm_alignr_epi8(hgfe, badc, 8));
    }
}

__attribute__((target("sha,sse4.1,ssse3")))
static void sha256_blocks_ni(uint32_t state[8], const uint8_t *data, size_t blocks) {
    sha256_interleaved(&state, &data, blocks, 1);
}

__attribute__((target("sha,sse4.1,ssse3"), noinline))
static void sha256_two_ni(uint32_t **states, const uint8_t **data, size_t blocks) {
    sha256_interleaved(states, data, blocks, 2);
}

__attribute__((target("sha,sse4.1,ssse3"), noinline))
static void sha256_four_ni(uint32_t **states, const uint8_t **data, size_t blocks) {
    sha256_interleaved(states, data, blocks, 4);
}

static void sha256_many_ni(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    for (; n >= 4; n -= 4, states += 4, data += 4) sha256_four_ni(states, data, blocks);
    for (; n >= 2; n -= 2, states += 2, data += 2) sha256_two_ni(states, data, blocks);
    if (n) sha256_blocks_ni(*states, *data, blocks);
}

#if !defined(__clang__) /* which has no __builtin_shuffle */
#define SHA256_HAS_LANES

#define SHA256_LANES 16
#define SHA256_LANES_NAME sha256_sixteen_avx512
#define SHA256_LANES_TARGET __attribute__((target("avx512f,avx512bw")))
#include "sha256_lanes.h"

#define SHA256_LANES 16
#define SHA256_LANES_NAME sha256_sixteen
#define SHA256_LANES_TARGET
#include "sha256_lanes.h"

#define SHA256_LANES 16
#define SHA256_LANES_NAME sha256_sixteen_avx2
#define SHA256_LANES_TARGET __attribute__((target("avx2")))
#include "sha256_lanes.h"

#define SHA256_LANES 8
#define SHA256_LANES_NAME sha256_eight_avx2
#define SHA256_LANES_TARGET __attribute__((target("avx2")))
#include "sha256_lanes.h"

/* Full groups, then what is left over: from `padded` streams on in a group whose idle lanes repeat the first, else by `rest`. */
static inline void sha256_grouped(void (*group)(uint32_t **, const uint8_t **, size_t), int lanes, int padded,
                                  void (*rest)(uint32_t **, const uint8_t **, size_t, int),
                                  uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    uint32_t idle[8], *all_states[16];
    const uint8_t *all_data[16];
    for (; n >= lanes; n -= lanes, states += lanes, data += lanes) group(states, data, blocks);
    if (n < padded) {
        rest(states, data, blocks, n);
        return;
    }
    memcpy(idle, states[0], sizeof idle);
    for (int i = 0; i < lanes; i++) {
        all_states[i] = i < n ? states[i] : idle;
        all_data[i] = i < n ? data[i] : data[0];
    }
    group(all_states, all_data, blocks);
}

/* A group takes as long as some 12 streams by the SHA instructions in fours, or 1 to 2 in plain C: below a quarter it is not
 * worth its while, and with the instructions at hand below three quarters. */
static void sha256_many_avx512_ni(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    sha256_grouped(sha256_sixteen_avx512, 16, 12, sha256_many_ni, states, data, blocks, n);
}

static void sha256_many_avx512(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    sha256_grouped(sha256_sixteen_avx512, 16, 4, sha256_many_plain, states, data, blocks, n);
}

static void sha256_many_avx2(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    sha256_grouped(sha256_eight_avx2, 8, 2, sha256_many_plain, states, data, blocks, n);
}

static void sha256_many_sixteen_avx2(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    sha256_grouped(sha256_sixteen_avx2, 16, 4, sha256_many_plain, states, data, blocks, n);
}

static void sha256_many_sixteen(uint32_t **states, const uint8_t **data, size_t blocks, int n) {
    sha256_grouped(sha256_sixteen, 16, 4, sha256_many_plain, states, data, blocks, n);
}
#endif
#else
static int sha256_features(void) { return 0; }
#endif

typedef struct {
    const char *name;
    int needs; /* of sha256_features */
    int test;  /* never chosen by itself */
    int lanes; /* how many streams at once it likes best */
    void (*one)(uint32_t *state, const uint8_t *data, size_t blocks);
    void (*many)(uint32_t **states, const uint8_t **data, size_t blocks, int n);
} sha256_kind;

/* Best first. Of two with one name the first that can be had is meant. */
static const sha256_kind SHA256_KINDS[] = {
#if defined(SHA256_HAS_LANES)
    {"avx512", SHA256_AVX512 | SHA256_NI, 0, 16, sha256_blocks_ni, sha256_many_avx512_ni},
    {"avx512", SHA256_AVX512, 0, 16, sha256_blocks_plain, sha256_many_avx512},
#endif
#if defined(__x86_64__) && defined(__GNUC__)
    {"ni", SHA256_NI, 0, 4, sha256_blocks_ni, sha256_many_ni},
#endif
#if defined(SHA256_HAS_LANES)
    {"avx2", SHA256_AVX2, 0, 8, sha256_blocks_plain, sha256_many_avx2},
#endif
    {"plain", 0, 0, 1, sha256_blocks_plain, sha256_many_plain},
#if defined(SHA256_HAS_LANES)
    {"vector16-avx2", SHA256_AVX2, 1, 16, sha256_blocks_plain, sha256_many_sixteen_avx2},
    {"vector16-generic", 0, 1, 16, sha256_blocks_plain, sha256_many_sixteen},
#endif
};
enum { SHA256_N_KINDS = sizeof SHA256_KINDS / sizeof *SHA256_KINDS };

#endif
