// The body of matmul.cu and matmul_mma.cu, which include their main loop first. matmul.cu has formula and layouts.
#pragma once

#define MASK 0
#define VECTOR_C WIDTH
#define VECTOR_K WIDTH
#include "conv2d_matrices.cuh"

struct Matmul {
    int32 batch, rows, columns, depth;
    double scale, added_scale;
};

// Stores scale * sum + added_scale * added, or sums as they are if nothing is added, as with split-K.
struct Combination {
    static constexpr int ROWS = 1;

    Epilogue epilogue;
    const DTYPE* added;  // null: nothing
    Real scale, added_scale;

    template <int VECTOR, int N>
    __device__ __forceinline__ void store(int32 row, int32 column, const Pack<Real, N> (&sums)[1]) const {
        constexpr int CHUNK = VECTOR < N ? VECTOR : N;
        Pack<Real, N> combined[1] = {sums[0]};
        if (added && row >= 0)
#pragma unroll
            for (int first = 0; first < N; first += CHUNK) {
                if (column + first >= epilogue.columns) break;
                const auto terms =
                    *reinterpret_cast<const Pack<DTYPE, CHUNK>*>(added + int64(row) * epilogue.pitch + column + first);
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) {
                    Real& value = combined[0].at[first + j];
                    value = fma(added_scale, load(terms.at[j]), scale * value);
                }
            }
        epilogue.store<VECTOR>(row, column, combined);
    }
};

__device__ __forceinline__ void matmul(DTYPE* y, accumulator<DTYPE>* partials, const DTYPE* a, const DTYPE* b,
                                       const DTYPE* added, const Matmul& sizes, const TileScheduler& scheduler) {
    const int32 rows = sizes.rows, columns = sizes.columns, depth = sizes.depth;
    const Block block(scheduler, depth);
    const Plain left{a + block.group * (int64(rows) * depth), depth, rows, depth};
    const DTYPE* const right_base = b + block.group * (int64(columns) * depth);
#if DEPTH_FIRST
    const Plain right{right_base, columns, depth, columns};
    using Right = TileIterator<Plain, BLOCK_N, WIDTH, false>;
#else
    const Plain right{right_base, depth, columns, depth};
    using Right = TileIterator<Plain, BLOCK_N, WIDTH, true>;
#endif
    TileIterator<Plain, BLOCK_M, WIDTH, true> rows_of_left(left, block.row);
    const auto accumulators = product({}, rows_of_left, Right(right, block.column), block);

    const int64 size = int64(rows) * columns, first = block.group * size;
    if (partials) partials += blockIdx.y * (sizes.batch * size) + first;
    const Combination epilogue{{y + first, partials, columns, columns, false}, added ? added + first : nullptr,
                               Real(sizes.scale), Real(sizes.added_scale)};
    accumulators.store<WIDTH>(epilogue, block, RowsInOrder{rows});
}
