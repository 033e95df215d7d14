/* Bytes as hexadecimal digits and as base64, sixteen characters at a time.
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

/* The 32 bytes of a digest, with two zeros behind them, as 44 characters. */
static inline void digits_base64(char *at, const uint8_t digest[34]) {
    uint8_t text[48];
    for (int i = 0; i < 11; i++) {
        const uint8_t *d = digest + 3 * i;
        uint32_t three = (uint32_t)d[0] << 16 | (uint32_t)d[1] << 8 | d[2];
        text[4 * i] = three >> 18;
        text[4 * i + 1] = three >> 12 & 63;
        text[4 * i + 2] = three >> 6 & 63;
        text[4 * i + 3] = three & 63;
    }
    memset(text + 44, 0, 4);
    for (int i = 0; i < 3; i++) {
        digits_bytes c, made;
        memcpy(&c, text + 16 * i, 16);
        made = c + 65;
        made += (digits_bytes)((digits_signed)c > 25) & 6;
        made -= (digits_bytes)((digits_signed)c > 51) & 75;
        made -= (digits_bytes)((digits_signed)c > 61) & 15;
        made += (digits_bytes)((digits_signed)c > 62) & 3;
        memcpy(text + 16 * i, &made, 16);
    }
    memcpy(at, text, 43);
    at[43] = '=';
}

#endif
