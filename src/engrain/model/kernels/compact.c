/* A Llama-like layer of a lesson, forward and backward, in one call each; see learn/compact.py.
 *
 * bf16 numbers, fp32 sums. What forward keeps and the scratch of both are cut from memory that the
 * caller gives; a call without memory tells how much is needed.
 */
#include "layer.h"
#include "lesson.h"
#include "matrix.h"

/* A linear map, and what becomes of it in backward. */
typedef struct {
    bf16 *weight;                   /* (outs, ins) */
    const bf16 *bias;               /* (outs), or NULL */
    bf16 *gradient, *bias_gradient; /* where they are wanted, or NULL */
    const Numbers *numbers;         /* how the weight moves at once, or NULL */
    int32_t rule, rounding;
    uint32_t key1, key2;
} Map;

typedef struct {
    Attention attention; /* sizes, context and threads; its other tensors are set here */
    Norm before, middle, query_norm, key_norm;
    Map query, key, value, out, gate, up, down;
    int64_t width, inner;
    const bf16 *x, *cos, *sin, *change;
    bf16 *y, *change_x; /* change_x may be NULL */
    char *kept, *room;
    int32_t activation, turns;
} Layer;

#ifdef __AVX512BF16__

/* Memory that is given out from its begin on; without any, only counted. */
typedef struct {
    char *base;
    int64_t used;
} Memory;

static void *take(Memory *memory, int64_t bytes) {
    char *found = memory->base ? memory->base + memory->used : NULL;
    memory->used += (bytes + 63) / 64 * 64;
    return found;
}

INLINE bf16 *take_numbers(Memory *memory, int64_t count) { return take(memory, count * 2); }

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct {
    int64_t tokens, query, key; /* all tokens; widths of queries and of keys */
    bf16 *first, *second;       /* queries and keys before their norms; NULL without */
    bf16 *queries, *keys, *values, *mixed, *middle, *gate, *up;
    float *sums;
} Kept;

static Kept keep(const Layer *l, char *base, int64_t *bytes) {
    const Attention *a = &l->attention;
    Memory memory = {base, 0};
    Kept k = {.tokens = a->rows * a->tokens, .query = a->heads * a->dim, .key = a->groups * a->dim};
    int64_t blocks, lanes = parted(a->tokens * (a->heads / a->groups), &blocks);
    k.queries = take_numbers(&memory, k.tokens * k.query);
    k.keys = take_numbers(&memory, k.tokens * k.key);
    k.values = take_numbers(&memory, k.tokens * k.key);
    k.mixed = take_numbers(&memory, k.tokens * k.query);
    k.middle = take_numbers(&memory, k.tokens * l->width);
    k.gate = take_numbers(&memory, k.tokens * l->inner);
    k.up = take_numbers(&memory, k.tokens * l->inner);
    k.sums = take(&memory, a->rows * a->groups * blocks * lanes * 4);
    if (l->query_norm.weight) k.first = take_numbers(&memory, k.tokens * k.query);
    if (l->key_norm.weight) k.second = take_numbers(&memory, k.tokens * k.key);
    if (bytes) *bytes = memory.used;
    return k;
}

static Attention attention_of(const Layer *l, const Kept *k) {
    Attention a = l->attention;
    a.query = k->queries;
    a.key = k->keys;
    a.value = k->values;
    a.out = k->mixed;
    a.sums = k->sums;
    return a;
}

