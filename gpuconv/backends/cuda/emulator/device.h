// What nvcc and NVRTC provide to every .cu file without an include, implemented on the CPU: built-in variables, qualifiers, vector
// types, barriers, warp operations, atomics and device math. Comes first in each kernel's translation unit.
#pragma once

// Half of the time to compile GNU's <math.h> goes into std::riemann_zeta and the like, which no kernel can call.
#include <cstddef>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "abi.h"

#define GPUCONV_EMULATOR 1

// --- qualifiers and built-in variables ----------------------------------------------------------
// runtime/source.py rewrites `__shared__` declarations into calls of gpuconv_shared and gpuconv_dynamic_shared.

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (gpuconv_context->thread)
#define blockIdx (gpuconv_context->block)
#define blockDim (gpuconv_context->block_size)
#define gridDim (gpuconv_context->grid_size)
constexpr int warpSize = 32;

#undef assert
#define assert(condition) ((condition) ? (void)0 : gpuconv_fail("assertion failed: " #condition, {__FILE__, __LINE__}))

// Parameters whose default arguments are the caller's position in the source.
#define GPUCONV_HERE \
    const char *file = __builtin_FILE(), int line = __builtin_LINE()

[[noreturn]] inline void __trap(GPUCONV_HERE) { gpuconv_fail("__trap()", {file, line}); }

// --- vector types -------------------------------------------------------------------------------

#define GPUCONV_VECTOR3(T, name)                                                                   \
    struct name##3 { T x, y, z; };
#define GPUCONV_VECTOR(T, name, alignment2, alignment4)                                            \
    struct name##1 { T x; };                                                                       \
    struct alignas(alignment2) name##2 { T x, y; };                                                \
    struct alignas(alignment4) name##4 { T x, y, z, w; };                                          \
    constexpr name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
    constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                          \
    constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

GPUCONV_VECTOR3(signed char, char)
GPUCONV_VECTOR3(unsigned char, uchar)
GPUCONV_VECTOR3(short, short)
GPUCONV_VECTOR3(unsigned short, ushort)
GPUCONV_VECTOR3(int, int)  // uint3 is in abi.h
GPUCONV_VECTOR3(long long, longlong)
GPUCONV_VECTOR3(unsigned long long, ulonglong)
GPUCONV_VECTOR3(float, float)
GPUCONV_VECTOR3(double, double)
GPUCONV_VECTOR(signed char, char, 2, 4)
GPUCONV_VECTOR(unsigned char, uchar, 2, 4)
GPUCONV_VECTOR(short, short, 4, 8)
GPUCONV_VECTOR(unsigned short, ushort, 4, 8)
GPUCONV_VECTOR(int, int, 8, 16)
GPUCONV_VECTOR(unsigned, uint, 8, 16)
GPUCONV_VECTOR(long long, longlong, 16, 16)
GPUCONV_VECTOR(unsigned long long, ulonglong, 16, 16)
GPUCONV_VECTOR(float, float, 8, 16)
GPUCONV_VECTOR(double, double, 16, 16)
#undef GPUCONV_VECTOR
#undef GPUCONV_VECTOR3

// --- barriers and warp operations ---------------------------------------------------------------

inline void __syncthreads(GPUCONV_HERE) { gpuconv_barrier(0, {file, line}); }
inline int __syncthreads_count(int predicate, GPUCONV_HERE) { return gpuconv_barrier(predicate, {file, line}); }
inline int __syncthreads_or(int predicate, GPUCONV_HERE) { return gpuconv_barrier(predicate, {file, line}) != 0; }
inline int __syncthreads_and(int predicate, GPUCONV_HERE) { return gpuconv_barrier(!predicate, {file, line}) == 0; }
inline void __syncwarp(unsigned mask = ~0u, GPUCONV_HERE) {
    gpuconv_warp(gpuconv_emulator::SYNC, mask, 0, ~0u, {file, line});
}

namespace gpuconv_emulator {

inline unsigned linear_thread() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = gpuconv_warp(SHUFFLE, mask, bits, source, site).value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline Lanes vote(unsigned mask, bool predicate, Site site) {
    return gpuconv_warp(VOTE, mask, predicate, ~0u, site);
}

}  // namespace gpuconv_emulator

