// A batch from a uint8 data set in device memory: gather by the shuffled order, augmentation and normalization in one pass.
//
//   x[n, h, w, c] = (float32(pixel) - mean) * (1 / std), or 0 where cutout covers the pixel, or where a shift without `reflect`
//                   moves it in from outside the image
//   y[n]          = labels[indices[start + n]]
//
// images (M, H, W, C) uint8; x (N, H, W, C) DTYPE. The four words of Philox block (AUGMENT, offset + n) give the flip, both
// shifts and the cutout's center, as backends/reference/batch.py states; an alternating flip is drawn from the block at the
// image's index. The arithmetic is the reference's, and so are the bits. mean and std have one number per channel, or one per
// element of an image. offset and start are numbers, or are read from device memory when the kernel runs, so that each replay of a
// captured step loads the next batch. A position past the indices, or an index outside the data set, makes its sample NaN and its
// label -1, because reporting an error would need a synchronization. `blocks` blocks of 256 threads share the elements of a sample.
//
// Macros: DTYPE; FULL: 1 with crops and colors (augment.cuh), 0 without. A change of contrast needs the mean of a whole image, so
// `blocks` must be 1. Limits: fewer than 2^31 - 2^27 elements per sample.
// Floor, per element: 1 byte read, sizeof(DTYPE) written, 3 FLOPs, one of them a division. With FULL also interpolations of four
// pixels with some 13 FLOPs each: 1, or 4 if the saturation of three channels changes, or 3 and some 40 FLOPs more if the hue
// does; a change of contrast adds 1.

#include "augment.cuh"
#include "fast_divmod.cuh"

struct Batch {
    int64 images, indices;  // their numbers
    int32 height;
    FastDivmod width, channels;
    int32 mean_each, std_each;  // whether there is one for each element, not for each channel
    int32 flip;                 // a Flip, or 0 for none
    int32 shift;                // the most pixels that an image is shifted, in either direction
    int32 reflect;              // whether a shift mirrors the image at its edges, instead of moving in zeros
    int32 cutout;               // the side of the square of zeros; 0: none
    int32 blocks;               // thread blocks per sample
    float smallest;             // the smallest share of the image's area that a crop may have; 0: no crop
    // Factors of brightness, contrast and saturation, and the rotation of the hue, as a part of a circle. Each is low + range * u
    // with u random in [0, 1); low 1 and range 0 leave brightness, contrast and saturation unchanged, 0 and 0 the hue.
    float low[4], range[4];
};

enum Flip : int32 { RANDOM = 1, ALTERNATING = 2 };

// A position outside the image, mirrored at the first or the last one; a position inside is unchanged. It may lie outside by less
// than `size`.
__device__ __forceinline__ int32 reflected(int32 position, int32 size) { return size - 1 - abs(size - 1 - abs(position)); }

__device__ __forceinline__ int32 shift_of(uint32 word, int32 shift) {
    return int32(__umulhi(word, uint32(2 * shift + 1))) - shift;
}

extern "C" __global__ void __launch_bounds__(256)
load_batch(DTYPE* x, int64* y, const uint8* images, const int64* labels, const int64* indices, const float* mean,
           const float* std, uint64 seed, const int64* offset_at, int64 offset, const int64* start_at, int64 start,
           Batch batch) {
    const int64 n = blockIdx.x / batch.blocks;
    const int32 part = blockIdx.x % batch.blocks;
    const int64 position = (start_at ? *start_at : start) + n;
    const int64 index = 0 <= position && position < batch.indices ? indices[position] : -1;
    const bool valid = 0 <= index && index < batch.images;
    if (part == 0 && threadIdx.x == 0) y[n] = valid ? labels[index] : -1;

    const int32 width = int32(batch.width.divisor), channels = int32(batch.channels.divisor);
    const Words words = philox(read_offset(offset_at, offset) + uint64(n), AUGMENT, 0, seed);
    bool flipped = batch.flip == RANDOM && words.at[0] >> 31;
    if (batch.flip == ALTERNATING && valid) {
        const int64 epoch = int64(read_offset(offset_at, offset) + uint64(n)) / batch.images;
        flipped = (philox(uint64(index), AUGMENT, OWN_FLIP, seed).at[0] >> 31) != (epoch & 1);
    }
    const int32 dy = shift_of(words.at[1], batch.shift), dx = shift_of(words.at[2], batch.shift);
    const int32 top = int32((words.at[3] >> 16) * uint64(batch.height) >> 16) - batch.cutout / 2;
    const int32 left = int32((words.at[3] & 0xffff) * uint64(width) >> 16) - batch.cutout / 2;

    const int32 size = batch.height * width * channels;
    const uint8* const image = images + index * size;
#if FULL
    __shared__ int64 scratch[32];
    const uint64 block = read_offset(offset_at, offset) + uint64(n);
    const Words drawn = philox(block, AUGMENT, COLORS, seed);
    float factors[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) factors[i] = between(batch.low[i], batch.range[i], drawn.at[i]);
    const Crop crop = Crop::draw(batch.smallest, batch.height, width, block, seed);
    Picture picture = {image, width, channels, crop, factors[0], factors[1], factors[2], 0.0f, batch.range[3] != 0,
                       6.0f * factors[3]};
    if (valid && (batch.low[1] != 1 || batch.range[1] != 0)) picture.mean = picture.mean_gray(batch.height, scratch);
#endif
    for (int32 e = part * blockDim.x + threadIdx.x; e < size; e += batch.blocks * blockDim.x) {
        int32 c = e, w = batch.channels.divide(c);  // divide leaves the remainder in its argument: c, then w
        const int32 h = batch.width.divide(w);
        int32 row = h + dy, column = w + dx;
        if (batch.reflect) {
            row = reflected(row, batch.height);
            column = reflected(column, width);
        }
        const bool cut = h >= top && h < top + batch.cutout && w >= left && w < left + batch.cutout;
        float value = 0;
        if (!valid) {
            value = not_a_number();
        } else if (!cut && 0 <= row && row < batch.height && 0 <= column && column < width) {
            const int32 source = flipped ? width - 1 - column : column;
#if FULL
            const float byte = picture.at(row, source, c);
#else
            const float byte = image[(row * width + source) * channels + c];
#endif
            value = (byte - mean[batch.mean_each ? e : c]) * (1.0f / std[batch.std_each ? e : c]);
        }
        x[n * size + e] = round_to<DTYPE>(accumulator<DTYPE>(value));
    }
}
