// Runs the blocks of a cluster in turns, on one operating-system thread. An ordinary launch has clusters of one block.
//
// A block runs until none of its threads can continue; then a fiber of another block continues. With a seed it may also stop
// earlier. When no block can continue, one piece of asynchronous work takes effect. If there is none, polling waits (`once` in
// abi.h) give up and return. If no thread polls either, the launch fails.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "bulk.h"
#include "effects.h"

namespace gpuconv_emulator {

class Cluster {
  public:
    Checker checker;
    std::vector<Block*> blocks;  // of the current launch, by rank
    std::string message;         // the fault; empty if there is none
    Fiber caller;                // of `run`
    unsigned synced = 0;         // threads that wait in cluster_sync()

    void begin(const Launch& request) {
        launch = &request;
        serial = 0;
        while (made.size() < request.cluster) made.push_back(std::make_unique<Block>(*this, checker));
        blocks.clear();
        for (unsigned rank = 0; rank < request.cluster; ++rank) {
            blocks.push_back(made[rank].get());
            blocks[rank]->begin(request, rank);
        }
        checker.block_size = blocks[0]->block_size;
    }

    // Runs the cluster with this index; clusters are counted as blocks are, x first. False after a fault: `message` describes it.
    bool run(uint64_t index) {
        serial += kMaxBlocks;
        synced = 0;
        if (launch->checked) checker.remove_shared();
        checker.clocks.reset();
        checker.blocks.clear();
        for (Block* each : blocks) {
            each->open(index * blocks.size() + each->rank, serial + each->rank);
            checker.blocks.push_back(each->block);
        }
        if (blocks.size() > 1)
            for (Block* each : blocks) each->begin_asynchronous();
        Block* first = next();
        gpuconv_context = first;
        caller.switch_to(*first->fiber);
        for (Block* each : blocks) {
            const std::string fault = each->close();
            if (message.empty()) message = fault;
        }
        for (Block* each : blocks)
            if (message.empty() && launch->checked && each->asynchronous) message = each->ended_too_early();
        return message.empty();
    }

    // The block that continues; null if all have ended.
    Block* next() {
        for (;;) {
            Block* able[kMaxBlocks];
            unsigned count = 0;
            Block* unfinished = nullptr;
            for (Block* each : blocks) {
                if (each->can_run()) able[count++] = each;
                if (each->live > 0 && !unfinished) unfinished = each;
            }
            if (count) return able[launch->seed && count > 1 ? blocks[0]->order.random.draw() % count : 0];
            if (!unfinished) return nullptr;
            if (release_asynchronous()) continue;
            if (unfinished->asynchronous) fail_deadlocked();
            unfinished->fail_divergent();
        }
    }

    unsigned threads() const { return unsigned(blocks[0]->count * blocks.size()); }

  private:
    // No thread can run: one piece of pending work takes effect, or polls give up. False if there is neither.
    bool release_asynchronous() {
        size_t effects = 0;
        for (const Block* each : blocks) effects += each->asynchronous.effects.size();
        size_t chosen = launch->seed && effects ? blocks[0]->order.random.draw() % effects : 0;
        for (Block* each : blocks) {
            size_t i = 0;
            const size_t own = each->asynchronous.effects.size();
            if (chosen < own) return each->take_effect([&](const Effect&) { return i++ == chosen; });
            chosen -= own;
        }
        bool any = false;
        for (Block* each : blocks) any |= each->give_up_polls();
        return any;
    }

    [[noreturn]] void fail_deadlocked();  // deadlock.h

    const Launch* launch = nullptr;
    uint32_t serial = 0;  // of the first block
    std::vector<std::unique_ptr<Block>> made;  // all blocks; they keep their stacks from launch to launch
};

// --- turns ----------------------------------------------------------------------------------------

// None of this block's threads can continue.
void Block::pause() {
    paused = true;
    switch_to(*cluster.next());
    paused = false;
}

// With a seed, at random lets another block continue.
void Block::let_others_run() {
    if (launch->seed && order.random.draw() % 4 == 0) switch_to(*cluster.next());
}

void Block::switch_to(Block& next) {
    if (&next == this) return;
    gpuconv_context = &next;
    fiber->switch_to(*next.fiber);
}

// Where to continue after the end of this block.
inline Fiber& Block::after_this_block() {
    Block* next = cluster.next();
    if (!next) return cluster.caller;
    gpuconv_context = next;
    return *next->fiber;
}

// Abandons the cluster: returns from its `run`.
inline void Block::abandon(const std::string& fault) {
    cluster.message = fault;
    for (Block* each : cluster.blocks) each->fibers.restart_all();
    Fiber unused;
    unused.switch_to(cluster.caller);
    __builtin_unreachable();
}

// --- cluster_sync() and the end of a block ------------------------------------------------------------

inline void Block::cluster_sync(Site site) {
    interleave();
    if (++cluster.synced < cluster.threads()) return wait(AT_CLUSTER_SYNC, site);
    cluster.synced = 0;
    if (launch->checked) checker.clocks.publish();
    for (Block* each : cluster.blocks) {
        for (int i = 0; i < each->count; ++i)
            if (each->state[i] == AT_CLUSTER_SYNC) each->wake(i);
        each->order.shuffle();
    }
}

// The block with this rank. use: the operation, as an error names it.
inline Block& Block::in_cluster(unsigned rank, const char* use, Site site) {
    if (rank >= cluster.blocks.size())
        fail(std::string(use) + " block " + std::to_string(rank) + " of a cluster of " + std::to_string(cluster.blocks.size()) +
             " blocks, at " + place(site));
    return *cluster.blocks[rank];
}

// Describes a bulk copy to this block, or an arrival of another block here, that no thread of this block has waited for: in
// another order of threads the copy or arrival could come after the block's end. Empty if there is none.
inline std::string Block::ended_too_early() {
    const Clock known = checker.clocks.of_any(first_thread(), first_thread() + count);
    for (const auto& [address, barrier] : asynchronous.mbarriers)
        if (barrier.loads && !checker.clocks.ordered(barrier.copies, barrier.loads, known))
            return who() + ": the block ended before a bulk copy arrived that no thread waited for, at " + place(barrier.loaded);
    for (const auto& [thread, arrival] : asynchronous.remote_arrivals)
        if (!checker.clocks.ordered(thread, arrival.step, known)) {
            arrival.by->running = arrival.thread;
            return arrival.by->who() + ": arrives at the mbarrier " + arrival.barrier +
                   ", which may have ended before: no cluster_sync() between, at " + place(arrival.site);
        }
    return {};
}

}  // namespace gpuconv_emulator
