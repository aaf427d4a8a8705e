// Tiles of the operands in shared memory as wgmma reads them (wgmma_layout.cuh, 128-byte swizzle), a ring of pairs of tiles, and
// the warpgroup that fills it. Counterpart of mma_tile.cuh.
//
// The block's first THREADS threads hold sums; the COPIERS threads after them, its last warpgroup, copy.
//
// Macros: those of gemm_wgmma.cuh; CLUSTER, the number of blocks that fill each other's rings, 1 if not defined.
#pragma once

#include "cluster.cuh"
#include "fragment_store.cuh"
#include "mbarrier.cuh"
#include "wgmma.cuh"

#ifndef CLUSTER
#define CLUSTER 1
#endif

constexpr int CHUNK = 8;     // numbers that move at once
constexpr int STAGE_K = 64;  // the depth of a tile
constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * STAGE_K * 2;

constexpr int WARPGROUPS = THREADS / 128;  // that hold sums
constexpr int COPIERS = 128;
// The calling thread's warpgroup; the shuffle tells the compiler that all lanes of a warp have the same one.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0u, int(threadIdx.x) / 128, 0); }
__device__ __forceinline__ int copier() { return int(threadIdx.x) - THREADS; }
__device__ __forceinline__ void sync_copiers() { warps_sync<2>(COPIERS); }
constexpr bool STORES_LATER = false;  // see tile_iterator.cuh

// Holds the ring, then for each warp with sums a buffer through which it stores them, then sums of columns.
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ unsigned char* stored_memory(int warp) {
    return shared_memory() + STAGES * STAGE_BYTES + warp * FragmentStore::BYTES;
}
__device__ __forceinline__ unsigned char* sums_memory() { return stored_memory(THREADS / 32); }

template <int SIDE, bool COLUMNS_ARE_DEPTH>
struct Tile {
    static constexpr Major MAJOR = COLUMNS_ARE_DEPTH ? Major::K : Major::MN;
    using Layout = OperandLayout<MAJOR, Swizzle::BYTES_128, SIDE, STAGE_K>;
    static constexpr int BYTES = Layout::BYTES;
    static constexpr int LINES = Layout::LINES, PER_LINE = BYTES / 16 / LINES;  // chunks
    static constexpr int LINE_BYTES = Layout::WIDTH;                            // to the next line
    static constexpr int PERIOD = 8;                                            // lines after which the swizzle repeats

    // The offset of a chunk in its tile, in bytes.
    static __device__ __forceinline__ int swizzle(int line, int chunk) { return Layout::line_offset(line, chunk * CHUNK); }
};

// A thread's position in the ring. The copiers fill the stage there. It is free again once all warpgroups that hold sums have
// multiplied it: in a cluster, those of all its blocks.
struct Ring {
    static constexpr bool SHARED = CLUSTER > 1;                 // the blocks of a cluster fill each other's rings
    static constexpr int FILLERS = COPIERS + (SHARED ? 1 : 0);  // arrivals: of the copiers, and of `expect`

    int stage = 0;
    uint32 parity = 0;  // of the round

    // All threads of the block, or of all blocks of the cluster, call this first.
    static __device__ __forceinline__ void open() {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) {
                mbarrier_init(&filled()[i], FILLERS);
                mbarrier_init(&freed()[i], CLUSTER * WARPGROUPS);
            }
            fence_mbarrier_init();
        }
        if constexpr (SHARED) cluster_sync();
        else __syncthreads();
    }

    // All threads of the cluster call this last: no block ends while another one may still arrive at its barriers.
    static __device__ __forceinline__ void close() { cluster_sync(); }

    __device__ __forceinline__ unsigned char* tiles() const { return shared_memory() + stage * STAGE_BYTES; }
    __device__ __forceinline__ void wait_until_filled() const { mbarrier_wait(&filled()[stage], parity); }
    __device__ __forceinline__ void wait_until_free() const { mbarrier_wait(&freed()[stage], parity ^ 1); }
    __device__ __forceinline__ void say_filled() const { mbarrier_arrive(&filled()[stage]); }
    __device__ __forceinline__ void say_free() const {
        if constexpr (SHARED) {
            const uint32 rank = threadIdx.x % 128;
            if (rank < CLUSTER) mbarrier_arrive_in(&freed()[stage], rank);
        } else {
            if (threadIdx.x % 128 == 0) mbarrier_arrive(&freed()[stage]);
        }
    }
    // In a cluster: one copier of each block says how many bytes the blocks together load into its stage, and the loads report
    // theirs to `loaded`.
    __device__ __forceinline__ void expect(uint32 bytes) const { mbarrier_arrive_expecting(&filled()[stage], bytes); }
    __device__ __forceinline__ Mbarrier* loaded() const { return &filled()[stage]; }
    __device__ __forceinline__ void next() {
        if (++stage < STAGES) return;
        stage = 0;
        parity ^= 1;
    }

  private:
    static __device__ __forceinline__ Mbarrier (&filled())[STAGES] {
        __shared__ alignas(8) Mbarrier barriers[STAGES];
        return barriers;
    }
    static __device__ __forceinline__ Mbarrier (&freed())[STAGES] {
        __shared__ alignas(8) Mbarrier barriers[STAGES];
        return barriers;
    }
};
