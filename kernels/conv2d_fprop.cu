// Convolution forward, with bias and activation, as an implicit GEMM; a linear layer is one on 1 x 1 maps.
//
//   y[n, p, q, k] = act(bias[k] + sum over r, s, c of x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
//                                                     * w[k, r, s, c])
//
// x (N, H, W, C), w (K, R, S, C / groups), y (N, P, Q, K). Rows are output pixels, columns a group's filters, the depth its
// taps (r, s, c). grid (tiles x groups, splits): split i sums `depth_per_split` taps from i * depth_per_split on; with several,
// the sums go to partials (splits, N, P, Q, K), bias is null, and gemm_reduce.cu finishes them.
//
// With MASK 1 and ACTIVATION Relu also the mask of the ReLU (conv2d.cuh); with MASK 4 y is the largest of 2 x 2 windows
// behind it, (N, P / 2, Q / 2, K), and conv.p, conv.q are even: what a flooring pool drops is not computed. A window is four
// neighbouring rows, so that one thread has its sums. Such a product's depth is whole.
//
// With MOMENTS 1 also the moments of every filter over the pixels of each tile down, for a batch norm behind it, which then
// need not read y for its statistics: one pass of four over a tensor less (prediction). Such a product's depth is whole too.
//
// Macros of gemm.cuh; ACTIVATION Identity, Relu, ...; VECTOR_C, VECTOR_K: how many channels and filters move at once,
// 16 / sizeof(DTYPE) where they divide a group's channels (filters) and x, w (y) are aligned to 16 bytes, else 1; MIN_BLOCKS:
// how many blocks a multiprocessor is to hold.
//
// Floor per output: 2 R S C / groups FLOPs and sizeof(DTYPE) bytes, plus x and w once; with the pool, for each of its outputs
// four times the FLOPs and sizeof(DTYPE) + 1/2 bytes, where convolution, ReLU and pool one by one move 14 times sizeof(DTYPE)
// and an index: 29 bytes become 2.5 in bfloat16 (prediction: first layers, bound by memory, gain most). A
// 128 x 64 tile reads 192 numbers a depth for 8192 multiply-adds: in float32 21 FLOPs for each byte out of L2.
//
// The machine code for sm_90a, 128 x 64 in float32: no spill at 168 registers, so 3 blocks of 128 threads a multiprocessor; a
// step of 8 depths is 512 multiply-adds a thread, 32 16-byte loads and 12 stores of shared memory without bank conflicts, 3
// 16-byte loads of global memory and some 100 instructions on addresses. Prediction, not measured: limited by issue, 512 of
// 660 slots, so 70 % of the float32 rate where C, K >= 64 fill the device, and 60 % with what the last wave leaves idle.

#include "gemm_simt.cuh"

#include "conv2d_fprop.cuh"

// Moments take registers too.
constexpr int RESIDENT = MOMENTS && RESIDENT_BLOCKS > 1 ? RESIDENT_BLOCKS - 1 : RESIDENT_BLOCKS;

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT)
conv2d_fprop_simt(DTYPE* y, uint8* mask, Moments* moments, accumulator<DTYPE>* partials, const DTYPE* x, const DTYPE* w,
                  const DTYPE* bias, const Convolution conv, const TileScheduler scheduler) {
    fprop(y, mask, moments, partials, x, w, bias, conv, scheduler);
}
