// The tile iterator of an operand that the blocks of a cluster share (gemm_wgmma.cuh). A tensor map describes the operand, so its
// tiles are boxes. Each block loads its share of a box's lines, and multicasts it to all blocks of the cluster.
//
// The depth runs along the lines (K-major). The map is of (groups, lines, depth), in boxes of 1 x SIDE / CLUSTER x STAGE_K with a
// swizzle of 128 bytes; it gives zeros past the lines of a group and past the depth.
#pragma once

#include "bulk_copy.cuh"
#include "wgmma_tile.cuh"

template <int SIDE>
class MulticastIterator {
    static constexpr int LINES = SIDE / CLUSTER;  // of a share
    static_assert(CLUSTER > 1 && LINES * CLUSTER == SIDE && LINES % 8 == 0, "each block loads whole atoms of the swizzle");

    const TensorMap& map;
    const Ring& filling;
    const int32 side, group;
    const int32 first = int32(cluster_rank()) * LINES;  // line of this block's share

  public:
    using Tile = ::Tile<SIDE, true>;
    static constexpr bool FILLS_AHEAD = false, SUMMING = false;

    // filling: the position in the ring of the tiles that are fetched.
    __device__ __forceinline__ MulticastIterator(const TensorMap& map, const Ring& filling, int32 side, int32 group)
        : map(map), filling(filling), side(side), group(group) {}

    __device__ __forceinline__ void seek(int32) {}
    __device__ __forceinline__ void advance(int32) {}
    __device__ __forceinline__ void put(unsigned char*) {}

    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (copier() != 0) return;
        Mbarrier* const filled = filling.expect(Tile::BYTES);
        tensor_load_multicast(tile + first * Tile::LINE_BYTES, map, filled, {depth, side + first, group}, (1 << CLUSTER) - 1);
    }
};
