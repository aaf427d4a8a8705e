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

#include "conv2d.cuh"
#include "gemm_simt.cuh"

// Where a phase's rows lie in dx.
struct PhaseRows {
    const Convolution& conv;
    const Phase& phase;

    __device__ __forceinline__ int32 operator()(int32 row) const {
        int32 w = row;
        const int32 n = conv.phase_hw.divide(w), i = conv.phase_width.divide(w);
        const int32 h = phase.h.pixel + i * int32(conv.stride_h.divisor);
        w = phase.w.pixel + w * int32(conv.stride_w.divisor);
        return n < conv.n && h < conv.h && w < conv.w ? (n * conv.h + h) * conv.w + w : OUTSIDE;
    }
};

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
conv2d_dgrad_simt(DTYPE* dx, accumulator<DTYPE>* partials, const DTYPE* dy, const uint8* mask, const DTYPE* w,
                  const Convolution conv, const Schedule schedule) {
    Block block(schedule, conv.r * conv.s * conv.k);
    int32 column = block.group;
    block.group = conv.phases.divide(column);
    const int32 row = conv.stride_w.divide(column);
    const Phase phase(conv, row, column);
    block.end = min(block.end, phase.depth(conv));
    const int64 first_filter = int64(block.group) * conv.k, first_channel = int64(block.group) * conv.c;
    const GradientWindows windows{dy + first_filter, conv, phase, Mask(mask, conv, block.group)};
    const TurnedFilters filters(w + first_filter * conv.r * conv.s * conv.c, conv, phase);

    Loader<GradientWindows, BLOCK_M, VECTOR_K, true> a(windows, block.row);
    const Sums sums = product({}, a, Loader<TurnedFilters, BLOCK_N, VECTOR_C, false>(filters, block.column), block);

    const int64 pitch = conv.all_channels;
    if (partials) partials += blockIdx.y * (int64(conv.n * conv.h * conv.w) * pitch) + first_channel;
    sums.store<VECTOR_C>(Output{dx + first_channel, partials, pitch, conv.c, false}, block, PhaseRows{conv, phase});
}
