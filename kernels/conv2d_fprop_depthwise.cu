// Depthwise convolution forward, with bias and activation.
//
//   y[n, p, q, k] = act(bias[k] + sum over r, s of x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, k / m]
//                                                 * w[k, r, s])
//
// x (N, H, W, C), w (K, R, S, 1), y (N, P, Q, K), K = C m. grid: blocks_across blocks for each row (n, p) of y. Their threads
// cover (q / 4, packs of filters), filters innermost; a thread computes four pixels. Taps are added in row-major order.
//
// Macros: DTYPE; TF32, if defined; ACTIVATION; WIDTH 1 or, with m = 1, 16 / sizeof(DTYPE). Limits: those of convolution.cuh.
// Floor: x, w and y once; 2 R S FLOPs per output.

#include "depthwise.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
conv2d_fprop_depthwise(DTYPE* y, const DTYPE* x, const DTYPE* w, const DTYPE* bias, const Convolution conv, int32 blocks_across) {
    const int32 row = int32(blockIdx.x) / blocks_across;
    const int32 item = int32(blockIdx.x) % blocks_across * int32(blockDim.x) + int32(threadIdx.x);
    const int32 n = row / conv.p, p = row % conv.p, packs = conv.all_filters / WIDTH;
    const int32 filter = item % packs * WIDTH, q = item / packs * OUTPUTS, channel = filter / conv.k;
    if (q >= conv.q) return;
    const int32 stride_w = int32(conv.stride_w.divisor), top = p * int32(conv.stride_h.divisor) - conv.top;

    Accumulators accumulators;
    if (bias)
#pragma unroll
        for (int i = 0; i < OUTPUTS * WIDTH; ++i) accumulators.at[i / WIDTH][i % WIDTH] = load(bias[filter + i % WIDTH]);
    for (int32 r = 0; r < conv.r; ++r) {
        const int32 h = top + r * conv.dilation_h;
        if (uint32(h) >= uint32(conv.h)) continue;
        const DTYPE* line = x + (int64(n) * conv.h + h) * conv.w * conv.x_pitch + channel;
        for (int32 s = 0; s < conv.s; ++s) {
            Real weights[WIDTH];
            read_weights(weights, w, filter, conv.r * conv.s, r * conv.s + s);
#pragma unroll
            for (int i = 0; i < OUTPUTS; ++i) {
                const int32 column = (q + i) * stride_w - conv.left + s * conv.dilation_w;
                if (q + i < conv.q && uint32(column) < uint32(conv.w))
                    accumulators.add(i, line + int64(column) * conv.x_pitch, weights);
            }
        }
    }
    DTYPE* to = y + (int64(row) * conv.q + q) * conv.y_pitch + filter;
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) {
        if (q + i >= conv.q) return;
        Numbers results;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) results.at[j] = round_to<DTYPE>(ACTIVATION<Real>{}.apply(accumulators.at[i][j]));
        *reinterpret_cast<Numbers*>(to + int64(i) * conv.y_pitch) = results;
    }
}
