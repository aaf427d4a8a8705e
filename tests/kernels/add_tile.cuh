// A stand-in for wgmma in kernels with planted faults: each warpgroup adds a tile of numbers to its sums.
#pragma once

#include "warpgroup.cuh"

constexpr int TILE = 512;  // numbers: four for each thread of a warpgroup

#ifdef GPUCONV_EMULATOR
namespace emulated {
struct Operands {
    const float* tile;
};
inline void reads(const void* operands, void (*touch)(const void*, size_t)) {
    touch(static_cast<const Operands*>(operands)->tile, TILE * sizeof(float));
}
inline void add(const void* const* operands, void* const* sums) {
    for (int lane = 0; lane < 128; ++lane)
        for (int i = 0; i < 4; ++i)
            static_cast<float*>(sums[lane])[i] += static_cast<const Operands*>(operands[lane])->tile[4 * lane + i];
}
}  // namespace emulated
#endif

// sums[i] += tile[4 * lane + i]; asynchronous on the emulated device.
__device__ void add_tile(float (&sums)[4], const float* tile GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    const emulated::Operands operands{tile};
    const gpuconv_emulator::Wgmma wgmma{&operands, sizeof operands, sums, sizeof sums, emulated::reads, emulated::add};
    gpuconv_wgmma(&wgmma, GPUCONV_SITE);
#else
    for (int i = 0; i < 4; ++i) sums[i] += tile[4 * (threadIdx.x % 128) + i];
#endif
}
