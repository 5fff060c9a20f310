/* Attention of one new token a row to the keys and values of a cache.
 *
 * The cache is cut into chunks at fixed places. A task is one chunk of one key head of one row: it
 * leaves the largest score, the sum of the exponentials and the weighted sum of the values of each
 * query head that reads the key head, and all chunks are put together afterwards.
 */
#ifndef ENGRAIN_ATTEND_H
#define ENGRAIN_ATTEND_H

#include "product.h"

/* Tokens of a chunk; one of 128 numbers a head keeps keys and values in the first cache. */
enum { CHUNK = 128 };
/* Query heads and vectors of numbers whose weighted sums of values stay in registers. */
enum { VALUE_HEADS = 4, VALUE_VECTORS = 2 };

/* A norm by the root of the mean square; no weight: no norm. */
struct norm {
    const void *weight;
    int64_t size;
    float eps, plus; /* what is added to each weight: 0 or 1 */
};

struct heads {
    int64_t heads, kv_heads, dim;
    int64_t window; /* tokens that are seen; 0: all */
    int64_t rope;   /* index of the rotation; -1: none */
    float scale, softcap;
    struct norm query, key; /* of one head, or of all heads together */
};

/* Rotations by position: cosines (positions, dim), sines (positions, dim / 2). */
struct rope {
    const void *cos, *sin;
};

/* Keys and values (rows, kv_heads, capacity, dim); strides in numbers. */
struct cache {
    void *keys, *values;
    int64_t row, head;
};

struct attention {
    int64_t rows, stop;
    const struct heads *heads;
    const struct cache *cache;
    const struct rope *rope;
    const int64_t *positions;
    const void *bias;
    const float *joint; /* (rows, query, key and value of all heads) */
    float *partial;     /* (rows, heads, chunks, partial_size) */
    int64_t joint_stride, partial_stride;
};

INLINE int64_t chunks_of(int64_t stop) { return (stop + CHUNK - 1) / CHUNK; }

/* What a chunk leaves for a head: its weighted sum, its largest score, its sum. */
INLINE int64_t partial_size(const struct heads *heads) { return heads->dim + 2; }

/* Bytes of a thread's own room: turned heads as floats and as inputs of a product, and scores. */
INLINE int64_t attend_size(const struct heads *heads) {
    int64_t group = heads->heads / heads->kv_heads;
    return (2 * (group + 1) * heads->dim + group * CHUNK) * (int64_t)sizeof(float);
}

/* What the norm multiplies all of x with: one over the root of the mean square. */
INLINE float norm_scale(const struct norm *norm, const float *x, int64_t count) {
    vec sums[2] = {vec_of(0.0f), vec_of(0.0f)};
    int64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES)
        for (int k = 0; k < 2; k++) {
            vec part = vec_load(x + i + k * LANES);
            sums[k] = vec_fma(part, part, sums[k]);
        }
    float sum = vec_sum(vec_add(sums[0], sums[1]));
    for (; i < count; i++)
        sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)count + norm->eps);
}

INLINE float norm_weight(const int type, const struct norm *norm, int64_t i) {
    return load_as(type, norm->weight, i) + norm->plus;
}

/* Norm and rotation of `count` neighbouring heads of one row, of which `first` is the first. */
INLINE void turn(const int type, const struct attention *a, const struct norm *norm, const float *all,
                 int64_t all_heads, int64_t first, int64_t count, int64_t position, float *out) {
    const int64_t dim = a->heads->dim, half = dim / 2;
    const int whole = norm->weight && norm->size != dim;
    const float shared = whole ? norm_scale(norm, all, all_heads * dim) : 1.0f;
    for (int64_t h = 0; h < count; h++, out += dim) {
        const float *x = all + (first + h) * dim;
        if (norm->weight) {
            float scale = whole ? shared : norm_scale(norm, x, dim);
            int64_t at = whole ? (first + h) * dim : 0;
            for (int64_t i = 0; i < dim; i++)
                out[i] = x[i] * scale * norm_weight(type, norm, at + i);
        } else
            memcpy(out, x, (size_t)dim * sizeof *out);
        if (!a->rope)
            continue;
        for (int64_t i = 0; i < half; i++) {
            float sin = load_as(type, a->rope->sin, position * half + i);
            float left = out[i], right = out[i + half];
            out[i] = left * load_as(type, a->rope->cos, position * dim + i) - right * sin;
            out[i + half] =
                right * load_as(type, a->rope->cos, position * dim + half + i) + left * sin;
        }
    }
}

