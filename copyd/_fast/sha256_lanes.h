/* SHA-256 of SHA256_LANES independent streams at once, lane i of every vector belonging to stream i.
 *
 * Included by sha256.h once per processor it is compiled for, with SHA256_LANES (8 or 16), SHA256_LANES_NAME and
 * SHA256_LANES_TARGET (the function's target attribute, or nothing). It says what it wants with the compiler's vectors, whose
 * width need not be the processor's: the 16 lanes made for AVX-512 are, compiled for less, the same text and so a test of it.
 */
#define SHA256_LANES_NAMED_(name, part) name##_##part
#define SHA256_LANES_NAMED(name, part) SHA256_LANES_NAMED_(name, part)
#define WORDS SHA256_LANES_NAMED(SHA256_LANES_NAME, words)
#define BYTES SHA256_LANES_NAMED(SHA256_LANES_NAME, bytes)

typedef uint32_t WORDS __attribute__((vector_size(4 * SHA256_LANES)));
typedef uint8_t BYTES __attribute__((vector_size(4 * SHA256_LANES)));

/* Macros, not functions: a vector wider than the target's registers has no settled way to be passed. */
#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define FOUR_SWAPPED(at) at + 3, at + 2, at + 1, at
#define SIXTEEN_SWAPPED(at) FOUR_SWAPPED(at), FOUR_SWAPPED(at + 4), FOUR_SWAPPED(at + 8), FOUR_SWAPPED(at + 12)

/* Rows of eight words become columns: x[r], of streams r and r + 8, becomes word r of all streams; and back again. Three
 * exchanges between rows 4, 2 and 1 apart, each of the half of the columns where the row has that bit and should not. */
#define TRANSPOSE(x)                                                                                                          \
    do {                                                                                                                      \
        _Pragma("GCC unroll 3") for (uint32_t apart = 4; apart; apart >>= 1) {                                                \
            const WORDS moves = (WORDS)((column & apart) != 0);                                                               \
            const WORDS upper = column + (moves & (SHA256_LANES - apart));                                                    \
            const WORDS lower = column + (moves & SHA256_LANES) + (~moves & apart);                                           \
            _Pragma("GCC unroll 8") for (uint32_t r = 0; r < 8; r++) {                                                        \
                if (r & apart) continue;                                                                                      \
                WORDS one = x[r], two = x[r + apart];                                                                         \
                x[r] = __builtin_shuffle(one, two, upper);                                                                    \
                x[r + apart] = __builtin_shuffle(one, two, lower);                                                            \
            }                                                                                                                 \
        }                                                                                                                     \
    } while (0)

SHA256_LANES_TARGET
static void SHA256_LANES_NAME(uint32_t **states, const uint8_t **data, size_t blocks) {
#if SHA256_LANES == 16
    const WORDS column = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const BYTES swapped = {SIXTEEN_SWAPPED(0), SIXTEEN_SWAPPED(16), SIXTEEN_SWAPPED(32), SIXTEEN_SWAPPED(48)};
#else
    const WORDS column = {0, 1, 2, 3, 4, 5, 6, 7};
    const BYTES swapped = {SIXTEEN_SWAPPED(0), SIXTEEN_SWAPPED(16)};
#endif
    uint32_t rows[16][SHA256_LANES] __attribute__((aligned(4 * SHA256_LANES)));
    WORDS h[8], s[8], w[16];

    for (int lane = 0; lane < SHA256_LANES; lane++) memcpy(rows[lane & 7] + (lane & 8), states[lane], 32);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) h[i] = *(const WORDS *)rows[i];
    TRANSPOSE(h);

    for (size_t block = 0; block < blocks; block++) {
        for (int lane = 0; lane < SHA256_LANES; lane++) {
            memcpy(rows[lane & 7] + (lane & 8), data[lane] + 64 * block, 32);
            memcpy(rows[8 + (lane & 7)] + (lane & 8), data[lane] + 64 * block + 32, 32);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            w[i] = (WORDS)__builtin_shuffle((BYTES)*(const WORDS *)rows[i], swapped);
        TRANSPOSE(w);
        TRANSPOSE((w + 8));

#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) s[i] = h[i];
        for (int g = 0; g < 64; g += 16)
#pragma GCC unroll 16
        for (int t = 0; t < 16; t++) {
            WORDS now = w[t & 15];
            WORDS one = s[7] + (ROTR(s[4], 6) ^ ROTR(s[4], 11) ^ ROTR(s[4], 25)) + (s[6] ^ (s[4] & (s[5] ^ s[6])))
                      + SHA256_K[g + t] + now;
            WORDS two = (ROTR(s[0], 2) ^ ROTR(s[0], 13) ^ ROTR(s[0], 22)) + (s[1] ^ ((s[0] ^ s[1]) & (s[1] ^ s[2])));
            s[7] = s[6]; s[6] = s[5]; s[5] = s[4]; s[4] = s[3] + one;
            s[3] = s[2]; s[2] = s[1]; s[1] = s[0]; s[0] = one + two;
            if (g < 48) {
                WORDS next = w[(t + 1) & 15], last = w[(t + 14) & 15];
                w[t & 15] = now + (ROTR(next, 7) ^ ROTR(next, 18) ^ next >> 3) + w[(t + 9) & 15]
                          + (ROTR(last, 17) ^ ROTR(last, 19) ^ last >> 10);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) h[i] += s[i];
    }

    TRANSPOSE(h);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) *(WORDS *)rows[i] = h[i];
    for (int lane = 0; lane < SHA256_LANES; lane++) memcpy(states[lane], rows[lane & 7] + (lane & 8), 32);
}

#undef TRANSPOSE
#undef SIXTEEN_SWAPPED
#undef FOUR_SWAPPED
#undef ROTR
#undef BYTES
#undef WORDS
#undef SHA256_LANES_NAMED
#undef SHA256_LANES_NAMED_
#undef SHA256_LANES
#undef SHA256_LANES_NAME
#undef SHA256_LANES_TARGET
