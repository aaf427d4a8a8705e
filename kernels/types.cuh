// The number types of the kernels, by NumPy's names, and conversions between them.
//
// A launcher compiles a file once per dtype: -DDTYPE=float32 (or float64, float16, bfloat16). Kernels load DTYPE, compute
// in accumulator<DTYPE> (double for float64, float for all others) and round once, when they store.
#pragma once

#ifndef GPUCONV_EMULATOR
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

using int8 = signed char;
using uint8 = unsigned char;
using int16 = short;
using uint16 = unsigned short;
using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;
using float16 = __half;
using bfloat16 = __nv_bfloat16;
using float32 = float;
using float64 = double;

template <class T> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };
template <class T> using accumulator = typename Accumulator<T>::type;

// A stored number as its accumulator's type; exact.
__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(float16 x) { return __half2float(x); }
__device__ __forceinline__ float load(bfloat16 x) { return __bfloat162float(x); }

// A float rounded to TF32's 10-bit mantissa, ties away from zero (cvt.rna.tf32.f32); NaN and infinities are unchanged.
__device__ __forceinline__ float round_tf32(float x) {
    return x == x ? __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000) : x;
}

// A number as the factor of a product: rounded to TF32 if the macro TF32 is defined.
template <class T> __device__ __forceinline__ accumulator<T> factor(T x) {
#ifdef TF32
    return round_tf32(load(x));
#else
    return load(x);
#endif
}

// A result as T, rounded to nearest even.
template <class T, class From> __device__ __forceinline__ T round_to(From x) { return T(x); }
template <> __device__ __forceinline__ float16 round_to<float16, float>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bfloat16 round_to<bfloat16, float>(float x) { return __float2bfloat16_rn(x); }

__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// N neighboring numbers, moved by one instruction if N * sizeof(T) is 1, 2, 4, 8 or 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

// The index of the calling thread in the grid, and the number of threads: for kernels over a flat range.
__device__ __forceinline__ int64 global_thread() { return int64(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64 global_threads() { return int64(gridDim.x) * blockDim.x; }
