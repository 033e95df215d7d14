/* The draining peer: takes what the contestants send, as fast as it can, and says afterwards what it was.
 *
 *   drain [--host A] [--unix PATH]
 *
 * One thread, one epoll, on the last core. While a burst arrives it only receives, into one buffer per connection, walks
 * over the frame headers to count, and notes when each piece came. It looks at the bytes when it is asked, which the one
 * who measures does after the burst. First line on stdout: the port. Commands on stdin, one line each:
 *
 *   report N FILE|- answer|quiet   wait for N orders since the last report, then one line of JSON: how many, their bytes, the
 *                                  sum of all bytes, arrival of the first and of the last piece (CLOCK_MONOTONIC, ns), how
 *                                  many connections. With FILE every order is written to it, unmasked, with its arrival. With
 *                                  "answer" each order that did not come over the path /drain is answered as filled.
 *   forget                         drop what came and is not reported
 *
 * A connection that does not begin with GET carries batches: a header of 32 bytes (magic, count, number, offset), then
 * `count` records of 48. It shares no code with the daemon.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 32, RECORD = 48, MAGIC = 0x42594350, PIECE = 256 << 10, EVENTS = 256 };
enum kind { HEAD, DRAIN, ANSWER, RAW };

struct stamp { /* everything up to `end` of the buffer had come at `ns` */
    size_t end;
    uint64_t ns;
};

struct line {
    int fd, kind;
    uint32_t number;
    uint8_t *buffer;
    size_t size, room, walked; /* whole frames up to `walked` */
    uint64_t orders;
    struct stamp *stamps;
    size_t n_stamps, room_stamps;
    struct line *next;
};

static struct line *lines;
static uint32_t numbers;
static int poller;
static uint64_t orders, first_ns, last_ns, order_id;
static const char *host = "127.0.0.1";

static void stop(const char *what) {
    fprintf(stderr, "drain: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *grown(void *old, size_t size) {
    void *made = realloc(old, size);
    if (!made) stop("no memory");
    return made;
}

static void tell(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t took = send(fd, data, size, MSG_NOSIGNAL);
        if (took < 0) {
            if (errno != EAGAIN) return; /* it went away; nobody waits for the rest */
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, 1000);
            continue;
        }
        data += took, size -= (size_t)took;
    }
}

/* --- the upgrade: SHA-1 and base64 of RFC 6455, 4.2.2 ------------------------------------------------------------------------- */

