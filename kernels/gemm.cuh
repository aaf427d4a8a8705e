// The implicit GEMM behind every convolution and linear kernel: operands, the main loop, the output.
//
//   out[row, column] = finish(sum over depth of a[row, depth] * b[column, depth])
//
// A block computes BLOCK_M rows x BLOCK_N columns, a thread THREAD_M x THREAD_N of them in registers, the depth step by step
// through shared memory. Neither operand exists in memory as a matrix: it is a `Matrix` type that finds the
// elements in its tensor (conv2d.cuh has them).
//
//   Line   line(int32 i)            a line of the matrix, and
//   Column column(int32 j)          a column, whatever helps to find an element; past the end, one that holds nothing
//   bool find(Line, Column, from)   where an element and its VECTOR - 1 right neighbours are; false: nowhere, they are zeros
//   BITS, mask<VECTOR>(Line, Column)          with BITS > 0, an element that was found counts only where its bit is set: bit
//                                             j * BITS for the neighbour j
//   ALONG_LINES, ALONG_COLUMNS      how it is walked where these are the depth (tile_iterator.cuh, which says what each asks)
//
// The columns of a line lie side by side in memory, and run along the depth, or along rows or columns of the product.
//
// A main loop has a `TileIterator`, which moves tiles of an operand into shared memory, a thread's `Accumulators`, and `product`, which
// brings the two together: gemm_simt.cuh by scalar multiply-adds, gemm_mma.cuh on tensor cores. The kernels of a direction
// share one text, and differ in the main loop that they include.
//
// Every element sums its depth from first to last, so its bits do not depend on the tile.
//
// Macros: DTYPE; TF32, where it is defined, for float32 factors rounded to TF32; BLOCK_M, BLOCK_N, THREAD_M, THREAD_N; TAP_TABLE 0
// for filters with more taps than tile iterators have a table for (tile_iterator.cuh).
#pragma once

#include "activation.cuh"
#include "fast_divmod.cuh"
#include "types.cuh"

#ifndef TAP_TABLE
#define TAP_TABLE 1
#endif

using Real = accumulator<DTYPE>;

constexpr int THREADS_M = BLOCK_M / THREAD_M, THREADS_N = BLOCK_N / THREAD_N, THREADS = THREADS_M * THREADS_N;

// How a tile iterator walks a matrix.
enum class Walk { STRAIGHT, TAPS, PIXELS, SEARCH };

// How the product is cut into blocks: blockIdx.x counts tiles, across first, then down, then over groups, and blockIdx.y
// counts the splits of the depth. Neighbouring blocks share their rows, which are the larger operand's.
struct TileScheduler {
    FastDivmod across, down;
    int32 depth_per_split;  // a multiple of a step
};

// The part that a block computes.
struct Block {
    int32 row, column, group, begin, end;  // its first row and column, and of the depth

    __device__ __forceinline__ Block(const TileScheduler& scheduler, int32 depth) {
        column = int32(blockIdx.x);
        row = scheduler.across.divide(column);
        group = scheduler.down.divide(row);
        row *= BLOCK_M;
        column *= BLOCK_N;
        begin = int32(blockIdx.y) * scheduler.depth_per_split;
        end = min(begin + scheduler.depth_per_split, depth);
    }
};

// Of neighbours in a matrix those that its mask leaves out become zeros.
template <int BITS, int N>
__device__ __forceinline__ void drop_masked(Pack<DTYPE, N>& numbers, const uint32& mask) {
    if constexpr (BITS > 0)
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (!(mask >> j * BITS & 1)) numbers.at[j] = round_to<DTYPE>(Real(0));
}

// Where the product's rows lie in the output, where they lie as they come; below zero: nowhere, the row is past the end.
struct RowsInOrder {
    int32 rows;
    __device__ __forceinline__ int32 operator()(int32 row) const { return row < rows ? row : -1; }
};

// Where sums go: into `out`, finished with the activation and what out holds, or raw into `partials`, where the depth is split
// over blocks (gemm_reduce.cu adds them up). Both begin at the block's group and have `pitch` elements from row to row.
struct Epilogue {
    static constexpr int ROWS = 1;  // of sums that one store takes

    DTYPE* out;
    Real* partials;  // null: the depth is whole
    int64 pitch;
    int32 columns;
    int32 accumulate;

    // Store N sums side by side, in a row of `out` (below zero: in none). VECTOR divides the columns and the pitch, so a chunk
    // is all inside or all outside.
    template <int VECTOR, int N>
    __device__ __forceinline__ void store(int32 row, int32 column, const Pack<Real, N> (&rows_of_sums)[1]) const {
        const Pack<Real, N>& sums = rows_of_sums[0];
        constexpr int CHUNK = VECTOR < N ? VECTOR : N;
        if (row < 0) return;
#pragma unroll
        for (int first = 0; first < N; first += CHUNK) {
            if (column + first >= columns) return;
            const int64 offset = row * pitch + column + first;
            Pack<Real, CHUNK> values;
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) values.at[j] = sums.at[first + j];
            if (partials) {
                *reinterpret_cast<Pack<Real, CHUNK>*>(partials + offset) = values;
                continue;
            }
            auto* target = reinterpret_cast<Pack<DTYPE, CHUNK>*>(out + offset);
            Pack<DTYPE, CHUNK> finished;
            if (accumulate) finished = *target;
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) {
                Real value = ACTIVATION<Real>{}.apply(values.at[j]);
                if (accumulate) value += load(finished.at[j]);
                finished.at[j] = round_to<DTYPE>(value);
            }
            *target = finished;
        }
    }
};
