/* The floor: what a plain C program needs for the fan-out that copyd does. No Python, no protocol library, no allocation.
 *
 *   floor signed --port P --followers N --connections C [--seed S] [--threads 2] [--cap BYTES] [--cc NAME] [--host A]
 *                [--journal FILE --sync map|fdatasync] [--leader PORT] [--hash NAME] [--streams one]
 *   floor batch  (--port P | --unix PATH) --followers N [--journal FILE --sync map|fdatasync]
 *
 * The first line on stdout says what was prepared. Then each line "go" on stdin is one leader event and is answered by one
 * JSON line with the times in ns since the event was in hand: `first_ns`, the first send returned, and `last_ns`, the last
 * one returned and everything taken by the kernel. "cwnd" asks for the congestion windows. End of stdin ends it.
 *
 * It does what is unavoidable and nothing else: per follower one 128-bit multiplication and division, five risk checks,
 * the text of the order from a template of the event, the HMAC from saved states, the masked frame. A follower's orders
 * lie behind those of its connection's other followers in one buffer, so that a connection takes few writes. Groups of 64
 * keep the intermediate texts in the first-level cache. It keeps no books beyond position and margin, waits for no answer
 * and would be useless as a copy engine: it is the yardstick, not a rival.
 *
 * The hashing is the daemon's own (sha256_kinds.h), so that a ratio says something about everything else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sha256.h"
#include "sha256_kinds.h"

enum { GROUP = 64, FIRST_CHUNK = 16, GROWTH = 4, BATCH_CHUNK = 2048, RECORD = 48, HEADER = 32, LENGTHS = 9 };
enum { TEXT = 256, FRAME = 512, WORKERS_MAX = 2, BARE_SYNCS = 100 };
enum { FILE_BYTES = 1 << 20, INTENT = 64 };

#define E8 100000000ull
#define LEADER_LOTS 500
#define LEADER_EQUITY_E8 (100000 * E8)
#define PX 650000            /* ticks of 0.10, as the benchmarks' world has it */
#define SLIPPAGE_BPS 50
#define TICK_VALUE_E8 10000  /* one lot (0.001) at a price of one tick (0.10), in 1e-8 of the quote */

