// The functions that kernels call (abi.h). Each is passed on to the calling thread's block.
#pragma once

#include "block.h"
#include "bulk.h"
#include "cluster.h"
#include "mbarrier.h"
#include "warp.h"
#include "warpgroup.h"

namespace gpuconv_emulator {

inline Block& here() { return *static_cast<Block*>(gpuconv_context); }
inline void observe(const void* address, size_t bytes, Kind kind, void* pc) {
    if (gpuconv_context) here().access(address, bytes, kind, uintptr_t(pc));
}

}  // namespace gpuconv_emulator

thread_local gpuconv_emulator::Context* gpuconv_context GPUCONV_TLS = nullptr;

using namespace gpuconv_emulator;

#define HERE __builtin_return_address(0)

extern "C" {

unsigned gpuconv_barrier(int predicate, Site site) { return here().barrier(predicate, site); }
Lanes gpuconv_warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site) {
    return here().warp(operation, mask, value, source, site);
}
void gpuconv_together(void* data, void (*work)(void* const*), Site site) { here().together(data, work, site); }
void* gpuconv_shared(const void* key, const char* name, size_t bytes, size_t alignment) {
    return here().shared(key, name, bytes, alignment);
}
void* gpuconv_dynamic_shared(size_t alignment) { return here().dynamic_shared(alignment); }
void gpuconv_copy_async(void* destination, const void* source, size_t bytes, size_t valid) {
    here().copy_async(destination, source, bytes, valid, uintptr_t(HERE));
}
void gpuconv_copy_commit() { here().copy_commit(); }
void gpuconv_copy_wait(int pending) { here().copy_wait(pending); }
void gpuconv_fence() { here().fence(); }
unsigned gpuconv_shared_address(const void* pointer) { return here().shared_address(pointer); }
void* gpuconv_shared_pointer(unsigned address) { return here().shared_pointer(address); }
void gpuconv_mbarrier_init(void* barrier, unsigned arrivals, Site site) { here().mbarrier_init(barrier, arrivals, site); }
void gpuconv_mbarrier_invalidate(void* barrier, Site site) { here().mbarrier_invalidate(barrier, site); }
void gpuconv_mbarrier_arrive(void* barrier, unsigned arrivals, unsigned bytes, Site site) {
    here().mbarrier_arrive(barrier, arrivals, bytes, site);
}
void gpuconv_mbarrier_arrive_after_copies(void* barrier, Site site) { here().mbarrier_arrive_after_copies(barrier, site); }
int gpuconv_mbarrier_wait(void* barrier, unsigned parity, int once, Site site) {
    return here().mbarrier_wait(barrier, parity, once != 0, site);
}
void gpuconv_mbarrier_fence_init() { here().mbarrier_fence_init(); }
void gpuconv_proxy_fence() { here().proxy_fence(); }
void gpuconv_bulk_piece(void* shared, void* global, size_t bytes) { here().bulk_piece(shared, global, bytes); }
void gpuconv_bulk_load(void* barrier, Site site) { here().bulk_load(barrier, site); }
void gpuconv_bulk_multicast(void* barrier, unsigned ranks, Site site) { here().bulk_multicast(barrier, ranks, site); }
void gpuconv_bulk_store(Site site) { here().bulk_store(site); }
void gpuconv_bulk_commit() { here().bulk_commit(); }
void gpuconv_bulk_wait(int pending) { here().bulk_wait(unsigned(pending)); }
void gpuconv_named_barrier(unsigned number, unsigned threads, Site site) { here().named_barrier(number, threads, site); }
void gpuconv_wgmma(const Wgmma* wgmma, Site site) { here().warpgroup(Step::MULTIPLY, unsigned(wgmma->sum_bytes), wgmma, site); }
void gpuconv_warpgroup(Step step, unsigned number, Site site) { here().warpgroup(step, number, nullptr, site); }
unsigned gpuconv_cluster_rank() { return here().cluster_rank(); }
void gpuconv_cluster_sync(Site site) { here().cluster_sync(site); }
void gpuconv_mbarrier_arrive_in(void* mine, unsigned rank, Site site) { here().mbarrier_arrive_in(mine, rank, site); }
void gpuconv_atomic(void* address, size_t bytes) { observe(address, bytes, ATOMIC, HERE); }
void gpuconv_fail(const char* what, Site site) {
    const char* slash = strrchr(site.file, '/');
    here().fail(std::string(what) + ", at " + (slash ? slash + 1 : site.file) + ":" + std::to_string(site.line));
}

}  // extern "C"
