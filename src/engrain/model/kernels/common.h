/* What all kernels share: bf16 numbers, an exponential that vectorises, a share of the work. */
#ifndef ENGRAIN_COMMON_H
#define ENGRAIN_COMMON_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

/* Types of tensors, as Python names them to the kernels. */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE float widen(bf16 number) {
    union { uint32_t bits; float value; } both = {(uint32_t)number << 16};
    return both.value;
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
INLINE bf16 narrow(float number) {
    union { float value; uint32_t bits; } both = {number};
    uint32_t rounded = (both.bits + 0x7FFFu + ((both.bits >> 16) & 1u)) >> 16;
    return number != number ? (bf16)0x7FC0 : (bf16)rounded;
}

/* e^x to about 1e-7 of its value, without a call, so that loops over it vectorise. */
INLINE float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r + 1.0f);
    union { uint32_t bits; float value; } power = {(uint32_t)((int32_t)n + 127) << 23};
    return p * power.value;
}

/* tanh to about 3e-7 of its value, likewise. */
INLINE float fast_tanh(float x) {
    float z = x * x;
    float p = -5.895149662e-3f;
    p = fmaf(p, z, 2.079596402e-2f);
    p = fmaf(p, z, -5.378382785e-2f);
    p = fmaf(p, z, 1.333192410e-1f);
    p = fmaf(p, z, -3.333329800e-1f);
    float near = fmaf(p * z, x, x);
    float far = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
    return z < 0.36f ? near : far;
}

/* The part of `count` things, in blocks of `block`, that thread `me` of `all` does. */
INLINE void share(int64_t count, int64_t block, int me, int all, int64_t *from, int64_t *to) {
    int64_t blocks = (count + block - 1) / block;
    int64_t first = blocks * me / all, last = blocks * (me + 1) / all;
    *from = first * block;
    *to = last * block < count ? last * block : count;
}

INLINE int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

INLINE int thread_count(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

#endif
