// Matrix products of a warp on tensor cores, and the loads of their operands (sm_80).
//
//   uint32 a[4], b[4];
//   load_matrices<false>(a, &tile_a[...]);   // ldmatrix.x4: each lane passes the address of one row of 16 bytes
//   load_matrices<true>(b, &tile_b[...]);    // transposes each 8 x 8 matrix of 16-bit numbers
//   multiply_add<float16>(sums, a, b[0], b[2]);
//
// load_matrices loads four 8 x 8 matrices of 16-bit numbers. Lanes 8m to 8m + 7 pass the addresses of matrix m's rows. Lane l
// receives in to[m] the numbers 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, or if transposed of column l / 4. If rows hold four
// 32-bit numbers, that is number l % 4.
//
// multiply_add<T>: sums (16 x 8) += a (16 x depth) * b (depth x 8). The depth is 16 for halves and 8 for float32, whose numbers
// must be rounded to TF32 (tf32_bits). A register holds two halves or one float32. With g = lane / 4 and t = lane % 4, it holds
// the numbers 2t and 2t + 1 (halves) or the number t (float32) of one half of the depth:
//   a[0], a[1]   rows g and g + 8, lower half of the depth
//   a[2], a[3]   rows g and g + 8, upper half of the depth
//   b0, b1       column g, lower and upper half of the depth
//   sums[0..3]   (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8".) All lanes of a warp take part. Products are exact; how
// a tensor core rounds their sum to float32 is not documented, but does not change from run to run. The emulated device sums in
// double.
#pragma once

#include "types.cuh"

template <class T> constexpr bool is_bfloat16 = false;
template <> constexpr bool is_bfloat16<bfloat16> = true;

#ifdef GPUCONV_EMULATOR

namespace emulated {

struct alignas(16) Row {
    uint32 words[4];
};
struct Matrices {
    Row in;
    uint32* to;
};

template <bool TRANSPOSED>
GPUCONV_UNCHECKED inline void exchange(void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < 4; ++m) {
            auto row = [&](int i) { return reinterpret_cast<const uint16*>(static_cast<Matrices*>(lanes[8 * m + i])->in.words); };
            uint32& to = static_cast<Matrices*>(lanes[lane])->to[m];
            const int g = lane / 4, t = lane % 4;
            if (TRANSPOSED) to = row(2 * t)[g] | uint32(row(2 * t + 1)[g]) << 16;
            else to = row(g)[2 * t] | uint32(row(g)[2 * t + 1]) << 16;
        }
}

struct Factors {
    const uint32 *a, *b;
    float* sums;
};

// Number i of a register: a 16-bit number, or a float32 without the bits that TF32 does not have.
template <class T>
GPUCONV_UNCHECKED inline float number(uint32 bits, int i) {
    if constexpr (sizeof(T) == 4) return __uint_as_float(bits & 0xffffe000);
    else return load(T{uint16(bits >> 16 * i)});
}

template <class T>
GPUCONV_UNCHECKED inline void multiply(void* const* lanes) {
    constexpr int PER = 4 / sizeof(T), DEPTH = 8 * PER;
    float a[16][DEPTH], b[DEPTH][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = *static_cast<Factors*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; ++half)
            for (int i = 0; i < PER; ++i) {
                const int depth = half * DEPTH / 2 + t * PER + i;
                a[g][depth] = number<T>(own.a[2 * half], i);
                a[g + 8][depth] = number<T>(own.a[2 * half + 1], i);
                b[depth][g] = number<T>(own.b[half], i);
            }
    }
    for (int row = 0; row < 16; ++row) {
        double sums[8] = {};
        for (int depth = 0; depth < DEPTH; ++depth)
            for (int column = 0; column < 8; ++column) sums[column] += double(a[row][depth]) * b[depth][column];
        for (int column = 0; column < 8; ++column) {
            float& sum = static_cast<Factors*>(lanes[row % 8 * 4 + column / 2])->sums[row / 8 * 2 + column % 2];
            sum = float(sum + sums[column]);
        }
    }
}

}  // namespace emulated

#endif

template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32 (&to)[4], const void* row) {
#ifdef GPUCONV_EMULATOR
    emulated::Matrices own{*static_cast<const emulated::Row*>(row), to};
    gpuconv_together(&own, emulated::exchange<TRANSPOSED>, {__FILE__, __LINE__});
#else
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
#endif
}

template <class T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
#ifdef GPUCONV_EMULATOR
    const uint32 b[2] = {b0, b1};
    emulated::Factors own{a, b, sums};
    gpuconv_together(&own, emulated::multiply<T>, {__FILE__, __LINE__});
#else
#define GPUCONV_MMA(shape)                                                                                  \
    asm("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (sizeof(T) == 4) GPUCONV_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
    else if constexpr (is_bfloat16<T>) GPUCONV_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
    else GPUCONV_MMA("m16n8k16.row.col.f32.f16.f16.f32");
#undef GPUCONV_MMA
#endif
}

// The bits of a float32 rounded to TF32, ties away from zero, for multiply_add, which ignores the last 13 bits. Adds 2^-11 of the
// number's power of two, half of TF32's spacing. This keeps NaN and infinities without a comparison. Subnormal numbers are rounded
// toward zero.
__device__ __forceinline__ uint32 tf32_bits(uint32 bits) {
    const float power = __uint_as_float(bits & 0xff800000);
    return __float_as_uint(fma(power, 0x1p-11f, __uint_as_float(bits)));
}
