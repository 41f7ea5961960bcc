// How many multiply-adds one core does when nothing else holds it up: twelve sums that do not wait for each other, no memory.

#include <chrono>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int SUMS = 12;
constexpr long ROUNDS = 2000000;

[[maybe_unused]] double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

#define STEP(INSTRUCTION, SUM) asm volatile(INSTRUCTION " %1, %1, %0" : "+v"(SUM) : "v"(one));
#define FOUR_STEPS(INSTRUCTION, A, B, C, D) STEP(INSTRUCTION, A) STEP(INSTRUCTION, B) STEP(INSTRUCTION, C) STEP(INSTRUCTION, D)

// Billions of operations a second, a product and a sum counting as two. Each sum is a variable of its own: an array stays in memory.
#define MEASURE(INSTRUCTION, OPERATIONS)                                                       \
    __m512 a = one, b = one, c = one, d = one, e = one, f = one, g = one, h = one, i = one, j = one, k = one, l = one; \
    const double begin = now();                                                                \
    for (long n = 0; n < ROUNDS; ++n) {                                                        \
        FOUR_STEPS(INSTRUCTION, a, b, c, d)                                                    \
        FOUR_STEPS(INSTRUCTION, e, f, g, h)                                                    \
        FOUR_STEPS(INSTRUCTION, i, j, k, l)                                                    \
    }                                                                                          \
    return 1e-9 * OPERATIONS * SUMS * ROUNDS / (now() - begin)

extern "C" {

// 0 where the processor has no such instruction.
double peak_float32(void) {
#if defined(__AVX512F__)
    const __m512 one = _mm512_set1_ps(1.0f);
    MEASURE("vfmadd231ps", 32);
#else
    return 0.0;
#endif
}

double peak_bfloat16(void) {
#if defined(__AVX512BF16__)
    const __m512 one = (__m512)_mm512_set1_epi32(0x3f803f80);
    MEASURE("vdpbf16ps", 64);
#else
    return 0.0;
#endif
}
}
