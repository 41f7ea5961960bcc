// Whole rollouts of an ensemble of small networks on one core: every layer of a few rows at a time stays in the cache.
//
// Compiled on the machine that runs it (see native.py). Shapes, padding and order of the packed arrays are those of native.py:
// P(n) is n rounded up to whole vectors of 16. A row is a candidate; R of them share each load of a weight, at most ROWS. A row's numbers
// do not depend on how many others go with it.

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
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif

// Vectors of columns at a time. A row alone needs many, or its few sums would wait for each other; of eight rows, 6 x 4 and 8 x 3 make the
// compiler spill sums (measured).
constexpr int columns_of(int rows) { return rows == 1 ? ROWS : ROWS / 4; }

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
inline vf logistic(vf x) {
    return reciprocal<PRECISE>(1.0f + exp2<PRECISE>(x * -1.44269504f));
}

template <bool PRECISE>
inline vf silu(vf x) {
    return x * logistic<PRECISE>(x);
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

template <int R, int N>
using Sums = vf[R][N];

// sums += rows [R, depth] of a times N vectors of columns of b [depth, width]
template <int R, int N>
inline void multiply(Sums<R, N>& sums, const float* a, int stride, int depth, const float* b, int width) {
    for (int k = 0; k < depth; ++k) {
        vf column[N];
        for (int j = 0; j < N; ++j) column[j] = load(b + (size_t)k * width + LANES * j);
        for (int r = 0; r < R; ++r) {
            const vf value = all(a[(size_t)r * stride + k]);
            for (int j = 0; j < N; ++j) sums[r][j] += value * column[j];
        }
    }
}

// The same in bfloat16: depth counts single values, b holds pairs of them [depth / 2, width, 2].
template <int R, int N>
inline void multiply(Sums<R, N>& sums, const Bf16* a, int stride, int depth, const Bf16* b, int width) {
    for (int k = 0; k < depth / 2; ++k) {
#if defined(__AVX512BF16__)
        __m512bh column[N];
        for (int j = 0; j < N; ++j) column[j] = (__m512bh)_mm512_loadu_si512(b + 2 * ((size_t)k * width + LANES * j));
        for (int r = 0; r < R; ++r) {
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

// With SLOPES, row 0 is a point and each other row a direction in which it moves: the bias does not move, the activation by its slope.
template <class From, class To, int R, int N, bool SLOPES>
void layer_columns(const From* in, int stride, int depth, const From* weight, const float* bias, int width, To* out, int to) {
    Sums<R, N> sums;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = SLOPES && r ? vf{} : load(bias + LANES * j);
    multiply<R, N>(sums, in, stride, depth, weight, width);
    if (SLOPES) {
        for (int j = 0; j < N; ++j) {
            const vf x = sums[0][j], s = logistic<true>(x), slope = s * (1.0f + x * (1.0f - s));
            put(out + LANES * j, x * s);
            for (int r = 1; r < R; ++r) put(out + (size_t)r * to + LANES * j, slope * sums[r][j]);
        }
        return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) put(out + (size_t)r * to + LANES * j, silu<sizeof(To) == 4>(sums[r][j]));
}

inline const float* columns(const float* weight, int from) { return weight + from; }
inline const Bf16* columns(const Bf16* weight, int from) { return weight + 2 * from; }

// out [R, width] = silu(in [R, depth] @ weight + bias)
template <class From, class To, int R, bool SLOPES>
void layer(const From* in, int stride, int depth, const From* weight, const float* bias, int width, To* out, int to) {
    constexpr int MANY = columns_of(R);
    int c = 0;
    for (; c + MANY * LANES <= width; c += MANY * LANES)
        layer_columns<From, To, R, MANY, SLOPES>(in, stride, depth, columns(weight, c), bias + c, width, out + c, to);
    for (; c < width; c += LANES)
        layer_columns<From, To, R, 1, SLOPES>(in, stride, depth, columns(weight, c), bias + c, width, out + c, to);
}

// next [R, N vectors] = offset + features @ base + hidden @ last. Halves of the depth have sums of their own: a single chain of
// additions for each row would wait for itself.
template <class T, int R, int N, bool SLOPES>
void output(const float* features, int inputs, const float* base, const T* hidden, int stride, int deep, const T* last, const float* offset,
            int width, float* next) {
    Sums<R, N> sums, more;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = SLOPES && r ? vf{} : load(offset + LANES * j), more[r][j] = vf{};
    multiply<R, N>(more, features, MAX_INPUTS + LANES, inputs, base, width);
    multiply<R, N>(sums, hidden, stride, deep, last, width);
    for (int r = 0; r < R; ++r)
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
template <int R>
void encode(const Network& net, const float* const* state, const float* const* action, Scratch& s) {
    const int after_state = net.state + 2 * net.angles, after_action = after_state + net.action;
    for (int r = 0; r < R; ++r) {
        float* f = s.features[r];
        copy(f, state[r], net.state);
        copy(f + after_state, action[r], net.action);
        for (int i = 0; i < net.angles; ++i) s.angle[0][r * net.angles + i] = state[r][net.angle[i]];
    }
    for (int i = 0; i < R * net.angles; i += LANES) {
        vf sine, cosine;
        sine_cosine(load(s.angle[0] + i), sine, cosine);
        store(s.angle[1] + i, sine);
        store(s.angle[2] + i, cosine);
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < net.angles; ++i) {
            s.features[r][net.state + i] = s.angle[1][r * net.angles + i];
            s.features[r][net.state + net.angles + i] = s.angle[2][r * net.angles + i];
        }
    if (!net.rates) return;
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < net.rates; ++i) s.angle[0][r * net.rates + i] = net.sharpness * state[r][net.rate[i]];
    for (int i = 0; i < R * net.rates; i += LANES) store(s.angle[1] + i, tanh(load(s.angle[0] + i)));
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < net.rates; ++i) s.features[r][after_action + i] = s.angle[1][r * net.rates + i];
}

inline int inputs_of(const Network& net) { return net.state + 2 * net.angles + net.action + net.rates; }

// How the features of the point in row 0 move in the directions of rows 1 to R - 1: one input each, states first, then actions, counted
// from `from`; beyond the last input there is nothing.
template <int R>
void directions(const Network& net, int from, Scratch& s) {
    const int after_state = net.state + 2 * net.angles, after_action = after_state + net.action;
    const float* here = s.features[0];
    for (int r = 1; r < R; ++r) {
        float* f = s.features[r];
        std::memset(f, 0, sizeof(float) * inputs_of(net));
        const int input = from + r - 1;
        if (input >= net.state + net.action) continue;
        if (input >= net.state) {
            f[after_state + input - net.state] = 1.0f;
            continue;
        }
        f[input] = 1.0f;
        for (int i = 0; i < net.angles; ++i)
            if (net.angle[i] == input) {
                f[net.state + i] = here[net.state + net.angles + i];
                f[net.state + net.angles + i] = -here[net.state + i];
            }
        for (int i = 0; i < net.rates; ++i)
            if (net.rate[i] == input) f[after_action + i] = net.sharpness * (1.0f - here[after_action + i] * here[after_action + i]);
    }
}

// Of the features of R rows by member e: next [R, P(S)].
template <class T, int R, bool SLOPES>
void forward(const Network& net, int e, float* next, Scratch& s) {
    const int inputs = inputs_of(net), out = whole(net.state);
    int total = 0, product = 0;
    for (int l = 0; l < net.depth; ++l) {
        total += net.width[l];
        if (l) product += net.width[l - 1] * net.width[l];
    }
    const float* bias = net.bias + (size_t)e * total;
    T *now = reinterpret_cast<T*>(s.a), *then = reinterpret_cast<T*>(s.b);
    layer<float, T, R, SLOPES>(s.features[0], MAX_INPUTS + LANES, inputs, net.first + (size_t)e * inputs * net.width[0], bias, net.width[0], now,
                               s.stride);
    const T* weight = static_cast<const T*>(net.hidden) + (size_t)e * product;
    for (int l = 1; l < net.depth; ++l) {
        bias += net.width[l - 1];
        layer<T, T, R, SLOPES>(now, s.stride, net.width[l - 1], weight, bias, net.width[l], then, s.stride);
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
        output<T, R, 2, SLOPES>(s.features[0], inputs, base + c, now, s.stride, deep, columns(last, c), offset + c, out, next + c);
    if (c < out) output<T, R, 1, SLOPES>(s.features[0], inputs, base + c, now, s.stride, deep, columns(last, c), offset + c, out, next + c);
}

// One step of `count` rows by member e: next [count, P(S)]. The rows beyond it, up to R, are the last one again.
template <class T, int R>
void step_rows(const Network& net, int e, int count, const float* state, size_t state_stride, const float* action, size_t action_stride,
               float* next, Scratch& s) {
    const float *states[R], *actions[R];
    for (int r = 0; r < R; ++r) {
        const int n = r < count ? r : count - 1;
        states[r] = state + n * state_stride;
        actions[r] = action + n * action_stride;
    }
    encode<R>(net, states, actions, s);
    forward<T, R, false>(net, e, next, s);
}

template <class T>
void step(const Network& net, int e, int count, const float* state, size_t state_stride, const float* action, size_t action_stride,
          float* next, Scratch& s) {
    const auto some = count == 1 ? step_rows<T, 1> : count <= ROWS / 2 ? step_rows<T, ROWS / 2> : step_rows<T, ROWS>;
    some(net, e, count, state, state_stride, action, action_stride, next, s);
}

void prepare(const Network& net, Scratch& scratch) {
    std::memset(scratch.angle, 0, sizeof scratch.angle);
    scratch.stride = 0;
    for (int l = 0; l < net.depth; ++l) scratch.stride = net.width[l] > scratch.stride ? net.width[l] : scratch.stride;
    scratch.stride += 2 * LANES;
}

template <class T>
void unroll(const Network& net, const float* start, int start_stride, const float* actions, int rows, int horizon, int mean, float* path) {
    Scratch scratch;
    prepare(net, scratch);
    const int size = net.state, out = whole(size), particles = mean ? 1 : net.members;
    const size_t row_size = (size_t)(horizon + 1) * size, particle_size = (size_t)rows * row_size, action_size = (size_t)horizon * net.action;
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
                    const int count = rows - block < ROWS ? rows - block : ROWS;
                    step<T>(net, e, count, particle + block * row_size + (size_t)k * size, row_size,
                            actions + block * action_size + (size_t)k * net.action, action_size, next, scratch);
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

// A row for the point and ROWS - 1 for directions at a time: each pass is as long as one of a rollout.
void slopes(const Network& net, const float* states, size_t member_stride, const float* actions, int points, float* found) {
    Scratch scratch;
    prepare(net, scratch);
    const int size = net.state, out = whole(size), wide = size + net.action;
    alignas(64) float next[ROWS * MAX_INPUTS];
    for (int e = 0; e < net.members; ++e)
        for (int n = 0; n < points; ++n) {
            const float *state = states + e * member_stride + (size_t)n * size, *action = actions + (size_t)n * net.action;
            float* to = found + ((size_t)e * points + n) * size * wide;
            encode<1>(net, &state, &action, scratch);
            for (int from = 0; from < wide; from += ROWS - 1) {
                directions<ROWS>(net, from, scratch);
                forward<float, ROWS, true>(net, e, next, scratch);
                for (int r = 1; r < ROWS && from + r <= wide; ++r)
                    for (int i = 0; i < size; ++i) to[(size_t)i * wide + from + r - 1] = next[r * out + i];
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

// found [E, points, S, S + A] how the next states move with states [E or 1, points, S] (member stride, 0 for one set for all) and actions
// [points, A], in float32 only.
void mbrl_slopes(const Network* net, const float* states, int member_stride, const float* actions, int points, float* found) {
    slopes(*net, states, member_stride, actions, points, found);
}
}