static uint32_t rotl(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_short(const char *text, size_t size, uint8_t digest[20]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t data[128] = {0};
    size_t padded = (size + 9 + 63) & ~(size_t)63;
    memcpy(data, text, size);
    data[size] = 0x80;
    for (int i = 0; i < 8; i++) data[padded - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < padded; at += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)data[at + 4 * t] << 24 | (uint32_t)data[at + 4 * t + 1] << 16 | (uint32_t)data[at + 4 * t + 2] << 8
                 | data[at + 4 * t + 3];
        for (int t = 16; t < 80; t++) w[t] = rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
        for (int t = 0; t < 80; t++) {
            uint32_t f = t < 20 ? (b & c) | (~b & d) : t < 40 || t >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
            uint32_t k = t < 20 ? 0x5a827999 : t < 40 ? 0x6ed9eba1 : t < 60 ? 0x8f1bbcdc : 0xca62c1d6;
            uint32_t next = rotl(a, 5) + f + e + k + w[t];
            e = d, d = c, c = rotl(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t *data, int size, char *to) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < size; i += 3) {
        uint32_t three = (uint32_t)data[i] << 16 | (i + 1 < size ? data[i + 1] << 8 : 0) | (i + 2 < size ? data[i + 2] : 0);
        *to++ = digits[three >> 18];
        *to++ = digits[three >> 12 & 63];
        *to++ = i + 1 < size ? digits[three >> 6 & 63] : '=';
        *to++ = i + 2 < size ? digits[three & 63] : '=';
    }
    *to = 0;
}

/* 1 when the head is whole and answered; -1 when it is none we understand. */
static int upgrade(struct line *line) {
    static const char field[] = "sec-websocket-key:", guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[256], accept[64];
    uint8_t digest[20];
    uint8_t *end = memmem(line->buffer, line->size, "\r\n\r\n", 4);
    if (!end) return line->size > 8192 ? -1 : 0;
    *end = 0;
    const char *key = strcasestr((char *)line->buffer, field);
    if (!key) return -1;
    for (key += sizeof field - 1; *key == ' '; key++) {}
    size_t size = strcspn(key, "\r\n");
    if (size > 60) return -1;
    memcpy(text, key, size);
    memcpy(text + size, guid, sizeof guid - 1);
    sha1_short(text, size + sizeof guid - 1, digest);
    base64(digest, 20, accept);
    int made = snprintf(text, sizeof text, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    line->kind = strncmp((char *)line->buffer, "GET /drain", 10) ? ANSWER : DRAIN;
    size_t head = (size_t)(end + 4 - line->buffer);
    memmove(line->buffer, end + 4, line->size -= head);
    tell(line->fd, (uint8_t *)text, (size_t)made);
    return 1;
}

/* --- frames --------------------------------------------------------------------------------------------------------------------- */

struct frame {
    int opcode;
    const uint8_t *mask, *payload;
    size_t size, whole;
};

/* One client frame at `at`; 0 when it is not all there. */
static int frame_at(const uint8_t *at, size_t left, struct frame *found) {
    if (left < 6) return 0;
    size_t size = at[1] & 127, head = 6;
    if (size == 126) {
        if (left < 8) return 0;
        size = (size_t)at[2] << 8 | at[3], head = 8;
    } else if (size == 127) {
        if (left < 14) return 0;
        size = 0, head = 14;
        for (int i = 2; i < 10; i++) size = size << 8 | at[i];
    }
    if (left - head < size || left < head) return 0;
    *found = (struct frame){.opcode = at[0] & 15, .mask = at + head - 4, .payload = at + head, .size = size, .whole = head + size};
    return 1;
}

static void unmasked(const struct frame *frame, uint8_t *to) {
    for (size_t i = 0; i < frame->size; i++) to[i] = frame->payload[i] ^ frame->mask[i & 3];
}

static void control(struct line *line, const struct frame *frame) {
    uint8_t answer[128] = {(uint8_t)(0x80 | (frame->opcode == 9 ? 10 : 8)), (uint8_t)frame->size};
    if (frame->size > 125 || frame->opcode == 10) return;
    unmasked(frame, answer + 2);
    tell(line->fd, answer, 2 + frame->size);
}

static void walk(struct line *line) {
    struct frame frame;
    if (line->kind == RAW) {
        uint32_t words[2];
        while (line->size - line->walked >= HEADER) {
            memcpy(words, line->buffer + line->walked, sizeof words);
            if (words[0] != MAGIC) errno = 0, stop("a batch without its magic");
            if (line->size - line->walked < HEADER + (size_t)words[1] * RECORD) return;
            line->walked += HEADER + (size_t)words[1] * RECORD;
            line->orders += words[1];
        }
        return;
    }
    while (frame_at(line->buffer + line->walked, line->size - line->walked, &frame)) {
        line->walked += frame.whole;
        if (frame.opcode >= 8) control(line, &frame);
        else line->orders++;
    }
}

static void drop(struct line *line) {
    for (struct line **at = &lines; *at; at = &(*at)->next)
        if (*at == line) {
            *at = line->next;
            break;
        }
    close(line->fd);
    free(line->buffer);
    free(line->stamps);
    free(line);
}

static void readable(struct line *line) {
    if (line->room - line->size < PIECE) line->buffer = grown(line->buffer, line->room = line->room * 2 + PIECE);
    ssize_t got = recv(line->fd, line->buffer + line->size, line->room - line->size, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        drop(line);
        return;
    }
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    line->size += (size_t)got;
    if (line->kind == HEAD) {
        if (line->size < 4) return;
        if (!memcmp(line->buffer, "GET ", 4)) {
            int done = upgrade(line);
            if (done < 0) drop(line);
            if (done < 1) return;
        } else {
            line->kind = RAW;
        }
        if (!line->size) return;
    }
    if (line->n_stamps == line->room_stamps)
        line->stamps = grown(line->stamps, (line->room_stamps = line->room_stamps * 2 + 64) * sizeof *line->stamps);
    line->stamps[line->n_stamps++] = (struct stamp){line->size, now};
    uint64_t before = line->orders;
    walk(line);
    if (line->orders == before) return; /* a ping, or the beginning of a frame */
    orders += line->orders - before;
    if (!first_ns) first_ns = now;
    last_ns = now;
}

static void welcome(int server) {
    int on = 1, fd = accept4(server, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    struct line *line = grown(NULL, sizeof *line);
    *line = (struct line){.fd = fd, .number = numbers++, .next = lines};
    lines = line;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = line};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted)) stop("epoll");
}

