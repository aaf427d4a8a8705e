// The tile iterator that computes the address of every chunk from its line and column. It is used for filters whose taps do not fit
// in the table of tap_iterator.cuh (TAP_TABLE 0), and where numbers move one at a time. Numbers that move one at a time go through
// registers.
#pragma once

#include "tile_mover.cuh"

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator<Walk::SEARCH, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>
    : public TileMover<WalkIterator<Walk::SEARCH, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>, SIDE, COLUMNS_ARE_DEPTH,
                         SUMS> {
    using Mover = TileMover<WalkIterator, SIDE, COLUMNS_ARE_DEPTH, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk, Mover::chunk_offset;
    static constexpr bool COPIES = VECTOR == CHUNK;
    static constexpr int PARTS = CHUNK / VECTOR;
    // Where fetch stores single numbers, its loop is not unrolled, so that it takes fewer registers.
    static constexpr int UNROLLED = STORES_LATER || !COLUMNS_ARE_DEPTH ? PARTS : 1;
    static constexpr bool LINE_BY_LINE = !STORES_LATER && !COLUMNS_ARE_DEPTH;

    const Matrix& matrix;
    typename Matrix::Line lines[PASSES];     // constant if columns are the depth
    typename Matrix::Column columns[PARTS];  // constant if lines are the depth
    Pack<DTYPE, CHUNK> fetched[PASSES];      // what put stores; only with STORES_LATER, and if cp.async does not copy

  public:
    static constexpr bool SEARCHES = true;

    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        if constexpr (COLUMNS_ARE_DEPTH)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) lines[pass] = matrix.line(side + line(pass));
        else
#pragma unroll
            for (int part = 0; part < PARTS; ++part) columns[part] = matrix.column(side + chunk() * CHUNK + part * VECTOR);
    }

    __device__ __forceinline__ void seek(int32) {}
    __device__ __forceinline__ void advance(int32) {}

    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (!Mover::copies()) return;
        if constexpr (LINE_BY_LINE) {
#pragma unroll 2
            for (int pass = 0; pass < PASSES; ++pass) {
                const auto line = matrix.line(depth + this->line(pass));
#pragma unroll
                for (int part = 0; part < PARTS; ++part) fetch(tile, pass, part, line, columns[part]);
            }
            return;
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            if constexpr (!COLUMNS_ARE_DEPTH) lines[pass] = matrix.line(depth + line(pass));
#pragma unroll UNROLLED
        for (int part = 0; part < PARTS; ++part) {
            if constexpr (COLUMNS_ARE_DEPTH) columns[0] = matrix.column(depth + chunk() * CHUNK + part * VECTOR);
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) fetch(tile, pass, part, lines[pass], columns[COLUMNS_ARE_DEPTH ? 0 : part]);
        }
    }

    __device__ __forceinline__ void put(unsigned char* tile) {
        if constexpr (!COPIES && STORES_LATER)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass)
                *reinterpret_cast<Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass)) = fetched[pass];
    }

  private:
    // By value: with references NVRTC 12.0 crashes on a variant of wgrad.
    __device__ __forceinline__ void fetch(unsigned char* tile, int pass, int part, typename Matrix::Line line,
                                          typename Matrix::Column column) {
        const DTYPE* from = nullptr;
        const bool found = matrix.find(line, column, from);
        if constexpr (COPIES) {
            copy_async_or_zeros<16>(tile + chunk_offset(pass), from, found);
        } else {
            Pack<DTYPE, VECTOR> numbers = {};
            if (found) numbers = *reinterpret_cast<const Pack<DTYPE, VECTOR>*>(from);
            auto* chunk = STORES_LATER ? &fetched[pass] : reinterpret_cast<Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass));
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) chunk->at[part * VECTOR + j] = numbers.at[j];
        }
    }
};
