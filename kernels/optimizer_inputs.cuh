// The values that every optimizer step reads besides its parameters, gradients and state.
#pragma once

#include "types.cuh"

// The learning rate: in device memory as float32 or float64, or a number.
__device__ __forceinline__ double read_rate(const float* lr32, const double* lr64, double lr) {
    return lr64 ? *lr64 : lr32 ? double(*lr32) : lr;
}

// The factor of the gradients; 0: skip the step.
__device__ __forceinline__ double read_unscale(const double* scaling) { return scaling ? scaling[1] : 1; }
