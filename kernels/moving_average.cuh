// The moving average of a parameter. Macro: DTYPE, of the parameter and its average.
#pragma once

#include "types.cuh"

__device__ __forceinline__ void move_average(DTYPE& average, DTYPE p, accumulator<DTYPE> rate) {
    const accumulator<DTYPE> before = load(average);
    average = round_to<DTYPE>(before + rate * (load(p) - before));
}
