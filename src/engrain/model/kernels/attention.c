/* Attention of a lesson's tokens to a frozen context and to each other, in bf16, block by block.
 *
 * One task is a block of queries of one key head. Queries stand in the lanes of vectors: scores
 * are laid out (key, lane), so that the softmax needs no sum across lanes, and a key's pairs of
 * numbers are broadcast to products of pairs. The softmax runs as in FlashAttention
 * (arXiv 2205.14135, algorithm 1); backward computes the scores again from the stored logarithm of
 * their sum. Keys and values of the context are constants, so only own keys get a gradient.
 */
#include "lesson.h"
#include "matrix.h"
#include <stdlib.h>


#define KEYS 64
#define LOWEST -1e30f

EXPORT int engrain_attends(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

#ifdef __AVX512BF16__

typedef struct {
    uint32_t *query, *change;   /* (pairs of dim, lanes) */
    uint32_t *weights, *slopes; /* (pairs of keys, lanes) */
    uint32_t *value, *key;      /* (pairs of keys, dim) */
    float *scores, *sloped;     /* (keys, lanes) */
    float *out;                 /* (dim, lanes) */
    float *query_rows, *change_rows; /* (lanes, dim) */
    float *top, *sum, *token, *along; /* (lanes) */
} Room;

/* out (keys, lanes) = keys (count, 2 pairs) times packed (pairs, lanes). */
INLINE void score(const bf16 *keys, int64_t stride, int count, const uint32_t *packed, int pairs,
                  float *out, const int vectors) {
    for (int k = 0; k < count; k += 4)
        rows_times(keys + k * stride, stride, count - k, packed, pairs, NULL,
                   out + k * vectors * 16, 4, vectors);
}

/* out (dim, lanes) += pairs of keys (pairs, dim), transposed, times weights (pairs, lanes). */
INLINE void gather(const uint32_t *weights, const uint32_t *paired, int pairs, int dim, float *out,
                   const int vectors) {
    for (int d = 0; d < dim; d += 4) {
        __m512 sums[4][VECTORS];
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < vectors; v++)
                sums[r][v] = _mm512_loadu_ps(out + ((d + r) * vectors + v) * 16);
        for (int p = 0; p < pairs; p++) {
            __m512i wide[VECTORS];
            for (int v = 0; v < vectors; v++)
                wide[v] = _mm512_loadu_si512(weights + (p * vectors + v) * 16);
            for (int r = 0; r < 4; r++) {
                __m512i one = _mm512_set1_epi32((int)paired[p * dim + d + r]);
                for (int v = 0; v < vectors; v++) sums[r][v] = times(sums[r][v], wide[v], one);
            }
        }
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < vectors; v++)
                _mm512_storeu_ps(out + ((d + r) * vectors + v) * 16, sums[r][v]);
    }
}

/* out (keys, dim) += weights (keys, lanes) times rows (lanes, dim), fp32. */
INLINE void spread(const float *weights, const float *rows, int count, int lanes, int dim,
                   float *out) {
    for (int k = 0; k < count; k += 4) {
        for (int d = 0; d < dim; d += 64) {
            int wide = (dim - d < 64 ? dim - d : 64) / 16;
            __m512 sums[4][4];
            for (int r = 0; r < 4; r++)
                for (int v = 0; v < 4; v++) sums[r][v] = _mm512_setzero_ps();
            for (int n = 0; n < lanes; n++)
                for (int v = 0; v < wide; v++) {
                    __m512 row = _mm512_loadu_ps(rows + n * dim + d + 16 * v);
                    for (int r = 0; r < 4; r++)
                        sums[r][v] = _mm512_fmadd_ps(
                            _mm512_set1_ps(weights[(k + r) * lanes + n]), row, sums[r][v]);
                }
            for (int r = 0; r < 4 && k + r < count; r++)
                for (int v = 0; v < wide; v++) {
                    float *to = out + (k + r) * dim + d + 16 * v;
                    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[r][v]));
                }
        }
    }
}

INLINE void pair_weights(const float *weights, int count, int lanes, uint32_t *out) {
    for (int p = 0; p < (count + 1) / 2; p++) {
        const float *one = weights + 2 * p * lanes, *two = one + lanes;
        int both = 2 * p + 1 < count;
        for (int n = 0; n < lanes; n++)
            out[p * lanes + n] = narrow(one[n]) | (both ? (uint32_t)narrow(two[n]) << 16 : 0);
    }
}

