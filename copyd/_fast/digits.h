/* Bytes as hexadecimal digits and as base64, many characters at a time.
 *
 * Written whole, because a copy of freshly written characters waits until every smaller write into them is done.
 */
#ifndef COPYD_DIGITS_H
#define COPYD_DIGITS_H

#include <stdint.h>
#include <string.h>

typedef uint8_t digits_bytes __attribute__((vector_size(16)));
typedef int8_t digits_signed __attribute__((vector_size(16)));

#if defined(__clang__)
#define DIGITS_ZIP(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DIGITS_ZIP(a, b, ...) __builtin_shuffle(a, b, (digits_bytes){__VA_ARGS__})
#endif

/* Lower case; `blocks` times 16 bytes make 32 characters each. */
static inline char *digits_hex(char *at, const uint8_t *data, int blocks) {
    for (int i = 0; i < blocks; i++, at += 32) {
        digits_bytes d, high, low, one, two;
        memcpy(&d, data + 16 * i, 16);
        high = d >> 4;
        low = d & 15;
        high += 48 + ((digits_bytes)((digits_signed)high > 9) & 39);
        low += 48 + ((digits_bytes)((digits_signed)low > 9) & 39);
        one = DIGITS_ZIP(high, low, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        two = DIGITS_ZIP(high, low, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        memcpy(at, &one, 16);
        memcpy(at + 16, &two, 16);
    }
    return at;
}

/* 48 bits as eight characters. */
static inline void digits_base64_eight(char *at, uint64_t bits) {
    const uint64_t ones = 0x0101010101010101;
    uint64_t c = (bits >> 24) << 32 | (bits & 0xffffff);
    c = (c & 0x00fff00000fff000) << 4 | (c & 0x00000fff00000fff);
    c = (c & 0x0fc00fc00fc00fc0) << 2 | (c & 0x003f003f003f003f);
    /* from 0..63 in each byte: A-Z, then a-z, 0-9, + and / lie elsewhere */
    uint64_t small = (c + (128 - 26) * ones) >> 7 & ones, digit = (c + (128 - 52) * ones) >> 7 & ones;
    uint64_t plus = (c + (128 - 62) * ones) >> 7 & ones, slash = (c + (128 - 63) * ones) >> 7 & ones;
    c += 65 * ones + 6 * small - 75 * digit - 15 * plus + 3 * slash;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    c = __builtin_bswap64(c);
#endif
    memcpy(at, &c, 8);
}

/* The 32 bytes of a digest as 44 characters. */
static inline void digits_base64(char *at, const uint8_t digest[32]) {
    uint64_t words[4];
    char last[8];
    memcpy(words, digest, 32);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (int i = 0; i < 4; i++) words[i] = __builtin_bswap64(words[i]);
#endif
    digits_base64_eight(at, words[0] >> 16);
    digits_base64_eight(at + 8, (words[0] << 32 | words[1] >> 32) & 0xffffffffffff);
    digits_base64_eight(at + 16, (words[1] << 16 | words[2] >> 48) & 0xffffffffffff);
    digits_base64_eight(at + 24, words[2] & 0xffffffffffff);
    digits_base64_eight(at + 32, words[3] >> 16);
    digits_base64_eight(last, (words[3] & 0xffff) << 32);
    last[3] = '=';
    memcpy(at + 40, last, 4);
}

#endif
