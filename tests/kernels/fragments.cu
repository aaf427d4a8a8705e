// The wrappers of mma.cuh by themselves, for test_mma.py and test_bank_conflicts.py: one warp, operands from global memory or
// through shared memory.
#include "mma.cuh"

constexpr int PER = 4 / sizeof(DTYPE), DEPTH = 8 * PER;  // PER: the numbers in a 32-bit register

__device__ uint32 pack(const DTYPE* from, int stride) {
    uint32 bits = 0;
    for (int i = 0; i < PER; ++i) {
        const DTYPE number = from[i * stride];
        if constexpr (sizeof(DTYPE) == 4) bits = tf32_bits(__float_as_uint(load(number)));
        else bits |= uint32(reinterpret_cast<const uint16&>(number)) << 16 * i;
    }
    return bits;
}

// sums (16, 8) += a (16, DEPTH) * b (DEPTH, 8). Each lane holds the elements that the PTX ISA assigns to it.
extern "C" __global__ void product(float32* sums, const DTYPE* a, const DTYPE* b) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32 rows[4], columns[2];
    for (int half = 0; half < 2; ++half) {
        const int depth = half * DEPTH / 2 + t * PER;
        rows[2 * half] = pack(a + g * DEPTH + depth, 1);
        rows[2 * half + 1] = pack(a + (g + 8) * DEPTH + depth, 1);
        columns[half] = pack(b + depth * 8 + g, 8);
    }
    float own[4];
    for (int i = 0; i < 4; ++i) own[i] = sums[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    multiply_add<DTYPE>(own, rows, columns[0], columns[1]);
    for (int i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = own[i];
}

extern "C" __global__ void rounded_to_tf32(uint32* bits, int32 count) {
    for (int32 i = threadIdx.x; i < count; i += 32) bits[i] = tf32_bits(bits[i]) & 0xffffe000;
}

// from: four matrices of 8 rows of 8 numbers. straight, transposed (32 lanes, 4 matrices, 2 numbers): what each lane receives when
// the matrices are loaded directly, and when they are loaded transposed.
extern "C" __global__ void matrices(uint16* straight, uint16* transposed, const uint16* from) {
    __shared__ alignas(16) uint16 tile[32][8];
    for (int i = 0; i < 8; ++i) tile[threadIdx.x][i] = from[threadIdx.x * 8 + i];
    __syncwarp();
    uint32 to[4];
    load_matrices<false>(to, tile[threadIdx.x]);
    for (int i = 0; i < 8; ++i) straight[threadIdx.x * 8 + i] = uint16(to[i / 2] >> 16 * (i % 2));
    load_matrices<true>(to, tile[threadIdx.x]);
    for (int i = 0; i < 8; ++i) transposed[threadIdx.x * 8 + i] = uint16(to[i / 2] >> 16 * (i % 2));
}

extern "C" __global__ void without_a_lane(float32* sums) {
    float own[4] = {};
    const uint32 none[4] = {};
    if (threadIdx.x != 5) multiply_add<DTYPE>(own, none, 0, 0);  // fault
    sums[threadIdx.x] = own[0];
}

// Each lane writes and reads the word number lane * stride, for a test of bank conflicts.
extern "C" __global__ void strided(float32* to, int32 stride) {
    __shared__ float32 words[32 * 33];
    volatile float32* word = &words[threadIdx.x * stride];
    *word = 1;
    to[threadIdx.x] = *word;
}