static int forward(const Layer *l, int64_t *needed) {
    const int threads = l->attention.threads;
    const int64_t width = l->width, inner = l->inner;
    const Attention *sizes = &l->attention;
    Memory memory = {l->room, 0};
    Kept k = keep(l, l->kept, NULL);
    int64_t columns = most(most(width, k.query), inner), tokens = k.tokens;
    bf16 *normed = take_numbers(&memory, tokens * width);
    bf16 *product = take_numbers(&memory, tokens * inner);
    uint32_t *packed = take(&memory, packed_size(tokens, columns));
    if (needed) {
        *needed = memory.used;
        return 0;
    }
    bf16 *first = k.first ? k.first : k.queries, *second = k.second ? k.second : k.keys;
    norm(&l->before, l->x, normed, tokens, width, threads);
    pack_tokens(normed, tokens, width, packed, threads);
    map_forward(l->query.weight, l->query.bias, packed, tokens, k.query, width, NULL, first, threads);
    map_forward(l->key.weight, l->key.bias, packed, tokens, k.key, width, NULL, second, threads);
    map_forward(l->value.weight, l->value.bias, packed, tokens, k.key, width, NULL, k.values,
                threads);
    if (k.first)
        norm(&l->query_norm, first, k.queries, tokens * sizes->heads, sizes->dim, threads);
    if (k.second) norm(&l->key_norm, second, k.keys, tokens * sizes->groups, sizes->dim, threads);
    if (l->turns) {
        turn(k.queries, l->cos, l->sin, tokens, sizes->heads, sizes->dim, 1.0f, threads);
        turn(k.keys, l->cos, l->sin, tokens, sizes->groups, sizes->dim, 1.0f, threads);
    }
    Attention a = attention_of(l, &k);
    if (engrain_attend(&a)) return 1;
    pack_tokens(k.mixed, tokens, k.query, packed, threads);
    map_forward(l->out.weight, l->out.bias, packed, tokens, width, k.query, l->x, k.middle, threads);
    norm(&l->middle, k.middle, normed, tokens, width, threads);
    pack_tokens(normed, tokens, width, packed, threads);
    map_forward(l->gate.weight, l->gate.bias, packed, tokens, inner, width, NULL, k.gate, threads);
    map_forward(l->up.weight, l->up.bias, packed, tokens, inner, width, NULL, k.up, threads);
    gated(l->activation, tokens * inner, k.gate, k.up, product, threads);
    pack_tokens(product, tokens, inner, packed, threads);
    map_forward(l->down.weight, l->down.bias, packed, tokens, width, inner, k.middle, l->y, threads);
    return 0;
}

/* What backward works with. */
typedef struct {
    float *rows, *own;
    uint32_t *pairs;
    int64_t tokens;
    int threads;
} Work;

/* The gradients of a map, whose weight may take its step at once; 2 if they are not finite. */
static int own(const Map *map, const Work *w, const bf16 *into, int64_t outs, const bf16 *inward,
               int64_t ins) {
    if (map->bias_gradient) {
#pragma omp parallel for num_threads(w->threads) schedule(static)
        for (int64_t c = 0; c < outs; c++) {
            float sum = 0;
            for (int64_t t = 0; t < w->tokens; t++) sum += widen(into[t * outs + c]);
            map->bias_gradient[c] = narrow(sum);
        }
    }
    if (!map->numbers && !map->gradient) return 0;
    Outer o = {w->tokens, outs, ins, into, inward, map->numbers ? map->weight : map->gradient,
               w->pairs, map->numbers, map->numbers ? map->rule : FORM, map->rounding, w->threads,
               map->key1, map->key2};
    return engrain_outer_move(&o);
}

/* Gradients of own keys and values (tokens, groups, dim) from their parts by block of queries. */
static void gather_keys(const Attention *a, bf16 *keys, bf16 *values) {
    int64_t blocks, dim = a->dim;
    parted(a->tokens * (a->heads / a->groups), &blocks);
#pragma omp parallel for num_threads(a->threads) schedule(static) collapse(2)
    for (int64_t token = 0; token < a->rows * a->tokens; token++)
        for (int64_t group = 0; group < a->groups; group++)
            for (int kind = 0; kind < 2; kind++) {
                int64_t place = token / a->tokens * a->groups + group;
                const float *from = a->change_key + token % a->tokens * dim;
                bf16 *to = (kind ? values : keys) + (token * a->groups + group) * dim;
                for (int64_t d = 0; d < dim; d++) {
                    float sum = 0;
                    for (int64_t block = 0; block < blocks; block++)
                        sum += from[((place * blocks + block) * 2 + kind) * a->tokens * dim + d];
                    to[d] = narrow(sum);
                }
            }
}

