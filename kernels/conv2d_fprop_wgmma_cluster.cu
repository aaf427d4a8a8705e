// Convolution forward by wgmma in clusters: float16 and bfloat16; sm_90a.
//
// Formula, layouts and macros are those of conv2d_fprop.cu; the main loop is that of gemm_wgmma.cuh. The CLUSTER blocks of a cluster
// compute tiles that lie one below the other, so they need the same filters: each block loads its share of a tile of
// filters for all blocks (multicast_iterator.cuh). If the number of tiles down is not a multiple of CLUSTER, the last
// blocks have no rows: they multiply zeros and store no output. With MOMENTS they store moments whose count is 0.
//
// Grid: (clusters x CLUSTER, splits). The scheduler counts a cluster's tiles as one. filters: the tensor map of w.
// Limits: those of conv2d_fprop.cu, and VECTOR_C and VECTOR_K are 8.
// Floor: x, w and y once; 2 R S C / groups FLOPs per output.

#include "gemm_wgmma.cuh"

#include "conv2d_epilogue.cuh"
#include "multicast_iterator.cuh"

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1)
__launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) + 128, RESIDENT_BLOCKS)
conv2d_fprop_wgmma_cluster(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                           const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler,
                           const __grid_constant__ TensorMap filters) {
    using IteratorA = TileIterator<InputWindows, BLOCK_M, VECTOR_C, true>;
    using IteratorB = MulticastIterator<BLOCK_N, FilterBoxes>;
    const int32 taps = conv.r * conv.s * conv.c, clusters = int32(gridDim.x) / CLUSTER;
    Ring::open();
    if (warpgroup() == WARPGROUPS) {
        Copier copier;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            const Block block = block_of_cluster(scheduler, taps, tile);
            const InputWindows windows{x + int64(block.group) * conv.c, conv};
            const FilterBoxes boxes{filters, block.group};
            sync_copiers();
            IteratorA a(windows, block.row);
            IteratorB b(boxes, copier.filling, block.column);
            copier.copy(a, b, block);
        }
        copier.finish();
    } else {
        Ring ring;
        for (int32 tile = blockIdx.x / CLUSTER; tile < scheduler.tiles; tile += clusters) {
            const Block block = block_of_cluster(scheduler, taps, tile);
            Accumulators accumulators;
            if (bias) accumulators.begin_at(bias + int64(block.group) * conv.k, block, conv.k);
            accumulators.multiply<IteratorA::Tile, IteratorB::Tile>(ring, block);
            run_epilogue(accumulators, block, y, mask, input, moments, partials, conv);
        }
    }
    Ring::close();
}
