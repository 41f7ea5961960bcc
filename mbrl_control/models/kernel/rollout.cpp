// Whole rollouts of an ensemble of small networks on one core: every layer of some rows at a time stays in the cache.
//
// Compiled on the machine that runs it (see native.py). A row's numbers do not depend on how many others go with it.

#include "many.h"

namespace {

constexpr int GROUP = 4;  // blocks of rows that a member's weights are used for before the next member's

// Rows from row `first` on: path [E or 1, rows - first, horizon + 1, S], each particle's rows `particle_size` after the last's.
template <class T>
void few(const Network& net, const Rollouts& job, int first, float* path, size_t particle_size) {
    Scratch scratch;
    prepare(net, scratch);
    std::vector<float> reference((size_t)net.members * ROWS * net.width[0]);
    scratch.reference = reference.data();
    const int size = net.state, out = whole(size), horizon = job.horizon, rows = job.rows - first;
    const size_t row_size = (size_t)(horizon + 1) * size, action_size = (size_t)horizon * net.action;
    const float* actions = job.actions + first * action_size;
    alignas(64) float next[ROWS * MAX_INPUTS];
    for (int p = 0; p < job.particles(net); ++p)
        for (int n = 0; n < rows; ++n)
            copy(path + p * particle_size + n * row_size, job.start + (size_t)(first + n) * job.start_stride, size);
    for (int group = 0; group < rows; group += GROUP * ROWS)
        for (int outer = 0; outer < (job.mean ? horizon : net.members); ++outer)
            for (int inner = 0; inner < (job.mean ? net.members : horizon); ++inner) {
                const int e = job.mean ? inner : outer, k = job.mean ? outer : inner;
                float* particle = path + (job.mean ? 0 : e * particle_size);
                for (int block = group; block < rows && block < group + GROUP * ROWS; block += ROWS) {
                    const int count = rows - block < ROWS ? rows - block : ROWS;
                    step<T>(net, e, !k, count, particle + block * row_size + (size_t)k * size, row_size,
                            actions + block * action_size + (size_t)k * net.action, action_size, next, scratch);
                    for (int r = 0; r < count; ++r) {
                        float* to = particle + (block + r) * row_size + (size_t)(k + 1) * size;
                        if (!job.mean)
                            copy(to, next + r * out, size);
                        else
                            for (int i = 0; i < size; ++i)
                                to[i] = ((e ? to[i] : 0.0f) + next[r * out + i]) * (e + 1 == net.members ? 1.0f / net.members : 1.0f);
                    }
                }
            }
}

inline float squares_of(const float* target, const float* weight, const float* x, int size, float factor, float sum) {
    for (int i = 0; i < size; ++i) {
        const float off = x[i] - target[i];
        sum = __builtin_fmaf(factor * weight[i] * off, off, sum);
    }
    return sum;
}

float cost_of(const Network& net, const Squares& squares, const float* path, const float* actions, int horizon) {
    const int size = net.state;
    float sum = 0.0f;
    for (int k = 0; k < horizon; ++k) {
        const float* next = path + (size_t)(k + 1) * size;
        sum = squares_of(squares.target, squares.weight, next, size, k + 1 < horizon ? 1.0f : 1.0f + squares.end, sum);
        sum = squares_of(squares.target + size, squares.weight + size, actions + (size_t)k * net.action, net.action, 1.0f, sum);
    }
    return sum;
}

template <class T>
void roll_out(const Network& net, const Rollouts& job) {
    const int done = wide<T>(net, job), rows = job.rows - done;
    const size_t row_size = (size_t)(job.horizon + 1) * net.state;
    if (!rows) return;
    if (job.path) return few<T>(net, job, done, job.path + done * row_size, job.rows * row_size);
    std::vector<float> path(job.particles(net) * rows * row_size);
    few<T>(net, job, done, path.data(), rows * row_size);
    for (int p = 0; p < job.particles(net); ++p)
        for (int n = 0; n < rows; ++n)
            job.costs[(size_t)p * job.rows + done + n] = cost_of(net, *job.squares, path.data() + ((size_t)p * rows + n) * row_size,
                                                                job.actions + (size_t)(done + n) * job.horizon * net.action, job.horizon);
}

void start(const Network& net, const Rollouts& job) { net.bf16 ? roll_out<Bf16>(net, job) : roll_out<float>(net, job); }

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
                forward<float, ROWS, true>(net, e, false, next, scratch);
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
void mbrl_unroll(const Network* net, const float* from, int stride, const float* actions, int rows, int horizon, int mean, float* path) {
    start(*net, {from, stride, actions, rows, horizon, mean != 0, path, nullptr, nullptr});
}

// costs [E or 1, rows] of the same paths by squares: target [S + A], weight [S + A], and how many times more the last state counts. Most of
// the paths are not written down at all.
void mbrl_price(const Network* net, const float* from, int stride, const float* actions, int rows, int horizon, int mean, const float* target,
                const float* weight, float end, float* costs) {
    const Squares squares = {target, weight, end};
    start(*net, {from, stride, actions, rows, horizon, mean != 0, nullptr, &squares, costs});
}

// found [E, points, S, S + A] how the next states move with states [E or 1, points, S] (member stride, 0 for one set for all) and actions
// [points, A], in float32 only.
void mbrl_slopes(const Network* net, const float* states, int member_stride, const float* actions, int points, float* found) {
    slopes(*net, states, member_stride, actions, points, found);
}
}
