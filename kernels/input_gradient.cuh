// A block's part of an input gradient (conv2d_dgrad.cu): its phase, its operands, and where its sums go. The main loop is included
// first.
#pragma once

#include "conv2d_matrices.cuh"
#include "norm_below.cuh"

struct InputGradient {
    using IteratorA = TileIterator<GradientWindows, BLOCK_M, VECTOR_K, true>;
    using IteratorB = TileIterator<TransposedFilters, BLOCK_N, VECTOR_C, false>;

    const Convolution& conv;
    Block block;
    int32 part;  // the index of the block's row of tiles, counted over all phases
    const Phase phase;

    __device__ __forceinline__ InputGradient(const Convolution& conv, const TileScheduler& scheduler,
                                             int32 tile = int32(blockIdx.x))
        : InputGradient(conv, Block(scheduler, depth(conv), tile), int32(scheduler.down.divisor)) {}
    // scheduled: the block as the scheduler counts it, whose group includes the phase. down: the number of rows of tiles.
    __device__ __forceinline__ InputGradient(const Convolution& conv, const Block& scheduled, int32 down)
        : conv(conv), block(scheduled), phase(split_off_phase(conv, block.group, part)) {
        part = part * down + block.row / BLOCK_M;
        block.end = min(block.end, phase.depth(conv));
    }

    // The depth of a phase with all taps.
    static __device__ __forceinline__ int32 depth(const Convolution& conv) { return conv.r * conv.s * conv.k; }

    __device__ __forceinline__ int64 first_filter() const { return int64(block.group) * conv.k; }
    __device__ __forceinline__ GradientWindows windows(const DTYPE* dy) const { return {dy + first_filter(), conv, phase}; }
    __device__ __forceinline__ TransposedFilters filters(const DTYPE* w) const {
        return {w + first_filter() * conv.r * conv.s * conv.c, conv, phase};
    }

    // Stores the accumulators as dx, with the sums of a norm below, or adds them to dx, or stores them as partial sums. Called by
    // the threads that have accumulators.
    template <class Accumulators>
    __device__ __forceinline__ void
    store(const Accumulators& accumulators, DTYPE* dx, Sums* sums, Real* partials, const NormBelow& norm, int32 accumulate) const {
        const int64 first_channel = int64(block.group) * conv.c;
        const int32 dense = conv.all_channels;
        if constexpr (NORM_SUMS) partials = nullptr, accumulate = 0;  // the launcher neither splits the depth nor accumulates
        if (partials) partials += blockIdx.y * (int64(conv.n * conv.h * conv.w) * dense) + first_channel;
        const int32 pitch = NORM_SUMS || partials ? dense : conv.x_pitch;
        const EpilogueOf<Identity> epilogue{dx + first_channel, partials, pitch, conv.c, accumulate};  // ACTIVATION is the norm's
        const PhaseRows rows{conv, phase};
        accumulators.template store<VECTOR_C>(epilogue, block, rows);
        if constexpr (NORM_SUMS) {
            Sums* const own = sums + (int64(part) * dense + first_channel);
            tile_norm_sums(own, dx + first_channel, norm.from(first_channel), conv, block, rows);
        }
    }

    // Returns the phase of a group of tiles, and its index; `group` becomes the group of the convolution.
    static __device__ __forceinline__ Phase split_off_phase(const Convolution& conv, int32& group, int32& index) {
        int32 column = group;
        group = conv.phases.divide(column);
        index = column;
        const int32 row = conv.stride_w.divide(column);
        return {conv, row, column};
    }
};
