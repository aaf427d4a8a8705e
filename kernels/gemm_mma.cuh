// The main loop of gemm.cuh on tensor cores: float16, bfloat16, and float32 rounded to TF32; sm_80 and up.
//
// Dynamic shared memory holds STAGES pairs of tiles: one pair is multiplied while tile iterators (tile_iterator.cuh) fill the
// others, by cp.async where numbers move 16 bytes at a time. A tile's depth is 64 bytes of DTYPE, in two steps of 32 bytes
// (mma_tile.cuh). A warp computes WARP_M x WARP_N outputs as 16 x 8 products (mma.cuh). At the end the accumulators go through
// shared memory, so that neighboring lanes store neighboring outputs.
#pragma once

#include "fragment_store.cuh"
#include "mma_tile.cuh"
#include "tile_iterator.cuh"

constexpr int WARP_M = 8 * THREAD_M, WARP_N = 4 * THREAD_N;  // a warp has 8 lanes down and 4 across
constexpr int WARPS_N = BLOCK_N / WARP_N;
static_assert(BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0, "warps divide the tile");
static_assert((WARP_M == 32 || WARP_M == 64) && WARP_N == 32, "powers of two, for Tile::fragments");

// One thread's sums, and their positions in the block's tile, which depend on how the operands' tiles are read.
template <class TileA, class TileB>
struct AccumulatorsOf {
    float at[WARP_M / 16][WARP_N / 8][4] = {};

    // Adds the products of one pair of tiles.
    __device__ __forceinline__ void multiply(const unsigned char* a, const unsigned char* b) {
#pragma unroll
        for (int step = 0; step < STAGE_K / STEP_K; ++step) {
            uint32 rows[WARP_M / 16][4], columns[WARP_N / 16][4];
            TileA::template fragments<true>(rows, a, warp_row(), step);
            TileB::template fragments<false>(columns, b, warp_column(), step);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int j = 0; j < WARP_N / 8; ++j)
                    multiply_add<DTYPE>(at[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
        }
    }

    // Initializes every sum with the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int own = j % 2 * 8 + threadIdx.x % 4 * 2 + k;
                const int32 column = block.column + warp_column() + TileB::side_of(j / 2, own);
                const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; ++i) at[i][j][k] = at[i][j][2 + k] = value;
            }
    }

    // Stores the sums of the block's tile; epilogue and rows as in FragmentStore::store.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& epilogue, const Block& block, const Rows& rows) const {
        static_assert(!TileA::INTERLEAVED || To::ROWS == 1, "rows that the epilogue takes at once are neighbors");
        float* buffer = reinterpret_cast<float*>(shared_memory() + threadIdx.x / 32 * FragmentStore::BYTES);
        // Computed again, because the main loop has no registers to keep them in; and by other formulas than those of warp_row()
        // and warp_column(), whose calls here cost most kernels one or two registers.
        const int top = threadIdx.x / 32 / WARPS_N * WARP_M, left = threadIdx.x / 32 % WARPS_N * WARP_N;
        __syncthreads();  // all threads have read their last tiles
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i) {
            const auto own_rows = [&](int32 row) { return rows(block.row + top + TileA::side_of(i, row)); };
#pragma unroll
            for (int first = 0; first < WARP_N; first += 32)
                FragmentStore::store<VECTOR, TileB::INTERLEAVED>(epilogue, own_rows, 0, block.column + left + first, buffer,
                                                                 &at[i][first / 8]);
        }
    }

    // The barrier of the threads that have sums.
    static __device__ __forceinline__ void sync() { __syncthreads(); }

  private:
    static __device__ __forceinline__ int warp_row() { return int(threadIdx.x) / 32 / WARPS_N * WARP_M; }
    static __device__ __forceinline__ int warp_column() { return int(threadIdx.x) / 32 % WARPS_N * WARP_N; }
};

// Where the depth runs along the lines of both operands, as in fprop.
using Accumulators = AccumulatorsOf<Tile<BLOCK_M, true>, Tile<BLOCK_N, true>>;

// `accumulators` plus the products over the block's part of the depth.
template <class A, class B>
__device__ __forceinline__ AccumulatorsOf<typename A::Tile, typename B::Tile>
product(AccumulatorsOf<typename A::Tile, typename B::Tile> accumulators, A& a, B b, const Block& block) {
    constexpr int BYTES_A = A::Tile::BYTES;
    unsigned char* const tiles = shared_memory();
    int32 depth = block.begin;  // of the next tiles to copy
    const auto fetch = [&](unsigned char* tile) {
        a.fetch(tile, depth);
        b.fetch(tile + BYTES_A, depth);
        depth += STAGE_K;
        a.advance(depth);
        b.advance(depth);
    };
    const auto put = [&](unsigned char* tile) {
        a.put(tile);
        b.put(tile + BYTES_A);
    };

    a.seek(depth);
    b.seek(depth);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (A::FILLS_AHEAD || B::FILLS_AHEAD) __syncthreads();  // the table that seek or advance filled is complete
        if (depth < block.end) {
            fetch(tiles + stage * STAGE_BYTES);
            put(tiles + stage * STAGE_BYTES);
        }
        commit_copies();
    }
    // Unrolled, so that each stage has a constant address; but not with iterators that search, which need the registers.
    constexpr int UNROLLED = A::SEARCHES || B::SEARCHES ? 1 : STAGES;
    for (int32 begin = block.begin;;)
#pragma unroll UNROLLED
        for (int stage = 0; stage < STAGES; ++stage) {
            if (begin >= block.end) return accumulators;
            wait_for_copies<STAGES - 2>();
            __syncthreads();  // the next tiles have arrived, the previous ones are free, and a table filled ahead is complete
            unsigned char* const free = tiles + (stage + STAGES - 1) % STAGES * STAGE_BYTES;
            const unsigned char* ready = tiles + stage * STAGE_BYTES;
            const bool more = depth < block.end;
            if (more) fetch(free);
            commit_copies();
            a.add(ready);
            accumulators.multiply(ready, ready + BYTES_A);
            if (more) put(free);
            begin += STAGE_K;
        }
}
