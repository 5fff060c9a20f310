/* Rows of a matrix times a few vectors, where reading the matrix once is what takes the time.
 *
 * Each output is one sum in one order, whatever stands beside it: it depends neither on the number
 * of threads nor on how many vectors there are.
 */
#ifndef ENGRAIN_PRODUCT_H
#define ENGRAIN_PRODUCT_H

#include "vector.h"

/* Matrix rows and vectors that are multiplied at once; their sums stay in registers. */
enum { TILE_ROWS = 4, TILE_INPUTS = 4 };

/* Bytes by which reading runs ahead of multiplying. The processor's own prefetching loses its way
 * among several rows: without this a third of the bandwidth is lost, and above 8 KiB nothing more
 * is won (measured on Zen 4). */
enum { AHEAD = 16384 };

/* What multiplies what: floats; bf16 widened, and floats; bf16 and bf16, two at a time. */
enum { PLAIN, WIDENED, PAIRED };

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
enum { BF16_KIND = PAIRED };
#else
enum { BF16_KIND = WIDENED };
#endif

/* A linear map: `weight` is (rows, columns) with `stride` numbers from row to row. */
struct matrix {
    const void *weight, *bias;
    int64_t rows, columns, stride;
};

INLINE int kind_of(int type) { return type == BFLOAT16 ? BF16_KIND : PLAIN; }

/* Bytes of a number among the vectors. */
INLINE int64_t input_size(int kind) { return kind == PAIRED ? sizeof(bf16) : sizeof(float); }
INLINE int64_t weight_size(int kind) { return kind == PLAIN ? sizeof(float) : sizeof(bf16); }
INLINE int64_t step_of(int kind) { return kind == PAIRED ? 2 * LANES : LANES; }

/* Writes the number as a vector of a product holds it: rounded to the model's type. */
INLINE void put_input(int type, void *inputs, int64_t at, float number) {
    if (kind_of(type) == PLAIN)
        ((float *)inputs)[at] = number;
    else if (kind_of(type) == PAIRED)
        ((bf16 *)inputs)[at] = narrow(number);
    else
        ((float *)inputs)[at] = widen(narrow(number));
}

INLINE vec load_weights(int kind, const char *from, int64_t count) {
    int whole = count >= step_of(kind);
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    if (kind == PAIRED)
        return _mm512_castsi512_ps(
            whole ? _mm512_loadu_si512(from)
                  : _mm512_maskz_loadu_epi16((__mmask32)((1ull << count) - 1ull), from));
#endif
    if (kind == PLAIN)
        return whole ? vec_load((const float *)from) : vec_load_part((const float *)from, count);
    return whole ? vec_load_bf16((const bf16 *)from)
                 : vec_load_bf16_part((const bf16 *)from, count);
}

INLINE vec load_inputs(int kind, const char *from, int64_t count) {
    return load_weights(kind == WIDENED ? PLAIN : kind, from, count);
}

INLINE vec multiply(int kind, vec a, vec b, vec sum) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    if (kind == PAIRED)
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
    (void)kind;
    return vec_fma(a, b, sum);
}

/* Adds the products of `count` columns, one step of a tile at most. */
INLINE void tile_step(const int kind, const int rows, const int inputs, const char *weight,
                      int64_t stride, const char *input, int64_t input_stride, int64_t count,
                      const char *ahead, vec sums[TILE_ROWS][TILE_INPUTS]) {
    vec x[TILE_INPUTS];
#pragma GCC unroll 4
    for (int i = 0; i < inputs; i++)
        x[i] = load_inputs(kind, input + i * input_stride, count);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        // Line by line, as the rows lie in memory, whatever the order in which they are read here.
        __builtin_prefetch(ahead + r * step_of(kind) * weight_size(kind), 0, 2);
        vec w = load_weights(kind, weight + r * stride, count);
#pragma GCC unroll 4
        for (int i = 0; i < inputs; i++)
            sums[r][i] = multiply(kind, w, x[i], sums[r][i]);
    }
}

