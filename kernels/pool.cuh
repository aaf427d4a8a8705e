// Shared by the pooling kernels: the window's geometry, and the position of a thread's pack of channels.
//
// Volumes are (N, H, W, C), pooled ones (N, P, Q, C). A thread works on WIDTH neighboring channels (16 bytes where C and the
// addresses allow). Indices are uint32, because 64-bit division is several times slower: the launcher splits larger volumes.
#pragma once

#include "types.cuh"

struct Pool {
    int32 h, w, packs;  // packs: C / WIDTH
    int32 p, q;
    int32 r, s, stride_h, stride_w, top, left;
    int32 padded_h, padded_w;  // H + bottom, W + right: where the padding ends
    uint32 x_packs;            // from one pixel of x or dx to the next: `packs`, or more in a slice of channels
    uint32 y_packs;            // the same for y or dy
};

using Numbers = Pack<DTYPE, WIDTH>;
using Real = accumulator<DTYPE>;

// The coordinates of item `i` of a volume (N, rows, columns, packs), the last axis innermost.
struct Coordinates {
    uint32 n, pixel;  // pixel: its number among the pixels of all images
    int32 row, column, pack;
    __device__ Coordinates(uint32 i, int32 rows, int32 columns, int32 packs) {
        pack = int32(i % packs);
        pixel = i /= packs;
        column = int32(i % columns);
        i /= columns;
        row = int32(i % rows);
        n = i / rows;
    }
};

// The outputs along one axis whose windows contain the input cell `at`: first <= p < last.
__device__ __forceinline__ int32 first_window(int32 at, int32 before, int32 kernel, int32 stride) {
    const int32 past = at + before - kernel;  // the last start whose window ends before the cell
    return past < 0 ? 0 : past / stride + 1;
}
__device__ __forceinline__ int32 last_window(int32 at, int32 before, int32 stride, int32 outputs) {
    return min((at + before) / stride + 1, outputs);
}

template <class T>
__device__ __forceinline__ Pack<T, WIDTH> read_pack(const T* volume, uint32 pack) {
    return reinterpret_cast<const Pack<T, WIDTH>*>(volume)[pack];
}
template <class T>
__device__ __forceinline__ void write_pack(T* volume, uint32 pack, Pack<T, WIDTH> value) {
    reinterpret_cast<Pack<T, WIDTH>*>(volume)[pack] = value;
}
