// Many rows: a vector holds the same unit of 16 of them, V vectors go together. No column is there only to fill up a vector then, and every
// weight that is read serves 16 V rows. Sums are added up in the order of few.h, so the numbers are the same.

#pragma once

#include <vector>

#include "few.h"

namespace {

#if defined(__AVX512F__)

constexpr int WIDE = 4;  // vectors of rows at most: of float32 half as many, or a layer's rows would not stay in the nearest cache
constexpr int WIDE_ROWS = WIDE * LANES;
constexpr int units_of(int vectors) { return vectors > 2 ? 4 : 8; }  // sums enough that none waits for itself, and no spilling

template <int U, int V>
using Units = vf[U][V];

inline __mmask16 first_of(int lanes) { return lanes >= LANES ? 0xFFFF : (1u << lanes) - 1; }

inline void transpose(__m512 (&m)[LANES]) {
    __m512 t[LANES];
    for (int i = 0; i < LANES; i += 2) t[i] = _mm512_unpacklo_ps(m[i], m[i + 1]), t[i + 1] = _mm512_unpackhi_ps(m[i], m[i + 1]);
    for (int i = 0; i < LANES; i += 4) {  // m[i + j]: of each quarter of the lanes, column j of rows i to i + 3
        const auto lower = [&](int a, int b) { return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b]))); };
        const auto upper = [&](int a, int b) { return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b]))); };
        m[i] = lower(i, i + 2), m[i + 1] = upper(i, i + 2), m[i + 2] = lower(i + 1, i + 3), m[i + 3] = upper(i + 1, i + 3);
    }
    for (int j = 0; j < 4; ++j) {
        const __m512 a = _mm512_shuffle_f32x4(m[j], m[j + 4], 0x88), b = _mm512_shuffle_f32x4(m[j], m[j + 4], 0xDD);
        const __m512 c = _mm512_shuffle_f32x4(m[j + 8], m[j + 12], 0x88), d = _mm512_shuffle_f32x4(m[j + 8], m[j + 12], 0xDD);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88), t[j + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
        t[j + 4] = _mm512_shuffle_f32x4(b, d, 0x88), t[j + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
    for (int i = 0; i < LANES; ++i) m[i] = t[i];
}

// columns [size, V vectors] from `count` rows of `size` numbers, `stride` apart; the last one again beyond them
template <int V>
inline void to_columns(const float* rows, size_t stride, int count, int size, float* columns) {
    for (int v = 0; v < V; ++v)
        for (int i = 0; i < size; i += LANES) {
            __m512 m[LANES];
            for (int r = 0; r < LANES; ++r) {
                const int row = v * LANES + r < count ? v * LANES + r : count - 1;
                m[r] = _mm512_maskz_loadu_ps(first_of(size - i), rows + row * stride + i);
            }
            transpose(m);
            for (int j = 0; j < LANES && i + j < size; ++j) _mm512_storeu_ps(columns + (size_t)((i + j) * V + v) * LANES, m[j]);
        }
}

// and back
template <int V>
inline void to_rows(const float* columns, int size, float* rows, size_t stride, int count) {
    for (int v = 0; v < V; ++v)
        for (int i = 0; i < size; i += LANES) {
            __m512 m[LANES];
            for (int j = 0; j < LANES; ++j) {
                const int column = i + j < size ? i + j : size - 1;
                m[j] = _mm512_loadu_ps(columns + (size_t)(column * V + v) * LANES);
            }
            transpose(m);
            for (int r = 0; r < LANES && v * LANES + r < count; ++r)
                _mm512_mask_storeu_ps(rows + (size_t)(v * LANES + r) * stride + i, first_of(size - i), m[r]);
        }
}

// sums += U units' weights, from one vector of columns w [depth, LANES] on, times a [depth, V vectors]
template <int U, int V>
inline void gather(Units<U, V>& sums, const float* a, int depth, const float* w) {
    for (int k = 0; k < depth; ++k) {
        vf rows[V];
        for (int v = 0; v < V; ++v) rows[v] = load(a + (size_t)(k * V + v) * LANES);
        for (int u = 0; u < U; ++u) {
            const vf weight = all(w[(size_t)k * LANES + u]);
            for (int v = 0; v < V; ++v) sums[u][v] += rows[v] * weight;
        }
    }
}

// The same in bfloat16: depth counts single values, w holds pairs of them [depth / 2, LANES, 2], and a [depth / 2, V vectors, 2].
template <int U, int V>
inline void gather(Units<U, V>& sums, const Bf16* a, int depth, const Bf16* w) {
#if defined(__AVX512BF16__)
    for (int k = 0; k < depth; k += 2) {
        __m512bh rows[V];
        for (int v = 0; v < V; ++v) rows[v] = (__m512bh)_mm512_loadu_si512(a + (size_t)(k * V + 2 * v) * LANES);
        for (int u = 0; u < U; ++u) {
            int32_t pair;
            std::memcpy(&pair, w + (size_t)k * LANES + 2 * u, 4);
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
            for (int v = 0; v < V; ++v) sums[u][v] = (vf)_mm512_dpbf16_ps((__m512)sums[u][v], rows[v], weight);
        }
    }
#else
    (void)sums, (void)a, (void)depth, (void)w;
#endif
}

// Units u and u + 1 of a vector of rows, where `gather` finds them.
template <int V>
inline void put_pair(float* out, int unit, int v, vf one, vf other) {
    store(out + (size_t)(unit * V + v) * LANES, one);
    store(out + (size_t)((unit + 1) * V + v) * LANES, other);
}
template <int V>
inline void put_pair(Bf16* out, int unit, int v, vf one, vf other) {
#if defined(__AVX512BF16__)
    const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                            17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)other, (__m512)one);
    _mm512_storeu_si512(out + (size_t)(unit * V + 2 * v) * LANES, _mm512_permutexvar_epi16(places, both));
