// The gradient of a convolution with respect to its input by wgmma: float16 and bfloat16; sm_90a.
//
// Formula, layouts, grid, phases and macros are those of conv2d_dgrad.cu, the main loop that of gemm_wgmma.cuh. The lines of dy run
// along the depth: K-major. The filters' lines run along the channels: MN-major.

#include "gemm_wgmma.cuh"

#include "conv2d.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, 1)
conv2d_dgrad_wgmma(DTYPE* dx, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const Convolution conv,
                   const TileScheduler scheduler) {
    using IteratorA = TileIterator<GradientWindows, BLOCK_M, VECTOR_K, true>;
    using IteratorB = TileIterator<TransposedFilters, BLOCK_N, VECTOR_C, false>;
    Block block(scheduler, conv.r * conv.s * conv.k);
    int32 column = block.group;
    block.group = conv.phases.divide(column);
    const int32 row = conv.stride_w.divide(column);
    const Phase phase(conv, row, column);
    block.end = min(block.end, phase.depth(conv));
    const int64 first_filter = int64(block.group) * conv.k, first_channel = int64(block.group) * conv.c;

    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        const GradientWindows windows{dy + first_filter, conv, phase};
        const TransposedFilters filters(w + first_filter * conv.r * conv.s * conv.c, conv, phase);
        IteratorA a(windows, block.row);
        IteratorB b(filters, block.column);
        copy_tiles(a, b, block);
    } else {
        Accumulators accumulators;
        accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(block);
        const int64 pitch = conv.all_channels;
        if (partials) partials += blockIdx.y * (int64(conv.n * conv.h * conv.w) * pitch) + first_channel;
        accumulators.store<VECTOR_C>(Epilogue{dx + first_channel, partials, pitch, conv.c, false}, block, PhaseRows{conv, phase});
    }
}
