// Matrix products of a warpgroup, 128 threads, on Hopper's tensor cores (wgmma, sm_90a). Both operands lie in shared memory
// (wgmma_layout.cuh); the sums are in registers. Products run in the background.
//
//   wgmma_fence(sums);                                        // the sums in registers, and shared memory that was written
//   multiply_add_async<bfloat16, Major::K, Major::K>(sums, a, b);  // a, b: descriptors; several products may follow each other
//   wgmma_commit();                                           // makes the products since the last commit one group
//   wgmma_wait<1>(sums);                                      // waits until at most 1 group is unfinished
//
// multiply_add_async: sums (64 x N) += a (64 x 16) * b (16 x N), of float16 or bfloat16. Until a wait, no thread reads or writes its
// sums, and no one writes the operands. Writes of shared memory by ordinary stores and by cp.async come before a product only if
// they are followed by a proxy fence.
//
// With w = the warp of the warpgroup, g = lane / 4 and t = lane % 4, sums[4 j + i] is at row 16 w + g + i / 2 * 8, column
// 8 j + 2 t + i % 2 (PTX ISA, "Register Fragments and Shared Memory Matrix Layouts" of wgmma, fragment D).
//
// All threads of a warpgroup take part, with the same descriptors. How a tensor core rounds is not documented. The emulated device
// adds the 16 products of a sum in double, in the order of the depth, and rounds to float32 once: as in mma.cuh.
#pragma once

#include "mma.cuh"
#include "wgmma_layout.cuh"

#ifdef GPUCONV_EMULATOR

namespace emulated {

struct WarpgroupFactors {
    uint64 a, b;
    float* sums;
};

// Number (row, k) of an operand.
template <class T, Major MAJOR>
GPUCONV_UNCHECKED inline float operand_number(const MatrixDescriptor& operand, int row, int k) {
    uint16 bits;
    __builtin_memcpy(&bits, gpuconv_read_shared(operand.address<MAJOR>(row, k), sizeof bits), sizeof bits);
    return load(T{bits});
}

template <Major MAJOR>
GPUCONV_UNCHECKED inline MatrixDescriptor operand(uint64 bits, const char* fault) {
    const auto found = MatrixDescriptor::decode(bits);
    if (!found.aligned<MAJOR>()) gpuconv_fail(fault, {__FILE__, __LINE__});
    return found;
}

// A warp's 16 rows.
template <class T, int N, Major A, Major B>
GPUCONV_UNCHECKED inline void warpgroup_multiply(void* const* lanes) {
    const auto& first = *static_cast<WarpgroupFactors*>(lanes[0]);
    for (int lane = 1; lane < 32; ++lane) {
        const auto& other = *static_cast<WarpgroupFactors*>(lanes[lane]);
        if (other.a != first.a || other.b != first.b)
            gpuconv_fail("wgmma: the threads of a warpgroup pass different descriptors", {__FILE__, __LINE__});
    }
    const auto a = operand<A>(first.a, "wgmma: operand A does not begin where a swizzled atom does");
    const auto b = operand<B>(first.b, "wgmma: operand B does not begin where a swizzled atom does");
    const int warp = int(threadIdx.x) / 32 % 4;
    static thread_local float columns[16][N];
    for (int k = 0; k < 16; ++k)
        for (int column = 0; column < N; ++column) columns[k][column] = operand_number<T, B>(b, column, k);
    for (int row = 0; row < 16; ++row) {
        double sums[N] = {};
        for (int k = 0; k < 16; ++k) {
            const double factor = operand_number<T, A>(a, warp * 16 + row, k);
            for (int column = 0; column < N; ++column) sums[column] += factor * columns[k][column];
        }
        for (int column = 0; column < N; ++column) {
            float* own = static_cast<WarpgroupFactors*>(lanes[row % 8 * 4 + column % 8 / 2])->sums;
            float& sum = own[column / 8 * 4 + row / 8 * 2 + column % 2];
            sum = float(sum + sums[column]);
        }
    }
}

}  // namespace emulated

#endif

// The address of shared memory in descriptors.
__device__ __forceinline__ uint32 shared_address(const void* pointer) {
#ifdef GPUCONV_EMULATOR
    return gpuconv_shared_address(pointer);
#else
    return uint32(__cvta_generic_to_shared(pointer));
#endif
}

