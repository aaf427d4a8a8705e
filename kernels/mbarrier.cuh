// Barriers in shared memory on which threads and asynchronous copies arrive, and the fences of the async proxy (sm_90).
//
//   __shared__ Mbarrier full[STAGES];
//   if (threadIdx.x == 0) mbarrier_init(&full[s], arrivals);  // a phase ends after this many arrivals and all expected bytes
//   fence_mbarrier_init();                    // by the same thread, before bulk copies arrive on the barrier
//   __syncthreads();                          // then all threads may use it
//   mbarrier_arrive(&full[s]);                // threads that wait see what this thread wrote before
//   mbarrier_arrive_expecting(&full[s], bytes);  // the same, and the phase also waits for this many bytes
//   mbarrier_arrive_after_copies(&full[s]);   // counts as an arrival once this thread's earlier cp.async are complete
//   mbarrier_wait(&full[s], parity);          // for the end of the phase: parity 0 for the first, then 1, 0, ...
//   mbarrier_invalidate(&full[s]);            // before its memory is used for anything else
//   fence_proxy_async();                      // later wgmma and bulk copies see what this thread wrote or saw before
//
// A wait with parity 1 on a fresh barrier returns at once, so the first round over empty stages is not a special case.
// A wait that lasts four seconds is a deadlock: the kernel traps. Copies by cp.async go through the generic proxy: before wgmma
// reads what they brought, the thread that copied waits for them (wait_for_copies), fences and arrives; or the readers fence
// after their wait. (PTX ISA, "mbarrier", "membar / fence", "cp.async.mbarrier.arrive".)
//
// The emulated device waits without spinning, and reports a deadlock at once.
#pragma once

#include "sm90.cuh"

struct alignas(8) Mbarrier {
    uint64 state;
};

__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, uint32 arrivals GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_init(barrier, arrivals, GPUCONV_SITE);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_invalidate(Mbarrier* barrier GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_invalidate(barrier, GPUCONV_SITE);
#else
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

__device__ __forceinline__ void fence_mbarrier_init() {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_fence_init();
#else
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void fence_proxy_async() {
#ifdef GPUCONV_EMULATOR
    gpuconv_proxy_fence();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_arrive(barrier, 1, 0, GPUCONV_SITE);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive_expecting(Mbarrier* barrier, uint32 bytes GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_arrive(barrier, 1, bytes, GPUCONV_SITE);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive_after_copies(Mbarrier* barrier GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_arrive_after_copies(barrier, GPUCONV_SITE);
#else
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Whether the phase has ended; waits for its end for a limited time.
__device__ __forceinline__ bool mbarrier_try_wait(Mbarrier* barrier, uint32 parity GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    return gpuconv_mbarrier_wait(barrier, parity, true, GPUCONV_SITE);
#else
    uint32 ended;
    asm volatile(
        "{.reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended;}"
        : "=r"(ended) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return ended;
#endif
}

__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, uint32 parity GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    gpuconv_mbarrier_wait(barrier, parity, false, GPUCONV_SITE);
#else
    constexpr uint64 LONGEST = 4000000000;  // nanoseconds
    if (mbarrier_try_wait(barrier, parity)) return;
    uint64 begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    while (!mbarrier_try_wait(barrier, parity)) {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (now - begin > LONGEST) __trap();
    }
#endif
}
