// What all tile iterators (tile_iterator.cuh) have in common: which chunks of a tile a thread copies, how it copies them, and the
// sums of the columns that it copied.
#pragma once

#include "async_copy.cuh"
#include "gemm.cuh"

// The source of a chunk. If not found, the chunk is zeros and `from` is any address.
struct Source {
    const DTYPE* from;
    bool found;
};

__device__ __forceinline__ constexpr int power_of_two_within(int n) { return n < 2 ? 1 : 2 * power_of_two_within(n / 2); }

// How a block's threads copy a tile. Iterator: derives from this and finds chunks.
template <class Iterator, class Matrix, int SIDE, bool COLUMNS_ARE_DEPTH, bool SUMS>
class TileMover {
  public:
    using Tile = ::Tile<SIDE, COLUMNS_ARE_DEPTH>;
    static constexpr bool FILLS_AHEAD = false;  // whether fetch reads what the previous advance wrote
    static constexpr bool SEARCHES = false;
    static constexpr bool SUMMING = SUMS;

    // Finds all chunks before it copies the first.
    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (!copies()) return;
        Source chunks[PASSES];
        static_cast<const Iterator*>(this)->find(chunks, depth);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto [from, found] = chunks[pass];
            copy_async_or_zeros<16>(tile + chunk_offset(pass), from, found);
        }
    }

    __device__ __forceinline__ void put(unsigned char*) {}

    // Until this is called with true, `add` does nothing.
    __device__ __forceinline__ void enable_sums(bool enabled) { sums_enabled = enabled; }

    // Updates the sums of columns from the chunks of a finished tile that this thread copied.
    __device__ __forceinline__ void add(const unsigned char* tile) {
        if constexpr (SUMS) {
            static_assert(!COLUMNS_ARE_DEPTH && USED == COPIERS, "a thread keeps to its columns, and all have some");
            if (!sums_enabled) return;
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                const auto numbers = *reinterpret_cast<const Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass));
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) sums[j] += load(numbers.at[j]);
            }
        }
    }

    // Calls take(column, sum) once for each of the block's columns. All copying threads call this, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        auto& rows = *reinterpret_cast<float (*)[LINES_A_PASS][SIDE]>(sums_memory());
        sync_copiers();  // the memory held tiles, accumulators or earlier sums
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) rows[copier() / Tile::PER_LINE][chunk() * CHUNK + j] = sums[j];
        sync_copiers();
        for (int side = copier(); side < SIDE; side += COPIERS) {
            float sum = 0;
#pragma unroll 1
            for (int row = 0; row < LINES_A_PASS; ++row) sum += rows[row][side];
            take(side, sum);
        }
    }

    static constexpr int LINES_A_PASS = power_of_two_within(COPIERS / Tile::PER_LINE), PASSES = Tile::LINES / LINES_A_PASS;
    static constexpr int USED = LINES_A_PASS * Tile::PER_LINE;  // threads that copy

    static __device__ __forceinline__ bool copies() { return USED == COPIERS || copier() < USED; }

    // The line and the chunk of the tile that this thread copies in a pass.
    static __device__ __forceinline__ int line(int pass) { return copier() / Tile::PER_LINE + pass * LINES_A_PASS; }
    static __device__ __forceinline__ int chunk() { return copier() % Tile::PER_LINE; }

  protected:
    static_assert(PASSES * LINES_A_PASS == Tile::LINES,
                  "threads that copy have the same number of chunks, a thread always the same chunk of a line");
    static constexpr int PASSES_A_PERIOD = LINES_A_PASS < Tile::PERIOD ? Tile::PERIOD / LINES_A_PASS : 1;
    static_assert(PASSES_A_PERIOD * LINES_A_PASS % Tile::PERIOD == 0, "every period's lines have the same swizzles");

    static __device__ __forceinline__ int chunk_offset(int pass) {
        const int first = pass % PASSES_A_PERIOD;
        return Tile::swizzle(line(first), chunk()) + (pass - first) * LINES_A_PASS * Tile::LINE_BYTES;
    }

  private:
    float sums[CHUNK] = {};
    bool sums_enabled = false;
};

// Each walk along the depth has a header with its iterators.
template <Walk WALK, class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator;
