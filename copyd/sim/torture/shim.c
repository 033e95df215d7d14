/* Preloaded into a process under torture: counts what it writes, fails or kills it at the k-th call, steps its clock,
 * and records every change it makes to the files of one folder.
 *
 *   TORTURE_CONTROL  file of CONTROL_BYTES, shared with the torturer: counters and rules, changed while the process runs
 *   TORTURE_RECORD   file the changes are recorded in (unset: nothing is recorded)
 *   TORTURE_FOLDER   the folder whose files are recorded
 *   TORTURE_MOUNTS   a file to be read in place of the kernel's mount table
 *
 * Calls are told apart by what they touch, not by who makes them: a write to data.mdb below offset 8192 is a meta page, any
 * other a data page; a write to a socket that is a masked WebSocket frame with an order in it is an order.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define CONTROL_BYTES 4096
#define META_END 8192

enum { OP_DATA, OP_META, OP_SYNC, OP_ORDER, OP_SEND, OP_OPEN, OPS };
enum { NOTHING, KILL_BEFORE, KILL_AFTER, KILL_TORN, FAIL_ONCE, FAIL_FROM, DELAY_FROM, STOP_BEFORE };

struct rule {
    int64_t count;  /* calls so far */
    int64_t at;     /* the call the rule is for, counted from 1; 0: none */
    int64_t action;
    int64_t arg;    /* errno, ns, or how much of a torn write is done, in 1/1000 */
    int64_t hits;
};

struct control {
    int64_t pid;           /* the process the rules are for; the first to be loaded takes the place when it is 0 */
    int64_t clock_offset;  /* ns added to the wall clock */
    struct rule rules[OPS];
};

static struct control *control;
static struct control none;
static int log_fd = -1;
static char folder[PATH_MAX];
static size_t folder_length;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    control = &none;
    const char *path = getenv("TORTURE_CONTROL");
    if (path) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
        if (fd >= 0) {
            void *at = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (at != MAP_FAILED) control = at;
            syscall(SYS_close, fd);
        }
    }
    int64_t nobody = 0;
    __atomic_compare_exchange_n(&control->pid, &nobody, (int64_t)getpid(), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    path = getenv("TORTURE_RECORD");
    const char *where = getenv("TORTURE_FOLDER");
    if (path && where && realpath(where, folder)) {
        folder_length = strlen(folder);
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        log_fd = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);  /* out of the way of the program's own numbers */
        syscall(SYS_close, fd);
    }
}

/* Rules ------------------------------------------------------------------------------------------------------------- */

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* What is to be done about this call: the action that applies now, 0 in the usual case. */
static int64_t rule_of(int op, int64_t *arg) {
    struct rule *rule = &control->rules[op];
    if (control->pid != syscall(SYS_getpid)) return NOTHING;
    int64_t n = __atomic_add_fetch(&rule->count, 1, __ATOMIC_SEQ_CST);
    int64_t at = rule->at, action = rule->action;
    if (!at || n < at) return NOTHING;
    if (n > at && action != FAIL_FROM && action != DELAY_FROM) return NOTHING;
    __atomic_add_fetch(&rule->hits, 1, __ATOMIC_SEQ_CST);
    *arg = rule->arg;
    switch (action) {
    case KILL_BEFORE:
        die();
        break;
    case STOP_BEFORE:
        syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
        break;
    case DELAY_FROM: {
        struct timespec t = {rule->arg / 1000000000, rule->arg % 1000000000};
        syscall(SYS_nanosleep, &t, NULL);
        break;
    }
    }
    return action;
}

static int failed(int64_t action) { return action == FAIL_ONCE || action == FAIL_FROM; }

/* What a descriptor is ---------------------------------------------------------------------------------------------- */

enum { OTHER, SOCKET, JOURNAL, RECORDED };

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
}

static int inside(const char *path) {
    return log_fd >= 0 && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length])
        && !ends_with(path, "lock.mdb") && !ends_with(path, "copyd.lock");
}

