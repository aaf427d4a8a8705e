// The body of conv2d_dgrad.cu and conv2d_dgrad_mma.cu, which include their main loop first. conv2d_dgrad.cu has formula and
// layouts.
#pragma once

#include "conv2d.cuh"

__device__ __forceinline__ void
dgrad(DTYPE* dx, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const Convolution& conv,
      const TileScheduler& scheduler) {
    Block block(scheduler, conv.r * conv.s * conv.k);
    int32 column = block.group;
    block.group = conv.phases.divide(column);
    const int32 row = conv.stride_w.divide(column);
    const Phase phase(conv, row, column);
    block.end = min(block.end, phase.depth(conv));
    const int64 first_filter = int64(block.group) * conv.k, first_channel = int64(block.group) * conv.c;
    const GradientWindows windows{dy + first_filter, conv, phase};
    const TransposedFilters filters(w + first_filter * conv.r * conv.s * conv.c, conv, phase);

    TileIterator<GradientWindows, BLOCK_M, VECTOR_K, true> a(windows, block.row);
    const Accumulators accumulators =
        product({}, a, TileIterator<TransposedFilters, BLOCK_N, VECTOR_C, false>(filters, block.column), block);

    const int64 pitch = conv.all_channels;
    if (partials) partials += blockIdx.y * (int64(conv.n * conv.h * conv.w) * pitch) + first_channel;
    accumulators.store<VECTOR_C>(Epilogue{dx + first_channel, partials, pitch, conv.c, false}, block, PhaseRows{conv, phase});
}
