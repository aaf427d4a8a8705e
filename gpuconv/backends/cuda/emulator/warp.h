// Operations of a warp: synchronization, shuffles, votes, and functions called once for all lanes. Part of Block (block.h).
#pragma once

#include "block.h"

namespace gpuconv_emulator {

inline Lanes Block::warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site) {
    Thread& self = threads[running];
    const int lane = running % 32, first = running - lane;
    if (!(mask >> lane & 1)) fail("a warp operation whose mask lacks the calling lane, at " + place(site));
    self.operation = operation;
    self.mask = mask;
    self.value = value;
    self.source = source;
    self.site = site;
    state[running] = IN_WARP;
    release_warp(first);
    if (state[running] == READY) {  // the last to arrive continues
        --ready;
        state[running] = RUNNING;
    } else {
        wait(IN_WARP, site);
    }
    return self.lanes;
}

// Calls `work` once with the addresses of all 32 lanes' data, when every lane has arrived.
inline void Block::together(void* data, void (*work)(void* const*), Site site) {
    const int first = running - running % 32;
    for (int lane = 0; lane < 32; ++lane)
        if (first + lane >= count || state[first + lane] == DONE)
            fail("divergent warp operation: " + place(site) + " takes all 32 lanes of a warp, and lane " +
                 std::to_string(lane) + (first + lane >= count ? " does not exist" : " has exited"));
    threads[running].work = work;
    warp(TOGETHER, ~0u, uint64_t(data), ~0u, site);
}

// Releases the lanes of a warp that wait for each other, if all of them have arrived.
inline bool Block::release_warp(int first) {
    bool any = false;
    const int lanes = std::min(32, count - first);
    unsigned incomplete = 0;  // lanes that wait for others that have not arrived
    for (int lane = 0; lane < lanes; ++lane) {
        if (state[first + lane] != IN_WARP || (incomplete >> lane & 1)) continue;
        bool alike = true;
        const Thread& leader = threads[first + lane];
        unsigned present = 0, expected = 0, ballot = 0;
        for (int other = 0; other < lanes; ++other) {
            if (!(leader.mask >> other & 1) || state[first + other] == DONE) continue;
            const Thread& peer = threads[first + other];
            expected |= 1u << other;
            if (state[first + other] != IN_WARP) continue;
            if (peer.operation != leader.operation || peer.mask != leader.mask || peer.site.line != leader.site.line) {
                alike = false;
                if (!(peer.mask >> lane & 1)) continue;  // it waits for other lanes
                fail(first + lane, "divergent warp operation: lane " + std::to_string(lane) + " is at " +
                                       place(leader.site) + ", lane " + std::to_string(other) + " at " +
                                       place(peer.site));
            }
            present |= 1u << other;
            if (peer.value) ballot |= 1u << other;
        }
        if (present != expected) {
            if (alike) incomplete |= present;
            continue;
        }
        for (int other = 0; other < lanes; ++other) {
            if (!(present >> other & 1)) continue;
            Thread& peer = threads[first + other];
            if (peer.operation == SHUFFLE && !(present >> peer.source & 1))
                fail(first + other, "a shuffle at " + place(peer.site) + " reads lane " + std::to_string(peer.source) +
                     ", which does not take part");
            peer.lanes = {peer.operation == SHUFFLE ? threads[first + peer.source].value : 0, ballot, present};
        }
        if (leader.operation == TOGETHER) {
            void* data[32];
            for (int other = 0; other < 32; ++other) data[other] = reinterpret_cast<void*>(threads[first + other].value);
            leader.work(data);
        }
        for (int other = 0; other < lanes; ++other)
            if (present >> other & 1) {
                state[first + other] = READY;
                ++threads[first + other].warp_syncs;
                ++ready;
            }
        order.restart();
        if (checker.clocks.active) synchronize_warp(first, present);
        any = true;
    }
    return any;
}

}  // namespace gpuconv_emulator
