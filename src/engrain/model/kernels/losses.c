/* Cross-entropy over a part of the vocabulary in one pass each way (arXiv 1805.02867, algorithm 3).
 *
 * Logits are (rows, columns) of the vocabulary's columns from `start` on.
 */
#include "common.h"

INLINE float logit(const void *row, int kind, int64_t i, float cap) {
    float x = kind == FLOAT32 ? ((const float *)row)[i] : widen(((const bf16 *)row)[i]);
    if (cap == 0.0f) return x;
    return cap * (1.0f - 2.0f / (1.0f + fast_exp(2.0f * x / cap)));
}

INLINE void add_row(const void *row, int kind, int64_t columns, float cap, float *peak,
                    float *total) {
    float highest = *peak, sum = 0;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < columns; i++) {
        float x = logit(row, kind, i, cap);
        highest = x > highest ? x : highest;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; i++) sum += fast_exp(logit(row, kind, i, cap) - highest);
    *total = *total * fast_exp(*peak - highest) + sum;
    *peak = highest;
}

/* Take a part into the running maximum and sum, and the target's logit if it is in it. */
EXPORT void engrain_losses(const void *logits, int kind, int64_t rows, int64_t columns,
                           int64_t start, const int64_t *targets, float cap, float *peak,
                           float *total, float *wanted, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = targets[row] - start;
        const void *own = (const char *)logits + row * columns * (kind == FLOAT32 ? 4 : 2);
        if (kind == FLOAT32) add_row(own, FLOAT32, columns, cap, peak + row, total + row);
        else add_row(own, BFLOAT16, columns, cap, peak + row, total + row);
        if (at >= 0 && at < columns) wanted[row] = logit(own, kind, at, cap);
    }
}

INLINE void change_row(const void *row, int kind, int64_t columns, float cap, float peak,
                       float rest, float scale, int64_t at, void *out) {
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) {
        float x = logit(row, kind, i, cap);
        float change = (fast_exp(x - peak - rest) - (float)(i == at)) * scale;
        if (cap != 0.0f) change *= 1.0f - (x / cap) * (x / cap);
        if (kind == FLOAT32) ((float *)out)[i] = change;
        else ((bf16 *)out)[i] = narrow(change);
    }
}

/* The gradient of the losses by the logits, (rows, columns), in the logits' type. */
EXPORT void engrain_losses_back(const void *logits, int kind, int64_t rows, int64_t columns,
                                int64_t start, const int64_t *targets, float cap,
                                const float *peak, const float *rest, const float *gradient,
                                void *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t place = row * columns * (kind == FLOAT32 ? 4 : 2);
        const void *own = (const char *)logits + place;
        void *to = (char *)out + place;
        int64_t at = targets[row] - start;
        if (kind == FLOAT32)
            change_row(own, FLOAT32, columns, cap, peak[row], rest[row], gradient[row], at, to);
        else change_row(own, BFLOAT16, columns, cap, peak[row], rest[row], gradient[row], at, to);
    }
}
