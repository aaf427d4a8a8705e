// The barrier of a block (__syncthreads), and the report of threads that wait forever, at it or in a warp operation. Part of Block
// (block.h).
#pragma once

#include "block.h"
#include "warp.h"

namespace gpuconv_emulator {

inline unsigned Block::barrier(int predicate, Site site) {
    if (arrived && site != barrier_site)
        fail("divergent barrier: waits at " + place(site) + " while others wait elsewhere" + describe(AT_BARRIER));
    barrier_site = site;
    if (arrived++ == 0) predicates = 0;
    predicates += predicate != 0;
    wait(AT_BARRIER, site);
    return predicates_of_all;
}

// No thread is ready: releases the threads at the barrier if all have arrived, else the warps whose missing lanes have exited.
// False if it releases none.
inline bool Block::release() {
    if (arrived == count) {
        memset(state, READY, count);
        ready = count;
        arrived = 0;
        predicates_of_all = predicates;
        ++barriers;
        if (checker.clocks.active) synchronize_block();
        order.shuffle();
        if (launch->cluster > 1) let_others_run();
        return true;
    }
    bool any = false;
    for (int first = 0; first < count; first += 32) any |= release_warp(first);
    return any;
}

void Block::synchronize_block() {
    checker.clocks.synchronize(first_thread(), first_thread() + count, [](int) { return true; });
}

inline void Block::fail_divergent() {
    int first = 0;
    while (state[first] == DONE) ++first;
    const bool at_barrier = state[first] == AT_BARRIER;
    fail(first, std::string("divergent ") + (at_barrier ? "barrier" : "warp operation") + ": waits at " +
                    place(threads[first].site) + " for threads that never come" + describe(AT_BARRIER) + describe(IN_WARP) +
                    describe(DONE));
}

// "; 40 of 64 threads are at a barrier: (0, 0, 0) at k.cu:7, ..."; empty if there are none
inline std::string Block::describe(State which) const {
    std::string list;
    int found = 0;
    for (int i = 0; i < count; ++i) {
        if (state[i] != which || found++ >= 4) continue;
        list += (found == 1 ? " " : ", ") + text(threads[i].index);
        if (which != DONE) list += " at " + place(threads[i].site);
    }
    if (!found) return {};
    const char* what = which == DONE ? "exited:" : which == IN_WARP ? "are in a warp operation:" : "are at a barrier:";
    return "; " + std::to_string(found) + " of " + std::to_string(count) + " threads " + what + list + (found > 4 ? ", ..." : "");
}

}  // namespace gpuconv_emulator
