// The gradient of a convolution with respect to its filters by wgmma in clusters: float16 and bfloat16; sm_90a.
//
// Formula, layouts, splits and macros are those of conv2d_wgrad.cu; the main loop is that of gemm_wgmma.cuh. The CLUSTER blocks of a
// cluster compute tiles that lie side by side, so they need the same part of dy: each block loads its share of that
// part for all blocks (multicast_iterator.cuh). The threads that multiply the tiles of the first columns also sum db
// from dy. If the number of tiles across is not a multiple of CLUSTER, the last blocks have no columns: they multiply
// zeros and store nothing.
//
// Grid: (clusters x CLUSTER, splits). The scheduler counts a cluster's tiles as one. gradients: the tensor map of dy.
// Limits: those of conv2d_wgrad.cu, and VECTOR_C and VECTOR_K are 8.
// Floor: dy, x and dw once; 2 N P Q FLOPs per number of dw.

#include "gemm_wgmma.cuh"

#include "filter_gradient.cuh"
#include "multicast_iterator.cuh"

// This block's part of the tiles of its cluster, which lie side by side. tile: the cluster's index; the scheduler counts
// these tiles as one.
__device__ __forceinline__ FilterGradient
gradient_of_cluster(DTYPE* dw, DTYPE* db, Real* partials, const Convolution& conv, const TileScheduler& scheduler, int32 accumulate,
                    int32 tile) {
    FilterGradient gradient(dw, db, partials, conv, scheduler, accumulate, tile);
    gradient.block.column = gradient.block.column * CLUSTER + int32(cluster_rank()) * BLOCK_N;
    return gradient;
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1)
__launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_wgrad_wgmma_cluster(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x,
                           const Convolution conv, const TileScheduler scheduler, int32 accumulate,
                           const __grid_constant__ TensorMap gradients) {
    using IteratorA = MulticastIterator<BLOCK_M, GradientBoxes>;
    using IteratorB = FilterGradient::IteratorB;
    using BiasSums = ColumnSums<IteratorA::Tile, BLOCK_M, THREADS>;
    static_assert(BiasSums::BYTES <= THREADS / 32 * FragmentStore::BYTES, "the sums of columns fit into the warps' buffers");
    const int32 clusters = int32(gridDim.x) / CLUSTER;
    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            const FilterGradient gradient = gradient_of_cluster(dw, db, partials, conv, scheduler, accumulate, tile);
            const GradientBoxes boxes{gradients, int32(gradient.first_filter), conv.all_filters};
            const InputWindows windows = gradient.windows(x);
            sync_copiers();
            IteratorA a(boxes, copier.filling, gradient.block.row);
            IteratorB b(windows, gradient.block.column);
            copier.copy(a, b, gradient.block);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            const FilterGradient gradient = gradient_of_cluster(dw, db, partials, conv, scheduler, accumulate, tile);
            Accumulators accumulators;
            BiasSums sums;
            sums.enabled = gradient.sums();
            accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(ring, gradient.block, [&](const unsigned char* tile_of_dy) {
                if (!sums.enabled) return;
                sums.add(tile_of_dy, int(threadIdx.x));
                Accumulators::sync();  // before any thread says that the stage is free
            });
            if (sums.enabled) {
                sums.take(stored_memory(0), int(threadIdx.x), [] { Accumulators::sync(); },
                          [&](int32 row, Real sum) { gradient.store_sum(row, sum); });
                Accumulators::sync();
            }
            gradient.store(accumulators);
        }
    }
    Ring::close();
}
