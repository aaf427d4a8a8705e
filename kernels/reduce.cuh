// Reductions over a warp and over a block, in a fixed order: the same inputs give the same bits.
//
//   Sum<T>, Max<T>: an operation with its identity.
//   reduce_warp(value, op)            every lane of a full warp receives the result
//   reduce_block(value, op, scratch)  every thread of the block receives the result. The block is one-dimensional, with a multiple
//                                     of 32 threads; scratch: 32 elements of shared memory
#pragma once

#include "types.cuh"

template <class T>
struct Sum {
    static __device__ T identity() { return T(0); }
    __device__ T operator()(T a, T b) const { return a + b; }
};

// The larger of two numbers; for a number and a NaN, the number.
template <class T>
struct Max {
    static __device__ T identity() { return T(-infinity()); }
    __device__ T operator()(T a, T b) const { return fmax(a, b); }
};

template <class T, class Op>
__device__ __forceinline__ T reduce_warp(T value, Op op) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

template <class T, class Op>
__device__ __forceinline__ T reduce_block(T value, Op op, T* scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = reduce_warp(value, op);
    __syncthreads();  // other threads may still read scratch from the previous reduction
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return reduce_warp(lane < warps ? scratch[lane] : Op::identity(), op);
}
