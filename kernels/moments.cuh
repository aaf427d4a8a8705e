// The mean and the variance of values that arrive in parts.
#pragma once

#include "types.cuh"

using Real = accumulator<DTYPE>;

// The number of values, their mean, and the sum of their squared deviations. Parts are combined by Chan's formula (Chan, Golub,
// LeVeque 1983), without mean(x^2) - mean^2, which would cancel.
struct Moments {
    using Value = Real;
    Real count, mean, deviations;

    static __device__ Moments of(Real value) { return {1, value, 0}; }
    template <int N, int ROWS>
    static __device__ void add(Moments (&states)[N], const Real (&values)[N][ROWS]) {
        const Real count = states[0].count, total = count + ROWS, share = ROWS / total;  // all have the same count
#pragma unroll
        for (int j = 0; j < N; ++j) {
            Real sum = values[j][0], deviations = 0;
#pragma unroll
            for (int i = 1; i < ROWS; ++i) sum += values[j][i];
            const Real mean = sum * (Real(1) / ROWS), delta = mean - states[j].mean;
#pragma unroll
            for (int i = 0; i < ROWS; ++i) deviations += (values[j][i] - mean) * (values[j][i] - mean);
            states[j].mean += delta * share;
            states[j].deviations += deviations + delta * (count * share) * delta;
            states[j].count = total;
        }
    }
    __device__ void merge(const Moments& other) {
        if (other.count == 0) return;
        const Real total = count + other.count, share = other.count / total, delta = other.mean - mean;
        mean += delta * share;
        deviations += other.deviations + delta * (count * share) * delta;
        count = total;
    }
};
