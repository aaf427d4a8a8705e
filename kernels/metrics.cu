// Adds a batch to the running sums of loss and accuracy, which stay in device memory and are read back occasionally.
//
//   totals[0] += loss * m          totals[2] += m, the number of rows whose label is not `ignored`
//   totals[1] += the number of these rows whose class with the largest score (the first of equals; NaN is largest) is the label.
//                If labels are floats (labels.cuh), the class with the largest label takes the place of the label
//   totals[3] += 1 if totals[0] is finite afterwards
//
// With class weights, totals[0] += loss * w instead, w the sum of the weights of these m labels; without, w is m. Where `sums` is
// 5, totals[4] += w.
//
// totals: `sums` doubles. scores (n, classes); labels (n,) or (n, classes), or null: then totals[1] is unchanged. One block of 256
// threads, each taking one row at a time. The sums are of integers, or are added in a fixed order, so every run gives the same
// bits.
//
// Macros: DTYPE; LABEL, int64 or a float type. Limits: none.
// Floor: sizeof(DTYPE) bytes and a comparison per score; if labels are floats, also sizeof(LABEL) bytes and a comparison per label.

#include "argmax.cuh"
#include "labels.cuh"
#include "reduce.cuh"

using Real = accumulator<DTYPE>;

// The index of the row's largest number.
template <class T>
__device__ int32 largest(const T* row, int32 classes) {
    int32 best = 0;
    auto leader = load(row[0]);
    for (int32 c = 1; c < classes; ++c) {
        const auto value = load(row[c]);
        if (takes_lead(value, leader)) {
            leader = value;
            best = c;
        }
    }
    return best;
}

template <class T>
__device__ int64 right_answer(const T* labels, int64 row, int32 classes) {
    if constexpr (IS_FLOAT<T>) return largest(labels + row * classes, classes);
    else return labels[row];
}

template <class T>
__device__ bool is_counted(const T* labels, int64 row, int64 ignored) {
    if constexpr (IS_FLOAT<T>) return true;
    else return !labels || !is_ignored(labels[row], ignored);
}

extern "C" __global__ void __launch_bounds__(256, 1)
metrics_add(double* totals, const Real* loss, const DTYPE* scores, const LABEL* labels, int32 n, int32 classes,
            int64 ignored, const Real* weight, int32 sums) {
    __shared__ double scratch[32];
    int32 counted = 0, correct = 0;
    double weight_sum = 0;
    for (int32 first = 0; first < n; first += blockDim.x) {
        const int32 row = first + threadIdx.x;
        const bool is_counted_row = row < n && is_counted(labels, row, ignored);
        bool is_correct = false;
        if (is_counted_row && labels) {
            const int32 best = largest(scores + int64(row) * classes, classes);
            const int64 answer = right_answer(labels, row, classes);
            is_correct = best == answer;
            if (weight && 0 <= answer && answer < classes) weight_sum += double(weight[answer]);
        }
        counted += __syncthreads_count(is_counted_row);
        correct += __syncthreads_count(is_correct);
    }
    weight_sum = weight ? reduce_block(weight_sum, Sum<double>(), scratch) : double(counted);
    if (threadIdx.x == 0) {
        totals[0] = __dadd_rn(totals[0], __dmul_rn(double(*loss), weight_sum));
        if (sums > 4) totals[4] += weight_sum;
        totals[1] += correct;
        totals[2] += counted;
        totals[3] += isfinite(totals[0]) ? 1 : 0;
    }
}
