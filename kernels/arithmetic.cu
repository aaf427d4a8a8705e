// The sum of two arrays, a scaled array, and a copy.
//
//   add_forward, add_rows       y = a + b
//   copy_forward, copy_rows     y = x
//   scale_forward, scale_rows   y = x * (factor / divisor), or x * 0 if the divisor is 0
//
// factor and divisor are numbers, or are read from device memory (factor_at, divisor_at) when the kernel runs.
// _forward takes arrays of any shape as one row. _rows takes rows along the last axis, with any distance from one row to the next,
// as in slices of channels; for a vector that is added to every row the distance is 0. In _rows, WIDTH divides the
// length of the rows and their distances. The output may be an input. A thread moves WIDTH numbers at a time.
//
// Macros: DTYPE float32, float64, float16, bfloat16; WIDTH 16 / sizeof(DTYPE) where all arrays are aligned to 16 bytes, else 1.
// Limits: a row of _rows has fewer than 2^31 packs.
// Floor: per number 3 (add) or 2 (others) * sizeof(DTYPE) bytes and, except in a copy, one FLOP.

#include "types.cuh"

using Numbers = Pack<DTYPE, WIDTH>;
using Real = accumulator<DTYPE>;

extern "C" __global__ void add_forward(DTYPE* y, const DTYPE* a, const DTYPE* b, int64 n) {
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers sum = reinterpret_cast<const Numbers*>(a)[i];
        const Numbers other = reinterpret_cast<const Numbers*>(b)[i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) sum.at[j] = round_to<DTYPE>(load(sum.at[j]) + load(other.at[j]));
        reinterpret_cast<Numbers*>(y)[i] = sum;
    }
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads())
        y[i] = round_to<DTYPE>(load(a[i]) + load(b[i]));
}

// Calls visit(row, pack) for each pack of `rows` rows; blockDim.x threads of a block work in the same row.
template <class Visit>
__device__ __forceinline__ void each_row(int64 rows, int32 packs, Visit visit) {
    const int32 pack = int32(blockIdx.x * blockDim.x + threadIdx.x);
    if (pack >= packs) return;
    for (int64 row = int64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += int64(gridDim.y) * blockDim.y)
        visit(row, pack);
}

extern "C" __global__ void add_rows(DTYPE* y, const DTYPE* a, const DTYPE* b, int64 rows, int32 packs, int64 y_step, int64 a_step,
                                    int64 b_step) {
    each_row(rows, packs, [&](int64 row, int32 pack) {
        Numbers sum = reinterpret_cast<const Numbers*>(a)[row * a_step + pack];
        const Numbers other = reinterpret_cast<const Numbers*>(b)[row * b_step + pack];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) sum.at[j] = round_to<DTYPE>(load(sum.at[j]) + load(other.at[j]));
        reinterpret_cast<Numbers*>(y)[row * y_step + pack] = sum;
    });
}

extern "C" __global__ void copy_forward(DTYPE* y, const DTYPE* x, int64 n) {
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads())
        reinterpret_cast<Numbers*>(y)[i] = reinterpret_cast<const Numbers*>(x)[i];
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads()) y[i] = x[i];
}

extern "C" __global__ void copy_rows(DTYPE* y, const DTYPE* x, int64 rows, int32 packs, int64 y_step, int64 x_step) {
    each_row(rows, packs, [&](int64 row, int32 pack) {
        reinterpret_cast<Numbers*>(y)[row * y_step + pack] = reinterpret_cast<const Numbers*>(x)[row * x_step + pack];
    });
}

struct Factor {
    Real value;

    __device__ Factor(const double* factor_at, double factor, const double* divisor_at, double divisor) {
        const double denominator = divisor_at ? *divisor_at : divisor;
        value = Real(denominator == 0 ? 0 : (factor_at ? *factor_at : factor) / denominator);
    }
    __device__ __forceinline__ void operator()(Numbers& pack) const {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(load(pack.at[j]) * value);
    }
};

extern "C" __global__ void scale_forward(DTYPE* y, const DTYPE* x, int64 n, const double* factor_at, double factor,
                                         const double* divisor_at, double divisor) {
    const Factor multiply(factor_at, factor, divisor_at, divisor);
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers pack = reinterpret_cast<const Numbers*>(x)[i];
        multiply(pack);
        reinterpret_cast<Numbers*>(y)[i] = pack;
    }
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads())
        y[i] = round_to<DTYPE>(load(x[i]) * multiply.value);
}

extern "C" __global__ void scale_rows(DTYPE* y, const DTYPE* x, int64 rows, int32 packs, int64 y_step, int64 x_step,
                                      const double* factor_at, double factor, const double* divisor_at, double divisor) {
    const Factor multiply(factor_at, factor, divisor_at, divisor);
    each_row(rows, packs, [&](int64 row, int32 pack) {
        Numbers numbers = reinterpret_cast<const Numbers*>(x)[row * x_step + pack];
        multiply(numbers);
        reinterpret_cast<Numbers*>(y)[row * y_step + pack] = numbers;
    });
}
