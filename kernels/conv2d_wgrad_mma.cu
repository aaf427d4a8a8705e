// The gradient of a convolution with respect to its filters on tensor cores: float16, bfloat16, TF32; sm_80 and up.
//
// Formula, layouts, splits and macros are those of conv2d_wgrad.cu; the main loop is in gemm_mma.cuh. A line of A
// (dy) holds one pixel's filters, a line of B (x) one pixel's taps, so no line runs along the depth. 16-bit numbers are
// therefore transposed when they are read. With 32-bit numbers the rows of two products are interleaved, and the columns of four
// (mma_tile.cuh). Each thread sums db over the elements that it copied to shared memory.
//
// Limits: those of conv2d_wgrad.cu. Floor: dy, x and dw once; 2 N P Q FLOPs per number of dw.

#include "gemm_mma.cuh"

#include "conv2d_wgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_wgrad_mma(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x,
                 const Convolution conv, const TileScheduler scheduler, int32 accumulate) {
    wgrad(dw, db, partials, dy, x, conv, scheduler, accumulate);
}