static int kind_of(int fd, struct stat *st, char *path) {
    path[0] = 0;
    if (fd == log_fd || syscall(SYS_fstat, fd, st)) return OTHER;
    if (S_ISSOCK(st->st_mode)) return SOCKET;
    if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)) return OTHER;
    path_of(fd, path);
    if (ends_with(path, "/data.mdb")) return JOURNAL;
    return inside(path) ? RECORDED : OTHER;
}

/* The record -------------------------------------------------------------------------------------------------------- */

struct entry {
    uint32_t type;  /* W write, E a write through O_DSYNC has returned, S sync, T truncate, C create, M mkdir, R rename, U remove */
    uint32_t paths; /* bytes of the path that follows (two, joined by a zero byte, for R) */
    uint64_t inode;
    int64_t offset;
    uint64_t length; /* bytes of data after the path; for T the new length, without data */
};

static void record(uint32_t type, uint64_t inode, int64_t offset, const struct iovec *data, int parts, uint64_t length,
                   const char *path, uint32_t paths) {
    if (log_fd < 0) return;
    struct entry entry = {type, paths, inode, offset, length};
    struct iovec all[parts + 2];
    all[0] = (struct iovec){&entry, sizeof entry};
    all[1] = (struct iovec){(void *)path, paths};
    if (parts) memcpy(all + 2, data, sizeof *data * parts);
    int saved = errno;
    pthread_mutex_lock(&log_lock);
    syscall(SYS_writev, log_fd, all, parts + 2);
    pthread_mutex_unlock(&log_lock);
    errno = saved;
}

static void record_path(uint32_t type, uint64_t inode, const char *path, uint32_t paths) {
    record(type, inode, 0, NULL, 0, 0, path, paths);
}

static int synchronous(int fd) {
    long flags = syscall(SYS_fcntl, fd, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC);
}

/* Writes ------------------------------------------------------------------------------------------------------------ */

/* The text of a masked WebSocket frame names an order: the first bytes behind its header are unmasked and searched. */
static int is_order(const struct iovec *parts, int n) {
    unsigned char head[256];
    size_t have = 0;
    for (int i = 0; i < n && have < sizeof head; i++) {
        size_t take = parts[i].iov_len < sizeof head - have ? parts[i].iov_len : sizeof head - have;
        memcpy(head + have, parts[i].iov_base, take);
        have += take;
    }
    if (have < 16 || head[0] != 0x81 || !(head[1] & 0x80)) return 0;
    size_t at = 2;
    if ((head[1] & 0x7f) == 126) at = 4;
    if ((head[1] & 0x7f) == 127) at = 10;
    unsigned char *mask = head + at, *text = head + at + 4;
    size_t length = have - at - 4;
    for (size_t i = 0; i < length; i++) text[i] ^= mask[i & 3];
    return memmem(text, length, "order.place", 11) != NULL;
}

static size_t total(const struct iovec *parts, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += parts[i].iov_len;
    return sum;
}

/* Only the first `bytes` of what was to be written. */
static void write_some(int fd, const struct iovec *parts, int n, int64_t offset, size_t bytes) {
    for (int i = 0; i < n && bytes; i++) {
        size_t take = parts[i].iov_len < bytes ? parts[i].iov_len : bytes;
        if (offset >= 0) {
            syscall(SYS_pwrite64, fd, parts[i].iov_base, take, offset);
            offset += take;
        } else {
            syscall(SYS_write, fd, parts[i].iov_base, take);
        }
        bytes -= take;
    }
}

/* A call under way: the action due when it has returned, and what to record then. */
struct call {
    int64_t after;
    int dsync;
    uint64_t inode;
    char path[PATH_MAX];
};

