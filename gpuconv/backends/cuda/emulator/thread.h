// A thread of a block: its state, where it waits, and what it passes to warp operations.
#pragma once

#include <vector>

#include "abi.h"
#include "asynchronous.h"
#include "fiber.h"

namespace gpuconv_emulator {

enum State : uint8_t {
    FRESH, READY, RUNNING, AT_BARRIER, IN_WARP, AT_MBARRIER, AT_NAMED_BARRIER, AT_CLUSTER_SYNC, IN_WARPGROUP, DONE
};

struct Thread {
    uint3 index;
    Fiber* fiber;
    Site site;  // where it waits
    Collective operation;
    unsigned mask, source;
    uint64_t value;  // what the lane passes to the warp operation; for TOGETHER the address of its data
    void (*work)(void* const*);  // for TOGETHER: the function, which takes these addresses
    Lanes lanes;  // what the warp operation returned
    uint32_t warp_syncs;
    int copy_groups;
    std::vector<AsyncCopy> copies;
};

}  // namespace gpuconv_emulator
