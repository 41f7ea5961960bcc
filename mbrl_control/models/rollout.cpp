// Whole rollouts of an ensemble of small networks on one core: every layer of a few rows at a time stays in the cache.
//
// Compiled on the machine that runs it (see native.py). Shapes, padding and order of the packed arrays are those of native.py:
// P(n) is n rounded up to whole vectors of 16. A row is a candidate; ROWS of them share each load of a weight.

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
constexpr int MAX_DEPTH = 8;
constexpr int MAX_WIDTH = 1024;
constexpr int MAX_INPUTS = 256;
constexpr int GROUP = 4;  // blocks of rows that a member's weights are used for before the next member's
#if defined(__AVX512F__)
constexpr int ROWS = 8, COLUMNS = 2;  // measured: 6 x 4 and 8 x 3 make the compiler spill sums
#else
constexpr int ROWS = 4, COLUMNS = 1;
#endif

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

// 2^x by the series of 2^f, |f| <= 1/2: to 2e-7, or to 4e-5 where the result is rounded to 8 bits anyway.
template <bool PRECISE>
inline vf exp2(vf x) {
    if (PRECISE) x = x > 126.0f ? all(126.0f) : x;  // Newton's step for the reciprocal of infinity is not a number
    const vf n = round_to_whole(x), f = x - n;
    vf p = all(9.6181291e-3f);
    if (PRECISE) p = (f * 1.5403530e-4f + 1.3333558e-3f) * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    return scale(p * f + 1.0f, n);
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

template <bool PRECISE>
inline vf silu(vf x) {
    return x * reciprocal<PRECISE>(1.0f + exp2<PRECISE>(x * -1.44269504f));
}

inline vf tanh(vf x) { return 1.0f - 2.0f * reciprocal<true>(1.0f + exp2<true>(x * 2.88539008f)); }

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

template <int N>
using Sums = vf[ROWS][N];

// sums += rows [ROWS, depth] of a times N vectors of columns of b [depth, width]
template <int N>
inline void multiply(Sums<N>& sums, const float* a, int stride, int depth, const float* b, int width) {
    for (int k = 0; k < depth; ++k) {
        vf column[N];
        for (int j = 0; j < N; ++j) column[j] = load(b + (size_t)k * width + LANES * j);
        for (int r = 0; r < ROWS; ++r) {
            const vf value = all(a[(size_t)r * stride + k]);
            for (int j = 0; j < N; ++j) sums[r][j] += value * column[j];
        }
    }
}

// The same in bfloat16: depth counts single values, b holds pairs of them [depth / 2, width, 2].
template <int N>
inline void multiply(Sums<N>& sums, const Bf16* a, int stride, int depth, const Bf16* b, int width) {
    for (int k = 0; k < depth / 2; ++k) {
#if defined(__AVX512BF16__)
        __m512bh column[N];
        for (int j = 0; j < N; ++j) column[j] = (__m512bh)_mm512_loadu_si512(b + 2 * ((size_t)k * width + LANES * j));
        for (int r = 0; r < ROWS; ++r) {
            int32_t pair;
            std::memcpy(&pair, a + (size_t)r * stride + 2 * k, 4);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < N; ++j) sums[r][j] = (vf)_mm512_dpbf16_ps((__m512)sums[r][j], value, column[j]);
        }
#else
        (void)sums, (void)a, (void)stride, (void)b, (void)width;
#endif
    }
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

template <class From, class To, int N>
void layer_columns(const From* in, int stride, int depth, const From* weight, const float* bias, int width, To* out, int to) {
    Sums<N> sums;
    for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = load(bias + LANES * j);
    multiply<N>(sums, in, stride, depth, weight, width);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) put(out + (size_t)r * to + LANES * j, silu<sizeof(To) == 4>(sums[r][j]));
}

inline const float* columns(const float* weight, int from) { return weight + from; }
inline const Bf16* columns(const Bf16* weight, int from) { return weight + 2 * from; }

// out [ROWS, width] = silu(in [ROWS, depth] @ weight + bias)
template <class From, class To>
void layer(const From* in, int stride, int depth, const From* weight, const float* bias, int width, To* out, int to) {
    int c = 0;
    for (; c + COLUMNS * LANES <= width; c += COLUMNS * LANES)
        layer_columns<From, To, COLUMNS>(in, stride, depth, columns(weight, c), bias + c, width, out + c, to);
    for (; c < width; c += LANES)
        layer_columns<From, To, 1>(in, stride, depth, columns(weight, c), bias + c, width, out + c, to);
}

