// The one text of conv2d_fprop.cu and conv2d_fprop_mma.cu, which include their main loop first. The .cu has formula and layouts.
#pragma once

#include "conv2d_finish.cuh"

__device__ __forceinline__ void
fprop(DTYPE* y, uint8* mask, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x, const DTYPE* w,
      const DTYPE* bias, const Convolution& conv, const Schedule& schedule) {
    const int32 taps = conv.r * conv.s * conv.c;
    const Block block(schedule, taps);
    const int64 first_filter = int64(block.group) * conv.k;
    const InputWindows windows{x + int64(block.group) * conv.c, conv};
    const Plain filters{w + first_filter * taps, taps, conv.k, taps};

    Sums sums;
    if (bias) sums.begin_at(bias + first_filter, block, conv.k);
    Loader<InputWindows, BLOCK_M, VECTOR_C, true> a(windows, block.row);
    sums = product(sums, a, Loader<Plain, BLOCK_N, VECTOR_C, true>(filters, block.column), block);
    finish(sums, block, y, mask, moments, partials, conv);
}
