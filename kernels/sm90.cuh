// Shared by the wrappers of sm_90's instructions.
//
//   shared_address(pointer)        // a pointer to shared memory, as the address that these instructions take
//   void f(int x GPUCONV_CALLER);  // a wrapper that tells the emulated device its caller's file and line
//   void f(GPUCONV_CALLER_ONLY);   // the same without other parameters. Inside, GPUCONV_SITE is that file and line
#pragma once

#include "types.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#error "mbarriers, bulk copies and stmatrix need a GPU of compute capability 9.0 or later (sm_90)"
#endif

#ifdef GPUCONV_EMULATOR
#define GPUCONV_CALLER , GPUCONV_HERE
#define GPUCONV_CALLER_ONLY GPUCONV_HERE
#define GPUCONV_SITE {file, line}
#else
#define GPUCONV_CALLER
#define GPUCONV_CALLER_ONLY
#endif

__device__ __forceinline__ uint32 shared_address(const void* pointer) {
#ifdef GPUCONV_EMULATOR
    return gpuconv_shared_address(pointer);
#else
    return static_cast<uint32>(__cvta_generic_to_shared(pointer));
#endif
}