static void stop(const char *what) {
    if (errno) fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    else fprintf(stderr, "floor: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static inline void pause_a_little(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void *room(size_t size) {
    void *got = NULL;
    if (posix_memalign(&got, 64, size)) stop("no memory");
    memset(got, 0, size); /* touched here and not in the middle of the first burst */
    return got;
}

/* --- options ----------------------------------------------------------------------------------------------------------- */

static struct {
    int batch, port, connections, threads, leader, one_stream, map;
    uint32_t followers;
    uint64_t seed;
    size_t cap;
    const char *host, *unix_path, *journal, *cc, *hash;
} opt = {.connections = 16, .threads = 1, .followers = 10000, .seed = 1, .host = "127.0.0.1"};

/* --- one follower -------------------------------------------------------------------------------------------------------- */

struct follower { /* what sizing and risk read: one cache line */
    uint64_t allocation_e8, available_e8, held_lots, margin_e8, lots_max;
    uint32_t account, open, open_max, paused, leverage, pad[3];
};

struct key { /* both hash states of the account's HMAC: one cache line */
    uint32_t inner[8], outer[8];
};

struct name { /* the API key as text; its last characters begin the first block that is hashed per order */
    char text[64];
};

struct connection {
    int fd;
    uint32_t first, end; /* its followers, in the table's order */
    uint8_t *buffer;
    size_t filled, sent;
};

struct event {
    uint64_t number, timestamp_ms, px, limit_px, qty_lots, leader_lots;
    int side, closing;
};

static struct follower *followers;
static struct key *keys;
static struct name *names;
static struct connection *connections;

/* --- text ---------------------------------------------------------------------------------------------------------------- */

/* 16 bytes as 32 hexadecimal characters: the two digits of all bytes at once where the compiler's baseline can. */
static inline void put_hex16(uint8_t *at, const uint8_t *data) {
#ifdef __SSE2__
    const __m128i low = _mm_set1_epi8(15), nine = _mm_set1_epi8(9), zero = _mm_set1_epi8('0'), letters = _mm_set1_epi8('a' - '0' - 10);
    __m128i bytes = _mm_loadu_si128((const __m128i *)data);
    __m128i upper = _mm_and_si128(_mm_srli_epi16(bytes, 4), low), lower = _mm_and_si128(bytes, low);
    upper = _mm_add_epi8(_mm_add_epi8(upper, zero), _mm_and_si128(_mm_cmpgt_epi8(upper, nine), letters));
    lower = _mm_add_epi8(_mm_add_epi8(lower, zero), _mm_and_si128(_mm_cmpgt_epi8(lower, nine), letters));
    _mm_storeu_si128((__m128i *)at, _mm_unpacklo_epi8(upper, lower));
    _mm_storeu_si128((__m128i *)(at + 16), _mm_unpackhi_epi8(upper, lower));
#else
    for (int i = 0; i < 16; i++) at[2 * i] = "0123456789abcdef"[data[i] >> 4], at[2 * i + 1] = "0123456789abcdef"[data[i] & 15];
#endif
}

static inline void put_hex32(uint8_t *at, const uint8_t *data) {
    put_hex16(at, data);
    put_hex16(at + 32, data + 16);
}

/* `size` bytes to `offset` of a frame under its mask; a multiple of 8. The payload begins at 8, so the mask is in step there. */
static inline void put_masked(uint8_t *frame, int offset, const void *from, int size, uint32_t mask) {
    int turn = 8 * (offset & 3);
    uint32_t turned = turn ? mask >> turn | mask << (32 - turn) : mask;
    uint64_t wide = (uint64_t)turned << 32 | turned;
    for (int i = 0; i < size; i += 8) {
        uint64_t word;
        memcpy(&word, (const uint8_t *)from + i, 8);
        word ^= wide;
        memcpy(frame + offset + i, &word, 8);
    }
}

/* Whole number `value` x 10^-decimals, no trailing zeros; returns its length. */
static inline int put_scaled(char *at, uint64_t value, int decimals) {
    char digits[24];
    int n = 0, size = 0;
    while (decimals > 0 && value % 10 == 0) value /= 10, decimals--;
    while (value || n <= decimals) digits[n++] = (char)('0' + value % 10), value /= 10;
    for (int i = n - 1; i >= 0; i--) {
        at[size++] = digits[i];
        if (i == decimals && decimals > 0) at[size++] = '.';
    }
    return size;
}

/* --- the event's templates -------------------------------------------------------------------------------------------------
 * Everything that is equal for all followers is rendered once per event, once for each length a quantity may have: behind
 * it nothing moves, so that an order is one copy and four patches. The padding of the hash is part of the template.
 */

struct template {
    uint8_t text[TEXT];   /* the signed string from the last bytes of the key on, padded */
    uint8_t frame[FRAME]; /* header, JSON */
    int blocks, text_cid, text_qty;
    int size, id, qty, cid, api_key, signature; /* offsets within the frame */
};

static int add(uint8_t *to, int at, const char *text) {
    size_t size = strlen(text);
    memcpy(to + at, text, size);
    return at + (int)size;
}

enum { KEY_TAIL = 7, REST = KEY_TAIL + 18 }; /* 64 + "apiKey=" + 64 + "&newClientOrderId=" = 2 blocks and 25 bytes */

static void render_templates(struct template *made, const struct event *event) {
    char price[24] = "", text[96];
    const char *side = event->side > 0 ? "BUY" : "SELL";
    int limit = event->limit_px != 0;
    if (limit) price[put_scaled(price, event->limit_px, 1)] = 0;
    for (int length = 1; length < LENGTHS; length++) {
        struct template *t = &made[length];
        uint8_t *s = t->text;
        int at = KEY_TAIL;
        at = add(s, at, "&newClientOrderId=");
        t->text_cid = at;
        at = add(s, at + 32, "&newOrderRespType=RESULT");
        if (limit) snprintf(text, sizeof text, "&price=%s", price), at = add(s, at, text);
        at = add(s, at, "&quantity=");
        t->text_qty = at;
        at = add(s, at + length, "&recvWindow=2000");
        if (event->closing) at = add(s, at, "&reduceOnly=true");
        snprintf(text, sizeof text, "&side=%s&symbol=BTCUSDT", side), at = add(s, at, text);
        if (limit) at = add(s, at, "&timeInForce=IOC");
        snprintf(text, sizeof text, "&timestamp=%llu&type=%s", (unsigned long long)event->timestamp_ms,
                 limit ? "LIMIT" : "MARKET");
        at = add(s, at, text);
        t->blocks = (at + 9 + 63) / 64;
        if (t->blocks * 64 > TEXT || (length > 1 && t->blocks != made[1].blocks)) {
            errno = 0;
            stop("orders of one event do not fill the same number of hash blocks");
        }
        uint64_t bits = (uint64_t)(128 + at) * 8;
        memset(s + at, 0, (size_t)(t->blocks * 64 - at));
        s[at] = 0x80;
        for (int i = 0; i < 8; i++) s[t->blocks * 64 - 1 - i] = (uint8_t)(bits >> 8 * i);

        uint8_t *f = t->frame;
        t->id = add(f, 8, "{\"id\":\"");
        at = add(f, t->id + 32, "\",\"method\":\"order.place\",\"params\":{\"symbol\":\"BTCUSDT\",\"side\":\"");
        at = add(f, at, side);
        at = add(f, at, limit ? "\",\"type\":\"LIMIT\",\"timeInForce\":\"IOC\",\"quantity\":\"" : "\",\"type\":\"MARKET\",\"quantity\":\"");
        t->qty = at;
        at += length;
        if (limit) at = add(f, add(f, at, "\",\"price\":\""), price);
        if (event->closing) at = add(f, at, "\",\"reduceOnly\":\"true");
        t->cid = add(f, at, "\",\"newClientOrderId\":\"");
        t->api_key = add(f, t->cid + 32, "\",\"newOrderRespType\":\"RESULT\",\"apiKey\":\"");
        snprintf(text, sizeof text, "\",\"timestamp\":%llu,\"recvWindow\":2000,\"signature\":\"", (unsigned long long)event->timestamp_ms);
        t->signature = add(f, t->api_key + 64, text);
        t->size = add(f, t->signature + 64, "\"}}");
        if (t->size > FRAME - 8) {
            errno = 0;
            stop("an order does not fit its template");
        }
        f[0] = 0x81, f[1] = 0x80 | 126;
        f[2] = (uint8_t)((t->size - 8) >> 8), f[3] = (uint8_t)(t->size - 8);
    }
}

/* --- hashing: the daemon's implementations, the best of them or the one asked for --------------------------------------------- */

static const sha256_kind *hash;

static void choose_hash(const char *name) {
    int features = sha256_features();
    for (int i = 0; i < SHA256_N_KINDS && !hash; i++) {
        const sha256_kind *kind = &SHA256_KINDS[i];
        if (!(kind->needs & ~features) && (name ? !strcmp(kind->name, name) : !kind->test)) hash = kind;
    }
    errno = 0;
    if (!hash) stop("no such implementation of SHA-256 on this processor");
}

/* `n` messages of `blocks` blocks each, state by state. */
static void hash_all(uint32_t (*states)[8], const uint8_t *data, size_t stride, int blocks, int n) {
    uint32_t *into[GROUP];
    const uint8_t *from[GROUP];
    for (int i = 0; i < n; i++) into[i] = states[i], from[i] = data + (size_t)i * stride;
    if (opt.one_stream)
        for (int i = 0; i < n; i++) hash->one(into[i], from[i], (size_t)blocks);
    else
        hash->many(into, from, (size_t)blocks, n);
}

/* --- a worker: some connections and everything that goes to them --------------------------------------------------------------- */

struct worker {
    int first, end; /* its connections */
    uint64_t random, first_ns, last_ns, blocked, sends;
    uint32_t orders, chunk, in_chunk;
    struct template templates[LENGTHS];
    uint8_t text[GROUP][TEXT] __attribute__((aligned(64)));
    uint8_t outer[GROUP][64] __attribute__((aligned(64)));
    uint32_t states[GROUP][8] __attribute__((aligned(64)));
    uint8_t cid[GROUP][32];
    char qty[GROUP][8];
    int length[GROUP];
    uint32_t row[GROUP];
};

static struct event event;
static struct worker *workers;
static atomic_int gate_open, helper_done;

struct side_thread { /* asleep between events, told "soon" before one, spinning when it comes: one that slept would be no floor */
    sem_t soon;
    atomic_int spinning, go;
};
static struct side_thread syncer, helper;

static void hand_over(struct worker *w, struct connection *c) {
    if (c->sent == c->filled) return;
    size_t left = c->filled - c->sent;
    while (left) {
        size_t piece = opt.cap && left > opt.cap ? opt.cap : left;
        ssize_t took = send(c->fd, c->buffer + c->sent, piece, MSG_NOSIGNAL);
        if (took < 0) {
            if (errno != EAGAIN) stop("send");
            w->blocked++;
            return;
        }
        if (!w->first_ns) w->first_ns = now_ns();
        w->sends++;
        c->sent += (size_t)took;
        left -= (size_t)took;
    }
}

/* Everything rendered so far, for the moment the gate opens. */
static void hand_over_all(struct worker *w, int through) {
    for (int i = w->first; i <= through; i++) hand_over(w, &connections[i]);
}

/* Size and check the followers [from, to); accepted ones into the group, returns how many. No branch depends on a follower. */
static int decide(struct worker *w, uint32_t from, uint32_t to, uint64_t *lots_of) {
    const struct event e = event;
    int n = 0;
    for (uint32_t i = from; i < to; i++) {
        struct follower *f = &followers[i];
        uint64_t base = e.closing ? f->held_lots : f->allocation_e8, over = e.closing ? e.leader_lots : LEADER_EQUITY_E8;
        uint64_t lots = (uint64_t)((unsigned __int128)base * e.qty_lots / over);
        uint64_t notional_e8 = lots * e.px * TICK_VALUE_E8;
        uint64_t margin_e8 = notional_e8 / f->leverage;
        int fine = (lots >= 1) & (lots <= f->lots_max) & ((notional_e8 >= 50 * E8) | e.closing)
                 & ((margin_e8 <= f->available_e8) | e.closing) & (f->open < f->open_max) & !f->paused;
        uint64_t taken = (uint64_t)0 - (uint64_t)(fine & !e.closing), given = (uint64_t)0 - (uint64_t)(fine & e.closing);
        f->available_e8 += (f->margin_e8 & given) - (margin_e8 & taken);
        f->margin_e8 = (f->margin_e8 & ~given) + (margin_e8 & taken);
        f->held_lots += (lots & taken) - (lots & given);
        w->row[n] = i;
        lots_of[n] = lots;
        n += fine;
    }
    return n;
}

/* A group of up to 64 followers of one connection: decided, rendered, signed, framed into its buffer. */
static void group(struct worker *w, struct connection *c, uint32_t from, uint32_t to) {
    uint64_t lots_of[GROUP];
    int n = decide(w, from, to, lots_of);
    if (!n) return;
    int blocks = w->templates[1].blocks;
    /* Numbers to bytes in passes of their own: a wide read just behind narrow writes waits for them. */
    for (int k = 0; k < n; k++) {
        uint32_t account = followers[w->row[k]].account, number = (uint32_t)event.number;
        uint32_t words[4] = {htonl(0xbe7c0000), htonl(number), htonl(account), (account + 1) * 2654435761u ^ number * 2246822519u};
        memcpy(w->outer[k], words, 16);
    }
    for (int k = 0; k < n; k++) {
        uint32_t i = w->row[k];
        int length = w->length[k] = put_scaled(w->qty[k], lots_of[k], 3);
        const struct template *t = &w->templates[length];
        put_hex16(w->cid[k], w->outer[k]);
        memcpy(w->text[k], t->text, TEXT);
        memcpy(w->text[k], names[i].text + 64 - KEY_TAIL, KEY_TAIL);
        memcpy(w->text[k] + t->text_cid, w->cid[k], 32);
        memcpy(w->text[k] + t->text_qty, w->qty[k], (size_t)length);
        memcpy(w->states[k], keys[i].inner, 32);
    }
    hash_all(w->states, w->text[0], TEXT, blocks, n);
    for (int k = 0; k < n; k++) {
        sha256_put(w->states[k], w->outer[k]); /* the padding behind it never changes */
        memcpy(w->states[k], keys[w->row[k]].outer, 32);
    }
    hash_all(w->states, w->outer[0], 64, 1, n);
    for (int k = 0; k < n; k++) sha256_put(w->states[k], w->outer[k]);
    uint8_t *at = c->buffer + c->filled;
    uint64_t x = w->random;
    for (int k = 0; k < n; k++) {
        const struct template *t = &w->templates[w->length[k]];
        uint8_t signature[64];
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t mask = (uint32_t)(x >> 16);
        uint8_t *mask_bytes = (uint8_t *)&mask;
        put_hex32(signature, w->outer[k]);
        memcpy(at, t->frame, 8);
        memcpy(at + 4, &mask, 4);
        put_masked(at, 8, t->frame + 8, FRAME - 8, mask); /* a fixed size; what is too much is written over by the next */
        put_masked(at, t->id, w->cid[k], 32, mask);
        for (int j = 0; j < w->length[k]; j++) at[t->qty + j] = (uint8_t)w->qty[k][j] ^ mask_bytes[(t->qty + j) & 3];
        put_masked(at, t->cid, w->cid[k], 32, mask);
        put_masked(at, t->api_key, names[w->row[k]].text, 64, mask);
        put_masked(at, t->signature, signature, 64, mask);
        at += t->size;
    }
    w->random = x;
    c->filled = (size_t)(at - c->buffer);
    w->orders += (uint32_t)n;
    w->in_chunk += (uint32_t)n;
}

static int may_send(void) { return atomic_load_explicit(&gate_open, memory_order_acquire); }

static void finish(struct worker *w) {
    for (;;) { /* what a full socket did not take */
        struct pollfd wait[1024];
        int n = 0;
        for (int i = w->first; i < w->end; i++) {
            struct connection *c = &connections[i];
            if (c->sent < c->filled) hand_over(w, c);
            if (c->sent < c->filled && n < 1024) wait[n++] = (struct pollfd){.fd = c->fd, .events = POLLOUT};
        }
        if (!n) break;
        poll(wait, (nfds_t)n, 1000);
    }
    w->last_ns = now_ns();
}

static void signed_burst(struct worker *w) {
    w->first_ns = w->last_ns = w->blocked = w->sends = 0;
    w->orders = w->in_chunk = 0;
    w->chunk = FIRST_CHUNK;
    for (int i = w->first; i < w->end; i++) connections[i].filled = connections[i].sent = 0;
    render_templates(w->templates, &event);
    for (int i = w->first, shut = 1; i < w->end; i++) {
        struct connection *c = &connections[i];
        for (uint32_t at = c->first; at < c->end;) {
            uint32_t most = GROUP; /* beyond the chunk while the gate is shut */
            if (w->in_chunk < w->chunk && w->chunk - w->in_chunk < GROUP) most = w->chunk - w->in_chunk;
            uint32_t to = at + most < c->end ? at + most : c->end;
            group(w, c, at, to);
            at = to;
            if (!may_send()) continue;
            if (shut) hand_over_all(w, i - 1), shut = 0;
            if (w->in_chunk >= w->chunk) {
                hand_over(w, c);
                w->in_chunk = 0;
                if (w->chunk < 1u << 30) w->chunk *= GROWTH;
            }
        }
        if (may_send()) hand_over(w, c); /* a connection that is complete goes; the chunk goes on with the next */
    }
    while (!may_send()) sched_yield();
    finish(w);
}

/* --- the batch: one connection, records of 48 bytes -------------------------------------------------------------------------------- */

struct record {
    uint64_t id_high, id_low;
    uint32_t account;
    uint16_t instrument;
    int8_t side;
    uint8_t flags;
    uint64_t lots, limit_px, timestamp_ms;
};

static uint8_t *mapped;
static size_t mapped_at;

static void batch_burst(struct worker *w) {
    struct connection *c = &connections[0];
    uint64_t lots_of[GROUP];
    w->first_ns = w->last_ns = w->blocked = w->sends = 0;
    w->orders = 0;
    c->filled = c->sent = 0;
    for (uint32_t at = 0; at < opt.followers;) {
        uint32_t end = at + BATCH_CHUNK < opt.followers ? at + BATCH_CHUNK : opt.followers, packed = 0;
        uint8_t *head = c->buffer + c->filled;
        c->filled += HEADER;
        while (at < end) {
            uint32_t to = at + GROUP < end ? at + GROUP : end;
            int n = decide(w, at, to, lots_of);
            for (int k = 0; k < n; k++) {
                uint32_t account = followers[w->row[k]].account;
                struct record made = {
                    .id_high = 0x7cbeull | event.number << 32, .id_low = (uint64_t)account << 32 | account * 2654435761u,
                    .account = account, .instrument = 0, .side = (int8_t)event.side, .flags = (uint8_t)event.closing,
                    .lots = lots_of[k], .limit_px = event.limit_px, .timestamp_ms = event.timestamp_ms,
                };
                memcpy(c->buffer + c->filled, &made, RECORD);
                c->filled += RECORD;
            }
            packed += (uint32_t)n;
            at = to;
        }
        uint32_t words[8] = {0x42594350u, packed, (uint32_t)event.number, (uint32_t)w->orders};
        memcpy(head, words, HEADER);
        w->orders += packed;
        if (mapped && opt.map) {
            size_t size = (size_t)(c->buffer + c->filled - head);
            memcpy(mapped + mapped_at, head, size);
            mapped_at += size;
        }
        if (may_send()) hand_over(w, c);
    }
    while (!may_send()) sched_yield();
    finish(w);
}

/* --- the journal -------------------------------------------------------------------------------------------------------------------- */

static int journal = -1;
static uint64_t journal_at;
static uint8_t intent[INTENT];
static uint64_t sync_took; /* of the last event; published with the gate */

static void write_intent(void) {
    if (pwrite(journal, intent, INTENT, (off_t)(journal_at % (FILE_BYTES / INTENT) * INTENT)) != INTENT) stop("journal");
    journal_at++;
    if (fdatasync(journal)) stop("fdatasync");
}

static void await_event(struct side_thread *t) {
    while (sem_wait(&t->soon)) {}
    atomic_store_explicit(&t->spinning, 1, memory_order_release);
    while (!atomic_load_explicit(&t->go, memory_order_acquire)) pause_a_little();
    atomic_store_explicit(&t->go, 0, memory_order_relaxed);
    atomic_store_explicit(&t->spinning, 0, memory_order_relaxed);
}

static void tell_soon(struct side_thread *t) {
    sem_post(&t->soon);
    while (!atomic_load_explicit(&t->spinning, memory_order_acquire)) sched_yield();
}

static void start_thread(struct side_thread *t, void *(*run)(void *)) {
    pthread_t thread;
    errno = 0;
    if (sem_init(&t->soon, 0, 0) || pthread_create(&thread, NULL, run, NULL)) stop("thread");
}

/* The hot thread has the first core, its helpers any other: woken beside it, they would spin in its way until the next tick.
 * The draining peer has the last. */
static void choose_cores(int hot) {
    cpu_set_t cores, mine;
    int core = 0;
    if (sched_getaffinity(0, sizeof cores, &cores) || CPU_COUNT(&cores) < 2) return;
    while (!CPU_ISSET(core, &cores)) core++;
    CPU_ZERO(&mine);
    CPU_SET(core, &mine);
    CPU_CLR(core, &cores);
    sched_setaffinity(0, sizeof mine, hot ? &mine : &cores);
}

static void *sync_thread(void *unused) {
    choose_cores(0);
    for (;;) {
        await_event(&syncer);
        uint64_t began = now_ns();
        write_intent();
        sync_took = now_ns() - began;
        atomic_store_explicit(&gate_open, 1, memory_order_release);
    }
    return unused;
}

static void *helper_thread(void *unused) {
    choose_cores(0);
    for (;;) {
        await_event(&helper);
        signed_burst(&workers[1]);
        atomic_store_explicit(&helper_done, 1, memory_order_release);
    }
    return unused;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The median of writing and syncing 64 bytes and nothing else, ns. */
static uint64_t open_journal(void) {
    size_t size = opt.map ? (size_t)opt.followers * (RECORD + 1) + FILE_BYTES : FILE_BYTES;
    uint8_t *zero = room(size);
    uint64_t taken[BARE_SYNCS];
    journal = open(opt.journal, O_RDWR | O_CREAT, 0600);
    if (journal < 0 || pwrite(journal, zero, size, 0) != (ssize_t)size || fsync(journal)) stop(opt.journal);
    free(zero);
    if (opt.map) {
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, journal, 0);
        if (mapped == MAP_FAILED) stop("mmap");
        memset(mapped, 0, size);
        return 0;
    }
    for (int i = 0; i < BARE_SYNCS; i++) {
        uint64_t began = now_ns();
        write_intent();
        taken[i] = now_ns() - began;
    }
    qsort(taken, BARE_SYNCS, sizeof taken[0], by_size);
    return taken[BARE_SYNCS / 2];
}

/* --- set-up ------------------------------------------------------------------------------------------------------------------------ */

static void sha256_of(const void *message, size_t size, uint8_t *digest) {
    uint32_t state[8];
    uint8_t data[512];
    memcpy(data, message, size);
    memcpy(state, SHA256_START, 32);
    sha256_blocks_plain(state, data, sha256_pad(data, size, size));
    sha256_put(state, digest);
}

/* The world of the benchmarks: keys and secrets as they derive them, allocations of the same range. */
static void make_follower(uint32_t at, uint32_t account) {
    struct follower *f = &followers[at];
    char text[96];
    uint8_t digest[32], secret[64], inner[128], outer[64];
    uint64_t x = (opt.seed << 32 | account) * 0x9E3779B97F4A7C15ull;
    x ^= x >> 29, x *= 0xBF58476D1CE4E5B9ull, x ^= x >> 32;
    *f = (struct follower){
        .allocation_e8 = (1500 + x % 12000) * E8, .available_e8 = 100000 * E8, .lots_max = 120000, .account = account,
        .open_max = 10, .leverage = 10,
    };
    snprintf(text, sizeof text, "bench%059u", account);
    memcpy(names[at].text, text, 64);
    int size = snprintf(text, sizeof text, "%llu/%u", (unsigned long long)opt.seed, account);
    sha256_of(text, (size_t)size, digest);
    put_hex32(secret, digest);
    for (int i = 0; i < 64; i++) inner[i] = secret[i] ^ 0x36, outer[i] = secret[i] ^ 0x5c;
    memcpy(inner + 64, "apiKey=", 7);
    memcpy(inner + 71, names[at].text, 57); /* a block's worth; the last seven characters are hashed with the order */
    memcpy(keys[at].inner, SHA256_START, 32);
    hash->one(keys[at].inner, inner, 2);
    memcpy(keys[at].outer, SHA256_START, 32);
    hash->one(keys[at].outer, outer, 1);
}

static int dial(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    errno = 0;
    if (fd < 0 || inet_pton(AF_INET, opt.host, &to.sin_addr) != 1) stop("socket");
    if (opt.cc && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, opt.cc, (socklen_t)strlen(opt.cc))) stop(opt.cc);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) stop("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static int dial_unix(const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), size = 4 << 20;
    if (fd < 0 || strlen(path) >= sizeof to.sun_path) stop("socket path");
    strcpy(to.sun_path, path);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) stop(path);
    return fd;
}

