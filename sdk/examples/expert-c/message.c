/* The protobuf messages of common.proto and expert.proto, as far as an expert needs them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expert.h"

bool fail(struct failure *f, enum status s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    f->status = s;
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    return false;
}

void put(struct buffer *b, const void *data, size_t n) {
    if (b->length + n > b->room) {
        b->room = 2 * (b->length + n);
        if (!(b->data = realloc(b->data, b->room)))
            die("memory");
    }
    memcpy(b->data + b->length, data, n);
    b->length += n;
}

static void put_varint(struct buffer *b, uint64_t v) {
    do {
        uint8_t byte = (v & 127) | (v > 127 ? 128 : 0);
        put(b, &byte, 1);
        v >>= 7;
    } while (v);
}

static void put_text(struct buffer *b, int field, const char *text) {
    put_varint(b, field << 3 | 2);
    put_varint(b, strlen(text));
    put(b, text, strlen(text));
}

void put_info(struct buffer *b) {
    put_text(b, 1, "c");
    put_text(b, 2, "expert");
    put_text(b, 3, "1");
    put_text(b, 4, numeric_class());
}

void put_load_reply(struct buffer *b) {
    struct buffer info = {0};
    put_info(&info);
    put_varint(b, 1 << 3 | 2);
    put_varint(b, info.length);
    put(b, info.data, info.length);
    free(info.data);
}

void put_numbers(struct buffer *b, const uint64_t *values, int count) {
    for (int i = 0; i < count; i++) {
        put_varint(b, (i + 1) << 3);
        put_varint(b, values[i]);
    }
}

/* field is one of a message. */
struct field {
    uint32_t number;
    uint64_t value;      /* of a varint */
    const uint8_t *data; /* of a length-delimited one */
    size_t length;
};

