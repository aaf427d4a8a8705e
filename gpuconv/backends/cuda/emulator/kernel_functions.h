// The functions that kernels call (abi.h). Each is passed on to the calling thread's block.
#pragma once

#include "async_copy.h"
#include "barrier.h"
#include "block.h"
#include "bulk.h"
#include "cluster.h"
#include "deadlock.h"
#include "mbarrier.h"
#include "named_barrier.h"
#include "shared_variables.h"
#include "warp.h"
#include "warpgroup.h"

namespace gpuconv_emulator {

inline Block& running_block() { return *static_cast<Block*>(gpuconv_context); }
inline void observe(const void* address, size_t bytes, Kind kind, void* pc) {
    if (gpuconv_context) running_block().access(address, bytes, kind, uintptr_t(pc));
}

}  // namespace gpuconv_emulator

thread_local gpuconv_emulator::Context* gpuconv_context GPUCONV_TLS = nullptr;

using namespace gpuconv_emulator;

#define CALLER_PC __builtin_return_address(0)

extern "C" {

unsigned gpuconv_barrier(int predicate, Site site) { return running_block().barrier(predicate, site); }
Lanes gpuconv_warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site) {
    return running_block().warp(operation, mask, value, source, site);
}
void gpuconv_together(void* data, void (*work)(void* const*), Site site) { running_block().together(data, work, site); }
void* gpuconv_shared(const void* key, const char* name, size_t bytes, size_t alignment) {
    return running_block().shared(key, name, bytes, alignment);
}
void* gpuconv_dynamic_shared(size_t alignment) { return running_block().dynamic_shared(alignment); }
void gpuconv_copy_async(void* destination, const void* source, size_t bytes, size_t valid) {
    running_block().copy_async(destination, source, bytes, valid, uintptr_t(CALLER_PC));
}
void gpuconv_copy_commit() { running_block().copy_commit(); }
void gpuconv_copy_wait(int pending) { running_block().copy_wait(pending); }
void gpuconv_fence() { running_block().fence(); }
unsigned gpuconv_shared_address(const void* pointer) { return running_block().shared_address(pointer); }
void* gpuconv_shared_pointer(unsigned address) { return running_block().shared_pointer(address); }
void gpuconv_mbarrier_init(void* barrier, unsigned arrivals, Site site) { running_block().mbarrier_init(barrier, arrivals, site); }
void gpuconv_mbarrier_invalidate(void* barrier, Site site) { running_block().mbarrier_invalidate(barrier, site); }
void gpuconv_mbarrier_arrive(void* barrier, unsigned arrivals, unsigned bytes, Site site) {
    running_block().mbarrier_arrive(barrier, arrivals, bytes, site);
}
void gpuconv_mbarrier_arrive_after_copies(void* barrier, Site site) { running_block().mbarrier_arrive_after_copies(barrier, site); }
int gpuconv_mbarrier_wait(void* barrier, unsigned parity, int once, Site site) {
    return running_block().mbarrier_wait(barrier, parity, once != 0, site);
}
void gpuconv_mbarrier_fence_init() { running_block().mbarrier_fence_init(); }
void gpuconv_proxy_fence() { running_block().proxy_fence(); }
void gpuconv_bulk_piece(void* shared, void* global, size_t bytes) { running_block().bulk_piece(shared, global, bytes); }
void gpuconv_bulk_load(void* barrier, Site site) { running_block().bulk_load(barrier, site); }
void gpuconv_bulk_multicast(void* barrier, unsigned ranks, Site site) { running_block().bulk_multicast(barrier, ranks, site); }
void gpuconv_bulk_store(Site site) { running_block().bulk_store(site); }
void gpuconv_bulk_commit() { running_block().bulk_commit(); }
void gpuconv_bulk_wait(int pending) { running_block().bulk_wait(unsigned(pending)); }
void gpuconv_named_barrier(unsigned number, unsigned threads, Site site) { running_block().named_barrier(number, threads, site); }
void gpuconv_wgmma(const Wgmma* wgmma, Site site) { running_block().warpgroup(Step::MULTIPLY, unsigned(wgmma->sum_bytes), wgmma, site); }
void gpuconv_warpgroup(Step step, unsigned number, Site site) { running_block().warpgroup(step, number, nullptr, site); }
unsigned gpuconv_cluster_rank() { return running_block().cluster_rank(); }
void gpuconv_cluster_sync(Site site) { running_block().cluster_sync(site); }
void gpuconv_mbarrier_arrive_in(void* mine, unsigned rank, Site site) { running_block().mbarrier_arrive_in(mine, rank, site); }
void gpuconv_atomic(void* address, size_t bytes) { observe(address, bytes, ATOMIC, CALLER_PC); }
void gpuconv_fail(const char* what, Site site) {
    running_block().fail(std::string(what) + ", at " + place(site));
}

}  // extern "C"
