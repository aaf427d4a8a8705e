// The main loop of gemm.cuh on the ordinary arithmetic units: every dtype, every compute capability.
//
// Two tiles in shared memory: while one is multiplied the next is on its way through registers. A warp's threads stand 4 x 8
// (8 x 4 where the tile is narrow) in the block's tile, and each takes groups of 4 rows and columns, THREADS_M * 4 and THREADS_N * 4 apart.
#pragma once

#include "gemm.cuh"

// One thread's sums, and where in the block's tile they lie.
struct Sums {
    static constexpr int GROUP = 4;
    static constexpr int LANES_N = THREADS_N < 8 ? THREADS_N : 8, LANES_M = 32 / LANES_N, ACROSS = THREADS_N / LANES_N;
    static_assert(THREADS_M % LANES_M == 0 && THREADS_N % LANES_N == 0 && THREAD_M % GROUP == 0 && THREAD_N % GROUP == 0, "tile");

    Pack<Real, GROUP> at[THREAD_M][THREAD_N / GROUP] = {};

    static __device__ __forceinline__ int thread_row() { return threadIdx.x / 32 / ACROSS * LANES_M + threadIdx.x % 32 / LANES_N; }
    static __device__ __forceinline__ int thread_column() { return threadIdx.x / 32 % ACROSS * LANES_N + threadIdx.x % LANES_N; }

    // Add the products of one pair of tiles.
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

    // Where every row's sum begins: at the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) {
            const int32 column = first_column(block, j / GROUP) + j % GROUP;
            const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
            for (int i = 0; i < THREAD_M; ++i) at[i][j / GROUP].at[j % GROUP] = value;
        }
    }

    // rows(i): where row i of the product lies in the output, which takes ROWS neighbouring ones at once. A lane's neighbour,
    // lane ^ 1, holds the columns beside its own.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& output, const Block& block, const Rows& rows) const {
        static_assert(GROUP % To::ROWS == 0, "a thread has the rows that belong together");
#pragma unroll
        for (int i = 0; i < THREAD_M; i += To::ROWS) {
            const int32 row = rows(block.row + (i / GROUP * THREADS_M + thread_row()) * GROUP + i % GROUP);
#pragma unroll
            for (int j = 0; j < THREAD_N / GROUP; ++j) {
                Pack<Real, GROUP> sums[To::ROWS];
#pragma unroll
                for (int of = 0; of < To::ROWS; ++of) sums[of] = at[i + of][j];
                output.template store<VECTOR>(row, first_column(block, j), sums);
            }
        }
    }

  private:
    static __device__ __forceinline__ int32 first_column(const Block& block, int group) {
        return block.column + (group * THREADS_N + thread_column()) * GROUP;
    }

    // This thread's groups of one depth of a tile.
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

// `sums` and the products over a block's part of the depth. Past the depth's end the matrices give zeros, and what the last
// step fetches is not used: without a condition the compiler starts the loads ahead of the multiplications and keeps to the
// registers there are.
template <class LoaderA, class LoaderB>
__device__ __forceinline__ Sums product(Sums sums, LoaderA& a, LoaderB b, const Block& block) {
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
        sums.multiply(tile_a[stage], tile_b[stage]);
        stage ^= 1;
        a.put(tile_a[stage]);  // last read before the barrier of the step before
        b.put(tile_b[stage]);
        __syncthreads();
    }
    return sums;
}
