// Tiles of the operands in shared memory, as the main loop on tensor cores (gemm_mma.cuh) fills and reads them.
//
// A tile holds SIDE rows or columns of the product (here: sides) by STAGE_K of the depth, as lines of 16-byte chunks. ldmatrix
// reads lines along the depth directly. It transposes the other lines, unless they hold 32-bit numbers. From such a
// line of 32-bit numbers a thread loads a chunk, whose four numbers belong to four neighboring sides, and uses them in two
// fragments of 16 sides: as rows of two products, or as columns of four. So the sides of two fragments are interleaved.
//
// To avoid bank conflicts, chunks that eight lanes access together must lie in eight different 16-byte columns of shared memory:
// the chunks of one line when it is stored, one chunk from each of eight lines when ldmatrix reads, two neighboring chunks from
// each of four lines when threads load interleaved sides. So chunks are swizzled: a chunk's number is xored with bits of its
// line's.
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
constexpr bool STORES_LATER = true;  // see tile_iterator.cuh

template <int SIDE, bool COLUMNS_ARE_DEPTH>
struct Tile {
    static constexpr int BYTES = SIDE * 64;
    static constexpr int LINES = COLUMNS_ARE_DEPTH ? SIDE : STAGE_K;
    static constexpr int PER_LINE = BYTES / 16 / LINES;  // chunks
    static constexpr int LINE_BYTES = PER_LINE * 16;
    static constexpr bool INTERLEAVED = !COLUMNS_ARE_DEPTH && sizeof(DTYPE) == 4;
    static constexpr int PERIOD = INTERLEAVED ? 4 : 8;  // lines after which the swizzle repeats
    static_assert(SIDE >= 32, "a tile is at least 32 wide");

    // The offset of a chunk in its tile, in bytes.
    static __device__ __forceinline__ int swizzle(int line, int chunk) {
        const int mixed = INTERLEAVED ? line % 4 * 2 : PER_LINE == 4 ? line / 2 % 4 : line % 8;
        return line * LINE_BYTES + (chunk ^ mixed) * 16;
    }

    // The side of row or column r of fragment i, counted from the warp's first side.
    static __device__ __forceinline__ constexpr int side_of(int i, int r) {
        return INTERLEAVED ? i / 2 * 32 + r % 8 * 4 + i % 2 * 2 + r / 8 : i * 16 + r;
    }

    // Loads one step of the depth of 16 N sides, from `first` on, as N fragments for multiply_add. For rows, registers 0
    // and 2 are the lower and the upper half of the depth of a fragment's first 8 sides, 1 and 3 those of the others. For columns,
    // 0 and 1 belong to the first 8 sides, 2 and 3 to the others: a product takes two neighboring registers.
    //
    // first: the warp's first side. Its part of the tile is a power of two wide, so adding 16 i is an exclusive or: the address is
    // computed before the loop, up to constants.
    template <bool ROWS, int N>
    static __device__ __forceinline__ void fragments(uint32 (&to)[N][4], const unsigned char* tile, int first, int step) {
        const int lane = threadIdx.x % 32, matrix = lane / 8;
        const auto eight = [](int matrix) { return ROWS ? matrix % 2 : matrix / 2; };  // which eight of 16 sides
        const auto half = [](int matrix) { return ROWS ? matrix / 2 : matrix % 2; };   // which half of the depth
        if constexpr (COLUMNS_ARE_DEPTH) {
            const int own = swizzle(first + eight(matrix) * 8 + lane % 8, half(matrix));
#pragma unroll
            for (int i = 0; i < N; ++i) load_matrices<false>(to[i], tile + (own ^ step * 32) + i * 16 * LINE_BYTES);
        } else if constexpr (!INTERLEAVED) {
            const int own = swizzle(half(matrix) * 8 + lane % 8, first / CHUNK + eight(matrix));
#pragma unroll
            for (int i = 0; i < N; ++i) load_matrices<true>(to[i], tile + (own ^ i * 32) + step * STEP_K * LINE_BYTES);
        } else {
            const unsigned char* const own = tile + swizzle(lane % 4, first / CHUNK + lane / 4);
            Pack<uint32, 4> chunks[N / 2][2];
#pragma unroll
            for (int part = 0; part < N / 2; ++part)
#pragma unroll
                for (int upper = 0; upper < 2; ++upper)
                    chunks[part][upper] = *reinterpret_cast<const Pack<uint32, 4>*>(
                        own + part * 8 * 16 + (step * STEP_K + upper * 4) * LINE_BYTES);
#pragma unroll
            for (int i = 0; i < N; ++i)
#pragma unroll
                for (int m = 0; m < 4; ++m) to[i][m] = chunks[i / 2][half(m)].at[i % 2 * 2 + eight(m)];
        }
        if constexpr (sizeof(DTYPE) == 4)
#pragma unroll
            for (int i = 0; i < N; ++i)
#pragma unroll
                for (int m = 0; m < 4; ++m) to[i][m] = tf32_bits(to[i][m]);
    }
};
