// The implicit GEMM behind every convolution and linear kernel: operands, the main loop, the output.
//
//   out[row, column] = finish(sum over depth of a[row, depth] * b[column, depth])
//
// A block computes BLOCK_M rows x BLOCK_N columns, a thread THREAD_M x THREAD_N of them in registers, BLOCK_K of the depth
// at a time through shared memory. Neither operand exists in memory as a matrix: it is a `Matrix` type that finds the
// elements in its tensor (conv2d.cuh has them).
//
//   Line   line(int32 i)            a line of the matrix, and
//   Column column(int32 j)          a column, whatever helps to find an element; past the end, one that holds nothing
//   bool find(Line, Column, from)   where an element and its VECTOR - 1 right neighbours are; false: nowhere, they are zeros
//   BITS, mask<VECTOR>(Line, Column)          with BITS > 0, an element that was found counts only where its bit is set: bit
//                                             j * BITS for the neighbour j
//
// The columns of a line lie side by side in memory. Where they run along the depth a tile is transposed on its way into
// shared memory, where they run along rows or columns of the product it is not; the main loop sees tile[depth][side].
// gemm_simt.cuh is a main loop of scalar multiply-adds. One on tensor cores replaces that file alone.
//
// Every element sums its depth from first to last, so its bits do not depend on the tile.
//
// Macros: DTYPE; TF32, where it is defined, for float32 factors rounded to TF32; BLOCK_M, BLOCK_N, THREAD_M, THREAD_N.
#pragma once

#include "activation.cuh"
#include "divisor.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;

constexpr int BLOCK_K = sizeof(DTYPE) == 2 ? 16 : 8;
constexpr int THREADS_M = BLOCK_M / THREAD_M, THREADS_N = BLOCK_N / THREAD_N, THREADS = THREADS_M * THREADS_N;
constexpr int WIDE = 16 / sizeof(Real);  // numbers that one instruction moves in shared memory

// How the product is cut into blocks: blockIdx.x counts tiles, across first, then down, then over groups, and blockIdx.y
// counts the splits of the depth. Neighbouring blocks share their rows, which are the larger operand's.
struct Schedule {
    Divisor across, down;
    int32 depth_per_split;  // a multiple of BLOCK_K
};

// The part that a block computes.
struct Block {
    int32 row, column, group, begin, end;  // its first row and column, and of the depth

    __device__ __forceinline__ Block(const Schedule& schedule, int32 depth) {
        column = int32(blockIdx.x);
        row = schedule.across.divide(column);
        group = schedule.down.divide(row);
        row *= BLOCK_M;
        column *= BLOCK_N;
        begin = int32(blockIdx.y) * schedule.depth_per_split;
        end = min(begin + schedule.depth_per_split, depth);
    }
};

// Where element (side, depth) of a tile lies among the SIDE elements of its depth. A warp stores a transposed tile as 16 lines
// by the 2 halves of the depth: moving one half by 16 gives each its own banks, and leaves every 64 bytes together. A tile of
// no more than 16 has no room for that.
template <int SIDE>
__device__ __forceinline__ int swizzle(int side, int depth) {
    return SIDE < 32 ? side : side ^ (depth / (BLOCK_K / 2) * 16);
}

// One thread's part in moving tiles of an operand, SIDE x BLOCK_K elements each, from global to shared memory. With SUMS it can
// also add up the elements of each column, over the depth of the block.
template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS = false>
class Loader {
    static constexpr uint32 LINES = COLUMNS_ARE_DEPTH ? SIDE : BLOCK_K, PER_LINE = SIDE * BLOCK_K / LINES / VECTOR;
    static constexpr int PASSES = LINES * PER_LINE / THREADS;
    // Neighbouring threads take neighbouring vectors of a line; single numbers along the depth, taps of an image in most
    // cases, are taken line by line: neighbouring lines are neighbouring pixels, and a thread keeps to one line.
    static constexpr bool LINES_FIRST = COLUMNS_ARE_DEPTH && VECTOR == 1;
    static_assert(LINES * PER_LINE == PASSES * THREADS, "every thread moves as many vectors");
    static_assert(VECTOR <= BLOCK_K / 2 && (SIDE % 32 == 0 || SIDE == 16), "the swizzle leaves a vector together");

    const Matrix& matrix;
    typename Matrix::Line lines[PASSES];      // kept, where columns are the depth
    typename Matrix::Column columns[PASSES];  // kept, where lines are
    Pack<DTYPE, VECTOR> fetched[PASSES];
    uint32 masks[PASSES];
    static constexpr int KEPT = PER_LINE > THREADS ? PER_LINE / THREADS : 1;  // columns of a thread, with a sum each
    Pack<Real, VECTOR> sums[KEPT] = {};
    bool sums_wanted = false;

