// Average pooling.
//
//   forward    y[n, p, q, c] = sum of the window's cells inside the input / divisor(p, q)
//   backward   dx[n, h, w, c] = sum of dy[n, p, q, c] / divisor(p, q) over the windows that contain (h, w)
//
// divisor: the number of the window's cells inside the padded input (INCLUDE_PAD 1) or inside the input itself
// (INCLUDE_PAD 0). A "cover" window may reach past the padding; the cells there never count. Sums run in row-major order.
// x (N, H, W, C), y (N, P, Q, C). A thread computes WIDTH neighboring channels of one output.
//
// Macros: DTYPE; WIDTH 1 or 16 / sizeof(DTYPE); INCLUDE_PAD 0 or 1. Limits: fewer than 2^31 packs per launch.
// Floor: x and y once; for 2x2 windows at stride 2, 5 sizeof(DTYPE) bytes per output. R * S additions per output.

#include "pool.cuh"

// The number of a window's cells along one axis that the divisor counts.
__device__ __forceinline__ int32 extent(int32 start, int32 kernel, int32 size, int32 padded) {
#if INCLUDE_PAD
    return min(start + kernel, padded) - start;
#else
    return min(start + kernel, size) - max(start, 0);
#endif
}

__device__ __forceinline__ Real divisor(const Pool& pool, int32 p, int32 q) {
    return Real(extent(p * pool.stride_h - pool.top, pool.r, pool.h, pool.padded_h) *
                extent(q * pool.stride_w - pool.left, pool.s, pool.w, pool.padded_w));
}

extern "C" __global__ void __launch_bounds__(256, 5)
avg_pool2d_forward(DTYPE* y, const DTYPE* x, uint32 count, Pool pool) {
    for (uint32 i = uint32(global_thread()); i < count; i += uint32(global_threads())) {
        const Coordinates at(i, pool.p, pool.q, pool.packs);
        const int32 top = at.row * pool.stride_h - pool.top, left = at.column * pool.stride_w - pool.left;
        Real sum[WIDTH] = {};
        for (int32 h = max(0, top); h < min(top + pool.r, pool.h); ++h)
            for (int32 w = max(0, left); w < min(left + pool.s, pool.w); ++w) {
                const Numbers cell = read_pack(x, ((at.n * pool.h + h) * pool.w + w) * pool.x_packs + at.pack);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[j] += load(cell.at[j]);
            }
        const Real cells = divisor(pool, at.row, at.column);
        Numbers mean;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) mean.at[j] = round_to<DTYPE>(sum[j] / cells);
        write_pack(y, at.pixel * pool.y_packs + at.pack, mean);
    }
}

extern "C" __global__ void __launch_bounds__(256)
avg_pool2d_backward(DTYPE* dx, const DTYPE* dy, uint32 count, Pool pool) {
    for (uint32 i = uint32(global_thread()); i < count; i += uint32(global_threads())) {
        const Coordinates at(i, pool.h, pool.w, pool.packs);
        const int32 p1 = last_window(at.row, pool.top, pool.stride_h, pool.p);
        const int32 q1 = last_window(at.column, pool.left, pool.stride_w, pool.q);
        Real sum[WIDTH] = {};
        for (int32 p = first_window(at.row, pool.top, pool.r, pool.stride_h); p < p1; ++p)
            for (int32 q = first_window(at.column, pool.left, pool.s, pool.stride_w); q < q1; ++q) {
                const Numbers gradient = read_pack(dy, ((at.n * pool.p + p) * pool.q + q) * pool.y_packs + at.pack);
                const Real cells = divisor(pool, p, q);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[j] += load(gradient.at[j]) / cells;
            }
        Numbers result;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) result.at[j] = round_to<DTYPE>(sum[j]);
        write_pack(dx, at.pixel * pool.x_packs + at.pack, result);
    }
}
