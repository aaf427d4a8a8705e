// Matrix products of a warpgroup on Hopper's tensor cores (wgmma, sm_90a). Both operands lie in shared memory (wgmma_layout.cuh),
// the sums in registers. Products run in the background: warpgroup.cuh has their fence, groups and wait.
//
//   float sums[N / 8][4];
//   wgmma_fence();
//   multiply_add_async<bfloat16, Major::K, Major::K>(sums, a, b);  // a, b: descriptors; several products may follow each other
//   wgmma_commit();
//   wgmma_wait<0>();
//   pin(sums);                                                     // then they may be read
//
// multiply_add_async: sums (64 x N) += a (64 x 16) * b (16 x N), of float16 or bfloat16. The operands may not be written before the
// wait. Only after a proxy fence (mbarrier.cuh) does wgmma see what ordinary stores and cp.async wrote.
//
// With w = the warp of the warpgroup, g = lane / 4 and t = lane % 4, sums[j][i] is at row 16 w + g + i / 2 * 8, column
// 8 j + 2 t + i % 2 (PTX ISA, wgmma's "Register Fragments", fragment D): as in mma.cuh for each 16 x 8.
//
// All threads of a warpgroup take part, with the same descriptors. How a tensor core rounds is not documented. The emulated device
// adds the 16 products of a sum in double, in the order of the depth, and rounds to float32 once: as in mma.cuh.
#pragma once

#include "mma.cuh"
#include "warpgroup.cuh"
#include "wgmma_layout.cuh"

#ifdef GPUCONV_EMULATOR

namespace emulated {

struct Descriptors {
    uint64 a, b;
};

// Calls take(row, k, address) for every 16 bytes of an operand.
template <Major MAJOR, class Take>
GPUCONV_UNCHECKED inline void for_chunks(uint64 bits, int rows, Take take) {
    const auto operand = MatrixDescriptor::decode(bits);
    for (int row = 0; row < rows; row += MAJOR == Major::K ? 1 : 8)
        for (int k = 0; k < 16; k += MAJOR == Major::K ? 8 : 1)
            take(row, k, gpuconv_shared_pointer(operand.address<MAJOR>(row, k)));
}

template <Major A, Major B, int N>
GPUCONV_UNCHECKED inline void read_operands(const void* descriptors, void (*touch)(const void*, size_t)) {
    const auto& own = *static_cast<const Descriptors*>(descriptors);
    for_chunks<A>(own.a, 64, [&](int, int, const void* from) { touch(from, 16); });
    for_chunks<B>(own.b, N, [&](int, int, const void* from) { touch(from, 16); });
}

template <class T, Major MAJOR, int ROWS>
GPUCONV_UNCHECKED inline void fetch(float (&to)[16][ROWS], uint64 descriptor) {
    for_chunks<MAJOR>(descriptor, ROWS, [&](int row, int k, const void* from) {
        for (int i = 0; i < 8; ++i) {
            float& number = MAJOR == Major::K ? to[k + i][row] : to[k][row + i];
            number = load(T{static_cast<const uint16*>(from)[i]});
        }
    });
}

// descriptors, sums: of the 128 threads.
template <class T, Major A, Major B, int N>
GPUCONV_UNCHECKED inline void multiply_warpgroup(const void* const* descriptors, void* const* sums) {
    const auto& first = *static_cast<const Descriptors*>(descriptors[0]);
    for (int lane = 1; lane < 128; ++lane) {
        const auto& other = *static_cast<const Descriptors*>(descriptors[lane]);
        if (other.a != first.a || other.b != first.b)
            gpuconv_fail("wgmma: the threads of a warpgroup pass different descriptors", {__FILE__, __LINE__});
    }
    float rows[16][64], columns[16][N];
    fetch<T, A>(rows, first.a);
    fetch<T, B>(columns, first.b);
    for (int row = 0; row < 64; ++row) {
        double products[N] = {};
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < N; ++column) products[column] += double(rows[k][row]) * columns[k][column];
        for (int column = 0; column < N; ++column) {
            float* own = static_cast<float*>(sums[row / 16 * 32 + row % 8 * 4 + column % 8 / 2]);
            float& sum = own[column / 8 * 4 + row / 8 % 2 * 2 + column % 2];
            sum = float(sum + products[column]);
        }
    }
}

}  // namespace emulated

