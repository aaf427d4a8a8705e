// The epilogues of fprop, for all of its main loops: what becomes of the sums of a block. conv2d_fprop.cu has formula and layouts.
#pragma once

#include "argmax.cuh"
#include "conv2d_matrices.cuh"
#include "mask.cuh"
#include "moments.cuh"

#ifndef MOMENTS
#define MOMENTS 0
#endif
#ifndef SAVES_INPUT
#define SAVES_INPUT 0
#endif

// fprop's epilogue with a mask: stores y and the mask. A row of y is the maximum of WINDOW neighboring rows of the
// product, after the activation and rounded as in y. The member `y` applies the activation again, which changes
// nothing.
struct MaskedEpilogue {
    static constexpr int ROWS = WINDOW;

    Epilogue y;  // its activation is a ReLU, or none if only a pool follows
    Mask mask;

    template <int VECTOR, int N>
    __device__ __forceinline__ void store(int32 row, int32 column, const Pack<Real, N> (&sums)[WINDOW]) const {
        Pack<Real, N> best[1];
        uint32 bits = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            int won = 0;
            Real leader = finished(sums[0].at[i]);
#pragma unroll
            for (int j = 1; j < WINDOW; ++j) {
                const Real value = finished(sums[j].at[i]);
                if (takes_lead(value, leader)) leader = value, won = j;
            }
            best[0].at[i] = leader;
            const bool passes = IS_IDENTITY<ACTIVATION> ? column + i < y.columns : leader > 0;  // past the end, leader is 0
            if (passes) bits |= 1u << (i * MASK + won);
        }
        y.store<VECTOR>(row, column, best);
        constexpr int COUNT = N * MASK;
        // A lane with half a byte takes the other half, of the next four columns, from its neighbor.
        if constexpr (COUNT == 4) bits |= __shfl_xor_sync(0xffffffffu, bits, 1) << 4;
        if (row < 0 || (COUNT == 4 && column % 8 != 0)) return;
        uint8* at = mask.bytes + (int64(row) * mask.pitch + column * MASK / 8);
#pragma unroll
        for (int byte = 0; byte < (COUNT + 7) / 8; ++byte)
            if (column + byte * 8 / MASK < y.columns) at[byte] = uint8(bits >> byte * 8);
    }

  private:
    // The activation of a sum, rounded as in y.
    static __device__ __forceinline__ Real finished(Real sum) { return load(round_to<DTYPE>(ACTIVATION<Real>{}.apply(sum))); }
};

// fprop's epilogue that also stores the activation's input, rounded, and computes y from the rounded input.
struct SavingEpilogue {
    static constexpr int ROWS = 1;

    Epilogue y;
    EpilogueOf<Identity> input;

    template <int VECTOR, int N>
    __device__ __forceinline__ void store(int32 row, int32 column, const Pack<Real, N> (&sums)[1]) const {
        Pack<Real, N> rounded[1];
#pragma unroll
        for (int i = 0; i < N; ++i) rounded[0].at[i] = load(round_to<DTYPE>(sums[0].at[i]));
        input.store<VECTOR>(row, column, rounded);
        y.store<VECTOR>(row, column, rounded);
    }
};

// The row of y for a pixel of the convolution: all pixels of a pool's window have the same row.
struct WindowRows {
    int32 pixels;
    __device__ __forceinline__ int32 operator()(int32 row) const { return row < pixels ? row / WINDOW : -1; }
};

// Computes the moments of each of the block's filters over the block's pixels of y; moments (rows of tiles, K). The block has just
// stored these pixels, and this function reads them back from L2. So it serves main loops with any distribution of the sums.
__device__ __forceinline__ void
tile_moments(Moments* moments, const DTYPE* y, const Convolution& conv, const Block& block, int32 pixels) {
    constexpr int ROWS = BLOCK_M / WINDOW;  // pixels of y in a tile
    constexpr int ACROSS = THREADS < BLOCK_N ? THREADS : BLOCK_N, PARTS = THREADS / ACROSS;  // the layout of the threads
    constexpr int SHARE = ROWS / PARTS, GROUP = SHARE < 8 ? SHARE : 8;  // rows per thread, and those it loads at once
    static_assert(ACROSS * PARTS == THREADS && BLOCK_N % ACROSS == 0 && ROWS % PARTS == 0 && SHARE % GROUP == 0, "equal shares");
    __shared__ Moments cells[THREADS];
    const int32 first = block.row / WINDOW + int32(threadIdx.x) / ACROSS * SHARE;
#pragma unroll 1
    for (int32 left = 0; left < BLOCK_N; left += ACROSS) {
        Accumulators::sync();  // the block has stored y, and the cells are free
        const int32 filter = block.column + left + int32(threadIdx.x) % ACROSS;
        const int32 count = filter < conv.k ? min(SHARE, pixels - first) : 0;
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
        Accumulators::sync();
        if (threadIdx.x >= ACROSS || filter >= conv.k) continue;
        for (int part = 1; part < PARTS; ++part) own[0].merge(cells[threadIdx.x + part * ACROSS]);
        moments[int64(block.row / BLOCK_M) * conv.all_filters + filter] = own[0];
    }
}

// Stores a block's sums as partial sums, or as y. With y it stores what the macros ask for: mask, activation input or moments.
__device__ __forceinline__ void
run_epilogue(const Accumulators& accumulators, const Block& block, DTYPE* y, uint8* mask, DTYPE* input, Moments* moments,
             Real* partials, const Convolution& conv) {
    const int32 pixels = conv.n * conv.p * conv.q;
    const int64 first_filter = int64(block.group) * conv.k;
    const int32 dense = conv.all_filters;
    if constexpr (MOMENTS) partials = nullptr;  // the moments are computed from y, so there is no split-K
    if (partials) partials += blockIdx.y * (int64(pixels) * dense) + first_filter;
    const Epilogue epilogue{y + first_filter, partials, MOMENTS || partials ? dense : conv.y_pitch, conv.k, false};
    const WindowRows rows{pixels};
    if constexpr (MASK > 0) {
        const int32 groups = conv.all_filters / max(1, conv.k);
        accumulators.store<VECTOR_K>(MaskedEpilogue{epilogue, Mask(mask, conv.k, groups, block.group)}, block, rows);
    } else if constexpr (SAVES_INPUT) {
        accumulators.store<VECTOR_K>(SavingEpilogue{epilogue, {input + first_filter, nullptr, dense, conv.k, false}}, block, rows);
    } else {
        accumulators.store<VECTOR_K>(epilogue, block, rows);
    }
    if constexpr (MOMENTS) tile_moments(moments + first_filter, y + first_filter, conv, block, pixels / WINDOW);
}
