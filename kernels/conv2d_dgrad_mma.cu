// The gradient of a convolution with respect to its input on tensor cores: float16, bfloat16, TF32; sm_80 and up.
//
// Formula, layouts, grid, phases and macros are those of conv2d_dgrad.cu; the main loop is that of gemm_mma.cuh. The filters' lines
// run along the channels, not along the depth. 16-bit filters are therefore transposed when they are read. With 32-bit
// filters the columns of four products are interleaved (mma_tile.cuh).
//
// Limits: those of conv2d_dgrad.cu.
// Floor: dx, dy and w once; 2 R S K / groups / stride^2 FLOPs per number of dx.

#include "gemm_mma.cuh"

#include "conv2d_dgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_dgrad_mma(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const DTYPE* norm_x,
                 const Real* mean, const Real* gamma, const Real* beta, const Real* inv_std, const Convolution conv,
                 const TileScheduler scheduler, int32 accumulate) {
    dgrad(dx, sums, partials, dy, w, {norm_x, mean, gamma, beta, inv_std}, conv, scheduler, accumulate);
}