/* --- what came -------------------------------------------------------------------------------------------------------------------- */

static int field(const uint8_t *text, size_t size, const char *name, char *to, size_t room) {
    size_t length = strlen(name);
    const char *at = memmem(text, size, name, length);
    *to = 0;
    if (!at) return 0;
    at += length;
    size_t n = 0, left = (size_t)((const char *)text + size - at);
    while (n < left && n < room - 1 && at[n] != '"') to[n] = at[n], n++;
    to[n] = 0;
    return 1;
}

/* Every order fills here. At its limit it would lose the slippage each time, and in the end its follower's allocation. */
#define FILL_PX "65000"

static uint8_t *replies;
static size_t replies_size, replies_room;

static void reply(const uint8_t *text, size_t size) {
    char cid[64], symbol[64], qty[32], price[32], side[8], body[768];
    if (!field(text, size, "\"newClientOrderId\":\"", cid, sizeof cid)) return;
    field(text, size, "\"symbol\":\"", symbol, sizeof symbol);
    field(text, size, "\"quantity\":\"", qty, sizeof qty);
    field(text, size, "\"side\":\"", side, sizeof side);
    if (!field(text, size, "\"price\":\"", price, sizeof price)) strcpy(price, FILL_PX);
    int made = snprintf(
        body, sizeof body,
        "{\"id\":\"%s\",\"status\":200,\"result\":{\"orderId\":%llu,\"symbol\":\"%s\",\"status\":\"FILLED\",\"clientOrderId\":\"%s\","
        "\"price\":\"%s\",\"avgPrice\":\"" FILL_PX "\",\"origQty\":\"%s\",\"executedQty\":\"%s\",\"cumQuote\":\"0\",\"timeInForce\":\"IOC\","
        "\"type\":\"LIMIT\",\"reduceOnly\":false,\"side\":\"%s\",\"positionSide\":\"BOTH\",\"updateTime\":%llu}}",
        cid, (unsigned long long)++order_id, symbol, cid, price, qty, qty, side,
        (unsigned long long)(now_ns(CLOCK_REALTIME) / 1000000u));
    if (replies_room - replies_size < (size_t)made + 4) replies = grown(replies, replies_room = replies_room * 2 + 65536);
    uint8_t head[4] = {0x81, 126, (uint8_t)(made >> 8), (uint8_t)made};
    memcpy(replies + replies_size, head, 4);
    memcpy(replies + replies_size + 4, body, (size_t)made);
    replies_size += 4 + (size_t)made;
}

/* Every order of a connection: into the file, into the answers. Then forget all but a frame that is not whole. */
static void take(struct line *line, FILE *file, int answer) {
    size_t at = 0, stamp = 0, room = 0;
    uint8_t *text = NULL;
    struct frame frame;
    replies_size = 0;
    int wanted = file || (answer && line->kind == ANSWER);
    while (wanted && at < line->walked) {
        uint32_t words[2] = {0, 0};
        size_t whole;
        const uint8_t *data;
        if (line->kind == RAW) {
            memcpy(words, line->buffer + at, sizeof words);
            whole = HEADER + (size_t)words[1] * RECORD;
            data = line->buffer + at;
            frame = (struct frame){.opcode = 2, .size = whole};
        } else {
            if (!frame_at(line->buffer + at, line->walked - at, &frame)) break;
            whole = frame.whole;
            if (frame.size + 1 > room) text = grown(text, room = 2 * frame.size + 1024);
            unmasked(&frame, text);
            data = text;
        }
        at += whole;
        if (frame.opcode >= 8) continue;
        while (stamp + 1 < line->n_stamps && line->stamps[stamp].end < at) stamp++;
        if (file) {
            struct {
                uint64_t ns;
                uint32_t number, size;
            } head = {line->stamps[stamp].ns, line->number, (uint32_t)frame.size};
            fwrite(&head, sizeof head, 1, file);
            fwrite(data, frame.size, 1, file);
        }
        if (answer && line->kind == ANSWER) reply(data, frame.size);
    }
    free(text);
    memmove(line->buffer, line->buffer + line->walked, line->size -= line->walked);
    line->walked = line->n_stamps = line->orders = 0;
    if (replies_size) tell(line->fd, replies, replies_size);
}

