/* One more token of each row through a Llama-like model, in one call.
 *
 * At few rows a token costs one reading of the weights, so all that is done here is arranged round
 * reading them once and without a pause. The threads go through the layers together. What is small
 * (norms, sums of what attention gives) each of them computes for itself, what is large they share
 * out by rows of a matrix or by chunks of keys, and they meet where one needs what another has
 * computed. No number depends on how many they are.
 *
 * Between layers numbers are fp32; what enters a matrix, and keys and values, are rounded to the
 * model's type, as in the model. Nothing is copied: all pointers are to the live parameters.
 */
#include "attend.h"

enum { SILU = 0, GELU_TANH = 1, GELU = 2 };
/* Rows of the output matrix whose logits a thread holds at once. */
enum { LOGITS = 64 };

struct layer {
    struct norm before, after, feed_before, feed_after;
    struct matrix query, key, value, out, gate, up, down;
    struct heads heads;
    int64_t activation;
};

struct model {
    int64_t type, width, layers;
    const struct layer *layer;
    struct norm norm;
    struct matrix head;
    float softcap;
};

struct step {
    int64_t rows, stop;
    const void *input;        /* (rows, width), the embedded tokens */
    const int64_t *positions; /* (rows,) */
    const struct rope *ropes;
    const struct cache *caches; /* one a layer */
    const void *bias;           /* (rows, stop), added to scores; or none */
    void *logits;               /* (rows, head.rows) */
    void *scratch;
    int64_t threads;
};

/* Where what all threads share and what is each one's own is kept. */
struct room {
    float *joint, *partial, *mixed, *gate, *up;
    char *inner;
    char *own;
    int64_t joint_stride, partial_stride, inner_stride, own_size;
    /* Offsets into a thread's own room. */
    int64_t x, y, y_stride, logits, attend;
    int64_t bytes;
};

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Takes `bytes` from the end of what is taken so far, in whole lines of the cache. */
INLINE int64_t take(int64_t *taken, int64_t bytes) {
    int64_t at = *taken;
    *taken += (bytes + 63) / 64 * 64;
    return at;
}

static struct room room_of(const struct model *model, const struct step *step) {
    int64_t joint = 0, partial = 0, inner = 0, widest = model->width, own = 0, attend = 0;
    int64_t chunks = chunks_of(step->stop), size = input_size(kind_of((int)model->type));
    for (int64_t i = 0; i < model->layers; i++) {
        const struct layer *layer = &model->layer[i];
        const struct heads *heads = &layer->heads;
        int64_t wide = heads->heads * heads->dim;
        joint = larger(joint, wide + 2 * heads->kv_heads * heads->dim);
        partial = larger(partial, heads->heads * chunks * partial_size(heads));
        inner = larger(inner, layer->gate.rows);
        widest = larger(widest, wide);
        attend = larger(attend, attend_size(heads));
    }
    struct room room = {.joint_stride = joint, .partial_stride = partial, .inner_stride = inner};
    room.y_stride = widest;
    room.x = take(&own, step->rows * model->width * (int64_t)sizeof(float));
    room.y = take(&own, step->rows * widest * size);
    room.logits = take(&own, step->rows * LOGITS * (int64_t)sizeof(float));
    room.attend = take(&own, attend);
    room.own_size = own;
    int64_t taken = 0, floats = step->rows * (int64_t)sizeof(float);
    char *base = step->scratch;
    room.joint = (float *)(base + take(&taken, floats * joint));
    room.partial = (float *)(base + take(&taken, floats * partial));
    room.mixed = (float *)(base + take(&taken, floats * model->width));
    room.gate = (float *)(base + take(&taken, floats * inner));
    room.up = (float *)(base + take(&taken, floats * inner));
    room.inner = base + take(&taken, step->rows * inner * size);
    room.own = base + take(&taken, step->threads * own);
    room.bytes = taken;
    return room;
}

/* The rows of a matrix that thread `me` of `all` multiplies. */
INLINE void own_rows(const struct matrix *matrix, int me, int all, int64_t *from, int64_t *to) {
    share(matrix->rows, TILE_ROWS, me, all, from, to);
}

