// Tiles of the operands in shared memory, as the main loop on tensor cores (gemm_mma.cuh) fills and reads them.
//
// A tile holds SIDE rows or columns of the product by STAGE_K of the depth, as lines of 16-byte chunks. ldmatrix reads lines that
// run along the depth directly and transposes the others. It cannot transpose 32-bit numbers: those are read one by one.
//
// To avoid bank conflicts, chunks that eight lanes access together must lie in eight different 16-byte columns of shared memory:
// the chunks of one line when it is stored, one chunk from each of eight lines when ldmatrix reads. So chunks are swizzled: a chunk's
// number is xored with its line's.
#pragma once

#include "gemm.cuh"
#include "mma.cuh"

constexpr int CHUNK = 16 / sizeof(DTYPE);    // numbers that move at once
constexpr int STAGE_K = 64 / sizeof(DTYPE);  // the depth of a tile
constexpr int STEP_K = STAGE_K / 2;          // the depth of a step

constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * 64;

// Holds the tiles, and at the end the sums to be stored.
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

// Holds sums of columns, after the last tile.
__device__ __forceinline__ unsigned char* sums_memory() { return shared_memory(); }

// All threads copy tiles.
constexpr int COPIERS = THREADS;
__device__ __forceinline__ int copier() { return int(threadIdx.x); }
__device__ __forceinline__ void sync_copiers() { __syncthreads(); }
constexpr bool STORES_LATER = true;

template <int SIDE, bool COLUMNS_ARE_DEPTH>
struct Tile {
    static constexpr int BYTES = SIDE * 64;
    static constexpr int LINES = COLUMNS_ARE_DEPTH ? SIDE : STAGE_K;
    static constexpr int PER_LINE = BYTES / 16 / LINES;  // chunks
    static constexpr int LINE_BYTES = PER_LINE * 16;
    static constexpr bool ONE_BY_ONE = !COLUMNS_ARE_DEPTH && sizeof(DTYPE) == 4;  // a warp reads 4 lines of 8 numbers
    static constexpr int PERIOD = ONE_BY_ONE ? 4 : 8;  // lines after which the swizzle repeats
    static_assert(PER_LINE >= 4, "a tile is at least 32 wide");

    // The offset of a chunk in its tile, in bytes.
    static __device__ __forceinline__ int swizzle(int line, int chunk) {
        const int mixed = ONE_BY_ONE ? line % 4 * 2 : PER_LINE == 4 ? line / 2 % 4 : line % 8;
        return line * LINE_BYTES + (chunk ^ mixed) * 16;
    }

    // Loads the 16 sides from `side` + 16 i by one step of the depth, as an operand of multiply_add. For rows, registers 0 and 2
    // are the lower and the upper half of the depth of the first 8 sides, 1 and 3 those of the others. For columns, 0 and 1 belong
    // to the first 8 sides, 2 and 3 to the others: a product takes two neighboring registers.
    //
    // side: the warp's first. Its part of the tile is a power of two wide, so adding 16 i is an exclusive or: the address is
    // computed before the loop, up to constants.
    template <bool ROWS>
    static __device__ __forceinline__ void fragment(uint32 (&to)[4], const unsigned char* tile, int side, int i, int step) {
        const int lane = threadIdx.x % 32;
        const auto eight = [](int matrix) { return ROWS ? matrix % 2 : matrix / 2; };  // of the sides
        const auto half = [](int matrix) { return ROWS ? matrix / 2 : matrix % 2; };   // of the depth
        const int matrix = lane / 8;
        if constexpr (COLUMNS_ARE_DEPTH) {
            const int own = swizzle(side + eight(matrix) * 8 + lane % 8, half(matrix));
            load_matrices<false>(to, tile + (own ^ step * 32) + i * 16 * LINE_BYTES);
        } else if constexpr (!ONE_BY_ONE) {
            const int own = swizzle(half(matrix) * 8 + lane % 8, side / CHUNK + eight(matrix));
            load_matrices<true>(to, tile + (own ^ i * 32) + step * STEP_K * LINE_BYTES);
        } else {
            const int own = swizzle(lane % 4, side / CHUNK + lane / 16) + lane / 4 % 4 * 4;
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                const int line = step * STEP_K + half(m) * 4, chunk = i * 4 + eight(m) * 2;
                to[m] = *reinterpret_cast<const uint32*>(tile + (own ^ chunk * 16) + line * LINE_BYTES);
            }
        }
        if constexpr (sizeof(DTYPE) == 4)
#pragma unroll
            for (int m = 0; m < 4; ++m) to[m] = tf32_bits(to[m]);
    }
};
