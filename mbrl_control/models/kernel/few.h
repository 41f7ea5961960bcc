// A few rows at a time: a vector holds 16 units of one row, and R rows share each load of a weight.

#pragma once

#include "network.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif

// Vectors of columns at a time. A row alone needs many, or its few sums would wait for each other; of eight rows, 6 x 4 and 8 x 3 make the
// compiler spill sums (measured).
constexpr int columns_of(int rows) { return rows == 1 ? ROWS : ROWS / 4; }

template <int R, int N>
using Sums = vf[R][N];

// sums += rows [R, depth] of a times N vectors of columns of b [N, depth, LANES]
template <int R, int N>
inline void multiply(Sums<R, N>& sums, const float* a, int stride, int depth, const float* b) {
    for (int k = 0; k < depth; ++k) {
        vf column[N];
        for (int j = 0; j < N; ++j) column[j] = load(b + ((size_t)j * depth + k) * LANES);
        for (int r = 0; r < R; ++r) {
            const vf value = all(a[(size_t)r * stride + k]);
            for (int j = 0; j < N; ++j) sums[r][j] += value * column[j];
        }
    }
}

// The same in bfloat16: depth counts single values, b holds pairs of them [N, depth / 2, LANES, 2].
template <int R, int N>
inline void multiply(Sums<R, N>& sums, const Bf16* a, int stride, int depth, const Bf16* b) {
    for (int k = 0; k < depth / 2; ++k) {
#if defined(__AVX512BF16__)
        __m512bh column[N];
        for (int j = 0; j < N; ++j) column[j] = (__m512bh)_mm512_loadu_si512(b + ((size_t)j * depth + 2 * k) * LANES);
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, a + (size_t)r * stride + 2 * k, 4);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < N; ++j) sums[r][j] = (vf)_mm512_dpbf16_ps((__m512)sums[r][j], value, column[j]);
        }
#else
        (void)sums, (void)a, (void)stride, (void)b;
#endif
    }
}

// With SLOPES, row 0 is a point and each other row a direction in which it moves: the bias does not move, the activation by its slope.
template <class From, class To, int R, int N, bool SLOPES>
void layer_columns(const From* in, int stride, int depth, const From* weight, const float* bias, int apart, To* out, int to) {
    Sums<R, N> sums;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = SLOPES && r ? vf{} : load(bias + r * apart + LANES * j);
    multiply<R, N>(sums, in, stride, depth, weight);
    if (SLOPES) {
        for (int j = 0; j < N; ++j) {
            const vf z = sums[0][j], x = z * -0.693147181f;
            vf s;
            logistic<true, 1>(&z, &s);
            const vf slope = s * (1.0f + x * (1.0f - s));
            put(out + LANES * j, z * s);
            for (int r = 1; r < R; ++r) put(out + (size_t)r * to + LANES * j, slope * sums[r][j]);
        }
        return;
    }
    silu<sizeof(To) == 4, R * N>(&sums[0][0]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) put(out + (size_t)r * to + LANES * j, sums[r][j]);
}

// out [R, width] = silu(in [R, depth] @ weight + bias), the rows' biases `apart` from each other
template <class From, class To, int R, bool SLOPES>
void layer(const From* in, int stride, int depth, const From* weight, const float* bias, int apart, int width, To* out, int to) {
    constexpr int MANY = columns_of(R);
    int c = 0;
    for (; c + MANY * LANES <= width; c += MANY * LANES)
        layer_columns<From, To, R, MANY, SLOPES>(in, stride, depth, weight + (size_t)c * depth, bias + c, apart, out + c, to);
    for (; c < width; c += LANES)
        layer_columns<From, To, R, 1, SLOPES>(in, stride, depth, weight + (size_t)c * depth, bias + c, apart, out + c, to);
}

// next [R, N vectors] = offset + features @ base + hidden @ last. Halves of the depth have sums of their own: a single chain of
// additions for each row would wait for itself.
template <class T, int R, int N, bool SLOPES>
void output(const float* features, int inputs, const float* base, const T* hidden, int stride, int deep, const T* last, const float* offset,
            int width, float* next) {
    Sums<R, N> sums, more;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) sums[r][j] = SLOPES && r ? vf{} : load(offset + LANES * j), more[r][j] = vf{};
    multiply<R, N>(more, features, MAX_INPUTS + LANES, inputs, base);
    multiply<R, N>(sums, hidden, stride, deep, last);
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) store(next + (size_t)r * width + LANES * j, sums[r][j] + more[r][j]);
}

struct Scratch {
    int stride;  // of rows in a and b: not a power of two, or they would all want the same places of the cache
    alignas(64) float features[ROWS][MAX_INPUTS + LANES];
    alignas(64) float origin[ROWS][MAX_INPUTS + LANES];
    alignas(64) Bf16 moved[ROWS][MAX_INPUTS + 2 * LANES];
    float* reference;  // [E, ROWS, width 0]: in bfloat16 there is never more than one block of rows, many.h does the others
    alignas(64) float angle[3][ROWS * MAX_INPUTS];
    alignas(64) float a[ROWS * (MAX_WIDTH + 2 * LANES)];
    alignas(64) float b[ROWS * (MAX_WIDTH + 2 * LANES)];
};

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

