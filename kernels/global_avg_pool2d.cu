// Global average pooling: the mean of each channel over a map.
//
//   forward    y[n, c] = sum over the M = H * W pixels of x[n, m, c] / M
//   backward   dx[n, m, c] = dy[n, c] / M
//
// x is (N, M, C), y and dy are (N, C), dx is contiguous. x_pitch: elements from one pixel of x to the next; y_pitch: from one
// sample of y or dy to the next. Forward: a block of (COLUMNS, 256 / COLUMNS) threads sums COLUMNS channels of one sample. Each row
// of threads sums every (256 / COLUMNS)-th pixel, then the rows are added in order, so every run gives the same bits.
//
// Macros: DTYPE; COLUMNS 1, 2, 4, ... 32. Limits: at most 65535 * COLUMNS channels.
// Floor: sizeof(DTYPE) bytes per number, read with one addition (forward) or written with one division (backward).

#include "types.cuh"

using Real = accumulator<DTYPE>;
constexpr int ROWS = 256 / COLUMNS;

extern "C" __global__ void __launch_bounds__(256)
global_avg_pool2d_forward(DTYPE* y, const DTYPE* x, int64 m, int32 channels, int64 y_pitch, int64 x_pitch) {
    __shared__ Real partial[ROWS][COLUMNS];
    const int32 c = blockIdx.y * COLUMNS + threadIdx.x;
    const int64 n = blockIdx.x;
    Real sum = 0;
    if (c < channels)
        for (int64 i = threadIdx.y; i < m; i += ROWS) sum += load(x[(n * m + i) * x_pitch + c]);
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < channels) {
        for (int row = 1; row < ROWS; ++row) sum += partial[row][threadIdx.x];
        y[n * y_pitch + c] = round_to<DTYPE>(sum / Real(m));
    }
}

extern "C" __global__ void __launch_bounds__(256)
global_avg_pool2d_backward(DTYPE* dx, const DTYPE* dy, int64 count, int64 m, int32 channels, int64 y_pitch) {
    for (int64 i = global_thread(); i < count; i += global_threads())
        dx[i] = round_to<DTYPE>(load(dy[i / (m * channels) * y_pitch + i % channels]) / Real(m));
}