/* Some queries, packed by pairs of numbers: (pairs of dim, lanes), and as fp32 rows if wanted. */
INLINE void pack(const Attention *a, const bf16 *tensor, int64_t row, int64_t group, int64_t from,
                 int64_t queries, int lanes, float scale, uint32_t *packed, float *rows) {
    int64_t each = a->heads / a->groups, dim = a->dim;
    memset(packed, 0, (size_t)(dim / 2 * lanes) * 4);
    if (rows) memset(rows, 0, (size_t)(dim * lanes) * 4);
    for (int n = 0; n < lanes && from + n < queries; n++) {
        int64_t token = (from + n) / each, head = group * each + (from + n) % each;
        const bf16 *numbers = tensor + ((row * a->tokens + token) * a->heads + head) * dim;
        for (int64_t p = 0; p < dim / 2; p++) {
            bf16 one = narrow(widen(numbers[2 * p]) * scale);
            bf16 two = narrow(widen(numbers[2 * p + 1]) * scale);
            packed[p * lanes + n] = one | (uint32_t)two << 16;
            if (rows) {
                rows[n * dim + 2 * p] = widen(one);
                rows[n * dim + 2 * p + 1] = widen(two);
            }
        }
    }
}

/* Keys of one block: of the context, or the row's own. */
typedef struct {
    const bf16 *key, *value;
    int64_t stride, first;
    int count, own, masked;
} Block;

/* How many blocks a task goes through; `block` is filled with the given one. */
INLINE int64_t block_of(const Attention *a, int64_t row, int64_t group, int64_t number,
                        Block *block) {
    int64_t length = a->context_key ? a->lengths[row] : 0;
    int64_t before = (length + KEYS - 1) / KEYS, all = before + (a->tokens + KEYS - 1) / KEYS;
    if (number >= all) return all;
    block->own = number >= before;
    block->first = (block->own ? number - before : number) * KEYS;
    int64_t rest = (block->own ? a->tokens : length) - block->first;
    block->count = (int)(rest < KEYS ? rest : KEYS);
    block->masked = block->own || a->window > 0;
    if (block->own) {
        int64_t start = ((row * a->tokens + block->first) * a->groups + group) * a->dim;
        block->stride = a->groups * a->dim;
        block->key = a->key + start;
        block->value = a->value + start;
    } else {
        int64_t start = row * a->context_row + group * a->context_head +
                        block->first * a->context_token;
        block->stride = a->context_token;
        block->key = a->context_key + start;
        block->value = a->context_value + start;
    }
    return all;
}

/* Hide later keys, and those that a window has left behind. */
INLINE void mask(const Attention *a, int64_t row, const Block *b, const float *token, int lanes,
                 float *scores) {
    float length = a->context_key ? (float)a->lengths[row] : 0;
    float window = a->window > 0 ? (float)a->window : 1e30f;
    for (int k = 0; k < b->count; k++) {
        float place = (float)(b->first + k) - (b->own ? 0 : length);
        for (int n = 0; n < lanes; n++) {
            float distance = token[n] - place;
            scores[k * lanes + n] =
                distance < 0 || distance >= window ? LOWEST : scores[k * lanes + n];
        }
    }
}

/* Whether no query of a task sees a block: its own keys that are all later. */
INLINE int unseen(const Block *b, int64_t last_token) { return b->own && b->first > last_token; }

