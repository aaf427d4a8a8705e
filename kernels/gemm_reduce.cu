// The second half of a product whose depth was split over blocks.
//
//   out[i] = act(bias[i mod columns] + partials[0, i] + partials[1, i] + ...), plus what out holds with `accumulate`
//
// and with more_size > 0 likewise a second output, whose sums lie behind the first's. partials (splits, pitch) of
// accumulators. A block takes 32 elements, a warp's lanes side by side; its warps deal the splits out
// among them, and the first adds up what each has found, in their order. The launcher chooses the warps by the number of
// splits, so the same shapes give the same bits on every device. splits * sizeof(accumulator) + sizeof(DTYPE) bytes an output.
//
// Macros: DTYPE; ACTIVATION. Prediction, not measured: partials of at most 64 MiB, mostly out of the L2 cache that the product
// has left them in; launch-bound below 1 MB.

#include "activation.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;

constexpr int MOST_WARPS = 8;

extern "C" __global__ void __launch_bounds__(256)
gemm_reduce_splits(DTYPE* out, DTYPE* more, const accumulator<DTYPE>* partials, const DTYPE* bias, int64 size,
                   int64 more_size, int64 pitch, int32 splits, int32 columns, int32 accumulate) {
    __shared__ Real sums[MOST_WARPS][32];
    const int32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int64 i = int64(blockIdx.x) * 32 + lane;
    Real sum = 0;
    if (i < size + more_size)
#pragma unroll 8
        for (int32 split = warp; split < splits; split += warps) sum += partials[split * pitch + i];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || i >= size + more_size) return;
    for (int32 other = 1; other < warps; ++other) sum += sums[other][lane];
    if (bias) sum += load(bias[i % columns]);
    sum = ACTIVATION<Real>{}.apply(sum);
    DTYPE* to = i < size ? out + i : more + (i - size);
    if (accumulate) sum += load(*to);
    *to = round_to<DTYPE>(sum);
}
