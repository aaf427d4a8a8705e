// The geometry of a convolution, for every kernel of its three directions.
//
// Volumes are (N, H, W, C) and (N, P, Q, K), filters (K, R, S, C / groups). A "pixel" is a place (n, p, q) or (n, h, w) of a
// volume in memory's order, a "tap" a place (r, s, channel or filter). The launcher sees to it that there are at most
// 2^31 - 2^16 pixels and taps, and that no side of a padded map or a dilated filter is past 2^29: they are counted in 32
// bits. Elements are addressed in 64.
//
// MASK says what stands between the convolution and y: 0 nothing, or an activation; 1 a ReLU; 4 a ReLU and a 2 x 2 max pool
// after it. It is how many bits of a mask (conv2d.cuh) a number of y has. With a pool, P and Q are even: pixels that no window
// holds do not exist here. Pixels are then counted window by window, the four of one being neighbours.
#pragma once

#ifndef MASK
#define MASK 0
#endif

#include "fast_divmod.cuh"

struct Convolution {
    int32 n, h, w, c, p, q, k, r, s;  // c and k: of one group
    int32 all_channels, all_filters, top, left, dilation_h, dilation_w;
    FastDivmod pq, q_width, channels, filters, taps_across, stride_h, stride_w;  // by P*Q and Q of y, c, k, S
    // dgrad: the pixels of one phase, and every how manieth tap meets it, how many windows apart
    int32 phase_h, phase_w, tap_step_h, tap_step_w, window_step_h, window_step_w;
    FastDivmod phases, phase_hw, phase_width, fewer_across, more_across;  // by the phases, phase_h * phase_w, phase_w
    // of few channels (conv2d_few_channels.cuh): the lines of an image with its padding, and the most that a tile's windows read
    FastDivmod image_lines;
    int32 patch_lines;
};

constexpr int WINDOW = MASK == 4 ? 4 : 1;  // pixels behind one of y

constexpr int32 OUTSIDE = -(1 << 30);  // a coordinate that stays negative whatever is added to it

// One of the stride_h * stride_w sets of input pixels that are a whole stride apart. The same taps meet them all, and the
// windows that these begin are neighbours: within a phase the gradient is a dense convolution of stride 1, whatever the
// stride. Tap r meets pixel h where stride divides h + top - r * dilation: every tap_step-th from the first.
struct Phase {
    struct Axis {
        int32 pixel, tap, taps, window;  // the first pixel and tap, how many taps, and the window that both belong to

        __device__ __forceinline__ Axis(int32 pixel, int32 padding, int32 stride, int32 dilation, int32 step, int32 size)
            : pixel(pixel) {
            const int32 rest = (pixel + padding) % stride;
            for (tap = 0; tap < step && (tap * dilation - rest) % stride != 0;) ++tap;
            taps = tap < step && tap < size ? (size - tap + step - 1) / step : 0;
            window = (pixel + padding - tap * dilation) / stride;
        }
    };
    Axis h, w;

    __device__ __forceinline__ Phase(const Convolution& conv, int32 row, int32 column)
        : h(row, conv.top, int32(conv.stride_h.divisor), conv.dilation_h, conv.tap_step_h, conv.r),
          w(column, conv.left, int32(conv.stride_w.divisor), conv.dilation_w, conv.tap_step_w, conv.s) {}

    // The number of a phase's taps across is one of two, which differ by one.
    __device__ __forceinline__ const FastDivmod& across(const Convolution& conv) const {
        return w.taps == int32(conv.more_across.divisor) ? conv.more_across : conv.fewer_across;
    }
    __device__ __forceinline__ int32 depth(const Convolution& conv) const { return h.taps * w.taps * conv.k; }
};
