// When asynchronous work takes effect: at the latest possible moment or, with a seed, at a random one. Part of Block (block.h).
#pragma once

#include "block.h"

namespace gpuconv_emulator {

// The block uses mbarriers, warpgroups or asynchronous work for the first time.
void Block::start_asynchronous() {
    asynchronous.used = true;
    if (launch->checked && !checker.clocks.active)
        checker.clocks.activate(int(checker.first_thread(launch->cluster - 1)) + count, barriers);
    asynchronous.warpgroups.resize(count / kWarpgroup);
    asynchronous.waiting.resize(count);
    const unsigned registers = std::min(65536u / unsigned(count), 255u) / 8 * 8;  // of each thread: its share, in units of 8
    for (size_t i = 0; i < asynchronous.warpgroups.size(); ++i) {
        asynchronous.warpgroups[i].registers = registers;
        if (launch->checked)
            asynchronous.warpgroups[i].clock = checker.clocks.add("a wgmma of warpgroup " + std::to_string(i) + of_block());
    }
}

// Most operations on asynchronous work begin with this. With a seed, it decides at random whether pending work takes effect
// before the operation, and whether another thread runs before it.
inline void Block::interleave() {
    begin_asynchronous();
    if (launch->seed == 0) return;
    if (launch->cluster > 1) let_others_run();
    while (order.random.draw() % 4 == 0) {
        const size_t groups = asynchronous.warpgroups.size(), choices = asynchronous.effects.size() + groups;
        if (choices == 0) break;
        const size_t chosen = order.random.draw() % choices;
        if (chosen < groups) finish_wgmma(int(chosen));
        else {
            size_t i = groups;
            take_effect([&](const Effect&) { return i++ == chosen; });
        }
    }
    if (order.random.draw() % 4) return;
    ++ready;  // this thread may run again at once
    wait(READY, threads[running].site);
}

// Lets the pending work that `which` selects take effect. False if there is none.
template <class Which>
bool Block::take_effect(Which which) {
    std::vector<Effect> chosen, kept;
    for (Effect& effect : asynchronous.effects) (which(effect) ? chosen : kept).push_back(std::move(effect));
    asynchronous.effects = std::move(kept);
    for (Effect& effect : chosen) effect.happen();
    return !chosen.empty();
}

// Lets polls return before their phase has ended. False if there are none, or after 1000 calls with no progress between.
bool Block::give_up_polls() {
    if (!asynchronous || ++asynchronous.idle_polls > 1000) return false;
    bool any = false;
    for (int i = 0; i < count; ++i)
        if (state[i] == AT_MBARRIER && asynchronous.waiting[i].polls) {
            asynchronous.waiting[i].gave_up = any = true;
            wake(i);
        }
    return any;
}

}  // namespace gpuconv_emulator
