// mbarriers, proxy fences, named barriers, and the moment at which asynchronous work takes effect. Part of Block (block.h).
#pragma once

#include "block.h"

namespace gpuconv_emulator {

void Block::start_asynchronous() {
    asynchronous.used = true;
    if (launch->checked && !checker.clocks.active)
        checker.clocks.activate(int(checker.first_thread(launch->cluster - 1)) + count, barriers);
    asynchronous.warpgroups.resize(count / kWarpgroup);
    asynchronous.waiting.resize(count);
    const unsigned registers = std::min(65536u / unsigned(count), 255u) / 8 * 8;
    for (size_t i = 0; i < asynchronous.warpgroups.size(); ++i) {
        asynchronous.warpgroups[i].registers = registers;
        if (launch->checked)
            asynchronous.warpgroups[i].clock = checker.clocks.add("a wgmma of warpgroup " + std::to_string(i) + of_block());
    }
}

// --- effects of asynchronous work ---------------------------------------------------------------

// With a seed, lets pending work take effect, and lets another thread run, each at random.
inline void Block::interleave() {
    begin_asynchronous();
    if (launch->seed == 0) return;
    if (launch->cluster > 1) let_others_run();
    auto& under_way = asynchronous;
    while (order.random.draw() % 4 == 0) {
        const size_t groups = under_way.warpgroups.size(), choices = under_way.effects.size() + groups;
        if (choices == 0) break;
        const size_t chosen = order.random.draw() % choices;
        if (chosen < groups) finish_wgmma(int(chosen));
        else {
            size_t i = groups;
            take_effect([&](const Effect&) { return i++ == chosen; });
        }
    }
    if (order.random.draw() % 4) return;
    ++ready;
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

void Block::finish_copies_under_way() {
    take_effect([&](const Effect& effect) { return effect.thread == running && effect.kind == Effect::COPIES; });
}

// Lets polls return before their phase has ended. False if there are none, or too many were in vain.
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

// --- mbarriers ----------------------------------------------------------------------------------

// "shared full + 8 bytes", and its block if that is another one
inline std::string Block::name_of(const Mbarrier& barrier) const {
    return barrier.block->shared_memory.name_of(barrier.address) + of_other_block(*barrier.block);
}

// The mbarrier at an address in the shared memory of `owner`. Fails if it is not initialized, was invalidated or overwritten or, in
// a checked run, if nothing orders the running thread after its initialization.
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
    if (!barrier.valid) wrong("which was invalidated at " + place(barrier.initialized));
    if (memcmp(address, &kMbarrierBits, sizeof kMbarrierBits)) wrong("whose memory was overwritten after " + place(barrier.initialized));
    if (launch->checked && checker.unordered(barrier.by, now(), true))
        wrong("which " + checker.name_of_thread(barrier.by.thread) + " initialized at " + place(barrier.initialized) + " with no " +
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
        fail("initializes the mbarrier " + name + " again, which is in use since " + place(found->second.initialized) + ", at " +
             place(site));
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
    barrier.initialized = site;
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

inline void Block::arrive(Mbarrier& barrier, unsigned arrivals, const std::string& who) {
    barrier.block->asynchronous.idle_polls = 0;
    if (arrivals > barrier.arrivals)
        fail("arrives at the mbarrier " + name_of(barrier) + " more often than phase " + std::to_string(barrier.phase) +
             " expects: " + std::to_string(barrier.expected) + " arrivals" + missing(barrier) + ", " + who);
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
                 place(barrier.initialized));
        barrier.arriving.join(*clock);
        arrive(barrier, 1, "by the copies before " + place(site));
        running = interrupted;
    }});
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

void Block::check_no_mbarrier(const char* address, size_t bytes, uintptr_t pc) {
    auto next = asynchronous.mbarriers.upper_bound(uintptr_t(address) + bytes - 1);
    while (next != asynchronous.mbarriers.begin()) {
        const auto& [at, barrier] = *--next;
        if (at + 8 <= uintptr_t(address)) return;
        if (barrier.valid)
            fail("accesses the mbarrier " + shared_memory.name_of(barrier.address) + " of " + place(barrier.initialized) +
                 " as if it were plain memory, at " + checker.place(pc));
    }
}

// bar.sync: waits until `arrivals` threads have arrived at the barrier with this number.
inline void Block::named_barrier(unsigned number, unsigned arrivals, Site site) {
    interleave();
    if (number == 0 || number > 15) fail("the number of a named barrier is 1 to 15, received " + std::to_string(number) + ", at " + place(site));
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

// --- the report of a deadlock -------------------------------------------------------------------

// ", which lacks 1 of 2 arrivals and 512 bytes"
inline std::string Block::missing(const Mbarrier& barrier) const {
    std::string lacks;
    if (barrier.arrivals) lacks = std::to_string(barrier.arrivals) + " of " + std::to_string(barrier.expected) + " arrivals";
    if (barrier.bytes > 0) lacks += (lacks.empty() ? "" : " and ") + std::to_string(barrier.bytes) + " bytes";
    const std::string excess = barrier.bytes < 0 ? ", which received " + std::to_string(-barrier.bytes) + " bytes too many" : "";
    return (lacks.empty() ? "" : ", which lacks " + lacks) + excess;
}

// "wait at k.cu:7 for the end of phase 2 (parity 0) of the mbarrier ..."
inline std::string Block::waits_for(int thread) const {
    const Waiting& self = asynchronous.waiting[thread];
    const std::string at = " at " + place(threads[thread].site);
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

}  // namespace gpuconv_emulator
