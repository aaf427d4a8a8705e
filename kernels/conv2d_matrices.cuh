// The tensors of a convolution as matrices for gemm.cuh. convolution.cuh defines pixels and taps.
#pragma once

#include "convolution.cuh"
#include "gemm.cuh"

// Thread blocks that a multiprocessor must be able to hold. Numbers that move one by one take more registers, and so do iterators
// that search (search_iterator.cuh): each of the two subtracts one from MIN_BLOCKS. At least 1 remains.
constexpr int FEWER_BLOCKS = int(VECTOR_C == 1 || VECTOR_K == 1) + int(!TAP_TABLE);
constexpr int RESIDENT_BLOCKS = MIN_BLOCKS > FEWER_BLOCKS ? MIN_BLOCKS - FEWER_BLOCKS : 1;

// The coordinates of an output pixel.
struct Pixel {
    int32 n, p, q;

    __device__ __forceinline__ Pixel(const Convolution& conv, int32 pixel) {
        const int32 j = pixel % WINDOW;
        q = pixel / WINDOW;
        n = conv.pq.divide(q);
        p = conv.q_width.divide(q);
        if constexpr (WINDOW == 4) p = 2 * p + j / 2, q = 2 * q + j % 2;
    }
    // Goes to the next pixel; with a pool, from the last pixel of a window back to its first.
    __device__ __forceinline__ void step(const Convolution& conv) {
        if constexpr (WINDOW == 4) q ^= 1, p ^= 1 - q % 2;
        else if (++q == conv.q) {
            q = 0;
            if (++p == conv.p) p = 0, ++n;
        }
    }
};

// The im2col view of x: a line is an output pixel, a column a tap (r, s, channel).
struct InputWindows {
    static constexpr Walk ALONG_COLUMNS = Walk::TAPS, ALONG_LINES = Walk::PIXELS;

    const DTYPE* x;  // at the group's first channel
    const Convolution& conv;

    struct Line {
        int32 image, h, w;  // the image's first pixel; the window's first cell in it
    };
    struct Column {
        int32 h, w, channel;  // relative to the window's first cell
    };

    __device__ __forceinline__ Line line(int32 pixel) const {
        const bool inside = pixel < conv.n * conv.p * conv.q;
        const Pixel at(conv, pixel);
        return {at.n * (conv.h * conv.w), inside ? at.p * int32(conv.stride_h.divisor) - conv.top : OUTSIDE,
                at.q * int32(conv.stride_w.divisor) - conv.left};
    }
    __device__ __forceinline__ Column column(int32 tap) const {
        const bool inside = tap < conv.r * conv.s * conv.c;
        int32 channel = tap, s = conv.channels.divide(channel);  // divide leaves the remainder in its argument
        const int32 r = conv.taps_across.divide(s);
        return {inside ? r * conv.dilation_h : OUTSIDE, s * conv.dilation_w, channel};
    }
    __device__ __forceinline__ bool find(const Line& line, const Column& column, const DTYPE*& from) const {
        const int32 h = line.h + column.h, w = line.w + column.w;
        if (uint32(h) >= uint32(conv.h) || uint32(w) >= uint32(conv.w)) return false;
        from = x + (int64(line.image + h * conv.w + w) * conv.x_pitch + column.channel);
        return true;
    }

    // For Walk::TAPS (tap_iterator.cuh):
    __device__ __forceinline__ int32 taps_down() const { return conv.r; }
    __device__ __forceinline__ int32 taps_across() const { return conv.s; }
    __device__ __forceinline__ const FastDivmod& per_tap() const { return conv.channels; }
    __device__ __forceinline__ int32 pitch() const { return conv.x_pitch; }
    __device__ __forceinline__ const DTYPE* first(const Line& line) const {
        return x + (line.image + int64(line.h) * conv.w + line.w) * conv.x_pitch;
    }
    __device__ __forceinline__ int32 step(int32 r, int32 s) const {
        return r * conv.dilation_h * conv.w + s * conv.dilation_w;
    }
    __device__ __forceinline__ bool row_inside(const Line& line, int32 r) const {
        return uint32(line.h + r * conv.dilation_h) < uint32(conv.h);
    }
    __device__ __forceinline__ bool column_inside(const Line& line, int32 s) const {
        return uint32(line.w + s * conv.dilation_w) < uint32(conv.w);
    }

    // For Walk::PIXELS (pixel_iterator.cuh): where a window begins, and where a column's elements lie in it. Pixels are counted
    // modulo 2^32, because padding may put a window's beginning far before x.
    struct alignas(16) Anchor {
        uint32 pixel;
        int32 h, w;
    };
    struct Reach {
        uint32 pixels;
        int32 h, w, channel;
    };
    __device__ __forceinline__ Anchor anchor(const Line& line) const {
        return {uint32(line.image) + uint32(line.h) * conv.w + line.w, line.h, line.w};
    }
    __device__ __forceinline__ Reach reach(const Column& column) const {
        return {uint32(column.h) * conv.w + column.w, column.h, column.w, column.channel};
    }
    __device__ __forceinline__ bool reaches(const Anchor& at, const Reach& reach) const {
        const bool row = uint32(at.h + reach.h) < uint32(conv.h), column = uint32(at.w + reach.w) < uint32(conv.w);
        return row & column;  // && would branch
    }
};

