// For test_wgmma_layouts.py. For each layout of wgmma_layout.cuh: the offset of every element, the descriptors of every step of the
// depth, and the addresses that the descriptors give.
#include "wgmma_layout.cuh"

constexpr int ROWS = 128, DEPTH = 64;
constexpr uint32 START = 1024;

// offsets, addresses (8 layouts, ROWS, DEPTH); descriptors (8 layouts, 2 halves of the rows, DEPTH / 16). One block of ROWS threads.
template <Major MAJOR, Swizzle SWIZZLE>
__device__ void describe(uint32* offsets, uint32* addresses, uint64* descriptors, int layout) {
    using Layout = OperandLayout<MAJOR, SWIZZLE, ROWS, DEPTH>;
    static_assert(Layout::BYTES == ROWS * DEPTH * 2, "16-bit numbers");
    const int row = threadIdx.x, half = row / 64 * 64;
    for (int k = 0; k < DEPTH; ++k) {
        const uint64 descriptor = Layout::descriptor(START, half, k / 16 * 16);
        const int at = (layout * ROWS + row) * DEPTH + k;
        offsets[at] = Layout::offset(row, k);
        addresses[at] = MatrixDescriptor::decode(descriptor).template address<MAJOR>(row - half, k % 16);
        if (row == half && k % 16 == 0) descriptors[(layout * 2 + half / 64) * DEPTH / 16 + k / 16] = descriptor;
    }
}

extern "C" __global__ void layouts(uint32* offsets, uint32* addresses, uint64* descriptors) {
    describe<Major::K, Swizzle::BYTES_128>(offsets, addresses, descriptors, 0);
    describe<Major::K, Swizzle::BYTES_64>(offsets, addresses, descriptors, 1);
    describe<Major::K, Swizzle::BYTES_32>(offsets, addresses, descriptors, 2);
    describe<Major::K, Swizzle::NONE>(offsets, addresses, descriptors, 3);
    describe<Major::MN, Swizzle::BYTES_128>(offsets, addresses, descriptors, 4);
    describe<Major::MN, Swizzle::BYTES_64>(offsets, addresses, descriptors, 5);
    describe<Major::MN, Swizzle::BYTES_32>(offsets, addresses, descriptors, 6);
    describe<Major::MN, Swizzle::NONE>(offsets, addresses, descriptors, 7);
}

// fields: start, leading, stride, base offset and swizzle of each descriptor, and whether it is aligned as K-major and as MN-major.
// again: the descriptor, encoded from these fields.
extern "C" __global__ void decode(uint32* fields, uint64* again, const uint64* descriptors) {
    const auto found = MatrixDescriptor::decode(descriptors[threadIdx.x]);
    uint32* own = fields + threadIdx.x * 7;
    own[0] = found.start;
    own[1] = found.leading;
    own[2] = found.stride;
    own[3] = found.base_offset;
    own[4] = uint32(found.swizzle);
    own[5] = found.aligned<Major::K>();
    own[6] = found.aligned<Major::MN>();
    again[threadIdx.x] = found.encode();
}