#else
    (void)out, (void)unit, (void)v, (void)one, (void)other;
#endif
}

// out [width, V vectors] = silu(weight in [depth, V vectors] + bias), the bias [width] or, if each row has its own, [width, V vectors]
template <class From, class To, int V>
void wide_layer(const From* in, int depth, const From* weight, const float* bias, bool own, int width, To* out) {
    constexpr int U = units_of(V);
    for (int c = 0; c < width; c += U) {
        const int tile = c / LANES * LANES, within = (c - tile) * (sizeof(From) == 4 ? 1 : 2);
        Units<U, V> sums;
        for (int u = 0; u < U; ++u)
            for (int v = 0; v < V; ++v) sums[u][v] = own ? load(bias + (size_t)((c + u) * V + v) * LANES) : all(bias[c + u]);
        gather<U, V>(sums, in, depth, weight + (size_t)tile * depth + within);
        silu<sizeof(To) == 4, U * V>(&sums[0][0]);
#pragma GCC unroll 8
        for (int u = 0; u < U; u += 2)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) put_pair<V>(out, c + u, v, sums[u][v], sums[u + 1][v]);
    }
}

// What a member adds to its network's output: of each state the features that count, and their weights. Most carry one state over.
struct Carried {
    int count[MAX_INPUTS];
    int16_t input[MAX_INPUTS][MAX_INPUTS];
    float weight[MAX_INPUTS][MAX_INPUTS];
};

void carried(const Network& net, int e, Carried& found) {
    const int inputs = inputs_of(net);
    const float* base = net.base + (size_t)e * inputs * whole(net.state);
    for (int o = 0; o < net.state; ++o) {
        const float* column = base + (size_t)(o / LANES * LANES) * inputs + o % LANES;
        int count = 0;
        for (int i = 0; i < inputs; ++i)
            if (column[i * LANES] != 0.0f) found.input[o][count] = i, found.weight[o][count++] = column[i * LANES];
        found.count[o] = count;
    }
}

// next [S, V vectors] = offset + what is carried of the features + last hidden
template <class T, int U, int V>
void wide_output(const float* features, const Carried& base, const T* hidden, int deep, const T* last, const float* offset, int o,
                 float* next) {
    const int tile = o / LANES * LANES, within = (o - tile) * (sizeof(T) == 4 ? 1 : 2);
    Units<U, V> sums;
    for (int u = 0; u < U; ++u)
        for (int v = 0; v < V; ++v) sums[u][v] = all(offset[o + u]);
    gather<U, V>(sums, hidden, deep, last + (size_t)tile * deep + within);
    for (int u = 0; u < U; ++u) {
        vf more[V] = {};
        for (int n = 0; n < base.count[o + u]; ++n) {
            const float* feature = features + (size_t)base.input[o + u][n] * V * LANES;
            const vf weight = all(base.weight[o + u][n]);
            for (int v = 0; v < V; ++v) more[v] += load(feature + v * LANES) * weight;
        }
        for (int v = 0; v < V; ++v) store(next + (size_t)((o + u) * V + v) * LANES, sums[u][v] + more[v]);
    }
}

struct WideScratch {
    alignas(64) float features[MAX_INPUTS * WIDE_ROWS];
    alignas(64) float next[MAX_INPUTS * WIDE_ROWS];
    alignas(64) float mean[MAX_INPUTS * WIDE_ROWS];
    alignas(64) float origin[MAX_INPUTS * WIDE_ROWS];
    alignas(64) Bf16 moved[(MAX_INPUTS + 1) * WIDE_ROWS];
    float* reference;  // [E, width 0] of all rows, or [E, width 0, V vectors]
    bool own;          // whether each row has its own start
    alignas(64) float a[MAX_WIDTH * WIDE_ROWS];
    alignas(64) float b[MAX_WIDTH * WIDE_ROWS];
    Carried base;
};

