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
    Divisor hw, width, pq, q_width, channels, filters, taps_across, stride_h, stride_w;  // by H*W, W, P*Q, Q, c, k, S
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

// What of dy reads a cell of x: a line is an input pixel, a column the tap of a filter.
struct GradientWindows {
    const DTYPE* dy;  // at the group's first filter
    const Convolution& conv;

    struct Line {
        int32 image, h, w;  // the first pixel of dy's image; the place in the padded input
    };
    struct Column {
        int32 h, w, filter;  // back to the first cell of a window that reads it with this tap
    };

    __device__ __forceinline__ Line line(int32 pixel) const {
        const bool inside = pixel < conv.n * conv.h * conv.w;
        const int32 n = conv.hw.divide(pixel), h = conv.width.divide(pixel);
        return {n * (conv.p * conv.q), inside ? h + conv.top : OUTSIDE, pixel + conv.left};
    }
    __device__ __forceinline__ Column column(int32 tap) const {
        const bool inside = tap < conv.r * conv.s * conv.k;
        int32 s = conv.filters.divide(tap);
        const int32 r = conv.taps_across.divide(s);
        return {inside ? r * conv.dilation_h : -OUTSIDE, s * conv.dilation_w, tap};
    }
    __device__ __forceinline__ bool find(const Line& line, const Column& column, const DTYPE*& from) const {
        int32 h = line.h - column.h, w = line.w - column.w;
        if (h < 0 || w < 0) return false;
        const int32 p = conv.stride_h.divide(h), q = conv.stride_w.divide(w);
        if (h != 0 || w != 0 || p >= conv.p || q >= conv.q) return false;  // no window begins there
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

// The filters for dgrad: a line is the tap (r, s, filter), a column an input channel.
struct TurnedFilters : Plain {
    Divisor filters;
    int32 places;  // R * S

    __device__ __forceinline__ TurnedFilters(const DTYPE* w, const Convolution& conv)
        : Plain{w, conv.c, conv.r * conv.s * conv.k, conv.c}, filters(conv.filters), places(conv.r * conv.s) {}

    __device__ __forceinline__ Line line(int32 tap) const {
        const bool inside = tap < lines;
        const int32 place = filters.divide(tap);
        return inside ? tap * places + place : OUTSIDE;
    }
};
