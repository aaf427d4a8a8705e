// Operands of wgmma in shared memory, and the descriptors that tell wgmma where they are (sm_90a). The kernels that fill operands,
// and wgmma's twin on the emulated device, both include this file.
//
//   using Layout = OperandLayout<Major::K, Swizzle::BYTES_128, 128, 64>;  // 128 rows by 64 of the depth
//   Layout::offset(row, k)               // of an element from the operand's beginning, in bytes
//   Layout::descriptor(address, row, k)  // of the operand's part that begins at this row and depth; the operand is at `address`
//
// An operand is A or the transpose of B: its rows are the product's rows or columns. Its numbers have 16 bits. It is stored as
// lines: rows if it is K-major, and if it is MN-major one line for each k of the depth. The lines are cut into panels, as wide as
// the swizzle: 128, 64, 32 or, without a swizzle, 16 bytes. A panel holds its part of each line, one after another; then the
// next panel follows. Eight lines of a panel are an atom. In an atom, chunks of 16 bytes are permuted: of an address, bits 4 to 6
// are xored with bits 7 to 9 (128 bytes), bits 4 and 5 with bits 7 and 8 (64), bit 4 with bit 7 (32). So an atom begins at a
// multiple of its size.
//
// A descriptor has two strides:
//              leading                                   stride
//   K-major    swizzled: not used; else: 8 of the depth  8 rows
//   MN-major   swizzled: a panel; else: 8 of the depth   swizzled: 8 of the depth; else: 8 rows
//
// Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout"; the GMMA layout atoms and canonical layouts of
// CUTLASS (cute/atom/mma_traits_sm90_gmma.hpp).
#pragma once

#include "types.cuh"

enum class Major { K, MN };
enum class Swizzle { NONE, BYTES_128, BYTES_64, BYTES_32 };  // in the order of their numbers in a descriptor

// The bytes of a line in a panel.
__device__ __forceinline__ constexpr uint32 panel_width(Swizzle swizzle) {
    return swizzle == Swizzle::NONE ? 16 : 256u >> uint32(swizzle);
}

// An address after the swizzle.
__device__ __forceinline__ constexpr uint32 swizzled(Swizzle swizzle, uint32 address) {
    return address ^ ((address >> 3) & (panel_width(swizzle) - 16));
}

// The descriptor's fields; addresses and strides in bytes, multiples of 16.
struct MatrixDescriptor {
    uint32 start, leading, stride;
    uint32 base_offset;  // 0 if the first atom begins at a multiple of its size, as all of ours do
    Swizzle swizzle;

    __device__ __forceinline__ constexpr uint64 encode() const {
        return field(start) | field(leading) << 16 | field(stride) << 32 | uint64(base_offset & 7) << 49 | uint64(swizzle) << 62;
    }
    static __device__ __forceinline__ constexpr MatrixDescriptor decode(uint64 bits) {
        return {bytes(bits), bytes(bits >> 16), bytes(bits >> 32), uint32(bits >> 49) & 7, Swizzle(bits >> 62)};
    }

    // The address of an element that wgmma reads, row < 256 and k < 16.
    template <Major MAJOR>
    __device__ __forceinline__ constexpr uint32 address(int row, int k) const {
        const uint32 width = panel_width(swizzle), eight_rows = row / 8, eight_k = k / 8;
        uint32 linear = start;
        if (MAJOR == Major::K) linear += eight_rows * stride + row % 8 * width + eight_k * (width > 16 ? 16 : leading) + k % 8 * 2;
        else if (width > 16) linear += eight_k * stride + k % 8 * width + row / (width / 2) * leading + row % (width / 2) * 2;
        else linear += eight_k * leading + k % 8 * width + eight_rows * stride + row % 8 * 2;
        return swizzled(swizzle, linear);
    }

    // Whether a swizzled operand begins where wgmma can read it. K-major: in the first line of an atom, where one panel holds all
    // 16 values of k. MN-major: at the first element of an atom. Always true without a swizzle.
    template <Major MAJOR>
    __device__ __forceinline__ constexpr bool aligned() const {
        const uint32 width = panel_width(swizzle), first = start % (8 * width);
        return width == 16 || (base_offset == 0 && (MAJOR == Major::K ? first + 32 <= width : first == 0));
    }

  private:
    static __device__ __forceinline__ constexpr uint64 field(uint32 bytes) { return bytes >> 4 & 0x3fff; }
    static __device__ __forceinline__ constexpr uint32 bytes(uint64 bits) { return uint32(bits & 0x3fff) << 4; }
};

template <Major MAJOR, Swizzle SWIZZLE, int ROWS, int DEPTH>
struct OperandLayout {
    static constexpr uint32 WIDTH = panel_width(SWIZZLE), BYTES = ROWS * DEPTH * 2, ATOM = 8 * WIDTH;
    static constexpr uint32 LINES = MAJOR == Major::K ? ROWS : DEPTH, PANEL = LINES * WIDTH;
    static_assert(LINES % 8 == 0 && BYTES % PANEL == 0 && DEPTH % 16 == 0, "whole atoms, and whole steps of the depth");

    // The offset in bytes of a number of a line. The operand begins at a multiple of ATOM.
    static __device__ __forceinline__ constexpr uint32 line_offset(int line, int number) {
        const uint32 along = number * 2;
        return along / WIDTH * PANEL + swizzled(SWIZZLE, line * WIDTH + along % WIDTH);
    }
    static __device__ __forceinline__ constexpr uint32 offset(int row, int k) {
        return MAJOR == Major::K ? line_offset(row, k) : line_offset(k, row);
    }

    // row: a multiple of an atom's rows; k: a multiple of 16.
    static __device__ __forceinline__ constexpr uint64 descriptor(uint32 address, int row, int k) {
        constexpr bool K_MAJOR = MAJOR == Major::K, PLAIN = SWIZZLE == Swizzle::NONE;
        constexpr uint32 LEADING = K_MAJOR ? (PLAIN ? PANEL : 16) : (PLAIN ? ATOM : PANEL);
        constexpr uint32 STRIDE = K_MAJOR || !PLAIN ? ATOM : PANEL;
        return MatrixDescriptor{address, LEADING, STRIDE, 0, SWIZZLE}.encode() + (offset(row, k) >> 4);
    }
};
