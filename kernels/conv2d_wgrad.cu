// The gradient of a convolution to its filters, as an implicit GEMM.
//
//   dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
//
// and, with `accumulate`, what dw holds. dy (N, P, Q, K), x (N, H, W, C), dw (K, R, S, C / groups). Rows are a group's
// filters, columns its taps (r, s, c), the depth all output pixels: long, so it is split over blocks in most cases, as in
// conv2d_fprop.cu (partials: (splits, K, R, S, C / groups)).
//
// Macros of conv2d_fprop.cu: VECTOR_K asks for dy, VECTOR_C for x and dw. Floor per output: 2 N P Q FLOPs; dy and x once
// are the bytes. Prediction, not measured: as conv2d_fprop.cu. Neither tile is transposed, so that stores to shared memory
// are of 16 bytes, but each vector of x takes two divisions.

#include "conv2d.cuh"
#include "gemm_simt.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_wgrad_simt(DTYPE* dw, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x, const Convolution conv,
                  const Schedule schedule, int32 accumulate) {
    const int32 pixels = conv.n * conv.p * conv.q, taps = conv.r * conv.s * conv.c;
    const Block block(schedule, pixels);
    const int64 first_filter = int64(block.group) * conv.k;
    const Plain gradients{dy + first_filter, conv.all_filters, pixels, conv.k};
    const InputWindows windows{x + int64(block.group) * conv.c, conv};

    const Sums sums = product({}, Loader<Plain, BLOCK_M, VECTOR_K, false>(gradients, block.row),
                              Loader<InputWindows, BLOCK_N, VECTOR_C, false>(windows, block.column), block);

    const int64 first = first_filter * taps;
    if (partials) partials += blockIdx.y * (int64(conv.all_filters) * taps) + first;
    sums.store<VECTOR_C>({dw + first, partials, taps, taps, accumulate}, block, RowsInOrder{conv.k});
}
