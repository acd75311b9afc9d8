/* The gated feed-forward block in the numeric classes f32, bf16w-f32 and f16w-f32: weights become float32 exactly; each
 * output has one accumulator, inputs ascending, one fused multiply-add each. The bits are those of every other expert of
 * these classes, so that this one may stand beside them as a replica. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "expert.h"

struct model model;

static float bits(uint32_t b) {
    float f;
    memcpy(&f, &b, 4);
    return f;
}

static float half(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31)
        return bits(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0)
        return bits(sign | (exponent + 112) << 23 | fraction << 13);
    float f = (float)fraction * 0x1p-24f; /* exact */
    return sign ? -f : f;
}

static float dot(const struct weights *w, uint32_t row, const float *x, uint32_t n) {
    float sum = 0, v;
    size_t first = (size_t)row * n;
    uint16_t h;
    switch (w->dtype) {
    case F32:
        for (uint32_t i = 0; i < n; i++) {
            memcpy(&v, w->data + 4 * (first + i), 4);
            sum = fmaf(v, x[i], sum);
        }
        break;
    case BF16:
        for (uint32_t i = 0; i < n; i++) {
            memcpy(&h, w->data + 2 * (first + i), 2);
            sum = fmaf(bits((uint32_t)h << 16), x[i], sum);
        }
        break;
    case F16:
        for (uint32_t i = 0; i < n; i++) {
            memcpy(&h, w->data + 2 * (first + i), 2);
            sum = fmaf(half(h), x[i], sum);
        }
        break;
    }
    return sum;
}

/* exponential is the e^x of the classes, to the bit: see backends/vec. */
static float exponential(float x) {
    if (x < -104)
        x = -104;
    else if (x > 100)
        x = 100;
    const float shift = 0x1.8p23f;
    float t = fmaf(x, 0x1.715476p0f, shift), n = t - shift;
    float r = fmaf(n, 0x1.05c610p-29f, fmaf(n, -0x1.62e430p-1f, x));
    float p = 0x1.6a2434p-10f;
    const float c[] = {0x1.1239e2p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f, 0x1.fffffcp-2f, 1, 1};
    for (int i = 0; i < 6; i++)
        p = fmaf(p, r, c[i]);
    uint32_t u;
    memcpy(&u, &t, 4);
    int32_t k = (int32_t)u - 0x4b400000, low = k >> 1;
    p *= bits((uint32_t)(low + 127) << 23);
    return p * bits((uint32_t)(k - low + 127) << 23);
}

static float activated(float g) {
    if (!model.gelu)
        return g / (1 + exponential(0 - g));
    const float twice = (float)(-2 * 0.7978845608028654);
    float square = g * g, cube = square * 0.044715f;
    return g / (1 + exponential(fmaf(g, cube, g) * twice));
}

static const struct unit *find(uint32_t layer, uint32_t expert) {
    for (uint32_t i = 0; i < model.count; i++)
        if (model.units[i].layer == layer && model.units[i].expert == expert)
            return &model.units[i];
    return NULL;
}

bool forward(uint32_t layer, const struct segment *s, uint32_t segments, const float *x, float *y, uint32_t rows, uint32_t cols,
             struct failure *f) {
    if (!atomic_load(&model.ready))
        return fail(f, INVALID, "call before load");
    if (cols != model.hidden)
        return fail(f, INVALID, "x has %u columns, want %u", cols, model.hidden);
    float *inner = checked(4 * (size_t)model.intermediate);
    uint64_t row = 0;
    bool good = true;
    for (uint32_t i = 0; i < segments && good; i++) {
        uint32_t expert = s[i].expert;
        uint64_t end = row + s[i].rows; /* the table is the host's to change: each word is read once */
        const struct unit *u = find(layer, expert);
        if (!u)
            good = fail(f, NOT_FOUND, "layer %u expert %u is not loaded", layer, expert);
        else if (end > rows)
            good = fail(f, INVALID, "segments have more rows than x, which has %u", rows);
        for (; good && row < end; row++) {
            const float *in = x + row * cols;
            for (uint32_t o = 0; o < model.intermediate; o++)
                inner[o] = activated(dot(&u->gate, o, in, cols)) * dot(&u->up, o, in, cols);
            for (uint32_t o = 0; o < cols; o++)
                y[row * cols + o] = dot(&u->down, o, inner, model.intermediate);
        }
    }
    free(inner);
    if (good && row != rows)
        return fail(f, INVALID, "segments have %u rows, x has %u", (unsigned)row, rows);
    return good;
}

const char *numeric_class(void) {
    static const char *const names[] = {"f32", "bf16w-f32", "f16w-f32"};
    return atomic_load(&model.ready) ? names[model.units[0].gate.dtype] : "";
}
