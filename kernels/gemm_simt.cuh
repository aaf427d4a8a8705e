// The main loop of gemm.cuh on the CUDA cores: every dtype, every compute capability.
//
// Shared memory holds two tiles of each operand, tile[depth][side]: one is multiplied while the next one is loaded into
// registers. Operands whose columns are the depth are transposed on the way. A warp has 4 x 8 threads (8 x 4 in narrow tiles). Each
// thread computes groups of 4 x 4 outputs, which begin THREADS_M * 4 rows and THREADS_N * 4 columns apart.
#pragma once

#include "gemm.cuh"

constexpr int BLOCK_K = sizeof(DTYPE) == 2 ? 16 : 8;  // the depth of a step
constexpr int WIDE = 16 / sizeof(Real);               // numbers that one access to shared memory moves

// The position of element (side, depth) among the SIDE elements of its depth. A warp stores a transposed tile as 16 lines by 2
// halves of the depth. Moving one half by 16 gives each half its own banks and keeps every 64 bytes together. Tiles of 16 are too
// narrow for this.
template <int SIDE>
__device__ __forceinline__ int swizzle(int side, int depth) {
    return SIDE < 32 ? side : side ^ (depth / (BLOCK_K / 2) * 16);
}

// One thread's part in copying tiles of an operand, SIDE x BLOCK_K elements each, from global to shared memory. With SUMS it can
// also sum each column over the block's depth.
template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS = false>
class TileIterator {
    static constexpr uint32 LINES = COLUMNS_ARE_DEPTH ? SIDE : BLOCK_K, PER_LINE = SIDE * BLOCK_K / LINES / VECTOR;
    static constexpr int PASSES = LINES * PER_LINE / THREADS;
    // Neighboring threads take neighboring vectors of a line. But if numbers move one at a time and the depth runs
    // along the lines, neighboring threads take neighboring lines. These are mostly neighboring pixels, and a thread
    // stays in one line.
    static constexpr bool LINES_FIRST = COLUMNS_ARE_DEPTH && VECTOR == 1;
    static_assert(LINES * PER_LINE == PASSES * THREADS, "all threads move the same number of vectors");
    static_assert(VECTOR <= BLOCK_K / 2 && (SIDE % 32 == 0 || SIDE == 16), "the swizzle keeps a vector together");

    const Matrix& matrix;
    typename Matrix::Line lines[PASSES];      // constant if columns are the depth
    typename Matrix::Column columns[PASSES];  // constant if lines are the depth
    Pack<DTYPE, VECTOR> fetched[PASSES];
    static constexpr int PACKS = PER_LINE > THREADS ? PER_LINE / THREADS : 1;  // packs of columns that a thread sums
    Pack<Real, VECTOR> sums[PACKS] = {};
    bool sums_enabled = false;

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
    __device__ __forceinline__ TileIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (COLUMNS_ARE_DEPTH) lines[pass] = matrix.line(side + line(pass));
            else columns[pass] = matrix.column(side + column(pass));
        }
    }

    // Starts to load the tile at `depth` into registers.
    __device__ __forceinline__ void fetch(int32 depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (COLUMNS_ARE_DEPTH) columns[pass] = matrix.column(depth + column(pass));
            else lines[pass] = matrix.line(depth + line(pass));
            const DTYPE* from;
            fetched[pass] = {};
            if (matrix.find(lines[pass], columns[pass], from))
                fetched[pass] = *reinterpret_cast<const Pack<DTYPE, VECTOR>*>(from);
        }
    }

    // Until this is called with true, `add` does nothing.
    __device__ __forceinline__ void enable_sums(bool enabled) { sums_enabled = enabled; }

    // Updates the sums of columns from the tile that was last fetched and put.
    __device__ __forceinline__ void add() {
        if constexpr (SUMS) {
            static_assert(!COLUMNS_ARE_DEPTH && THREADS * PACKS % PER_LINE == 0, "a thread's columns repeat after PACKS passes");
            if (!sums_enabled) return;
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass)
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) sums[pass % PACKS].at[j] += load(fetched[pass].at[j]);
        }
    }

    // Calls take(column, sum) once for each of the block's columns. All threads call this, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        constexpr uint32 ROWS = THREADS * PACKS / PER_LINE;
        __shared__ alignas(16) Real rows[ROWS][SIDE];
#pragma unroll
        for (int i = 0; i < PACKS; ++i)
            *reinterpret_cast<Pack<Real, VECTOR>*>(&rows[threadIdx.x / PER_LINE][column(i)]) = sums[i];
        __syncthreads();
        for (int side = threadIdx.x; side < SIDE; side += THREADS) {
            Real sum = 0;
#pragma unroll 1
            for (uint32 row = 0; row < ROWS; ++row) sum += rows[row][side];
            take(side, sum);
        }
    }

    // Rounds the fetched numbers for multiplication, and stores them in shared memory.
    __device__ __forceinline__ void put(Real (&tile)[BLOCK_K][SIDE]) {
        constexpr int CHUNK = COLUMNS_ARE_DEPTH ? 1 : VECTOR < WIDE ? VECTOR : WIDE;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
#pragma unroll
            for (int first = 0; first < VECTOR; first += CHUNK) {
                Pack<Real, CHUNK> chunk;
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) chunk.at[j] = factor(fetched[pass].at[first + j]);
                // The swizzle is the same for all depths, or all sides, of a vector: one address serves it.
                const int depth = COLUMNS_ARE_DEPTH ? column(pass) : line(pass);
                const int side = COLUMNS_ARE_DEPTH ? line(pass) : column(pass);
                Real* to = &tile[depth][swizzle<SIDE>(side, depth)] + (COLUMNS_ARE_DEPTH ? first * SIDE : first);
                *reinterpret_cast<Pack<Real, CHUNK>*>(to) = chunk;
            }
        }
    }
};

