// The numbers that change from one training step to the next. The device advances them itself, and a captured step, which cannot
// take new arguments, reads them from memory.
//
//   step_counter_advance   lr = row counter[0] of rates, NaN past the end; counter += (1, 1, batch_size, batch_size)
//   counter_advance        before = counter; counter += by
//
// step_counter_advance: counter (4,) holds the row of rates, the number of steps done, the start of the next batch in the epoch's
// order, and its offset in the stream of random numbers. One warp.
// counter_advance: counter and before are one number each. One thread.
//
// Macros: DTYPE float32, float64, of the learning rates. Limits: none. Floor: a few dozen bytes, no FLOPs.

#include "types.cuh"

extern "C" __global__ void __launch_bounds__(32)
step_counter_advance(int64* counter, DTYPE* lr, const DTYPE* rates, int64 count, int64 width, int64 batch_size) {
    const int64 row = counter[0];
    const bool known = 0 <= row && row < count;
    for (int64 i = threadIdx.x; i < width; i += blockDim.x)
        lr[i] = known ? rates[row * width + i] : DTYPE(not_a_number());
    __syncthreads();
    if (threadIdx.x == 0) {
        counter[0] = row + 1;
        counter[1] += 1;
        counter[2] += batch_size;
        counter[3] += batch_size;
    }
}

extern "C" __global__ void __launch_bounds__(1)
counter_advance(int64* before, int64* counter, int64 by) {
    *before = *counter;
    *counter += by;
}
