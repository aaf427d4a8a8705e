// The wrappers of wgmma.cuh by themselves, for test_wgmma.py: one warpgroup. Macros DTYPE; COLUMNS: the columns.
#include "mbarrier.cuh"
#include "wgmma.cuh"

constexpr int DEPTH = 64;

__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

// Copies rows (ROWS, DEPTH) to shared memory.
template <class Layout, int ROWS>
__device__ void put(unsigned char* operand, const DTYPE* rows) {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += 128)
        *reinterpret_cast<DTYPE*>(operand + Layout::offset(i / DEPTH, i % DEPTH)) = rows[i];
}

// sums (64, COLUMNS) += a (64, DEPTH) * b (COLUMNS, DEPTH) transposed.
template <Major A, Major B, Swizzle SWIZZLE>
__device__ void multiply(float32* sums, const DTYPE* a, const DTYPE* b, int32 shift_a, int32 shift_b) {
    using LayoutA = OperandLayout<A, SWIZZLE, 64, DEPTH>;
    using LayoutB = OperandLayout<B, SWIZZLE, COLUMNS, DEPTH>;
    unsigned char *operand_a = shared_memory() + shift_a, *operand_b = operand_a + LayoutA::BYTES + shift_b;
    put<LayoutA, 64>(operand_a, a);
    put<LayoutB, COLUMNS>(operand_b, b);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const auto at = [&](int i) { return (warp * 16 + g + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + t * 2 + i % 2; };
    float own[COLUMNS / 8][4];
    for (int i = 0; i < COLUMNS / 2; ++i) own[i / 4][i % 4] = sums[at(i)];
    fence_proxy_async();
    __syncthreads();
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16)
        multiply_add_async<DTYPE, A, B>(own, LayoutA::descriptor(shared_address(operand_a), 0, k),
                                        LayoutB::descriptor(shared_address(operand_b), 0, k));
    wgmma_commit();
    wgmma_wait<0>();
    pin(own);
    for (int i = 0; i < COLUMNS / 2; ++i) sums[at(i)] = own[i / 4][i % 4];
}

template <Swizzle SWIZZLE>
__device__ void majors(float32* sums, const DTYPE* a, const DTYPE* b, int32 which, int32 shift_a, int32 shift_b) {
    if constexpr (COLUMNS > 64 && SWIZZLE != Swizzle::BYTES_128) return;  // 64 columns show all swizzles
    if (which == 0) multiply<Major::K, Major::K, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (which == 1) multiply<Major::K, Major::MN, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (which == 2) multiply<Major::MN, Major::K, SWIZZLE>(sums, a, b, shift_a, shift_b);
    if (which == 3) multiply<Major::MN, Major::MN, SWIZZLE>(sums, a, b, shift_a, shift_b);
}

// swizzle: its number in a descriptor. which: 2 if A is MN-major, plus 1 if B is. shift_a, shift_b: bytes by which an operand is
// moved from where it should be.
extern "C" __global__ void __launch_bounds__(128)
product(float32* sums, const DTYPE* a, const DTYPE* b, int32 swizzle, int32 which, int32 shift_a, int32 shift_b) {
    if (swizzle == 0) majors<Swizzle::NONE>(sums, a, b, which, shift_a, shift_b);
    if (swizzle == 1) majors<Swizzle::BYTES_128>(sums, a, b, which, shift_a, shift_b);
    if (swizzle == 2) majors<Swizzle::BYTES_64>(sums, a, b, which, shift_a, shift_b);
    if (swizzle == 3) majors<Swizzle::BYTES_32>(sums, a, b, which, shift_a, shift_b);
}

using Aligned = OperandLayout<Major::K, Swizzle::BYTES_128, 64, 64>;

// Multiplies the beginning of shared memory with what is `further` 16 bytes behind it.
__device__ void multiply_itself(float32* sums, bool written, int32 further) {
    const uint64 own = Aligned::descriptor(shared_address(shared_memory()), 0, 0);
    if (written)
        for (int i = threadIdx.x; i < Aligned::BYTES / 4; i += 128) reinterpret_cast<float*>(shared_memory())[i] = 0;
    fence_proxy_async();
    __syncthreads();
    float zeros[8][4] = {};
    wgmma_fence();
    multiply_add_async<DTYPE, Major::K, Major::K>(zeros, own, own + further);  // fault
    wgmma_commit();
    wgmma_wait<0>();
    pin(zeros);
    sums[threadIdx.x] = zeros[0][0];
}

extern "C" __global__ void __launch_bounds__(128) unlike_descriptors(float32* sums) {
    multiply_itself(sums, true, threadIdx.x == 5 ? 2 : 0);
}
extern "C" __global__ void __launch_bounds__(128) reads_what_nothing_wrote(float32* sums) { multiply_itself(sums, false, 0); }
extern "C" __global__ void __launch_bounds__(128) reads_past_shared_memory(float32* sums) { multiply_itself(sums, true, 1 << 13); }
