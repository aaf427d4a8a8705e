// The body of conv2d_fprop.cu and conv2d_fprop_mma.cu, which include their main loop first. conv2d_fprop.cu has formula and
// layouts.
#pragma once

#include "conv2d_epilogue.cuh"

__device__ __forceinline__ void
fprop(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x, const DTYPE* w,
      const DTYPE* bias, const Convolution& conv, const TileScheduler& scheduler) {
    const int32 taps = conv.r * conv.s * conv.c;
    const Block block(scheduler, taps);
    const int64 first_filter = int64(block.group) * conv.k;
    const InputWindows windows{x + int64(block.group) * conv.c, conv};
    const Plain filters{w + first_filter * taps, taps, conv.k, taps};

    Accumulators accumulators;
    if (bias) accumulators.begin_at(bias + first_filter, block, conv.k);
    TileIterator<InputWindows, BLOCK_M, VECTOR_C, true> a(windows, block.row);
    accumulators = product(accumulators, a, TileIterator<Plain, BLOCK_N, VECTOR_C, true>(filters, block.column), block);
    run_epilogue(accumulators, block, y, mask, input, moments, partials, conv);
}
