// Philox4x32-10, the counter-based random numbers of gpuconv/random.py: the same bits on every device.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. key = seed (low, high);
// counter = (block low, block high, stream, substream); word i of a stream is word i % 4 of block offset + i / 4.
#pragma once

#include "types.cuh"

enum Stream : uint32 { AUGMENT = 2, DROPOUT = 3 };  // random.py's streams that kernels name

struct Words {
    uint32 at[4];
};

__device__ __forceinline__ Words philox(uint64 block, uint32 stream, uint32 substream, uint64 seed) {
    uint32 c0 = uint32(block), c1 = uint32(block >> 32), c2 = stream, c3 = substream;
    uint32 k0 = uint32(seed), k1 = uint32(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// An offset that changes from step to step: a number, or in a captured step the value in device memory when the kernel runs.
__device__ __forceinline__ uint64 read_offset(const int64* offset_at, int64 offset) {
    return uint64(offset_at ? *offset_at : offset);
}
