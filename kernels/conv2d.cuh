// A convolution's tensors seen as the matrices of gemm.cuh. See convolution.cuh for what lines and columns count.
#pragma once

#include "convolution.cuh"
#include "gemm.cuh"

// Moving single numbers takes more registers than moving vectors: room for them at one block less a multiprocessor.
constexpr int RESIDENT_BLOCKS = VECTOR_C > 1 && VECTOR_K > 1 ? MIN_BLOCKS : MIN_BLOCKS - 1;

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
