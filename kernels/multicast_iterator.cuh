// The tile iterator of an operand that the blocks of a cluster share (gemm_wgmma.cuh): each block loads its share of a tile's rows,
// and multicasts it to all. A tensor map describes the operand, and `Boxes` says where the boxes of a tile lie in it:
//
//   COLUMNS_ARE_DEPTH                 whether the operand's lines run along the depth (K-major), as in TileIterator
//   WIDTH                             rows of a box, which are those of a share
//   load(to, filled, side, depth)     called by all copying threads: multicasts the share of the tile at `depth` that begins at row
//                                     `side`, and reports its bytes to `filled`
//
// The maps have a swizzle of 128 bytes, so a line of a box has STAGE_K numbers. They give zeros outside of the operand.
#pragma once

#include "bulk_copy.cuh"
#include "conv2d_matrices.cuh"
#include "wgmma_tile.cuh"

constexpr uint32 EVERY_BLOCK = (1 << CLUSTER) - 1;  // of the cluster

// This block's part of the tiles of its cluster, which lie one below the other. tile: the cluster's index; the scheduler counts
// these tiles as one.
__device__ __forceinline__ Block block_of_cluster(const TileScheduler& scheduler, int32 depth, int32 tile) {
    Block block(scheduler, depth, tile);
    block.row = block.row * CLUSTER + int32(cluster_rank()) * BLOCK_M;
    return block;
}

template <int SIDE, class Boxes>
class MulticastIterator {
  public:
    using Tile = ::Tile<SIDE, Boxes::COLUMNS_ARE_DEPTH>;
    static constexpr bool FILLS_AHEAD = false, SUMMING = false;

    // filling: the position in the ring where `fetch` puts the tiles.
    __device__ __forceinline__ MulticastIterator(const Boxes& boxes, const Ring& filling, int32 side)
        : boxes(boxes), filling(filling), side(side) {}

    __device__ __forceinline__ void seek(int32) {}
    __device__ __forceinline__ void advance(int32) {}
    __device__ __forceinline__ void put(unsigned char*) {}

    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (copier() == 0) filling.expect(Tile::BYTES);
        boxes.load(tile + rank * SHARE_BYTES, filling.loaded(), side + rank * SHARE, depth);
    }

  private:
    static constexpr int SHARE = SIDE / CLUSTER, SHARE_BYTES = Tile::BYTES / CLUSTER;
    static_assert(CLUSTER > 1 && SHARE * CLUSTER == SIDE && SHARE % 64 == 0, "each block loads whole panels and atoms");
    static_assert(SHARE == Boxes::WIDTH, "a share is as wide as a box");

    const Boxes& boxes;
    const Ring& filling;
    const int32 side, rank = int32(cluster_rank());
};

// The filters of fprop: a row is a filter. Map: (groups, filters, taps x channels), in boxes of 1 x WIDTH x STAGE_K.
struct FilterBoxes {
    static constexpr bool COLUMNS_ARE_DEPTH = true;
    static constexpr int WIDTH = BLOCK_N / CLUSTER;

    const TensorMap& map;
    int32 group;

    __device__ __forceinline__ void load(unsigned char* to, Mbarrier* filled, int32 filter, int32 depth) const {
        if (copier() == 0) tensor_load_multicast(to, map, filled, {depth, filter, group}, EVERY_BLOCK);
    }
};

// dy in wgrad: a row is a filter, the depth runs over pixels. Map: (1, pixels, all filters), in boxes of 1 x STAGE_K x WIDTH.
struct GradientBoxes {
    static constexpr bool COLUMNS_ARE_DEPTH = false;
    static constexpr int WIDTH = 64;

    const TensorMap& map;
    int32 first_filter, all_filters;  // of the group; of all groups

    __device__ __forceinline__ void load(unsigned char* to, Mbarrier* filled, int32 filter, int32 depth) const {
        const int32 first = min(first_filter + filter, all_filters - CHUNK);  // filters past the last one are not stored
        if (copier() == 0) tensor_load_multicast(to, map, filled, {first, depth, 0}, EVERY_BLOCK);
    }
};

// The filters of dgrad: a row is an input channel, the depth runs over a phase's taps (r, s, filter). Map: (all filters, taps,
// channels), in boxes of LINES x 1 x WIDTH. LINES divides a group's filters, so a box lies in one tap.
struct TransposedFilterBoxes {
    static constexpr bool COLUMNS_ARE_DEPTH = false;
    static constexpr int LINES = 8, WIDTH = 64;

    const TensorMap& map;
    const TransposedFilters& filters;
    int32 first_filter;  // of the group

    __device__ __forceinline__ void load(unsigned char* to, Mbarrier* filled, int32 channel, int32 depth) const {
        if (copier() >= STAGE_K / LINES) return;
        int32 filter = depth + copier() * LINES;
        const bool inside = filter < filters.lines;
        int32 s = filters.per_tap().divide(filter);
        const int32 r = filters.phase.across(filters.conv).divide(s);
        const int32 tap = inside ? filters.tap_index(r, s) : filters.all_taps();  // past the last one: zeros
        const int32 last = (filters.columns - 1) / WIDTH * WIDTH;  // instead of channels past it, whose sums are not stored
        tensor_load_multicast(to + copier() * LINES * WIDTH * 2, map, filled, {min(channel, last), tap, first_filter + filter},
                              EVERY_BLOCK);
    }
};
