// The two sums that the gradients of a norm's parameters need, as a State of column_reduce.cuh.
#pragma once

#include "types.cuh"

using Real = accumulator<DTYPE>;

// The sums of dy and of its product with the centered x.
struct alignas(2 * sizeof(Real)) Sums {
    using Value = Sums;
    Real dy, product;

    static __device__ Sums of(const Sums& value) { return value; }
    template <int LANES, int ROWS>
    static __device__ void add(Sums (&lanes)[LANES], const Sums (&values)[LANES][ROWS]) {
#pragma unroll
        for (int j = 0; j < LANES; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) lanes[j].merge(values[j][i]);
    }
    __device__ void merge(const Sums& other) {
        dy += other.dy;
        product += other.product;
    }
};