INLINE void forward(const Attention *a, int64_t row, int64_t group, int64_t block, int64_t blocks,
                    Room *r, const int vectors) {
    const int lanes = vectors * 16, dim = (int)a->dim;
    int64_t each = a->heads / a->groups, queries = a->tokens * each, from = block * lanes;
    int64_t last = (from + lanes < queries ? from + lanes : queries) - 1;
    pack(a, a->query, row, group, from, queries, lanes, a->scale, r->query, NULL);
    memset(r->out, 0, (size_t)(dim * lanes) * 4);
    for (int n = 0; n < lanes; n++) {
        r->top[n] = LOWEST;
        r->sum[n] = 0;
        r->token[n] = (float)((from + n < queries ? from + n : queries - 1) / each);
    }
    Block b;
    for (int64_t i = 0; i < block_of(a, row, group, i, &b); i++) {
        if (unseen(&b, last / each)) break;
        score(b.key, b.stride, b.count, r->query, dim / 2, r->scores, vectors);
        if (b.masked) mask(a, row, &b, r->token, lanes, r->scores);
        float top[VECTORS * 16], less[VECTORS * 16];
        for (int n = 0; n < lanes; n++) top[n] = r->top[n];
        for (int k = 0; k < b.count; k++)
            for (int n = 0; n < lanes; n++) {
                float s = r->scores[k * lanes + n];
                top[n] = s > top[n] ? s : top[n];
            }
        for (int n = 0; n < lanes; n++) {
            less[n] = fast_exp(r->top[n] - top[n]);
            r->sum[n] *= less[n];
            r->top[n] = top[n];
        }
        for (int k = 0; k < b.count; k++)
            for (int n = 0; n < lanes; n++) {
                /* A key that is hidden from a query adds nothing, even where all before it were. */
                float s = r->scores[k * lanes + n];
                float p = s <= LOWEST ? 0 : fast_exp(s - top[n]);
                r->scores[k * lanes + n] = p;
                r->sum[n] += p;
            }
        for (int d = 0; d < dim; d++)
            for (int n = 0; n < lanes; n++) r->out[d * lanes + n] *= less[n];
        pair_weights(r->scores, b.count, lanes, r->weights);
        pair_rows(b.value, b.stride, b.count, dim, dim, r->value);
        gather(r->weights, r->value, (b.count + 1) / 2, dim, r->out, vectors);
    }
    float *sums = a->sums + ((row * a->groups + group) * blocks + block) * lanes;
    for (int n = 0; n < lanes; n++) sums[n] = r->top[n] + logf(r->sum[n]);
    for (int n = 0; n < lanes && from + n < queries; n++) {
        int64_t token = (from + n) / each, head = group * each + (from + n) % each;
        bf16 *to = a->out + ((row * a->tokens + token) * a->heads + head) * dim;
        float share_of = 1.0f / r->sum[n];
        for (int d = 0; d < dim; d++) to[d] = narrow(r->out[d * lanes + n] * share_of);
    }
}

INLINE void backward(const Attention *a, int64_t row, int64_t group, int64_t block, int64_t blocks,
                     Room *r, const int vectors) {
    const int lanes = vectors * 16, dim = (int)a->dim;
    int64_t each = a->heads / a->groups, queries = a->tokens * each, from = block * lanes;
    int64_t last = (from + lanes < queries ? from + lanes : queries) - 1;
    int64_t place = (row * a->groups + group) * blocks + block;
    const float *sums = a->sums + place * lanes;
    float *change_key = a->change_key + place * 2 * a->tokens * dim;
    float *change_value = change_key + a->tokens * dim;
    pack(a, a->query, row, group, from, queries, lanes, a->scale, r->query, r->query_rows);
    pack(a, a->change, row, group, from, queries, lanes, 1.0f, r->change, r->change_rows);
    memset(r->out, 0, (size_t)(dim * lanes) * 4);
    for (int n = 0; n < lanes; n++) {
        int64_t query = from + n < queries ? from + n : queries - 1;
        int64_t token = query / each, head = group * each + query % each;
        const bf16 *out = a->out + ((row * a->tokens + token) * a->heads + head) * dim;
        float along = 0;
        for (int d = 0; d < dim; d++) along += r->change_rows[n * dim + d] * widen(out[d]);
        r->along[n] = along;
        r->token[n] = (float)token;
    }
    Block b;
    for (int64_t i = 0; i < block_of(a, row, group, i, &b); i++) {
        if (unseen(&b, last / each)) break;
        score(b.key, b.stride, b.count, r->query, dim / 2, r->scores, vectors);
        if (b.masked) mask(a, row, &b, r->token, lanes, r->scores);
        score(b.value, b.stride, b.count, r->change, dim / 2, r->sloped, vectors);
        for (int k = 0; k < b.count; k++)
            for (int n = 0; n < lanes; n++) {
                float s = r->scores[k * lanes + n];
                float p = s <= LOWEST ? 0 : fast_exp(s - sums[n]);
                r->scores[k * lanes + n] = p;
                r->sloped[k * lanes + n] = p * (r->sloped[k * lanes + n] - r->along[n]);
            }
        pair_weights(r->sloped, b.count, lanes, r->slopes);
        pair_rows(b.key, b.stride, b.count, dim, dim, r->key);
        gather(r->slopes, r->key, (b.count + 1) / 2, dim, r->out, vectors);
        if (b.own) {
            spread(r->sloped, r->query_rows, b.count, lanes, dim, change_key + b.first * dim);
            spread(r->scores, r->change_rows, b.count, lanes, dim, change_value + b.first * dim);
        }
    }
    for (int n = 0; n < lanes && from + n < queries; n++) {
        int64_t token = (from + n) / each, head = group * each + (from + n) % each;
        bf16 *to = a->change_query + ((row * a->tokens + token) * a->heads + head) * dim;
        for (int d = 0; d < dim; d++) to[d] = narrow(r->out[d * lanes + n] * a->scale);
    }
}

