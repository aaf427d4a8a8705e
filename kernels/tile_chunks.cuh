// How threads share the chunks of a tile in shared memory.
//
// The main loop includes mma_tile.cuh or wgmma_tile.cuh first, which defines `Tile`.
#pragma once

__device__ __forceinline__ constexpr int power_of_two_within(int n) { return n < 2 ? 1 : 2 * power_of_two_within(n / 2); }

// COUNT threads share a tile: each has one chunk in every LINES_A_PASS-th line, always at the same place in the line. If the number
// of chunks in a line does not divide COUNT, as with 24 chunks, the last threads have none.
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
