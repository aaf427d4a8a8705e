// Clusters of blocks, which run at the same time and can arrive at each other's mbarriers (sm_90).
//
//   extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128) k(...)  // blocks 2 i and 2 i + 1 are a cluster
//   cluster_rank();                     // the number of this block in its cluster: 0 or 1
//   cluster_sync();                     // a barrier of all threads of all blocks; each sees what any of them wrote before
//   mbarrier_arrive_in(&freed[s], 1);   // arrives at block 1's freed[s]
//   tensor_load_multicast(...);         // copies a box to several blocks (bulk_copy.cuh)
//
// A shared variable has the same address in each block, counted from the start of the block's shared memory. A cluster_sync()
// must come between the initialization of an mbarrier and the first arrival of another block at it. Another
// cluster_sync() must come between the last arrival or multicast of another block and the end of the block that
// receives them.
//
// A thread that has waited for another block's mbarrier_arrive_in may overwrite, also by multicast, what the arriving thread read
// before it arrived. This includes reads by wgmma and cp.async, if the arriving thread had waited for them. What the arriving
// thread wrote to global memory is visible only after a cluster_sync(): an arrival that publishes writes (.release.cluster)
// compiles to a fence of the whole GPU.
// (PTX ISA, "barrier.cluster", "mapa", "mbarrier.arrive"; CUTLASS frees stages by the same instruction.)
//
// On a GPU cluster_sync() does not wait for threads that have exited; the emulated device reports them.
#pragma once

#include "mbarrier.cuh"

__device__ __forceinline__ uint32 cluster_rank() {
#ifdef GPUCONV_EMULATOR
    return gpuconv_cluster_rank();
#else
    uint32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#endif
}

__device__ __forceinline__ void cluster_sync(GPUCONV_CALLER_ONLY) {
#ifdef GPUCONV_EMULATOR
    gpuconv_cluster_sync(GPUCONV_SITE);
#else
    asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive_in(Mbarrier* mine, uint32 rank GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_arrive_in(mine, rank, GPUCONV_SITE);
#else
    asm volatile(
        "{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [there];}"
        ::"r"(shared_address(mine)), "r"(rank) : "memory");
#endif
}