// The im2col view of dy for one phase: a line is a pixel of the phase, a column one of its taps (r, s, filter).
struct GradientWindows {
    static constexpr Walk ALONG_COLUMNS = Walk::TAPS, ALONG_LINES = Walk::SEARCH;

    const DTYPE* dy;  // at the group's first filter
    const Convolution& conv;
    const Phase& phase;

    struct Line {
        int32 image, p, q;  // dy's first pixel of the image; the window whose first tap reads the pixel
    };
    struct Column {
        int32 p, q, filter;  // this tap reads the pixel in window (line.p - p, line.q - q)
    };

    __device__ __forceinline__ Line line(int32 pixel) const {
        const bool inside = pixel < conv.n * int32(conv.phase_hw.divisor);
        int32 w = pixel;
        const int32 n = conv.phase_hw.divide(w), h = conv.phase_width.divide(w);
        return {n * (conv.p * conv.q), inside ? phase.h.window + h : OUTSIDE, phase.w.window + w};
    }
    __device__ __forceinline__ Column column(int32 tap) const {
        const bool inside = tap < phase.depth(conv);
        int32 filter = tap, s = conv.filters.divide(filter);
        const int32 r = phase.across(conv).divide(s);
        return {inside ? r * conv.window_step_h : -OUTSIDE, s * conv.window_step_w, filter};
    }
    __device__ __forceinline__ bool find(const Line& line, const Column& column, const DTYPE*& from) const {
        const int32 p = line.p - column.p, q = line.q - column.q;
        if (uint32(p) >= uint32(conv.p) || uint32(q) >= uint32(conv.q)) return false;
        from = dy + (int64(line.image + p * conv.q + q) * conv.y_pitch + column.filter);
        return true;
    }

    // For Walk::TAPS (tap_iterator.cuh):
    __device__ __forceinline__ int32 taps_down() const { return phase.h.taps; }
    __device__ __forceinline__ int32 taps_across() const { return phase.w.taps; }
    __device__ __forceinline__ const FastDivmod& per_tap() const { return conv.filters; }
    __device__ __forceinline__ int32 pitch() const { return conv.y_pitch; }
    __device__ __forceinline__ const DTYPE* first(const Line& line) const {
        return dy + (line.image + int64(line.p) * conv.q + line.q) * conv.y_pitch;
    }
    __device__ __forceinline__ int32 step(int32 r, int32 s) const {
        return -(r * conv.window_step_h * conv.q + s * conv.window_step_w);
    }
    __device__ __forceinline__ bool row_inside(const Line& line, int32 r) const {
        return uint32(line.p - r * conv.window_step_h) < uint32(conv.p);
    }
    __device__ __forceinline__ bool column_inside(const Line& line, int32 s) const {
        return uint32(line.q - s * conv.window_step_w) < uint32(conv.q);
    }
};

// The row of dx for a row of a phase.
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

// A plain matrix in memory.
struct Plain {
    static constexpr Walk ALONG_COLUMNS = Walk::STRAIGHT, ALONG_LINES = Walk::STRAIGHT;

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
struct TransposedFilters : Plain {
    static constexpr Walk ALONG_COLUMNS = Walk::SEARCH, ALONG_LINES = VECTOR_K > 1 ? Walk::TAPS : Walk::SEARCH;

    const Convolution& conv;
    const Phase& phase;

    __device__ __forceinline__ TransposedFilters(const DTYPE* w, const Convolution& conv, const Phase& phase)
        : Plain{w, conv.c, phase.depth(conv), conv.c}, conv(conv), phase(phase) {}

    __device__ __forceinline__ Line line(int32 tap) const {
        const bool inside = tap < lines;
        int32 filter = tap, s = conv.filters.divide(filter);
        const int32 r = phase.across(conv).divide(s);
        return inside ? filter * all_taps() + tap_index(r, s) : OUTSIDE;
    }

    // For Walk::TAPS (tap_iterator.cuh):
    __device__ __forceinline__ int32 taps_down() const { return phase.h.taps; }
    __device__ __forceinline__ int32 taps_across() const { return phase.w.taps; }
    __device__ __forceinline__ int32 all_taps() const { return conv.r * conv.s; }
    __device__ __forceinline__ const FastDivmod& per_tap() const { return conv.filters; }
    // The index in the filter of a tap of the phase.
    __device__ __forceinline__ int32 tap_index(int32 r, int32 s) const {
        return (phase.h.tap + r * conv.tap_step_h) * conv.s + phase.w.tap + s * conv.tap_step_w;
    }
};