// Each segment of `width` lanes shuffles on its own. __shfl_sync takes the source modulo `width`. In the others, a lane whose
// source lies outside its segment gets its own value, except that __shfl_xor_sync may read from an earlier segment.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, GPUCONV_HERE) {
    const int lane = gpuconv_emulator::linear_thread() % warpSize;
    return gpuconv_emulator::shuffle(mask, value, (lane & -width) | (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, GPUCONV_HERE) {
    const unsigned lane = gpuconv_emulator::linear_thread() % warpSize, within = lane & (width - 1);
    return gpuconv_emulator::shuffle(mask, value, delta > within ? lane : lane - delta, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, GPUCONV_HERE) {
    const unsigned lane = gpuconv_emulator::linear_thread() % warpSize, within = lane & (width - 1);
    return gpuconv_emulator::shuffle(mask, value, within + delta >= unsigned(width) ? lane : lane + delta, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, GPUCONV_HERE) {
    const int lane = gpuconv_emulator::linear_thread() % warpSize, source = lane ^ lanes;
    return gpuconv_emulator::shuffle(mask, value, source >= (lane & -width) + width ? lane : source, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, GPUCONV_HERE) {
    return gpuconv_emulator::vote(mask, predicate != 0, {file, line}).ballot;
}
inline int __any_sync(unsigned mask, int predicate, GPUCONV_HERE) {
    return gpuconv_emulator::vote(mask, predicate != 0, {file, line}).ballot != 0;
}
inline int __all_sync(unsigned mask, int predicate, GPUCONV_HERE) {
    const auto lanes = gpuconv_emulator::vote(mask, predicate != 0, {file, line});
    return lanes.ballot == lanes.active;
}

// --- memory -------------------------------------------------------------------------------------

inline void __threadfence() { gpuconv_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() { gpuconv_fence(); }

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldca(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcg(T* p, T value) { *p = value; }
template <class T> void __stcs(T* p, T value) { *p = value; }

// For functions that report their accesses themselves, or access none of the kernel's memory.
#define GPUCONV_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

// Atomics on integers. There are none on floating-point numbers, because their sum would depend on the order.
#define GPUCONV_ATOMIC(name, expression)                                                           \
    template <class T>                                                                             \
    GPUCONV_UNCHECKED T name(T* address, std::common_type_t<T> value) {                                              \
        static_assert(std::is_integral<T>::value, "no floating-point atomics: same inputs, same bits"); \
        gpuconv_atomic(address, sizeof(T));                                                        \
        T old = __atomic_load_n(address, __ATOMIC_RELAXED);                                        \
        while (!__atomic_compare_exchange_n(address, &old, T(expression), true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) \
            ;                                                                                      \
        return old;                                                                                \
    }
GPUCONV_ATOMIC(atomicAdd, old + value)
GPUCONV_ATOMIC(atomicSub, old - value)
GPUCONV_ATOMIC(atomicExch, value)
GPUCONV_ATOMIC(atomicMin, value < old ? value : old)
GPUCONV_ATOMIC(atomicMax, value > old ? value : old)
GPUCONV_ATOMIC(atomicAnd, old & value)
GPUCONV_ATOMIC(atomicOr, old | value)
GPUCONV_ATOMIC(atomicXor, old ^ value)
GPUCONV_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef GPUCONV_ATOMIC

template <class T>
GPUCONV_UNCHECKED T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    gpuconv_atomic(address, sizeof(T));
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

// --- math ---------------------------------------------------------------------------------------

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

namespace gpuconv_emulator {
template <class To, class From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
}  // namespace gpuconv_emulator

inline int __float_as_int(float x) { return gpuconv_emulator::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return gpuconv_emulator::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return gpuconv_emulator::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return gpuconv_emulator::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return gpuconv_emulator::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return gpuconv_emulator::bit_cast<double>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(unsigned long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= ((x >> bit) & 1u) << (31 - bit);
    return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((((uint64_t(high) << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}

#include "half.h"

// --- calling a kernel ---------------------------------------------------------------------------

namespace gpuconv_emulator {

template <class... Parameters, size_t... i>
GPUCONV_UNCHECKED inline void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<i...>) {
    kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[i])...);
}

// arguments[i] points at the value of parameter i, as in cuLaunchKernel.
template <class... Parameters>
GPUCONV_UNCHECKED inline void invoke(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

template <class... Parameters>
void sizes(void (*)(Parameters...), size_t* into) {
    ((*into++ = sizeof(Parameters)), ...);
}

}  // namespace gpuconv_emulator

#define GPUCONV_ENTRY(kernel)                                                                      \
    extern "C" GPUCONV_UNCHECKED void kernel##__entry(void** arguments) {                          \
        gpuconv_emulator::invoke(kernel, arguments);                                               \
    }                                                                                              \
    extern "C" void kernel##__sizes(size_t* into) { gpuconv_emulator::sizes(kernel, into); }
