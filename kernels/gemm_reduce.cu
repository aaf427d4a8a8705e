// The second half of a product whose depth was split over blocks.
//
//   out[i] = act(bias[i mod columns] + partials[0, i] + partials[1, i] + ...), plus what out holds with `accumulate`
//
// partials (splits, size) of accumulators, added in that order, so that the same shapes give the same bits on every device.
// One thread an element; neighbours read neighbours. splits * sizeof(accumulator) + sizeof(DTYPE) bytes an output.
//
// Macros: DTYPE; ACTIVATION.

#include "activation.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;

extern "C" __global__ void __launch_bounds__(256)
gemm_reduce_splits(DTYPE* out, const accumulator<DTYPE>* partials, const DTYPE* bias, int64 size, int32 splits, int32 columns,
                   int32 accumulate) {
    for (int64 i = global_thread(); i < size; i += global_threads()) {
        Real sum = 0;
#pragma unroll 8
        for (int32 split = 0; split < splits; ++split) sum += partials[split * size + i];
        if (bias) sum += load(bias[i % columns]);
        sum = ACTIVATION<Real>{}.apply(sum);
        if (accumulate) sum += load(out[i]);
        out[i] = round_to<DTYPE>(sum);
    }
}
