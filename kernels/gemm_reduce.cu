// The second launch of a product with split-K.
//
//   out[i] = act(bias[i mod columns] + partials[0, i] + partials[1, i] + ...), plus the previous out, with `accumulate`
//
// If out is a slice of a wider volume's channels, `gap` other elements follow each row of its `columns` elements in memory.
// With second_size > 0 there is a second output, whose partial sums follow the first's. partials (splits, pitch), of accumulators. A
// block computes 1024 outputs: 256 lanes, each WIDTH neighboring outputs at a time. It has up to four groups of 256 threads,
// which divide the splits among them; the first group adds the groups' sums in order. The number of groups depends only on the
// number of splits, so the same splits give the same bits on every device.
//
// Macros: DTYPE; ACTIVATION; WIDTH: 16 / sizeof(accumulator) where sizes, alignment and the gap allow, else 1. Limits: none.
// Floor: splits * sizeof(accumulator) + sizeof(DTYPE) bytes and splits FLOPs per output.

#include "activation.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;

constexpr int LANES = 256, OUTPUTS = 1024, MAX_GROUPS = 4;
constexpr int PACKS = OUTPUTS / (LANES * WIDTH);  // per lane

extern "C" __global__ void __launch_bounds__(LANES * MAX_GROUPS, 1)
gemm_reduce_splits(DTYPE* out, DTYPE* second, const accumulator<DTYPE>* partials, const DTYPE* bias, int64 size,
                   int64 second_size, int64 pitch, int32 splits, int32 columns, int64 gap, int32 accumulate) {
    __shared__ Pack<Real, WIDTH> group_sums[MAX_GROUPS - 1][PACKS][LANES];
    const int32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES, groups = blockDim.x / LANES;
    const int64 first = int64(blockIdx.x) * OUTPUTS + lane * WIDTH, end = size + second_size;
    Pack<Real, WIDTH> sums[PACKS] = {};
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int64 i = first + pack * (LANES * WIDTH);
        if (i < end) {
            const Real* from = partials + group * pitch + i;
#pragma unroll 4
            for (int32 split = group; split < splits; split += groups, from += groups * pitch) {
                const auto part = *reinterpret_cast<const Pack<Real, WIDTH>*>(from);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sums[pack].at[j] += part.at[j];
            }
        }
        if (group > 0) group_sums[group - 1][pack][lane] = sums[pack];
    }
    __syncthreads();
    if (group > 0) return;
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int64 i = first + pack * (LANES * WIDTH);
        if (i >= end) return;
        auto* to = reinterpret_cast<Pack<DTYPE, WIDTH>*>(i < size ? out + i + (gap ? i / columns * gap : 0) : second + (i - size));
        Pack<DTYPE, WIDTH> finished;
        if (accumulate) finished = *to;
        int32 column = bias ? int32(i % columns) : 0;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            Real sum = sums[pack].at[j];
            for (int32 other = 1; other < groups; ++other) sum += group_sums[other - 1][pack][lane].at[j];
            if (bias) {
                sum += load(bias[column]);
                column = column + 1 < columns ? column + 1 : 0;
            }
            sum = ACTIVATION<Real>{}.apply(sum);
            if (accumulate) sum += load(finished.at[j]);
            finished.at[j] = round_to<DTYPE>(sum);
        }
        *to = finished;
    }
}
