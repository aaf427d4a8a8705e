// Clusters of blocks: a correct kernel, and kernels with one fault each; for ci/gate/hopper_kernels/cluster.py and for
// test_clusters.py, which looks up the lines that end in `// end`, `// copier` and `// adder`.
// The call in each kernel is on a line of its own: NVRTC 12.0 may crash on a call beside the opening brace (kernels/README.md).
#include "add_tile.cuh"
#include "bulk_copy.cuh"
#include "cluster.cuh"

enum Fault {
    NONE, WRITES_AND_FENCES, NO_SYNC_AT_BEGIN, NO_SYNC_AT_END, ONE_SYNC_MISSING, NO_INIT_FENCE, ARRIVES_OUTSIDE,
    ARRIVES_TWICE, ARRIVES_NOWHERE, WRONG_PLACE, LOADS_OUTSIDE, LOADS_NOWHERE, WAITS_ONLY_FOR_ITSELF, FREES_PEER_TOO_EARLY, EXPECTS_LESS,
    EXPECTS_MORE, NO_PROXY_FENCE, LOAD_NOT_WAITED_FOR, PEER_EXITS, OVERLAPS
};

// Clusters of two blocks of 96 threads. A tile has 64 numbers, which are two rows of x. In both blocks y[i] is the sum of number i
// over `tiles` tiles. Warp 0 copies: each block loads a half of the tile into both blocks. The other warps add. NONE and
// WRITES_AND_FENCES are correct. Most faults are in block 1 of the cluster alone.
template <Fault FAULT>
__device__ void sums(float* y, const TensorMap& map, int tiles) {
    constexpr int STAGES = 2, HALF = 32, BYTES = 2 * HALF * sizeof(float);
    __shared__ alignas(128) float stages[STAGES][2 * HALF];
    __shared__ Mbarrier full[STAGES];
    __shared__ Mbarrier freed[STAGES];
    const uint32 rank = cluster_rank(), peer = rank ^ 1;
    const bool faulty = rank == 1;
    const int pair = blockIdx.x / 2, i = threadIdx.x - 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&freed[s], FAULT == WAITS_ONLY_FOR_ITSELF ? 2 : 4);  // the adding warps of both blocks
        }
        if (FAULT != NO_INIT_FENCE || !faulty) fence_mbarrier_init();
    }
    if (FAULT == NO_SYNC_AT_BEGIN) __syncthreads();
    else cluster_sync();
    if (FAULT == PEER_EXITS && faulty) return;
    if (threadIdx.x == 0) {
        for (int t = 0; t < tiles; ++t) {
            const int s = t % STAGES, row = 2 * (pair * tiles + t) + int(rank);
            mbarrier_wait(&freed[s], t / STAGES % 2 ^ 1);  // copier
            const int expected = !faulty ? BYTES : FAULT == EXPECTS_LESS ? BYTES / 2 : FAULT == EXPECTS_MORE ? BYTES + 16 : BYTES;
            mbarrier_arrive_expecting(&full[s], expected);
            const uint32 ranks = FAULT == LOADS_OUTSIDE && faulty ? 0b101 : FAULT == LOADS_NOWHERE && faulty ? 0 : 0b11;
            const uint32 half = FAULT == OVERLAPS ? 0 : rank;
            tensor_load_multicast(&stages[s][HALF * half], map, &full[s], {0, row}, ranks);
        }
        if (FAULT == LOAD_NOT_WAITED_FOR && faulty) {
            const int s = tiles % STAGES;
            mbarrier_wait(&freed[s], tiles / STAGES % 2 ^ 1);
            tensor_load_multicast(stages[s], map, &full[s], {0, 0}, 0b01);
        }
    } else if (threadIdx.x >= 32) {
        float sum = 0;
        for (int t = 0; t < tiles; ++t) {
            const int s = t % STAGES;
            mbarrier_wait(&full[s], t / STAGES % 2);  // adder
            if (FAULT == FREES_PEER_TOO_EARLY && faulty && threadIdx.x % 32 == 0) mbarrier_arrive_in(&freed[s], peer);
            sum += stages[s][i];
            if (FAULT == WRITES_AND_FENCES || FAULT == NO_PROXY_FENCE) stages[s][i] = 0;
            if (FAULT == WRITES_AND_FENCES || (FAULT == NO_PROXY_FENCE && !(faulty && i == 5))) fence_proxy_async();
            __syncwarp();
            if (threadIdx.x % 32) continue;
            mbarrier_arrive(&freed[s]);
            if (FAULT == WAITS_ONLY_FOR_ITSELF || (FAULT == FREES_PEER_TOO_EARLY && faulty)) continue;
            if (FAULT == ARRIVES_NOWHERE && faulty && t == 1) continue;
            Mbarrier* where = FAULT == WRONG_PLACE && faulty ? &full[s] : &freed[s];
            mbarrier_arrive_in(where, FAULT == ARRIVES_OUTSIDE && faulty ? 2 : peer);
            if (FAULT == ARRIVES_TWICE && faulty) mbarrier_arrive_in(&freed[s], peer);
        }
        y[64 * blockIdx.x + i] = sum;
    }
    if (FAULT == NO_SYNC_AT_END || (FAULT == ONE_SYNC_MISSING && faulty)) return;
    cluster_sync();  // end
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) correct(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<NONE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) correct_with_writes(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<WRITES_AND_FENCES>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) no_sync_at_begin(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<NO_SYNC_AT_BEGIN>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) no_sync_at_end(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<NO_SYNC_AT_END>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) one_sync_missing(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<ONE_SYNC_MISSING>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) no_init_fence(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<NO_INIT_FENCE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) arrives_outside(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<ARRIVES_OUTSIDE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) arrives_twice(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<ARRIVES_TWICE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) arrives_nowhere(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<ARRIVES_NOWHERE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) wrong_place(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<WRONG_PLACE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) loads_outside(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<LOADS_OUTSIDE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) loads_nowhere(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<LOADS_NOWHERE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) waits_only_for_itself(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<WAITS_ONLY_FOR_ITSELF>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) frees_peer_too_early(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<FREES_PEER_TOO_EARLY>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) expects_less(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<EXPECTS_LESS>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) expects_more(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<EXPECTS_MORE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) no_proxy_fence(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<NO_PROXY_FENCE>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) load_not_waited_for(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<LOAD_NOT_WAITED_FOR>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) peer_exits(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<PEER_EXITS>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) overlaps(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums<OVERLAPS>(y, map, tiles);
}