static void upgrade(int fd) {
    static const char ask[] = "GET /drain HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    char answer[1024];
    size_t have = 0;
    if (send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) != sizeof ask - 1) stop("upgrade");
    for (;;) {
        ssize_t got = recv(fd, answer + have, sizeof answer - 1 - have, 0);
        errno = 0;
        if (got <= 0) stop("the peer ended the connection");
        answer[have += (size_t)got] = 0;
        if (strstr(answer, "\r\n\r\n")) break;
    }
    if (strncmp(answer, "HTTP/1.1 101", 12)) stop("the peer refused the upgrade");
}

static void prepare(void) {
    uint32_t at = 0;
    int count = opt.batch ? 1 : opt.connections, size = 4 << 20;
    followers = room(sizeof *followers * opt.followers);
    keys = room(sizeof *keys * opt.followers);
    names = room(sizeof *names * opt.followers);
    connections = room(sizeof *connections * (size_t)count);
    for (int i = 0; i < count; i++) { /* followers in the order of their connections */
        struct connection *c = &connections[i];
        c->first = at;
        for (uint32_t account = (uint32_t)i; account < opt.followers; account += (uint32_t)count) make_follower(at++, account);
        c->end = at;
        c->buffer = room(opt.batch ? (size_t)opt.followers * (RECORD + 1) + 4096 : (size_t)(c->end - c->first + 2) * FRAME);
        c->fd = opt.unix_path ? dial_unix(opt.unix_path) : dial(opt.port);
        setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        if (!opt.batch) upgrade(c->fd);
        if (fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK)) stop("fcntl");
    }
    workers = room(sizeof *workers * WORKERS_MAX);
    for (int i = 0; i < opt.threads; i++) {
        struct worker *w = &workers[i];
        w->first = count * i / opt.threads, w->end = count * (i + 1) / opt.threads;
        w->random = now_ns() * 0x9E3779B97F4A7C15ull + (uint64_t)i + 1;
        for (int k = 0; k < GROUP; k++) {
            w->outer[k][32] = 0x80; /* a digest of 32 bytes behind one block: 96 bytes are 768 bits */
            w->outer[k][62] = 768 >> 8, w->outer[k][63] = 768 & 255;
        }
    }
}

