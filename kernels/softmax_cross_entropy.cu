// Softmax cross-entropy and its gradient, in one launch. With weights or ignored labels there is an earlier launch, which sums the
// labels' weights.
//
//   z = logits[n, :] - max, p = exp(z) / sum of exp(z), t = w * ((1 - s) * target + s / classes), s the label smoothing
//   target: onehot(label), or the row of labels      w: a weight for each class, or 1      T = sum over c of t
//   loss = sum over n of (T * log sum of exp(z) - sum over c of t * z) / D          dlogits = scale * (T * p - t) / D
//   D: N, or the sum of w[label] over the rows that are not ignored; if it is 0, loss and dlogits are 0
//
// scale: applied before rounding; if scale_at is not null, read from there when the kernel runs. logits and
// dlogits: (N, classes), may be the same array; labels: (N,) integers, or (N, classes) floats (labels.cuh); weight: (classes,) or
// null; loss: one number of the accumulator's dtype. A row whose label is `ignored` adds nothing; its dlogits are 0. Any other
// label outside the classes makes the loss and its row of dlogits NaN. divisor: D, or null for N. A row has a sub-warp of `lanes`
// threads (class_rows.cuh). partials: one number per block. counter: zero before and after.
//
// Macros: DTYPE; LABEL, any number type; PER_LANE. Limits: none. Floor: 2 sizeof(DTYPE) bytes (and sizeof(LABEL), if LABEL is
// a float type) and 2 exponentials per score, while a row fits into registers (32 * PER_LANE classes).
#include "class_rows.cuh"
#include "labels.cuh"

// The target of each class, from a row's labels.
template <class T, bool SOFT = IS_FLOAT<T>>
struct RowTarget {  // a label: 1 for its class, 0 for others
    const int64 label;
    const int32 classes;
    __device__ RowTarget(const T* labels, int64 row, int64 n, int32 classes)
        : label(row < n ? int64(labels[row]) : 0), classes(classes) {}
    __device__ bool is_counted(int64 ignored) const { return !is_ignored(label, ignored); }
    __device__ bool valid() const { return 0 <= label && label < classes; }
    __device__ Real of(int32 c) const { return c == label ? Real(1) : Real(0); }
    __device__ Real label_weight(const Real* weight) const { return weight ? weight[label] : Real(1); }
};

template <class T>
struct RowTarget<T, true> {
    const T* const row;
    __device__ RowTarget(const T* labels, int64 row, int64, int32 classes) : row(labels + row * classes) {}
    __device__ bool is_counted(int64) const { return true; }
    __device__ bool valid() const { return true; }
    __device__ Real of(int32 c) const { return Real(load(row[c])); }
    __device__ Real label_weight(const Real*) const { return Real(1); }
};

extern "C" __global__ void __launch_bounds__(256, 2)
label_weights(Real* divisor, Real* partials, uint32* counter, const LABEL* labels, int64 n, int32 classes, const Real* weight,
              int64 ignored) {
    Real sum = 0;
    for (int64 row = global_thread(); row < n; row += global_threads()) {
        const RowTarget<LABEL> row_target(labels, row, n, classes);
        if (row_target.is_counted(ignored) && row_target.valid()) sum += row_target.label_weight(weight);
    }
    mean_over_blocks(divisor, partials, counter, sum, Real(1));
}

extern "C" __global__ void __launch_bounds__(256, 2)
softmax_cross_entropy(Real* loss, DTYPE* dlogits, Real* partials, uint32* counter, const DTYPE* logits, const LABEL* labels,
                      int64 n, int32 classes, int32 lanes, double label_smoothing, const double* scale_at, double scale,
                      const Real* weight, const Real* divisor, int64 ignored) {
    const Real factor = Real(scale_at ? *scale_at : scale);
    const Real everywhere = Real(label_smoothing / classes), on_label = Real(1 - label_smoothing);
    const Real weights = divisor ? *divisor : Real(n), denominator = weights == 0 ? infinity() : weights;
    Real sum = 0;
    for_each_row(logits, n, classes, lanes, [&](int64 row, ClassRow& scores) {
        const RowTarget<LABEL> row_target(labels, row, n, classes);
        const auto target = [&](int32 c) {
            const Real t = everywhere + on_label * row_target.of(c);
            return weight ? weight[c] * t : t;
        };
        const Real largest = scores.reduce(Max<Real>{}, [](int32, Real score) { return score; });
        const Real total = scores.reduce(Sum<Real>{}, [&](int32, Real score) { return exp(score - largest); });
        Real target_sum = 1;
        if (IS_FLOAT<LABEL> || weight) target_sum = scores.reduce(Sum<Real>{}, [&](int32 c, Real) { return target(c); });
        const bool counts = row_target.is_counted(ignored);
        const Real valid = row_target.valid() ? Real(1) : not_a_number();
        Real sum_tz = 0;
        scores.each([&](int32 c, Real score) {
            const Real z = score - largest, t = target(c);
            if (t != 0) sum_tz += t * z;  // a score of -inf with target 0 adds nothing
            const Real slope = (target_sum * (exp(z) / total) - t) / denominator * factor * valid;
            dlogits[row * classes + c] = round_to<DTYPE>(counts ? slope : Real(0));
        });
        sum_tz = scores.reduce_lanes(sum_tz, Sum<Real>{});
        if (scores.leads() && counts) sum += (target_sum * log(total) - sum_tz) * valid;
    });
    mean_over_blocks(loss, partials, counter, sum, denominator);
}
