// A ring of stages between a producer and two consumer warpgroups: a correct kernel, and kernels with one fault each; for
// ci/gate/hopper_kernels/ring.py and for test_warpgroups.py, which looks up the lines that end in `// producer` and `// consumer`.
// The call in each kernel is on a line of its own: NVRTC 12.0 may crash on a call beside the opening brace (kernels/README.md).
#include "add_tile.cuh"
#include "async_copy.cuh"
#include "mbarrier.cuh"
#include "types.cuh"
#include "warpgroup.cuh"

constexpr int STAGES = 3;

enum Fault {
    NONE, NO_WAIT_FOR_WGMMA, RELEASED_TOO_EARLY, READ_TOO_EARLY, WRITTEN_TOO_EARLY, WRITTEN_AFTER_FENCE, NO_WGMMA_FENCE, NO_PROXY_FENCE,
    PROXY_FENCE_TOO_EARLY, NO_RELEASE, ARRIVES_TWICE, WRONG_PARITY, UNINITIALIZED, NO_BARRIER_AFTER_INIT, INITIALIZED_TWICE, STALE,
    OVERWRITTEN_BARRIER, BARRIER_AS_MEMORY, NO_ARRIVALS, ONE_LANE_LESS, TWO_PLACES, LANE_EXITED, TOO_MANY_REGISTERS,
    RAISES_BY_LOWERING, NOT_COMMITTED, NO_WAIT_FOR_COPIES, NO_WAIT_FOR_FULL
};

// y: 2 x TILE numbers a block. Each consumer warpgroup writes the sum of `tiles` tiles of x to its half.
template <Fault FAULT>
__device__ void ring(float* y, const float* x, int tiles) {
    __shared__ alignas(16) float stages[STAGES][TILE];
    __shared__ Mbarrier full[STAGES];
    __shared__ Mbarrier empty[STAGES];
    const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 128;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            // min(tiles, 0) is 0; NVRTC 13.0 crashes if the number of arrivals is a constant 0.
            if (FAULT != UNINITIALIZED || s != 1) mbarrier_init(&full[s], FAULT == NO_ARRIVALS ? min(tiles, 0) : 128);
            mbarrier_init(&empty[s], 2);
        }
        if (FAULT == INITIALIZED_TWICE) mbarrier_init(&full[2], 128);
        fence_mbarrier_init();
    }
    if (FAULT != NO_BARRIER_AFTER_INIT) __syncthreads();
    if (FAULT == OVERWRITTEN_BARRIER && threadIdx.x == 0) {
        uint64* memory = reinterpret_cast<uint64*>(full);
        memory[1] = 5;
    }
    if (FAULT == BARRIER_AS_MEMORY && threadIdx.x == 300) y[0] = float(full[1].state);
    if (FAULT == STALE && threadIdx.x == 0) mbarrier_invalidate(&full[2]);
    if (FAULT == LANE_EXITED && threadIdx.x == 133) return;

    if (warpgroup == 0) {
#ifdef GPUCONV_EMULATOR  // ptxas refuses it
        if (FAULT == RAISES_BY_LOWERING) give_registers<240>();
#endif
        if (FAULT != RAISES_BY_LOWERING) give_registers<40>();
        for (int t = 0; t < tiles; ++t) {
            const int s = t % STAGES;
            mbarrier_wait(&empty[s], t / STAGES % 2 ^ (FAULT == WRONG_PARITY ? 0 : 1));  // producer
            copy_async<16>(&stages[s][4 * lane], x + int64(t) * TILE + 4 * lane);
            commit_copies();
            if (FAULT == PROXY_FENCE_TOO_EARLY) fence_proxy_async();
            if (FAULT != NO_WAIT_FOR_COPIES) wait_for_copies<0>();
            if (FAULT != NO_PROXY_FENCE && FAULT != PROXY_FENCE_TOO_EARLY) fence_proxy_async();
            mbarrier_arrive(&full[s]);
            if (FAULT == ARRIVES_TWICE && threadIdx.x == 7) mbarrier_arrive(&full[s]);
        }
        return;
    }
    take_registers<FAULT == TOO_MANY_REGISTERS ? 240 : 232>();
    float sums[4] = {};
    for (int t = 0; t < tiles; ++t) {
        const int s = t % STAGES;
        if (FAULT != NO_WAIT_FOR_FULL || warpgroup != 2) mbarrier_wait(&full[s], t / STAGES % 2);  // consumer
        if (FAULT == ONE_LANE_LESS && threadIdx.x == 133) continue;
        if (FAULT != NO_WGMMA_FENCE) wgmma_fence();
        if (FAULT == WRITTEN_AFTER_FENCE && threadIdx.x == 133) sums[1] += 1;
        if (FAULT == TWO_PLACES && threadIdx.x == 133) add_tile(sums, stages[s]);
        else add_tile(sums, stages[s]);
        if (FAULT != NOT_COMMITTED) wgmma_commit();
        if (FAULT == READ_TOO_EARLY && threadIdx.x == 133 && t == 1) y[0] = sums[2];
        if (FAULT == WRITTEN_TOO_EARLY && threadIdx.x == 133 && t == 1) sums[2] = 0;
        wgmma_wait<1>();
        if (FAULT == RELEASED_TOO_EARLY) {
            if (lane == 0) mbarrier_arrive(&empty[s]);
        } else if (t > 0 && lane == 0 && (FAULT != NO_RELEASE || warpgroup != 2)) {
            mbarrier_arrive(&empty[(t - 1) % STAGES]);
        }
    }
    if (FAULT != NO_WAIT_FOR_WGMMA) wgmma_wait<0>();
    for (int i = 0; i < 4; ++i) y[(2 * blockIdx.x + warpgroup - 1) * TILE + 4 * lane + i] = sums[i];
}