/* --- one leader event ----------------------------------------------------------------------------------------------------------------- */

static int leader = -1;

/* What a leader's fill would say: long opened, closed, short opened, closed. */
static void next_event(uint64_t side_px) {
    static const int sides[4] = {1, -1, -1, 1};
    uint64_t n = event.number + 1;
    event = (struct event){.number = n, .side = sides[(n - 1) & 3], .closing = (int)((n - 1) & 1), .qty_lots = LEADER_LOTS,
                           .leader_lots = LEADER_LOTS, .px = side_px ? side_px : PX + n * 37 % 1000 - 500};
    event.timestamp_ms = wall_ms();
    if (!event.closing)
        event.limit_px = event.side > 0 ? event.px + event.px * SLIPPAGE_BPS / 10000 : event.px - event.px * SLIPPAGE_BPS / 10000;
}

/* The last price out of the leader's message: "L":"65000.10" or "L":"65000.1" in ticks of 0.10. */
static uint64_t price_in(const char *text) {
    const char *at = strstr(text, "\"L\":\"");
    uint64_t whole = 0;
    if (!at) return 0;
    for (at += 5; *at >= '0' && *at <= '9'; at++) whole = whole * 10 + (uint64_t)(*at - '0');
    return whole * 10 + (*at == '.' && at[1] >= '0' && at[1] <= '9' ? (uint64_t)(at[1] - '0') : 0);
}

