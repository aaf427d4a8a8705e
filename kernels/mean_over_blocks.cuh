// The mean of a loss whose terms all threads of a launch add up.
//
// Macros: DTYPE. Blocks have 256 threads.
#pragma once

#include "last_block.cuh"
#include "reduce.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;

// loss[0] = (sum over all threads of `sum`) / divisor. The blocks write their sums to `partials`; the last block to finish adds
// them in a fixed order, so the bits do not depend on which block is last. counter: zero before and after the launch.
__device__ __forceinline__ void mean_over_blocks(Real* loss, Real* partials, uint32* counter, Real sum, Real divisor) {
    __shared__ Real scratch[32];
    sum = reduce_block(sum, Sum<Real>{}, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
    if (!is_last_block(counter)) return;
    Real total = 0;
    for (int32 block = threadIdx.x; block < gridDim.x; block += blockDim.x) total += __ldcg(partials + block);
    total = reduce_block(total, Sum<Real>{}, scratch);
    if (threadIdx.x == 0) loss[0] = total / divisor;
}
