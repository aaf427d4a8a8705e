// The multiclass SVM loss (Weston and Watkins 1999) and its gradient, in one launch.
//
//   margin(c) = scores[n, c] - scores[n, label] + delta for c other than the label
//   loss = mean over n of the sum of max(0, margin)
//   dscores[n, c] = scale * [margin(c) > 0] / N, dscores[n, label] = -scale * (number of positive margins) / N
//
// scale: applied before rounding; if scale_at is not null, read from there when the kernel runs. scores and
// dscores: (N, classes), may be the same array; labels: (N,) integers; loss: one number of the accumulator's dtype. A label
// outside the classes makes the loss and its row of dscores NaN; a NaN score makes only the loss NaN. A row has a sub-warp of
// `lanes` threads (class_rows.cuh). partials: one number per block. counter: zero before and after.
//
// Macros: DTYPE; LABEL, an integer type; PER_LANE. Limits: none. Floor: 2 sizeof(DTYPE) bytes and 4 FLOPs per score.
#include "class_rows.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
svm_hinge(Real* loss, DTYPE* dscores, Real* partials, uint32* counter, const DTYPE* scores, const LABEL* labels, int64 n,
          int32 classes, int32 lanes, double delta, const double* scale_at, double scale) {
    const Real factor = Real(scale_at ? *scale_at : scale);
    Real sum = 0;
    for_each_row(scores, n, classes, lanes, [&](int64 row, ClassRow& of_row) {
        const int64 label = row < n ? int64(labels[row]) : -1;
        const bool known = 0 <= label && label < classes;
        const Real valid = known ? Real(1) : not_a_number();
        const Real right = known ? load(scores[row * classes + label]) : Real(0);
        Real margins = 0, positive = 0;
        of_row.each([&](int32 c, Real score) {
            if (c == label) return;
            const Real margin = score - right + Real(delta);
            if (!(margin <= 0)) margins += margin;  // NaN too, so the loss shows it
            positive += margin > 0;
            dscores[row * classes + c] = round_to<DTYPE>((margin > 0 ? valid : 0 * valid) / Real(n) * factor);
        });
        margins = of_row.reduce_lanes(margins, Sum<Real>{});
        positive = of_row.reduce_lanes(positive, Sum<Real>{});
        if (of_row.leads()) {  // dscores may be scores: the label's entry is overwritten after all lanes have read it
            sum += margins * valid;
            if (known) dscores[row * classes + label] = round_to<DTYPE>(-positive / Real(n) * factor);
        }
    });
    mean_over_blocks(loss, partials, counter, sum, Real(n));
}
