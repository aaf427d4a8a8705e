// The report of a deadlock: which threads wait where, and what is missing there.
#pragma once

#include "block.h"
#include "cluster.h"
#include "mbarrier.h"

namespace gpuconv_emulator {

// "which lacks 128 of 256 threads"
inline std::string Block::cluster_sync_lacks() const {
    const unsigned all = cluster.threads();
    return "which lacks " + std::to_string(all - cluster.synced) + " of " + std::to_string(all) + " threads";
}

// "wait at k.cu:7 for the end of phase 2 (parity 0) of the mbarrier ..."
inline std::string Block::waits_for(int thread) const {
    const Waiting& self = asynchronous.waiting[thread];
    const std::string at = state[thread] == DONE ? "" : " at " + place(threads[thread].site);  // an exited thread may have none
    switch (state[thread]) {
        case AT_MBARRIER: {
            const Mbarrier& barrier = *self.mbarrier;
            return "wait" + at + " for the end of phase " + std::to_string(barrier.phase) + " (parity " +
                   std::to_string(self.number) + ") of the mbarrier " + shared_memory.name_of(barrier.address) + missing(barrier);
        }
        case AT_NAMED_BARRIER: {
            const NamedBarrier& barrier = asynchronous.named[self.number];
            return "wait" + at + " at named barrier " + std::to_string(self.number) + ", which lacks " +
                   std::to_string(barrier.threads - barrier.arrived) + " of " + std::to_string(barrier.threads) + " threads";
        }
        case IN_WARPGROUP: {
            const Warpgroup& group = asynchronous.warpgroups[thread / kWarpgroup];
            if (group.waits_for_registers)
                return "wait" + at + " for " + std::to_string((group.number - group.registers) * kWarpgroup) +
                       " registers (" + std::to_string(group.number) + " a thread in place of " + std::to_string(group.registers) +
                       "), and the block has " + std::to_string(asynchronous.free_registers) + " free";
            return "wait" + at + " for all 128 lanes of the warpgroup, of which " + std::to_string(kWarpgroup - group.arrived) +
                   " never come";
        }
        case AT_CLUSTER_SYNC: return "wait" + at + " at a cluster_sync(), " + cluster_sync_lacks();
        case AT_BARRIER: return "wait" + at + " at a barrier of the block";
        case IN_WARP: return "wait" + at + " in a warp operation";
        default: return "have exited";
    }
}

inline void Cluster::fail_deadlocked() {
    std::string what;
    Block* block = nullptr;
    int thread = 0;
    for (Block* each : blocks) {
        int kinds = 0;  // the number of kinds of waits in this block; the message has at most 12 of them
        for (int group = 0; group * kWarpgroup < each->count; ++group) {
            std::map<std::string, std::vector<int>> alike;  // threads, by what they wait for
            for (int i = group * kWarpgroup; i < std::min(each->count, (group + 1) * kWarpgroup); ++i)
                alike[each->waits_for(i)].push_back(i);
            for (const auto& [reason, which] : alike) {
                if (!block && each->state[which[0]] != DONE) block = each, thread = which[0];
                if (++kinds > 12) continue;
                what += (blocks.size() > 1 ? "; block " + text(each->block) + ", warpgroup " : "; warpgroup ") +
                        std::to_string(group) + ": " + std::to_string(which.size()) +
                        (which.size() == 1 ? " thread, " : " threads, first ") + text(each->threads[which[0]].index) + ", " +
                        reason;
            }
        }
        if (kinds > 12) what += "; and " + std::to_string(kinds - 12) + " more";
    }
    block->fail(thread, "deadlock" + what);
}

}  // namespace gpuconv_emulator
