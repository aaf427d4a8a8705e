// The gradient of a depthwise convolution with respect to its filters.
//
//   partials[split, k, r, s] = sum over the split's rows (n, p) and all q of dy[n, p, q, k]
//                              * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, k / m]
//
// dy (N, P, Q, K), x (N, H, W, C), K = C m; gemm_reduce.cu adds the splits up. grid (tiles, splits): a block has `lanes` packs of
// filters by 256 / lanes taps, so a pack of dy is read from memory once and from the cache for its other taps. A thread adds its
// pixels in order.
//
// Macros: DTYPE; TF32, if defined; WIDTH 1 or, with m = 1, 16 / sizeof(DTYPE). Limits: those of convolution.cuh.
// Floor: dy and x once; 2 R S FLOPs per number of dy.

#include "depthwise.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
conv2d_wgrad_depthwise(accumulator<DTYPE>* partials, const DTYPE* dy, const DTYPE* x, const Convolution conv, int32 lanes,
                       int32 rows_per_split) {
    const int32 packs = conv.all_filters / WIDTH, taps = conv.r * conv.s, across = (packs + lanes - 1) / lanes;
    const int32 pack = int32(blockIdx.x) % across * lanes + int32(threadIdx.x) % lanes;
    const int32 tap = int32(blockIdx.x) / across * (256 / lanes) + int32(threadIdx.x) / lanes;
    if (pack >= packs || tap >= taps) return;
    const int32 filter = pack * WIDTH, channel = filter / conv.k, r = tap / conv.s, s = tap % conv.s;
    const int32 stride_w = int32(conv.stride_w.divisor), left = s * conv.dilation_w - conv.left;
    const int32 begin = int32(blockIdx.y) * rows_per_split, end = min(begin + rows_per_split, conv.n * conv.p);

    Real accumulators[WIDTH] = {};
    for (int32 row = begin; row < end; ++row) {
        const int32 n = row / conv.p, h = row % conv.p * int32(conv.stride_h.divisor) - conv.top + r * conv.dilation_h;
        if (uint32(h) >= uint32(conv.h)) continue;
        const DTYPE* gradients = dy + int64(row) * conv.q * conv.y_pitch + filter;
        const DTYPE* line = x + (int64(n) * conv.h + h) * conv.w * conv.x_pitch + channel;
        for (int32 q = 0; q < conv.q; ++q) {
            const int32 column = q * stride_w + left;
            if (uint32(column) >= uint32(conv.w)) continue;
            const Numbers a = *reinterpret_cast<const Numbers*>(gradients + int64(q) * conv.y_pitch);
            const Numbers b = *reinterpret_cast<const Numbers*>(line + int64(column) * conv.x_pitch);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) accumulators[j] += factor(a.at[j]) * factor(b.at[j]);
        }
    }
    Real* to = partials + blockIdx.y * (int64(conv.all_filters) * taps);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) to[int64(filter + j) * taps + tap] = accumulators[j];
}
