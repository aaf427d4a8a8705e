// Softmax over the classes: y[n, c] = exp(x[n, c] - m) / sum over j of exp(x[n, j] - m), m the row's largest score.
//
// x, y: (N, classes); y may be x. A row has a sub-warp of `lanes` threads (class_rows.cuh): the smallest power of two that is at
// least the number of classes, at most 32. A row with NaN or +inf becomes NaN: the maximum ignores a NaN, the sum does not.
//
// Macros: DTYPE; PER_LANE. Limits: none. Floor: 2 sizeof(DTYPE) bytes and 2 exponentials per score, while a row fits into
// registers (32 * PER_LANE classes).
#include "class_rows.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
softmax_forward(DTYPE* y, const DTYPE* x, int64 n, int32 classes, int32 lanes) {
    for_each_row(x, n, classes, lanes, [&](int64 row, ClassRow& scores) {
        const Real largest = scores.reduce(Max<Real>{}, [](int32, Real score) { return score; });
        const Real total = scores.reduce(Sum<Real>{}, [&](int32, Real score) { return exp(score - largest); });
        scores.each([&](int32 c, Real score) { y[row * classes + c] = round_to<DTYPE>(exp(score - largest) / total); });
    });
}
