// Compares the tile iterators of tile_iterator.cuh with the matrices that they walk. For each chunk of each tile from `begin` on,
// `found` receives the offset from the tensor's beginning that the iterator gives, and `expected` the offset that Matrix::find
// gives. Both are -1 for a chunk of zeros. No element is read. A launch has one block. found, expected: (tiles, passes, threads).
// row, column: the phase of dgrad; the other directions ignore it.
#include "gemm_mma.cuh"

#include "conv2d_matrices.cuh"

template <int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, class Matrix>
__device__ void walk_both(int64* found, int64* expected, const DTYPE* base, const Matrix& matrix, int32 side, int32 begin, int32 tiles) {
    using Iterator = TileIterator<Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH>;
    using Mover = TileMover<Iterator, SIDE, COLUMNS_ARE_DEPTH, false>;
    static_assert(!Iterator::SEARCHES, "an iterator that increments");
    Iterator iterator(matrix, side);
    iterator.seek(begin);
    int32 depth = begin;
    for (int32 tile = 0; tile < tiles; ++tile) {
        __syncthreads();
        Source chunks[Mover::PASSES];
        iterator.find(chunks, depth);
        for (int pass = 0; pass < Mover::PASSES; ++pass) {
            const int32 line = Mover::line(pass) + (COLUMNS_ARE_DEPTH ? side : depth);
            const int32 column = Mover::chunk() * CHUNK + (COLUMNS_ARE_DEPTH ? depth : side);
            const DTYPE* from = nullptr;
            const bool there = matrix.find(matrix.line(line), matrix.column(column), from);
            const int32 at = (tile * Mover::PASSES + pass) * THREADS + threadIdx.x;
            found[at] = chunks[pass].found ? chunks[pass].from - base : -1;
            expected[at] = there ? from - base : -1;
        }
        depth += STAGE_K;
        iterator.advance(depth);
    }
}

extern "C" __global__ void fprop_x(int64* found, int64* expected, const DTYPE* x, const Convolution conv, int32 row, int32 column,
                                   int32 side, int32 begin, int32 tiles) {
    walk_both<BLOCK_M, VECTOR_C, true>(found, expected, x, InputWindows{x, conv}, side, begin, tiles);
}

extern "C" __global__ void fprop_w(int64* found, int64* expected, const DTYPE* w, const Convolution conv, int32 row, int32 column,
                                   int32 side, int32 begin, int32 tiles) {
    const int32 taps = conv.r * conv.s * conv.c;
    walk_both<BLOCK_N, VECTOR_C, true>(found, expected, w, Plain{w, taps, conv.k, taps}, side, begin, tiles);
}

extern "C" __global__ void dgrad_dy(int64* found, int64* expected, const DTYPE* dy, const Convolution conv, int32 row, int32 column,
                                    int32 side, int32 begin, int32 tiles) {
    const Phase phase(conv, row, column);
    const GradientWindows windows{dy, conv, phase};
    walk_both<BLOCK_M, VECTOR_K, true>(found, expected, dy, windows, side, begin, tiles);
}

extern "C" __global__ void dgrad_w(int64* found, int64* expected, const DTYPE* w, const Convolution conv, int32 row, int32 column,
                                   int32 side, int32 begin, int32 tiles) {
    const Phase phase(conv, row, column);
    walk_both<BLOCK_N, VECTOR_C, false>(found, expected, w, TransposedFilters(w, conv, phase), side, begin, tiles);
}

extern "C" __global__ void wgrad_dy(int64* found, int64* expected, const DTYPE* dy, const Convolution conv, int32 row, int32 column,
                                    int32 side, int32 begin, int32 tiles) {
    const Plain gradients{dy, conv.all_filters, conv.n * conv.p * conv.q, conv.k};
    walk_both<BLOCK_M, VECTOR_K, false>(found, expected, dy, gradients, side, begin, tiles);
}

extern "C" __global__ void wgrad_x(int64* found, int64* expected, const DTYPE* x, const Convolution conv, int32 row, int32 column,
                                   int32 side, int32 begin, int32 tiles) {
    walk_both<BLOCK_N, VECTOR_C, false>(found, expected, x, InputWindows{x, conv}, side, begin, tiles);
}

// If exists[t], thread t copies 16 bytes of x to y. If not, it writes zeros, and passes an address outside of x, which must
// not be read.
extern "C" __global__ void copy_or_zeros(float* y, const float* x, const int32* exists) {
    extern __shared__ __align__(16) unsigned char memory[];
    float* own = reinterpret_cast<float*>(memory) + threadIdx.x * 4;
    const int32 found = exists[threadIdx.x];
    copy_async_or_zeros<16>(own, found ? x + threadIdx.x * 4 : x - (1 << 20), found);
    commit_copies();
    wait_for_copies<0>();
    for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = own[i];
}
