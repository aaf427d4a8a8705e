// The tile iterator of a matrix whose depth runs over pixels. Finding a pixel's window takes divisions, so a table in shared memory
// holds the windows of the next tile; STAGE_K threads compute one each while the previous tile is being copied.
#pragma once

#include "tile_mover.cuh"

template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::PIXELS, Matrix, SIDE, VECTOR, false, SUMS>
    : public TileMover<WalkIterator<Walk::PIXELS, Matrix, SIDE, VECTOR, false, SUMS>, SIDE, false, SUMS> {
    using Mover = TileMover<WalkIterator, SIDE, false, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    const Matrix& matrix;
    const typename Matrix::Reach reach;
    const DTYPE* const from;  // points to the column's channel in the first pixel
    int32 turn = 0;  // which of the two tables has the next tile's pixels

    static __device__ __forceinline__ typename Matrix::Anchor (&anchors())[2][STAGE_K] {
        __shared__ alignas(16) typename Matrix::Anchor table[2][STAGE_K];
        return table;
    }

    __device__ __forceinline__ void find_pixels(int32 depth) const {
        if (copier() < STAGE_K) anchors()[turn][copier()] = matrix.anchor(matrix.line(depth + copier()));
    }

  public:
    static constexpr bool FILLS_AHEAD = true;

    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side)
        : matrix(matrix), reach(matrix.reach(matrix.column(side + chunk() * CHUNK))), from(matrix.x + reach.channel) {}

    __device__ __forceinline__ void seek(int32 depth) { find_pixels(depth); }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto& at = anchors()[turn][line(pass)];
            const int32 pixel = at.pixel + reach.pixels;
            chunks[pass] = {from + int64(pixel) * matrix.pitch(), matrix.reaches(at, reach)};
        }
    }

    __device__ __forceinline__ void advance(int32 depth) {
        turn ^= 1;
        find_pixels(depth);
    }
};
