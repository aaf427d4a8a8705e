// The gradient of a convolution with respect to its filters by wgmma: float16 and bfloat16; sm_90a.
//
// Formula, layouts, splits and macros are those of conv2d_wgrad.cu; the main loop is that of gemm_wgmma.cuh. A line of A
// (dy) holds one pixel's filters, a line of B (x) one pixel's taps. The depth runs from line to line, so both operands
// are MN-major. The threads that copy dy also sum db from it.
//
// Limits: those of conv2d_wgrad.cu. Floor: dy, x and dw once; 2 N P Q FLOPs per number of dw.

#include "gemm_wgmma.cuh"

#include "filter_gradient.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_wgrad_wgmma(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x,
                   const Convolution conv, const TileScheduler scheduler, int32 accumulate) {
    using IteratorA = FilterGradient::IteratorA;
    using IteratorB = FilterGradient::IteratorB;

    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            const FilterGradient gradient(dw, db, partials, conv, scheduler, accumulate, tile);
            const Plain gradients = gradient.gradients(dy);
            const InputWindows windows = gradient.windows(x);
            sync_copiers();
            IteratorA a(gradients, gradient.block.row);
            IteratorB b(windows, gradient.block.column);
            a.enable_sums(gradient.sums());
            copier.copy(a, b, gradient.block);
            gradient.store_sums(a);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            const FilterGradient gradient(dw, db, partials, conv, scheduler, accumulate, tile);
            Accumulators accumulators;
            accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(ring, gradient.block);
            gradient.store(accumulators);
        }
    }
}
