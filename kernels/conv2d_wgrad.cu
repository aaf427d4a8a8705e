// The gradient of a convolution to its filters, as an implicit GEMM.
//
//   dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
//
// and, with `accumulate`, what dw holds. dy (N, P, Q, K), x (N, H, W, C), dw (K, R, S, C / groups). Rows are a group's
// filters, columns its taps (r, s, c), the depth all output pixels: long, so it is split over blocks in most cases, as in
// conv2d_fprop.cu (partials: (splits, K * R * S * C / groups, and K, to a multiple of 4, with db)).
//
// db, where it is not null: the sum of dy over the pixels, which the blocks of the first columns add up from what they fetch
// of dy anyway. With MASK dy is masked as in conv2d_dgrad.cu; with a pool the depth goes window by window.
//
// Macros of conv2d_fprop.cu: VECTOR_K asks for dy, VECTOR_C for x and dw. Floor per output: 2 N P Q FLOPs; dy and x once
// are the bytes. Prediction, not measured: as conv2d_fprop.cu. Neither tile is transposed, so that stores to shared memory
// are of 16 bytes, but each vector of x takes two divisions.

#include "gemm_simt.cuh"

#include "conv2d_wgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_wgrad_simt(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const uint8* mask, const DTYPE* x,
                  const Convolution conv, const TileScheduler scheduler, int32 accumulate) {
    wgrad(dw, db, partials, dy, mask, x, conv, scheduler, accumulate);
}
