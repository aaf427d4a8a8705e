// The sum of two arrays, of an array and a vector for its last axis, and the product of an array and a constant.
//
//   add_forward     y[i] = a[i] + b[i]
//   add_vector_forward   y[i] = a[i] + b[i % channels]; WIDTH divides channels
//   scale_forward   y[i] = x[i] * factor
//
// Any shape, flat. The output may be an input. A thread moves WIDTH numbers at a time.
//
// Macros: DTYPE float32, float64, float16, bfloat16; WIDTH 16 / sizeof(DTYPE) where all arrays are aligned to 16 bytes, else 1.
// Limits: none. Floor: 3 (add) or 2 (add_vector, scale) * sizeof(DTYPE) bytes and one FLOP a number.

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

extern "C" __global__ void add_vector_forward(DTYPE* y, const DTYPE* a, const DTYPE* b, int64 n, int32 channels) {
    const int64 packs = n / WIDTH;
    const int32 each = channels / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers sum = reinterpret_cast<const Numbers*>(a)[i];
        const Numbers other = reinterpret_cast<const Numbers*>(b)[i % each];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) sum.at[j] = round_to<DTYPE>(load(sum.at[j]) + load(other.at[j]));
        reinterpret_cast<Numbers*>(y)[i] = sum;
    }
}

extern "C" __global__ void scale_forward(DTYPE* y, const DTYPE* x, int64 n, double factor) {
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers pack = reinterpret_cast<const Numbers*>(x)[i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(load(pack.at[j]) * Real(factor));
        reinterpret_cast<Numbers*>(y)[i] = pack;
    }
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads())
        y[i] = round_to<DTYPE>(load(x[i]) * Real(factor));
}
