// Tile iterators of the main loops on tensor cores (gemm_mma.cuh, gemm_wgmma.cuh): they copy tiles of an operand into shared
// memory. Each thread that copies has its own object, which copies that thread's part.
//
//   TileIterator<...> a(matrix, side);  // side: the block's first row or column of the product
//   a.seek(depth);                      // called by all copying threads: go to the first tile, at `depth`
//   a.fetch(tile, depth);               // start to copy the tile at `depth`
//   a.advance(depth);                   // go to the next tile, at `depth`, STAGE_K further
//   a.put(tile);                        // store what fetch loaded into registers
//
// If iterators fill a table ahead (FILLS_AHEAD), the main loop has a barrier between two fetches. tile_chunks.cuh says which
// chunks of a tile a thread copies.
//
// The main loop includes mma_tile.cuh or wgmma_tile.cuh first. That header defines `Tile`, CHUNK, STAGE_K,
// sums_memory() and the threads that copy: COPIERS is their number, copier() the calling thread's index among them,
// sync_copiers() their barrier. Only these threads have iterators. The iterators of the next tile of the product use
// the same tables, so sync_copiers() must precede their construction. STORES_LATER: whether the threads multiply
// between fetch and put, so that numbers that move one at a time wait in registers.
//
// Apart from its products the main loop mostly computes addresses. So an iterator computes its position once and then increments
// it from tile to tile. How it does so depends on the matrix: STRAIGHT (straight_iterator.cuh), TAPS (tap_iterator.cuh), PIXELS
// (pixel_iterator.cuh) or SEARCH (search_iterator.cuh). Chunks are copied by cp.async (tile_mover.cuh).
#pragma once

#include "pixel_iterator.cuh"
#include "search_iterator.cuh"
#include "straight_iterator.cuh"
#include "tap_iterator.cuh"

// The walk along the depth that suits a matrix, and the one taken: SEARCH if numbers move one at a time or taps have no table.
template <class Matrix, bool COLUMNS_ARE_DEPTH>
constexpr Walk natural_walk = COLUMNS_ARE_DEPTH ? Matrix::ALONG_COLUMNS : Matrix::ALONG_LINES;
template <class Matrix, int VECTOR, bool COLUMNS_ARE_DEPTH>
constexpr Walk walk =
    VECTOR < CHUNK || (natural_walk<Matrix, COLUMNS_ARE_DEPTH> == Walk::TAPS && !TAP_TABLE)
        ? Walk::SEARCH
        : natural_walk<Matrix, COLUMNS_ARE_DEPTH>;

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS = false>
using TileIterator = WalkIterator<walk<Matrix, VECTOR, COLUMNS_ARE_DEPTH>, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>;
