// Convolution forward with bias and activation, as an implicit GEMM. A linear layer is a convolution of 1 x 1 maps.
//
//   y[n, p, q, k] = act(bias[k] + sum over r, s, c of x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
//                                                     * w[k, r, s, c])
//
// x (N, H, W, C), w (K, R, S, C / groups), y (N, P, Q, K). Rows are output pixels, columns a group's filters, the depth is the
// taps (r, s, c). grid (tiles x groups, splits): split i sums `depth_per_split` taps from i * depth_per_split. With several
// splits the sums go to partials (splits, N, P, Q, K), bias is null, and gemm_reduce.cu adds them up.
//
// MASK 1, with ACTIVATION Relu: also writes the ReLU's mask (mask.cuh). MASK 4, with ACTIVATION Relu or Identity: y (N, P / 2,
// Q / 2, K) is the maximum over each 2 x 2 window of act(...), and its mask is written too; conv.p and conv.q are even, because
// rows and columns that a flooring pool drops are not computed. The four pixels of a window are neighboring rows of the
// product, held by one thread.
// MOMENTS 1: also writes the moments of every filter of y over each tile of pixels, for the batch norm that follows.
// SAVES_INPUT 1: also writes the activation's input; y is computed from its rounded numbers.
// With MASK, MOMENTS or SAVES_INPUT there is only one split.
//
// Macros: those of gemm.cuh; MASK, MOMENTS, SAVES_INPUT; ACTIVATION Identity, Relu, ...
// VECTOR_C: channels that move at once, 16 / sizeof(DTYPE) or 1. Unless it is 1, it divides a group's channels and x's pitch, and
// x and w are aligned to 16 bytes. VECTOR_K: the same for filters, y's pitch and y.
// MIN_BLOCKS: thread blocks that a multiprocessor must be able to hold. Variants that need more registers require fewer blocks:
// RESIDENT_BLOCKS (conv2d_matrices.cuh) and RESIDENT below. Limits: those of convolution.cuh.
// Floor: x, w and y once; 2 R S C / groups FLOPs per output. With MASK 4, a number of y takes four times the FLOPs and,
// besides x and w, sizeof(DTYPE) + 1/2 bytes, for y and the mask. Separate kernels move 17 sizeof(DTYPE) bytes and an
// index: the convolution writes 4 numbers, the ReLU reads and writes them, and the pool reads them and writes 1.

#include "gemm_simt.cuh"

#include "conv2d_fprop.cuh"

// One block fewer where moments take registers too.
constexpr int RESIDENT = MOMENTS && RESIDENT_BLOCKS > 1 ? RESIDENT_BLOCKS - 1 : RESIDENT_BLOCKS;

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT)
conv2d_fprop_simt(DTYPE* y, uint8* mask, DTYPE* input, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x,
                  const DTYPE* w, const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    fprop(y, mask, input, moments, partials, x, w, bias, conv, scheduler);
}