// One thread's sums, and their positions in the block's tile.
struct Accumulators {
    static constexpr int GROUP = 4;
    static constexpr int LANES_N = THREADS_N < 8 ? THREADS_N : 8, LANES_M = 32 / LANES_N, ACROSS = THREADS_N / LANES_N;
    static_assert(THREADS_M % LANES_M == 0 && THREADS_N % LANES_N == 0 && THREAD_M % GROUP == 0 && THREAD_N % GROUP == 0,
                  "warps and groups divide the tile");

    Pack<Real, GROUP> at[THREAD_M][THREAD_N / GROUP] = {};

    static __device__ __forceinline__ int thread_row() { return threadIdx.x / 32 / ACROSS * LANES_M + threadIdx.x % 32 / LANES_N; }
    static __device__ __forceinline__ int thread_column() { return threadIdx.x / 32 % ACROSS * LANES_N + threadIdx.x % LANES_N; }
    // The barrier of the threads that have sums.
    static __device__ __forceinline__ void sync() { __syncthreads(); }

    // Adds the products of one pair of tiles.
    __device__ __forceinline__ void multiply(const Real (&a)[BLOCK_K][BLOCK_M], const Real (&b)[BLOCK_K][BLOCK_N]) {
#pragma unroll
        for (int depth = 0; depth < BLOCK_K; ++depth) {
            Real rows[THREAD_M], columns[THREAD_N];
            read<THREAD_M, THREADS_M>(rows, a[depth], thread_row(), depth);
            read<THREAD_N, THREADS_N>(columns, b[depth], thread_column(), depth);
#pragma unroll
            for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
                for (int j = 0; j < THREAD_N; ++j) at[i][j / GROUP].at[j % GROUP] += rows[i] * columns[j];
        }
    }

    // Initializes every sum with the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) {
            const int32 column = first_column(block, j / GROUP) + j % GROUP;
            const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
            for (int i = 0; i < THREAD_M; ++i) at[i][j / GROUP].at[j % GROUP] = value;
        }
    }

    // rows(i): the output row of the product's row i. The epilogue takes ROWS neighboring rows at once. Lane ^ 1 holds the
    // neighboring columns.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& epilogue, const Block& block, const Rows& rows) const {
        static_assert(GROUP % To::ROWS == 0, "a thread has the rows that belong together");
#pragma unroll
        for (int i = 0; i < THREAD_M; i += To::ROWS) {
            const int32 row = rows(block.row + (i / GROUP * THREADS_M + thread_row()) * GROUP + i % GROUP);
#pragma unroll
            for (int j = 0; j < THREAD_N / GROUP; ++j) {
                Pack<Real, GROUP> sums[To::ROWS];
#pragma unroll
                for (int r = 0; r < To::ROWS; ++r) sums[r] = at[i + r][j];
                epilogue.template store<VECTOR>(row, first_column(block, j), sums);
            }
        }
    }

  private:
    static __device__ __forceinline__ int32 first_column(const Block& block, int group) {
        return block.column + (group * THREADS_N + thread_column()) * GROUP;
    }

    // Reads this thread's groups at one depth of a tile.
    template <int COUNT, int STRIDE, int SIDE>
    static __device__ __forceinline__ void read(Real (&to)[COUNT], const Real (&from)[SIDE], int thread, int depth) {
#pragma unroll
        for (int i = 0; i < COUNT; i += WIDE) {
            const int side = swizzle<SIDE>(thread * GROUP, depth) + i / GROUP * STRIDE * GROUP + i % GROUP;
            const auto wide = *reinterpret_cast<const Pack<Real, WIDE>*>(&from[side]);
#pragma unroll
            for (int j = 0; j < WIDE; ++j) to[i + j] = wide.at[j];
        }
    }
};

// Returns `accumulators` plus the products over the block's part of the depth. The last step fetches a tile that is not used; past
// the end the matrices give zeros. As there is no condition, the compiler issues the loads before the multiplications, within the
// registers available.
template <class IteratorA, class IteratorB>
__device__ __forceinline__ Accumulators product(Accumulators accumulators, IteratorA& a, IteratorB b, const Block& block) {
    __shared__ alignas(16) Real tile_a[2][BLOCK_K][BLOCK_M];
    __shared__ alignas(16) Real tile_b[2][BLOCK_K][BLOCK_N];
    a.fetch(block.begin);
    b.fetch(block.begin);
    a.put(tile_a[0]);
    b.put(tile_b[0]);
    __syncthreads();
    int stage = 0;
    for (int32 depth = block.begin; depth < block.end; depth += BLOCK_K) {
        a.add();
        a.fetch(depth + BLOCK_K);
        b.fetch(depth + BLOCK_K);
        accumulators.multiply(tile_a[stage], tile_b[stage]);
        stage ^= 1;
        a.put(tile_a[stage]);  // free: last read before the previous step's barrier
        b.put(tile_b[stage]);
        __syncthreads();
    }
    return accumulators;
}
