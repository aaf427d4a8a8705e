// Convolution forward by wgmma: float16 and bfloat16; sm_90a.
//
// Formula, layouts, splits and macros are those of conv2d_fprop.cu; the main loop is that of gemm_wgmma.cuh. The lines of both
// operands run along the depth: both are K-major.
//
// Limits: those of conv2d_fprop.cu. Floor: x, w and y once; 2 R S C / groups FLOPs per output.

#include "gemm_wgmma.cuh"

#include "conv2d_epilogue.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_fprop_wgmma(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                   const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    using IteratorA = TileIterator<InputWindows, BLOCK_M, VECTOR_C, true>;
    using IteratorB = TileIterator<Plain, BLOCK_N, VECTOR_C, true>;
    const int32 taps = conv.r * conv.s * conv.c;
    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            const Block block(scheduler, taps, tile);
            const InputWindows windows{x + int64(block.group) * conv.c, conv};
            const Plain filters{w + int64(block.group) * conv.k * taps, taps, conv.k, taps};
            sync_copiers();
            IteratorA a(windows, block.row);
            IteratorB b(filters, block.column);
            copier.copy(a, b, block);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            const Block block(scheduler, taps, tile);
            Accumulators accumulators;
            if (bias) accumulators.begin_at(bias + int64(block.group) * conv.k, block, conv.k);
            accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(ring, block);
            run_epilogue(accumulators, block, y, mask, input, moments, partials, conv);
        }
    }
}
