// The order of a cluster's accesses when mbarriers order some of its threads instead of the whole block.
//
// Vector clocks: each thread counts its own steps, and remembers for every other thread the last step that it knows of. A release
// (an arrival) passes this knowledge on; an acquire (a wait) receives it. Asynchronous work has components in the clocks too: the
// wgmma of a warpgroup one, the bulk copies to an mbarrier one, the bulk stores of a thread one. The async proxy sees a generic
// write only after a fence, so each clock also records what a fence.proxy.async has covered.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace gpuconv_emulator {

constexpr int kMaxThreads = 1024;  // of a block
constexpr uint32_t kMaxBlocks = 16;  // of a cluster
constexpr uint32_t kThreads = kMaxBlocks * kMaxThreads;  // components from this number on are not threads

class Clock {
  public:
    uint32_t seen(size_t i) const { return i < generic.size() ? generic[i] : 0; }
    uint32_t fenced(size_t i) const { return i < async.size() ? async[i] : 0; }
    void see(size_t i, uint32_t step) {
        if (i >= generic.size()) generic.resize(i + 1);
        generic[i] = std::max(generic[i], step);
    }
    void fence() { join(async, generic); }
    void join(const Clock& other) {
        join(generic, other.generic);
        join(async, other.async);
    }
    // Keeps only what both clocks know.
    void meet(const Clock& other) {
        meet(generic, other.generic);
        meet(async, other.async);
    }
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

    Steps generic, async;
};

class Clocks {
  public:
    bool active = false;
    Clock published;  // what the last cluster_sync() made known to all blocks

    void reset() {
        active = false;
        others.clear();
        published = Clock();
    }

    // Begins to count: until now only barriers of the whole block ordered its threads, so the time between two of them was a step.
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

    // Whether a thread, or the owner of a clock, knows of that step of the component `earlier`; `fenced`: by a proxy fence too.
    bool ordered(uint32_t earlier, uint32_t step, int thread) const { return clocks[thread].seen(component(earlier)) >= step; }
    bool ordered(uint32_t earlier, uint32_t step, const Clock& view) const { return view.seen(component(earlier)) >= step; }
    bool fenced(uint32_t earlier, uint32_t step, const Clock& view) const { return view.fenced(component(earlier)) >= step; }

    void release(int thread, Clock& into) {
        into.join(clocks[thread]);
        advance(thread);
    }
    void acquire(int thread, const Clock& from) { clocks[thread].join(from); }
    void learn(int thread, uint32_t earlier, uint32_t step) { clocks[thread].see(component(earlier), step); }
    void learn(Clock& clock, uint32_t earlier, uint32_t step) const { clock.see(component(earlier), step); }
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

    // All threads of all blocks synchronize.
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
        others.push_back({name, 0});
        return uint32_t(kThreads + others.size() - 1);
    }
    const std::string& name(uint32_t other) const { return others[other - kThreads].name; }
    void finish(uint32_t other, uint32_t step) { others[other - kThreads].finished = step; }
    bool finished(uint32_t other, uint32_t step) const { return others[other - kThreads].finished >= step; }

  private:
    struct Other {
        std::string name;
        uint32_t finished;
    };
    size_t component(uint32_t thread) const {
        return thread < kThreads ? thread : clocks.size() + thread - kThreads;
    }
    void advance(int thread) { clocks[thread].see(thread, step(thread) + 1); }

    std::vector<Clock> clocks;
    std::vector<Other> others;
};

}  // namespace gpuconv_emulator
