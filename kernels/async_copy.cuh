// Asynchronous copies from global to shared memory (cp.async, sm_80), in groups.
//
//   copy_async<16>(&tile[i], &x[j]);     // start; 4, 8 or 16 bytes; both addresses are aligned to that size
//   copy_async<16>(&tile[i], p, 0);      // reads 0 bytes, the rest becomes zero: padding without a branch
//   copy_async_or_zeros<16>(&tile[i], p, found);  // copies 16 bytes if `found`; else writes zeros, and p is not read
//   commit_copies();                     // makes the copies since the last commit one group
//   wait_for_copies<1>();                // waits until at most 1 group of this thread is unfinished
//   __syncthreads();                     // then the other threads may read
//
// On the emulated device a copy takes effect at the wait, or just before mbarrier_arrive_after_copies counts its arrival. A
// read before that gives NaN, or an error under the checker.
#pragma once

template <int BYTES>
__device__ __forceinline__ void copy_async(void* to_shared, const void* from_global, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
#ifdef GPUCONV_EMULATOR
    gpuconv_copy_async(to_shared, from_global, BYTES, valid);
#else
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
    if constexpr (BYTES == 16)  // past the L1 cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from_global), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from_global), "n"(BYTES), "r"(valid)
                     : "memory");
#endif
}

template <int BYTES>
__device__ __forceinline__ void copy_async_or_zeros(void* to_shared, const void* from_global, bool found) {
    static_assert(BYTES == 16, "tiles move 16 bytes at a time");
#ifdef GPUCONV_EMULATOR
    gpuconv_copy_async(to_shared, from_global, BYTES, found ? BYTES : 0);
#else
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
    asm volatile(
        "{.reg .pred nothing; setp.eq.u32 nothing, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, nothing;}" ::"r"(to),
        "l"(from_global), "r"(unsigned(found))
        : "memory");
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifdef GPUCONV_EMULATOR
    gpuconv_copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
#ifdef GPUCONV_EMULATOR
    gpuconv_copy_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
