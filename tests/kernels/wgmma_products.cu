// The wrappers of wgmma.cuh without a main loop, for test_wgmma.py and ci/gate/hopper_kernels/warpgroup.py: one
// warpgroup computes a product of (64, DEPTH) by (DEPTH, COLUMNS). Macros: DTYPE, COLUMNS.
#include "mbarrier.cuh"
#include "wgmma.cuh"

constexpr int DEPTH = 64;

__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

// Copies rows (ROWS, DEPTH) to an operand in shared memory.
template <class Layout, int ROWS>
__device__ void store_operand(unsigned char* operand, const DTYPE* rows) {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += 128)
        *reinterpret_cast<DTYPE*>(operand + Layout::offset(i / DEPTH, i % DEPTH)) = rows[i];
}

// sums (64, COLUMNS) += a (64, DEPTH) * b (COLUMNS, DEPTH) transposed.
template <Major A, Major B, Swizzle SWIZZLE>
__device__ void multiply(float32* sums, const DTYPE* a, const DTYPE* b, int32 shift_a, int32 shift_b) {
    using LayoutA = OperandLayout<A, SWIZZLE, 64, DEPTH>;
    using LayoutB = OperandLayout<B, SWIZZLE, COLUMNS, DEPTH>;
    unsigned char *operand_a = shared_memory() + shift_a, *operand_b = operand_a + LayoutA::BYTES + shift_b;
    store_operand<LayoutA, 64>(operand_a, a);
    store_operand<LayoutB, COLUMNS>(operand_b, b);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    // Where this thread's accumulator i belongs in sums.
    const auto at = [&](int i) { return (warp * 16 + g + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + t * 2 + i % 2; };
    float accumulators[COLUMNS / 8][4];
    for (int i = 0; i < COLUMNS / 2; ++i) accumulators[i / 4][i % 4] = sums[at(i)];
    fence_proxy_async();
    __syncthreads();
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16)
        multiply_add_async<DTYPE, A, B>(accumulators, LayoutA::descriptor(shared_address(operand_a), 0, k),
                                        LayoutB::descriptor(shared_address(operand_b), 0, k));
    wgmma_commit();
    wgmma_wait<0>();
    pin(accumulators);
    for (int i = 0; i < COLUMNS / 2; ++i) sums[at(i)] = accumulators[i / 4][i % 4];
}

template <Swizzle SWIZZLE>
__device__ void multiply_swizzled(float32* sums, const DTYPE* a, const DTYPE* b, int32 mn_major, int32 shift_a, int32 shift_b) {
    // To compile fast, only products of 64 columns are made for every swizzle.
    if constexpr (COLUMNS > 64 && SWIZZLE != Swizzle::BYTES_128) return;
    if (mn_major == 0) multiply<Major::K, Major::K, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (mn_major == 1) multiply<Major::K, Major::MN, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (mn_major == 2) multiply<Major::MN, Major::K, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (mn_major == 3) multiply<Major::MN, Major::MN, SWIZZLE>(sums, a, b, shift_a, shift_b);
}

// swizzle: its number in a descriptor. mn_major: 0 if both operands are K-major, 1 if only B is MN-major, 2 if only A is,
// 3 if both are. shift_a, shift_b: bytes by which an operand is moved away from an aligned address; 0 is correct.
extern "C" __global__ void __launch_bounds__(128)
product(float32* sums, const DTYPE* a, const DTYPE* b, int32 swizzle, int32 mn_major, int32 shift_a, int32 shift_b) {
    if (swizzle == 0) multiply_swizzled<Swizzle::NONE>(sums, a, b, mn_major, shift_a, shift_b);
    if (swizzle == 1) multiply_swizzled<Swizzle::BYTES_128>(sums, a, b, mn_major, shift_a, shift_b);
    if (swizzle == 2) multiply_swizzled<Swizzle::BYTES_64>(sums, a, b, mn_major, shift_a, shift_b);
    if (swizzle == 3) multiply_swizzled<Swizzle::BYTES_32>(sums, a, b, mn_major, shift_a, shift_b);
}

using Aligned = OperandLayout<Major::K, Swizzle::BYTES_128, 64, 64>;

// Multiplies the operand at the beginning of shared memory by the one that begins 16 * chunks bytes later. initialize: whether
// the first is filled with zeros before.
__device__ void multiply_shared(float32* sums, bool initialize, int32 chunks) {
    const uint64 first = Aligned::descriptor(shared_address(shared_memory()), 0, 0);
    if (initialize)
        for (int i = threadIdx.x; i < Aligned::BYTES / 4; i += 128) reinterpret_cast<float*>(shared_memory())[i] = 0;
    fence_proxy_async();
    __syncthreads();
    float zeros[8][4] = {};
    wgmma_fence();
    multiply_add_async<DTYPE, Major::K, Major::K>(zeros, first, first + chunks);  // fault
    wgmma_commit();
    wgmma_wait<0>();
    pin(zeros);
    sums[threadIdx.x] = zeros[0][0];
}

extern "C" __global__ void __launch_bounds__(128) different_descriptors(float32* sums) {
    multiply_shared(sums, true, threadIdx.x == 5 ? 2 : 0);
}
extern "C" __global__ void __launch_bounds__(128) reads_uninitialized_memory(float32* sums) {
    multiply_shared(sums, false, 0);
}
extern "C" __global__ void __launch_bounds__(128) reads_past_shared_memory(float32* sums) {
    multiply_shared(sums, true, 1 << 13);
}