// next [ROWS, N vectors] = offset + features @ base + hidden @ last. Halves of the depth have sums of their own: a single chain of
// additions for each row would wait for itself.
template <class T, int N>
void output(const float* features, int inputs, const float* base, const T* hidden, int stride, int deep, const T* last, const float* offset,
            int width, float* next) {
    Sums<N> sums, more;
    for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = load(offset + LANES * j), more[r][j] = vf{};
    multiply<N>(more, features, MAX_INPUTS + LANES, inputs, base, width);
    multiply<N>(sums, hidden, stride, deep, last, width);
    for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < N; ++j) store(next + (size_t)r * width + LANES * j, sums[r][j] + more[r][j]);
}

struct Network {
    int32_t members, state, action, angles, rates, depth, bf16;
    int32_t width[MAX_DEPTH];   // of the hidden layers, whole vectors
    const int32_t* angle;       // [angles] which states
    const int32_t* rate;        // [rates]
    float sharpness;            // 1 / friction
    const float* first;         // [E, I, width 0]
    const float* bias;          // [E, sum of widths]
    const void* hidden;         // [E, sum of width i * width i+1]
    const void* last;           // [E, width last, P(S)]
    const float* base;          // [E, I, P(S)]
    const float* offset;        // [E, P(S)]
};

struct Scratch {
    int stride;  // of rows in a and b: not a power of two, or they would all want the same places of the cache
    alignas(64) float features[ROWS][MAX_INPUTS + LANES];
    alignas(64) float angle[3][ROWS * MAX_INPUTS];
    alignas(64) float a[ROWS * (MAX_WIDTH + 2 * LANES)];
    alignas(64) float b[ROWS * (MAX_WIDTH + 2 * LANES)];
};

inline int whole(int n) { return (n + LANES - 1) / LANES * LANES; }

// The features of Encoding: [state, sines, cosines, action, tanh(rate / friction)]
void encode(const Network& net, const float* const* state, const float* const* action, Scratch& s) {
    const int after_state = net.state + 2 * net.angles, after_action = after_state + net.action;
    for (int r = 0; r < ROWS; ++r) {
        float* f = s.features[r];
        copy(f, state[r], net.state);
        copy(f + after_state, action[r], net.action);
        for (int i = 0; i < net.angles; ++i) s.angle[0][r * net.angles + i] = state[r][net.angle[i]];
    }
    for (int i = 0; i < ROWS * net.angles; i += LANES) {
        vf sine, cosine;
        sine_cosine(load(s.angle[0] + i), sine, cosine);
        store(s.angle[1] + i, sine);
        store(s.angle[2] + i, cosine);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < net.angles; ++i) {
            s.features[r][net.state + i] = s.angle[1][r * net.angles + i];
            s.features[r][net.state + net.angles + i] = s.angle[2][r * net.angles + i];
        }
    if (!net.rates) return;
    for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < net.rates; ++i) s.angle[0][r * net.rates + i] = net.sharpness * state[r][net.rate[i]];
    for (int i = 0; i < ROWS * net.rates; i += LANES) store(s.angle[1] + i, tanh(load(s.angle[0] + i)));
    for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < net.rates; ++i) s.features[r][after_action + i] = s.angle[1][r * net.rates + i];
}

