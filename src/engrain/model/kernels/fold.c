/* The product of two thin matrices, of the same bits on every processor.
 *
 * Each number is a sum of `rank` products, added in order; every product and every sum is rounded
 * by itself: the compiler must not join them into one operation.
 */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#include "common.h"

/* Numbers of a row whose sums stay in registers, and rows that a thread takes at once. */
enum { WIDE = 64, ROWS = 16 };

INLINE void sums(int64_t count, int64_t rank, int64_t columns, const float *restrict left,
                 const float *restrict right, float *restrict out) {
    float found[WIDE];
    for (int64_t j = 0; j < count; j++) found[j] = left[0] * right[j];
    for (int64_t k = 1; k < rank; k++) {
        const float factor = left[k], *restrict row = right + k * columns;
        for (int64_t j = 0; j < count; j++) {
            float term = factor * row[j];
            found[j] = found[j] + term;
        }
    }
    memcpy(out, found, (size_t)count * sizeof *out);
}

/* out (rows, columns) = b (rows, rank) a (rank, columns). */
EXPORT void engrain_low_rank(int64_t rows, int64_t rank, int64_t columns, const float *b,
                             const float *a, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < rows; first += ROWS) {
        int64_t last = first + ROWS < rows ? first + ROWS : rows;
        for (int64_t at = 0; at < columns; at += WIDE)
            for (int64_t row = first; row < last; row++) {
                const float *left = b + row * rank, *right = a + at;
                float *to = out + row * columns + at;
                if (columns - at >= WIDE) sums(WIDE, rank, columns, left, right, to);
                else sums(columns - at, rank, columns, left, right, to);
            }
    }
}
