// Kernels with bulk copies and stmatrix, some correct, the others with one fault each; for test_bulk_copies.py, test_stmatrix.py,
// test_tensor_maps.py and tests/standin/test_tensor_maps.py.
#include "bulk_copy.cuh"
#include "stmatrix.cuh"

enum Fault {
    NONE, EXPECTS_LESS, EXPECTS_LESS_OF_TWO, EXPECTS_MORE, EACH_WARP_LOADS, NO_INIT_FENCE, READS_TOO_EARLY, NO_PROXY_FENCE,
    OVERWRITES_SOURCE, ENDS_TOO_EARLY, LOAD_NOT_WAITED_FOR, MISALIGNED_SOURCE, PAST_THE_ARRAY
};

// y = 2 x. Each block has 128 threads, and doubles TILES tiles of 128 numbers, loaded into two buffers in turn.
template <Fault FAULT>
__device__ void doubles(float* y, const float* x) {
    constexpr int TILES = 4, TILE = 128, BYTES = TILE * sizeof(float);
    __shared__ alignas(16) float in[2][TILE];
    __shared__ alignas(16) float out[TILE];
    __shared__ Mbarrier full[2];
    const int i = threadIdx.x;
    x += blockIdx.x * TILES * TILE, y += blockIdx.x * TILES * TILE;
    if (i == 0) {
        for (int s = 0; s < 2; ++s) mbarrier_init(&full[s], 1);
        if (FAULT != NO_INIT_FENCE) fence_mbarrier_init();
    }
    __syncthreads();
    const auto load = [&](int t) {
        constexpr int EXPECTED = FAULT == EXPECTS_LESS ? BYTES / 2 : FAULT == EXPECTS_MORE ? BYTES + 16 : BYTES;
        const float* from = x + t * TILE + (FAULT == MISALIGNED_SOURCE ? 1 : 0) + (FAULT == PAST_THE_ARRAY && t == 3 ? TILE : 0);
        if (i == 0) mbarrier_arrive_expecting(&full[t % 2], EXPECTED);
        if (FAULT == EXPECTS_LESS_OF_TWO) {
            if (i == 0) bulk_load(in[t % 2], from, BYTES, &full[t % 2]);
            if (i == 0) bulk_load(out, from, BYTES, &full[t % 2]);
        } else if (FAULT == EACH_WARP_LOADS ? i % 32 == 0 : i == 0) {
            bulk_load(in[t % 2], from, BYTES, &full[t % 2]);
        }
    };
    load(0);
    for (int t = 0; t < TILES; ++t) {
        if (t + 1 < TILES) load(t + 1);
        if (FAULT != READS_TOO_EARLY) mbarrier_wait(&full[t % 2], t / 2 % 2);
        if (FAULT != OVERWRITES_SOURCE && i == 0) bulk_wait_read<0>();
        __syncthreads();
        out[i] = 2 * in[t % 2][i];
        if (FAULT != NO_PROXY_FENCE || i != 5) fence_proxy_async();
        __syncthreads();
        if (i == 0) bulk_store(y + t * TILE, out, BYTES);
        if (i == 0) bulk_commit();
    }
    if (FAULT == LOAD_NOT_WAITED_FOR) load(0);
    if (FAULT != ENDS_TOO_EARLY && i == 0) bulk_wait<0>();
}

extern "C" __global__ void __launch_bounds__(128) correct(float* y, const float* x) { doubles<NONE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) expects_less(float* y, const float* x) { doubles<EXPECTS_LESS>(y, x); }
extern "C" __global__ void __launch_bounds__(128) expects_less_of_two(float* y, const float* x) { doubles<EXPECTS_LESS_OF_TWO>(y, x); }
extern "C" __global__ void __launch_bounds__(128) expects_more(float* y, const float* x) { doubles<EXPECTS_MORE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) each_warp_loads(float* y, const float* x) { doubles<EACH_WARP_LOADS>(y, x); }
extern "C" __global__ void __launch_bounds__(128) no_init_fence(float* y, const float* x) { doubles<NO_INIT_FENCE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) reads_too_early(float* y, const float* x) { doubles<READS_TOO_EARLY>(y, x); }
extern "C" __global__ void __launch_bounds__(128) no_proxy_fence(float* y, const float* x) { doubles<NO_PROXY_FENCE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) overwrites_source(float* y, const float* x) { doubles<OVERWRITES_SOURCE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) ends_too_early(float* y, const float* x) { doubles<ENDS_TOO_EARLY>(y, x); }
extern "C" __global__ void __launch_bounds__(128) load_not_waited_for(float* y, const float* x) { doubles<LOAD_NOT_WAITED_FOR>(y, x); }
extern "C" __global__ void __launch_bounds__(128) misaligned_source(float* y, const float* x) { doubles<MISALIGNED_SOURCE>(y, x); }
extern "C" __global__ void __launch_bounds__(128) past_the_array(float* y, const float* x) { doubles<PAST_THE_ARRAY>(y, x); }

// Loads the box at coordinates (c, w, h) of an array of 16-bit numbers, writes the bytes in shared memory to `lines`, and stores the
// box to `copy`.
extern "C" __global__ void __launch_bounds__(128) boxes(uint16* lines, const __grid_constant__ TensorMap map,
                                                        const __grid_constant__ TensorMap copy, int bytes, int shift, int c, int w,
                                                        int h) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ Mbarrier full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expecting(&full, bytes);
        tensor_load(memory + shift, map, &full, {c, w, h});
    }
    __syncthreads();
    mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < bytes / 2; i += 128) lines[i] = reinterpret_cast<uint16*>(memory + shift)[i];
    if (threadIdx.x == 0) {
        tensor_store(copy, memory + shift, {c, w, h});
        bulk_commit();
        bulk_wait<0>();
    }
}

// The fault: two coordinates for the map of x, which has three dimensions.
extern "C" __global__ void __launch_bounds__(32) two_coordinates(const uint16* x, const __grid_constant__ TensorMap map) {
    __shared__ alignas(128) uint16 tile[64];
    __shared__ Mbarrier full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        tensor_load(tile, map, &full, {0, 0});
    }
}

// The fault: the box does not fit into the last 1024 bytes of shared memory.
extern "C" __global__ void __launch_bounds__(32) past_shared_memory(const uint16* x, const __grid_constant__ TensorMap map, int bytes) {
    extern __shared__ __align__(1024) unsigned char memory[];
    if (threadIdx.x == 0) tensor_store(map, memory + bytes - 1024, {0, 0, 0});
}

// y: four 8 x 8 matrices of 16-bit numbers, stored directly and transposed. fragments: each lane's part of them.
extern "C" __global__ void __launch_bounds__(32) matrices(uint32* y, const uint32* fragments) {
    __shared__ alignas(16) uint32 rows[2][32][4];
    const int lane = threadIdx.x;
    const uint32 from[4] = {fragments[4 * lane], fragments[4 * lane + 1], fragments[4 * lane + 2], fragments[4 * lane + 3]};
    store_matrices<false>(rows[0][lane], from);
    store_matrices<true>(rows[1][lane], from);
    __syncwarp();
    for (int transposed = 0; transposed < 2; ++transposed)
        for (int i = 0; i < 4; ++i) y[(transposed * 32 + lane) * 4 + i] = rows[transposed][lane][i];
}
