// The activation after a batch norm: its input, recomputed from the norm's input, and the gradient of the activation's input.
//
// Macros: DTYPE; ACTIVATION.
#pragma once

#include "activation.cuh"
#include "types.cuh"

constexpr bool ACTIVE = !IS_IDENTITY<ACTIVATION>;

// The norm's output, which is the activation's input.
__device__ __forceinline__ DTYPE normalized(DTYPE x, accumulator<DTYPE> mean, accumulator<DTYPE> scale, accumulator<DTYPE> beta) {
    return round_to<DTYPE>((load(x) - mean) * scale + beta);
}

// The gradient of the activation's input. dy: the gradient of its output. Without an activation only dy is used.
__device__ __forceinline__ accumulator<DTYPE>
activation_backward(DTYPE dy, DTYPE x, accumulator<DTYPE> mean, accumulator<DTYPE> scale, accumulator<DTYPE> beta) {
    if constexpr (!ACTIVE) return load(dy);
    const ACTIVATION<accumulator<DTYPE>> activation;
    const accumulator<DTYPE> input = load(normalized(x, mean, scale, beta));
    const accumulator<DTYPE> saved = SAVES_OUTPUT<ACTIVATION> ? load(round_to<DTYPE>(activation.apply(input))) : input;
    return load(round_to<DTYPE>(activation.gradient(load(dy), saved)));
}