// The features that are not the state itself; actions from the rows' own [action_stride apart].
template <int V>
void wide_encode(const Network& net, const float* action, size_t action_stride, int count, float* features) {
    constexpr int ROW = V * LANES;
    float *sines = features + (size_t)net.state * ROW, *cosines = sines + (size_t)net.angles * ROW;
    float *actions = cosines + (size_t)net.angles * ROW, *rates = actions + (size_t)net.action * ROW;
    for (int i = 0; i < net.angles; ++i)
        for (int v = 0; v < ROW; v += LANES) {
            vf sine, cosine;
            sine_cosine(load(features + (size_t)net.angle[i] * ROW + v), sine, cosine);
            store(sines + i * ROW + v, sine);
            store(cosines + i * ROW + v, cosine);
        }
    to_columns<V>(action, action_stride, count, net.action, actions);
    for (int i = 0; i < net.rates; ++i)
        for (int v = 0; v < ROW; v += LANES)
            store(rates + i * ROW + v, tanh(net.sharpness * load(features + (size_t)net.rate[i] * ROW + v)));
}

// As `first_layer` and `refer`.
template <int V>
void wide_first_layer(const Network& net, int e, const float* bias, float* out, WideScratch& s) {
    const int inputs = inputs_of(net);
    wide_layer<float, float, V>(s.features, inputs, net.first + (size_t)e * inputs * net.width[0], bias, false, net.width[0], out);
}
template <int V>
void wide_first_layer(const Network& net, int e, const float*, Bf16* out, WideScratch& s) {
    const int inputs = inputs_of(net), even = inputs + inputs % 2, width = net.width[0];
    for (int i = 0; i < even; i += 2)
        for (int v = 0; v < V; ++v) {
            const auto by = [&](int n) {
                const size_t place = (size_t)(n * V + v) * LANES;
                return n < inputs ? load(s.features + place) - load(s.origin + place) : vf{};
            };
            put_pair<V>(s.moved, i, v, by(i), by(i + 1));
        }
    wide_layer<Bf16, Bf16, V>(s.moved, even, static_cast<const Bf16*>(net.moved) + (size_t)e * even * width,
                              s.reference + (size_t)e * width * (s.own ? V * LANES : 1), s.own, width, out);
}

template <int V>
void wide_refer(const Network& net, int e, const float* bias, WideScratch& s) {
    constexpr int U = units_of(V);
    const int inputs = inputs_of(net), action = net.state + 2 * net.angles, width = net.width[0];
    std::memcpy(s.origin, s.features, sizeof(float) * inputs * V * LANES);
    std::memset(s.origin + (size_t)action * V * LANES, 0, sizeof(float) * net.action * V * LANES);
    const float* weight = net.first + (size_t)e * inputs * width;
    if (!s.own) {
        float row[MAX_INPUTS];
        for (int i = 0; i < inputs; ++i) row[i] = s.origin[(size_t)i * V * LANES];
        refer_rows<1>(row, 0, inputs, weight, bias, width, s.reference + (size_t)e * width);
        return;
    }
    for (int c = 0; c < width; c += U) {
        Units<U, V> sums;
        for (int u = 0; u < U; ++u)
            for (int v = 0; v < V; ++v) sums[u][v] = all(bias[c + u]);
        gather<U, V>(sums, s.origin, inputs, weight + (size_t)(c / LANES * LANES) * inputs + c % LANES);
        for (int u = 0; u < U; ++u)
            for (int v = 0; v < V; ++v) store(s.reference + (((size_t)e * width + c + u) * V + v) * LANES, sums[u][v]);
    }
}

// next [S, V vectors] of the features, by member e.
template <class T, int V>
void wide_forward(const Network& net, int e, bool begins, WideScratch& s) {
    const int out = whole(net.state);
    const Layers layers(net);
    const float* bias = net.bias + (size_t)e * layers.biases;
    T *now = reinterpret_cast<T*>(s.a), *then = reinterpret_cast<T*>(s.b);
    if (sizeof(T) == 2 && begins) wide_refer<V>(net, e, bias, s);
    wide_first_layer<V>(net, e, bias, now, s);
    const T* weight = static_cast<const T*>(net.hidden) + (size_t)e * layers.products;
    for (int l = 1; l < net.depth; ++l) {
        bias += net.width[l - 1];
        wide_layer<T, T, V>(now, net.width[l - 1], weight, bias, false, net.width[l], then);
        weight += (size_t)net.width[l - 1] * net.width[l];
        T* swap = now;
        now = then, then = swap;
    }
    const int deep = net.width[net.depth - 1];
    const T* last = static_cast<const T*>(net.last) + (size_t)e * deep * out;
    const float* offset = net.offset + (size_t)e * out;
    int o = 0;
    for (; o + 4 <= net.state; o += 4) wide_output<T, 4, V>(s.features, s.base, now, deep, last, offset, o, s.next);
    for (; o + 2 <= net.state; o += 2) wide_output<T, 2, V>(s.features, s.base, now, deep, last, offset, o, s.next);
    if (o < net.state) wide_output<T, 1, V>(s.features, s.base, now, deep, last, offset, o, s.next);
}