#endif

template <class T, Major A, Major B, int TILES>
__device__ __forceinline__ void multiply_add_async(float (&sums)[TILES][4], uint64 a, uint64 b GPUCONV_CALLER) {
    constexpr int N = TILES * 8;
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "64, 128, 192 or 256 columns");
    static_assert(sizeof(T) == 2, "float16 or bfloat16");
#ifdef GPUCONV_EMULATOR
    if (!MatrixDescriptor::decode(a).template aligned<A>())
        gpuconv_fail("wgmma: operand A does not begin where a swizzled atom does", GPUCONV_SITE);
    if (!MatrixDescriptor::decode(b).template aligned<B>())
        gpuconv_fail("wgmma: operand B does not begin where a swizzled atom does", GPUCONV_SITE);
    const emulated::Descriptors own{a, b};
    const gpuconv_emulator::Wgmma wgmma{&own, sizeof own, sums, sizeof sums, emulated::read_operands<A, B, N>,
                                        emulated::multiply_warpgroup<T, A, B, N>};
    gpuconv_wgmma(&wgmma, GPUCONV_SITE);
#else
#define GPUCONV_REGISTERS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GPUCONV_REGISTERS_1 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GPUCONV_REGISTERS_2 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define GPUCONV_REGISTERS_3 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define GPUCONV_SUMS_4(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define GPUCONV_SUMS_16(j) GPUCONV_SUMS_4(j), GPUCONV_SUMS_4(j + 1), GPUCONV_SUMS_4(j + 2), GPUCONV_SUMS_4(j + 3)
#define GPUCONV_SUMS_32(j) GPUCONV_SUMS_16(j), GPUCONV_SUMS_16(j + 4)
// a_, b_, ...: the numbers of the asm operands that follow the sums.
#define GPUCONV_WGMMA_OF(type, n, registers, a_, b_, add_, transpose_a, transpose_b, ...)                                       \
    asm volatile("{.reg .pred add; setp.ne.b32 add, %" #add_ ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" registers "}, %" #a_ ", %" #b_ ", add, 1, 1, %" #transpose_a ", %" #transpose_b ";}"                      \
                 : __VA_ARGS__                                                                                                  \
                 : "l"(a), "l"(b), "n"(1), "n"(int(A)), "n"(int(B)))
#define GPUCONV_WGMMA(...)                                               \
    if constexpr (is_bfloat16<T>) GPUCONV_WGMMA_OF("bf16", __VA_ARGS__); \
    else GPUCONV_WGMMA_OF("f16", __VA_ARGS__)
    if constexpr (N == 64) {
        GPUCONV_WGMMA(64, GPUCONV_REGISTERS_0, 32, 33, 34, 35, 36, GPUCONV_SUMS_32(0));
    } else if constexpr (N == 128) {
        GPUCONV_WGMMA(128, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1, 64, 65, 66, 67, 68, GPUCONV_SUMS_32(0),
                      GPUCONV_SUMS_32(8));
    } else if constexpr (N == 192) {
        GPUCONV_WGMMA(192, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1 ", " GPUCONV_REGISTERS_2, 96, 97, 98, 99, 100,
                      GPUCONV_SUMS_32(0), GPUCONV_SUMS_32(8), GPUCONV_SUMS_32(16));
    } else {
        GPUCONV_WGMMA(256, GPUCONV_REGISTERS_0 ", " GPUCONV_REGISTERS_1 ", " GPUCONV_REGISTERS_2 ", " GPUCONV_REGISTERS_3, 128, 129,
                      130, 131, 132, GPUCONV_SUMS_32(0), GPUCONV_SUMS_32(8), GPUCONV_SUMS_32(16), GPUCONV_SUMS_32(24));
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

// Keeps the compiler from moving accesses to the sums across this call.
template <int TILES>
__device__ __forceinline__ void pin(float (&sums)[TILES][4]) {
#ifndef GPUCONV_EMULATOR
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums[j][i])::"memory");
#endif
}
