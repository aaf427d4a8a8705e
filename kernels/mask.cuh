// The mask that fprop writes for a ReLU, a 2 x 2 max pool, or both: where gradients pass.
//
// uint8 (N, P, Q, groups * bytes), P and Q being y's. For each pixel and group it has MASK bits per filter, lowest bit first,
// padded to whole bytes: MASK 1 for a ReLU, 4 with a pool. Bit i * MASK + j is set if the gradient passes at filter i and pixel j
// of the window, counted row by row.
#pragma once

#include "types.cuh"

struct Mask {
    uint8* bytes;  // of the group
    int32 pitch;   // bytes from pixel to pixel

    // filters: those of one group.
    __device__ __forceinline__ Mask(const uint8* mask, int32 filters, int32 groups, int32 group) {
        const int32 group_bytes = (filters * MASK + 7) / 8;
        bytes = const_cast<uint8*>(mask) + int64(group) * group_bytes;
        pitch = groups * group_bytes;
    }

    // The bits of COUNT filters, MASK bits each; the first is `filter`, a multiple of COUNT. Higher bits may be of later filters.
    template <int COUNT>
    __device__ __forceinline__ uint32 read(int64 pixel, int32 filter) const {
        constexpr int BITS = COUNT * MASK;
        const uint8* at = bytes + (pixel * pitch + filter * MASK / 8);
        uint32 bits = 0;
#pragma unroll
        for (int byte = 0; byte < (BITS + 7) / 8; ++byte) bits |= uint32(at[byte]) << byte * 8;
        return BITS < 8 ? bits >> filter * MASK % 8 : bits;
    }
};
