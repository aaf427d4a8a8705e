// Bulk copies: loads, whose bytes an mbarrier counts, and stores, which are waited for in groups. Each takes effect at some later
// moment; until then the destination of a load is poisoned. Part of Worker (block.h).
#pragma once

#include "block.h"
#include "mbarrier.h"

namespace gpuconv_emulator {

inline void Worker::bulk_load(void* address, Site site) {
    interleave();
    Mbarrier& barrier = mbarrier(address, "loads for", site);
    const std::string name = shared_name(address);
    if (!barrier.fenced)
        fail("loads for the mbarrier " + name + " of " + place(barrier.initialized) + ", which the async proxy does not see: no " +
             "fence_mbarrier_init() by the thread that initialized it, at " + place(site));
    const std::vector<BulkPiece> pieces = std::exchange(asynchronous.pieces, {});
    int64_t bytes = 0;
    for (const BulkPiece& piece : pieces) {
        bytes += int64_t(piece.bytes);
        if (shared_name(piece.shared).empty()) fail("a bulk copy to an address outside of shared memory, at " + place(site));
        if (launch->checked) {
            const Now when{blocks_run, barriers, 0, barrier.copies, barrier.phase + 1};
            const uintptr_t pc = checker.pc_of(site);
            const size_t step = uintptr_t(piece.global) % 16 ? 1 : piece.bytes;  // a box may begin at any element of a row
            for (size_t i = 0; piece.global && i < piece.bytes; i += step) access(piece.global + i, step, READ, pc);
            if (!checker.check_async(when, checker.clocks.of(running), uintptr_t(piece.shared), piece.bytes, true, pc, "a bulk copy"))
                fail(checker.message);
        }
        memset(piece.shared, kPoison, piece.bytes);
    }
    asynchronous.effects.push_back({running, Effect::LOAD, 0, site, [=, &barrier, phase = barrier.phase, thread = running] {
        const int interrupted = std::exchange(running, thread);
        for (const BulkPiece& piece : pieces) {
            if (piece.global) memcpy(piece.shared, piece.global, piece.bytes);
            else memset(piece.shared, 0, piece.bytes);
            if (launch->checked) checker.settle(uintptr_t(piece.shared), piece.bytes);
        }
        if (!barrier.valid)
            fail("a bulk copy arrives at the mbarrier " + name + ", which was invalidated at " + place(barrier.initialized));
        if (barrier.phase != phase)
            fail("wrong byte count: a bulk copy of " + std::to_string(bytes) + " bytes that began in phase " + std::to_string(phase) +
                 " of the mbarrier " + name + " arrives in phase " + std::to_string(barrier.phase) +
                 ": phase " + std::to_string(phase) + " expected fewer bytes than come, at " + place(site));
        asynchronous.idle_polls = 0;
        barrier.bytes -= bytes;
        complete(barrier);
        running = interrupted;
    }});
}

inline void Worker::bulk_store(Site site) {
    interleave();
    BulkStores& own = asynchronous.stores[running];
    const std::vector<BulkPiece> pieces = std::exchange(asynchronous.pieces, {});
    const uint32_t number = ++own.issued;
    if (launch->checked && !own.clock)
        own.clock = checker.clocks.add("a bulk store of thread " + text(threads[running].index));
    const Now when{blocks_run, barriers, 0, own.clock, number};
    for (const BulkPiece& piece : pieces) {
        if (!launch->checked) continue;
        const uintptr_t pc = checker.pc_of(site);
        Clock view = checker.clocks.of(running);
        checker.clocks.learn(view, own.clock, number);
        if (!checker.check_async(when, view, uintptr_t(piece.shared), piece.bytes, false, pc, "a bulk store") ||
            (piece.global && !checker.check_async(when, view, uintptr_t(piece.global), piece.bytes, true, pc, "a bulk store")))
            fail(checker.message);
    }
    own.open.push_back({number, own.groups});
    asynchronous.effects.push_back({running, Effect::STORE, own.groups, site, [=] {
        for (const BulkPiece& piece : pieces) {
            if (!piece.global) continue;
            memcpy(piece.global, piece.shared, piece.bytes);
            if (launch->checked) checker.settle(uintptr_t(piece.global), piece.bytes);
        }
    }});
}

inline void Worker::bulk_commit() {
    begin_asynchronous();
    ++asynchronous.stores[running].groups;
}

inline void Worker::bulk_wait(unsigned pending) {
    interleave();
    BulkStores& own = asynchronous.stores[running];
    const uint32_t over = own.groups > pending ? own.groups - pending : 0;
    take_effect([&](const Effect& effect) {
        return effect.kind == Effect::STORE && effect.thread == running && effect.group < over;
    });
    while (!own.open.empty() && own.open.front().second < over) {
        if (launch->checked) {
            checker.clocks.finish(own.clock, own.open.front().first);
            checker.clocks.learn(running, own.clock, own.open.front().first);
        }
        own.open.erase(own.open.begin());
    }
}

// At the end of the block no bulk copy may be pending. False if one is; `message` then names it.
inline bool Worker::end_asynchronous() {
    for (const auto& [thread, own] : asynchronous.stores)
        if (!own.open.empty()) {
            running = thread;
            message = who() + ": the block ended before a bulk store was waited for";
            for (const Effect& effect : asynchronous.effects)
                if (effect.kind == Effect::STORE && effect.thread == thread) message += ", at " + place(effect.site);
            return false;
        }
    for (const Effect& effect : asynchronous.effects)
        if (effect.kind == Effect::LOAD) {
            running = effect.thread;
            message = who() + ": the block ended before a bulk copy arrived that no thread waited for, at " + place(effect.site);
            return false;
        }
    return true;
}

}  // namespace gpuconv_emulator
