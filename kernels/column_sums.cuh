// The sums of the columns of tiles in shared memory. Over tiles of dy these are the bias' gradient.
//
// The main loop includes mma_tile.cuh or wgmma_tile.cuh first, which defines `Tile` and CHUNK.
#pragma once

#include "gemm.cuh"
#include "tile_chunks.cuh"

// A thread's sums. SIDE: the number of the tile's columns.
template <class Tile, int SIDE, int COUNT>
class ColumnSums {
    using Chunks = TileChunks<Tile, COUNT>;
    float sums[CHUNK] = {};

  public:
    static constexpr int BYTES = Chunks::LINES_A_PASS * SIDE * sizeof(float);  // of the memory that `take` needs

    bool enabled = false;  // until this is true, `add` does nothing

    // Adds the thread's chunks of a tile.
    __device__ __forceinline__ void add(const unsigned char* tile, int thread) {
        static_assert(Chunks::ALL, "every thread has chunks");
        if (!enabled) return;
#pragma unroll
        for (int pass = 0; pass < Chunks::PASSES; ++pass) {
            const auto numbers = *reinterpret_cast<const Pack<DTYPE, CHUNK>*>(tile + Chunks::offset(thread, pass));
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) sums[j] += load(numbers.at[j]);
        }
    }

    // Calls take(column, sum) once for each column. All COUNT threads call this, after the last add; sync: their barrier.
    template <class Sync, class Take>
    __device__ __forceinline__ void take(unsigned char* memory, int thread, Sync sync, Take take) const {
        auto& lines = *reinterpret_cast<float (*)[Chunks::LINES_A_PASS][SIDE]>(memory);
        sync();  // the memory held tiles, accumulators or earlier sums
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) lines[thread / Tile::PER_LINE][Chunks::chunk(thread) * CHUNK + j] = sums[j];
        sync();
        for (int column = thread; column < SIDE; column += COUNT) {
            float sum = 0;
#pragma unroll 1
            for (int line = 0; line < Chunks::LINES_A_PASS; ++line) sum += lines[line][column];
            take(column, sum);
        }
    }
};