// sums [V vectors] += the squares of columns [size, V vectors]
template <int V>
inline void wide_squares(const float* target_of, const float* weight_of, const float* columns, int size, float factor, vf (&sums)[V]) {
    for (int i = 0; i < size; ++i) {
        const vf target = all(target_of[i]), weight = all(factor * weight_of[i]);
        for (int v = 0; v < V; ++v) {
            const vf off = load(columns + (size_t)(i * V + v) * LANES) - target;
            sums[v] = (vf)_mm512_fmadd_ps((__m512)(weight * off), (__m512)off, (__m512)sums[v]);
        }
    }
}

// `count` rows from row `row` on, up to V vectors of them, over the whole horizon; the rows beyond are the last one again.
template <class T, int V>
void wide_rows(const Network& net, const Rollouts& job, int row, int count, WideScratch& s) {
    constexpr int ROW = V * LANES;
    const int size = net.state, horizon = job.horizon, inner = job.mean ? net.members : 1;
    const size_t row_size = (size_t)(horizon + 1) * size, action_size = (size_t)horizon * net.action;
    const float* actions = job.actions + row * action_size;
    for (int p = 0; p < job.particles(net); ++p) {
        float* path = job.path ? job.path + ((size_t)p * job.rows + row) * row_size : nullptr;
        vf sums[V] = {};
        to_columns<V>(job.start + (size_t)row * job.start_stride, job.start_stride, count, size, s.features);
        if (path) to_rows<V>(s.features, size, path, row_size, count);
        if (!job.mean) carried(net, p, s.base);
        for (int k = 0; k < horizon; ++k) {
            wide_encode<V>(net, actions + (size_t)k * net.action, action_size, count, s.features);
            for (int m = 0; m < inner; ++m) {
                const int e = job.mean ? m : p;
                if (job.mean) carried(net, e, s.base);
                wide_forward<T, V>(net, e, !k, s);
                if (!job.mean) continue;
                const float share = m + 1 == net.members ? 1.0f / net.members : 1.0f;
                for (int i = 0; i < size * ROW; i += LANES)
                    store(s.mean + i, ((m ? load(s.mean + i) : vf{}) + load(s.next + i)) * share);
            }
            const float *next = job.mean ? s.mean : s.next, *action = s.features + (size_t)(size + 2 * net.angles) * ROW;
            if (path)
                to_rows<V>(next, size, path + (size_t)(k + 1) * size, row_size, count);
            else {
                const float* target = job.squares->target;
                const float* weight = job.squares->weight;
                wide_squares<V>(target, weight, next, size, k + 1 < horizon ? 1.0f : 1.0f + job.squares->end, sums);
                wide_squares<V>(target + size, weight + size, action, net.action, 1.0f, sums);
            }
            std::memcpy(s.features, next, sizeof(float) * size * ROW);
        }
        if (!path)
            for (int v = 0; v * LANES < count; ++v)
                _mm512_mask_storeu_ps(job.costs + (size_t)p * job.rows + row + v * LANES, first_of(count - v * LANES), (__m512)sums[v]);
    }
}

// As many rows as vectors are full of them, or nearly: no more than half a vector of them is left. Gives how many.
template <class T>
int wide(const Network& net, const Rollouts& job) {
    constexpr int most = sizeof(T) == 4 ? WIDE / 2 : WIDE;
    const int vectors = (job.rows + LANES / 2 - 1) / LANES, rows = job.rows < vectors * LANES ? job.rows : vectors * LANES;
    if (!vectors) return 0;
    static thread_local WideScratch scratch;
    std::vector<float> reference((size_t)net.members * net.width[0] * (job.start_stride ? WIDE_ROWS : 1));
    scratch.reference = reference.data(), scratch.own = job.start_stride;
    for (int v = 0; v < vectors; v += most) {
        const int here = vectors - v < most ? vectors - v : most, row = v * LANES;
        const auto some = here == 1 ? wide_rows<T, 1> : here == 2 ? wide_rows<T, 2> : here == 3 ? wide_rows<T, 3> : wide_rows<T, 4>;
        some(net, job, row, rows - row < here * LANES ? rows - row : here * LANES, scratch);
    }
    return rows;
}

#else

template <class T>
int wide(const Network&, const Rollouts&) {
    return 0;
}

#endif

}  // namespace
