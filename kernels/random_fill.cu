// Uniform and normal numbers and permutations from Philox, bit for bit those of gpuconv/random.py.
//
//   random_uniform      y[i] = low + range * (word_i >> 8) * 2^-24
//   random_normal       y[i] = mean + std * inverse_normal_cdf((word_i + 0.5) * 2^-32), AS 241 with our own logarithm
//   random_permutation  order[i] = image of i under a Feistel bijection of 0..n-1, by cycle walking
//
// Numbers are computed in double, by operations that IEEE 754 defines to the last bit and intrinsics that the compiler may not
// contract to fused multiply-adds. A thread computes one Philox block, four numbers; of the permutation one number.
//
// Macros: DTYPE. Limits: none. Floor: sizeof(DTYPE) bytes written per number; a normal one takes some 40 operations in double.

#include "philox.cuh"

namespace {

__device__ __forceinline__ double horner(const double* coefficients, int count, double x) {
    double sum = coefficients[0];
    for (int i = 1; i < count; ++i) sum = __dadd_rn(__dmul_rn(sum, x), coefficients[i]);
    return sum;
}

// Natural logarithm of a positive normal number: x = m 2^e, m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) / (m + 1)).
__device__ __forceinline__ double exact_log(double x) {
    constexpr double ATANH[12] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                   1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    const int64 bits = __double_as_longlong(x);
    int exponent = int(bits >> 52) - 1022;  // as frexp: the fraction is in [1/2, 1)
    double m = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3fe0000000000000ll);
    if (m < 0.7071067811865475244) {
        m = __dadd_rn(m, m);
        --exponent;
    }
    const double s = __ddiv_rn(__dadd_rn(m, -1.0), __dadd_rn(m, 1.0));
    return __dadd_rn(__dmul_rn(double(exponent), 0.6931471805599453094),
                     __dmul_rn(__dadd_rn(s, s), horner(ATANH, 12, __dmul_rn(s, s))));
}

// Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND16, for p in [2^-33, 1 - 2^-33].
__device__ __forceinline__ double inverse_normal_cdf(double p) {
    constexpr double CENTER_TOP[8] = {2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
                                      4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
                                      1.3314166789178437745e2, 3.3871328727963666080e0};
    constexpr double CENTER_BOTTOM[8] = {5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
                                         2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
                                         4.2313330701600911252e1, 1.0};
    constexpr double TAIL_TOP[8] = {7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                                    1.27045825245236838258e0,  3.64784832476320460504e0,  5.76949722146069140550e0,
                                    4.63033784615654529590e0,  1.42343711074968357734e0};
    constexpr double TAIL_BOTTOM[8] = {1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
                                       1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
                                       2.05319162663775882187e0,  1.0};
    const double q = __dadd_rn(p, -0.5);
    if (fabs(q) <= 0.425) {
        const double r = __dadd_rn(0.180625, -__dmul_rn(q, q));
        return __dmul_rn(q, __ddiv_rn(horner(CENTER_TOP, 8, r), horner(CENTER_BOTTOM, 8, r)));
    }
    const double r = __dadd_rn(__dsqrt_rn(-exact_log(fmin(p, __dadd_rn(1.0, -p)))), -1.6);
    return copysign(__ddiv_rn(horner(TAIL_TOP, 8, r), horner(TAIL_BOTTOM, 8, r)), q);
}

// Doubles reach half precision by way of float32, as in random.py.
__device__ __forceinline__ DTYPE store_drawn(double value) {
    return round_to<DTYPE>(accumulator<DTYPE>(value));
}

template <class Draw>
__device__ __forceinline__ void fill(DTYPE* y, int64 n, uint64 seed, uint32 stream, uint32 substream, int64 offset, Draw draw) {
    for (int64 block = global_thread(); block * 4 < n; block += global_threads()) {
        const Words words = philox(uint64(offset + block), stream, substream, seed);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (block * 4 + i < n) y[block * 4 + i] = store_drawn(draw(words.at[i]));
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
random_uniform(DTYPE* y, int64 n, double low, double range, uint64 seed, uint32 stream, uint32 substream, int64 offset) {
    fill(y, n, seed, stream, substream, offset,
         [=](uint32 word) { return __dadd_rn(low, __dmul_rn(range, __dmul_rn(double(word >> 8), 0x1p-24))); });
}

extern "C" __global__ void __launch_bounds__(256)
random_normal(DTYPE* y, int64 n, double mean, double std, uint64 seed, uint32 stream, uint32 substream, int64 offset) {
    fill(y, n, seed, stream, substream, offset, [=](uint32 word) {
        return __dadd_rn(mean, __dmul_rn(std, inverse_normal_cdf(__dmul_rn(__dadd_rn(double(word), 0.5), 0x1p-32))));
    });
}

// The Feistel network of random.py over Z_a x Z_b, a * b >= n: twelve rounds, repeated until the value is below n.
extern "C" __global__ void __launch_bounds__(256)
random_permutation(int64* order, int64 n, int64 a, int64 b, uint64 seed, uint32 stream, uint32 epoch) {
    for (int64 i = global_thread(); i < n; i += global_threads()) {
        uint64 value = uint64(i);
        do {
            uint64 half[2] = {value / uint64(b), value % uint64(b)};
            const uint64 moduli[2] = {uint64(a), uint64(b)};
#pragma unroll
            for (int round = 0; round < 12; ++round) {
                const int side = round % 2;
                const uint64 counter = half[1 - side] | uint64(round) << 32;
                const uint64 word = philox(counter, stream, epoch, seed).at[0];
                half[side] = (half[side] + (word * moduli[side] >> 32)) % moduli[side];
            }
            value = half[0] * uint64(b) + half[1];
        } while (value >= uint64(n));
        order[i] = int64(value);
    }
}
