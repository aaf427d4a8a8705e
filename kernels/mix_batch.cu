// A batch in which each image is mixed with the one before it (the first with the last), and its class probabilities.
//
//   cut 0   y[n] = lambda * x[n] + (1 - lambda) * x[n - 1], each operation rounded, and the result rounded to DTYPE
//   cut 1   y[n] = x[n - 1] within a rectangle, x[n] elsewhere; lambda = 1 - the rectangle's part of the area
//   targets[n, c] = (lambda if c is labels[n], else 0) + (1 - lambda if c is labels[n - 1], else 0)
//
// x, y (N, H, W, C) DTYPE; labels (N,); targets (N, classes) float32. Philox block (AUGMENT, offset) of substream MIX gives
// lambda (one of the `lambdas` numbers of table) and the rectangle's center, as mix_batch of backends/reference does. offset is a
// number, or is read from device memory when the kernel runs. A label outside the classes makes its image's targets and the next
// image's NaN. `blocks` blocks of 256 threads share the elements of an image.
//
// Macros: DTYPE. Limits: fewer than 2^31 - 2^27 elements per image. Floor: per element sizeof(DTYPE) bytes read and as many
// written; with cut 0 also a read of the previous image's element, which the cache may still hold.

#include "augment.cuh"
#include "fast_divmod.cuh"

struct Mix {
    int32 height;
    FastDivmod width, channels;
    int32 lambdas, classes;  // their numbers
    int32 cut;               // 1: cut a rectangle; 0: mix all pixels
    int32 blocks;            // thread blocks per image
};

// The positions along an axis that the rectangle covers.
struct Span {
    int32 first, end;
    __device__ Span(float lambda, int32 size, uint32 word) {
        const int32 center = below(size, word), half = int32(__fmul_rn(0.5f * __fsqrt_rn(1.0f - lambda), float(size)));
        first = max(0, center - half);
        end = min(size, center + half);
    }
    __device__ bool has(int32 at) const { return first <= at && at < end; }
};

__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }

extern "C" __global__ void __launch_bounds__(256)
mix_batch(DTYPE* y, float* targets, const DTYPE* x, const int64* labels, const float* table, uint64 seed, const int64* offset_at,
          int64 offset, int64 images, Mix mix) {
    using Real = accumulator<DTYPE>;
    const int64 n = blockIdx.x / mix.blocks, before = n ? n - 1 : images - 1;
    const int32 part = blockIdx.x % mix.blocks;
    const int32 width = int32(mix.width.divisor), size = mix.height * width * int32(mix.channels.divisor);
    const Words words = philox(read_offset(offset_at, offset), AUGMENT, MIX, seed);
    float lambda = table[below(mix.lambdas, words.at[0])];
    const Span rows(lambda, mix.height, words.at[1]), columns(lambda, width, words.at[2]);
    if (mix.cut) {
        const int32 area = (rows.end - rows.first) * (columns.end - columns.first);
        lambda = 1.0f - __fdiv_rn(float(area), float(mix.height * width));
    }
    const float rest = 1.0f - lambda;
    if (part == 0) {
        const int64 own = labels[n], other = labels[before];
        const bool valid = 0 <= own && own < mix.classes && 0 <= other && other < mix.classes;
        for (int32 c = threadIdx.x; c < mix.classes; c += blockDim.x) {
            const float target = (c == own ? lambda : 0.0f) + (c == other ? rest : 0.0f);
            targets[n * mix.classes + c] = valid ? target : not_a_number();
        }
    }
    for (int32 e = part * blockDim.x + threadIdx.x; e < size; e += mix.blocks * blockDim.x) {
        const DTYPE own = x[n * size + e];
        if (mix.cut) {
            int32 c = e, w = mix.channels.divide(c);  // divide leaves the remainder in its argument: c, then w
            const int32 h = mix.width.divide(w);
            y[n * size + e] = rows.has(h) && columns.has(w) ? x[before * size + e] : own;
        } else {
            const Real other = load(x[before * size + e]);
            y[n * size + e] = round_to<DTYPE>(product(Real(lambda), load(own)) + product(Real(rest), other));
        }
    }
}
