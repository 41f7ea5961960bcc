// Vectors of 16 numbers, and the functions of them that rollouts need; for processors with AVX-512 and, more slowly, for others.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

struct Bf16 {
    uint16_t bits;
};

inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
inline vf all(float x) { return x - vf{}; }

inline void copy(float* to, const float* from, int count) {
#if defined(__AVX512F__)
    for (int i = 0; i < count; i += LANES) {
        const __mmask16 wanted = count - i >= LANES ? 0xFFFF : (1u << (count - i)) - 1;
        _mm512_mask_storeu_ps(to + i, wanted, _mm512_maskz_loadu_ps(wanted, from + i));
    }
#else
    for (int i = 0; i < count; ++i) to[i] = from[i];
#endif
}

inline vf round_to_whole(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_roundscale_ps(0xFFFF, (__m512)x, 0);
#else
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
    return (x + magic) - magic;
#endif
}

// p 2^n for whole n. Not a number stays so: a comparison with it is false.
inline vf scale(vf p, vf n) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_scalef_ps(0xFFFF, (__m512)p, (__m512)n);
#else
    n = n > 126.0f ? all(126.0f) : n;
    n = n < -126.0f ? all(-126.0f) : n;
    const vi exponent = (__builtin_convertvector(n, vi) + 127) << 23;
    vf factor;
    std::memcpy(&factor, &exponent, sizeof factor);
    return p * factor;
#endif
}

template <bool PRECISE>
inline vf reciprocal(vf x) {
#if defined(__AVX512F__)
    const vf y = (vf)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);
    return PRECISE ? y * (2.0f - x * y) : y;
#else
    return 1.0f / x;
#endif
}

// 1 / (1 + 2^z) of N vectors, 2^f for |f| <= 1/2 by polynomials: to 2e-7, or to 1e-4 where the result is rounded to 8 bits anyway. Stage
// by stage: one vector after the other would wait for each of its own steps (a SiLU took 14 cycles, now 5; measured).
template <bool PRECISE, int N>
inline void logistic(const vf* z, vf* out) {
    vf n[N], f[N], p[N];
    for (int i = 0; i < N; ++i) {
        vf x = z[i];
        if (PRECISE) x = x > 126.0f ? all(126.0f) : x;  // Newton's step for 1 / infinity is not a number
        n[i] = round_to_whole(x), f[i] = x - n[i];
    }
    if (PRECISE) {
        for (int i = 0; i < N; ++i) p[i] = f[i] * 1.5403530e-4f + 1.3333558e-3f;
        for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 9.6181291e-3f;
        for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 5.5504109e-2f;
        for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 2.4022651e-1f;
        for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 6.9314718e-1f;
    } else {
        for (int i = 0; i < N; ++i) p[i] = f[i] * 5.50089287e-2f + 2.42210960e-1f;
        for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 6.93282928e-1f;
    }
    for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + 1.0f;
    for (int i = 0; i < N; ++i) out[i] = 1.0f + scale(p[i], n[i]);
    for (int i = 0; i < N; ++i) out[i] = reciprocal<PRECISE>(out[i]);
}

// SiLU in units in which exponentials are powers of 2: z = -x log2(e) becomes -log2(e) silu(x). The weights before and after take the
// factor (see native.py), and between two hidden layers it cancels.
template <bool PRECISE, int N>
inline void silu(vf* z) {
    constexpr int FEW = N < 4 ? N : 4;  // at a time, or registers run out
#pragma GCC unroll 16
    for (int i = 0; i < N; i += FEW) {
        vf share[FEW];
        logistic<PRECISE, FEW>(z + i, share);
        for (int j = 0; j < FEW; ++j) z[i + j] *= share[j];
    }
}

inline vf tanh(vf x) {
    const vf z = x * 2.88539008f;
    vf share;
    logistic<true, 1>(&z, &share);
    return 1.0f - 2.0f * share;
}

// Cody and Waite's reduction by pi/2 in three parts, then the polynomials of Cephes' sinf and cosf.
inline void sine_cosine(vf x, vf& sine, vf& cosine) {
    const vf n = round_to_whole(x * 0.636619772f);
    const vf y = ((x - n * 1.5703125f) - n * 4.83751297e-4f) - n * 7.5495496e-8f, z = y * y;
    const vf s = y + y * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    const vf c = 1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const vi quarter = __builtin_convertvector(n, vi) & 3;
    const vf even = (quarter & 1) ? c : s, odd = (quarter & 1) ? s : c;
    sine = (quarter & 2) ? -even : even;
    cosine = ((quarter + 1) & 2) ? -odd : odd;
}

inline void put(float* p, vf v) { store(p, v); }
inline void put(Bf16* p, vf v) {
#if defined(__AVX512BF16__)
    const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &half, sizeof half);
#else
    (void)p, (void)v;
#endif
}

inline int whole(int n) { return (n + LANES - 1) / LANES * LANES; }

}  // namespace
