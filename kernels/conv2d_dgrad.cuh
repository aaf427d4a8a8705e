// The body of conv2d_dgrad.cu and conv2d_dgrad_mma.cu, which include their main loop first. conv2d_dgrad.cu has formula and
// layouts.
#pragma once

#include "input_gradient.cuh"

__device__ __forceinline__ void
dgrad(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const NormBelow& norm,
      const Convolution& conv, const TileScheduler& scheduler, int32 accumulate) {
    // Repeats the constructor of InputGradient: if the main loop used the members of one, it would spill registers.
    Block block(scheduler, InputGradient::depth(conv));
    int32 part;
    const Phase phase = InputGradient::split_off_phase(conv, block.group, part);
    block.end = min(block.end, phase.depth(conv));
    const int64 first_filter = int64(block.group) * conv.k;
    const GradientWindows windows{dy + first_filter, conv, phase};
    const TransposedFilters filters(w + first_filter * conv.r * conv.s * conv.c, conv, phase);
    InputGradient::IteratorA a(windows, block.row);
    const auto accumulators = product({}, a, InputGradient::IteratorB(filters, block.column), block);
    InputGradient(conv, scheduler).store(accumulators, dx, sums, partials, norm, accumulate);
}
