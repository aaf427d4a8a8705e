// A block's part of a filter gradient (conv2d_wgrad.cu): its operands, and the destination of its sums. Include the main loop
// before this file.
#pragma once

#include "conv2d_matrices.cuh"

struct FilterGradient {
    using IteratorA = TileIterator<Plain, BLOCK_M, VECTOR_K, false, true>;
    using IteratorB = TileIterator<InputWindows, BLOCK_N, VECTOR_C, false>;

    const Convolution& conv;
    const int32 pixels = conv.n * conv.p * conv.q, taps = conv.r * conv.s * conv.c;
    Block block;
    const int64 first_filter = int64(block.group) * conv.k;
    DTYPE *const dw, *const db;
    Real* const partials;  // null: no split-K
    const int32 accumulate;

    __device__ __forceinline__ FilterGradient(DTYPE* dw, DTYPE* db, Real* partials, const Convolution& conv,
                                              const TileScheduler& scheduler, int32 accumulate, int32 tile = int32(blockIdx.x))
        : conv(conv), block(scheduler, pixels, tile), dw(dw), db(db),
          partials(partials ? partials + blockIdx.y * (size() + (db ? (conv.all_filters + 3) / 4 * 4 : 0)) : nullptr),
          accumulate(accumulate) {}

    __device__ __forceinline__ Plain gradients(const DTYPE* dy) const {
        return {dy + first_filter, conv.y_pitch, pixels, conv.k};
    }
    __device__ __forceinline__ InputWindows windows(const DTYPE* x) const { return {x + int64(block.group) * conv.c, conv}; }

    // Whether the block adds up db.
    __device__ __forceinline__ bool sums() const { return db && block.column == 0; }

    // Called by the threads that have sums.
    template <class Accumulators>
    __device__ __forceinline__ void store(const Accumulators& accumulators) const {
        const int64 first = first_filter * taps;
        const Epilogue epilogue{dw + first, partials ? partials + first : nullptr, taps, taps, accumulate};
        accumulators.template store<VECTOR_C>(epilogue, block, RowsInOrder{conv.k});
    }

    // Stores the block's part of db for the filter in a row of the product; sum: of dy over the block's pixels.
    __device__ __forceinline__ void store_sum(int32 row, Real sum) const {
        if (block.row + row >= conv.k) return;
        const int64 filter = first_filter + block.row + row;
        if (partials) partials[size() + filter] = sum;
        else db[filter] = round_to<DTYPE>(accumulate ? load(db[filter]) + sum : sum);
    }

    // Stores db. Called by the threads that copy dy.
    __device__ __forceinline__ void store_sums(const IteratorA& a) const {
        if (sums()) a.take_sums([&](int32 row, Real sum) { store_sum(row, sum); });
    }

  private:
    __device__ __forceinline__ int64 size() const { return int64(conv.all_filters) * taps; }
};
