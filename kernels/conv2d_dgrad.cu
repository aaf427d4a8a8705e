// The gradient of a convolution to its input, as an implicit GEMM.
//
//   dx[n, h, w, c] = sum over r, s, k of dy[n, (h + top - r*dilation) / stride, (w + left - s*dilation) / stride, k] * w[k, r, s, c]
//
// over the taps where both divisions leave no rest and the window exists. dy (N, P, Q, K), w (K, R, S, C / groups),
// dx (N, H, W, C). The input pixels fall into stride_h * stride_w phases, which are met by different taps: each is a product
// of its own, so that no tap is multiplied by a zero for the stride's sake. Rows are a phase's pixels (n, h, w), columns a
// group's channels, the depth the phase's taps (r, s, k). grid (tiles x groups x phases, splits); splits as in
// conv2d_fprop.cu, of the longest phase's depth.
//
// With MASK dy is the gradient to y of conv2d_fprop.cu's, and counts where the mask lets it pass: ReLU's and pool's own
// backward happen on the way into shared memory, and the gradient to the convolution's output is never written: 10 times
// sizeof(DTYPE) bytes a pooled output less, for 1/2 more. Prediction, not measured: one load more for each of dy.
//
// Macros of conv2d_fprop.cu: VECTOR_K asks for dy, VECTOR_C for w and dx. Floor per output: 2 R S K / groups / stride^2
// FLOPs and sizeof(DTYPE) bytes, plus dy and w once. Prediction, not measured: as conv2d_fprop.cu, at any stride; rows of dx
// are then written in pieces of one pixel's channels, which are whole sectors from 8 float32 channels on.

#include "gemm_simt.cuh"

#include "conv2d_dgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_dgrad_simt(DTYPE* dx, accumulator<DTYPE>* partials, const DTYPE* dy, const uint8* mask, const DTYPE* w,
                  const Convolution conv, const TileScheduler scheduler) {
    dgrad(dx, partials, dy, mask, w, conv, scheduler);
}