// Rows of the first layer, in float32.
template <int R, bool SLOPES>
void first_layer(const Network& net, int e, const float* bias, float* out, Scratch& s) {
    const int inputs = inputs_of(net);
    layer<float, float, R, SLOPES>(s.features[0], MAX_INPUTS + LANES, inputs, net.first + (size_t)e * inputs * net.width[0], bias, 0,
                                   net.width[0], out, s.stride);
}

// In bfloat16: what the features have moved by since the rollout began is rounded, not the features, and added to what the first layer
// made of those there (see `refer`). So an angle of three radians is known as well as one of none.
template <int R, bool SLOPES>
void first_layer(const Network& net, int e, const float*, Bf16* out, Scratch& s) {
    const int inputs = inputs_of(net), even = inputs + inputs % 2;
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < even; i += LANES) put(s.moved[r] + i, load(s.features[r] + i) - load(s.origin[r] + i));
    layer<Bf16, Bf16, R, SLOPES>(s.moved[0], MAX_INPUTS + 2 * LANES, even, static_cast<const Bf16*>(net.moved) + (size_t)e * even * net.width[0],
                                 s.reference + (size_t)e * ROWS * net.width[0], net.width[0], net.width[0], out, s.stride);
}

// made [R, width] = features [R, inputs] @ weight + bias
template <int R>
void refer_rows(const float* features, int stride, int inputs, const float* weight, const float* bias, int width, float* made) {
    for (int c = 0; c < width; c += LANES) {
        Sums<R, 1> sums;
        for (int r = 0; r < R; ++r) sums[r][0] = load(bias + c);
        multiply<R, 1>(sums, features, stride, inputs, weight + (size_t)c * inputs);
        for (int r = 0; r < R; ++r) store(made + (size_t)r * width + c, sums[r][0]);
    }
}

// Note the features that a rollout begins with, actions left out, and what member e's first layer makes of them.
template <int R>
void refer(const Network& net, int e, const float* bias, Scratch& s) {
    const int inputs = inputs_of(net), action = net.state + 2 * net.angles, width = net.width[0];
    std::memcpy(s.origin, s.features, sizeof s.origin);
    for (int r = 0; r < R; ++r) {
        // What lies beyond the inputs differs from block to block, and must not: it is multiplied with weights that are 0.
        for (int i = inputs; i < inputs + LANES; ++i) s.features[r][i] = s.origin[r][i] = 0.0f;
        for (int i = action; i < action + net.action; ++i) s.origin[r][i] = 0.0f;
    }
    refer_rows<R>(s.origin[0], MAX_INPUTS + LANES, inputs, net.first + (size_t)e * inputs * width, bias, width,
                  s.reference + (size_t)e * ROWS * width);
}

// Of the features of R rows by member e: next [R, P(S)].
template <class T, int R, bool SLOPES>
void forward(const Network& net, int e, bool begins, float* next, Scratch& s) {
    const int inputs = inputs_of(net), out = whole(net.state);
    const Layers layers(net);
    const float* bias = net.bias + (size_t)e * layers.biases;
    T *now = reinterpret_cast<T*>(s.a), *then = reinterpret_cast<T*>(s.b);
    if (sizeof(T) == 2 && begins) refer<R>(net, e, bias, s);
    first_layer<R, SLOPES>(net, e, bias, now, s);
    const T* weight = static_cast<const T*>(net.hidden) + (size_t)e * layers.products;
    for (int l = 1; l < net.depth; ++l) {
        bias += net.width[l - 1];
        layer<T, T, R, SLOPES>(now, s.stride, net.width[l - 1], weight, bias, 0, net.width[l], then, s.stride);
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
        output<T, R, 2, SLOPES>(s.features[0], inputs, base + (size_t)c * inputs, now, s.stride, deep, last + (size_t)c * deep, offset + c, out,
                                next + c);
    if (c < out)
        output<T, R, 1, SLOPES>(s.features[0], inputs, base + (size_t)c * inputs, now, s.stride, deep, last + (size_t)c * deep, offset + c, out,
                                next + c);
}

// One step of `count` rows by member e: next [count, P(S)]. The rows beyond it, up to R, are the last one again.
template <class T, int R>
void step_rows(const Network& net, int e, bool begins, int count, const float* state, size_t state_stride, const float* action,
               size_t action_stride, float* next, Scratch& s) {
    const float *states[R], *actions[R];
    for (int r = 0; r < R; ++r) {
        const int n = r < count ? r : count - 1;
        states[r] = state + n * state_stride;
        actions[r] = action + n * action_stride;
    }
    encode<R>(net, states, actions, s);
    forward<T, R, false>(net, e, begins, next, s);
}

template <class T>
void step(const Network& net, int e, bool begins, int count, const float* state, size_t state_stride, const float* action,
          size_t action_stride, float* next, Scratch& s) {
    const auto some = count == 1 ? step_rows<T, 1> : count <= ROWS / 2 ? step_rows<T, ROWS / 2> : step_rows<T, ROWS>;
    some(net, e, begins, count, state, state_stride, action, action_stride, next, s);
}

void prepare(const Network& net, Scratch& scratch) {
    std::memset(scratch.angle, 0, sizeof scratch.angle);
    scratch.stride = 0;
    for (int l = 0; l < net.depth; ++l) scratch.stride = net.width[l] > scratch.stride ? net.width[l] : scratch.stride;
    scratch.stride += 2 * LANES;
}

}  // namespace
