// For test_conv_addresses.py. A matrix of conv2d_matrices.cuh finds elements of a tensor. Each kernel but the last writes the
// offset of every element from the tensor's beginning, or -1 if the matrix finds none. No element is read.
#include "conv2d_matrices.cuh"

template <class Matrix>
__device__ void find_all(int64* offsets, const DTYPE* base, const Matrix& matrix, const int32* lines, const int32* columns,
                         int32 count) {
    for (int32 i = threadIdx.x; i < count; i += blockDim.x) {
        const DTYPE* from = nullptr;
        const bool found = matrix.find(matrix.line(lines[i]), matrix.column(columns[i]), from);
        offsets[i] = found ? from - base : -1;
    }
}

extern "C" __global__ void input_windows(int64* offsets, const DTYPE* x, const int32* lines, const int32* columns, int32 count,
                                         const Convolution conv) {
    find_all(offsets, x, InputWindows{x, conv}, lines, columns, count);
}

extern "C" __global__ void gradient_windows(int64* offsets, const DTYPE* dy, const int32* lines, const int32* columns,
                                            int32 count, const Convolution conv, int32 row, int32 column) {
    const Phase phase(conv, row, column);
    find_all(offsets, dy, GradientWindows{dy, conv, phase}, lines, columns, count);
}

extern "C" __global__ void transposed_filters(int64* offsets, const DTYPE* w, const int32* lines, const int32* columns, int32 count,
                                          const Convolution conv, int32 row, int32 column) {
    const Phase phase(conv, row, column);
    find_all(offsets, w, TransposedFilters(w, conv, phase), lines, columns, count);
}

extern "C" __global__ void plain_filters(int64* offsets, const DTYPE* w, const int32* lines, const int32* columns, int32 count,
                                         const Convolution conv) {
    const int32 taps = conv.r * conv.s * conv.c;
    find_all(offsets, w, Plain{w, taps, conv.k, taps}, lines, columns, count);
}

// Stores 1 at (row, column) of an output. *at is this element, so the output begins row * pitch + column elements before it.
// Then does the same for partial sums.
extern "C" __global__ void output_address(DTYPE* at, accumulator<DTYPE>* partial, int64 pitch, int32 row, int32 column) {
    if (threadIdx.x != 0) return;
    const int64 back = row * pitch + column;
    const Pack<Real, 1> one[1] = {{{1}}};
    Epilogue{at - back, nullptr, pitch, column + 1, false}.store<1>(row, column, one);
    Epilogue{nullptr, partial - back, pitch, column + 1, false}.store<1>(row, column, one);
}
