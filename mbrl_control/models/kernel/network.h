// What is rolled out: the packed arrays of an ensemble (their shapes and padding are those of native.py), and rows of a plan.
//
// P(n) is n rounded up to whole vectors of 16. A row is a candidate.

#pragma once

#include "vectors.h"

namespace {

constexpr int MAX_DEPTH = 8;
constexpr int MAX_WIDTH = 1024;
constexpr int MAX_INPUTS = 256;

struct Network {
    int32_t members, state, action, angles, rates, depth, bf16;
    int32_t width[MAX_DEPTH];   // of the hidden layers, whole vectors
    const int32_t* angle;       // [angles] which states
    const int32_t* rate;        // [rates]
    float sharpness;            // 1 / friction
    const float* first;         // [E, width 0 / LANES, I, LANES]
    const void* moved;          // the same in bfloat16, [E, width 0 / LANES, even I, LANES]; unused in float32
    const float* bias;          // [E, sum of widths]
    const void* hidden;         // [E, sum of width i * width i+1], each [width i+1 / LANES, width i, LANES]
    const void* last;           // [E, P(S) / LANES, width last, LANES]
    const float* base;          // [E, P(S) / LANES, I, LANES]
    const float* offset;        // [E, P(S)]
};

// What a step costs: sum_i weight_i (x_i - target_i)^2 over the signals of the state it leads to, and then of its command. The state at the
// horizon's end counts `end` times more.
struct Squares {
    const float* target;  // [S + A]
    const float* weight;  // [S + A]
    float end;
};

struct Rollouts {
    const float* start;    // [S], or [rows, S]
    int start_stride;      // 0, or S
    const float* actions;  // [rows, horizon, A]
    int rows, horizon;
    bool mean;    // average the members after each step
    float* path;  // [E or 1, rows, horizon + 1, S]; none if costs are asked for
    const Squares* squares;
    float* costs;  // [E or 1, rows]; none if paths are asked for

    int particles(const Network& net) const { return mean ? 1 : net.members; }
};

inline int inputs_of(const Network& net) { return net.state + 2 * net.angles + net.action + net.rates; }

// How many biases, and weights between hidden layers, a member has.
struct Layers {
    int biases = 0, products = 0;

    explicit Layers(const Network& net) {
        for (int l = 0; l < net.depth; ++l) {
            biases += net.width[l];
            if (l) products += net.width[l - 1] * net.width[l];
        }
    }
};

}  // namespace
