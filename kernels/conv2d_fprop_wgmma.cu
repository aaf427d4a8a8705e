// Convolution forward by wgmma: float16 and bfloat16; sm_90a.
//
// Formula, layouts, grid and macros are those of conv2d_fprop.cu, the main loop that of gemm_wgmma.cuh. The lines of both operands
// run along the depth: both are K-major.

#include "gemm_wgmma.cuh"

#include "conv2d_epilogue.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, 1)
conv2d_fprop_wgmma(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                   const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    using IteratorA = TileIterator<InputWindows, BLOCK_M, VECTOR_C, true>;
    using IteratorB = TileIterator<Plain, BLOCK_N, VECTOR_C, true>;
    const int32 taps = conv.r * conv.s * conv.c;
    const Block block(scheduler, taps);
    const int64 first_filter = int64(block.group) * conv.k;

    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        const InputWindows windows{x + int64(block.group) * conv.c, conv};
        const Plain filters{w + first_filter * taps, taps, conv.k, taps};
        IteratorA a(windows, block.row);
        IteratorB b(filters, block.column);
        copy_tiles(a, b, block);
    } else {
        Accumulators accumulators;
        if (bias) accumulators.begin_at(bias + first_filter, block, conv.k);
        accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(block);
        run_epilogue(accumulators, block, y, mask, input, moments, partials, conv);
    }
}
