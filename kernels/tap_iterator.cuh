// Tile iterators of matrices whose depth runs over the taps of a filter. A table in shared memory holds what each tap adds to an
// address. In a matrix of windows the columns are the depth: for each line the iterator keeps a pointer, and a mask of the filter's
// rows and columns that lie inside the tensor. In a matrix of filters the lines are the depth: it keeps one pointer.
#pragma once

#include "tile_mover.cuh"

// Entries of a table of taps. The launcher gives a filter a table (`fits_tap_table` in conv_struct.py) if it has at most 72 taps
// and at most 31 rows and columns together, since one bit of a mask must stay 0, and if offsets of taps fit into 32 bits. Iterators
// also look up taps past the filter, up to the end of the tile that would follow the last tile. These are fewer than
// the chunks of two tiles along the depth.
constexpr int MOST_TAPS = 72 + 2 * STAGE_K / CHUNK;

// A position in the depth of TAPS: a tap, and a part of it. A part is UNIT channels or filters.
template <int UNIT>
struct TapWalk {
    int32 tap, part;
    int32 all, taps_a_tile, parts_a_tile;  // the parts of a tap; the taps and parts that one tile adds

    __device__ __forceinline__ void seek(const FastDivmod& per_tap, int32 depth) {
        int32 rest = STAGE_K;
        all = int32(per_tap.divisor) / UNIT;
        taps_a_tile = per_tap.divide(rest);
        parts_a_tile = rest / UNIT;
        tap = per_tap.divide(depth);
        part = depth / UNIT;
    }
    __device__ __forceinline__ void advance() {
        part += parts_a_tile;
        const bool next = part >= all;
        if (next) part -= all;
        tap += taps_a_tile + next;
    }
};

// TAPS along columns: windows.
template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, true, SUMS>
    : public TileMover<WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, true, SUMS>, SIDE, true, SUMS> {
    using Mover = TileMover<WalkIterator, SIDE, true, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    struct alignas(8) Tap {
        int32 chunks;  // from the first tap's element to this tap's
        uint32 bits;   // of its row and its column in the filter; the tap is inside if both are set in a line's mask
    };

    const Matrix& matrix;
    const DTYPE* from[PASSES];  // the first tap's element; any address if no tap is inside
    uint32 inside[PASSES];      // masks of the filter's rows and columns inside the tensor
    TapWalk<CHUNK> at;
    Tap tap;

    static __device__ __forceinline__ Tap (&taps())[MOST_TAPS] {
        __shared__ alignas(8) Tap table[MOST_TAPS];
        return table;
    }

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        const int32 down = matrix.taps_down(), across = matrix.taps_across();
        for (int32 i = copier(); i < MOST_TAPS; i += COPIERS) {
            const int32 r = i / max(1, across), s = i - r * across;
            if (i < down * across) taps()[i] = {matrix.step(r, s) * matrix.pitch() / CHUNK, 1u << r | 1u << (down + s)};
            else taps()[i] = {0, ~0u};  // past the filter: never inside
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto at = matrix.line(side + line(pass));
            inside[pass] = 0;
            for (int32 r = 0; r < down; ++r) inside[pass] |= uint32(matrix.row_inside(at, r)) << r;
            for (int32 s = 0; s < across; ++s) inside[pass] |= uint32(matrix.column_inside(at, s)) << (down + s);
            from[pass] = matrix.first(inside[pass] ? at : typename Matrix::Line{});
        }
    }

    __device__ __forceinline__ void seek(int32 depth) {
        at.seek(matrix.per_tap(), depth + chunk() * CHUNK);
        sync_copiers();  // the table is filled
        tap = taps()[at.tap];
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            chunks[pass] = {from[pass] + int64(tap.chunks + at.part) * CHUNK, (tap.bits & ~inside[pass]) == 0};
    }

    __device__ __forceinline__ void advance(int32) {
        at.advance();
        tap = taps()[at.tap];
    }
};

// TAPS along lines: filters.
template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, false, SUMS>
    : public TileMover<WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, false, SUMS>, SIDE, false, SUMS> {
    using Mover = TileMover<WalkIterator, SIDE, false, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    const Matrix& matrix;
    const DTYPE* from;  // this thread's column in line 0
    int32 taps;         // 0 for a column past the end
    TapWalk<1> walks[PASSES];
    int32 lines[PASSES];  // to fetch next

    static __device__ __forceinline__ int32 (&tap_indices())[MOST_TAPS] {
        __shared__ int32 table[MOST_TAPS];
        return table;
    }

    __device__ __forceinline__ void look_up() {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            lines[pass] = walks[pass].part * matrix.all_taps() + tap_indices()[walks[pass].tap];
    }

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        const int32 column = side + chunk() * CHUNK, across = matrix.taps_across(), all = matrix.taps_down() * across;
        for (int32 i = copier(); i < MOST_TAPS; i += COPIERS) {
            const int32 r = i / max(1, across), s = i - r * across;
            tap_indices()[i] = i < all ? matrix.tap_index(r, s) : 0;
        }
        taps = column < matrix.columns ? all : 0;
        from = matrix.base + (taps ? column : 0);
    }

    __device__ __forceinline__ void seek(int32 depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) walks[pass].seek(matrix.per_tap(), depth + line(pass));
        sync_copiers();  // the table is filled
        look_up();
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            chunks[pass] = {from + int64(lines[pass]) * matrix.pitch, walks[pass].tap < taps};
    }

    __device__ __forceinline__ void advance(int32) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) walks[pass].advance();
        look_up();
    }
};
