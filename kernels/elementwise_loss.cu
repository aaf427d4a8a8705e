// Losses that compare each score with a target, and their gradients, each in one launch. x: a score, t: its target, d = x - t.
//
//   mean_squared_error     d^2                                                          slope 2 d
//   huber_loss             d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)     slope d, clamped to [-delta, delta]
//   binary_cross_entropy   (1 - t) x + v log(1 + exp(-x)), v = 1 + (p - 1) t            slope v / (1 + exp(-x)) - p t
//
// p: the weight of the positive class, one for each of the last axis' `columns`, or 1 if pos_weight is null.
// loss = mean over all elements          gradient = scale * slope / size
//
// scale: applied before rounding; if scale_at is not null, read from there when the kernel runs. x and gradient:
// `size` numbers, may be the same array; targets: as many; loss: one number of the accumulator's dtype. partials: one number per
// block. counter: zero before and after.
//
// Macros: DTYPE; LABEL, the float type of targets. Limits: none.
// Floor, per element: 2 sizeof(DTYPE) + sizeof(LABEL) bytes; 6 FLOPs (mean_squared_error), 7 (huber_loss), or an exponential, a
// logarithm and some 15 FLOPs (binary_cross_entropy).
#include "mean_over_blocks.cuh"

// of(i, x, t, slope) is the loss of element i, and sets its slope.
template <class Of>
__device__ __forceinline__ void elementwise(Real* loss, DTYPE* gradient, Real* partials, uint32* counter, const DTYPE* x,
                                            const LABEL* targets, int64 size, const double* scale_at, double scale, Of of) {
    const Real factor = Real(scale_at ? *scale_at : scale);
    Real sum = 0;
    for (int64 i = global_thread(); i < size; i += global_threads()) {
        Real slope;
        sum += of(i, load(x[i]), Real(load(targets[i])), slope);
        gradient[i] = round_to<DTYPE>(slope / Real(size) * factor);
    }
    mean_over_blocks(loss, partials, counter, sum, Real(size));
}

extern "C" __global__ void __launch_bounds__(256, 2)
mean_squared_error(Real* loss, DTYPE* gradient, Real* partials, uint32* counter, const DTYPE* x, const LABEL* targets, int64 size,
                   const double* scale_at, double scale) {
    elementwise(loss, gradient, partials, counter, x, targets, size, scale_at, scale, [](int64, Real x, Real t, Real& slope) {
        const Real d = x - t;
        slope = 2 * d;
        return d * d;
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
huber_loss(Real* loss, DTYPE* gradient, Real* partials, uint32* counter, const DTYPE* x, const LABEL* targets, int64 size,
           const double* scale_at, double scale, double delta) {
    const Real bound = Real(delta);
    elementwise(loss, gradient, partials, counter, x, targets, size, scale_at, scale, [=](int64, Real x, Real t, Real& slope) {
        const Real d = x - t;
        slope = d < -bound ? -bound : d > bound ? bound : d;  // NaN is unchanged
        return slope * (d - slope / 2);
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
binary_cross_entropy(Real* loss, DTYPE* gradient, Real* partials, uint32* counter, const DTYPE* x, const LABEL* targets,
                     int64 size, const double* scale_at, double scale, const Real* pos_weight, int32 columns) {
    elementwise(loss, gradient, partials, counter, x, targets, size, scale_at, scale, [=](int64 i, Real x, Real t, Real& slope) {
        const Real p = pos_weight ? pos_weight[i % columns] : Real(1), v = 1 + (p - 1) * t;
        const Real e = exp(x < 0 ? x : -x);  // at most 1
        slope = v * ((x < 0 ? e : Real(1)) / (1 + e)) - p * t;
        return (1 - t) * x + v * (log1p(e) + (x < 0 ? -x : Real(0)));
    });
}
