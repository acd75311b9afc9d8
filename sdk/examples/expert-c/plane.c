/* The shared-memory plane, as section 5 of sdk/proto/README.md has it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "expert.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { PAGE = 4096, BELLS = 1024, LINE = 64 };

static struct layout layout;
static uint8_t *requests, *results;

static _Atomic uint32_t *word(uint8_t *region, size_t at) { return (_Atomic uint32_t *)(region + at); }

static uint32_t u32(const uint8_t *b, size_t at) {
    uint32_t v;
    memcpy(&v, b + at, 4);
    return v;
}

static uint64_t u64(const uint8_t *b, size_t at) {
    uint64_t v;
    memcpy(&v, b + at, 8);
    return v;
}

static void *map(int fd, size_t size, int protection, int seals) {
    struct stat st;
    if (fstat(fd, &st) || st.st_size != (off_t)size)
        die("size of the plane");
    if ((fcntl(fd, F_GET_SEALS) & seals) != seals)
        die("seals of the plane");
    void *p = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        die("map the plane");
    close(fd);
    return p;
}

/* compute serves one call. in and out are its slot. */
static void compute(uint8_t *in, uint8_t *out) {
    struct failure f = {0};
    uint32_t rows = u32(in, 84), cols = u32(in, 88), segments = u32(in, 92);
    uint64_t table = ((uint64_t)segments * 8 + 63) & ~63ull, bytes = (uint64_t)rows * cols * 4;
    if (!enter()) {
        fail(&f, UNAVAILABLE, "the plugin is ending");
    } else {
        if (u32(in, 72) != 1)
            fail(&f, UNSUPPORTED, "operation %u", u32(in, 72));
        else if (rows > 1 << 28 || cols > 1 << 28 || segments > rows || table + bytes > layout.in_bytes || bytes > layout.out_bytes)
            fail(&f, INVALID, "a call of %u x %u with %u segments does not fit its slot", rows, cols, segments);
        else
            forward(u32(in, 76), (const struct segment *)(in + PAGE), segments, (const float *)(in + PAGE + table), (float *)(out + PAGE), rows, cols, &f);
        leave(rows, f.status != OK);
    }
    uint64_t generation = u64(in, 64);
    uint32_t reply[] = {f.status, f.status ? 0 : rows, f.status ? 0 : cols, strlen(f.text)};
    memcpy(out + 64, &generation, 8);
    memcpy(out + 72, reply, sizeof reply);
    memcpy(out + 128, f.text, strlen(f.text));
}

static void futex(_Atomic uint32_t *w, int operation, uint32_t value, const struct timespec *limit) {
    syscall(SYS_futex, w, operation, value, limit, NULL, 0); /* not private: the host is at the other end */
}

/* await returns when the bell is no longer rung. */
static void await(uint32_t lane, _Atomic uint32_t *bell, uint32_t rung) {
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do { /* to look for 200 us costs less than to be woken */
        sched_yield();
        if (atomic_load(bell) != rung)
            return;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000000l + now.tv_nsec - start.tv_nsec < 200000);
    _Atomic uint32_t *sleeping = word(results, BELLS + LINE * lane);
    const struct timespec limit = {.tv_sec = 5};
    atomic_store(sleeping, 1);
    while (atomic_load(bell) == rung)
        futex(bell, FUTEX_WAIT, rung, &limit);
    atomic_store(sleeping, 0);
}

static void *serve_lane(void *number) {
    uint32_t lane = (uintptr_t)number;
    if (layout.core_count >= layout.lanes) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(layout.cores[lane], &set);
        if (!sched_setaffinity(0, sizeof set, &set))
            atomic_fetch_add(word(results, 8), 1);
    }
    uint32_t *last = checked(layout.slots * sizeof *last);
    _Atomic uint32_t *bell = word(requests, BELLS + LINE * lane);
    for (;;) {
        uint32_t rung = atomic_load(bell); /* before the slots: a post after this look changes it */
        for (uint32_t i = lane; i < layout.slots; i += layout.lanes) {
            uint8_t *in = requests + PAGE + i * (PAGE + layout.in_bytes), *out = results + PAGE + i * (PAGE + layout.out_bytes);
            uint32_t post = atomic_load(word(in, 0));
            if (post == last[i])
                continue;
            compute(in, out);
            atomic_store(word(out, 0), post); /* releases what compute has written */
            if (atomic_load(word(in, 4)))
                futex(word(out, 0), FUTEX_WAKE, 1, NULL);
            last[i] = post;
        }
        await(lane, bell, rung);
    }
    return NULL;
}

static void *beat(void *unused) {
    (void)unused;
    for (const struct timespec half = {.tv_nsec = 500000000};; nanosleep(&half, NULL))
        atomic_fetch_add((_Atomic uint64_t *)results, 1);
    return NULL;
}

void serve_plane(int requests_fd, int results_fd, const struct layout *l) {
    layout = *l;
    if (!l->slots || !l->lanes || l->lanes > l->slots || l->lanes > 48 || l->slots > 4096)
        die("geometry of the plane");
    requests = map(requests_fd, PAGE + l->slots * (PAGE + l->in_bytes), PROT_READ, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE);
    results = map(results_fd, PAGE + l->slots * (PAGE + l->out_bytes), PROT_READ | PROT_WRITE, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (memcmp(requests, "PiMoe1\0\0", 8) || u32(requests, 8) != 2)
        die("version of the plane");
    if (u32(requests, 12) != l->slots || u64(requests, 16) != l->in_bytes || u64(requests, 24) != l->out_bytes || u32(requests, 32) != l->lanes)
        die("plane and bootstrap document differ");
    pthread_t thread;
    for (uintptr_t i = 0; i < l->lanes; i++)
        if (pthread_create(&thread, NULL, serve_lane, (void *)i))
            die("start a lane");
    if (pthread_create(&thread, NULL, beat, NULL))
        die("start the heartbeat");
}
