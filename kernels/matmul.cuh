// The body of matmul.cu and matmul_mma.cu, which include their main loop first. matmul.cu has formula and layouts.
#pragma once

#define MASK 0
#define VECTOR_C WIDTH
#define VECTOR_K WIDTH
#include "conv2d.cuh"

struct Matmul {
    int32 batch, rows, columns, depth;
};

__device__ __forceinline__ void matmul(DTYPE* y, accumulator<DTYPE>* partials, const DTYPE* a, const DTYPE* b,
                                       const Matmul& product_of, const TileScheduler& scheduler) {
    const int32 rows = product_of.rows, columns = product_of.columns, depth = product_of.depth;
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
    const Accumulators accumulators = product({}, rows_of_left, Right(right, block.column), block);

    const int64 size = int64(rows) * columns, first = block.group * size;
    if (partials) partials += blockIdx.y * (product_of.batch * size) + first;
    accumulators.store<WIDTH>(Epilogue{y + first, partials, columns, columns, false}, block, RowsInOrder{rows});
}
