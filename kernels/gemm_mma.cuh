// The main loop of gemm.cuh on tensor cores: float16, bfloat16, and float32 rounded to TF32; sm_80 and up.
//
// STAGES pairs of tiles lie in dynamic shared memory: while one is multiplied, cp.async fills the others. Tile iterators bring
// tiles there (tile_iterator.cuh). A tile holds DTYPE and 64 bytes of depth, two steps of 32 (mma_tile.cuh). A warp multiplies
// WARP_M x WARP_N outputs as 16 x 8 products (mma.cuh). At the end the sums go out through shared memory.
//
// No GPU has run this main loop. docs/kernels/implicit_gemm.md has what it issues, its registers, what the model says of its time
// (prediction), and what its forerunner took.
//
// A main loop on wgmma and TMA, for sm_90a, would stand beside this file: 64-row sums, tiles in TMA's 128-byte swizzle, its im2col
// mode in place of the iterators. None is here, for none has run.
#pragma once

#include "tile_iterator.cuh"

constexpr int WARP_M = 8 * THREAD_M, WARP_N = 4 * THREAD_N;  // a product's rows lie with 8 groups of 4 lanes, its columns with those
constexpr int WARPS_N = BLOCK_N / WARP_N;
static_assert(BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0, "tile");
static_assert((WARP_M == 32 || WARP_M == 64) && WARP_N == 32, "powers of two, for Tile::fragment");

// One thread's sums, and where in the block's tile they lie.
struct Accumulators {
    float at[WARP_M / 16][WARP_N / 8][4] = {};

    // Add the products of one pair of tiles.
    template <class TileA, class TileB>
    __device__ __forceinline__ void multiply(const unsigned char* a, const unsigned char* b) {
#pragma unroll
        for (int step = 0; step < STAGE_K / STEP_K; ++step) {
            uint32 rows[WARP_M / 16][4], columns[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) TileA::template fragment<true>(rows[i], a, warp_row(), i, step);
#pragma unroll
            for (int j = 0; j < WARP_N / 16; ++j) TileB::template fragment<false>(columns[j], b, warp_column(), j, step);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int j = 0; j < WARP_N / 8; ++j)
                    multiply_add<DTYPE>(at[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
        }
    }

    // Where every row's sum begins: at the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int32 column = block.column + warp_column() + j * 8 + threadIdx.x % 4 * 2 + k;
                const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; ++i) at[i][j][k] = at[i][j][2 + k] = value;
            }
    }

    // Store through shared memory, 16 rows by 32 columns of a warp at a time, so that neighbouring lanes store neighbours.
    // rows(i): where row i of the product lies in the output, which takes ROWS neighbouring ones at once. A lane's neighbour,
    // lane ^ 1, holds the columns beside its own.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& epilogue, const Block& block, const Rows& rows) const {
        constexpr int N = VECTOR == 8 && To::ROWS == 1 ? 8 : 4, LANES = 32 / N;  // sums side by side, and lanes to a row
        const int lane = threadIdx.x % 32, column = lane % LANES * N;
        float* mine = reinterpret_cast<float*>(shared_memory()) + threadIdx.x / 32 * (16 * 32);
        __syncthreads();  // all have read their last tiles
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
            for (int first = 0; first < WARP_N; first += 32) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const float* pair = &at[i][first / 8 + j][half * 2];
                        *reinterpret_cast<Pack<float, 2>*>(mine + swizzle(lane / 4 + half * 8, j * 8 + lane % 4 * 2)) = {
                            {pair[0], pair[1]}};
                    }
                __syncwarp();
#pragma unroll
                for (int pass = 0; pass < 16 * LANES / 32 / To::ROWS; ++pass) {
                    const int row = (lane / LANES + pass * (32 / LANES)) * To::ROWS;
                    Pack<Real, N> sums[To::ROWS];
#pragma unroll
                    for (int of = 0; of < To::ROWS; ++of) sums[of] = read<N>(mine, row + of, column, lane / LANES % 2);
                    epilogue.template store<VECTOR>(rows(block.row + warp_row() + i * 16 + row),
                                                  block.column + warp_column() + first + column, sums);
                }
                __syncwarp();
            }
    }

  private:
    static __device__ __forceinline__ int warp_row() { return int(threadIdx.x) / 32 / WARPS_N * WARP_M; }
    static __device__ __forceinline__ int warp_column() { return int(threadIdx.x) / 32 % WARPS_N * WARP_N; }

    // Where a sum lies among the 16 x 32 of its warp.
    static __device__ __forceinline__ int swizzle(int row, int column) {
        return row * 32 + ((column / 4 ^ row % 4 * 2) * 4 + column % 4);
    }

    // N of them side by side, four at a time. Of eight the lanes of every other row read the second four first: together they
    // touch every bank once.
    template <int N>
    static __device__ __forceinline__ Pack<Real, N> read(const float* from, int row, int column, int second) {
        if constexpr (N == 4) {
            return *reinterpret_cast<const Pack<Real, 4>*>(from + swizzle(row, column));
        } else {
            const auto one = *reinterpret_cast<const Pack<Real, 4>*>(from + swizzle(row, column + second * 4));
            const auto other = *reinterpret_cast<const Pack<Real, 4>*>(from + swizzle(row, column + 4 - second * 4));
            Pack<Real, 8> both;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                both.at[j] = second ? other.at[j] : one.at[j];
                both.at[j + 4] = second ? one.at[j] : other.at[j];
            }
            return both;
        }
    }
};

// `sums` and the products over a block's part of the depth.
template <class IteratorA, class IteratorB>
__device__ __forceinline__ Accumulators product(Accumulators accumulators, IteratorA& a, IteratorB b, const Block& block) {
    using TileA = typename IteratorA::Tile;
    using TileB = typename IteratorB::Tile;
    unsigned char* const tiles = shared_memory();
    int32 depth = block.begin;  // of the next tiles to fetch
    const auto fetch = [&](unsigned char* tile) {
        a.fetch(tile, depth);
        b.fetch(tile + TileA::BYTES, depth);
        depth += STAGE_K;
        a.advance(depth);
        b.advance(depth);
    };
    const auto put = [&](unsigned char* tile) {
        a.put(tile);
        b.put(tile + TileA::BYTES);
    };

    a.seek(depth);
    b.seek(depth);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (IteratorA::FILLS_AHEAD || IteratorB::FILLS_AHEAD) __syncthreads();
        if (depth < block.end) {
            fetch(tiles + stage * STAGE_BYTES);
            put(tiles + stage * STAGE_BYTES);
        }
        commit_copies();
    }
    // Unrolled, so that the compiler knows where each stage lies; but not where chunks are searched for, which takes registers.
    constexpr int UNROLLED = IteratorA::SEARCHES || IteratorB::SEARCHES ? 1 : STAGES;
    for (int32 begin = block.begin;;)
#pragma unroll UNROLLED
        for (int stage = 0; stage < STAGES; ++stage) {
            if (begin >= block.end) return accumulators;
            wait_for_copies<STAGES - 2>();
            __syncthreads();  // the next tiles are there, and those multiplied last are free
            unsigned char* const free = tiles + (stage + STAGES - 1) % STAGES * STAGE_BYTES;
            const unsigned char* ready = tiles + stage * STAGE_BYTES;
            const bool more = depth < block.end;
            if (more) fetch(free);
            commit_copies();
            a.add(ready);
            accumulators.multiply<TileA, TileB>(ready, ready + TileA::BYTES);
            if (more) put(free);
            begin += STAGE_K;
        }
}
