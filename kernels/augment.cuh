// Random crops and colors of an image, as defined in backends/reference/batch.py: each operation on floats is rounded, none is
// fused.
#pragma once

#include "philox.cuh"
#include "reduce.cuh"

enum Substream : uint32 { OWN_FLIP = 1, COLORS = 2, MIX = 3, CROP = 4 };  // of AUGMENT; attempt i at a crop draws from CROP + i

// low + range * u, where u in [0, 1) comes from the word's upper 24 bits.
__device__ __forceinline__ float between(float low, float range, uint32 word) {
    return __fadd_rn(low, __fmul_rn(range, float(word >> 8) * 0x1p-24f));
}

// A whole number in [0, bound) from a random word.
__device__ __forceinline__ int32 below(int32 bound, uint32 word) { return int32(__umulhi(word, uint32(bound))); }

// The part of an image that is stretched to the image's size.
struct Crop {
    int32 top, left, rows, columns;
    int64 row_step, column_step;  // in 2^-32 of a pixel

    // smallest: the smallest share of the image's area that a crop may have; 0 leaves the image unchanged.
    static __device__ Crop draw(float smallest, int32 height, int32 width, uint64 block, uint64 seed) {
        Crop crop = {0, 0, height, width, int64(1) << 32, int64(1) << 32};
        if (smallest == 0) return crop;
        // If no attempt fits into the image, the crop is central, and its longer side is at most 4/3 of the shorter
        // one, rounded.
        crop.rows = min(int64(height), (8 * int64(width) + 3) / 6);
        crop.columns = min(int64(width), (8 * int64(height) + 3) / 6);
        crop.top = (height - crop.rows) / 2;
        crop.left = (width - crop.columns) / 2;
        for (int32 attempt = 0; attempt < 10; ++attempt) {
            const Words words = philox(block, AUGMENT, CROP + attempt, seed);
            const float area = __fmul_rn(between(smallest, 1.0f - smallest, words.at[0]), float(height * width));
            const float side = __fsqrt_rn(area);
            const float x = __fmul_rn(2.0f * between(0, 1, words.at[1]) - 1.0f, 0.14384103622589042f);  // log(4 / 3) / 2
            const float even = __fadd_rn(12.0f, __fmul_rn(x, x)), odd = __fmul_rn(6.0f, x);
            // The square root of width / height: exp(x), approximated.
            const float root = __fdiv_rn(__fadd_rn(even, odd), __fadd_rn(even, -odd));
            const int32 rows = __float2int_rn(__fdiv_rn(side, root)), columns = __float2int_rn(__fmul_rn(side, root));
            if (0 < rows && rows <= height && 0 < columns && columns <= width) {
                crop.rows = rows;
                crop.columns = columns;
                crop.top = below(height - rows + 1, words.at[2]);
                crop.left = below(width - columns + 1, words.at[3]);
                break;
            }
        }
        crop.row_step = (int64(crop.rows) << 32) / height;
        crop.column_step = (int64(crop.columns) << 32) / width;
        return crop;
    }
};

// The middle of step i along a side of `length` pixels lies between the pixels `first` and `second`. part: the weight
// of the second one, in 1/256.
struct Neighbors {
    int32 first, second, part;
    __device__ Neighbors(int32 i, int64 step, int32 length) {
        const int64 at = (i * step + step / 2 - (int64(1) << 31)) >> 24;
        const int32 inside = int32(max(int64(0), min(at, int64(256) * (length - 1))));
        first = inside >> 8;
        second = min(first + 1, length - 1);
        part = inside & 255;
    }
};

// factor * value + (1 - factor) * other, within the range of bytes.
__device__ __forceinline__ float blend(float factor, float value, float other) {
    const float sum = __fadd_rn(__fmul_rn(factor, value), __fmul_rn(__fsub_rn(1.0f, factor), other));
    return fminf(fmaxf(sum, 0.0f), 255.0f);
}

// A uint8 image after its crop and changes of color.
struct Picture {
    const uint8* image;
    int32 width, channels;
    Crop crop;
    float brightness, contrast, saturation;  // factors
    float mean;                              // the gray image's mean: contrast scales the differences from it
    bool rotates_hue;
    float sixths;  // the rotation of the hue, in sixths of a circle

