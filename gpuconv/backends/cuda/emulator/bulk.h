// Bulk copies: loads, whose bytes an mbarrier counts, and stores, which are waited for in groups. Each takes effect at some later
// moment; until then the destination of a load is poisoned. kernels/bulk_copy.cuh divides a copy into its pieces. Part of Block
// (block.h).
#pragma once

#include "block.h"
#include "effects.h"
#include "mbarrier.h"

namespace gpuconv_emulator {

inline void Block::bulk_piece(void* shared, void* global, size_t bytes) {
    begin_asynchronous();
    asynchronous.pieces.push_back({static_cast<char*>(shared), static_cast<char*>(global), bytes});
}

inline void Block::bulk_load(void* address, Site site) {
    const std::vector<BulkPiece> pieces = std::exchange(asynchronous.pieces, {});
    interleave();
    load(*this, address, pieces, site);
}

inline void Block::bulk_multicast(void* address, unsigned ranks, Site site) {
    const std::vector<BulkPiece> pieces = std::exchange(asynchronous.pieces, {});
    interleave();
    if (ranks == 0) fail("a multicast to no block, at " + place(site));
    for (unsigned rank = 0; ranks >> rank; ++rank) {
        if (!(ranks >> rank & 1)) continue;
        Block& to = in_cluster(rank, "a multicast to", site);
        std::vector<BulkPiece> there = pieces;
        for (BulkPiece& piece : there) piece.shared += to.shared_memory.window() - shared_memory.window();
        load(to, static_cast<char*>(address) + (to.shared_memory.window() - shared_memory.window()), there, site);
    }
}

// Starts a load of pieces to the shared memory of `to`, whose mbarrier at `address` counts their bytes.
inline void Block::load(Block& to, void* address, std::vector<BulkPiece> pieces, Site site) {
    Mbarrier& barrier = mbarrier_of(to, address, "loads for", site);
    const std::string name = name_of(barrier);
    if (!barrier.fenced)
        fail("loads for the mbarrier " + name + " of " + place(barrier.changed_at) + ", which the async proxy does not see: no " +
             "fence_mbarrier_init() by the thread that initialized it, at " + place(site));
    barrier.loads = barrier.phase + 1;
    barrier.loaded = site;
    int64_t bytes = 0;
    for (const BulkPiece& piece : pieces) {
        bytes += int64_t(piece.bytes);
        if (to.shared_memory.name_of(piece.shared).empty()) fail("a bulk copy to an address outside of shared memory, at " + place(site));
        if (launch->checked) {
            const ThreadTime when{to.serial, to.barriers, 0, barrier.copies, barrier.loads};
            const uintptr_t pc = checker.pc_of(site);
            // A box may begin at any element of a row: its bytes are then read one by one.
            const size_t step = uintptr_t(piece.global) % 16 ? 1 : piece.bytes;
            for (size_t i = 0; piece.global && i < piece.bytes; i += step) access(piece.global + i, step, READ, pc);
            const Clock& view = checker.clocks.of(component());
            if (!checker.check_async(when, view, uintptr_t(piece.shared), piece.bytes, true, pc, "a bulk copy")) fail(checker.message);
        }
        memset(piece.shared, kPoison, piece.bytes);
    }
    const auto arrive = [=, &to, &barrier, phase = barrier.phase, thread = running] {
        const int interrupted = std::exchange(running, thread);
        for (const BulkPiece& piece : pieces) {
            if (piece.global) memcpy(piece.shared, piece.global, piece.bytes);
            else memset(piece.shared, 0, piece.bytes);
            if (launch->checked) checker.settle(uintptr_t(piece.shared), piece.bytes);
        }
        if (to.live == 0)
            fail("a bulk copy arrives in block " + text(to.block) + ", which has ended without waiting for it, at " + place(site));
        if (!barrier.valid)
            fail("a bulk copy arrives at the mbarrier " + name + ", which was invalidated at " + place(barrier.changed_at));
        if (barrier.phase != phase)
            fail("wrong byte count: a bulk copy of " + std::to_string(bytes) + " bytes that began in phase " + std::to_string(phase) +
                 " of the mbarrier " + name + " arrives in phase " + std::to_string(barrier.phase) +
                 ": phase " + std::to_string(phase) + " expected fewer bytes than come, at " + place(site));
        to.asynchronous.idle_polls = 0;
        barrier.bytes -= bytes;
        complete(barrier);
        running = interrupted;
    };
    to.asynchronous.effects.push_back({this, running, Effect::LOAD, 0, site, arrive});
}

inline void Block::bulk_store(Site site) {
    const std::vector<BulkPiece> pieces = std::exchange(asynchronous.pieces, {});
    interleave();
    BulkStores& own = asynchronous.stores[running];
    const uint32_t number = ++own.issued;
    if (launch->checked && !own.clock)
        own.clock = checker.clocks.add("a bulk store of thread " + text(threads[running].index) + of_block());
    const ThreadTime when{serial, barriers, 0, own.clock, number};
    for (const BulkPiece& piece : pieces) {
        if (!launch->checked) continue;
        const uintptr_t pc = checker.pc_of(site);
        Clock view = checker.clocks.of(component());
        checker.clocks.learn(view, own.clock, number);
        if (!checker.check_async(when, view, uintptr_t(piece.shared), piece.bytes, false, pc, "a bulk store") ||
            (piece.global && !checker.check_async(when, view, uintptr_t(piece.global), piece.bytes, true, pc, "a bulk store")))
            fail(checker.message);
    }
    own.open.push_back({number, own.groups});
    asynchronous.effects.push_back({this, running, Effect::STORE, own.groups, site, [=] {
        for (const BulkPiece& piece : pieces) {
            if (!piece.global) continue;
            memcpy(piece.global, piece.shared, piece.bytes);
            if (launch->checked) checker.settle(uintptr_t(piece.global), piece.bytes);
        }
    }});
}

inline void Block::bulk_commit() {
    begin_asynchronous();
    ++asynchronous.stores[running].groups;
}

inline void Block::bulk_wait(unsigned pending) {
    interleave();
    BulkStores& own = asynchronous.stores[running];
    const uint32_t finished = own.groups > pending ? own.groups - pending : 0;  // the number of groups that must finish
    take_effect([&](const Effect& effect) {
        return effect.kind == Effect::STORE && effect.thread == running && effect.group < finished;
    });
    while (!own.open.empty() && own.open.front().second < finished) {
        if (launch->checked) {
            checker.clocks.finish(own.clock, own.open.front().first);
            checker.clocks.learn(component(), own.clock, own.open.front().first);
        }
        own.open.erase(own.open.begin());
    }
}

// Describes a bulk copy for whose end the block did not wait; empty if there is none.
inline std::string Block::unfinished_bulk_copy() {
    for (const auto& [thread, own] : asynchronous.stores)
        if (!own.open.empty()) {
            running = thread;
            std::string fault = who() + ": the block ended before a bulk store was waited for";
            for (const Effect& effect : asynchronous.effects)
                if (effect.kind == Effect::STORE && effect.thread == thread) fault += ", at " + place(effect.site);
            return fault;
        }
    for (const Effect& effect : asynchronous.effects)
        if (effect.kind == Effect::LOAD) {
            effect.by->running = effect.thread;
            return effect.by->who() + ": the block ended before a bulk copy arrived that no thread waited for, at " +
                   place(effect.site);
        }
    return {};
}

}  // namespace gpuconv_emulator
