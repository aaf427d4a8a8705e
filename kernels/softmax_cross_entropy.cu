// Softmax cross-entropy and its gradient, in one launch.
//
//   z = logits[n, :] - max, p = exp(z) / sum of exp(z), t = (1 - s) * onehot(label) + s / classes, s the label smoothing
//   loss = mean over n of (log sum of exp(z) - sum over c of t * z)          dlogits = scale * (p - t) / N
//
// scale: a number, or read from device memory when the kernel runs (scale_at, else null); applied before rounding. logits,
// dlogits: (N, classes), one may be the other; labels: (N,) integers; loss: one number of the accumulator's dtype. A label
// outside the classes makes the loss and its row of dlogits NaN. A row has a sub-warp of `lanes` threads (class_rows.cuh).
// partials: one number a block. counter: zero before and after.
//
// Macros: DTYPE; LABEL, an integer type; PER_LANE. Limits: none. Floor: 2 sizeof(DTYPE) bytes and 2 exponentials a score, while a
// row fits into registers (32 * PER_LANE classes).
#include "class_rows.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
softmax_cross_entropy(Real* loss, DTYPE* dlogits, Real* partials, uint32* counter, const DTYPE* logits, const LABEL* labels,
                      int64 n, int32 classes, int32 lanes, double label_smoothing, const double* scale_at, double scale) {
    const Real factor = Real(scale_at ? *scale_at : scale);
    const Real everywhere = Real(label_smoothing / classes), on_label = Real(1 - label_smoothing);
    Real sum = 0;
    for_each_row(logits, n, classes, lanes, [&](int64 row, ClassRow& scores) {
        const int64 label = row < n ? int64(labels[row]) : 0;
        const Real largest = scores.reduce(Max<Real>{}, [](int32, Real score) { return score; });
        const Real total = scores.reduce(Sum<Real>{}, [&](int32, Real score) { return exp(score - largest); });
        const Real valid = 0 <= label && label < classes ? Real(1) : not_a_number();
        Real explained = 0;
        scores.each([&](int32 c, Real score) {
            const Real z = score - largest, target = everywhere + (c == label ? on_label : Real(0));
            if (target > 0) explained += target * z;  // a score of -inf that no target asks for costs nothing
            dlogits[row * classes + c] = round_to<DTYPE>((exp(z) / total - target) / Real(n) * factor * valid);
        });
        explained = scores.across(explained, Sum<Real>{});
        if (scores.leads()) sum += (log(total) - explained) * valid;
    });
    mean_over_blocks(loss, partials, counter, sum, n);
}
