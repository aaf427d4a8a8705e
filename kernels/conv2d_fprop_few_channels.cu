// Convolution forward of few channels in one group, such as a net's first layer: float16, bfloat16 and TF32 on tensor cores,
// float32 on the CUDA cores; sm_80 and up.
//
// Formula, layouts and epilogues are those of conv2d_fprop.cu; tile and main loop are those of conv2d_few_channels.cuh. Each block
// computes several tiles, gridDim.x apart. gridDim.x is a multiple of the tiles across, so a block keeps its filters. It copies
// the next tile's patch of x while it computes. There is no split-K.
//
// Macros: those of conv2d_fprop.cu, with VECTOR_C 1. Limits: at most 4 channels, and the shared memory that
// `few_channels_smem_bytes` (gpuconv/few_channels.py) allows.
// Floor: x, w and y once; 2 R S C FLOPs per output.

#include "gemm.cuh"

#include "conv2d_few_channels.cuh"

#include "conv2d_epilogue.cuh"

// One block fewer where single numbers are stored, which takes more registers.
constexpr int RESIDENT = VECTOR_K == 1 && MIN_BLOCKS > 1 ? MIN_BLOCKS - 1 : MIN_BLOCKS;

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT)
conv2d_fprop_few_channels(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                          const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
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
    int32 at = 0;  // the offset of the tile's patch
    for (bool more = true; more; block.row += more ? stride : 0) {
        const DTYPE* windows[Accumulators::PIXELS];
        const Patch patch(conv, block.row);
        patch.find(windows, patches + at, Accumulators::pixel());
        wait_for_copies<0>();
        __syncthreads();  // this tile's patch has arrived, and the previous one is free
        more = pixels - block.row > stride;
        at = patch.size() - at;
        if (more) Patch(conv, block.row + stride).fetch(patches + at, x);
        Accumulators accumulators(filters);
        accumulators.multiply(windows, offsets, filters, taps);
        run_epilogue(accumulators, block, y, mask, input, moments, nullptr, conv);
    }
}