/* offset < 0: at the descriptor's own place. Returns -1 (with errno) when the call must fail at once, 0 to go on. */
static int before(struct call *call, int fd, const struct iovec *parts, int n, int64_t offset) {
    struct stat st;
    char *path = call->path;
    int64_t arg = 0, action = NOTHING;
    call->after = call->dsync = call->inode = 0;
    int kind = kind_of(fd, &st, path);
    if (kind == SOCKET) {
        if (is_order(parts, n)) action = rule_of(OP_ORDER, &arg);
        int64_t more = 0, sends = rule_of(OP_SEND, &more);
        if (!action) action = sends, arg = more;
    } else if (kind == JOURNAL || kind == RECORDED) {
        int64_t at = offset >= 0 ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR);
        if (kind == JOURNAL) action = rule_of(at < META_END ? OP_META : OP_DATA, &arg);
        if (failed(action)) {
            errno = (int)arg;
            return -1;
        }
        if (inside(path)) {
            call->dsync = synchronous(fd);
            call->inode = st.st_ino;
            record('W', st.st_ino, at, parts, n, total(parts, n), path, strlen(path));
        }
    }
    if (failed(action)) {
        errno = (int)arg;
        return -1;
    }
    if (action == KILL_TORN) {
        write_some(fd, parts, n, offset, total(parts, n) * (size_t)arg / 1000);
        die();
    }
    call->after = action;
    return 0;
}

static void after(const struct call *call) {
    if (call->after == KILL_AFTER) die();
    if (call->dsync) record_path('E', call->inode, "", 0);
}

#define ONE(buffer, bytes) struct iovec one = {(void *)(buffer), (bytes)}

ssize_t write(int fd, const void *buffer, size_t bytes) {
    REAL(write);
    struct call call;
    ONE(buffer, bytes);
    if (before(&call, fd, &one, 1, -1)) return -1;
    ssize_t n = real(fd, buffer, bytes);
    after(&call);
    return n;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    struct call call;
    if (before(&call, fd, parts, count, -1)) return -1;
    ssize_t n = real(fd, parts, count);
    after(&call);
    return n;
}

ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset) {
    REAL(pwrite);
    struct call call;
    ONE(buffer, bytes);
    if (before(&call, fd, &one, 1, offset)) return -1;
    ssize_t n = real(fd, buffer, bytes, offset);
    after(&call);
    return n;
}

ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset) {
    REAL(pwrite64);
    struct call call;
    ONE(buffer, bytes);
    if (before(&call, fd, &one, 1, offset)) return -1;
    ssize_t n = real(fd, buffer, bytes, offset);
    after(&call);
    return n;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(pwritev);
    struct call call;
    if (before(&call, fd, parts, count, offset)) return -1;
    ssize_t n = real(fd, parts, count, offset);
    after(&call);
    return n;
}

ssize_t send(int fd, const void *buffer, size_t bytes, int flags) {
    REAL(send);
    struct call call;
    ONE(buffer, bytes);
    if (before(&call, fd, &one, 1, -1)) return -1;
    ssize_t n = real(fd, buffer, bytes, flags);
    after(&call);
    return n;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    struct call call;
    if (before(&call, fd, message->msg_iov, (int)message->msg_iovlen, -1)) return -1;
    ssize_t n = real(fd, message, flags);
    after(&call);
    return n;
}

/* Syncs and truncations --------------------------------------------------------------------------------------------- */

static int sync_before(struct call *call, int fd) {
    struct stat st;
    int64_t arg = 0;
    call->after = call->dsync = call->inode = 0;
    int kind = kind_of(fd, &st, call->path);
    if (kind == JOURNAL) {
        call->after = rule_of(OP_SYNC, &arg);
        if (failed(call->after)) {
            errno = (int)arg;
            return -1;
        }
        if (call->after == KILL_TORN) die();
    }
    if (inside(call->path)) call->inode = st.st_ino;
    return 0;
}

static void sync_after(const struct call *call) {
    if (call->after == KILL_AFTER) die();
    if (call->inode) record_path('S', call->inode, call->path, strlen(call->path));
}

