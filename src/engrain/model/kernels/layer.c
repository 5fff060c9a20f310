/* The small operations of a training layer, each in one pass: norm, rotation, gated activation.
 *
 * Rows are tokens; numbers are computed in fp32 whatever their type. `kind` is FLOAT32 or BFLOAT16.
 */
#include "lesson.h"

INLINE float at(const void *row, int kind, int64_t i) {
    return kind == FLOAT32 ? ((const float *)row)[i] : widen(((const bf16 *)row)[i]);
}

INLINE void put(void *row, int kind, int64_t i, float number) {
    if (kind == FLOAT32) ((float *)row)[i] = number;
    else ((bf16 *)row)[i] = narrow(number);
}

INLINE const void *row_of(const void *base, int kind, int64_t offset) {
    return (const char *)base + offset * (kind == FLOAT32 ? 4 : 2);
}

INLINE float root_of(const void *x, int kind, int64_t width, float epsilon) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += at(x, kind, i) * at(x, kind, i);
    return 1.0f / sqrtf(sum / (float)width + epsilon);
}

INLINE void norm_row(const void *x, const void *weight, void *y, int kind, int64_t width,
                     float epsilon, float one) {
    float root = root_of(x, kind, width, epsilon);
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
        put(y, kind, i, at(x, kind, i) * root * (at(weight, kind, i) + one));
}

/* y = x / rms(x) * (weight + one), rows of `width` numbers. */
EXPORT void engrain_norm(const void *x, const void *weight, void *y, int kind, int64_t rows,
                         int64_t width, float epsilon, float one, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > 4096)
    for (int64_t row = 0; row < rows; row++) {
        const void *from = row_of(x, kind, row * width);
        void *to = (void *)row_of(y, kind, row * width);
        if (kind == FLOAT32) norm_row(from, weight, to, FLOAT32, width, epsilon, one);
        else norm_row(from, weight, to, BFLOAT16, width, epsilon, one);
    }
}

INLINE void norm_row_back(const void *x, const void *weight, const void *change, const void *beside,
                          void *out, float *own, int kind, int64_t width, float epsilon,
                          float one) {
    float root = root_of(x, kind, width, epsilon), along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < width; i++)
        along += at(change, kind, i) * (at(weight, kind, i) + one) * at(x, kind, i);
    along *= root * root * root / (float)width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float value = at(x, kind, i), c = at(change, kind, i);
        float d = c * (at(weight, kind, i) + one) * root - value * along;
        if (own) own[i] += c * value * root;
        put(out, kind, i, beside ? d + at(beside, kind, i) : d);
    }
}

/* The norm's backward: out = beside + dL/dx for the gradient `change` of y; `beside` may be NULL.
 * `own`, (PARTS, width), zeroed, takes the weight's gradient by parts of the rows, or is NULL.
 */
EXPORT void engrain_norm_back(const void *x, const void *weight, const void *change,
                              const void *beside, void *out, float *own, int kind, int64_t rows,
                              int64_t width, float epsilon, float one, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < PARTS; part++) {
        float *mine = own ? own + part * width : NULL;
        for (int64_t row = rows * part / PARTS; row < rows * (part + 1) / PARTS; row++) {
            const void *a = row_of(x, kind, row * width), *b = row_of(change, kind, row * width);
            const void *c = beside ? row_of(beside, kind, row * width) : NULL;
            void *d = (void *)row_of(out, kind, row * width);
            if (kind == FLOAT32)
                norm_row_back(a, weight, b, c, d, mine, FLOAT32, width, epsilon, one);
            else norm_row_back(a, weight, b, c, d, mine, BFLOAT16, width, epsilon, one);
        }
    }
}

INLINE void turn_head(void *head, int kind, int64_t half, const void *cos, const void *sin,
                      float sign) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = at(head, kind, i), b = at(head, kind, i + half);
        float c1 = at(cos, kind, i), s1 = sign * at(sin, kind, i);
        float c2 = at(cos, kind, i + half), s2 = sign * at(sin, kind, i + half);
        put(head, kind, i, a * c1 - b * (sign > 0 ? s1 : s2));
        put(head, kind, i + half, b * c2 + a * (sign > 0 ? s2 : s1));
    }
}

/* Turn the heads (tokens, heads, dim) in place by cos and sin (tokens, dim); sign -1 turns back. */
EXPORT void engrain_turn(void *x, const void *cos, const void *sin, int kind, int64_t tokens,
                         int64_t heads, int64_t dim, float sign, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (tokens * heads * dim > 4096)
    for (int64_t token = 0; token < tokens; token++) {
        const void *c = row_of(cos, kind, token * dim), *s = row_of(sin, kind, token * dim);
        for (int64_t head = 0; head < heads; head++) {
            void *mine = (void *)row_of(x, kind, (token * heads + head) * dim);
            if (kind == FLOAT32) turn_head(mine, FLOAT32, dim / 2, c, s, sign);
            else turn_head(mine, BFLOAT16, dim / 2, c, s, sign);
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

INLINE void gate_part(int act, int kind, int64_t from, int64_t to, const void *gate,
                      const void *up, void *out) {
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float slope;
        put(out, kind, i, activated(act, at(gate, kind, i), &slope) * at(up, kind, i));
    }
}

INLINE void gate_part_back(int act, int kind, int64_t from, int64_t to, void *gate, void *up,
                           void *change) {
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float slope, u = at(up, kind, i), d = at(change, kind, i);
        float value = activated(act, at(gate, kind, i), &slope);
        put(change, kind, i, value * u);
        put(gate, kind, i, d * u * slope);
        put(up, kind, i, d * value);
    }
}

#define PIECE 4096
#define EACH(f, ...)                                                                               \
    if (act == SILU && kind == FLOAT32) f(SILU, FLOAT32, __VA_ARGS__);                             \
    else if (act == SILU) f(SILU, BFLOAT16, __VA_ARGS__);                                          \
    else if (kind == FLOAT32) f(GELU_TANH, FLOAT32, __VA_ARGS__);                                  \
    else f(GELU_TANH, BFLOAT16, __VA_ARGS__);

/* out = act(gate) * up. */
EXPORT void engrain_gate(int act, int kind, int64_t count, const void *gate, const void *up,
                         void *out, int threads) {
    int64_t parts = (count + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * PIECE, to = from + PIECE < count ? from + PIECE : count;
        EACH(gate_part, from, to, gate, up, out)
    }
}

/* Its backward in place: `gate` and `up` become their gradients, `change` (the gradient of the
 * product) becomes the product itself, which the next matrix's gradient needs. */
EXPORT void engrain_gate_back(int act, int kind, int64_t count, void *gate, void *up, void *change,
                              int threads) {
    int64_t parts = (count + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * PIECE, to = from + PIECE < count ? from + PIECE : count;
        EACH(gate_part_back, from, to, gate, up, change)
    }
}
