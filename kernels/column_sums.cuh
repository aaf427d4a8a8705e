// How threads share the chunks of a tile in shared memory, and the sums of its columns. Over tiles of dy these are the bias'
// gradient.
//
// The main loop includes mma_tile.cuh or wgmma_tile.cuh first, which defines `Tile` and CHUNK.
#pragma once

#include "gemm.cuh"

__device__ __forceinline__ constexpr int power_of_two_within(int n) { return n < 2 ? 1 : 2 * power_of_two_within(n / 2); }

// Each of COUNT threads has one chunk in every LINES_A_PASS-th line, at the same place in each. If the number of a line's chunks
// does not divide COUNT, as 24 does not, the last threads have no chunk.
template <class Tile, int COUNT>
struct TileChunks {
    static constexpr int LINES_A_PASS = power_of_two_within(COUNT / Tile::PER_LINE), PASSES = Tile::LINES / LINES_A_PASS;
    static constexpr int USED = LINES_A_PASS * Tile::PER_LINE;  // threads that have chunks
    static constexpr bool ALL = USED == COUNT;

    static __device__ __forceinline__ int line(int thread, int pass) { return thread / Tile::PER_LINE + pass * LINES_A_PASS; }
    static __device__ __forceinline__ int chunk(int thread) { return thread % Tile::PER_LINE; }

    // The position of a thread's chunk in the tile, in bytes.
    static __device__ __forceinline__ int offset(int thread, int pass) {
        const int first = pass % PASSES_A_PERIOD;
        return Tile::swizzle(line(thread, first), chunk(thread)) + (pass - first) * LINES_A_PASS * Tile::LINE_BYTES;
    }

  private:
    static_assert(PASSES * LINES_A_PASS == Tile::LINES, "all threads that have chunks have equally many");
    static constexpr int PASSES_A_PERIOD = LINES_A_PASS < Tile::PERIOD ? Tile::PERIOD / LINES_A_PASS : 1;
    static_assert(PASSES_A_PERIOD * LINES_A_PASS % Tile::PERIOD == 0, "every period's lines have the same swizzles");
};

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