// As `sums`, but a tile has 512 numbers, which are 16 rows of x, and a warpgroup adds the tiles by an asynchronous instruction.
// A block has 256 threads.
template <bool TOO_EARLY>
__device__ void sums_of_warpgroup(float* y, const TensorMap& map, int tiles) {
    constexpr int STAGES = 2;
    __shared__ alignas(128) float stages[STAGES][TILE];
    __shared__ Mbarrier full[STAGES];
    __shared__ Mbarrier freed[STAGES];
    const uint32 rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&freed[s], 2);
        }
        fence_mbarrier_init();
    }
    cluster_sync();
    if (threadIdx.x == 0) {
        for (int t = 0; t < tiles; ++t) {
            const int s = t % STAGES, row = 16 * (blockIdx.x / 2 * tiles + t) + 8 * int(rank);
            mbarrier_wait(&freed[s], t / STAGES % 2 ^ 1);
            mbarrier_arrive_expecting(&full[s], TILE * sizeof(float));
            tensor_load_multicast(&stages[s][TILE / 2 * rank], map, &full[s], {0, row}, 0b11);
        }
    } else if (threadIdx.x >= 128) {
        float sums[4] = {};
        for (int t = 0; t < tiles; ++t) {
            const int s = t % STAGES;
            mbarrier_wait(&full[s], t / STAGES % 2);
            wgmma_fence();
            add_tile(sums, stages[s]);
            wgmma_commit();
            if (TOO_EARLY && rank == 1 && threadIdx.x == 128) mbarrier_arrive_in(&freed[s], 0);
            wgmma_wait<0>();
            if (threadIdx.x != 128) continue;
            if (!TOO_EARLY || rank == 0) mbarrier_arrive_in(&freed[s], 0);
            mbarrier_arrive_in(&freed[s], 1);
        }
        for (int i = 0; i < 4; ++i) y[TILE * blockIdx.x + 4 * (threadIdx.x - 128) + i] = sums[i];
    }
    cluster_sync();
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256) correct_wgmma(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums_of_warpgroup<false>(y, map, tiles);
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256) freed_before_wgmma_ends(float* y, const __grid_constant__ TensorMap map, int tiles) {
    sums_of_warpgroup<true>(y, map, tiles);
}

