/* What compact.c takes from other files; what it does stands where it is defined. */
#ifndef ENGRAIN_LESSON_H
#define ENGRAIN_LESSON_H

#include "common.h"

/* attention.c */
typedef struct {
    int64_t rows, tokens, heads, groups, dim, columns, window;
    int64_t context_row, context_head, context_token; /* strides, in numbers */
    const int64_t *lengths;                           /* tokens of each row's context */
    const bf16 *query, *key, *value;                  /* (rows, tokens, heads or groups, dim) */
    const bf16 *context_key, *context_value;
    bf16 *out;                /* (rows, tokens, heads, dim) */
    float *sums;              /* logarithms of the sums, (rows, groups, lanes of all blocks) */
    const bf16 *change;       /* backward: the gradient of out */
    bf16 *change_query;       /* as query */
    float *change_key;        /* (rows, groups, blocks, 2, tokens, dim), zeroed: keys, values */
    float scale;
    int32_t threads;
} Attention;

EXPORT int engrain_attend(const Attention *a);
EXPORT int engrain_attend_back(const Attention *a);

/* update.c */
enum { SGD = 0, SIGN = 1, ADAMW = 2, FORM = 3 };

typedef struct {
    float rate, keep, factor, beta1, beta2, epsilon, correction1, correction2;
} Numbers;

/* A matrix's gradient into^T inward, of the `tokens` rows of into (tokens, outs) and inward
 * (tokens, ins), used tile by tile as it is made. */
typedef struct {
    int64_t tokens, outs, ins;
    const bf16 *into, *inward;
    bf16 *weight;    /* what moves; with the rule FORM, where the gradient goes */
    uint32_t *pairs; /* scratch, outer_room numbers */
    const Numbers *numbers;
    int32_t rule, rounding, threads;
    uint32_t key1, key2;
} Outer;

EXPORT int engrain_outer_move(const Outer *o);

/* Columns of a tile of that product, and 32-bit numbers of scratch that it needs. */
#define OUTER_WIDE 96

INLINE int64_t outer_room(int64_t tokens, int64_t outs, int64_t ins) {
    int64_t lefts = (outs + OUTER_WIDE - 1) / OUTER_WIDE, rights = (ins + OUTER_WIDE - 1) / OUTER_WIDE;
    return (tokens + 1) / 2 * (lefts + rights) * OUTER_WIDE;
}

#endif
