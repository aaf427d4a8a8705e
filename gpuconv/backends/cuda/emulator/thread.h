// The states of a thread, and what is kept of each thread of a block: where it waits, what it passes to warp operations, its
// pending cp.async.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "abi.h"
#include "fiber.h"

namespace gpuconv_emulator {

enum State : uint8_t {  // FRESH: it has not begun. READY: it waits for nothing but its turn.
    FRESH, READY, RUNNING, AT_BARRIER, IN_WARP, AT_MBARRIER, AT_NAMED_BARRIER, AT_CLUSTER_SYNC, IN_WARPGROUP, DONE
};

struct AsyncCopy {  // cp.async
    char* destination;
    const char* source;
    size_t bytes, valid;  // after `valid` bytes of the source come zeros
    int group;            // the thread's copy_groups when this copy began
    uintptr_t pc;
};

struct Thread {
    uint3 index;
    Fiber* fiber;
    Site site;  // where it waits
    Collective operation;
    unsigned mask, source;
    uint64_t value;  // what the lane passes to the warp operation; for TOGETHER the address of its data
    void (*work)(void* const*);  // for TOGETHER: the function, called once with the addresses of all lanes
    Lanes lanes;  // what the warp operation returned
    uint32_t warp_syncs;  // warp operations that it has completed
    int copy_groups;      // the number of groups that the thread has committed
    std::vector<AsyncCopy> copies;  // not waited for
};

}  // namespace gpuconv_emulator