// Makes this thread's writes of shared memory by ordinary stores, and those of its copies that were waited for, visible to wgmma.
__device__ __forceinline__ void fence_async_proxy() {
#ifndef GPUCONV_EMULATOR
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

template <class T, Major A, Major B, int SUMS>
__device__ __forceinline__ void multiply_add_async(float (&sums)[SUMS], uint64 a, uint64 b) {
    constexpr int N = SUMS * 2;
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "64, 128, 192 or 256 columns");
    static_assert(sizeof(T) == 2, "float16 or bfloat16");
#ifdef GPUCONV_EMULATOR
    emulated::WarpgroupFactors own{a, b, sums};
    gpuconv_together(&own, emulated::warpgroup_multiply<T, N, A, B>, {__FILE__, __LINE__});
#else
#define GPUCONV_REGISTERS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GPUCONV_REGISTERS_1 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GPUCONV_REGISTERS_2 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define GPUCONV_REGISTERS_3 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define GPUCONV_SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define GPUCONV_SUMS_16(i) GPUCONV_SUMS_4(i), GPUCONV_SUMS_4(i + 4), GPUCONV_SUMS_4(i + 8), GPUCONV_SUMS_4(i + 12)
#define GPUCONV_SUMS_32(i) GPUCONV_SUMS_16(i), GPUCONV_SUMS_16(i + 16)
// a_, b_, ...: the numbers of the operands after the sums.
#define GPUCONV_WGMMA_OF(type, n, registers, a_, b_, add_, turn_a, turn_b, ...)                                                 \
    asm volatile("{.reg .pred add; setp.ne.b32 add, %" #add_ ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" registers "}, %" #a_ ", %" #b_ ", add, 1, 1, %" #turn_a ", %" #turn_b ";}"                                \
                 : __VA_ARGS__                                                                                                  \
                 : "l"(a), "l"(b), "n"(1), "n"(int(A)), "n"(int(B)))
#define GPUCONV_WGMMA(...)                                               \
    if constexpr (is_bfloat16<T>) GPUCONV_WGMMA_OF("bf16", __VA_ARGS__); \
    else GPUCONV_WGMMA_OF("f16", __VA_ARGS__)
    if constexpr (N == 64) {
        GPUCONV_WGMMA(64, GPUCONV_REGISTERS_0, 32, 33, 34, 35, 36, GPUCONV_SUMS_32(0));
    } else if constexpr (N == 128) {
        GPUCONV_WGMMA(128, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1, 64, 65, 66, 67, 68, GPUCONV_SUMS_32(0), GPUCONV_SUMS_32(32));
    } else if constexpr (N == 192) {
        GPUCONV_WGMMA(192, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1 ", " GPUCONV_REGISTERS_2, 96, 97, 98, 99, 100,
                      GPUCONV_SUMS_32(0), GPUCONV_SUMS_32(32), GPUCONV_SUMS_32(64));
    } else {
        GPUCONV_WGMMA(256, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1 ", " GPUCONV_REGISTERS_2 ", " GPUCONV_REGISTERS_3, 128, 129,
                      130, 131, 132, GPUCONV_SUMS_32(0), GPUCONV_SUMS_32(32), GPUCONV_SUMS_32(64), GPUCONV_SUMS_32(96));
    }
#undef GPUCONV_WGMMA
#undef GPUCONV_WGMMA_OF
#undef GPUCONV_SUMS_32
#undef GPUCONV_SUMS_16
#undef GPUCONV_SUMS_4
#undef GPUCONV_REGISTERS_3
#undef GPUCONV_REGISTERS_2
#undef GPUCONV_REGISTERS_1
#undef GPUCONV_REGISTERS_0
#endif
}

// Keeps the compiler from moving reads and writes of the sums past this place.
template <int SUMS>
__device__ __forceinline__ void pin(float (&sums)[SUMS]) {
#ifndef GPUCONV_EMULATOR
#pragma unroll
    for (int i = 0; i < SUMS; ++i) asm volatile("" : "+f"(sums[i])::"memory");
#endif
}

template <int SUMS>
__device__ __forceinline__ void wgmma_fence(float (&sums)[SUMS]) {
    pin(sums);
#ifndef GPUCONV_EMULATOR
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#ifndef GPUCONV_EMULATOR
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int PENDING, int SUMS>
__device__ __forceinline__ void wgmma_wait(float (&sums)[SUMS]) {
#ifndef GPUCONV_EMULATOR
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#endif
    pin(sums);
}
