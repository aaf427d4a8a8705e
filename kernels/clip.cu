// Gradient clipping, between the loss scale's step and the optimizer.
//
//   clip_norm_factor   clipped = scaling, with clipped[1] = scaling[1] * min(1, max_norm / (norm + 1e-6)); norm: scaling[1]
//                      times the root of the sum of the squares of all gradients, in double. A null scaling stands for
//                      {1, 1, 0, 0}. A norm that is not finite gives NaN, so that the optimizer's result shows it. If
//                      scaling[1] is 0, so is clipped[1]
//   clip_values_limit  each gradient g becomes min(max(g, -limit), limit), limit = clip_value / scaling[1], or clip_value if
//                      scaling is null; NaN stays. If scaling[1] is 0 nothing changes
//
// extents: the gradients, see extent.cuh. partials: a double for each block. done: the number of blocks done, zero before and
// after. The last block to finish adds up the partials in a fixed order, so the result does not depend on which one that is.
//
// Macros: none. Limits: none.
// Floor: the bytes of the gradients, read once, and per number 2 FLOPs in double (clip_norm_factor) or 2 comparisons
// (clip_values_limit, which also writes the gradients once).
#include "extent.cuh"
#include "last_block.cuh"
#include "optimizer_inputs.cuh"
#include "reduce.cuh"

template <class T>
__device__ __forceinline__ double sum_of_squares(const Extent& extent) {
    double sum = 0;
    each_number<T, false>(extent, [&](T number) { sum = fma(double(load(number)), double(load(number)), sum); });
    return sum;
}

extern "C" __global__ void __launch_bounds__(256, 2)
clip_norm_factor(double* clipped, const double* scaling, double* partials, uint32* done, const Extent* extents,
                 double max_norm) {
    __shared__ double scratch[32];
    const Extent extent = extents[blockIdx.x];
    double sum;
    switch (extent.kind) {
        case 0: sum = sum_of_squares<float16>(extent); break;
        case 1: sum = sum_of_squares<bfloat16>(extent); break;
        case 2: sum = sum_of_squares<float32>(extent); break;
        default: sum = sum_of_squares<float64>(extent); break;
    }
    sum = reduce_block(sum, Sum<double>(), scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
    if (!is_last_block(done)) return;
    double total = 0;
    for (uint32 i = threadIdx.x; i < gridDim.x; i += blockDim.x) total += __ldcg(partials + i);
    total = reduce_block(total, Sum<double>(), scratch);
    if (threadIdx.x != 0) return;
    const double unscale = read_unscale(scaling), norm = unscale * sqrt(total);
    const bool finite = norm - norm == 0;
    const double factor = finite ? fmin(1.0, max_norm / (norm + 1e-6)) : norm - norm;
    clipped[0] = scaling ? scaling[0] : 1;
    clipped[1] = unscale == 0 ? 0 : unscale * factor;
    clipped[2] = scaling ? scaling[2] : 0;
    clipped[3] = scaling ? scaling[3] : 0;
}

template <class T>
__device__ __forceinline__ void limit_numbers(const Extent& extent, double limit) {
    using Real = accumulator<T>;
    const Real bound = Real(limit);
    each_number<T, true>(extent, [&](T& number) {
        const Real value = load(number);
        number = value > bound ? round_to<T>(bound) : value < -bound ? round_to<T>(-bound) : number;
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
clip_values_limit(const double* scaling, const Extent* extents, double clip_value) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    const Extent extent = extents[blockIdx.x];
    const double limit = clip_value / unscale;
    switch (extent.kind) {
        case 0: limit_numbers<float16>(extent, limit); break;
        case 1: limit_numbers<bfloat16>(extent, limit); break;
        case 2: limit_numbers<float32>(extent, limit); break;
        default: limit_numbers<float64>(extent, limit); break;
    }
}
