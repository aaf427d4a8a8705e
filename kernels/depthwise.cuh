// Shared by the depthwise kernels. In a depthwise convolution every group has one channel, read by conv.k filters: filter k reads
// channel k / conv.k. Nothing is summed over channels, so there is no matrix product, and with 2 R S FLOPs per output the kernels
// are memory-bound. A thread works on WIDTH neighboring channels: 16 bytes if conv.k = 1 and the addresses allow.
//
// In fprop and dgrad a thread computes OUTPUTS neighboring pixels (in dgrad, neighbors within a phase), so that it loads each
// weight only once for all of them. A tap's weights of WIDTH filters take WIDTH loads, because they are R S numbers apart.
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

// Reads one tap's weights of WIDTH filters.
__device__ __forceinline__ void read_weights(Real (&weights)[WIDTH], const DTYPE* w, int64 filter, int32 taps, int32 tap) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) weights[j] = factor(w[(filter + j) * taps + tap]);
}
