// Tiles of the operands in shared memory as wgmma reads them (wgmma_layout.cuh, 128-byte swizzle), a ring of pairs of tiles, and
// the warpgroup that fills it. Counterpart of mma_tile.cuh.
//
// The block's first THREADS threads hold sums; the COPIERS threads after them, its last warpgroup, copy.
#pragma once

#include "fragment_store.cuh"
#include "mbarrier.cuh"
#include "wgmma.cuh"

constexpr int CHUNK = 8;     // numbers that move at once
constexpr int STAGE_K = 64;  // the depth of a tile
constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * STAGE_K * 2;

constexpr int WARPGROUPS = THREADS / 128;  // that hold sums
constexpr int COPIERS = 128;
// The calling thread's warpgroup; the shuffle tells the compiler that all lanes of a warp have the same one.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0u, int(threadIdx.x) / 128, 0); }
__device__ __forceinline__ int copier() { return int(threadIdx.x) - THREADS; }
__device__ __forceinline__ void sync_copiers() { warps_sync<2>(COPIERS); }
constexpr bool STORES_LATER = false;

// Holds the ring, then for each warp a buffer through which it stores its sums, then sums of columns.
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

// A thread's position in the ring. The copiers fill the stage there; it is free again once all warpgroups have multiplied it.
struct Ring {
    int stage = 0;
    uint32 parity = 0;  // of the round

    // All threads of the block call this first.
    static __device__ __forceinline__ void open() {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) {
                mbarrier_init(&filled()[i], COPIERS);
                mbarrier_init(&freed()[i], WARPGROUPS);
            }
            fence_mbarrier_init();
        }
        __syncthreads();
    }

    __device__ __forceinline__ unsigned char* tiles() const { return shared_memory() + stage * STAGE_BYTES; }
    __device__ __forceinline__ void wait_until_filled() const { mbarrier_wait(&filled()[stage], parity); }
    __device__ __forceinline__ void wait_until_free() const { mbarrier_wait(&freed()[stage], parity ^ 1); }
    __device__ __forceinline__ void say_filled() const { mbarrier_arrive(&filled()[stage]); }
    __device__ __forceinline__ void say_free() const {
        if (threadIdx.x % 128 == 0) mbarrier_arrive(&freed()[stage]);
    }
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
