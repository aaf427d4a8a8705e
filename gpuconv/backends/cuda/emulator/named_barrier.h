// Named barriers (bar.sync with a number): some warps of a block wait for each other. Part of Block (block.h).
#pragma once

#include "block.h"
#include "effects.h"

namespace gpuconv_emulator {

// Waits until `arrivals` threads have arrived at the barrier with this number.
inline void Block::named_barrier(unsigned number, unsigned arrivals, Site site) {
    interleave();
    if (number == 0 || number > 15)
        fail("the number of a named barrier is 1 to 15, received " + std::to_string(number) + ", at " + place(site));
    if (arrivals == 0 || arrivals % 32 || arrivals > unsigned(count))
        fail("a named barrier is for whole warps of the block, received " + std::to_string(arrivals) + " threads, at " + place(site));
    NamedBarrier& barrier = asynchronous.named[number];
    if (barrier.arrived && barrier.threads != arrivals)
        fail("named barrier " + std::to_string(number) + " is for " + std::to_string(barrier.threads) + " threads elsewhere and for " +
             std::to_string(arrivals) + " here, at " + place(site));
    barrier.threads = arrivals;
    asynchronous.waiting[running].number = number;
    if (++barrier.arrived < arrivals) return wait(AT_NAMED_BARRIER, site);
    barrier.arrived = 0;
    auto takes_part = [&](int i) { return i == running || (state[i] == AT_NAMED_BARRIER && asynchronous.waiting[i].number == number); };
    const int base = first_thread();
    if (launch->checked) checker.clocks.synchronize(base, base + count, [=](int i) { return takes_part(i - base); });
    for (int i = 0; i < count; ++i)
        if (i != running && takes_part(i)) wake(i);
    order.shuffle();
}

}  // namespace gpuconv_emulator
