// The last block of a launch to finish, which combines the results of all blocks.
#pragma once

#include "types.cuh"

// Whether all other blocks of the launch have called this; the same in every thread of a block. Where it is true, all threads may
// read what thread 0 of each block wrote before its call, but only past the L1 cache, by __ldcg. done: zero before and after the
// launch. All threads of each block call this once.
__device__ __forceinline__ bool is_last_block(uint32* done) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last) __threadfence();
    return is_last;
}