// One step of ROWS rows by member e: next [ROWS, P(S)].
template <class T>
void step(const Network& net, int e, const float* const* state, const float* const* action, float* next, Scratch& s) {
    const int inputs = net.state + 2 * net.angles + net.action + net.rates, out = whole(net.state);
    int total = 0, product = 0;
    for (int l = 0; l < net.depth; ++l) {
        total += net.width[l];
        if (l) product += net.width[l - 1] * net.width[l];
    }
    encode(net, state, action, s);
    const float* bias = net.bias + (size_t)e * total;
    T *now = reinterpret_cast<T*>(s.a), *then = reinterpret_cast<T*>(s.b);
    layer<float, T>(s.features[0], MAX_INPUTS + LANES, inputs, net.first + (size_t)e * inputs * net.width[0], bias, net.width[0], now, s.stride);
    const T* weight = static_cast<const T*>(net.hidden) + (size_t)e * product;
    for (int l = 1; l < net.depth; ++l) {
        bias += net.width[l - 1];
        layer<T, T>(now, s.stride, net.width[l - 1], weight, bias, net.width[l], then, s.stride);
        weight += (size_t)net.width[l - 1] * net.width[l];
        T* swap = now;
        now = then, then = swap;
    }
    const int deep = net.width[net.depth - 1];
    const T* last = static_cast<const T*>(net.last) + (size_t)e * deep * out;
    const float* base = net.base + (size_t)e * inputs * out;
    const float* offset = net.offset + (size_t)e * out;
    int c = 0;
    for (; c + 2 * LANES <= out; c += 2 * LANES)
        output<T, 2>(s.features[0], inputs, base + c, now, s.stride, deep, columns(last, c), offset + c, out, next + c);
    if (c < out) output<T, 1>(s.features[0], inputs, base + c, now, s.stride, deep, columns(last, c), offset + c, out, next + c);
}

template <class T>
void unroll(const Network& net, const float* start, int start_stride, const float* actions, int rows, int horizon, int mean, float* path) {
    Scratch scratch;
    std::memset(scratch.angle, 0, sizeof scratch.angle);
    scratch.stride = 0;
    for (int l = 0; l < net.depth; ++l) scratch.stride = net.width[l] > scratch.stride ? net.width[l] : scratch.stride;
    scratch.stride += 2 * LANES;
    const int size = net.state, out = whole(size), particles = mean ? 1 : net.members;
    const size_t row_size = (size_t)(horizon + 1) * size, particle_size = (size_t)rows * row_size;
    alignas(64) float next[ROWS * MAX_INPUTS];
    for (int p = 0; p < particles; ++p)
        for (int n = 0; n < rows; ++n)
            copy(path + p * particle_size + n * row_size, start + (size_t)n * start_stride, size);
    for (int group = 0; group < rows; group += GROUP * ROWS)
        for (int outer = 0; outer < (mean ? horizon : net.members); ++outer)
            for (int inner = 0; inner < (mean ? net.members : horizon); ++inner) {
                const int e = mean ? inner : outer, k = mean ? outer : inner;
                float* particle = path + (mean ? 0 : e * particle_size);
                for (int block = group; block < rows && block < group + GROUP * ROWS; block += ROWS) {
                    const float *state[ROWS], *action[ROWS];
                    const int count = rows - block < ROWS ? rows - block : ROWS;
                    for (int r = 0; r < ROWS; ++r) {
                        const int n = block + (r < count ? r : count - 1);
                        state[r] = particle + n * row_size + (size_t)k * size;
                        action[r] = actions + ((size_t)n * horizon + k) * net.action;
                    }
                    step<T>(net, e, state, action, next, scratch);
                    for (int r = 0; r < count; ++r) {
                        float* to = particle + (block + r) * row_size + (size_t)(k + 1) * size;
                        if (!mean)
                            copy(to, next + r * out, size);
                        else
                            for (int i = 0; i < size; ++i)
                                to[i] = ((e ? to[i] : 0.0f) + next[r * out + i]) * (e + 1 == net.members ? 1.0f / net.members : 1.0f);
                    }
                }
            }
}

}  // namespace

extern "C" {

// Whether this build multiplies in bfloat16.
int mbrl_has_bf16(void) {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

// Largest depth, width and number of inputs that a network may have, and the length of a vector.
void mbrl_limits(int32_t* out) { out[0] = MAX_DEPTH, out[1] = MAX_WIDTH, out[2] = MAX_INPUTS, out[3] = LANES; }

// path [E or 1, rows, horizon + 1, S] from start [S] (stride 0) or [rows, S] (stride S) and actions [rows, horizon, A].
void mbrl_unroll(const Network* net, const float* start, int start_stride, const float* actions, int rows, int horizon, int mean,
                 float* path) {
    if (net->bf16)
        unroll<Bf16>(*net, start, start_stride, actions, rows, horizon, mean, path);
    else
        unroll<float>(*net, start, start_stride, actions, rows, horizon, mean, path);
}
}
