/* Products of a lesson's tokens with a layer's matrices: bf16 numbers, fp32 sums.
 *
 * Every output is one sum in one order, computed by one thread. Products of pairs take two numbers
 * of the dimension that is summed over, so tensors are packed as pairs along it; the side that is
 * read once stays as it lies and is broadcast pair by pair.
 */
#ifndef ENGRAIN_MATRIX_H
#define ENGRAIN_MATRIX_H

#include "vector.h"

#ifdef __AVX512BF16__

/* Most vectors of a tile; with four rows their sums fill the registers. */
#define VECTORS 6
#define WIDE (16 * VECTORS)

INLINE __m512 times(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

INLINE uint32_t pair_at(const bf16 *numbers) {
    uint32_t pair;
    memcpy(&pair, numbers, 4);
    return pair;
}

/* Blocks of some lanes that are done at once, and lanes of each, a multiple of 16. */
INLINE int64_t parted(int64_t lanes, int64_t *blocks) {
    int64_t vectors = (lanes + 15) / 16;
    *blocks = (vectors + VECTORS - 1) / VECTORS;
    return (vectors + *blocks - 1) / *blocks * 16;
}

/* sums (rows, vectors) += rows (rows, 2 pairs) times packed (pairs, lanes); a row's pairs lie side
 * by side. `ahead` is what is read next, `rows` lines of it for 16 pairs, or NULL. */
INLINE void accumulate(const bf16 *const *row, const uint32_t *packed, int64_t stride,
                       int64_t pairs, const char *ahead, __m512 sums[][VECTORS], const int rows,
                       const int vectors) {
    for (int64_t p = 0; p < pairs; p++) {
        __m512i wide[VECTORS];
        if (ahead && p % 16 == 0)
            for (int r = 0; r < rows; r++) __builtin_prefetch(ahead + (p * rows + r * 16) * 4, 0, 2);
#pragma GCC unroll 6
        for (int v = 0; v < vectors; v++)
            wide[v] = _mm512_loadu_si512(packed + p * stride + v * 16);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            __m512i one = _mm512_set1_epi32((int)pair_at(row[r] + 2 * p));
#pragma GCC unroll 6
            for (int v = 0; v < vectors; v++) sums[r][v] = times(sums[r][v], wide[v], one);
        }
    }
}

/* out (rows, lanes) = rows of a matrix, the last repeated where there are too few, times packed. */
INLINE void rows_times(const bf16 *matrix, int64_t stride, int64_t count, const uint32_t *packed,
                       int64_t pairs, const char *ahead, float *out, const int rows,
                       const int vectors) {
    __m512 sums[12][VECTORS];
    const bf16 *row[12];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        row[r] = matrix + (r < count ? r : count - 1) * stride;
#pragma GCC unroll 6
        for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();
    }
    accumulate(row, packed, vectors * 16, pairs, ahead, sums, rows, vectors);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 6
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(out + (r * vectors + v) * 16, sums[r][v]);
}

/* The mask of the first `count` of 16 or 32 numbers. */
INLINE __mmask16 first16(int64_t count) {
    return count >= 16 ? (__mmask16)-1 : count > 0 ? (__mmask16)((1u << count) - 1) : 0;
}

INLINE __mmask32 first32(int64_t count) {
    return count >= 32 ? (__mmask32)-1 : count > 0 ? (__mmask32)((1u << count) - 1) : 0;
}

