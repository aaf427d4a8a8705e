// Kernels for test_planted_faults.py and others. Each has one fault, except `correct`. Where a single thread has the fault, it is
// thread (5, 0, 0) of block (1, 0, 0). Where only a checked run names the line of the fault, that line ends in
// `// fault`, and test_planted_faults.py looks up its number.
#include "async_copy.cuh"
#include "types.cuh"

__device__ bool culprit() { return blockIdx.x == 1 && threadIdx.x == 5; }

extern "C" __global__ void correct(float* y, const float* x) {
    __shared__ alignas(16) float tile[64];
    copy_async<4>(&tile[threadIdx.x], &x[global_thread()]);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    y[global_thread()] = tile[63 - threadIdx.x];
}

extern "C" __global__ void reads_past_the_end(float* y, const float* x) {
    y[global_thread()] = x[global_thread() + (culprit() ? 64 : 0)];  // fault
}
extern "C" __global__ void reads_before_the_start(float* y, const float* x) {
    y[global_thread()] = x[culprit() ? -1 : 0];  // fault
}
extern "C" __global__ void writes_past_the_end(float* y, const float* x) {
    y[global_thread() + (culprit() ? 64 : 0)] = x[0];  // fault
}
extern "C" __global__ void writes_nowhere(float* y, const float* x) {
    y[culprit() ? 1ll << 40 : global_thread()] = x[0];  // fault
}
extern "C" __global__ void reads_a_null_pointer(float* y, const float* x) {
    const float* p = culprit() ? nullptr : x;
    y[global_thread()] = *p;  // fault
}
extern "C" __global__ void reads_freed_memory(float* y, const unsigned long long* addresses) {
    const float* p = reinterpret_cast<const float*>(addresses[0]);
    y[global_thread()] = culprit() ? p[3] : 0;  // fault
}
extern "C" __global__ void writes_past_shared_memory(float* y, const float* x) {
    extern __shared__ float tile[];
    tile[threadIdx.x + (culprit() ? 59 : 0)] = x[0];  // fault
    y[global_thread()] = tile[threadIdx.x];
}
extern "C" __global__ void indexes_past_a_local_array(float* y, const float* x) {
    float local[4] = {x[0], x[1], x[2], x[3]};
    y[global_thread()] = local[culprit() ? 4 : 0];  // fault
}
extern "C" __global__ void reads_unwritten_shared_memory(float* y, const float* x) {
    __shared__ float tile[64];
    if (!culprit()) tile[threadIdx.x] = x[global_thread()];
    y[global_thread()] = tile[threadIdx.x];  // fault
}
extern "C" __global__ void misaligned_vector(float* y, const float* x) {
    const float4 four = *reinterpret_cast<const float4*>(x + (culprit() ? 1 : 4));  // fault
    y[global_thread()] = four.x + four.w;
}
extern "C" __global__ void copy_not_waited_for(float* y, const float* x) {
    __shared__ float tile[64];
    copy_async<4>(&tile[threadIdx.x], &x[global_thread()]);
    commit_copies();
    if (!culprit()) wait_for_copies<0>();
    y[global_thread()] = tile[threadIdx.x];  // fault
}
extern "C" __global__ void copy_not_committed(float* y, const float* x) {
    __shared__ float tile[64];
    copy_async<4>(&tile[threadIdx.x], &x[global_thread()]);
    if (!culprit()) commit_copies();
    wait_for_copies<0>();
    y[global_thread()] = tile[threadIdx.x];  // fault
}
extern "C" __global__ void misaligned_copy(float* y, const float* x) {
    __shared__ alignas(16) float tile[128];
    copy_async<8>(&tile[2 * threadIdx.x + (culprit() ? 1 : 0)], x);
    y[global_thread()] = 0;
}
extern "C" __global__ void copy_of_too_many_bytes(float* y, const float* x) {
    __shared__ float tile[64];
    copy_async<4>(&tile[threadIdx.x], x, culprit() ? 8 : 4);
    y[global_thread()] = 0;
}
extern "C" __global__ void shared_race(float* y, const float* x) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[global_thread()];
    __syncthreads();
    const float before = tile[threadIdx.x];
    if (culprit()) tile[0] = before;  // fault
    y[global_thread()] = before;
}
extern "C" __global__ void race_between_warps(float* y, const float* x) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[global_thread()];
    __syncwarp();
    float sum = tile[threadIdx.x ^ 1];  // no race: the warp is synchronized
    if (culprit()) sum += tile[threadIdx.x + 32];  // fault
    __syncthreads();
    y[global_thread()] = sum;
}
extern "C" __global__ void race_between_blocks(float* y, const float* x) {
    y[culprit() ? 5 : global_thread()] = x[global_thread()];  // fault
}
extern "C" __global__ void barrier_not_reached(float* y, const float* x) {
    if (culprit()) return;
    __syncthreads();  // fault
    y[global_thread()] = x[0];
}
extern "C" __global__ void two_barriers(float* y, const float* x) {
    if (culprit()) __syncthreads();
    else __syncthreads();  // fault
    y[global_thread()] = x[0];
}
extern "C" __global__ void shuffle_not_reached(float* y, const float* x) {
    float sum = x[threadIdx.x];
    if (!culprit()) sum += __shfl_xor_sync(0xffffffff, sum, 1);  // fault
    __syncthreads();
    y[global_thread()] = sum;
}
extern "C" __global__ void shuffle_from_an_idle_lane(float* y, const float* x) {
    float value = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) value = __shfl_sync(0xffff, value, culprit() ? 16 : 0);  // fault
    y[global_thread()] = value;
}
extern "C" __global__ void shuffle_without_its_own_lane(float* y, const float* x) {
    y[global_thread()] = __shfl_sync(culprit() ? 1u : ~0u, x[0], 0);  // fault
}
extern "C" __global__ void failed_assertion(float* y, const float* x) {
    assert(!culprit());  // fault
    y[global_thread()] = x[0];
}
extern "C" __global__ void divides_by_zero(float* y, const float* x) {
    y[global_thread()] = 100 / (int(x[global_thread()]) - 69);  // fault
}
extern "C" __global__ void calls_a_null_function(float* y, const float* x) {
    float (*volatile function)(float) = culprit() ? nullptr : sqrtf;
    y[global_thread()] = function(x[0]);
}
__device__ int descend(volatile int* above, int levels) {
    volatile int here[1024];
    here[0] = above[0] + levels;
    return levels ? descend(here, levels - 1) + here[0] : here[0];
}
extern "C" __global__ void runs_over_its_stack(float* y, const float* x) {
    volatile int one[1] = {1};
    y[global_thread()] = x[0] + descend(one, culprit() ? 1000 : 1);
}
