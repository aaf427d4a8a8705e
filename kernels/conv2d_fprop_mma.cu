// Convolution forward on tensor cores: float16, bfloat16, and float32 rounded to TF32; sm_80 and up.
//
// Formula, layouts, grid and macros are those of conv2d_fprop.cu; the main loop is that of gemm_mma.cuh. The lines of both operands
// run along the depth, so tiles are copied and read without a transposition.
//
// Limits: those of conv2d_fprop.cu. Floor: x, w and y once; 2 R S C / groups FLOPs per output.

#include "gemm_mma.cuh"

#include "conv2d_fprop.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_fprop_mma(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                 const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    fprop(y, mask, input, moments, partials, x, w, bias, conv, scheduler);
}