extern "C" __global__ void __launch_bounds__(384, 1) correct(float* y, const float* x, int tiles) {
    ring<NONE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_wait_for_wgmma(float* y, const float* x, int tiles) {
    ring<NO_WAIT_FOR_WGMMA>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) released_too_early(float* y, const float* x, int tiles) {
    ring<RELEASED_TOO_EARLY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) read_too_early(float* y, const float* x, int tiles) {
    ring<READ_TOO_EARLY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) written_too_early(float* y, const float* x, int tiles) {
    ring<WRITTEN_TOO_EARLY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) written_after_fence(float* y, const float* x, int tiles) {
    ring<WRITTEN_AFTER_FENCE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_wgmma_fence(float* y, const float* x, int tiles) {
    ring<NO_WGMMA_FENCE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_proxy_fence(float* y, const float* x, int tiles) {
    ring<NO_PROXY_FENCE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) proxy_fence_too_early(float* y, const float* x, int tiles) {
    ring<PROXY_FENCE_TOO_EARLY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_release(float* y, const float* x, int tiles) {
    ring<NO_RELEASE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) arrives_twice(float* y, const float* x, int tiles) {
    ring<ARRIVES_TWICE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) wrong_parity(float* y, const float* x, int tiles) {
    ring<WRONG_PARITY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) uninitialized(float* y, const float* x, int tiles) {
    ring<UNINITIALIZED>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_barrier_after_init(float* y, const float* x, int tiles) {
    ring<NO_BARRIER_AFTER_INIT>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) initialized_twice(float* y, const float* x, int tiles) {
    ring<INITIALIZED_TWICE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) stale(float* y, const float* x, int tiles) {
    ring<STALE>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) overwritten_barrier(float* y, const float* x, int tiles) {
    ring<OVERWRITTEN_BARRIER>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) barrier_as_memory(float* y, const float* x, int tiles) {
    ring<BARRIER_AS_MEMORY>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_arrivals(float* y, const float* x, int tiles) {
    ring<NO_ARRIVALS>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) one_lane_less(float* y, const float* x, int tiles) {
    ring<ONE_LANE_LESS>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) two_places(float* y, const float* x, int tiles) {
    ring<TWO_PLACES>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) lane_exited(float* y, const float* x, int tiles) {
    ring<LANE_EXITED>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) too_many_registers(float* y, const float* x, int tiles) {
    ring<TOO_MANY_REGISTERS>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) raises_by_lowering(float* y, const float* x, int tiles) {
    ring<RAISES_BY_LOWERING>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) not_committed(float* y, const float* x, int tiles) {
    ring<NOT_COMMITTED>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_wait_for_copies(float* y, const float* x, int tiles) {
    ring<NO_WAIT_FOR_COPIES>(y, x, tiles);
}
extern "C" __global__ void __launch_bounds__(384, 1) no_wait_for_full(float* y, const float* x, int tiles) {
    ring<NO_WAIT_FOR_FULL>(y, x, tiles);
}

// y: 128 numbers a block. One warpgroup copies four tiles of x; when its copies end, they arrive at the mbarrier by themselves. The
// other warpgroup adds up the tiles, and each of its threads then adds up four neighboring numbers of the sum.
template <bool FENCE, bool CORRECT_COUNT>
__device__ void copies_arrive(float* y, const float* x) {
    __shared__ alignas(16) float stages[2][TILE];
    __shared__ Mbarrier full[2];
    __shared__ Mbarrier empty[2];
    const int lane = threadIdx.x % 128;
    if (threadIdx.x == 0)
        for (int s = 0; s < 2; ++s) mbarrier_init(&full[s], CORRECT_COUNT ? 128 : 64), mbarrier_init(&empty[s], 1);
    __syncthreads();
    float sums[4] = {};
    for (int t = 0; t < 4; ++t) {
        const int s = t % 2;
        if (threadIdx.x < 128) {
            while (!mbarrier_try_wait(&empty[s], t / 2 % 2 ^ 1)) continue;
            copy_async<16>(&stages[s][4 * lane], x + t * TILE + 4 * lane);
            mbarrier_arrive_after_copies(&full[s]);
            continue;
        }
        mbarrier_wait(&full[s], t / 2 % 2);
        if (FENCE) fence_proxy_async();
        wgmma_fence();
        add_tile(sums, stages[s]);
        wgmma_commit();
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(&empty[s]);
    }
    if (threadIdx.x >= 128) y[blockIdx.x * 128 + lane] = sums[0] + sums[1] + sums[2] + sums[3];
}
extern "C" __global__ void __launch_bounds__(256) copies_arrive_correctly(float* y, const float* x) {
    copies_arrive<true, true>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_without_fence(float* y, const float* x) {
    copies_arrive<false, true>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_arrive_too_often(float* y, const float* x) {
    copies_arrive<true, false>(y, x);
}

// y[i] = x[i ^ 127] + round, for two rounds: the threads of a warpgroup exchange x through shared memory, with a named barrier of their
// own that serves in both rounds. The mbarrier is invalidated and initialized again in the same memory.
template <bool SYNC, bool WHOLE>
__device__ void exchange(float* y, const float* x) {
    __shared__ float tile[256];
    __shared__ Mbarrier once;
    const int i = threadIdx.x;
    if (i == 0) {
        mbarrier_init(&once, 1);
        mbarrier_invalidate(&once);
        mbarrier_init(&once, 256);
    }
    __syncthreads();
    for (int round = 0; round < 2; ++round) {
        tile[i] = x[i] + round;
        if (SYNC) {
            if (i < 128) warps_sync<1>(128);
            else if (WHOLE || i != 200) warps_sync<2>(128);
        }
        y[blockIdx.x * 512 + round * 256 + i] = tile[i ^ 127];
        mbarrier_arrive(&once);
        mbarrier_wait(&once, round);
    }
}
extern "C" __global__ void __launch_bounds__(256) exchanged(float* y, const float* x) {
    exchange<true, true>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) exchanged_without_barrier(float* y, const float* x) {
    exchange<false, true>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) exchanged_without_a_thread(float* y, const float* x) {
    exchange<true, false>(y, x);
}

// Whether the barrier's phase has ended, before and after the only arrival.
extern "C" __global__ void __launch_bounds__(32) tries_twice(int32* ended) {
    __shared__ Mbarrier barrier;
    if (threadIdx.x != 0) return;
    mbarrier_init(&barrier, 1);
    ended[0] = mbarrier_try_wait(&barrier, 0);
    mbarrier_arrive(&barrier);
    ended[1] = mbarrier_try_wait(&barrier, 0);
}
