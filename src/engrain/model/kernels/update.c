/* A parameter's step in one pass over memory: decay, the rule, and rounding into bf16.
 *
 * The random numbers of stochastic rounding are those of engrain/learn/rounding.py: they depend on
 * two keys and on an element's position alone.
 */
#include "common.h"

enum { SGD = 0, SIGN = 1, ADAMW = 2 };
enum { NEAREST = 0, STOCHASTIC = 1 };

/* Elements that share a key in rounding.py (BLOCK), and elements that a thread takes at once. */
#define KEYED (1 << 18)
#define PART (1 << 14)

typedef struct {
    float rate, keep, factor, beta1, beta2, epsilon, correction1, correction2;
} Numbers;

/* Murmur3's finaliser. */
INLINE uint32_t scatter(uint32_t number) {
    number = (number ^ (number >> 16)) * 0x85EBCA6Bu;
    number = (number ^ (number >> 13)) * 0xC2B2AE35u;
    return number ^ (number >> 16);
}

INLINE bf16 narrow_stochastic(float number, uint32_t position, uint32_t first, uint32_t second) {
    union { float value; uint32_t bits; } both = {number};
    uint32_t chance = ((scatter(position) ^ first) * second) >> 16;
    return (bf16)((both.bits + chance) >> 16);
}

INLINE float moved(int rule, const Numbers *n, float weight, float gradient, float *restrict first,
                   float *restrict second, int64_t i) {
    weight *= n->keep;
    gradient *= n->factor;
    if (rule == SGD) return fmaf(-n->rate, gradient, weight);
    if (rule == SIGN) return weight - n->rate * (float)((gradient > 0) - (gradient < 0));
    float mean = first[i] + (1 - n->beta1) * (gradient - first[i]);
    float square = n->beta2 * second[i] + (1 - n->beta2) * gradient * gradient;
    first[i] = mean;
    second[i] = square;
    return weight - n->rate / n->correction1 * mean /
                        (sqrtf(square) / n->correction2 + n->epsilon);
}

/* One rule, types and rounding known, so that the loop has no branches. */
INLINE void run(int rule, int kind, int gradient_kind, int rounding, int64_t from, int64_t to,
                void *restrict weight, const void *restrict gradient, float *restrict first,
                float *restrict second, const Numbers *n, uint32_t key1, uint32_t key2) {
    float *restrict whole = weight;
    bf16 *restrict half = weight;
    const float *restrict whole_gradient = gradient;
    const bf16 *restrict half_gradient = gradient;
    /* A part never crosses a border between keys. */
    uint32_t key = key1 + (uint32_t)(from / KEYED) * 0x9E3779B9u;
    uint32_t base = (uint32_t)(from % KEYED);
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float g = gradient_kind == FLOAT32 ? whole_gradient[i] : widen(half_gradient[i]);
        float w = kind == FLOAT32 ? whole[i] : widen(half[i]);
        float next = moved(rule, n, w, g, first, second, i);
        if (kind == FLOAT32) whole[i] = next;
        else if (rounding == STOCHASTIC)
            half[i] = narrow_stochastic(next, base + (uint32_t)(i - from), key, key2);
        else half[i] = narrow(next);
    }
}

#define CASE(r, k, g, o)                                                                          \
    if (rule == r && kind == k && gradient_kind == g && (k == FLOAT32 || rounding == o))          \
        run(r, k, g, o, from, to, weight, gradient, first, second, n, key1, key2);                \
    else
#define KINDS(r)                                                                                  \
    CASE(r, FLOAT32, FLOAT32, NEAREST) CASE(r, FLOAT32, BFLOAT16, NEAREST)                        \
    CASE(r, BFLOAT16, FLOAT32, STOCHASTIC) CASE(r, BFLOAT16, FLOAT32, NEAREST)                    \
    CASE(r, BFLOAT16, BFLOAT16, STOCHASTIC) CASE(r, BFLOAT16, BFLOAT16, NEAREST)

/* Move `count` weights by a rule; `first` and `second` are AdamW's moments, fp32. */
EXPORT void engrain_move(int rule, int64_t count, void *weight, int kind, const void *gradient,
                         int gradient_kind, float *first, float *second, const Numbers *n,
                         int rounding, uint32_t key1, uint32_t key2, int threads) {
    int64_t parts = (count + PART - 1) / PART;
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PART)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * PART, to = from + PART < count ? from + PART : count;
        KINDS(SGD) KINDS(SIGN) KINDS(ADAMW) {}
    }
}

/* Round fp32 values into bf16 weights stochastically. */
EXPORT void engrain_round(int64_t count, bf16 *weight, const float *value, uint32_t key1,
                          uint32_t key2, int threads) {
    int64_t parts = (count + PART - 1) / PART;
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PART)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * PART, to = from + PART < count ? from + PART : count;
        uint32_t key = key1 + (uint32_t)(from / KEYED) * 0x9E3779B9u;
        uint32_t base = (uint32_t)(from % KEYED);
#pragma omp simd
        for (int64_t i = from; i < to; i++)
            weight[i] = narrow_stochastic(value[i], base + (uint32_t)(i - from), key, key2);
    }
}