// Each block arrives in the other one, which may not have initialized its mbarrier.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(32) arrives_at_begin(float* y) {
    __shared__ Mbarrier begun;
    if (threadIdx.x == 0) mbarrier_init(&begun, 1);
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_arrive_in(&begun, cluster_rank() ^ 1);
    mbarrier_wait(&begun, 0);
    y[32 * blockIdx.x + threadIdx.x] = 1;
    cluster_sync();
}

// Each block of a cluster of SIZE writes x to its part of y; after a cluster_sync() it doubles the part of the next block.
template <bool SYNC>
__device__ void exchange(float* y, const float* x) {
    const uint32 n = blockDim.x, blocks = SIZE, first = blockIdx.x - cluster_rank();
    y += n * gridDim.x * blockIdx.y, x += n * gridDim.x * blockIdx.y;
    y[n * blockIdx.x + threadIdx.x] = x[n * blockIdx.x + threadIdx.x];
    if (SYNC) cluster_sync();
    const uint32 other = first + (cluster_rank() + 1) % blocks;
    y[n * other + n - 1 - threadIdx.x] *= 2;
}
extern "C" __global__ void __cluster_dims__(SIZE, 1, 1) exchanged(float* y, const float* x) {
    exchange<true>(y, x);
}
extern "C" __global__ void __cluster_dims__(SIZE, 1, 1) exchanged_without_sync(float* y, const float* x) {
    exchange<false>(y, x);
}

// Block 0 writes y[0] and arrives in block 1, which waits and reads it: an arrival does not publish what was written.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(32) published_by_arrival(float* y) {
    __shared__ Mbarrier written;
    if (threadIdx.x == 0) mbarrier_init(&written, 1);
    cluster_sync();
    if (threadIdx.x == 0 && cluster_rank() == 0) {
        y[0] = 3;
        mbarrier_arrive_in(&written, 1);
    }
    if (threadIdx.x == 0 && cluster_rank() == 1) {
        mbarrier_wait(&written, 0);
        y[1] = y[0];
    }
    cluster_sync();
}

// The blocks use their shared variables in different orders. Nevertheless `ready` is at the same address in both blocks.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(32) different_orders(float* y) {
    if (cluster_rank() == 0) {
        __shared__ float before[32];
        before[threadIdx.x] = 1;
        y[threadIdx.x] = before[threadIdx.x];
    }
    extern __shared__ __align__(1024) float numbers[];
    if (cluster_rank() == 1) {
        __shared__ float after[64];
        after[threadIdx.x] = 2;
        y[32 + threadIdx.x] = after[threadIdx.x];
    }
    __shared__ Mbarrier ready;
    if (threadIdx.x == 0) mbarrier_init(&ready, 32);
    cluster_sync();
    mbarrier_arrive_in(&ready, cluster_rank() ^ 1);
    mbarrier_wait(&ready, 0);
    numbers[threadIdx.x] = 3;
    y[32 * cluster_rank() + threadIdx.x] += numbers[threadIdx.x];
    cluster_sync();
}

// In each block, each of the 14 threads waits for a barrier of its own.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(14) waits_in_many_ways(float* y) {
    __shared__ Mbarrier own[14];
    mbarrier_init(&own[threadIdx.x], 1);
    cluster_sync();
    mbarrier_wait(&own[threadIdx.x], 0);
    y[threadIdx.x] = 1;
}

// order: the ranks of the blocks, in the order in which they run. begun: how many have begun; 0 at first.
extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(1) ranks_in_order(int32* order, int32* begun) {
    atomicExch(&order[atomicAdd(begun, 1)], int32(cluster_rank()));
    cluster_sync();
}
