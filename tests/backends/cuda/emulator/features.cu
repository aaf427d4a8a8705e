// Kernels that use the features of CUDA that the emulated device offers, for test_emulator.py and test_address_sanitizer.py.
#include "types.cuh"

extern "C" __global__ void indices(int* out) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const int z = blockIdx.z * blockDim.z + threadIdx.z;
    const int width = gridDim.x * blockDim.x, height = gridDim.y * blockDim.y;
    int* row = out + 4 * ((z * height + y) * width + x);
    row[0] = x, row[1] = y, row[2] = z;
    row[3] = width * height * gridDim.z * blockDim.z;
}

// Writes and reads three variables by their addresses in shared memory.
extern "C" __global__ void variables_beside_dynamic_memory(int* y) {
    extern __shared__ __align__(1024) int dynamic[];
    __shared__ int first, second;
    int* const variables[3] = {dynamic, &first, &second};
    for (int i = 0; i < 3; ++i) *variables[i] = i + 1;
    for (int i = 0; i < 3; ++i) y[i] = *static_cast<int*>(gpuconv_shared_pointer(gpuconv_shared_address(variables[i])));
}

#ifdef FLOAT_ATOMIC
__device__ void add(float* x) { atomicAdd(x, 1.0f); }
#endif

template <class T, int N>
__device__ T tree_sum(T* values) {
    __shared__ T total;
    for (int half = N / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) total = values[0];
    __syncthreads();
    return total;
}
extern "C" __global__ void __launch_bounds__(128) block_sums(int* y, const int* x) {
    extern __shared__ int values[];
    __shared__ double wide[128];
    const int i = blockIdx.x * 128 + threadIdx.x;
    values[threadIdx.x] = x[i];
    wide[threadIdx.x] = x[i];
    __syncthreads();
    const int total = tree_sum<int, 128>(values);
    const double wide_total = tree_sum<double, 128>(wide);
    if (threadIdx.x == 0) y[2 * blockIdx.x] = total;
    if (threadIdx.x == 1) y[2 * blockIdx.x + 1] = int(wide_total);
}

extern "C" __global__ void block_votes(int* y, int below) {
    if (below < 0 && threadIdx.x == 0) return;
    const int count = __syncthreads_count(threadIdx.x < below);
    const int any = __syncthreads_or(threadIdx.x == 7), all = __syncthreads_and(threadIdx.x != 8);
    if (threadIdx.x == 95) y[0] = count, y[1] = any, y[2] = all;
}

extern "C" __global__ void shuffles(double* y, int width) {
    const int n = blockDim.x, t = threadIdx.x;
    const double value = t;
    y[t] = __shfl_sync(~0u, value, 3, width);
    y[n + t] = __shfl_up_sync(~0u, value, 1, width);
    y[2 * n + t] = __shfl_down_sync(~0u, value, 2, width);
    y[3 * n + t] = __shfl_xor_sync(~0u, value, 1, width);
}

extern "C" __global__ void warp_votes(unsigned* y) {
    const int lane = threadIdx.x % 32;
    unsigned ballot;
    if (lane < 16) ballot = __ballot_sync(0x0000ffff, lane % 2 == 0);
    else ballot = __ballot_sync(0xffff0000, lane % 2 == 0);
    y[threadIdx.x] = ballot;
    y[64 + threadIdx.x] = __any_sync(~0u, lane == 31);
    y[128 + threadIdx.x] = __all_sync(~0u, lane != 31);
}

extern "C" __global__ void atomics(int* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&y[0], 1);
    atomicSub(&y[1], 1);
    atomicMin(&y[2], i - 5);
    atomicMax(&y[3], i - 5);
    atomicCAS(&y[4], 0, 1);
    atomicAdd(reinterpret_cast<unsigned*>(&y[5]), 1u);
}

// Each block writes a partial sum. The block that finishes last adds the partial sums in the order of the blocks.
extern "C" __global__ void last_block(int* y, int* partial, unsigned* finished) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = blockIdx.x;
        __threadfence();
        last = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += partial[i];
        y[0] = sum;
    }
}

extern "C" __global__ void float16_to_float(float* y, const uint16* x) {
    y[global_thread()] = load(reinterpret_cast<const float16*>(x)[global_thread()]);
}
extern "C" __global__ void bfloat16_to_float(float* y, const uint16* x) {
    y[global_thread()] = load(reinterpret_cast<const bfloat16*>(x)[global_thread()]);
}
extern "C" __global__ void float_to_float16(uint16* y, const float* x) {
    reinterpret_cast<float16*>(y)[global_thread()] = round_to<float16>(x[global_thread()]);
}
extern "C" __global__ void float_to_bfloat16(uint16* y, const float* x) {
    reinterpret_cast<bfloat16*>(y)[global_thread()] = round_to<bfloat16>(x[global_thread()]);
}
extern "C" __global__ void double_to_float16(uint16* y, const double* x) {
    reinterpret_cast<float16*>(y)[global_thread()] = __double2half(x[global_thread()]);
}
extern "C" __global__ void double_to_bfloat16(uint16* y, const double* x) {
    reinterpret_cast<bfloat16*>(y)[global_thread()] = __double2bfloat16(x[global_thread()]);
}

extern "C" __global__ void odds_and_ends(double* y) {
    const float4 four = make_float4(1, 2, 3, 4);
    y[0] = four.x + four.y + four.z + four.w;
    y[1] = __popc(0x1111u);
    y[2] = __clz(0x1fffffff);
    y[3] = __clz(1);
    y[4] = __clz(0);
    y[5] = __brev(1u);
    y[6] = __float_as_uint(1.0f);
    y[7] = rsqrtf(4.0f);
    y[8] = max(7, 3u);
    y[9] = min(-2.5, 1);
    y[10] = __umulhi(0xffffffffu, 0xffffffffu);
    y[11] = __funnelshift_l(0x12345678u, 0x56789ab0u, 0) + 1;
}
