// Operations of the 128 threads of a warpgroup: the fence, groups and wait of wgmma, and setmaxnreg; barriers of some warps
// (sm_90a).
//
//   wgmma_fence();        // before the first wgmma, and after each access to its accumulators or to A in registers
//   ... wgmma ...         // starts; may read shared memory until a wait for its group returns
//   wgmma_commit();       // makes the wgmma since the last commit one group
//   wgmma_wait<1>();      // waits until at most 1 group is unfinished; then the finished groups' accumulators may be read
//   give_registers<40>(); // lowers the registers of each of these threads to 40; for a producer
//   take_registers<232>();  // raises them to 232, once other threads of the block have given back enough
//   warps_sync<1>(128);   // a barrier of 128 threads of the block (bar.sync, numbers 1 to 15)
//
// A warpgroup is 128 threads, the first of which has a multiple of 128 as its number. All 128 execute each operation, except
// warps_sync. A block cannot hold more registers than it got at launch. The kernel has __launch_bounds__(threads, 1): without the
// 1, ptxas ignores give_registers and take_registers (C7508).
// (PTX ISA, "Asynchronous Warpgroup Level Matrix Operations", "setmaxnreg", "bar".)
//
// The emulated device grants each thread 65536 / threads registers at launch, at most 255, rounded down to a multiple of 8.
#pragma once

#include "sm90.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma and the warpgroup's other instructions need sm_90a: no other architecture has them"
#endif

__device__ __forceinline__ void wgmma_fence(GPUCONV_CALLER_ONLY) {
#ifdef GPUCONV_EMULATOR
    gpuconv_warpgroup(gpuconv_emulator::Step::FENCE, 0, GPUCONV_SITE);
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit(GPUCONV_CALLER_ONLY) {
#ifdef GPUCONV_EMULATOR
    gpuconv_warpgroup(gpuconv_emulator::Step::COMMIT, 0, GPUCONV_SITE);
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int PENDING>
__device__ __forceinline__ void wgmma_wait(GPUCONV_CALLER_ONLY) {
    static_assert(PENDING >= 0 && PENDING < 8, "0 to 7 groups");
#ifdef GPUCONV_EMULATOR
    gpuconv_warpgroup(gpuconv_emulator::Step::WAIT, PENDING, GPUCONV_SITE);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#endif
}

template <int REGISTERS>
__device__ constexpr void expect_registers() {
    static_assert(REGISTERS >= 24 && REGISTERS <= 256 && REGISTERS % 8 == 0, "24 to 256, a multiple of 8");
}

template <int REGISTERS>
__device__ __forceinline__ void give_registers(GPUCONV_CALLER_ONLY) {
    expect_registers<REGISTERS>();
#ifdef GPUCONV_EMULATOR
    gpuconv_warpgroup(gpuconv_emulator::Step::FEWER_REGISTERS, REGISTERS, GPUCONV_SITE);
#else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

template <int REGISTERS>
__device__ __forceinline__ void take_registers(GPUCONV_CALLER_ONLY) {
    expect_registers<REGISTERS>();
#ifdef GPUCONV_EMULATOR
    gpuconv_warpgroup(gpuconv_emulator::Step::MORE_REGISTERS, REGISTERS, GPUCONV_SITE);
#else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

template <int NUMBER>
__device__ __forceinline__ void warps_sync(uint32 threads GPUCONV_CALLER) {
    static_assert(NUMBER > 0 && NUMBER < 16, "barrier 0 is that of __syncthreads()");
#ifdef GPUCONV_EMULATOR
    gpuconv_named_barrier(NUMBER, threads, GPUCONV_SITE);
#else
    asm volatile("bar.sync %0, %1;" ::"n"(NUMBER), "r"(threads) : "memory");
#endif
}