/* Sixteen vectors become their columns. */
INLINE void transpose(__m512i r[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            a[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            a[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_i32x4(a[j], a[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(a[j], a[j + 8], 0xdd);
    }
}

/* Rows a and b, two by two along their columns: 32 numbers of each become 32 pairs. */
INLINE void interleave(__m512i a, __m512i b, uint32_t *out) {
    static const uint16_t order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_loadu_si512(order);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
    _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(a, high, b));
}

/* Rows (count, columns) as pairs of neighbouring rows: (pairs, width); missing numbers are 0. */
INLINE void pair_rows(const bf16 *rows, int64_t stride, int64_t count, int64_t columns,
                      int64_t width, uint32_t *out) {
    for (int64_t p = 0; p < (count + 1) / 2; p++) {
        const bf16 *one = rows + 2 * p * stride, *two = one + stride;
        for (int64_t c = 0; c < width; c += 32) {
            __mmask32 there = first32(columns - c), both = 2 * p + 1 < count ? there : 0;
            uint32_t *to = out + p * width + c;
            __m512i a = _mm512_maskz_loadu_epi16(there, one + c);
            __m512i b = _mm512_maskz_loadu_epi16(both, two + c);
            if (width - c >= 32)
                interleave(a, b, to);
            else {
                uint32_t last[32];
                interleave(a, b, last);
                memcpy(to, last, (size_t)(width - c) * 4);
            }
        }
    }
}

/* Rows of a matrix that a thread takes at once: whole tiles of each height, and whole vectors. */
#define CHUNK 48

/* Bytes of tokens (tokens, columns), packed for products with rows of matrices. */
INLINE int64_t packed_size(int64_t tokens, int64_t columns) {
    int64_t blocks, lanes = parted(tokens, &blocks);
    return blocks * lanes * (columns / 2) * 4;
}

/* Tokens in lanes: (blocks, pairs of columns, lanes). */
static inline void pack_tokens(const bf16 *x, int64_t tokens, int64_t columns, uint32_t *out,
                        int threads) {
    int64_t blocks, lanes = parted(tokens, &blocks), pairs = columns / 2, parts = (pairs + 15) / 16;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t p = part * 16;
            for (int64_t n = 0; n < lanes; n += 16) {
                __m512i r[16];
                for (int i = 0; i < 16; i++) {
                    int64_t token = block * lanes + n + i;
                    __mmask32 there = token < tokens ? first32(columns - 2 * p) : 0;
                    r[i] = _mm512_maskz_loadu_epi16(there, x + token * columns + 2 * p);
                }
                transpose(r);
                uint32_t *to = out + (block * pairs + p) * lanes + n;
                for (int i = 0; i < 16 && p + i < pairs; i++)
                    _mm512_storeu_si512(to + i * lanes, r[i]);
            }
        }
}

/* Sums (rows, lanes) as bf16 tokens (lanes, outs), with the bias and on top of `beside`. */
INLINE void emit(const float *sums, int64_t lanes, int64_t token, int64_t tokens, int64_t row,
                 int64_t outs, const bf16 *bias, const bf16 *beside, bf16 *out) {
    for (int64_t r = 0; r < CHUNK && row + r < outs; r += 16) {
        __mmask16 there = first16(outs - row - r);
        __m512 more = _mm512_setzero_ps();
        if (bias) more = vec_widened(_mm256_maskz_loadu_epi16(there, bias + row + r));
        for (int64_t n = 0; n < lanes && token + n < tokens; n += 16) {
            __m512i columns[16];
            for (int i = 0; i < 16; i++)
                columns[i] = _mm512_loadu_si512(sums + (r + i) * lanes + n);
            transpose(columns);
            for (int i = 0; i < 16 && token + n + i < tokens; i++) {
                int64_t at = (token + n + i) * outs + row + r;
                __m512 sum = _mm512_add_ps((__m512)columns[i], more);
                if (beside)
                    sum = _mm512_add_ps(sum, vec_widened(_mm256_maskz_loadu_epi16(there, beside + at)));
                _mm256_mask_storeu_epi16(out + at, there, (__m256i)_mm512_cvtneps_pbh(sum));
            }
        }
    }
}

#define TILES(rows, n)                                                                             \
    for (int64_t r = 0; r < count; r += rows)                                                      \
        rows_times(first + r * ins, ins, count - r, from, ins / 2,                                 \
                   (const char *)(first + (r + rows) * ins), sums + r * lanes, rows, n);           \
    break;

/* out (tokens, outs) = packed tokens times the matrix (outs, ins), plus bias (outs) and `beside`
 * (tokens, outs) where they are there. */
static inline void map_forward(const bf16 *weight, const bf16 *bias, const uint32_t *packed,
                        int64_t tokens, int64_t outs, int64_t ins, const bf16 *beside, bf16 *out,
                        int threads) {
    int64_t blocks, lanes = parted(tokens, &blocks), chunks = (outs + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t block = 0; block < blocks; block++) {
            float sums[CHUNK * WIDE] __attribute__((aligned(64)));
            int64_t row = chunk * CHUNK, count = outs - row < CHUNK ? outs - row : CHUNK;
            const uint32_t *from = packed + block * (ins / 2) * lanes;
            const bf16 *first = weight + row * ins;
            switch (lanes / 16) {
            case 1: TILES(12, 1)
            case 2: TILES(12, 2)
            case 3: TILES(8, 3)
            case 4: TILES(6, 4)
            case 5: TILES(4, 5)
            case 6: TILES(4, 6)
            }
            emit(sums, lanes, block * lanes, tokens, row, outs, bias, beside, out);
        }
}
#undef TILES

/* A matrix (outs, ins), and the gradient (tokens, outs) of what it gave. */
typedef struct {
    const bf16 *weight, *change;
    int64_t outs;
} Way;

/* Pairs of rows that are packed at once, and tokens that use them. */
#define PACKED 256
#define HELD 256

/* Floats of scratch that a thread of map_back needs. */
#define BACK_ROOM (PACKED * WIDE + HELD * WIDE)

/* out (tokens, ins) = the gradient of what went into some maps, summed over them. */
static inline void map_back(const Way *ways, int count, int64_t tokens, int64_t ins, bf16 *out,
                     float *room, int threads) {
    int64_t panels = (ins + WIDE - 1) / WIDE, blocks = (tokens + HELD - 1) / HELD;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t block = 0; block < blocks; block++) {
            uint32_t *packed = (uint32_t *)(room + thread_number() * BACK_ROOM);
            float *held = (float *)packed + PACKED * WIDE;
            int64_t column = panel * WIDE, token = block * HELD;
            int64_t rest = tokens - token < HELD ? tokens - token : HELD;
            memset(held, 0, (size_t)((rest + 3) / 4 * 4 * WIDE) * 4);
            for (int i = 0; i < count; i++)
                for (int64_t row = 0; row < ways[i].outs; row += 2 * PACKED) {
                    int64_t outs = ways[i].outs, rows = outs - row;
                    if (rows > 2 * PACKED) rows = 2 * PACKED;
                    pair_rows(ways[i].weight + row * ins + column, ins, rows, ins - column,
                              WIDE, packed);
                    for (int64_t t = 0; t < rest; t += 4) {
                        __m512 sums[4][VECTORS];
                        const bf16 *from[4];
                        for (int r = 0; r < 4; r++) {
                            int64_t at = token + (t + r < rest ? t + r : rest - 1);
                            from[r] = ways[i].change + at * outs + row;
                            for (int v = 0; v < VECTORS; v++)
                                sums[r][v] = _mm512_loadu_ps(held + (t + r) * WIDE + v * 16);
                        }
                        accumulate(from, packed, WIDE, rows / 2, NULL, sums, 4, VECTORS);
                        for (int r = 0; r < 4; r++)
                            for (int v = 0; v < VECTORS; v++)
                                _mm512_storeu_ps(held + (t + r) * WIDE + v * 16, sums[r][v]);
                    }
                }
            for (int64_t t = 0; t < rest; t++)
                for (int v = 0; v < VECTORS; v++) {
                    __mmask16 there = first16(ins - column - v * 16);
                    __m512 sum = _mm512_loadu_ps(held + t * WIDE + v * 16);
                    _mm256_mask_storeu_epi16(out + (token + t) * ins + column + v * 16, there,
                                             (__m256i)_mm512_cvtneps_pbh(sum));
                }
        }
}

#endif
#endif
