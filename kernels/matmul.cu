// Products of a batch of matrices of one shape, which Muon's Newton-Schulz iteration consists of.
//
//   y[i] = a[i] b[i]^T, or with DEPTH_FIRST y[i] = a[i] b[i]        for each matrix i of the batch
//
// a (batch, rows, depth); b (batch, columns, depth), with DEPTH_FIRST (batch, depth, columns); y (batch, rows, columns). The
// matrices of a batch are the groups of gemm.cuh. Splits as in conv2d_fprop.cu, partials (splits, batch, rows, columns).
//
// Macros: those of gemm.cuh; ACTIVATION; MIN_BLOCKS; WIDTH: numbers that move at once, 16 / sizeof(DTYPE) where that divides the
// depth and the columns and the arrays are aligned to 16 bytes, else 1. Limits: none. Floor: a, b and y once; 2 depth FLOPs an
// output.

#define MASK 0
#define VECTOR_C WIDTH
#define VECTOR_K WIDTH
#include "conv2d.cuh"
#include "gemm_simt.cuh"

struct Matmul {
    int32 batch, rows, columns, depth;
};

extern "C" __global__ void __launch_bounds__((BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), RESIDENT_BLOCKS)
matmul_simt(DTYPE* y, accumulator<DTYPE>* partials, const DTYPE* a, const DTYPE* b, const Matmul product_of,
            const TileScheduler scheduler) {
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
