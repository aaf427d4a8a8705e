// The gradient of a convolution with respect to its input by wgmma in clusters: float16 and bfloat16; sm_90a.
//
// Formula, layouts, phases and macros are those of conv2d_dgrad.cu; the main loop is that of gemm_wgmma.cuh. The blocks of a cluster
// share the filters as in conv2d_fprop_wgmma_cluster.cu.
//
// Grid: (clusters x CLUSTER, splits). The scheduler counts a cluster's tiles as one. filters: the tensor map of w.
// Limits: those of conv2d_dgrad.cu, and VECTOR_C and VECTOR_K are 8.
// Floor: dx, dy and w once; 2 R S K / groups / stride^2 FLOPs per number of dx.

#include "gemm_wgmma.cuh"

#include "input_gradient.cuh"
#include "multicast_iterator.cuh"

__device__ __forceinline__ InputGradient gradient_of_cluster(const Convolution& conv, const TileScheduler& scheduler, int32 tile) {
    return {conv, block_of_cluster(scheduler, InputGradient::depth(conv), tile), int32(scheduler.down.divisor) * CLUSTER};
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1)
__launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_dgrad_wgmma_cluster(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w,
                           const DTYPE* norm_x, const Real* mean, const Real* gamma, const Real* beta, const Real* inv_std,
                           const Convolution conv, const TileScheduler scheduler, int32 accumulate,
                           const __grid_constant__ TensorMap filters) {
    using IteratorB = MulticastIterator<BLOCK_N, TransposedFilterBoxes>;
    const int32 clusters = int32(gridDim.x) / CLUSTER;
    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            const InputGradient gradient = gradient_of_cluster(conv, scheduler, tile);
            const GradientWindows windows = gradient.windows(dy);
            const TransposedFilters transposed = gradient.filters(w);
            const TransposedFilterBoxes boxes{filters, transposed, int32(gradient.first_filter())};
            sync_copiers();
            InputGradient::IteratorA a(windows, gradient.block.row);
            IteratorB b(boxes, copier.filling, gradient.block.column);
            copier.copy(a, b, gradient.block);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            Accumulators accumulators;
            const Block block = gradient_of_cluster(conv, scheduler, tile).block;
            accumulators.multiply<InputGradient::IteratorA::Tile, IteratorB::Tile>(ring, block);
            // Not before the main loop, where it would take registers.
            const InputGradient gradient = gradient_of_cluster(conv, scheduler, tile);
            gradient.store(accumulators, dx, sums, partials, {norm_x, mean, gamma, beta, inv_std}, accumulate);
        }
    }
    Ring::close();
}
