/* Large tables on large pages: a fan-out walks through many megabytes in no order, and every small page costs a translation.
 *
 * Where the system offers them on request only (transparent_hugepage=madvise), this is the request; where it does not, the
 * memory is as good as any other.
 */
#ifndef COPYD_MEMORY_H
#define COPYD_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#endif

#define COPYD_LARGE_PAGE ((size_t)2 << 20)

/* Room for `size` bytes that begins with the first `used` of `old`, which is freed; the rest is zero. NULL: no memory, and
 * `old` is as it was. The result may be given to free(). */
static void *grow_table(void *old, size_t used, size_t size) {
    void *bigger = NULL;
    if (size >= COPYD_LARGE_PAGE / 2) {
        size_t whole = (size + COPYD_LARGE_PAGE - 1) / COPYD_LARGE_PAGE * COPYD_LARGE_PAGE;
        if (posix_memalign(&bigger, COPYD_LARGE_PAGE, whole) != 0) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        (void)madvise(bigger, whole, MADV_HUGEPAGE);
#endif
    } else {
        bigger = malloc(size ? size : 1);
        if (bigger == NULL) return NULL;
    }
    if (used) memcpy(bigger, old, used);
    memset((char *)bigger + used, 0, size - used);
    free(old);
    return bigger;
}

/* Keep what is freed for the next event: giving a megabyte back and taking it again costs more than filling it. */
static int keep_freed(size_t bytes) {
#ifdef __GLIBC__
    return mallopt(M_MMAP_THRESHOLD, 32 << 20) && mallopt(M_TRIM_THRESHOLD, (int)bytes) && mallopt(M_TOP_PAD, 4 << 20);
#else
    (void)bytes;
    return 0;
#endif
}

#endif