/* Where those rows begin. */
INLINE const char *own_start(const int type, const struct matrix *matrix, int me, int all) {
    int64_t from, to;
    own_rows(matrix, me, all, &from, &to);
    return row_of(type, matrix, from);
}

/* A thread's part of the outputs of a map; `next` is what it reads afterwards. */
INLINE void map(const int type, const struct matrix *matrix, const void *input,
                int64_t input_stride, int64_t rows, float *out, int64_t out_stride,
                const char *next, int me, int all) {
    int64_t from, to;
    own_rows(matrix, me, all, &from, &to);
    product_rows(type, matrix, from, to, next, input, input_stride, rows, out, out_stride);
}

/* The norm of each row (none: the row itself), as a product takes it. */
INLINE void normed(const int type, const struct norm *norm, const float *x, int64_t width,
                   int64_t rows, void *y, int64_t y_stride) {
    for (int64_t row = 0, at = 0; row < rows; row++, x += width, at += y_stride) {
        if (!norm->weight) {
            for (int64_t i = 0; i < width; i++)
                put_input(type, y, at + i, x[i]);
            continue;
        }
        float scale = norm_scale(norm, x, width);
        for (int64_t i = 0; i < width; i++)
            put_input(type, y, at + i, x[i] * scale * norm_weight(type, norm, i));
    }
}

/* Adds what a part of a layer gave, or its norm, to what goes through the layers. */
INLINE void settle(const int type, const struct norm *norm, const float *mixed, int64_t width,
                   int64_t rows, float *x) {
    for (int64_t row = 0; row < rows; row++, x += width, mixed += width) {
        if (!norm->weight) {
            for (int64_t i = 0; i < width; i++)
                x[i] += mixed[i];
            continue;
        }
        float scale = norm_scale(norm, mixed, width);
        for (int64_t i = 0; i < width; i++)
            x[i] += mixed[i] * scale * norm_weight(type, norm, i);
    }
}

/* gate <- activation(gate) * up, as a product takes it. */
INLINE void activate(const int type, int64_t activation, const float *gate, const float *up,
                     int64_t count, void *out, int64_t at) {
    const float half_root = 0.7071067811865476f, root = 0.7978845608028654f;
    if (activation == SILU)
        for (int64_t i = 0; i < count; i++)
            put_input(type, out, at + i, gate[i] / (1.0f + fast_exp(-gate[i])) * up[i]);
    else if (activation == GELU_TANH)
        for (int64_t i = 0; i < count; i++) {
            float x = gate[i], inner = root * (x + 0.044715f * x * x * x);
            put_input(type, out, at + i, 0.5f * x * (1.0f + fast_tanh(inner)) * up[i]);
        }
    else
        for (int64_t i = 0; i < count; i++)
            put_input(type, out, at + i,
                      0.5f * gate[i] * (1.0f + erff(gate[i] * half_root)) * up[i]);
}

/* A thread's part of gate, up and what lies between. */
INLINE void feed(const int type, const struct layer *layer, const struct room *room, const void *y,
                 int64_t rows, int me, int all) {
    int64_t from, to;
    own_rows(&layer->gate, me, all, &from, &to);
    product_rows(type, &layer->gate, from, to, own_start(type, &layer->up, me, all), y,
                 room->y_stride, rows, room->gate, room->inner_stride);
    product_rows(type, &layer->up, from, to, own_start(type, &layer->down, me, all), y,
                 room->y_stride, rows, room->up, room->inner_stride);
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * room->inner_stride + from;
        activate(type, layer->activation, room->gate + at, room->up + at, to - from, room->inner,
                 at);
    }
}