    static __device__ __forceinline__ int line(int pass) {
        const uint32 slot = threadIdx.x + pass * THREADS;
        return LINES_FIRST ? slot % LINES : slot / PER_LINE;
    }
    static __device__ __forceinline__ int column(int pass) {
        const uint32 slot = threadIdx.x + pass * THREADS;
        return LINES_FIRST ? slot / LINES : slot % PER_LINE * VECTOR;
    }

  public:
    // side: the block's first row or column of the product.
    __device__ __forceinline__ Loader(const Matrix& matrix, int32 side) : matrix(matrix) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (COLUMNS_ARE_DEPTH) lines[pass] = matrix.line(side + line(pass));
            else columns[pass] = matrix.column(side + column(pass));
        }
    }

    // Start reading the tile at `depth` into registers.
    __device__ __forceinline__ void fetch(int32 depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (COLUMNS_ARE_DEPTH) columns[pass] = matrix.column(depth + column(pass));
            else lines[pass] = matrix.line(depth + line(pass));
            const DTYPE* from;
            fetched[pass] = {};
            if (matrix.find(lines[pass], columns[pass], from)) {
                fetched[pass] = *reinterpret_cast<const Pack<DTYPE, VECTOR>*>(from);
                if constexpr (Matrix::BITS > 0) masks[pass] = matrix.template mask<VECTOR>(lines[pass], columns[pass]);
            }
        }
    }

    // Ask for the columns' sums, or not.
    __device__ __forceinline__ void want_sums(bool wanted) { sums_wanted = wanted; }

    // Add what was fetched, and put, to the columns' sums.
    __device__ __forceinline__ void add() {
        if constexpr (SUMS) {
            static_assert(!COLUMNS_ARE_DEPTH && THREADS * KEPT % PER_LINE == 0, "a thread keeps to its columns");
            if (!sums_wanted) return;
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass)
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) sums[pass % KEPT].at[j] += load(fetched[pass].at[j]);
        }
    }

    // The block's sums of its columns, each handed once to take(column, sum): by all threads, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        constexpr uint32 ROWS = THREADS * KEPT / PER_LINE;
        __shared__ alignas(16) Real rows[ROWS][SIDE];
#pragma unroll
        for (int i = 0; i < KEPT; ++i)
            *reinterpret_cast<Pack<Real, VECTOR>*>(&rows[threadIdx.x / PER_LINE][column(i)]) = sums[i];
        __syncthreads();
        for (int side = threadIdx.x; side < SIDE; side += THREADS) {
            Real sum = 0;
#pragma unroll 1
            for (uint32 row = 0; row < ROWS; ++row) sum += rows[row][side];
            take(side, sum);
        }
    }

    // Write what was fetched into shared memory, as factors.
    __device__ __forceinline__ void put(Real (&tile)[BLOCK_K][SIDE]) {
        constexpr int CHUNK = COLUMNS_ARE_DEPTH ? 1 : VECTOR < WIDE ? VECTOR : WIDE;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (Matrix::BITS > 0)
#pragma unroll
                for (int j = 0; j < VECTOR; ++j)
                    if (!(masks[pass] >> j * Matrix::BITS & 1)) fetched[pass].at[j] = round_to<DTYPE>(Real(0));
#pragma unroll
            for (int first = 0; first < VECTOR; first += CHUNK) {
                Pack<Real, CHUNK> chunk;
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) chunk.at[j] = factor(fetched[pass].at[first + j]);
                // The swizzle is alike for all depths, or for all sides, of a vector: one address serves it.
                const int depth = COLUMNS_ARE_DEPTH ? column(pass) : line(pass);
                const int side = COLUMNS_ARE_DEPTH ? line(pass) : column(pass);
                Real* to = &tile[depth][swizzle<SIDE>(side, depth)] + (COLUMNS_ARE_DEPTH ? first * SIDE : first);
                *reinterpret_cast<Pack<Real, CHUNK>*>(to) = chunk;
            }
        }
    }
};

// Where the product's rows lie in the output, where they lie as they come; below zero: nowhere, the row is past the end.
struct RowsInOrder {
    int32 rows;
    __device__ __forceinline__ int32 operator()(int32 row) const { return row < rows ? row : -1; }
};

// Where sums go: into `out`, finished with the activation and what out holds, or raw into `partials`, where the depth is split
// over blocks (gemm_reduce.cu adds them up). Both begin at the block's group and have `pitch` elements from row to row.
struct Output {
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
            auto* place = reinterpret_cast<Pack<DTYPE, CHUNK>*>(out + offset);
            Pack<DTYPE, CHUNK> finished;
            if (accumulate) finished = *place;
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) {
                Real value = ACTIVATION<Real>{}.apply(values.at[j]);
                if (accumulate) value += load(finished.at[j]);
                finished.at[j] = round_to<DTYPE>(value);
            }
            *place = finished;
        }
    }
};
