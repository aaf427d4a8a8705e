// The gradient of a convolution with respect to its input by wgmma: float16 and bfloat16; sm_90a.
//
// Formula, layouts, splits, phases and macros are those of conv2d_dgrad.cu; the main loop is that of gemm_wgmma.cuh. The lines of dy
// run along the depth: K-major. The filters' lines run along the channels: MN-major.
//
// Limits: those of conv2d_dgrad.cu.
// Floor: dx, dy and w once; 2 R S K / groups / stride^2 FLOPs per number of dx.

#include "gemm_wgmma.cuh"

#include "input_gradient.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_dgrad_wgmma(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const DTYPE* norm_x,
                   const Real* mean, const Real* gamma, const Real* beta, const Real* inv_std, const Convolution conv,
                   const TileScheduler scheduler, int32 accumulate) {
    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            const InputGradient gradient(conv, scheduler, tile);
            const GradientWindows windows = gradient.windows(dy);
            const TransposedFilters filters = gradient.filters(w);
            sync_copiers();
            InputGradient::IteratorA a(windows, gradient.block.row);
            InputGradient::IteratorB b(filters, gradient.block.column);
            copier.copy(a, b, gradient.block);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x; tile < scheduler.tiles; tile += gridDim.x) {
            Accumulators accumulators;
            const Block block = InputGradient(conv, scheduler, tile).block;
            accumulators.multiply<InputGradient::IteratorA::Tile, InputGradient::IteratorB::Tile>(ring, block);
            const InputGradient gradient(conv, scheduler, tile);  // not before the main loop, where it would take registers
            gradient.store(accumulators, dx, sums, partials, {norm_x, mean, gamma, beta, inv_std}, accumulate);
        }
    }
}
