// Convolution forward of few channels in one group, as in a net's first layer: float16, bfloat16 and TF32 on tensor cores,
// float32; sm_80 and up.
//
// Formula, layouts and finishes are those of conv2d_fprop.cu, the tile and its main loop those of conv2d_few_channels.cuh. grid:
// blocks, each of which takes tile after tile, gridDim.x apart, a multiple of the tiles across: it keeps to its filters, and copies the
// next tile's part of x while it computes. The depth is whole, there are no partial sums.
//
// Macros of conv2d_fprop.cu, VECTOR_C 1. Limits: at most 4 channels, and the shared memory that
// `few_channels_smem_bytes` (gpuconv/algorithms.py) allows.
//
// Floor: x once and y once, sizeof(DTYPE) bytes each, and 2 R S C FLOPs an output. N = 128, 32 x 32, 3 -> 64, 3 x 3 in bfloat16:
// 17.6 MB, 4.1 us at an H200's 4.3 TB/s. The lines above and below a tile come a second time, out of L2: 25 % of x there.
//
// The machine code for sm_90a in float16 with vectors: no spill at 128 registers, 2 blocks of 256 threads a multiprocessor, at
// 256 x 64, and at 76, 3 blocks, at 256 x 32. Of the some 700 instructions that a warp issues for a tile of that problem 32 are
// HMMA, 32 read x, 8 read filters, 8 store 16 bytes; to find windows and copy the next patch takes 260, to begin the sums 90, to
// round and store them 130. Bank conflicts, counted on the emulated device: none of the filters, none in float32, 1.1 turns more
// for a read of x in float16 at 3 x 3, 0.4 in TF32.
//
// Prediction, not measured: issue takes 3.1 of the 4.1 us, so that memory limits large batches, at 80 % of bandwidth; at N = 128,
// two tiles a block, the first one's latency shows: 5.5 us, 75 %. 24 filters of 2 x 2 (N = 2000, 24 us of memory) are limited
// by issue, 32 us. In float32 27 x 64 FMA a tile and warp are two thirds of all instructions.

#include "gemm.cuh"

#include "conv2d_few_channels.cuh"

#include "conv2d_epilogue.cuh"

// Where single numbers are stored it takes more registers.
constexpr int RESIDENT = VECTOR_K == 1 && MIN_BLOCKS > 1 ? MIN_BLOCKS - 1 : MIN_BLOCKS;

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT)
conv2d_fprop_few_channels(DTYPE* y, uint8* mask, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x, const DTYPE* w,
                          const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    extern __shared__ __align__(16) unsigned char memory[];
    const int32 taps = conv.r * conv.s * conv.c, depth = (taps + STEP_K - 1) / STEP_K * STEP_K, pixels = conv.n * conv.p * conv.q;
    const int32 stride = int32(gridDim.x) / int32(scheduler.across.divisor) * BLOCK_M;
    float* const biases = reinterpret_cast<float*>(memory);
    int32* const offsets = reinterpret_cast<int32*>(biases + BLOCK_N);
    const Filters filters{biases, reinterpret_cast<DTYPE*>(offsets + (depth + 3) / 4 * 4), depth};
    DTYPE* const patches = filters.cells + filters.size();
    Block block(scheduler, taps);
    const Patch patch(conv, block.row);
    patch.fetch(patches, x);
    patch.list_taps(offsets, taps, depth);
    filters.read(w + int64(block.column) * taps, bias ? bias + block.column : nullptr, conv.k - block.column, taps);
    int32 at = 0;  // of the two patches, the tile's
    for (bool more = true; more; block.row += more ? stride : 0) {
        const DTYPE* windows[Accumulators::PIXELS];
        const Patch patch(conv, block.row);
        patch.find(windows, patches + at, Accumulators::pixel());
        wait_for_copies<0>();
        __syncthreads();  // this tile's patch is there, and the last one's free
        more = pixels - block.row > stride;
        at = patch.size() - at;
        if (more) Patch(conv, block.row + stride).fetch(patches + at, x);
        Accumulators accumulators(filters);
        accumulators.multiply(windows, offsets, filters, taps);
        run_epilogue(accumulators, block, y, mask, moments, nullptr, conv);
    }
}
