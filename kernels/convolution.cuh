// The geometry of a convolution, for the kernels of all three directions.
//
// Volumes are (N, H, W, C) and (N, P, Q, K), filters (K, R, S, C / groups). A "pixel" is a position (n, p, q) or (n, h, w) of a
// volume in memory's order, a "tap" a position (r, s, channel or filter). The launcher ensures that there are at most 2^31 - 2^16
// pixels and taps, and that no side of a padded map or a dilated filter exceeds 2^29, so 32 bits count them. Offsets of elements
// have 64 bits.
//
// MASK: the number of mask bits (mask.cuh) for each number of y, which tells what follows the convolution. 0: nothing, or an
// activation without a mask. 1: a ReLU. 4: a 2 x 2 max pool, with or without a ReLU. With a pool, P and Q are rounded down to even
// numbers, so that each pixel lies in a window. Pixels are then counted window by window, so the four of a window are neighbors.
#pragma once

#ifndef MASK
#define MASK 0
#endif

#include "fast_divmod.cuh"

struct Convolution {
    int32 n, h, w, c, p, q, k, r, s;  // c and k: of one group
    int32 all_channels, all_filters, top, left, dilation_h, dilation_w;
    FastDivmod pq, q_width, channels, filters, taps_across, stride_h, stride_w;  // by P * Q of y, Q of y, c, k, s, and the strides
    // dgrad: a phase's height and width in pixels, the step from one tap that reads its pixels to the next, and this
    // step in windows
    int32 phase_h, phase_w, tap_step_h, tap_step_w, window_step_h, window_step_w;
    FastDivmod phases, phase_hw, phase_width;   // by the phases, phase_h * phase_w, phase_w
    FastDivmod fewer_across, more_across;       // by the two numbers of taps across that phases have
    // few channels (conv2d_few_channels.cuh): the lines that an image's windows span, and the most lines that a tile's windows read
    FastDivmod image_lines;
    int32 patch_lines;
    // elements from one pixel to the next, of y or dy, and of x: all_filters and all_channels, or more in a slice of a wider
    // volume's channels
    int32 y_pitch, x_pitch;
    // Pads the struct to a multiple of 8 bytes, for the kernel argument that follows. Without the padding
    // conv2d_dgrad_wgmma spills with NORM_SUMS.
    int32 unused;
};

constexpr int WINDOW = MASK == 4 ? 4 : 1;  // pixels of the convolution that one pixel of y covers

constexpr int32 OUTSIDE = -(1 << 30);  // a coordinate that stays negative after any addition

// One of the stride_h * stride_w sets of input pixels whose coordinates are equal modulo the stride. The same taps read all of
// them, from neighboring windows: within a phase the gradient is a dense convolution of stride 1. Tap r reads pixel h if the
// stride divides h + top - r * dilation. Such taps are tap_step apart.
struct Phase {
    struct Axis {
        int32 pixel, tap, taps, window;  // the first pixel and tap, the number of taps, the window with that tap on that pixel

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

    // Phases with taps have one of two numbers of taps across, which differ by one.
    __device__ __forceinline__ const FastDivmod& across(const Convolution& conv) const {
        return w.taps == int32(conv.more_across.divisor) ? conv.more_across : conv.fewer_across;
    }
    __device__ __forceinline__ int32 depth(const Convolution& conv) const { return h.taps * w.taps * conv.k; }
};
