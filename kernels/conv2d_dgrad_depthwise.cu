// The gradient of a depthwise convolution with respect to its input.
//
//   dx[n, h, w, c] = sum over r, s and the m filters k of c of dy[n, (h + top - r*dilation) / stride, ..., k] * w[k, r, s]
//
// over the taps where the divisions are exact and the window exists, plus the previous dx, with `accumulate`. dy (N, P, Q, K),
// w (K, R, S, 1), dx (N, H, W, C), K = C m.
// grid: blocks_across blocks for each row (n, h) of dx. Their threads cover (groups of four pixels of a phase, the row's phases,
// packs of channels), channels innermost; a thread computes four pixels of one phase, which have the same taps.
//
// Macros: DTYPE; TF32, if defined; WIDTH 1 or, with m = 1, 16 / sizeof(DTYPE). Limits: those of convolution.cuh.
// Floor: dx, dy and w once; 2 R S m / stride^2 FLOPs per number of dx.

#include "depthwise.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
conv2d_dgrad_depthwise(DTYPE* dx, const DTYPE* dy, const DTYPE* w, const Convolution conv, bool accumulate,
                       int32 blocks_across) {
    const int32 row = int32(blockIdx.x) / blocks_across;
    const int32 item = int32(blockIdx.x) % blocks_across * int32(blockDim.x) + int32(threadIdx.x);
    const int32 n = row / conv.h, packs = conv.all_channels / WIDTH, stride_w = int32(conv.stride_w.divisor);
    const int32 channel = item % packs * WIDTH, at = item / packs % stride_w, first = item / packs / stride_w * OUTPUTS;
    int32 down = row % conv.h;
    const int32 i = conv.stride_h.divide(down);  // the row's index in its phase, whose first row stays in `down`
    if (at + first * stride_w >= conv.w) return;
    const Phase phase(conv, down, at);

    Accumulators accumulators;
    for (int32 r = 0; r < phase.h.taps; ++r) {
        const int32 p = phase.h.window + i - r * conv.window_step_h;
        if (uint32(p) >= uint32(conv.p)) continue;
        const DTYPE* line = dy + (int64(n) * conv.p + p) * conv.q * conv.y_pitch;
        for (int32 s = 0; s < phase.w.taps; ++s) {
            const int32 tap = (phase.h.tap + r * conv.tap_step_h) * conv.s + phase.w.tap + s * conv.tap_step_w;
            const int32 q = phase.w.window + first - s * conv.window_step_w;
#pragma unroll 1
            for (int32 filter = channel * conv.k; filter < (channel + 1) * conv.k; ++filter) {
                Real weights[WIDTH];
                read_weights(weights, w, filter, conv.r * conv.s, tap);
#pragma unroll
                for (int j = 0; j < OUTPUTS; ++j)
                    if (uint32(q + j) < uint32(conv.q))
                        accumulators.add(j, line + int64(q + j) * conv.y_pitch + filter, weights);
            }
        }
    }
    DTYPE* to = dx + int64(row) * conv.w * conv.x_pitch + channel;
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
        const int32 column = at + (first + j) * stride_w;
        if (column >= conv.w) return;
        auto* target = reinterpret_cast<Numbers*>(to + int64(column) * conv.x_pitch);
        Numbers results;
        if (accumulate) results = *target;
#pragma unroll
        for (int l = 0; l < WIDTH; ++l) {
            const Real sum = accumulators.at[j][l];
            results.at[l] = round_to<DTYPE>(accumulate ? load(results.at[l]) + sum : sum);
        }
        *target = results;
    }
}
