// float16 and bfloat16 on the CPU: storage of 16 bits, conversions that round to nearest even. Stands in for
// cuda_fp16.h and cuda_bf16.h; kernels compute in float, so there is no arithmetic here.
#pragma once

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __half2float(__half h) {
    const uint32_t sign = uint32_t(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude << 13));  // infinity, NaN
    // Moves exponent and fraction to their positions in a float, then corrects the exponent's bias by a factor 2^(127 - 15).
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

inline __half __float2half_rn(float f) {
    const uint32_t bits = __float_as_uint(f), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff))};  // NaN
    if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};                               // rounds to infinity
    if (magnitude < 0x38800000)  // below 2^-14: adding 1/2 leaves the rounded subnormal in the float's lowest bits
        return {uint16_t(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000))};
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return {uint16_t(sign | ((rounded - 0x38000000) >> 13))};
}

inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(uint32_t(h.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    const uint32_t bits = __float_as_uint(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t((bits >> 16) | 0x40)};  // a NaN stays a NaN
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// A double is rounded to the nearest 16-bit number by way of a float rounded to odd, which preserves ties.
inline float gpuconv_round_to_odd(double d) {
    const float f = float(d);
    if (double(f) == d || f != f || isinf(f)) return f;
    const uint32_t bits = __float_as_uint(f);
    const bool away = fabs(double(f)) > fabs(d);
    return __uint_as_float(away ? (bits - 1) | 1 : bits | 1);
}
inline __half __double2half(double d) { return __float2half_rn(gpuconv_round_to_odd(d)); }
inline __nv_bfloat16 __double2bfloat16(double d) { return __float2bfloat16_rn(gpuconv_round_to_odd(d)); }