/* A thread's part of the logits. */
INLINE void finish(const int type, const struct model *model, const struct step *step, const void *y,
                   int64_t y_stride, float *room, int me, int all) {
    const struct matrix *head = &model->head;
    int64_t from, to;
    own_rows(head, me, all, &from, &to);
    for (int64_t at = from; at < to; at += LOGITS) {
        int64_t end = at + LOGITS < to ? at + LOGITS : to;
        const char *next = row_of(type, head, end < to ? end : from);
        product_rows(type, head, at, end, next, y, y_stride, step->rows, room - at, LOGITS);
        for (int64_t row = 0; row < step->rows; row++)
            for (int64_t i = at; i < end; i++) {
                float logit = room[row * LOGITS + i - at];
                if (model->softcap > 0.0f)
                    logit = model->softcap * tanhf(logit / model->softcap);
                if (type == BFLOAT16)
                    ((bf16 *)step->logits)[row * head->rows + i] = narrow(logit);
                else
                    ((float *)step->logits)[row * head->rows + i] = logit;
            }
    }
}

INLINE void meet(void) {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

INLINE void run(const int type, const struct model *model, const struct step *step,
                const struct room *room, int me, int all) {
    const int64_t rows = step->rows, width = model->width, stride = room->y_stride;
    char *own = room->own + me * room->own_size;
    float *x = (float *)(own + room->x);
    void *y = own + room->y;
    for (int64_t i = 0; i < rows * width; i++)
        x[i] = load_as(type, step->input, i);
    for (int64_t i = 0; i < model->layers; i++) {
        const struct layer *layer = &model->layer[i];
        const struct matrix *after = i + 1 < model->layers ? &layer[1].query : &model->head;
        const int64_t keys = layer->query.rows, values = keys + layer->key.rows;
        const struct attention attention = {
            .rows = rows,
            .stop = step->stop,
            .heads = &layer->heads,
            .cache = &step->caches[i],
            .rope = layer->heads.rope < 0 ? 0 : &step->ropes[layer->heads.rope],
            .positions = step->positions,
            .bias = step->bias,
            .joint = room->joint,
            .joint_stride = room->joint_stride,
            .partial = room->partial,
            .partial_stride = room->partial_stride,
        };
        normed(type, &layer->before, x, width, rows, y, stride);
        map(type, &layer->query, y, stride, rows, room->joint, room->joint_stride,
            own_start(type, &layer->key, me, all), me, all);
        map(type, &layer->key, y, stride, rows, room->joint + keys, room->joint_stride,
            own_start(type, &layer->value, me, all), me, all);
        map(type, &layer->value, y, stride, rows, room->joint + values, room->joint_stride,
            own_start(type, &layer->out, me, all), me, all);
        meet();
        attend(type, &attention, own + room->attend, me, all);
        meet();
        merge(type, &attention, (float *)(own + room->attend), y, stride);
        map(type, &layer->out, y, stride, rows, room->mixed, width,
            own_start(type, &layer->gate, me, all), me, all);
        meet();
        settle(type, &layer->after, room->mixed, width, rows, x);
        normed(type, &layer->feed_before, x, width, rows, y, stride);
        feed(type, layer, room, y, rows, me, all);
        meet();
        map(type, &layer->down, room->inner, room->inner_stride, rows, room->mixed, width,
            own_start(type, after, me, all), me, all);
        meet();
        settle(type, &layer->feed_after, room->mixed, width, rows, x);
    }
    normed(type, &model->norm, x, width, rows, y, stride);
    finish(type, model, step, y, stride, (float *)(own + room->logits), me, all);
}

/* Bytes of scratch memory that a step needs. */
EXPORT int64_t engrain_decode_scratch(const struct model *model, const struct step *step) {
    return room_of(model, step).bytes;
}

/* Writes the logits and, into the caches, the keys and values of the new tokens. */
EXPORT void engrain_decode(const struct model *model, const struct step *step) {
    struct room room = room_of(model, step);
#ifdef _OPENMP
#pragma omp parallel num_threads((int)step->threads)
#endif
    {
        if (model->type == BFLOAT16)
            run(BFLOAT16, model, step, &room, thread_number(), thread_count());
        else
            run(FLOAT32, model, step, &room, thread_number(), thread_count());
    }
}
