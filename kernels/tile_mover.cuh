// What all tile iterators (tile_iterator.cuh) have in common: which chunks of a tile a thread copies, how it copies them, and the
// sums of the columns that it copied.
#pragma once

#include "async_copy.cuh"
#include "column_sums.cuh"
#include "gemm.cuh"
#include "tile_chunks.cuh"

// The source of a chunk. If not found, the chunk is zeros and `from` is any address.
struct Source {
    const DTYPE* from;
    bool found;
};

// How a block's threads copy a tile. Iterator: derives from this and finds chunks.
template <class Iterator, int SIDE, bool COLUMNS_ARE_DEPTH, bool SUMS>
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
    __device__ __forceinline__ void enable_sums(bool enabled) { sums.enabled = enabled; }

    // Updates the sums of columns from the chunks of a finished tile that this thread copied.
    __device__ __forceinline__ void add(const unsigned char* tile) {
        static_assert(!SUMS || !COLUMNS_ARE_DEPTH,
                      "sums need columns that are not the depth: only then does a thread copy the same columns of every tile");
        if constexpr (SUMS) sums.add(tile, copier());
    }

    // Calls take(column, sum) once for each of the block's columns. All copying threads call this, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        sums.take(sums_memory(), copier(), [] { sync_copiers(); }, take);
    }

    using Chunks = TileChunks<Tile, COPIERS>;
    static constexpr int LINES_A_PASS = Chunks::LINES_A_PASS, PASSES = Chunks::PASSES;

    static __device__ __forceinline__ bool copies() { return Chunks::ALL || copier() < Chunks::USED; }

    // The line and the chunk of the tile that this thread copies in a pass.
    static __device__ __forceinline__ int line(int pass) { return Chunks::line(copier(), pass); }
    static __device__ __forceinline__ int chunk() { return Chunks::chunk(copier()); }

  protected:
    static __device__ __forceinline__ int chunk_offset(int pass) { return Chunks::offset(copier(), pass); }

  private:
    ColumnSums<Tile, SIDE, COPIERS> sums;
};

// Each walk along the depth has a header with its iterators.
template <Walk WALK, class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator;
