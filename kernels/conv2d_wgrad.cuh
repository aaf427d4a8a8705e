// The body of conv2d_wgrad.cu and conv2d_wgrad_mma.cu, which include their main loop first. conv2d_wgrad.cu has formula and
// layouts.
#pragma once

#include "filter_gradient.cuh"

__device__ __forceinline__ void
wgrad(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x, const Convolution& conv,
      const TileScheduler& scheduler, int32 accumulate) {
    const FilterGradient gradient(dw, db, partials, conv, scheduler, accumulate);
    const Plain gradients = gradient.gradients(dy);
    const InputWindows windows = gradient.windows(x);
    FilterGradient::IteratorA a(gradients, gradient.block.row);
    a.enable_sums(gradient.sums());
    gradient.store(product({}, a, FilterGradient::IteratorB(windows, gradient.block.column), gradient.block));
    gradient.store_sums(a);
}
