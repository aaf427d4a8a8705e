// Products of a batch of matrices of one shape, for Muon's Newton-Schulz iteration.
//
//   y[i] = a[i] b[i]^T                                        for each matrix i of the batch
//   y[i] = scale * a[i] b[i]^T + added_scale * added[i]       where `added` is given; without split-K
//
// With DEPTH_FIRST both have a[i] b[i] in place of a[i] b[i]^T. a (batch, rows, depth); b (batch, columns, depth), with DEPTH_FIRST
// (batch, depth, columns); y and added (batch, rows, columns). The matrices of a batch are the groups of gemm.cuh. Splits as in
// conv2d_fprop.cu; partials (splits, batch, rows, columns).
//
// Macros: those of gemm.cuh; DEPTH_FIRST 0 or 1; ACTIVATION Identity; MIN_BLOCKS as in conv2d_fprop.cu; WIDTH: numbers that move
// at once, 16 / sizeof(DTYPE) where that divides the depth and the columns and the arrays are aligned to 16 bytes, else 1.
// Limits: none. Floor: a, b, y and, where it is given, `added` once; 2 depth FLOPs per output.

#include "gemm_simt.cuh"

#include "matmul.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
matmul_simt(DTYPE* y, accumulator<DTYPE>* partials, const DTYPE* a, const DTYPE* b, const DTYPE* added,
            const Matmul sizes, const TileScheduler scheduler) {
    matmul(y, partials, a, b, added, sizes, scheduler);
}
