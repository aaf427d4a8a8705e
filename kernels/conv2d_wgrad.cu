// The gradient of a convolution with respect to its filters, as an implicit GEMM.
//
//   dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
//
// plus the previous dw, with `accumulate`. dy (N, P, Q, K), x (N, H, W, C), dw (K, R, S, C / groups). Rows are a group's filters,
// columns its taps (r, s, c), the depth is all output pixels. The depth is long, so most problems split it, as in conv2d_fprop.cu;
// partials: (splits, K * R * S * C / groups); with db, each split has 4 * ceil(K / 4) more numbers.
//
// db, if not null: the sum of dy over the pixels. The blocks of the first columns add it up from the tiles of dy that they load.
//
// Macros: those of conv2d_fprop.cu except MASK, MOMENTS and SAVES_INPUT; ACTIVATION Identity. VECTOR_K is for dy, VECTOR_C for
// x and dw. Limits: those of conv2d_fprop.cu.
// Floor: dy, x and dw once; 2 N P Q FLOPs per number of dw.

#include "gemm_simt.cuh"

#include "conv2d_wgrad.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_wgrad_simt(DTYPE* dw, DTYPE* db, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x,
                  const Convolution conv, const TileScheduler scheduler, int32 accumulate) {
    wgrad(dw, db, partials, dy, x, conv, scheduler, accumulate);
}