/* 0 when done, 1 without memory, 2 + i if the gradient of map i is not finite. */
static int backward(const Layer *l, int64_t *needed) {
    const int threads = l->attention.threads;
    const int64_t width = l->width, inner = l->inner;
    Memory memory = {l->room, 0};
    Kept k = keep(l, l->kept, NULL);
    Attention a = attention_of(l, &k);
    const int64_t tokens = k.tokens, dim = a.dim;
    int64_t blocks;
    parted(a.tokens * (a.heads / a.groups), &blocks);
    int64_t parts = a.rows * a.groups * blocks * 2 * a.tokens * dim;
    int64_t pairs = most(outer_room(tokens, width, inner),
                         most(outer_room(tokens, width, k.query), outer_room(tokens, k.query, width)));
    bf16 *into_product = take_numbers(&memory, tokens * inner);
    bf16 *into_gate = take_numbers(&memory, tokens * inner);
    bf16 *into_up = take_numbers(&memory, tokens * inner);
    bf16 *normed = take_numbers(&memory, tokens * width);
    bf16 *into = take_numbers(&memory, tokens * width);
    bf16 *change = take_numbers(&memory, tokens * width);
    bf16 *into_mixed = take_numbers(&memory, tokens * k.query);
    bf16 *into_query = take_numbers(&memory, tokens * k.query);
    bf16 *into_key = take_numbers(&memory, tokens * k.key);
    bf16 *into_value = take_numbers(&memory, tokens * k.key);
    a.change_key = take(&memory, parts * 4);
    Work w = {take(&memory, (int64_t)threads * BACK_ROOM * 4),
              take(&memory, PARTS * most(width, dim) * 4), take(&memory, pairs * 4), tokens, threads};
    if (needed) {
        *needed = memory.used;
        return 0;
    }
    map_back((Way[]){{l->down.weight, l->change, width}}, 1, tokens, inner, into_product, w.rows,
             threads);
    /* The product of the gate is made again here, so the last map's gradient comes second. */
    gated_back(l->activation, tokens * inner, k.gate, k.up, into_gate, into_up, into_product,
               threads);
    if (own(&l->down, &w, l->change, width, into_product, inner)) return 8;
    norm(&l->middle, k.middle, normed, tokens, width, threads);
    map_back((Way[]){{l->gate.weight, into_gate, inner}, {l->up.weight, into_up, inner}}, 2, tokens,
             width, into, w.rows, threads);
    if (own(&l->gate, &w, into_gate, inner, normed, width)) return 6;
    if (own(&l->up, &w, into_up, inner, normed, width)) return 7;
    norm_back(&l->middle, k.middle, into, l->change, change, w.own, tokens, width, threads);
    map_back((Way[]){{l->out.weight, change, width}}, 1, tokens, k.query, into_mixed, w.rows,
             threads);
    if (own(&l->out, &w, change, width, k.mixed, k.query)) return 5;
    memset(a.change_key, 0, (size_t)parts * 4);
    a.change = into_mixed;
    a.change_query = into_query;
    if (engrain_attend_back(&a)) return 1;
    gather_keys(&a, into_key, into_value);
    if (l->turns) {
        turn(into_query, l->cos, l->sin, tokens, a.heads, dim, -1.0f, threads);
        turn(into_key, l->cos, l->sin, tokens, a.groups, dim, -1.0f, threads);
    }
    if (k.first)
        norm_back(&l->query_norm, k.first, into_query, NULL, into_query, w.own, tokens * a.heads,
                  dim, threads);
    if (k.second)
        norm_back(&l->key_norm, k.second, into_key, NULL, into_key, w.own, tokens * a.groups, dim,
                  threads);
    norm(&l->before, l->x, normed, tokens, width, threads);
    if (l->change_x) {
        Way ways[] = {{l->query.weight, into_query, k.query},
                      {l->key.weight, into_key, k.key},
                      {l->value.weight, into_value, k.key}};
        map_back(ways, 3, tokens, width, into, w.rows, threads);
        norm_back(&l->before, l->x, into, change, l->change_x, w.own, tokens, width, threads);
    }
    if (own(&l->query, &w, into_query, k.query, normed, width)) return 2;
    if (own(&l->key, &w, into_key, k.key, normed, width)) return 3;
    return own(&l->value, &w, into_value, k.key, normed, width) ? 4 : 0;
}

EXPORT void engrain_layer_sizes(const Layer *l, int64_t *kept, int64_t *room) {
    int64_t one, other;
    keep(l, NULL, kept);
    forward(l, &one);
    backward(l, &other);
    *room = most(one, other);
}

EXPORT int engrain_layer(const Layer *l) { return forward(l, NULL); }
EXPORT int engrain_layer_back(const Layer *l) { return backward(l, NULL); }

#else

EXPORT void engrain_layer_sizes(const Layer *l, int64_t *kept, int64_t *room) {
    *kept = *room = l == NULL;
}

EXPORT int engrain_layer(const Layer *l) { return l == NULL ? 1 : 1; }
EXPORT int engrain_layer_back(const Layer *l) { return l == NULL ? 1 : 1; }

#endif