    __device__ float cropped(int32 row, int32 column, int32 c) const {
        const Neighbors y(row, crop.row_step, crop.rows), x(column, crop.column_step, crop.columns);
        const uint8* const above = image + int64(crop.top + y.first) * width * channels + c;
        const uint8* const under = image + int64(crop.top + y.second) * width * channels + c;
        const int32 left = (crop.left + x.first) * channels, right = (crop.left + x.second) * channels;
        const int32 upper = (256 - x.part) * above[left] + x.part * above[right];
        const int32 lower = (256 - x.part) * under[left] + x.part * under[right];
        return float((256 - y.part) * upper + y.part * lower) * 0x1p-16f;
    }
    __device__ float bright(int32 row, int32 column, int32 c) const {
        return blend(brightness, cropped(row, column, c), 0.0f);
    }
    __device__ float contrasted(int32 row, int32 column, int32 c) const {
        return blend(contrast, bright(row, column, c), mean);
    }
    template <class Channel>
    __device__ float gray(Channel channel) const {
        if (channels == 1) return channel(0);
        const float sum = __fadd_rn(__fmul_rn(0.2989f, channel(0)), __fmul_rn(0.587f, channel(1)));
        return __fadd_rn(sum, __fmul_rn(0.114f, channel(2)));
    }
    // The mean gray of the bright image. The sum of the pixels' grays, in units of 2^-16, is exact in any order.
    __device__ float mean_gray(int32 height, int64* scratch) const {
        int64 total = 0;
        for (int32 pixel = threadIdx.x; pixel < height * width; pixel += blockDim.x) {
            const int32 row = pixel / width, column = pixel % width;
            total += int64(gray([&](int32 c) { return bright(row, column, c); }) * 0x1p16f);
        }
        return __fdiv_rn(float(reduce_block(total, Sum<int64>(), scratch)), float(height * width)) * 0x1p-16f;
    }
    __device__ float at(int32 row, int32 column, int32 c) const {
        if (rotates_hue && channels == 3) return rotated(row, column, c);
        const float value = contrasted(row, column, c);
        if (saturation == 1) return value;
        return blend(saturation, value, gray([&](int32 other) { return contrasted(row, column, other); }));
    }
    // Rotates the hue, as in HSV: the largest and the smallest of a pixel's numbers are unchanged. From a hue in sixths of a
    // circle, channel c is most - span * clamp(min(k, 4 - k), 0, 1), with k = (5 - 2 c + hue) mod 6.
    __device__ float rotated(int32 row, int32 column, int32 c) const {
        float rgb[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) rgb[i] = contrasted(row, column, i);
        const float own = gray([&](int32 i) { return rgb[i]; });
#pragma unroll
        for (int i = 0; i < 3; ++i) rgb[i] = saturation == 1 ? rgb[i] : blend(saturation, rgb[i], own);
        const float most = fmaxf(fmaxf(rgb[0], rgb[1]), rgb[2]), span = __fsub_rn(most, fminf(fminf(rgb[0], rgb[1]), rgb[2]));
        const float difference = most == rgb[0]   ? __fsub_rn(rgb[1], rgb[2])
                                 : most == rgb[1] ? __fsub_rn(rgb[2], rgb[0])
                                                  : __fsub_rn(rgb[0], rgb[1]);
        const float first = most == rgb[0] ? 0.0f : most == rgb[1] ? 2.0f : 4.0f;
        const float hue = __fadd_rn(__fadd_rn(first, __fdiv_rn(difference, span == 0 ? 1.0f : span)), sixths);
        const float angle = __fadd_rn(float(5 - 2 * c), hue);
        const float k = __fsub_rn(angle, __fmul_rn(6.0f, floorf(__fdiv_rn(angle, 6.0f))));
        return __fsub_rn(most, __fmul_rn(span, fminf(fmaxf(fminf(k, __fsub_rn(4.0f, k)), 0.0f), 1.0f)));
    }
};
