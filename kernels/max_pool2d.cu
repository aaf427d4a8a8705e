// Max pooling.
//
//   forward    y[n, p, q, c] = max over r, s of x[n, p*stride + r - top, q*stride + s - left, c]; argmax = r * S + s
//   backward   dx[n, h, w, c] = sum of dy[n, p, q, c] over the windows whose argmax is (h, w), in row-major window order
//
// NaN wins, ties go to the first in row-major order, cells outside the input never take part. Every window has a cell inside,
// because padding is smaller than the kernel and no window begins past the input. Backward gathers: no atomics, and dx is not
// cleared first. x (N, H, W, C), y (N, P, Q, C). A thread computes WIDTH neighboring channels of one output.
//
// Macros: DTYPE; ARGMAX uint8, uint16 or uint32; WIDTH 1 or 16 / sizeof(DTYPE). Limits: fewer than 2^31 packs per launch.
// Floor: x, y and argmax once; for 2x2 windows at stride 2, 5 sizeof(DTYPE) + sizeof(ARGMAX) bytes per output, in either direction.
// R * S comparisons per output.

#include "argmax.cuh"
#include "pool.cuh"

using Indices = Pack<ARGMAX, WIDTH>;

extern "C" __global__ void __launch_bounds__(256, 1)
max_pool2d_forward(DTYPE* y, ARGMAX* argmax, const DTYPE* x, uint32 count, Pool pool) {
    for (uint32 i = uint32(global_thread()); i < count; i += uint32(global_threads())) {
        const Coordinates at(i, pool.p, pool.q, pool.packs);
        const int32 top = at.row * pool.stride_h - pool.top, left = at.column * pool.stride_w - pool.left;
        const int32 r0 = max(0, -top), r1 = min(pool.r, pool.h - top);
        const int32 s0 = max(0, -left), s1 = min(pool.s, pool.w - left);
        Numbers best;
        Indices won;
        for (int32 r = r0; r < r1; ++r)
            for (int32 s = s0; s < s1; ++s) {
                const uint32 cell = (at.n * pool.h + (top + r)) * pool.w + (left + s);
                const Numbers candidate = read_pack(x, cell * pool.x_packs + at.pack);
                const bool first = r == r0 && s == s0;
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) {
                    const Real value = load(candidate.at[j]), leader = first ? value : load(best.at[j]);
                    if (first || takes_lead(value, leader)) {
                        best.at[j] = candidate.at[j];
                        won.at[j] = ARGMAX(r * pool.s + s);
                    }
                }
            }
        write_pack(y, at.pixel * pool.y_packs + at.pack, best);
        write_pack(argmax, i, won);
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
max_pool2d_backward(DTYPE* dx, const DTYPE* dy, const ARGMAX* argmax, uint32 count, Pool pool) {
    for (uint32 i = uint32(global_thread()); i < count; i += uint32(global_threads())) {
        const Coordinates at(i, pool.h, pool.w, pool.packs);
        const int32 p1 = last_window(at.row, pool.top, pool.stride_h, pool.p);
        const int32 q1 = last_window(at.column, pool.left, pool.stride_w, pool.q);
        Real sum[WIDTH] = {};
        for (int32 p = first_window(at.row, pool.top, pool.r, pool.stride_h); p < p1; ++p)
            for (int32 q = first_window(at.column, pool.left, pool.s, pool.stride_w); q < q1; ++q) {
                const uint32 window = (at.n * pool.p + p) * pool.q + q;
                const int32 r = at.row + pool.top - p * pool.stride_h, s = at.column + pool.left - q * pool.stride_w;
                const Indices won = read_pack(argmax, window * pool.packs + at.pack);
                const Numbers gradient = read_pack(dy, window * pool.y_packs + at.pack);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j)
                    if (won.at[j] == ARGMAX(r * pool.s + s)) sum[j] += load(gradient.at[j]);
            }
        Numbers result;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) result.at[j] = round_to<DTYPE>(sum[j]);
        write_pack(dx, at.pixel * pool.x_packs + at.pack, result);
    }
}
