/* The life of the process: what it inherits, the handshake, the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "expert.h"

struct shard *shards;
uint32_t shard_count;

void die(const char *what) {
    fprintf(stderr, "expert-c: %s: %s\n", what, errno ? strerror(errno) : "not as agreed");
    _exit(1);
}

void *checked(size_t n) {
    void *p = calloc(n ? n : 1, 1);
    if (!p)
        die("memory");
    return p;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t empty = PTHREAD_COND_INITIALIZER;
static bool is_draining;
static uint32_t inside;
static uint64_t stats[3]; /* calls, rows, errors */

bool enter(void) {
    pthread_mutex_lock(&gate);
    bool open = !is_draining;
    inside += open;
    pthread_mutex_unlock(&gate);
    return open;
}

void leave(uint32_t rows, bool failed) {
    pthread_mutex_lock(&gate);
    stats[0]++, stats[1] += rows, stats[2] += failed;
    if (--inside == 0)
        pthread_cond_broadcast(&empty);
    pthread_mutex_unlock(&gate);
}

void drain(bool wait) {
    pthread_mutex_lock(&gate);
    is_draining = true;
    while (wait && inside)
        pthread_cond_wait(&empty, &gate);
    pthread_mutex_unlock(&gate);
}

bool draining(void) {
    pthread_mutex_lock(&gate);
    bool d = is_draining;
    pthread_mutex_unlock(&gate);
    return d;
}

bool idle(void) {
    pthread_mutex_lock(&gate);
    bool none = is_draining && !inside;
    pthread_mutex_unlock(&gate);
    return none;
}

void counts(uint64_t out[3]) {
    pthread_mutex_lock(&gate);
    memcpy(out, stats, sizeof stats);
    pthread_mutex_unlock(&gate);
}

/* The bootstrap document is JSON that the host has written: objects, numbers, lists of numbers, strings whose only escape is
 * that of the end of a line. No key occurs twice. */
static const char *value(const char *document, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(document, quoted);
    return at ? at + strlen(quoted) + strspn(at + strlen(quoted), ": \n") : NULL;
}

static uint64_t number(const char *document, const char *key) {
    const char *v = value(document, key);
    return v ? strtoull(v, NULL, 10) : 0;
}

static uint32_t numbers(const char *document, const char *key, uint32_t *out, uint32_t most) {
    const char *v = value(document, key);
    uint32_t n = 0;
    if (!v || *v != '[')
        return 0;
    for (char *end; n < most && *v != ']' && *v; v = end + strspn(end, ", \n")) {
        uint32_t one = strtoul(v + (*v == '['), &end, 10);
        if (end == v + (*v == '['))
            break;
        out[n++] = one;
        if (*end == ']')
            break;
    }
    return n;
}

static char *text(const char *document, const char *key) {
    const char *v = value(document, key);
    if (!v || *v++ != '"')
        die(key);
    char *out = checked(strlen(v) + 1), *to = out;
    for (; *v && *v != '"'; v++)
        *to++ = *v == '\\' && v[1] == 'n' ? (v++, '\n') : *v;
    return out;
}

static char *bootstrap(void) {
    const char *fd = getenv("PIMOE_BOOTSTRAP_FD");
    char *document = checked((1 << 20) + 1);
    if (!fd || pread(atoi(fd), document, 1 << 20, 0) <= 0)
        die("read the bootstrap document");
    close(atoi(fd));
    if (number(document, "protocol") != 1)
        die("protocol of the host");
    return document;
}

static void map_shards(const char *document) {
    uint32_t *fds = checked(4096 * sizeof *fds);
    shard_count = numbers(document, "shards", fds, 4096);
    shards = checked(shard_count * sizeof *shards);
    for (uint32_t i = 0; i < shard_count; i++) {
        struct stat st;
        if (fstat(fds[i], &st))
            die("a shard");
        shards[i].size = st.st_size;
        if (st.st_size && (shards[i].data = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fds[i], 0)) == MAP_FAILED)
            die("map a shard");
        close(fds[i]);
    }
    free(fds);
}

static void *watch(void *lifeline) {
    char c;
    for (;;) {
        ssize_t n = read((int)(uintptr_t)lifeline, &c, 1);
        if (n > 0 || (n < 0 && errno == EINTR))
            continue;
        _exit(3); /* the host is gone */
    }
}

static void on_term(int unused) {
    (void)unused;
    terminate();
}

static char address[512];

static void announce(void) {
    printf("1|1|unix|%s|grpc|\n", address);
    fflush(stdout);
    dup3(2, 1, 0); /* what is printed from now on is a log */
}

int main(void) {
    const char *cookie = getenv("PIMOE_PLUGIN"), *folder = getenv("PLUGIN_UNIX_SOCKET_DIR");
    if (!cookie || strcmp(cookie, "serve-experts-and-routers") || !folder) {
        fprintf(stderr, "This program is a PiMoE plugin. It is started by a PiMoE host, not by hand; `pimoe plugins test PATH` tries it.\n");
        return 2;
    }
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    char *document = bootstrap();
    pthread_t thread;
    if (pthread_create(&thread, NULL, watch, (void *)(uintptr_t)number(document, "lifeline")))
        die("start a thread");
    map_shards(document);
    if (value(document, "plane")) {
        struct layout l = {.slots = number(document, "slots"), .lanes = number(document, "lanes"), .in_bytes = number(document, "in_bytes"), .out_bytes = number(document, "out_bytes")};
        l.core_count = numbers(document, "cores", l.cores, 64);
        serve_plane(number(document, "requests"), number(document, "results"), &l);
    }
    snprintf(address, sizeof address, "%s/plugin", folder);
    char *cert = text(document, "certificate"), *key = text(document, "key"), *authority = text(document, "client_certificate");
    explicit_bzero(document, strlen(document));
    signal(SIGTERM, on_term);
    serve_control(address, cert, key, authority, announce);
    return 0;
}
