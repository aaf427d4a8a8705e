// The interface between a kernel's library and the emulator's runtime.
//
// A .cu file becomes one shared library (device.h comes first in it), the runtime another (runtime.h). The kernel
// library calls the functions below for everything that involves more than its own thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace gpuconv_emulator {

// The values of CUDA's built-in variables. `gpuconv_context` points to those of the running block; `thread` is rewritten whenever
// another thread of the block runs.
struct Context {
    uint3 thread{}, block{};
    dim3 block_size, grid_size;
};

struct Site {  // a position in a .cu file
    const char* file;
    int line;
};

// Operations of a warp. TOGETHER: a function that is called once, with the data of all 32 lanes, such as mma.sync.
enum Collective : int { SYNC, SHUFFLE, VOTE, TOGETHER };

// Operations of the 128 lanes of a warpgroup.
enum class Step : int { FENCE, MULTIPLY, COMMIT, WAIT, MORE_REGISTERS, FEWER_REGISTERS };

// A wgmma as issued by each lane of the warpgroup.
struct Wgmma {
    const void* operands;  // of a type that only `reads` and `multiply` know; copied at the issue
    size_t operand_bytes;
    void* sums;  // the lane's accumulators; poisoned until the wait
    size_t sum_bytes;
    // Calls `touch` for all shared memory that the instruction reads. operands: those of the first lane.
    void (*reads)(const void* operands, void (*touch)(const void* address, size_t bytes));
    // Computes the products; called between the issue and the end of the wait. operands, sums: a pointer for each lane.
    void (*multiply)(const void* const* operands, void* const* sums);
};

struct Lanes {  // what a warp-wide operation returns to each lane
    uint64_t value;   // of the source lane; 0 unless the operation is a shuffle
    unsigned ballot;  // the lanes whose value was not zero
    unsigned active;  // the lanes that took part
};

}  // namespace gpuconv_emulator

#if defined(__ELF__)
#define GPUCONV_TLS __attribute__((tls_model("initial-exec")))
#else
#define GPUCONV_TLS
#endif

extern "C" {
extern thread_local gpuconv_emulator::Context* gpuconv_context GPUCONV_TLS;

// Waits for the whole block; returns the number of threads whose predicate is not 0.
unsigned gpuconv_barrier(int predicate, gpuconv_emulator::Site site);
// Waits for the lanes in `mask`. source: the lane whose value a shuffle returns.
gpuconv_emulator::Lanes gpuconv_warp(gpuconv_emulator::Collective operation, unsigned mask, uint64_t value,
                                     unsigned source, gpuconv_emulator::Site site);
// Waits for all 32 lanes of the warp, then calls `work` once with the lanes' pointers before any lane continues.
void gpuconv_together(void* data, void (*work)(void* const* lanes), gpuconv_emulator::Site site);
// The address of a __shared__ variable in this block. key: an address that is unique to the declaration.
void* gpuconv_shared(const void* key, const char* name, size_t bytes, size_t alignment);
void* gpuconv_dynamic_shared(size_t alignment);
// The address of shared memory as instructions take it: 18 bits, counted from the beginning of the block's window.
unsigned gpuconv_shared_address(const void* pointer);
void* gpuconv_shared_pointer(unsigned address);
// Starts an asynchronous copy of `valid` bytes of `source`, then of zeros up to `bytes`.
void gpuconv_copy_async(void* destination, const void* source, size_t bytes, size_t valid);
void gpuconv_copy_commit();
void gpuconv_copy_wait(int groups_that_may_be_pending);
void gpuconv_fence();

// --- sm_90: mbarriers, warpgroups and the async proxy --------------------------------------------
void gpuconv_mbarrier_init(void* barrier, unsigned arrivals, gpuconv_emulator::Site site);
void gpuconv_mbarrier_invalidate(void* barrier, gpuconv_emulator::Site site);
// Adds `bytes` to the expected bytes of the phase, then arrives `arrivals` times.
void gpuconv_mbarrier_arrive(void* barrier, unsigned arrivals, unsigned bytes, gpuconv_emulator::Site site);
// Arrives once all asynchronous copies that this thread has started have taken effect.
void gpuconv_mbarrier_arrive_after_copies(void* barrier, gpuconv_emulator::Site site);
// Waits for the end of the phase with this parity, and returns 1. With `once` it may return 0 before that.
int gpuconv_mbarrier_wait(void* barrier, unsigned parity, int once, gpuconv_emulator::Site site);
void gpuconv_mbarrier_fence_init();
void gpuconv_proxy_fence();
// A bulk copy: a call for each of its pieces, then a call that loads or stores them all. With a null `global` a piece loads
// zeros, or stores nothing.
void gpuconv_bulk_piece(void* shared, void* global, size_t bytes);
void gpuconv_bulk_load(void* barrier, gpuconv_emulator::Site site);
void gpuconv_bulk_store(gpuconv_emulator::Site site);
void gpuconv_bulk_commit();
void gpuconv_bulk_wait(int groups_that_may_be_pending);
// Copies the pieces to the same addresses in each block of the cluster whose bit in `ranks` is set.
void gpuconv_bulk_multicast(void* barrier, unsigned ranks, gpuconv_emulator::Site site);
void gpuconv_named_barrier(unsigned number, unsigned threads, gpuconv_emulator::Site site);
void gpuconv_wgmma(const gpuconv_emulator::Wgmma* wgmma, gpuconv_emulator::Site site);
// number: the groups that may be pending (WAIT), or the registers per thread (MORE_REGISTERS, FEWER_REGISTERS).
void gpuconv_warpgroup(gpuconv_emulator::Step step, unsigned number, gpuconv_emulator::Site site);
unsigned gpuconv_cluster_rank();
// Waits for all threads of all blocks of the cluster.
void gpuconv_cluster_sync(gpuconv_emulator::Site site);
// Arrives at the mbarrier at the same address in another block of the cluster.
void gpuconv_mbarrier_arrive_in(void* mine, unsigned rank, gpuconv_emulator::Site site);

// Reports to the checker an atomic access that the compiler does not report.
void gpuconv_atomic(void* address, size_t bytes);
[[noreturn]] void gpuconv_fail(const char* what, gpuconv_emulator::Site site);
}
