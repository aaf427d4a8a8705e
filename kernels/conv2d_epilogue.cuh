// What becomes of the sums of a block of fprop, whatever main loop made them. conv2d_fprop.cu has formula and layouts.
#pragma once

#include "conv2d.cuh"
#include "moments.cuh"

#ifndef MOMENTS
#define MOMENTS 0
#endif

// The moments of every filter over the block's pixels, read back from where the block has just stored them, out of L2:
// moments (tiles down, K). Nothing of it depends on how the main loop deals out its sums.
__device__ __forceinline__ void
tile_moments(Moments* moments, const DTYPE* y, const Convolution& conv, const Block& block, int32 pixels) {
    constexpr int ACROSS = THREADS < BLOCK_N ? THREADS : BLOCK_N, PARTS = THREADS / ACROSS;  // how the threads stand
    constexpr int SHARE = BLOCK_M / PARTS, GROUP = 8;  // rows of a thread, and of them at once
    static_assert(ACROSS * PARTS == THREADS && BLOCK_N % ACROSS == 0 && SHARE % GROUP == 0, "tile");
    __shared__ Moments cells[THREADS];
    const int32 first = block.row + int32(threadIdx.x) / ACROSS * SHARE;
#pragma unroll 1
    for (int32 column = int32(threadIdx.x) % ACROSS; column < BLOCK_N; column += ACROSS) {
        __syncthreads();  // the block's stores are done, and the cells free
        const int32 filter = block.column + column, count = filter < conv.k ? min(SHARE, pixels - first) : 0;
        const DTYPE* from = y + (int64(first) * conv.all_filters + filter);
        Moments own[1] = {};
        int32 row = 0;
#pragma unroll 1
        for (; row + GROUP <= count; row += GROUP) {
            Real values[1][GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; ++i, from += conv.all_filters) values[0][i] = load(*from);
            Moments::add(own, values);
        }
#pragma unroll 1
        for (; row < count; ++row, from += conv.all_filters) own[0].merge(Moments::of(load(*from)));
        cells[threadIdx.x] = own[0];
        __syncthreads();
        if (threadIdx.x >= ACROSS || filter >= conv.k) continue;
        for (int part = 1; part < PARTS; ++part) own[0].merge(cells[threadIdx.x + part * ACROSS]);
        moments[int64(block.row / BLOCK_M) * conv.all_filters + filter] = own[0];
    }
}

// What becomes of a block's sums: y, with its mask or its filters' moments, or partial sums.
__device__ __forceinline__ void
run_epilogue(const Accumulators& accumulators, const Block& block, DTYPE* y, uint8* mask, Moments* moments, Real* partials,
             const Convolution& conv) {
    const int32 pixels = conv.n * conv.p * conv.q;
    const int64 first_filter = int64(block.group) * conv.k, pitch = conv.all_filters;
    if (partials) partials += blockIdx.y * (pixels * pitch) + first_filter;
    const Epilogue epilogue{y + first_filter, partials, pitch, conv.k, false};
    const WindowRows rows{pixels};
    if constexpr (MASK > 0) accumulators.store<VECTOR_K>(MaskedEpilogue{epilogue, Mask(mask, conv, block.group)}, block, rows);
    else accumulators.store<VECTOR_K>(epilogue, block, rows);
    if constexpr (MOMENTS) tile_moments(moments + first_filter, y + first_filter, conv, block, pixels);
}
