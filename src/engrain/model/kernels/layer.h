/* The small operations of a lesson's layer, each in one pass: norm, rotation, gated activation.
 *
 * Rows are tokens, numbers are bf16 and computed in fp32.
 */
#ifndef ENGRAIN_LAYER_H
#define ENGRAIN_LAYER_H

#include "common.h"

enum { SILU = 0, GELU_TANH = 1 };

/* Parts of the rows whose sums are kept apart, so that threads change no bit. */
#define PARTS 16

/* A root-mean-square norm: y = x / rms(x) * (weight + one). */
typedef struct {
    const bf16 *weight; /* NULL: there is no such norm */
    bf16 *gradient;     /* where it is wanted, or NULL */
    float epsilon, one;
} Norm;

INLINE float root_of(const bf16 *x, int64_t width, float epsilon) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += widen(x[i]) * widen(x[i]);
    return 1.0f / sqrtf(sum / (float)width + epsilon);
}

/* Rows of `width` numbers. */
static inline void norm(const Norm *n, const bf16 *x, bf16 *y, int64_t rows, int64_t width,
                        int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > 4096)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * width;
        bf16 *to = y + row * width;
        float root = root_of(from, width, n->epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            to[i] = narrow(widen(from[i]) * root * (widen(n->weight[i]) + n->one));
    }
}

INLINE void norm_row_back(const Norm *n, const bf16 *x, const bf16 *change, const bf16 *beside,
                          bf16 *out, float *own, int64_t width) {
    float root = root_of(x, width, n->epsilon), along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < width; i++)
        along += widen(change[i]) * (widen(n->weight[i]) + n->one) * widen(x[i]);
    along *= root * root * root / (float)width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float value = widen(x[i]), c = widen(change[i]);
        float d = c * (widen(n->weight[i]) + n->one) * root - value * along;
        if (own) own[i] += c * value * root;
        out[i] = narrow(beside ? d + widen(beside[i]) : d);
    }
}

/* out = beside + dL/dx for the gradient `change` of y, in whose place it may stand; `beside` may be
 * NULL. `own` is room for (PARTS, width) sums of the weight's gradient. */
static inline void norm_back(const Norm *n, const bf16 *x, const bf16 *change, const bf16 *beside,
                      bf16 *out, float *own, int64_t rows, int64_t width, int threads) {
    if (!n->gradient) own = NULL;
    if (own) memset(own, 0, (size_t)(PARTS * width) * 4);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < PARTS; part++)
        for (int64_t row = rows * part / PARTS; row < rows * (part + 1) / PARTS; row++) {
            int64_t at = row * width;
            norm_row_back(n, x + at, change + at, beside ? beside + at : NULL, out + at,
                          own ? own + part * width : NULL, width);
        }
    for (int64_t i = 0; own && i < width; i++) {
        float sum = 0;
        for (int part = 0; part < PARTS; part++) sum += own[part * width + i];
        n->gradient[i] = narrow(sum);
    }
}

/* Turn the heads (tokens, heads, dim) in place by cos and sin (tokens, dim); sign -1 turns back. */
static inline void turn(bf16 *x, const bf16 *cos, const bf16 *sin, int64_t tokens, int64_t heads,
                 int64_t dim, float sign, int threads) {
    int64_t half = dim / 2;
#pragma omp parallel for num_threads(threads) schedule(static) if (tokens * heads * dim > 4096)
    for (int64_t token = 0; token < tokens; token++) {
        const bf16 *c = cos + token * dim, *s = sin + token * dim;
        for (int64_t h = 0; h < heads; h++) {
            bf16 *head = x + (token * heads + h) * dim;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float a = widen(head[i]), b = widen(head[i + half]);
                float s1 = sign * widen(s[i]), s2 = sign * widen(s[i + half]);
                head[i] = narrow(a * widen(c[i]) - b * (sign > 0 ? s1 : s2));
                head[i + half] = narrow(b * widen(c[i + half]) + a * (sign > 0 ? s2 : s1));
            }
        }
    }
}

/* An activation's value and slope. */
INLINE float activated(int act, float x, float *slope) {
    if (act == SILU) {
        float gate = 1.0f / (1.0f + fast_exp(-x));
        *slope = gate * (1.0f + x * (1.0f - gate));
        return x * gate;
    }
    float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    float tanh = 1.0f - 2.0f / (1.0f + fast_exp(2.0f * inner));
    float rise = 0.7978845608f * (1.0f + 0.134145f * x * x);
    *slope = 0.5f * (1.0f + tanh) + 0.5f * x * (1.0f - tanh * tanh) * rise;
    return 0.5f * x * (1.0f + tanh);
}

INLINE void gate_part(int act, int64_t from, int64_t to, const bf16 *gate, const bf16 *up,
                      bf16 *out) {
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float slope;
        out[i] = narrow(activated(act, widen(gate[i]), &slope) * widen(up[i]));
    }
}

INLINE void gate_part_back(int act, int64_t from, int64_t to, const bf16 *gate, const bf16 *up,
                           bf16 *into_gate, bf16 *into_up, bf16 *change) {
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float slope, u = widen(up[i]), d = widen(change[i]);
        float value = activated(act, widen(gate[i]), &slope);
        change[i] = narrow(value * u);
        into_gate[i] = narrow(d * u * slope);
        into_up[i] = narrow(d * value);
    }
}

#define PIECE 4096
#define EACH(f, ...)                                                                               \
    if (act == SILU) f(SILU, __VA_ARGS__);                                                         \
    else f(GELU_TANH, __VA_ARGS__);

/* out = act(gate) * up. */
static inline void gated(int act, int64_t count, const bf16 *gate, const bf16 *up, bf16 *out,
                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PIECE)
    for (int64_t from = 0; from < count; from += PIECE) {
        int64_t to = from + PIECE < count ? from + PIECE : count;
        EACH(gate_part, from, to, gate, up, out)
    }
}

/* Its backward: `change`, the gradient of the product, becomes the product itself, which the next
 * matrix's gradient needs. */
static inline void gated_back(int act, int64_t count, const bf16 *gate, const bf16 *up, bf16 *into_gate,
                       bf16 *into_up, bf16 *change, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PIECE)
    for (int64_t from = 0; from < count; from += PIECE) {
        int64_t to = from + PIECE < count ? from + PIECE : count;
        EACH(gate_part_back, from, to, gate, up, into_gate, into_up, change)
    }
}

#endif
