// mbarriers and proxy fences (kernels/mbarrier.cuh). Part of Block (block.h).
#pragma once

#include "block.h"
#include "effects.h"

namespace gpuconv_emulator {

// "shared full + 8 bytes"; for an mbarrier of another block, followed by " of block (1, 0, 0)"
inline std::string Block::name_of(const Mbarrier& barrier) const {
    return barrier.block->shared_memory.name_of(barrier.address) + of_other_block(*barrier.block);
}

// ", which lacks 1 of 2 arrivals and 512 bytes"
inline std::string Block::missing(const Mbarrier& barrier) const {
    std::string lacks;
    if (barrier.arrivals) lacks = std::to_string(barrier.arrivals) + " of " + std::to_string(barrier.expected) + " arrivals";
    if (barrier.bytes > 0) lacks += (lacks.empty() ? "" : " and ") + std::to_string(barrier.bytes) + " bytes";
    const std::string excess = barrier.bytes < 0 ? ", which received " + std::to_string(-barrier.bytes) + " bytes too many" : "";
    return (lacks.empty() ? "" : ", which lacks " + lacks) + excess;
}

// The mbarrier at an address in the shared memory of `owner`. Fails if `owner` has ended, or if the mbarrier is not
// initialized, was invalidated or was overwritten. In a checked run it also fails if nothing orders the running thread
// after the initialization.
inline Mbarrier& Block::mbarrier_of(Block& owner, void* address, const char* use, Site site) {
    begin_asynchronous();
    auto wrong = [&](const std::string& why) {
        const std::string name = owner.shared_memory.name_of(address);
        fail(std::string(use) + (name.empty() ? " an mbarrier that is not in shared memory" : " the mbarrier " + name) +
             of_other_block(owner) + (name.empty() ? "" : ", " + why) + ", at " + place(site));
    };
    if (owner.live == 0) wrong("and that block has ended: no cluster_sync() before its end");
    const auto found = owner.asynchronous.mbarriers.find(uintptr_t(address));
    if (found == owner.asynchronous.mbarriers.end()) wrong("which nothing initialized");
    Mbarrier& barrier = found->second;
    if (!barrier.valid) wrong("which was invalidated at " + place(barrier.changed_at));
    if (memcmp(address, &kMbarrierBits, sizeof kMbarrierBits)) wrong("whose memory was overwritten after " + place(barrier.changed_at));
    if (launch->checked && checker.unordered(barrier.by, now(), true))
        wrong("which " + checker.name_of_thread(barrier.by.thread) + " initialized at " + place(barrier.changed_at) + " with no " +
              (&owner == this ? "barrier" : "cluster_sync()") + " between");
    return barrier;
}

inline void Block::mbarrier_init(void* address, unsigned arrivals, Site site) {
    interleave();
    const std::string name = shared_memory.name_of(address);
    if (name.empty()) fail("initializes an mbarrier that is not in shared memory, at " + place(site));
    if (uintptr_t(address) % 8) fail("the mbarrier " + name + " is not aligned to 8 bytes, at " + place(site));
    if (arrivals == 0 || arrivals > kMbarrierLimit)
        fail("an mbarrier expects 1 to " + std::to_string(kMbarrierLimit) + " arrivals, received " + std::to_string(arrivals) +
             ", at " + place(site));
    const auto found = asynchronous.mbarriers.find(uintptr_t(address));
    if (found != asynchronous.mbarriers.end() && found->second.valid)
        fail("initializes the mbarrier " + name + ", which was initialized at " + place(found->second.changed_at) +
             " and not invalidated since, at " + place(site));
    if (launch->checked && !checker.check(now(), uintptr_t(address), 8, WRITE, checker.pc_of(site))) fail(checker.message);
    memcpy(address, &kMbarrierBits, sizeof kMbarrierBits);
    Mbarrier& barrier = asynchronous.mbarriers[uintptr_t(address)];
    barrier = Mbarrier{this, static_cast<char*>(address), site, now(), true, false, arrivals, arrivals, 0, 0, 0, 0, {}, {}, {}};
    if (launch->checked) barrier.copies = checker.clocks.add("a bulk copy to the mbarrier " + name + of_block());
}

inline void Block::mbarrier_invalidate(void* address, Site site) {
    interleave();
    Mbarrier& barrier = mbarrier(address, "invalidates", site);
    for (int i = 0; i < count; ++i)
        if (state[i] == AT_MBARRIER && asynchronous.waiting[i].mbarrier == &barrier)
            fail("invalidates the mbarrier " + shared_memory.name_of(address) + ", for which thread " + text(threads[i].index) + " waits, at " +
                 place(site));
    barrier.valid = false;
    barrier.changed_at = site;
    memset(address, kPoison, 8);
}

inline void Block::mbarrier_arrive(void* address, unsigned arrivals, unsigned bytes, Site site) {
    interleave();
    Mbarrier& barrier = mbarrier(address, "arrives at", site);
    if (bytes > kMbarrierLimit)
        fail("an mbarrier expects at most " + std::to_string(kMbarrierLimit) + " bytes, received " + std::to_string(bytes) + ", at " +
             place(site));
    barrier.bytes += bytes;
    if (launch->checked) checker.clocks.release(component(), barrier.arriving);
    arrive(barrier, arrivals, "at " + place(site));
}

// origin: how a fault says where the arrivals come from, such as "at k.cu:7".
inline void Block::arrive(Mbarrier& barrier, unsigned arrivals, const std::string& origin) {
    barrier.block->asynchronous.idle_polls = 0;
    // Each call brings one arrival. So if none is missing, bytes are, or the phase would have ended.
    if (arrivals > barrier.arrivals)
        fail("arrives at the mbarrier " + name_of(barrier) + " more often than phase " + std::to_string(barrier.phase) +
             " expects: it has " + std::to_string(barrier.expected - barrier.arrivals) + " of its " +
             std::to_string(barrier.expected) + " arrivals and lacks " + std::to_string(barrier.bytes) + " bytes, " + origin);
    barrier.arrivals -= arrivals;
    complete(barrier);
}

// Ends the phase if nothing is missing, and wakes the threads that wait for its end.
inline void Block::complete(Mbarrier& barrier) {
    if (barrier.arrivals) return;
    if (barrier.bytes < 0)
        fail("wrong byte count: phase " + std::to_string(barrier.phase) + " of the mbarrier " + name_of(barrier) + " received " +
             std::to_string(-barrier.bytes) + " bytes more than it expects");
    if (barrier.bytes) return;
    ++barrier.phase;
    barrier.arrivals = barrier.expected;
    barrier.completed = std::move(barrier.arriving);
    barrier.arriving = Clock();
    if (launch->checked) {
        checker.clocks.learn(barrier.completed, barrier.copies, barrier.phase);
        checker.clocks.finish(barrier.copies, barrier.phase);
    }
    Block& owner = *barrier.block;
    for (int i = 0; i < owner.count; ++i) {
        const Waiting& each = owner.asynchronous.waiting[i];
        if (owner.state[i] == AT_MBARRIER && each.mbarrier == &barrier && (barrier.phase & 1) != each.number) owner.wake(i);
    }
    owner.order.shuffle();
}

inline void Block::mbarrier_arrive_after_copies(void* address, Site site) {
    interleave();
    Mbarrier& barrier = mbarrier(address, "arrives at", site);
    const ThreadTime when = now();
    auto clock = std::make_shared<Clock>();
    if (launch->checked) checker.clocks.release(component(), *clock);
    auto copies = std::make_shared<std::vector<AsyncCopy>>(std::move(threads[running].copies));
    threads[running].copies.clear();
    const int thread = running;
    asynchronous.effects.push_back({this, thread, Effect::COPIES, 0, site, [=, &barrier] {
        const int interrupted = std::exchange(running, thread);
        for (const AsyncCopy& copy : *copies) finish(copy, when);
        if (!barrier.valid)
            fail("asynchronous copies arrive at the mbarrier " + shared_memory.name_of(barrier.address) + ", which was invalidated at " +
                 place(barrier.changed_at));
        barrier.arriving.join(*clock);
        arrive(barrier, 1, "by the copies before " + place(site));
        running = interrupted;
    }});
}

// Arrives at an mbarrier of block `rank` of the cluster: the one at the place of `mine`, which is in this block's shared memory.
inline void Block::mbarrier_arrive_in(void* mine, unsigned rank, Site site) {
    interleave();
    Block& there = in_cluster(rank, "arrives in", site);
    char* address = there.shared_memory.window() + shared_address(mine);
    Mbarrier& barrier = mbarrier_of(there, address, "arrives at", site);
    if (launch->checked) {
        const uint32_t step = checker.clocks.step(component());
        if (&there != this)
            there.asynchronous.remote_arrivals[uint32_t(component())] = {this, running, step, site, name_of(barrier)};
        checker.clocks.release(component(), barrier.arriving);
    }
    arrive(barrier, 1, "at " + place(site));
}

inline bool Block::mbarrier_wait(void* address, unsigned parity, bool once, Site site) {
    interleave();
    Mbarrier& barrier = mbarrier(address, "waits for", site);
    if (parity > 1) fail("the parity of a phase is 0 or 1, received " + std::to_string(parity) + ", at " + place(site));
    Waiting& self = asynchronous.waiting[running];
    if ((barrier.phase & 1) == parity) {
        if (once && launch->seed && order.random.draw() % 4 == 0) return false;
        self = {&barrier, parity, once, false, nullptr};
        wait(AT_MBARRIER, site);
        if (self.gave_up) return false;
        mbarrier(address, "waits for", site);
    }
    if (launch->checked) checker.clocks.acquire(component(), barrier.completed);
    return true;
}

inline void Block::mbarrier_fence_init() {
    begin_asynchronous();
    for (auto& [address, barrier] : asynchronous.mbarriers) barrier.fenced |= barrier.by.thread == uint32_t(component());
}

inline void Block::proxy_fence() {
    mbarrier_fence_init();
    if (launch->checked) checker.clocks.proxy_fence(component());
}

// Fails if an ordinary access touches an mbarrier.
void Block::check_no_mbarrier(const char* address, size_t bytes, uintptr_t pc) {
    auto next = asynchronous.mbarriers.upper_bound(uintptr_t(address) + bytes - 1);
    while (next != asynchronous.mbarriers.begin()) {
        const auto& [at, barrier] = *--next;
        if (at + 8 <= uintptr_t(address)) return;
        if (barrier.valid)
            fail("accesses the mbarrier " + shared_memory.name_of(barrier.address) + " of " + place(barrier.changed_at) +
                 " as if it were plain memory, at " + checker.place(pc));
    }
}

}  // namespace gpuconv_emulator
