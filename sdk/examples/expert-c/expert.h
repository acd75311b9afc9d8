/* An expert plugin in C: tensors through shared memory, control over gRPC. Written from sdk/proto/README.md.
 *
 * main.c    the bootstrap document, the handshake, the end
 * plane.c   lanes: threads that serve calls in shared memory
 * control.c gRPC: HTTP/2 by nghttp2, TLS by OpenSSL
 * message.c the few protobuf messages
 * ffn.c     what is computed
 */
#ifndef EXPERT_H
#define EXPERT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The error classes, as status words of the plane. */
enum status { OK = 0, UNKNOWN = 1, INVALID = 2, NOT_FOUND = 3, UNAVAILABLE = 5, UNSUPPORTED = 6 };

/* failure is an error with its text; status OK means none. */
struct failure {
    enum status status;
    char text[256];
};

bool fail(struct failure *f, enum status s, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ffn.c */

enum dtype { F32, BF16, F16 };

struct weights {
    const uint8_t *data; /* row-major [out, in] */
    enum dtype dtype;
};

struct unit {
    uint32_t layer, expert;
    struct weights gate, up, down;
};

struct segment {
    uint32_t expert, rows;
};

struct model {
    uint32_t hidden, intermediate, count;
    bool gelu;
    struct unit *units;
    _Atomic bool ready; /* set after all else */
};

extern struct model model;

/* forward fills y, as large as x. */
bool forward(uint32_t layer, const struct segment *s, uint32_t segments, const float *x, float *y, uint32_t rows, uint32_t cols,
             struct failure *f);
const char *numeric_class(void);

/* message.c */

struct buffer {
    uint8_t *data;
    size_t length, room;
};

void put(struct buffer *b, const void *data, size_t n);
void put_info(struct buffer *b);
void put_load_reply(struct buffer *b);
bool take_load(const uint8_t *b, size_t n, struct failure *f);
bool take_forward(const uint8_t *b, size_t n, struct buffer *reply, struct failure *f, uint32_t *rows);
void put_numbers(struct buffer *b, const uint64_t *values, int count);

/* main.c */

struct shard {
    const uint8_t *data;
    size_t size;
};

extern struct shard *shards;
extern uint32_t shard_count;

/* enter counts a call in; false while the process drains. leave counts it out. */
bool enter(void);
void leave(uint32_t rows, bool failed);
bool idle(void); /* it drains and no call runs */
void drain(bool wait);
bool draining(void);
void counts(uint64_t out[3]);
void *checked(size_t n); /* zeroed memory, or the end of the process */
void die(const char *what);

/* plane.c */

struct layout {
    uint32_t slots, lanes, cores[64], core_count;
    uint64_t in_bytes, out_bytes;
};

void serve_plane(int requests, int results, const struct layout *l);

/* control.c */

/* serve_control listens at the path, calls announce, and returns when the process has drained after terminate. */
void serve_control(const char *path, const char *cert, const char *key, const char *authority, void (*announce)(void));
void terminate(void); /* safe in a signal handler */

#endif