INLINE void put(int type, void *to, int64_t at, float number) {
    if (type == BFLOAT16)
        ((bf16 *)to)[at] = narrow(number);
    else
        ((float *)to)[at] = number;
}

/* Weighted sums of `vectors` vectors of numbers of the values, for `heads` heads. */
INLINE void value_tile(int type, const int heads, const int vectors, const void *values,
                       int64_t at, int64_t dim, int64_t tokens, const float *weights, float *out,
                       int64_t out_stride) {
    vec sums[VALUE_HEADS][VALUE_VECTORS];
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int k = 0; k < vectors; k++)
            sums[h][k] = vec_of(0.0f);
    for (int64_t j = 0; j < tokens; j++, at += dim) {
        vec value[VALUE_VECTORS];
#pragma GCC unroll 2
        for (int k = 0; k < vectors; k++)
            value[k] = vec_load_as(type, values, at + k * LANES);
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            vec weight = vec_of(weights[h * CHUNK + j]);
#pragma GCC unroll 2
            for (int k = 0; k < vectors; k++)
                sums[h][k] = vec_fma(weight, value[k], sums[h][k]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (int k = 0; k < vectors; k++)
            vec_store(out + h * out_stride + k * LANES, sums[h][k]);
}

INLINE void value_heads(int type, const int heads, const void *values, int64_t dim, int64_t tokens,
                        const float *weights, float *out, int64_t out_stride) {
    int64_t d = 0;
    for (; d + VALUE_VECTORS * LANES <= dim; d += VALUE_VECTORS * LANES)
        value_tile(type, heads, VALUE_VECTORS, values, d, dim, tokens, weights, out + d,
                   out_stride);
    for (; d + LANES <= dim; d += LANES)
        value_tile(type, heads, 1, values, d, dim, tokens, weights, out + d, out_stride);
    for (; d < dim; d++)
        for (int h = 0; h < heads; h++) {
            float sum = 0.0f;
            for (int64_t j = 0; j < tokens; j++)
                sum += weights[h * CHUNK + j] * load_as(type, values, j * dim + d);
            out[h * out_stride + d] = sum;
        }
}

/* Scores to exponentials; leaves the largest score and the sum. */
INLINE void soften(const int type, const struct heads *heads, const void *bias, int64_t bias_at,
                   int64_t tokens, float *scores, float *largest, float *total) {
    float most = -INFINITY, sum = 0.0f;
    for (int64_t j = 0; j < tokens; j++)
        scores[j] *= heads->scale;
    if (heads->softcap > 0.0f)
        for (int64_t j = 0; j < tokens; j++)
            scores[j] = heads->softcap * fast_tanh(scores[j] / heads->softcap);
    if (bias)
        for (int64_t j = 0; j < tokens; j++)
            scores[j] += load_as(type, bias, bias_at + j);
    for (int64_t j = 0; j < tokens; j++)
        most = scores[j] > most ? scores[j] : most;
    for (int64_t j = 0; j < tokens; j++) {
        // What is hidden counts for nothing at all, also where all of a chunk is.
        float weight = fast_exp(scores[j] - (most > -INFINITY ? most : 0.0f));
        scores[j] = scores[j] == -INFINITY ? 0.0f : weight;
    }
    for (int64_t j = 0; j < tokens; j++)
        sum += scores[j];
    *largest = most;
    *total = sum;
}

/* One chunk of one key head of one row. */
INLINE void attend_chunk(const int type, const struct attention *a, int64_t row, int64_t kv, int64_t chunk,
                         char *room) {
    const struct heads *heads = a->heads;
    const int64_t dim = heads->dim, group = heads->heads / heads->kv_heads, count = a->stop;
    const int64_t size = size_of(type), width = partial_size(heads);
    const int64_t chunks = chunks_of(count), end = (chunk + 1) * CHUNK;
    const int64_t seen = heads->window && heads->window < count ? count - heads->window : 0;
    const int64_t from = chunk * CHUNK > seen ? chunk * CHUNK : seen;
    const int64_t to = end < count ? end : count;
    float *partial = a->partial + row * a->partial_stride + (kv * group * chunks + chunk) * width;
    if (from >= to)
        return;
    const float *query = a->joint + row * a->joint_stride, *key = query + heads->heads * dim;
    const float *value = key + heads->kv_heads * dim + kv * dim;
    const int64_t begin = row * a->cache->row + kv * a->cache->head, position = a->positions[row];
    float *turned = (float *)room, *scores = turned + 2 * (group + 1) * dim;
    void *inputs = turned + (group + 1) * dim;
    if (to == count) {
        float *fresh = turned + group * dim;
        turn(type, a, &heads->key, key, heads->kv_heads, kv, 1, position, fresh);
        for (int64_t i = 0; i < dim; i++) {
            put(type, a->cache->keys, begin + (count - 1) * dim + i, fresh[i]);
            put(type, a->cache->values, begin + (count - 1) * dim + i, value[i]);
        }
    }
    turn(type, a, &heads->query, query, heads->heads, kv * group, group, position, turned);
    for (int64_t i = 0; i < group * dim; i++)
        put_input(type, inputs, i, turned[i]);
    const char *keys = (const char *)a->cache->keys + (begin + from * dim) * size;
    const char *values = (const char *)a->cache->values + (begin + from * dim) * size;
    product(type, keys, dim, to - from, values, inputs, dim, group, dim, scores, CHUNK);
    for (int64_t h = 0; h < group; h++) {
        float *own = partial + h * chunks * width;
        soften(type, heads, a->bias, row * count + from, to - from, scores + h * CHUNK, own + dim,
               own + dim + 1);
    }
    int64_t h = 0;
    for (; h + VALUE_HEADS <= group; h += VALUE_HEADS)
        value_heads(type, VALUE_HEADS, values, dim, to - from, scores + h * CHUNK,
                    partial + h * chunks * width, chunks * width);
    scores += h * CHUNK;
    partial += h * chunks * width;
    if (group - h == 3)
        value_heads(type, 3, values, dim, to - from, scores, partial, chunks * width);
    else if (group - h == 2)
        value_heads(type, 2, values, dim, to - from, scores, partial, chunks * width);
    else if (group - h == 1)
        value_heads(type, 1, values, dim, to - from, scores, partial, chunks * width);
}

/* The first chunk that any token of is seen. */
INLINE int64_t first_chunk(const struct attention *a) {
    int64_t window = a->heads->window;
    return window && window < a->stop ? (a->stop - window) / CHUNK : 0;
}

/* The tasks that thread `me` of `all` does; `room` is its own. */
INLINE void attend(const int type, const struct attention *a, char *room, int me, int all) {
    int64_t begin = first_chunk(a), chunks = chunks_of(a->stop) - begin, from, to;
    share(a->rows * a->heads->kv_heads * chunks, 1, me, all, &from, &to);
    for (int64_t task = from; task < to; task++) {
        int64_t head = task / chunks;
        attend_chunk(type, a, head / a->heads->kv_heads, head % a->heads->kv_heads,
                     begin + task % chunks, room);
    }
}

/* Puts the chunks together: what all heads of each row give, as a product takes it. */
INLINE void merge(const int type, const struct attention *a, float *sums, void *out,
                  int64_t out_stride) {
    const int64_t dim = a->heads->dim, width = partial_size(a->heads);
    const int64_t begin = first_chunk(a), chunks = chunks_of(a->stop);
    for (int64_t task = 0; task < a->rows * a->heads->heads; task++) {
        int64_t row = task / a->heads->heads, head = task % a->heads->heads;
        const float *partial = a->partial + row * a->partial_stride + head * chunks * width;
        float most = -INFINITY, total = 0.0f;
        for (int64_t c = begin; c < chunks; c++)
            most = partial[c * width + dim] > most ? partial[c * width + dim] : most;
        for (int64_t d = 0; d < dim; d++)
            sums[d] = 0.0f;
        for (int64_t c = begin; c < chunks; c++) {
            const float *own = partial + c * width;
            float part = fast_exp(own[dim] - most);
            total += own[dim + 1] * part;
            for (int64_t d = 0; d < dim; d++)
                sums[d] += own[d] * part;
        }
        for (int64_t d = 0; d < dim; d++)
            put_input(type, out, row * out_stride + head * dim + d, sums[d] / total);
    }
}

#endif