int fdatasync(int fd) {
    REAL(fdatasync);
    struct call call;
    if (sync_before(&call, fd)) return -1;
    int result = real(fd);
    sync_after(&call);
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    struct call call;
    if (sync_before(&call, fd)) return -1;
    int result = real(fd);
    sync_after(&call);
    return result;
}

static void truncated(int fd, off_t length) {
    struct stat st;
    char path[PATH_MAX];
    kind_of(fd, &st, path);
    if (inside(path)) record('T', st.st_ino, 0, NULL, 0, (uint64_t)length, path, strlen(path));
}

int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    truncated(fd, length);
    return real(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    truncated(fd, length);
    return real(fd, length);
}

/* Names ------------------------------------------------------------------------------------------------------------- */

static void full_path(int at, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (at == AT_FDCWD) {
            if (syscall(SYS_getcwd, path, PATH_MAX) < 0) path[0] = 0;
        } else {
            path_of(at, path);
        }
        size_t n = strlen(path);
        snprintf(path + n, PATH_MAX - n, "/%s", name);
    }
}

static int open_any(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int64_t arg = 0;
    if (!strcmp(name, "/proc/self/mountinfo") && getenv("TORTURE_MOUNTS")) name = getenv("TORTURE_MOUNTS");
    full_path(at, name, path);
    if (ends_with(path, "/data.mdb") && failed(rule_of(OP_OPEN, &arg))) {
        errno = (int)arg;
        return -1;
    }
    int fresh = (flags & O_CREAT) && syscall(SYS_faccessat, at, name, F_OK);
    int fd = (int)syscall(SYS_openat, at, name, flags, mode);
    if (fd < 0) {
        return -1;
    }
    if (inside(path)) {
        struct stat st;
        syscall(SYS_fstat, fd, &st);
        if (fresh) record_path('C', st.st_ino, path, strlen(path));
        else if ((flags & O_TRUNC) && S_ISREG(st.st_mode)) record('T', st.st_ino, 0, NULL, 0, 0, path, strlen(path));
    }
    return fd;
}

#define MODE() \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *name, int flags, ...) {
    MODE();
    return open_any(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE();
    return open_any(AT_FDCWD, name, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *name, int flags, ...) {
    MODE();
    return open_any(at, name, flags, mode);
}

int openat64(int at, const char *name, int flags, ...) {
    MODE();
    return open_any(at, name, flags | O_LARGEFILE, mode);
}

static int renamed(int from_at, const char *from, int to_at, const char *to) {
    char path[2 * PATH_MAX], second[PATH_MAX];
    full_path(from_at, from, path);
    full_path(to_at, to, second);
    int result = (int)syscall(SYS_renameat2, from_at, from, to_at, to, 0);
    if (!result && inside(path)) {
        size_t n = strlen(path) + 1, m = strlen(second);
        memcpy(path + n, second, m);
        record_path('R', 0, path, n + m);
    }
    return result;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }

int renameat(int from_at, const char *from, int to_at, const char *to) { return renamed(from_at, from, to_at, to); }

static int removed(int at, const char *name, int flags) {
    char path[PATH_MAX];
    full_path(at, name, path);
    int result = (int)syscall(SYS_unlinkat, at, name, flags);
    if (!result && inside(path)) record_path('U', 0, path, strlen(path));
    return result;
}

int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int at, const char *name, int flags) { return removed(at, name, flags); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    full_path(AT_FDCWD, name, path);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, name, mode);
    if (!result && inside(path)) record_path('M', 0, path, strlen(path));
    return result;
}

/* Clocks ------------------------------------------------------------------------------------------------------------ */

int clock_gettime(clockid_t clock, struct timespec *t) {
    REAL(clock_gettime);
    int result = real(clock, t);
    int64_t offset = control ? control->clock_offset : 0;
    if (!result && offset && clock == CLOCK_REALTIME) {
        int64_t ns = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec + offset;
        t->tv_sec = ns / 1000000000;
        t->tv_nsec = ns % 1000000000;
    }
    return result;
}