/* One thread's scratch memory, cut into its parts. */
INLINE char *furnish(Room *r, int64_t dim, int64_t lanes) {
    int64_t sizes[] = {dim / 2 * lanes,  dim / 2 * lanes,  KEYS / 2 * lanes, KEYS / 2 * lanes,
                       KEYS / 2 * dim,   KEYS / 2 * dim,   KEYS * lanes,     KEYS * lanes,
                       dim * lanes,      dim * lanes,      dim * lanes,      lanes,
                       lanes,            lanes,            lanes};
    void **places[] = {(void **)&r->query,      (void **)&r->change,      (void **)&r->weights,
                       (void **)&r->slopes,     (void **)&r->value,       (void **)&r->key,
                       (void **)&r->scores,     (void **)&r->sloped,      (void **)&r->out,
                       (void **)&r->query_rows, (void **)&r->change_rows, (void **)&r->top,
                       (void **)&r->sum,        (void **)&r->token,       (void **)&r->along};
    int count = (int)(sizeof(sizes) / sizeof(*sizes));
    int64_t all = 0;
    for (int i = 0; i < count; i++) all += (sizes[i] * 4 + 63) / 64 * 64;
    char *memory = aligned_alloc(64, (size_t)all), *at = memory;
    if (!memory) return NULL;
    for (int i = 0; i < count; i++) {
        *places[i] = at;
        at += (sizes[i] * 4 + 63) / 64 * 64;
    }
    return memory;
}

#define WIDTH(n, f)                                                                                \
    case n: f(a, row, group, block, blocks, &room, n); break;
#define WIDTHS(f) WIDTH(1, f) WIDTH(2, f) WIDTH(3, f) WIDTH(4, f) WIDTH(5, f) WIDTH(6, f)

/* Both directions; 0 when done, 1 when there was no memory. */
static int run(const Attention *a, int back) {
    int64_t blocks, lanes;
    lanes = parted(a->tokens * (a->heads / a->groups), &blocks);
    int64_t tasks = a->rows * a->groups * blocks;
    int failed = 0;
#pragma omp parallel num_threads(a->threads)
    {
        Room room;
        char *memory = furnish(&room, a->dim, lanes);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(room.scores, 0, (size_t)(KEYS * lanes) * 4);
            memset(room.sloped, 0, (size_t)(KEYS * lanes) * 4);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; task++) {
            if (failed) continue;
            int64_t block = task % blocks, group = task / blocks % a->groups;
            int64_t row = task / blocks / a->groups;
            if (back) switch (lanes / 16) { WIDTHS(backward) }
            else switch (lanes / 16) { WIDTHS(forward) }
        }
        free(memory);
    }
    return failed;
}
#endif

EXPORT int engrain_attend(const Attention *a) {
#ifdef __AVX512BF16__
    return run(a, 0);
#else
    return a == NULL ? 2 : 2;
#endif
}

EXPORT int engrain_attend_back(const Attention *a) {
#ifdef __AVX512BF16__
    return run(a, 1);
#else
    return a == NULL ? 2 : 2;
#endif
}
