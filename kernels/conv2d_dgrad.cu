// The gradient of a convolution with respect to its input, as an implicit GEMM.
//
//   dx[n, h, w, c] = sum over r, s, k of
//                    dy[n, (h + top - r*dilation) / stride, (w + left - s*dilation) / stride, k] * w[k, r, s, c]
//
// over the taps where both divisions are exact and the window exists, plus the previous dx, with `accumulate`. dy (N, P, Q, K),
// w (K, R, S, C / groups), dx (N, H, W, C).
// The input pixels form stride_h * stride_w phases (convolution.cuh). All pixels of a phase have the same taps, so each phase is
// a GEMM without multiplications by zero: rows are the phase's pixels (n, h, w), columns a group's channels, the depth is the
// phase's taps (r, s, k). grid (tiles x groups x phases, splits): splits divide the longest phase's depth as in conv2d_fprop.cu.
//
// NORM_SUMS 1: in forward, a batch norm and ACTIVATION came before the convolution. The kernel also computes the sums
// that this norm's backward pass needs, over each tile of dx, from the norm's input x (N, H, W, C). It writes them to
// `sums` (phases x tiles down, C, 2), and batch_norm.cu adds up the tiles. NORM_SUMS excludes several splits and
// `accumulate`.
//
// Macros: NORM_SUMS, and those of conv2d_fprop.cu except MASK, MOMENTS and SAVES_INPUT. VECTOR_K is for dy, VECTOR_C for w, dx
// and x.
// Limits: those of conv2d_fprop.cu.
// Floor: dx, dy and w once; 2 R S K / groups / stride^2 FLOPs per number of dx.

#include "gemm_simt.cuh"

#include "conv2d_dgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_dgrad_simt(DTYPE* dx, Sums* sums, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const DTYPE* norm_x,
                  const Real* mean, const Real* gamma, const Real* beta, const Real* inv_std, const Convolution conv,
                  const TileScheduler scheduler, int32 accumulate) {
    dgrad(dx, sums, partials, dy, w, {norm_x, mean, gamma, beta, inv_std}, conv, scheduler, accumulate);
}
