// The gradient of a convolution to its input, as an implicit GEMM.
//
//   dx[n, h, w, c] = sum over r, s, k of dy[n, (h + top - r*dilation) / stride, (w + left - s*dilation) / stride, k] * w[k, r, s, c]
//
// over the taps where both divisions leave no rest and the window exists. dy (N, P, Q, K), w (K, R, S, C / groups),
// dx (N, H, W, C). Rows are input pixels, columns a group's channels, the depth its taps (r, s, k). grid and splits as in
// conv2d_fprop.cu. Taps that read nothing multiply zeros: three of four at a stride of 2.
//
// Macros of conv2d_fprop.cu: VECTOR_K asks for dy, VECTOR_C for w and dx. Floor per output: 2 R S K / groups / stride^2
// FLOPs and sizeof(DTYPE) bytes, plus dy and w once. Prediction, not measured: as conv2d_fprop.cu at stride 1; two more
// divisions for each vector of dy cost some 5 %.

#include "conv2d.cuh"
#include "gemm_simt.cuh"

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_dgrad_simt(DTYPE* dx, accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* w, const Convolution conv,
                  const Schedule schedule) {
    const int32 pixels = conv.n * conv.h * conv.w, taps = conv.r * conv.s * conv.k;
    const Block block(schedule, taps);
    const int64 first_filter = int64(block.group) * conv.k, first_channel = int64(block.group) * conv.c;
    const GradientWindows windows{dy + first_filter, conv};
    const TurnedFilters filters(w + first_filter * conv.r * conv.s * conv.c, conv);

    const Sums sums = product({}, Loader<GradientWindows, BLOCK_M, VECTOR_K, true>(windows, block.row),
                              Loader<TurnedFilters, BLOCK_N, VECTOR_C, false>(filters, block.column), block);

    const int64 pitch = conv.all_channels;
    if (partials) partials += blockIdx.y * (pixels * pitch) + first_channel;
    sums.store<VECTOR_C>({dx + first_channel, partials, pitch, pixels, conv.c, false}, block);
}
