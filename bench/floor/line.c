/* A delay line between two network namespaces: raw IP packets from one TUN device to the other, each after a fixed delay.
 *
 *   line NAMESPACE_A NAMESPACE_B DELAY_US
 *
 * Makes a device "line0" in each of the two (which `ip netns add` made) and forwards until stdin ends. Nothing is dropped or
 * shaped here, so that what is seen is the kernels' TCP and the delay. For machines whose kernel has no netem. First line on stdout when both devices are there; at the end how many packets went each way
 * and the most by which one was late, in us.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 1 << 16, BYTES = 64 << 20, PACKET_MAX = 66 << 10, TAKE = 64, SPIN_NS = 60000 };

struct packet {
    uint64_t due;
    uint32_t at, size;
};

struct way { /* packets leave in the order they came: the delay is the same for all */
    int from, to;
    struct packet *ring;
    uint8_t *bytes;
    uint32_t head, tail, next; /* next: where in `bytes` the next one goes */
    uint64_t count, late;
};

static void stop(const char *what) {
    fprintf(stderr, "line: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int device(const char *name) {
    char path[256];
    struct ifreq wanted = {.ifr_name = "line0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(path, sizeof path, "/var/run/netns/%s", name);
    int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET)) stop(path);
    close(space);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &wanted)) stop("/dev/net/tun");
    /* Segments of one send stay together, as they do up to a network card: cutting them up is not what is measured. */
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) stop("TUNSETOFFLOAD");
    return fd;
}

/* Whatever has come, up to a handful, so that the other way has its turn. */
static int take(struct way *w, uint64_t delay) {
    int n = 0;
    while (n < TAKE && w->head - w->tail < SLOTS) {
        struct packet *p = &w->ring[w->head % SLOTS];
        if (w->next > BYTES - PACKET_MAX) w->next = 0;
        if (w->head != w->tail) { /* full: what waits lies just ahead */
            uint32_t oldest = w->ring[w->tail % SLOTS].at;
            if (oldest >= w->next && oldest - w->next < PACKET_MAX) break;
        }
        ssize_t got = read(w->from, w->bytes + w->next, PACKET_MAX);
        if (got <= 0) break;
        *p = (struct packet){now_ns() + delay, w->next, (uint32_t)got};
        w->next += (uint32_t)got;
        w->head++;
        n++;
    }
    return n;
}

static int give(struct way *w) {
    int n = 0;
    uint64_t now = now_ns();
    for (; n < TAKE && w->tail != w->head; n++) {
        struct packet *p = &w->ring[w->tail % SLOTS];
        if (p->due > now) break;
        if (write(w->to, w->bytes + p->at, p->size) < 0 && errno == EAGAIN) break;
        if (now - p->due > w->late) w->late = now - p->due;
        w->tail++;
        w->count++;
    }
    return n;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: line NAMESPACE_A NAMESPACE_B DELAY_US\n");
        return 2;
    }
    uint64_t delay = strtoull(argv[3], NULL, 10) * 1000;
    int a = device(argv[1]), b = device(argv[2]);
    struct way ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
    for (int i = 0; i < 2; i++) {
        ways[i].ring = malloc(sizeof(struct packet) * SLOTS);
        ways[i].bytes = malloc(BYTES);
        if (!ways[i].ring || !ways[i].bytes) stop("no memory");
        memset(ways[i].ring, 0, sizeof(struct packet) * SLOTS);
        memset(ways[i].bytes, 0, BYTES);
    }
    printf("{\"ready\":true}\n");
    fflush(stdout);
    for (;;) {
        int moved = 0;
        for (int i = 0; i < 2; i++) moved += take(&ways[i], delay) + give(&ways[i]);
        if (moved) continue;
        uint64_t now = now_ns(), due = now + 1000000000u;
        for (int i = 0; i < 2; i++)
            if (ways[i].tail != ways[i].head && ways[i].ring[ways[i].tail % SLOTS].due < due)
                due = ways[i].ring[ways[i].tail % SLOTS].due;
        if (due < now + SPIN_NS) continue; /* a sleep would overshoot */
        uint64_t left = due - now - SPIN_NS;
        struct timespec rest = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        struct pollfd wait[3] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (ppoll(wait, 3, &rest, NULL) > 0 && wait[2].revents) {
            char gone[64];
            if (read(0, gone, sizeof gone) <= 0) break;
        }
    }
    printf("{\"packets\":[%llu,%llu],\"late_us\":[%llu,%llu]}\n", (unsigned long long)ways[0].count,
           (unsigned long long)ways[1].count, (unsigned long long)(ways[0].late / 1000), (unsigned long long)(ways[1].late / 1000));
    return 0;
}
