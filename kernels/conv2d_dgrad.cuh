// The body of conv2d_dgrad.cu and conv2d_dgrad_mma.cu, which include their main loop first. conv2d_dgrad.cu has formula and
// layouts.
#pragma once

#include "input_gradient.cuh"

__device__ __forceinline__ void
dgrad(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const NormBelow& norm,
      const Convolution& conv, const TileScheduler& scheduler) {
    const InputGradient gradient(conv, scheduler);
    const GradientWindows windows = gradient.windows(dy);
    const TransposedFilters filters = gradient.filters(w);
    InputGradient::IteratorA a(windows, gradient.block.row);
    const Accumulators accumulators =
        product({}, a, InputGradient::IteratorB(filters, gradient.block.column), gradient.block);
    gradient.store(accumulators, dx, sums, partials, norm);
}
