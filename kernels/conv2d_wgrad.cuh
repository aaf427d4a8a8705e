// The body of conv2d_wgrad.cu and conv2d_wgrad_mma.cu, which include their main loop first. conv2d_wgrad.cu has formula and
// layouts.
#pragma once

#include "conv2d.cuh"

__device__ __forceinline__ void
wgrad(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x, const Convolution& conv,
      const TileScheduler& scheduler, int32 accumulate) {
    const int32 pixels = conv.n * conv.p * conv.q, taps = conv.r * conv.s * conv.c;
    const Block block(scheduler, pixels);
    const int64 first_filter = int64(block.group) * conv.k;
    const Plain gradients{dy + first_filter, conv.all_filters, pixels, conv.k};
    const InputWindows windows{x + int64(block.group) * conv.c, conv};

    TileIterator<Plain, BLOCK_M, VECTOR_K, false, true> a(gradients, block.row);
    const bool sum_dy = db && block.column == 0;
    a.enable_sums(sum_dy);
    const Accumulators accumulators =
        product({}, a, TileIterator<InputWindows, BLOCK_N, VECTOR_C, false>(windows, block.column), block);

    const int64 first = first_filter * taps;
    const int64 size = int64(conv.all_filters) * taps;
    if (partials) partials += blockIdx.y * (size + (db ? (conv.all_filters + 3) / 4 * 4 : 0));
    accumulators.store<VECTOR_C>(Epilogue{dw + first, partials ? partials + first : nullptr, taps, taps, accumulate}, block,
                                 RowsInOrder{conv.k});
    if (sum_dy)
        a.take_sums([&](int32 row, Real sum) {
            if (block.row + row >= conv.k) return;
            const int64 filter = first_filter + block.row + row;
            if (partials) partials[size + filter] = sum;
            else db[filter] = round_to<DTYPE>(accumulate ? load(db[filter]) + sum : sum);
        });
}
