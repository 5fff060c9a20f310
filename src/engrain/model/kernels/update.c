/* A parameter's step in one pass over memory: decay, the rule, and rounding into bf16.
 *
 * The random numbers of stochastic rounding are those of engrain/learn/rounding.py: they depend on
 * two keys and on an element's position alone.
 */
#include "lesson.h"
#include "matrix.h"

enum { NEAREST = 0, STOCHASTIC = 1 };

/* Elements that share a key in rounding.py (BLOCK), and elements that a thread takes at once. */
#define KEYED (1 << 18)
#define PART (1 << 14)

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
    if (rule == SIGN) {
        /* In bits: a choice of three values by comparisons would not vectorise everywhere. */
        union { float value; uint32_t bits; } step = {n->rate}, way = {gradient};
        uint32_t there = -(uint32_t)(gradient > 0) | -(uint32_t)(gradient < 0);
        step.bits = (step.bits ^ (way.bits & 0x80000000u)) & there;
        return weight - step.value;
    }
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

/* The same step for a gradient that never reaches memory: a tile of it is made and used at once.
 * Not for rules with moments: tiles read them in short pieces, which costs more than the gradient
 * saves. Their gradient is formed in the same way.
 */
#ifdef __AVX512BF16__

#define TILE 4

/* Some neighbouring weights under one key. */
INLINE void part_of(const Outer *o, int64_t start, int64_t count, const float *restrict gradient,
                    int rule, int rounding) {
    bf16 *restrict weight = o->weight + start;
    if (rule == FORM) {
        for (int64_t i = 0; i < count; i++) weight[i] = narrow(gradient[i]);
        return;
    }
    uint32_t key = o->key1 + (uint32_t)(start / KEYED) * 0x9E3779B9u, second_key = o->key2;
    uint32_t base = (uint32_t)(start % KEYED);
    const Numbers numbers = *o->numbers;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float next = moved(rule, &numbers, widen(weight[i]), gradient[i], NULL, NULL, i);
        weight[i] = rounding == STOCHASTIC
                        ? narrow_stochastic(next, base + (uint32_t)i, key, second_key)
                        : narrow(next);
    }
}

/* `left` begins at the tile's first row, `right` at its first column; both are WIDE a pair. */
INLINE void outer_tile(const Outer *o, const uint32_t *left, const uint32_t *right, int64_t row,
                       int64_t column, int rule, int rounding) {
    int64_t pairs = (o->tokens + 1) / 2;
    __m512 sums[TILE][VECTORS];
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512i wide[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            wide[v] = _mm512_loadu_si512(right + p * WIDE + 16 * v);
        for (int r = 0; r < TILE; r++) {
            __m512i one = _mm512_set1_epi32((int)left[p * WIDE + r]);
            for (int v = 0; v < VECTORS; v++) sums[r][v] = times(sums[r][v], wide[v], one);
        }
    }
    float gradient[TILE][WIDE];
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(gradient[r] + 16 * v, sums[r][v]);
    int64_t there = o->ins - column < WIDE ? o->ins - column : WIDE;
    for (int r = 0; r < TILE && row + r < o->outs; r++) {
        int64_t start = (row + r) * o->ins + column, key = start / KEYED;
        if (there == WIDE && (start + WIDE - 1) / KEYED == key) {
            part_of(o, start, WIDE, gradient[r], rule, rounding);
            continue;
        }
        /* A row of a tile may cross a border between keys. */
        for (int64_t from = 0; from < there;) {
            int64_t rest = KEYED - (start + from) % KEYED;
            int64_t count = there - from < rest ? there - from : rest;
            part_of(o, start + from, count, gradient[r] + from, rule, rounding);
            from += count;
        }
    }
}

#define OUTER(r, o_)                                                                               \
    if (o->rule == r && o->rounding == o_) outer_tile(o, left, right, row, column, r, o_);         \
    else
#endif

/* 0 when done; 1 where these kernels have no such product; 2 if `into` is not finite, and nothing
 * was done. */
EXPORT int engrain_outer_move(const Outer *o) {
#ifdef __AVX512BF16__
    if (o->rule != FORM) {
        int wrong = 0;
#pragma omp simd reduction(| : wrong)
        for (int64_t i = 0; i < o->tokens * o->outs; i++)
            wrong |= (o->into[i] & 0x7F80) == 0x7F80;
        if (wrong) return 2;
    }
    int64_t pairs = (o->tokens + 1) / 2;
    int64_t lefts = (o->outs + WIDE - 1) / WIDE, rights = (o->ins + WIDE - 1) / WIDE;
    uint32_t *all_left = o->pairs, *all_right = o->pairs + pairs * lefts * WIDE;
    int64_t heights = (o->outs + TILE - 1) / TILE;
#pragma omp parallel num_threads(o->threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < lefts; i++)
            pair_rows(o->into + i * WIDE, o->outs, o->tokens, o->outs - i * WIDE, WIDE,
                      all_left + i * pairs * WIDE);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rights; i++)
            pair_rows(o->inward + i * WIDE, o->ins, o->tokens, o->ins - i * WIDE, WIDE,
                      all_right + i * pairs * WIDE);
#pragma omp for schedule(static) collapse(2)
        for (int64_t j = 0; j < rights; j++)
            for (int64_t i = 0; i < heights; i++) {
                int64_t row = i * TILE, column = j * WIDE;
                const uint32_t *left = all_left + row / WIDE * pairs * WIDE + row % WIDE;
                const uint32_t *right = all_right + j * pairs * WIDE;
                OUTER(SGD, STOCHASTIC) OUTER(SGD, NEAREST) OUTER(SIGN, STOCHASTIC)
                OUTER(SIGN, NEAREST) OUTER(FORM, NEAREST) {}
            }
    }
    return 0;
#else
    return o != NULL;
#endif
}
