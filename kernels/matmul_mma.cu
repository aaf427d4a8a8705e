// Products of a batch of matrices on tensor cores: bfloat16, and float32 rounded to TF32; sm_80 and up.
//
// Formula, layouts, splits and macros are those of matmul.cu; the main loop is that of gemm_mma.cuh.
// Limits: none. Floor: a, b, y and, where it is given, `added` once; 2 depth FLOPs per output.

#include "gemm_mma.cuh"

#include "matmul.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
matmul_mma(DTYPE* y, accumulator<DTYPE>* partials, const DTYPE* a, const DTYPE* b, const DTYPE* added,
           const Matmul sizes, const TileScheduler scheduler) {
    matmul(y, partials, a, b, added, sizes, scheduler);
}
