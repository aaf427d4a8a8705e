// The sums that a batch norm needs in backward, in the epilogue of dgrad. In forward the norm and ACTIVATION came before the
// convolution. conv2d_dgrad.cu has the layouts; the main loop is included first.
//
// Macros: those of conv2d_dgrad.cu.
#pragma once

#include "activation_after_norm.cuh"
#include "convolution.cuh"
#include "norm_gradient_sums.cuh"

#ifndef NORM_SUMS
#define NORM_SUMS 0
#endif

// The norm's input x, of dx's shape, and vectors of one number for each channel.
struct NormBelow {
    const DTYPE* x;
    const Real* mean;
    const Real* gamma;  // used only with an activation, like beta and inv_std
    const Real* beta;
    const Real* inv_std;

    __device__ __forceinline__ NormBelow from(int64 channel) const {
        if constexpr (!ACTIVE) return {x + channel, mean + channel, nullptr, nullptr, nullptr};
        return {x + channel, mean + channel, gamma + channel, beta + channel, inv_std + channel};
    }
};

// Computes the sums for each of the block's channels over its rows of dx; sums: (C,), those of the block. Like tile_moments it
// reads back what the block has just stored. A warp reads SHARE channels of ROWS rows at once, a thread VECTOR_C of them. In large
// tiles a thread reads at most four channels, but of more rows, because with eight channels some activations would spill.
template <class Rows>
__device__ __forceinline__ void
tile_norm_sums(Sums* sums, const DTYPE* dx, const NormBelow& norm, const Convolution& conv, const Block& block, const Rows& rows) {
    constexpr bool LARGE = BLOCK_M * BLOCK_N > 16384;
    constexpr int VECTOR = LARGE && VECTOR_C > 4 ? 4 : VECTOR_C, WIDE = BLOCK_N < 128 ? BLOCK_N : 128;
    constexpr int ACROSS = WIDE / VECTOR < 32 ? WIDE / VECTOR : 32, SHARE = ACROSS * VECTOR;  // threads, and channels, across
    constexpr int WARPS = THREADS / 32, ROWS = 32 / ACROSS;                                   // rows that a warp reads at once
    static_assert(BLOCK_N % SHARE == 0 && BLOCK_M % (WARPS * ROWS) == 0 && 32 % ACROSS == 0, "equal shares");
    constexpr int AT_ONCE = sizeof(DTYPE) == 8 ? 1 : LARGE ? 8 : 2;  // rows of a thread; with 2, doubles would spill
    using Numbers = Pack<DTYPE, VECTOR>;
    __shared__ Sums cells[WARPS][SHARE];
    const int32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, own_first = lane % ACROSS * VECTOR;
#pragma unroll 1
    for (int32 first = block.column; first < block.column + BLOCK_N; first += SHARE) {
        Accumulators::sync();  // the block has stored dx, and the cells are free
        const int32 channel = first + own_first;
        const bool inside = channel < conv.c;  // VECTOR divides the channels
        Real mean[VECTOR] = {}, scale[VECTOR] = {}, beta[VECTOR] = {};
        Sums own[VECTOR] = {};
        if (inside)
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                mean[j] = norm.mean[channel + j];
                if constexpr (ACTIVE) {
                    scale[j] = norm.gamma[channel + j] * norm.inv_std[channel + j];
                    beta[j] = norm.beta[channel + j];
                }
            }
#pragma unroll AT_ONCE
        for (int32 i = warp * ROWS + lane / ACROSS; i < BLOCK_M; i += WARPS * ROWS) {
            const int32 row = rows(block.row + i);
            if (!inside || row < 0) continue;
            const int64 at = int64(row) * conv.all_channels + channel;
            const auto gradients = *reinterpret_cast<const Numbers*>(dx + at);
            const auto inputs = *reinterpret_cast<const Numbers*>(norm.x + at);
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const Real gradient = activation_backward(gradients.at[j], inputs.at[j], mean[j], scale[j], beta[j]);
                own[j].merge({gradient, gradient * (load(inputs.at[j]) - mean[j])});
            }
        }
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) {
#pragma unroll
            for (int lanes = ACROSS; lanes < 32; lanes *= 2)
                own[j].merge({__shfl_xor_sync(0xffffffffu, own[j].dy, lanes), __shfl_xor_sync(0xffffffffu, own[j].product, lanes)});
            if (lane < ACROSS) cells[warp][own_first + j] = own[j];
        }
        Accumulators::sync();
        for (int32 column = threadIdx.x; column < SHARE && first + column < conv.c; column += THREADS) {
            Sums total = cells[0][column];
            for (int other = 1; other < WARPS; ++other) total.merge(cells[other][column]);
            sums[first + column] = total;
        }
    }
}
