// Operations of a warp: synchronization of its threads and their clocks, shuffles, votes, and functions called once for
// all lanes. Part of Block (block.h).
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

// Completes the operations of a warp for which all lanes have arrived, and releases these lanes. False if there are none.
inline bool Block::release_warp(int first) {
    bool any = false;
    const int lanes = std::min(32, count - first);
    unsigned incomplete = 0;  // lanes that wait for others that have not arrived
    for (int lane = 0; lane < lanes; ++lane) {
        if (state[first + lane] != IN_WARP || (incomplete >> lane & 1)) continue;
        const Thread& leader = threads[first + lane];
        unsigned present = 0, expected = 0, ballot = 0;
        bool alike = true;  // false once a lane of the leader's mask waits in another operation than the leader
        for (int other = 0; other < lanes; ++other) {
            if (!(leader.mask >> other & 1) || state[first + other] == DONE) continue;
            const Thread& peer = threads[first + other];
            expected |= 1u << other;
            if (state[first + other] != IN_WARP) continue;
            if (peer.operation != leader.operation || peer.mask != leader.mask || peer.site != leader.site) {
                alike = false;
                const bool waits_for_leader = peer.mask >> lane & 1;
                if (!waits_for_leader) continue;
                fail(first + lane, "divergent warp operation: lane " + std::to_string(lane) + " is at " + place(leader.site) + ", lane " +
                                       std::to_string(other) + " at " + place(peer.site));
            }
            present |= 1u << other;
            if (peer.value) ballot |= 1u << other;
        }
        if (present == expected) {
            complete_warp(first, lane, present, ballot);
            any = true;
        } else if (alike) {
            incomplete |= present;
        }
    }
    return any;
}

// Gives each lane of `present` its result, and releases it. leader: one of these lanes.
inline void Block::complete_warp(int first, int leader, unsigned present, unsigned ballot) {
    const int lanes = std::min(32, count - first);
    for (int lane = 0; lane < lanes; ++lane) {
        if (!(present >> lane & 1)) continue;
        Thread& each = threads[first + lane];
        if (each.operation == SHUFFLE && !(present >> each.source & 1))
            fail(first + lane, "a shuffle at " + place(each.site) + " reads lane " + std::to_string(each.source) +
                                   ", which does not take part");
        each.lanes = {each.operation == SHUFFLE ? threads[first + each.source].value : 0, ballot, present};
    }
    if (threads[first + leader].operation == TOGETHER) {
        void* data[32];
        for (int lane = 0; lane < 32; ++lane) data[lane] = reinterpret_cast<void*>(threads[first + lane].value);
        threads[first + leader].work(data);
    }
    for (int lane = 0; lane < lanes; ++lane)
        if (present >> lane & 1) {
            state[first + lane] = READY;
            ++threads[first + lane].warp_syncs;
            ++ready;
        }
    order.restart();
    if (checker.clocks.active) synchronize_warp(first, present);
}

// Updates the clocks of the lanes that have synchronized. lanes: their mask.
void Block::synchronize_warp(int first, unsigned lanes) {
    const int base = first_thread() + first;
    checker.clocks.synchronize(base, base + std::min(32, count - first), [=](int i) { return lanes >> (i - base) & 1; });
}

}  // namespace gpuconv_emulator
