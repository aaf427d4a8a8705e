// What the three directions of a convolution share: its geometry, and its tensors seen as the matrices of gemm.cuh.
//
// Volumes are (N, H, W, C) and (N, P, Q, K), filters (K, R, S, C / groups). A "pixel" is a place (n, p, q) or (n, h, w) of a
// volume in memory's order, a "tap" a place (r, s, channel or filter). The launcher sees to it that there are at most
// 2^31 - 2^16 pixels and taps, and that no side of a padded map or a dilated filter is past 2^29: they are counted in 32
// bits. Elements are addressed in 64.
#pragma once

#include "gemm.cuh"

struct Convolution {
    int32 n, h, w, c, p, q, k, r, s;  // c and k: of one group
    int32 all_channels, all_filters, top, left, dilation_h, dilation_w;
    Divisor pq, q_width, channels, filters, taps_across, stride_h, stride_w;  // by P*Q, Q, c, k, S
    // dgrad: the pixels of one phase, and every how manieth tap meets it, how many windows apart
    int32 phase_h, phase_w, tap_step_h, tap_step_w, window_step_h, window_step_w;
    Divisor phases, phase_hw, phase_width, fewer_across, more_across;  // by the phases, phase_h * phase_w, phase_w
};

// Moving single numbers takes more registers than moving vectors: room for them at one block less a multiprocessor.
constexpr int RESIDENT_BLOCKS = VECTOR_C > 1 && VECTOR_K > 1 ? MIN_BLOCKS : MIN_BLOCKS - 1;

constexpr int32 OUTSIDE = -(1 << 30);  // a coordinate that stays negative whatever is added to it

// The windows of x: a line is an output pixel, a column the tap of an input channel.
struct InputWindows {
    const DTYPE* x;  // at the group's first channel
    const Convolution& conv;

    struct Line {
        int32 image, h, w;  // the image's first pixel; the window's first cell in it
    };
    struct Column {
        int32 h, w, channel;  // from there
    };

    __device__ __forceinline__ Line line(int32 pixel) const {
        const bool inside = pixel < conv.n * conv.p * conv.q;
        const int32 n = conv.pq.divide(pixel), p = conv.q_width.divide(pixel);
        return {n * (conv.h * conv.w), inside ? p * int32(conv.stride_h.divisor) - conv.top : OUTSIDE,
                pixel * int32(conv.stride_w.divisor) - conv.left};
    }
    __device__ __forceinline__ Column column(int32 tap) const {
        const bool inside = tap < conv.r * conv.s * conv.c;
        int32 s = conv.channels.divide(tap);
        const int32 r = conv.taps_across.divide(s);
        return {inside ? r * conv.dilation_h : OUTSIDE, s * conv.dilation_w, tap};
    }
    __device__ __forceinline__ bool find(const Line& line, const Column& column, const DTYPE*& from) const {
        const int32 h = line.h + column.h, w = line.w + column.w;
        if (uint32(h) >= uint32(conv.h) || uint32(w) >= uint32(conv.w)) return false;
        from = x + (int64(line.image + h * conv.w + w) * conv.all_channels + column.channel);
        return true;
    }
};

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
    __device__ __forceinline__ const Divisor& across(const Convolution& conv) const {
        return w.taps == int32(conv.more_across.divisor) ? conv.more_across : conv.fewer_across;
    }
    __device__ __forceinline__ int32 depth(const Convolution& conv) const { return h.taps * w.taps * conv.k; }
};

// What of dy reads a phase's cells of x: a line is one of its pixels, a column one of its taps (r, s, filter).
struct GradientWindows {
    const DTYPE* dy;  // at the group's first filter
    const Convolution& conv;
    const Phase& phase;

    struct Line {
        int32 image, p, q;  // the first pixel of dy's image; the window that reads the cell with the first tap
    };
    struct Column {
        int32 p, q, filter;  // back to the window that reads it with this tap
    };

    __device__ __forceinline__ Line line(int32 pixel) const {
        const bool inside = pixel < conv.n * int32(conv.phase_hw.divisor);
        const int32 n = conv.phase_hw.divide(pixel), h = conv.phase_width.divide(pixel);
        return {n * (conv.p * conv.q), inside ? phase.h.window + h : OUTSIDE, phase.w.window + pixel};
    }
    __device__ __forceinline__ Column column(int32 tap) const {
        const bool inside = tap < phase.depth(conv);
        int32 s = conv.filters.divide(tap);
        const int32 r = phase.across(conv).divide(s);
        return {inside ? r * conv.window_step_h : -OUTSIDE, s * conv.window_step_w, tap};
    }
    __device__ __forceinline__ bool find(const Line& line, const Column& column, const DTYPE*& from) const {
        const int32 p = line.p - column.p, q = line.q - column.q;
        if (uint32(p) >= uint32(conv.p) || uint32(q) >= uint32(conv.q)) return false;
        from = dy + (int64(line.image + p * conv.q + q) * conv.all_filters + column.filter);
        return true;
    }
};

// A plain matrix in memory.
struct Plain {
    const DTYPE* base;
    int32 pitch, lines, columns;  // pitch: elements from line to line

    using Line = int32;
    using Column = int32;

    __device__ __forceinline__ Line line(int32 i) const { return i < lines ? i : OUTSIDE; }
    __device__ __forceinline__ Column column(int32 j) const { return j < columns ? j : OUTSIDE; }
    __device__ __forceinline__ bool find(Line line, Column column, const DTYPE*& from) const {
        if (line < 0 || column < 0) return false;
        from = base + (int64(line) * pitch + column);
        return true;
    }
};

// The filters for dgrad: a line is a phase's tap (r, s, filter), a column an input channel.
struct TurnedFilters : Plain {
    const Convolution& conv;
    const Phase& phase;

    __device__ __forceinline__ TurnedFilters(const DTYPE* w, const Convolution& conv, const Phase& phase)
        : Plain{w, conv.c, phase.depth(conv), conv.c}, conv(conv), phase(phase) {}

    __device__ __forceinline__ Line line(int32 tap) const {
        const bool inside = tap < lines;
        int32 s = conv.filters.divide(tap);
        const int32 r = phase.across(conv).divide(s);
        const int32 place = (phase.h.tap + r * conv.tap_step_h) * conv.s + phase.w.tap + s * conv.tap_step_w;
        return inside ? tap * (conv.r * conv.s) + place : OUTSIDE;
    }
};