static void run_once(void) {
    char message[4096];
    uint64_t px = 0, sum = 0, bytes = 0, began;
    atomic_store(&gate_open, !(opt.journal && !opt.map));
    atomic_store(&helper_done, 0);
    mapped_at = 0;
    if (opt.threads > 1) tell_soon(&helper);
    if (opt.journal && !opt.map) tell_soon(&syncer);
    if (leader >= 0) {
        ssize_t got = recv(leader, message, sizeof message - 1, 0);
        began = now_ns();
        errno = 0;
        if (got <= 0) stop("the leader's stream ended");
        message[got] = 0;
        px = price_in(message);
    } else {
        began = now_ns();
    }
    next_event(px);
    if (opt.journal) {
        memcpy(intent, &event, INTENT < sizeof event ? INTENT : sizeof event);
        if (!opt.map) atomic_store_explicit(&syncer.go, 1, memory_order_release);
        else if (!opt.batch) memcpy(mapped, intent, INTENT);
    }
    if (opt.threads > 1) atomic_store_explicit(&helper.go, 1, memory_order_release);
    if (opt.batch) batch_burst(&workers[0]);
    else signed_burst(&workers[0]);
    uint64_t first = workers[0].first_ns, last = workers[0].last_ns, blocked = workers[0].blocked, sends = workers[0].sends;
    uint32_t orders = workers[0].orders;
    if (opt.threads > 1) {
        const struct worker *w = &workers[1];
        while (!atomic_load_explicit(&helper_done, memory_order_acquire)) sched_yield();
        if (w->first_ns && w->first_ns < first) first = w->first_ns;
        if (w->last_ns > last) last = w->last_ns;
        orders += w->orders, blocked += w->blocked, sends += w->sends;
    }
    for (int i = 0; i < (opt.batch ? 1 : opt.connections); i++) {
        bytes += connections[i].filled;
        for (size_t j = 0; j < connections[i].filled; j++) sum += connections[i].buffer[j];
    }
    printf("{\"event_ns\":%llu,\"first_ns\":%llu,\"last_ns\":%llu,\"orders\":%u,\"bytes\":%llu,\"sum\":%llu,\"sends\":%llu,"
           "\"blocked\":%llu,\"sync_ns\":%llu}\n",
           (unsigned long long)began, (unsigned long long)(first - began), (unsigned long long)(last - began), orders,
           (unsigned long long)bytes, (unsigned long long)sum, (unsigned long long)sends, (unsigned long long)blocked,
           (unsigned long long)sync_took);
    fflush(stdout);
}

