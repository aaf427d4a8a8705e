// The tile iterator of a plain matrix: a pointer for each line, or one pointer that grows by the same step with every tile.
#pragma once

#include "tile_mover.cuh"

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator<Walk::STRAIGHT, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>
    : public TileMover<WalkIterator<Walk::STRAIGHT, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>, SIDE, COLUMNS_ARE_DEPTH,
                         SUMS> {
    using Mover = TileMover<WalkIterator, SIDE, COLUMNS_ARE_DEPTH, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk, Mover::LINES_A_PASS;

    static constexpr int KEPT = COLUMNS_ARE_DEPTH ? PASSES : 1;  // pointers

    const Matrix& matrix;
    int32 side;
    // If columns are the depth, from[pass] points to the chunk of that pass in a tile at depth 0. If lines are the
    // depth, from[0] points to the chunk of the first pass in the tile that is copied next.
    const DTYPE* from[KEPT];
    int32 end[KEPT];  // the depth from which a pass finds no more elements

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix), side(side) {}

    __device__ __forceinline__ void seek(int32 depth) {
        const int32 first = COLUMNS_ARE_DEPTH ? side : depth, column = chunk() * CHUNK + (COLUMNS_ARE_DEPTH ? 0 : side);
#pragma unroll
        for (int pass = 0; pass < KEPT; ++pass) {
            const int32 row = first + line(pass);
            from[pass] = matrix.base + (int64(row) * matrix.pitch + column);
            if constexpr (COLUMNS_ARE_DEPTH) end[pass] = row < matrix.lines ? matrix.columns - column : 0;
            else end[pass] = column < matrix.columns ? matrix.lines - line(pass) : 0;
        }
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32 depth) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int32 lines = pass * LINES_A_PASS;
            if constexpr (COLUMNS_ARE_DEPTH) chunks[pass] = {from[pass] + depth, depth < end[pass]};
            else chunks[pass] = {from[0] + int64(lines) * matrix.pitch, depth + lines < end[0]};
        }
    }

    __device__ __forceinline__ void advance(int32) {
        if constexpr (!COLUMNS_ARE_DEPTH) from[0] += int64(STAGE_K) * matrix.pitch;
    }
};
