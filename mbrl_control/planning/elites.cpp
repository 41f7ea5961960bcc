// One refit of a Gaussian to the cheapest of many candidates, in one call: the tensor operations that it takes would spend most of their
// time on being called. Compiled on the machine that runs it (see native_code.py).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

extern "C" {

// The `elites` cheapest of [count] candidates [count, size], of equal costs the first; those of finite cost count. The new mean and spread
// [size] keep a share `momentum` of the old ones, the spread is `least` at least; without a candidate of finite cost both stay as they are.
// `kept` [keeps, size] takes the cheapest, in order, `keeps` being no more than `elites`. Gives how many counted.
int mbrl_refit(const float* candidates, const float* costs, int count, int size, int elites, int keeps, float momentum, float least,
               const float* old_mean, const float* old_spread, float* mean, float* spread, float* kept) {
    std::vector<int32_t> order(count);
    for (int n = 0; n < count; ++n) order[n] = n;
    const auto cheaper = [&](int32_t a, int32_t b) { return costs[a] != costs[b] ? costs[a] < costs[b] : a < b; };
    elites = std::min(elites, count);
    std::partial_sort(order.begin(), order.begin() + elites, order.end(), cheaper);
    for (int n = 0; n < keeps; ++n) std::copy_n(candidates + (std::size_t)order[n] * size, size, kept + (std::size_t)n * size);
    int alive = 0;
    while (alive < elites && costs[order[alive]] < INFINITY) ++alive;
    if (!alive) {
        std::copy_n(old_mean, size, mean);
        std::copy_n(old_spread, size, spread);
        return 0;
    }
    std::fill_n(mean, size, 0.0f);
    std::fill_n(spread, size, 0.0f);
    for (int n = 0; n < alive; ++n) {
        const float* row = candidates + (std::size_t)order[n] * size;
        for (int i = 0; i < size; ++i) mean[i] += row[i];
    }
    for (int i = 0; i < size; ++i) mean[i] /= alive;
    for (int n = 0; n < alive; ++n) {
        const float* row = candidates + (std::size_t)order[n] * size;
        for (int i = 0; i < size; ++i) spread[i] += (row[i] - mean[i]) * (row[i] - mean[i]);
    }
    for (int i = 0; i < size; ++i) {
        const float deviation = std::sqrt(spread[i] / alive);
        spread[i] = std::max(deviation + momentum * (old_spread[i] - deviation), least);
        mean[i] += momentum * (old_mean[i] - mean[i]);
    }
    return alive;
}
}