static void print_windows(void) {
    printf("{\"cwnd\":[");
    for (int i = 0; i < opt.connections; i++) {
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        if (getsockopt(connections[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size)) stop("TCP_INFO");
        printf("%s%u", i ? "," : "", info.tcpi_snd_cwnd);
    }
    printf("]}\n");
    fflush(stdout);
}

static void read_options(int argc, char **argv) {
    errno = 0;
    if (argc < 2 || (strcmp(argv[1], "signed") && strcmp(argv[1], "batch"))) stop("usage: floor signed|batch --port P ...");
    opt.batch = !strcmp(argv[1], "batch");
    for (int i = 2; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) stop("an option without its value");
        if (!strcmp(name, "--port")) opt.port = atoi(value);
        else if (!strcmp(name, "--host")) opt.host = value;
        else if (!strcmp(name, "--unix")) opt.unix_path = value;
        else if (!strcmp(name, "--followers")) opt.followers = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(name, "--connections")) opt.connections = atoi(value);
        else if (!strcmp(name, "--seed")) opt.seed = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--threads")) opt.threads = atoi(value);
        else if (!strcmp(name, "--cap")) opt.cap = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--cc")) opt.cc = value;
        else if (!strcmp(name, "--leader")) opt.leader = atoi(value);
        else if (!strcmp(name, "--journal")) opt.journal = value;
        else if (!strcmp(name, "--sync")) opt.map = !strcmp(value, "map");
        else if (!strcmp(name, "--hash")) opt.hash = value;
        else if (!strcmp(name, "--streams")) opt.one_stream = !strcmp(value, "one");
        else stop(name);
    }
    if (opt.followers < 1 || opt.connections < 1 || opt.connections > 1024 || opt.threads < 1 || opt.threads > WORKERS_MAX
        || (opt.batch && opt.threads > 1) || opt.threads > opt.connections || (!opt.port && !opt.unix_path))
        stop("followers, connections (to 1024), threads (1 or 2, signed only) and a port are needed");
}

int main(int argc, char **argv) {
    char line[64];
    uint64_t bare = 0;
    read_options(argc, argv);
    choose_hash(opt.hash);
    prepare();
    if (opt.journal) bare = open_journal();
    if (opt.journal && !opt.map) start_thread(&syncer, sync_thread);
    if (opt.threads > 1) start_thread(&helper, helper_thread);
    choose_cores(1);
    if (opt.leader) leader = dial(opt.leader);
    printf("{\"ready\":true,\"hash\":\"%s\",\"fdatasync_ns\":%llu}\n", hash->name, (unsigned long long)bare);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "go", 2)) run_once();
        else if (!strncmp(line, "cwnd", 4)) print_windows();
    }
    return 0;
}
