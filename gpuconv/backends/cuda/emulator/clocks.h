// The order of accesses in a cluster whose threads are ordered by mbarriers, not only by barriers of the whole block.
//
// Vector clocks: each thread counts its own steps, and remembers for every other thread the last step that it knows of. A release
// (an arrival) passes this knowledge on; an acquire (a wait) receives it. Asynchronous work has components in the
// clocks too: one for the wgmma of each warpgroup, one for the bulk copies to each mbarrier, one for the bulk stores of
// each thread. The async proxy sees a generic write only after a fence, so each clock also records what a
// fence.proxy.async has covered.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace gpuconv_emulator {

constexpr int kMaxThreads = 1024;  // of a block
constexpr uint32_t kMaxBlocks = 16;  // of a cluster
constexpr uint32_t kThreads = kMaxBlocks * kMaxThreads;  // components from this number on are not threads

// What a thread or a piece of asynchronous work knows: of each component, the last step that happened before.
class Clock {
  public:
    uint32_t seen(size_t i) const { return i < generic.size() ? generic[i] : 0; }
    uint32_t fenced(size_t i) const { return i < async.size() ? async[i] : 0; }
    void see(size_t i, uint32_t step) {
        if (i >= generic.size()) generic.resize(i + 1);
        generic[i] = std::max(generic[i], step);
    }
    void fence() { join(async, generic); }
    // Afterwards this clock also knows what `other` knows.
    void join(const Clock& other) {
        join(generic, other.generic);
        join(async, other.async);
    }
    // Keeps only what both clocks know.
    void meet(const Clock& other) {
        meet(generic, other.generic);
        meet(async, other.async);
    }
    // Makes this step of the first `count` components known, without a fence.
    void assign(size_t count, uint32_t step) {
        generic.assign(count, step);
        async.assign(count, 0);
    }

  private:
    using Steps = std::vector<uint32_t>;
    static void join(Steps& into, const Steps& other) {
        if (into.size() < other.size()) into.resize(other.size());
        for (size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
    }
    static void meet(Steps& into, const Steps& other) {
        into.resize(std::min(into.size(), other.size()));
        for (size_t i = 0; i < into.size(); ++i) into[i] = std::min(into[i], other[i]);
    }

    Steps generic, async;  // known steps, and those of them that a proxy fence has covered
};

class Clocks {
  public:
    bool active = false;
    Clock published;  // what the last cluster_sync() made known to all blocks

    void reset() {
        active = false;
        works.clear();
        published = Clock();
    }

    // Begins to count. Until now a step ended at each barrier of the block, and a thread knows all steps before the last barrier.
    void activate(int threads, uint32_t barriers) {
        active = true;
        clocks.resize(threads);
        for (int i = 0; i < threads; ++i) {
            clocks[i].assign(threads, barriers);
            clocks[i].see(i, barriers + 1);
        }
    }

    uint32_t step(int thread) const { return clocks[thread].seen(thread); }
    const Clock& of(int thread) const { return clocks[thread]; }

    // Whether a thread, or whoever knows what is in `view`, knows of this step of a component.
    bool ordered(uint32_t component, uint32_t step, int thread) const { return clocks[thread].seen(index(component)) >= step; }
    bool ordered(uint32_t component, uint32_t step, const Clock& view) const { return view.seen(index(component)) >= step; }
    // Whether a proxy fence has covered it, too.
    bool fenced(uint32_t component, uint32_t step, const Clock& view) const { return view.fenced(index(component)) >= step; }

    void release(int thread, Clock& into) {
        into.join(clocks[thread]);
        advance(thread);
    }
    void acquire(int thread, const Clock& from) { clocks[thread].join(from); }
    void learn(int thread, uint32_t component, uint32_t step) { clocks[thread].see(index(component), step); }
    void learn(Clock& clock, uint32_t component, uint32_t step) const { clock.see(index(component), step); }
    void proxy_fence(int thread) {
        clocks[thread].fence();
        advance(thread);
    }
    // Afterwards each thread of [first, end) that `takes_part` selects knows what any of them knew.
    template <class TakesPart>
    void synchronize(int first, int end, TakesPart takes_part) {
        Clock all;
        for (int i = first; i < end; ++i)
            if (takes_part(i)) all.join(clocks[i]);
        for (int i = first; i < end; ++i)
            if (takes_part(i)) {
                clocks[i].join(all);
                advance(i);
            }
    }

    // All threads of all blocks synchronize, and what they knew before is published.
    void publish() {
        published = of_any(0, int(clocks.size()));
        synchronize(0, int(clocks.size()), [](int) { return true; });
    }
    // What any of the threads [first, end) knows.
    Clock of_any(int first, int end) const {
        Clock all;
        for (int i = first; i < end; ++i) all.join(clocks[i]);
        return all;
    }

    // Adds a component for asynchronous work. Its number is used like a thread's.
    uint32_t add(const std::string& name) {
        works.push_back({name, 0});
        return uint32_t(kThreads + works.size() - 1);
    }
    const std::string& name(uint32_t component) const { return works[component - kThreads].name; }
    // Says that this step of the work, and all steps before it, have ended.
    void finish(uint32_t component, uint32_t step) { works[component - kThreads].finished = step; }
    bool finished(uint32_t component, uint32_t step) const { return works[component - kThreads].finished >= step; }

  private:
    struct Work {
        std::string name;
        uint32_t finished;
    };
    // The index of a component in a Clock: threads first, then asynchronous work.
    size_t index(uint32_t component) const { return component < kThreads ? component : clocks.size() + component - kThreads; }
    void advance(int thread) { clocks[thread].see(thread, step(thread) + 1); }

    std::vector<Clock> clocks;  // of the threads
    std::vector<Work> works;
};

}  // namespace gpuconv_emulator