static bool take_varint(const uint8_t **b, const uint8_t *end, uint64_t *v) {
    *v = 0;
    for (int shift = 0; shift < 64 && *b < end; shift += 7) {
        uint8_t byte = *(*b)++;
        *v |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

/* next takes a field; false at the end, with *b at end, or elsewhere if the message is broken. */
static bool next(const uint8_t **b, const uint8_t *end, struct field *f) {
    const uint8_t *at = *b;
    uint64_t key, n;
    memset(f, 0, sizeof *f);
    if (at == end || !take_varint(&at, end, &key))
        return false;
    f->number = key >> 3;
    switch (key & 7) {
    case 0:
        if (!take_varint(&at, end, &f->value))
            return false;
        break;
    case 2:
        if (!take_varint(&at, end, &n) || n > (uint64_t)(end - at))
            return false;
        f->data = at, f->length = n, at += n;
        break;
    default: /* no field of these messages */
        return false;
    }
    *b = at;
    return true;
}

static bool is(const struct field *f, const char *text) { return f->length == strlen(text) && !memcmp(f->data, text, f->length); }

/* take_tensor checks a ShardTensor against [out, in]. */
static bool take_tensor(struct field from, uint32_t out, uint32_t in, struct weights *w, struct failure *f) {
    const uint8_t *b = from.data, *end = b + from.length;
    uint64_t shard = 0, offset = 0, length = 0, shape[2] = {0}, size = 0;
    int axes = 0;
    for (struct field p; next(&b, end, &p);) {
        if (p.number == 1)
            shard = p.value;
        else if (p.number == 2)
            offset = p.value;
        else if (p.number == 3)
            length = p.value;
        else if (p.number == 4) {
            size = is(&p, "F32") ? 4 : is(&p, "BF16") || is(&p, "F16") ? 2 : 0;
            w->dtype = size == 4 ? F32 : is(&p, "BF16") ? BF16 : F16;
        } else if (p.number == 5) {
            const uint8_t *s = p.data, *s_end = s + p.length; /* packed, as proto3 does */
            for (uint64_t v; s < s_end && take_varint(&s, s_end, &v); axes++)
                if (axes < 2)
                    shape[axes] = v;
        } else if (p.number == 6 && p.length)
            return fail(f, UNSUPPORTED, "packing %.*s", (int)p.length, p.data);
    }
    if (!size)
        return fail(f, UNSUPPORTED, "a dtype other than F32, BF16 and F16");
    if (b != end || axes != 2 || shape[0] != out || shape[1] != in || length != size * out * in)
        return fail(f, INVALID, "%d axes, [%u %u] in %u bytes, want [%u %u]", axes, (unsigned)shape[0], (unsigned)shape[1], (unsigned)length, out, in);
    if (shard >= shard_count || offset > shards[shard].size || length > shards[shard].size - offset)
        return fail(f, INVALID, "it lies outside of its shard");
    w->data = shards[shard].data + offset;
    return true;
}

static bool take_unit(struct field from, struct unit *u, struct failure *f) {
    const uint8_t *b = from.data, *end = b + from.length;
    struct field m[3] = {{0}};
    for (struct field p; next(&b, end, &p);) {
        if (p.number == 1)
            u->layer = p.value;
        else if (p.number == 2)
            u->expert = p.value;
        else if (p.number >= 3 && p.number <= 5)
            m[p.number - 3] = p;
    }
    struct weights *w[] = {&u->gate, &u->up, &u->down};
    static const char *const names[] = {"gate", "up", "down"};
    for (int i = 0; i < 3; i++) {
        struct failure why = {0};
        if (!take_tensor(m[i], i < 2 ? model.intermediate : model.hidden, i < 2 ? model.hidden : model.intermediate, w[i], &why))
            return fail(f, why.status, "layer %u expert %u %s: %.180s", u->layer, u->expert, names[i], why.text);
    }
    return true;
}

bool take_load(const uint8_t *b, size_t n, struct failure *f) {
    static bool begun;
    if (begun)
        return fail(f, INVALID, "second load");
    begun = true;
    const uint8_t *at = b, *end = b + n;
    struct field asked = {0}, activation = {0};
    for (struct field p; next(&at, end, &p);) {
        if (p.number == 1)
            model.hidden = p.value;
        else if (p.number == 2)
            model.intermediate = p.value;
        else if (p.number == 3)
            activation = p;
        else if (p.number == 4)
            asked = p;
        else if (p.number == 6)
            model.count++;
    }
    if (at != end || !model.hidden || !model.intermediate || !model.count || model.hidden > 1 << 20 || model.intermediate > 1 << 20)
        return fail(f, INVALID, "no units, or widths of %u and %u", model.hidden, model.intermediate);
    if (!is(&activation, "silu") && !is(&activation, "gelu_tanh"))
        return fail(f, UNSUPPORTED, "activation %.*s", (int)(activation.length < 64 ? activation.length : 64), activation.data);
    model.gelu = is(&activation, "gelu_tanh");
    model.units = checked(model.count * sizeof *model.units);
    uint32_t i = 0;
    at = b;
    for (struct field p; next(&at, end, &p);)
        if (p.number == 6 && !take_unit(p, &model.units[i++], f))
            return false;
    enum dtype first = model.units[0].gate.dtype;
    for (i = 0; i < model.count; i++)
        if (model.units[i].gate.dtype != first || model.units[i].up.dtype != first || model.units[i].down.dtype != first)
            return fail(f, INVALID, "layer %u expert %u: weights of mixed dtypes", model.units[i].layer, model.units[i].expert);
    static const char *const names[] = {"f32", "bf16w-f32", "f16w-f32"};
    if (asked.length && !is(&asked, "auto") && !is(&asked, names[first]))
        return fail(f, UNSUPPORTED, "numeric class %.*s", (int)(asked.length < 64 ? asked.length : 64), asked.data);
    atomic_store(&model.ready, true);
    return true;
}

bool take_forward(const uint8_t *b, size_t n, struct buffer *reply, struct failure *f, uint32_t *rows) {
    const uint8_t *end = b + n;
    struct buffer segments = {0};
    struct field x = {0};
    uint32_t layer = 0, cols = 0;
    for (struct field p; next(&b, end, &p);) {
        if (p.number == 1)
            layer = p.value;
        else if (p.number == 3) {
            struct segment s = {0};
            const uint8_t *q = p.data;
            for (struct field v; next(&q, p.data + p.length, &v);)
                *(v.number == 1 ? &s.expert : &s.rows) = v.value;
            put(&segments, &s, sizeof s);
        } else if (p.number == 4) {
            const uint8_t *q = p.data;
            for (struct field v; next(&q, p.data + p.length, &v);) {
                if (v.number == 1)
                    *rows = v.value;
                else if (v.number == 2)
                    cols = v.value;
                else
                    x = v;
            }
        }
    }
    bool good = b == end && x.length == 4 * (uint64_t)*rows * cols;
    if (!good)
        fail(f, INVALID, "x of %u x %u in %u bytes", *rows, cols, (unsigned)x.length);
    float *in = checked(x.length + 4), *out = checked(x.length + 4);
    if (x.length)
        memcpy(in, x.data, x.length); /* aligned */
    if (good && (good = forward(layer, (struct segment *)segments.data, segments.length / sizeof(struct segment), in, out, *rows, cols, f))) {
        struct buffer y = {0};
        put_numbers(&y, (uint64_t[]){*rows, cols}, 2);
        put_varint(&y, 3 << 3 | 2);
        put_varint(&y, x.length);
        put(&y, out, x.length);
        put_varint(reply, 1 << 3 | 2);
        put_varint(reply, y.length);
        put(reply, y.data, y.length);
        free(y.data);
    }
    free(in);
    free(out);
    free(segments.data);
    return good;
}
