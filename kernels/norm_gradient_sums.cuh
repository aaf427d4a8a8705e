// The two sums that the gradients of a norm's parameters need, as a State of column_reduce.cuh.
#pragma once

#include "types.cuh"

using Real = accumulator<DTYPE>;

// The sums of dy and of its product with x: batch norm centers x first, group norm normalizes it.
struct alignas(2 * sizeof(Real)) Sums {
    using Value = Sums;
    Real dy, product;

    static __device__ Sums of(const Sums& value) { return value; }
    template <int N, int ROWS>
    static __device__ void add(Sums (&states)[N], const Sums (&values)[N][ROWS]) {
#pragma unroll
        for (int j = 0; j < N; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) states[j].merge(values[j][i]);
    }
    __device__ void merge(const Sums& other) {
        dy += other.dy;
        product += other.product;
    }
};
