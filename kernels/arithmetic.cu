// The sums around residual blocks, and multiplication by a constant.
//
//   add_forward     y[i] = a[i] + b[i]          3 * sizeof(DTYPE) bytes a number
//   scale_forward   y[i] = x[i] * factor        2 * sizeof(DTYPE) bytes a number
//
// Any shape, flat; the output may be an input. A thread moves WIDTH numbers at a time: 16 bytes where all arrays are aligned
// to 16, else one. Macros: DTYPE float32, float64, float16, bfloat16; WIDTH 1 or 16 / sizeof(DTYPE). Prediction, not measured:
// bound by memory, 85 % of the copy bandwidth.

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