static void report(const char *path, int answer) {
    uint64_t bytes = 0, sum = 0, n = orders, first = first_ns, last = last_ns;
    uint32_t count = 0;
    FILE *file = strcmp(path, "-") ? fopen(path, "wb") : NULL;
    if (!file && strcmp(path, "-")) stop(path);
    for (struct line *line = lines; line; line = line->next) {
        if (line->kind == HEAD || !line->orders) continue; /* pings alone */
        count++;
        bytes += line->walked;
        for (size_t i = 0; i < line->walked; i++) sum += line->buffer[i];
    }
    orders = first_ns = last_ns = 0;
    for (struct line *line = lines; line; line = line->next)
        if (line->kind != HEAD) take(line, file, answer);
    if (file && fclose(file)) stop(path);
    printf("{\"orders\":%llu,\"bytes\":%llu,\"sum\":%llu,\"first_ns\":%llu,\"last_ns\":%llu,\"connections\":%u}\n",
           (unsigned long long)n, (unsigned long long)bytes, (unsigned long long)sum, (unsigned long long)first,
           (unsigned long long)last, count);
    fflush(stdout);
}

/* --- the loop --------------------------------------------------------------------------------------------------------------------- */

static char asked_path[512], asked_mode[16];
static uint64_t asked = UINT64_MAX;

static int command(void) {
    static char text[1024];
    static size_t have;
    ssize_t got = read(0, text + have, sizeof text - 1 - have);
    if (got <= 0) return 0; /* a parent that died takes its peer with it */
    text[have += (size_t)got] = 0;
    char *end;
    while ((end = strchr(text, '\n'))) {
        *end = 0;
        unsigned long long n;
        if (sscanf(text, "report %llu %511s %15s", &n, asked_path, asked_mode) == 3) asked = n;
        if (!strcmp(text, "forget")) {
            for (struct line *line = lines; line; line = line->next)
                if (line->kind != HEAD) line->size = line->walked = line->n_stamps = line->orders = 0;
            orders = first_ns = last_ns = 0;
        }
        have -= (size_t)(end + 1 - text);
        memmove(text, end + 1, have + 1);
    }
    return 1;
}

static int listen_on(const struct sockaddr *to, socklen_t size) {
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) stop("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, to, size) || listen(fd, 1024)) stop("listen");
    return fd;
}

int main(int argc, char **argv) {
    const char *unix_path = NULL;
    cpu_set_t cores;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--host")) host = argv[i + 1];
        else if (!strcmp(argv[i], "--unix")) unix_path = argv[i + 1];
    }
    if (!sched_getaffinity(0, sizeof cores, &cores) && CPU_COUNT(&cores) > 1) {
        cpu_set_t mine; /* a reader woken on the sender's core would stand in its way */
        int core = CPU_SETSIZE - 1;
        while (!CPU_ISSET(core, &cores)) core--;
        CPU_ZERO(&mine);
        CPU_SET(core, &mine);
        sched_setaffinity(0, sizeof mine, &mine);
    }
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    if (inet_pton(AF_INET, host, &at.sin_addr) != 1) stop(host);
    poller = epoll_create1(0);
    int servers[2] = {listen_on((struct sockaddr *)&at, sizeof at), -1};
    getsockname(servers[0], (struct sockaddr *)&at, &size);
    if (unix_path) {
        struct sockaddr_un named = {.sun_family = AF_UNIX};
        if (strlen(unix_path) >= sizeof named.sun_path) errno = ENAMETOOLONG, stop(unix_path);
        strcpy(named.sun_path, unix_path);
        servers[1] = listen_on((struct sockaddr *)&named, sizeof named);
    }
    static char stdin_mark, server_mark[2];
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &stdin_mark};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &wanted)) stop("epoll");
    for (int i = 0; i < 2; i++)
        if (servers[i] >= 0) {
            wanted.data.ptr = &server_mark[i];
            if (epoll_ctl(poller, EPOLL_CTL_ADD, servers[i], &wanted)) stop("epoll");
        }
    printf("{\"port\":%u}\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[EVENTS];
        int n = epoll_wait(poller, ready, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            void *mark = ready[i].data.ptr;
            if (mark == &stdin_mark) {
                if (!command()) return 0;
            } else if (mark == &server_mark[0] || mark == &server_mark[1]) {
                welcome(servers[mark == &server_mark[1]]);
            } else {
                readable(mark);
            }
        }
        if (asked != UINT64_MAX && orders >= asked) {
            asked = UINT64_MAX;
            report(asked_path, !strcmp(asked_mode, "answer"));
        }
    }
}
