// The activation that follows a batch norm: its input, recomputed from the norm's input, and the gradient of that input.
//
// Macros: DTYPE; ACTIVATION.
#pragma once

#include "activation.cuh"
#include "types.cuh"

constexpr bool ACTIVE = !IS_IDENTITY<ACTIVATION>;

// The activation's input.
__device__ __forceinline__ DTYPE normal(DTYPE x, accumulator<DTYPE> mean, accumulator<DTYPE> scale, accumulator<DTYPE> beta) {
    return round_to<DTYPE>((load(x) - mean) * scale + beta);
}

// dy: the gradient of the activation's output. scale and beta are used only with an activation.
__device__ __forceinline__ accumulator<DTYPE>
behind_activation(DTYPE dy, DTYPE x, accumulator<DTYPE> mean, accumulator<DTYPE> scale, accumulator<DTYPE> beta) {
    if constexpr (!ACTIVE) return load(dy);
    const ACTIVATION<accumulator<DTYPE>> activation;
    const accumulator<DTYPE> input = load(normal(x, mean, scale, beta));
    const accumulator<DTYPE> saved = SAVES_OUTPUT<ACTIVATION> ? load(round_to<DTYPE>(activation.apply(input))) : input;
    return load(round_to<DTYPE>(activation.gradient(load(dy), saved)));
}
