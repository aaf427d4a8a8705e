// What the depthwise kernels share. In a depthwise convolution every group has one channel, and conv.k filters read it: filter k
// belongs to channel k / conv.k. There is no sum over channels, so no product of matrices: 2 R S FLOPs an output make it bound
// by memory, and a thread works on WIDTH neighbouring channels, 16 bytes where conv.k = 1 and the addresses allow.
//
// A thread makes OUTPUTS results side by side, so that a filter's weights, which lie R S apart, are loaded once for all.
#pragma once

#include "activation.cuh"
#include "convolution.cuh"

using Real = accumulator<DTYPE>;
using Numbers = Pack<DTYPE, WIDTH>;

constexpr int OUTPUTS = 4;

struct Accumulators {
    Real at[OUTPUTS][WIDTH] = {};

    __device__ __forceinline__ void add(int output, const DTYPE* from, const Real (&weights)[WIDTH]) {
        const Numbers numbers = *reinterpret_cast<const Numbers*>(from);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) at[output][j] += factor(numbers.at[j]) * weights[j];
    }
};

// One tap's weights of WIDTH filters.
__device__ __forceinline__ void read_weights(Real (&weights)[WIDTH], const DTYPE* w, int64 filter, int32 taps, int32 tap) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) weights[j] = factor(w[(filter + j) * taps + tap]);
}
