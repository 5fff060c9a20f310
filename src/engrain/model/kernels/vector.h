/* Vectors of floats: one set of names for the processor's own width, four numbers at least. */
#ifndef ENGRAIN_VECTOR_H
#define ENGRAIN_VECTOR_H

#include "common.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

enum { LANES = 16 };
typedef __m512 vec;

INLINE vec vec_of(float number) { return _mm512_set1_ps(number); }
INLINE vec vec_load(const float *from) { return _mm512_loadu_ps(from); }
INLINE void vec_store(float *to, vec a) { _mm512_storeu_ps(to, a); }
INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE float vec_sum(vec a) { return _mm512_reduce_add_ps(a); }

INLINE vec vec_widened(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

INLINE vec vec_load_bf16(const bf16 *from) {
    return vec_widened(_mm256_loadu_si256((const __m256i *)from));
}

/* The first `count` numbers, fewer than a vector; the others are zero. */
INLINE vec vec_load_part(const float *from, int64_t count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1u), from);
}

#elif defined(__AVX2__) && defined(__FMA__)

enum { LANES = 8 };
typedef __m256 vec;

INLINE vec vec_of(float number) { return _mm256_set1_ps(number); }
INLINE vec vec_load(const float *from) { return _mm256_loadu_ps(from); }
INLINE void vec_store(float *to, vec a) { _mm256_storeu_ps(to, a); }
INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

INLINE float vec_sum(vec a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

INLINE vec vec_load_bf16(const bf16 *from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

#else

enum { LANES = 4 };
typedef float vec __attribute__((vector_size(16)));

INLINE vec vec_of(float number) { return (vec){number, number, number, number}; }
INLINE void vec_store(float *to, vec a) { memcpy(to, &a, sizeof a); }
INLINE vec vec_add(vec a, vec b) { return a + b; }
INLINE float vec_sum(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }

INLINE vec vec_load(const float *from) {
    vec found;
    memcpy(&found, from, sizeof found);
    return found;
}

INLINE vec vec_fma(vec a, vec b, vec c) {
#ifdef __FP_FAST_FMAF
    for (int i = 0; i < LANES; i++)
        c[i] = fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

INLINE vec vec_load_bf16(const bf16 *from) {
    return (vec){widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3])};
}

#endif

#if !(defined(__AVX512F__) && defined(__AVX512BW__))
/* The first `count` numbers, fewer than a vector; the others are zero. */
INLINE vec vec_load_part(const float *from, int64_t count) {
    float room[LANES] = {0};
    memcpy(room, from, (size_t)count * sizeof *room);
    return vec_load(room);
}
#endif

INLINE vec vec_load_bf16_part(const bf16 *from, int64_t count) {
    bf16 room[LANES] = {0};
    memcpy(room, from, (size_t)count * sizeof *room);
    return vec_load_bf16(room);
}

/* Numbers of either type as floats, from the index `at` on. */
INLINE vec vec_load_as(int type, const void *from, int64_t at) {
    return type == BFLOAT16 ? vec_load_bf16((const bf16 *)from + at)
                            : vec_load((const float *)from + at);
}

INLINE float load_as(int type, const void *from, int64_t at) {
    return type == BFLOAT16 ? widen(((const bf16 *)from)[at]) : ((const float *)from)[at];
}

INLINE int64_t size_of(int type) { return type == BFLOAT16 ? sizeof(bf16) : sizeof(float); }

#endif
