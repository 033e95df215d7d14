/* CRC-32C (Castagnoli, reflected, as iSCSI and ext4 use it), over one block or over many records of one size.
 *
 * Two implementations of one function: a table, and the CRC instruction of x86-64 where the processor has it (chosen once,
 * by crc32c_choose). Records carry the sum of their own bytes in their last four: the sums of neighbours do not wait for each
 * other, so that a processor works on several at once.
 */
#ifndef COPYD_CRC32C_H
#define COPYD_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t CRC32C_TABLE[256];

static uint32_t crc32c_plain(const unsigned char *data, size_t size) {
    uint32_t sum = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) sum = CRC32C_TABLE[(sum ^ data[i]) & 0xFF] ^ sum >> 8;
    return ~sum;
}

/* Write the sum of each record's first size - 4 bytes into its last four. */
static void crc32c_seal_plain(unsigned char *at, size_t size, size_t count) {
    for (; count; count--, at += size) {
        uint32_t sum = crc32c_plain(at, size - 4);
        memcpy(at + size - 4, &sum, 4);
    }
}

/* The first record whose sum is wrong; count when there is none. */
static size_t crc32c_check_plain(const unsigned char *at, size_t size, size_t count) {
    for (size_t i = 0; i < count; i++, at += size) {
        uint32_t told;
        memcpy(&told, at + size - 4, 4);
        if (told != crc32c_plain(at, size - 4)) return i;
    }
    return count;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static inline uint32_t crc32c_fast(const unsigned char *data, size_t size) {
    uint64_t sum = 0xFFFFFFFFu, word;
    uint32_t half;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&word, data, 8);
        sum = _mm_crc32_u64(sum, word);
    }
    uint32_t rest = (uint32_t)sum;
    if (size >= 4) {
        memcpy(&half, data, 4);
        rest = _mm_crc32_u32(rest, half);
        size -= 4;
        data += 4;
    }
    for (; size; size--) rest = _mm_crc32_u8(rest, *data++);
    return ~rest;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_once_fast(const unsigned char *data, size_t size) {
    return crc32c_fast(data, size);
}

__attribute__((target("sse4.2"))) static void crc32c_seal_fast(unsigned char *at, size_t size, size_t count) {
    for (; count; count--, at += size) {
        uint32_t sum = crc32c_fast(at, size - 4);
        memcpy(at + size - 4, &sum, 4);
    }
}

__attribute__((target("sse4.2"))) static size_t crc32c_check_fast(const unsigned char *at, size_t size, size_t count) {
    for (size_t i = 0; i < count; i++, at += size) {
        uint32_t told;
        memcpy(&told, at + size - 4, 4);
        if (told != crc32c_fast(at, size - 4)) return i;
    }
    return count;
}

static int crc32c_has_instruction(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 20);
}
#else
#define crc32c_once_fast crc32c_plain
#define crc32c_seal_fast crc32c_seal_plain
#define crc32c_check_fast crc32c_check_plain
static int crc32c_has_instruction(void) { return 0; }
#endif

static uint32_t (*crc32c)(const unsigned char *, size_t) = crc32c_plain;
static void (*crc32c_seal)(unsigned char *, size_t, size_t) = crc32c_seal_plain;
static size_t (*crc32c_check)(const unsigned char *, size_t, size_t) = crc32c_check_plain;

/* Choose the implementation: 1 = the instruction when there is one, 0 = the table. Returns what was chosen. */
static int crc32c_choose(int instruction) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t sum = i;
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? 0x82F63B78u : 0);
        CRC32C_TABLE[i] = sum;
    }
    instruction = instruction && crc32c_has_instruction();
    crc32c = instruction ? crc32c_once_fast : crc32c_plain;
    crc32c_seal = instruction ? crc32c_seal_fast : crc32c_seal_plain;
    crc32c_check = instruction ? crc32c_check_fast : crc32c_check_plain;
    return instruction;
}

#endif
