// The backward pass of the operations fused after a convolution: a ReLU, a 2 x 2 max pool, or both.
//
//   dz[n, p, q, k] = dy[n, p / SIDE, q / SIDE, k] if its bit of the mask is set, else 0
//
// dz: the gradient of the convolution's own output (N, P, Q, K); dy: that of y (N, P / SIDE, Q / SIDE, K); mask: mask.cuh. SIDE is
// 2 with a pool, else 1. An odd last row or column of dz lies outside every window and becomes 0. A thread computes WIDTH
// adjacent filters of a pixel. dgrad and wgrad read dz with cp.async, which cannot apply a mask.
//
// Macros: DTYPE; SIDE 1 or 2; WIDTH 1 or 16 / sizeof(DTYPE). Limits: fewer than 2^31 packs per launch.
// Floor: dy, mask and dz once; with a pool 5 sizeof(DTYPE) bytes and 4 bits per number of dy. No FLOPs.

#define MASK (SIDE * SIDE)
#include "mask.cuh"
#include "pool.cuh"

// pool: its x has the shape of dz. filters: those of one group.
extern "C" __global__ void __launch_bounds__(256, 1)
mask_backward(DTYPE* dz, const DTYPE* dy, const uint8* mask, uint32 count, Pool pool, int32 filters) {
    const int32 groups = pool.packs * WIDTH / filters;
    for (uint32 i = uint32(global_thread()); i < count; i += uint32(global_threads())) {
        const Coordinates at(i, pool.h, pool.w, pool.packs);
        const int32 p = at.row / SIDE, q = at.column / SIDE;
        Numbers result = {};
        if (p < pool.p && q < pool.q) {
            const int32 filter = at.pack * WIDTH, group = filter / filters;
            const uint32 pixel = (at.n * pool.p + p) * pool.q + q;
            const uint32 bits = Mask(mask, filters, groups, group).read<WIDTH>(pixel, filter - group * filters);
            const Numbers gradient = read_pack(dy, pixel * pool.y_packs + at.pack);
            const int j = at.row % SIDE * SIDE + at.column % SIDE;
#pragma unroll
            for (int k = 0; k < WIDTH; ++k)
                if (bits >> (k * MASK + j) & 1) result.at[k] = gradient.at[k];
        }
        write_pack(dz, i, result);
    }
}
