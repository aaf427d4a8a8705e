// The implicit GEMM behind every convolution and linear kernel: operands, tile scheduler, epilogue.
//
//   out[row, column] = epilogue(sum over depth of a[row, depth] * b[column, depth])
//
// A block computes BLOCK_M rows x BLOCK_N columns, a thread THREAD_M x THREAD_N of them in registers. The depth passes through
// shared memory in steps. The operands do not exist in memory as matrices: a `Matrix` type finds their elements in a tensor
// (conv2d_matrices.cuh).
//
//   Line   line(int32 i)            line i, as the numbers that help to find its elements; past the end, a line without elements
//   Column column(int32 j)          likewise column j
//   bool find(Line, Column, from)   the address of an element and its VECTOR - 1 right neighbors; false: they are zeros
//   ALONG_LINES                     how tile iterators (tile_iterator.cuh) walk the matrix if i counts along the depth
//   ALONG_COLUMNS                   the same if j counts along the depth
//
// The elements of a line are neighbors in memory. They run along the depth, or along the product's rows or columns.
//
// In a main loop, a `TileIterator` moves tiles of an operand into shared memory, `product` multiplies the tiles, and `Accumulators`
// hold a thread's sums. gemm_simt.cuh multiplies by scalar multiply-adds, gemm_mma.cuh on tensor cores. The two kernel files
// of a direction that include these main loops share a body, such as conv2d_fprop.cuh. In gemm_wgmma.cuh a `Copier` and
// `Accumulators::multiply`, of different warpgroups, take the place of `product`.
//
// Every output sums its part of the depth in order, so its bits do not depend on the tile.
//
// Macros: DTYPE; TF32: if defined, float32 factors are rounded to TF32; BLOCK_M, BLOCK_N, THREAD_M, THREAD_N; TAP_TABLE 0 for
// filters whose taps do not fit in the tables of tap_iterator.cuh.
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

// How blocks divide the product: blockIdx.x is the tile, counted across, then down, then over groups; blockIdx.y is the split of
// the depth. Neighboring blocks share rows, which in fprop and dgrad belong to the larger operand. Blocks that compute several
// tiles take every gridDim.x-th.
struct TileScheduler {
    FastDivmod across, down;
    int32 depth_per_split;  // a multiple of a step
    int32 tiles;            // of a split
};

// The part that a block computes at once.
struct Block {
    int32 row, column, group, begin, end;  // its first row and column; its part of the depth, [begin, end)

    __device__ __forceinline__ Block(const TileScheduler& scheduler, int32 depth, int32 tile = int32(blockIdx.x)) {
        column = tile;
        row = scheduler.across.divide(column);  // divide leaves the remainder in its argument
        group = scheduler.down.divide(row);
        row *= BLOCK_M;
        column *= BLOCK_N;
        begin = int32(blockIdx.y) * scheduler.depth_per_split;
        end = min(begin + scheduler.depth_per_split, depth);
    }
};

// The output row of a row of the product, where both have the same order; negative for a row past the end.
struct RowsInOrder {
    int32 rows;
    __device__ __forceinline__ int32 operator()(int32 row) const { return row < rows ? row : -1; }
};

// Applies the activation to sums, adds what `out` holds if `accumulate`, and stores the result in `out`. With split-K
// it stores the sums unchanged in `partials`, which gemm_reduce.cu adds up. `out` and `partials` point at the block's
// group and have rows of `pitch` elements.
template <template <class> class Activation>
struct EpilogueOf {
    static constexpr int ROWS = 1;  // rows of sums that one store takes

    DTYPE* out;
    Real* partials;  // null: no split-K
    int32 pitch;
    int32 columns;
    int32 accumulate;

    // Stores N neighboring sums in a row of `out`, or nothing if the row is negative. VECTOR divides the columns and the pitch, so
    // a chunk lies inside or outside as a whole.
    template <int VECTOR, int N>
    __device__ __forceinline__ void store(int32 row, int32 column, const Pack<Real, N> (&rows_of_sums)[1]) const {
        const Pack<Real, N>& sums = rows_of_sums[0];
        constexpr int CHUNK = VECTOR < N ? VECTOR : N;
        if (row < 0) return;
#pragma unroll
        for (int first = 0; first < N; first += CHUNK) {
            if (column + first >= columns) return;
            const int64 offset = int64(row) * pitch + column + first;
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
                Real value = Activation<Real>{}.apply(values.at[j]);
                if (accumulate) value += load(finished.at[j]);
                finished.at[j] = round_to<DTYPE>(value);
            }
            *target = finished;
        }
    }
};
using Epilogue = EpilogueOf<ACTIVATION>;