/* `rows` rows of the matrix times `inputs` vectors; strides are in bytes. */
INLINE void tile(const int kind, const int rows, const int inputs, const char *weight,
                 int64_t stride, const char *input, int64_t input_stride, int64_t columns,
                 const char *ahead, float *out, int64_t out_stride) {
    const int64_t step = step_of(kind);
    vec sums[TILE_ROWS][TILE_INPUTS];
    int64_t at = 0;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < inputs; i++)
            sums[r][i] = vec_of(0.0f);
    for (; at + step <= columns; at += step)
        tile_step(kind, rows, inputs, weight + at * weight_size(kind), stride,
                  input + at * input_size(kind), input_stride, step,
                  ahead + at * rows * weight_size(kind), sums);
    if (at < columns)
        tile_step(kind, rows, inputs, weight + at * weight_size(kind), stride,
                  input + at * input_size(kind), input_stride, columns - at, ahead, sums);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < inputs; i++)
            out[i * out_stride + r] = vec_sum(sums[r][i]);
}

INLINE void tiles(const int kind, const int rows, const char *weight, int64_t stride,
                  const char *input, int64_t input_stride, int64_t count, int64_t columns,
                  const char *ahead, float *out, int64_t out_stride) {
    int64_t i = 0;
    for (; i + TILE_INPUTS <= count; i += TILE_INPUTS)
        tile(kind, rows, TILE_INPUTS, weight, stride, input + i * input_stride, input_stride,
             columns, ahead, out + i * out_stride, out_stride);
    input += i * input_stride;
    out += i * out_stride;
    if (count - i == 3)
        tile(kind, rows, 3, weight, stride, input, input_stride, columns, ahead, out, out_stride);
    else if (count - i == 2)
        tile(kind, rows, 2, weight, stride, input, input_stride, columns, ahead, out, out_stride);
    else if (count - i == 1)
        tile(kind, rows, 1, weight, stride, input, input_stride, columns, ahead, out, out_stride);
}

INLINE void product_of(const int kind, const char *weight, int64_t stride, int64_t rows,
                       const char *next, const char *input, int64_t input_stride, int64_t count,
                       int64_t columns, float *out, int64_t out_stride) {
    stride *= weight_size(kind);
    input_stride *= input_size(kind);
    const int64_t size = rows * stride;
    for (int64_t r = 0; r < rows;) {
        const int64_t at = r * stride, then = at + AHEAD;
        const char *ahead = then < size ? weight + then : next + (then - size);
        if (r + TILE_ROWS <= rows) {
            tiles(kind, TILE_ROWS, weight + at, stride, input, input_stride, count, columns, ahead,
                  out + r, out_stride);
            r += TILE_ROWS;
        } else {
            tiles(kind, 1, weight + at, stride, input, input_stride, count, columns, ahead,
                  out + r, out_stride);
            r++;
        }
    }
}

/* out[i][r] = weight[r] . input[i] for `rows` rows and `count` vectors; strides in numbers.
 *
 * `next` is what is read after the matrix, which is fetched while its end is multiplied.
 */
static void product(int type, const void *weight, int64_t stride, int64_t rows, const void *next,
                    const void *input, int64_t input_stride, int64_t count, int64_t columns,
                    float *out, int64_t out_stride) {
    if (type == BFLOAT16)
        product_of(BF16_KIND, weight, stride, rows, next, input, input_stride, count, columns, out,
                   out_stride);
    else
        product_of(PLAIN, weight, stride, rows, next, input, input_stride, count, columns, out,
                   out_stride);
}

INLINE const char *row_of(int type, const struct matrix *matrix, int64_t row) {
    return (const char *)matrix->weight + row * matrix->stride * size_of(type);
}

/* Rows `from` to `to` of a matrix times vectors, with the bias; out[i][from] is the first. */
static void product_rows(int type, const struct matrix *matrix, int64_t from, int64_t to,
                         const void *next, const void *input, int64_t input_stride, int64_t count,
                         float *out, int64_t out_stride) {
    product(type, row_of(type, matrix, from), matrix->stride, to - from, next, input, input_stride,
            count, matrix->columns, out + from, out_stride);
    if (matrix->bias)
        for (int64_t i = 0; i < count; i++)
            for (int64_t r = from; r < to; r++)
                out[i * out_stride + r] += load_as(type, matrix->bias, r);
}

#endif
