// Adds a batch to the running sums of loss and accuracy, which stay in device memory and are read back now and then.
//
//   totals[0] += loss * n          totals[2] += n
//   totals[1] += rows whose largest score is the label's (the first of equals; NaN counts as largest)
//   totals[3] += 1 if totals[0] is finite afterwards
//
// totals: 4 doubles. scores (n, classes). One block of 256 threads, one row a thread at a time. The sums are of integers, or are
// added by one thread, so every run gives the same bits.
//
// Macros: DTYPE. Limits: none. Floor: n * classes * sizeof(DTYPE) bytes.

#include "types.cuh"

using Real = accumulator<DTYPE>;

extern "C" __global__ void __launch_bounds__(256, 1)
metrics_add(double* totals, const Real* loss, const DTYPE* scores, const int64* labels, int32 n, int32 classes) {
    int32 correct = 0;
    for (int32 first = 0; first < n; first += blockDim.x) {
        const int32 row = first + threadIdx.x;
        bool right = false;
        if (row < n) {
            const DTYPE* score = scores + int64(row) * classes;
            int32 best = 0;
            Real leader = load(score[0]);
            for (int32 c = 1; c < classes; ++c) {
                const Real value = load(score[c]);
                if (value > leader || (value != value && leader == leader)) {
                    leader = value;
                    best = c;
                }
            }
            right = best == labels[row];
        }
        correct += __syncthreads_count(right);
    }
    if (threadIdx.x == 0) {
        totals[0] = __dadd_rn(totals[0], __dmul_rn(double(*loss), double(n)));
        totals[1] += correct;
        totals[2] += n;
        totals[3] += isfinite(totals[0]) ? 1 : 0;
    }
}
