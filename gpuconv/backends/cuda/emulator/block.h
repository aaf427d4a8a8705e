// Runs the threads of one block, and checks what the running thread accesses. Members that another header defines are listed under
// its name. cluster.h runs the blocks of a cluster in turns; an ordinary block is a cluster of its own.
//
// A thread that never waits runs to its end on the previous thread's fiber, so an elementwise kernel never switches
// fibers. A thread that waits keeps its fiber, and the next thread in the order runs.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "abi.h"
#include "asynchronous.h"
#include "banks.h"
#include "checker.h"
#include "fiber.h"
#include "launch.h"
#include "order.h"
#include "positions.h"
#include "shared_memory.h"
#include "thread.h"
#include "watch.h"

namespace gpuconv_emulator {

class Cluster;

class Block : public Context {
  public:
    Block(Cluster& cluster, Checker& checker)
        : checker(checker), cluster(cluster), threads(kMaxThreads), fibers(kMaxThreads, fiber_entry), shared_memory(checker) {}

    Checker& checker;  // the cluster's

    // Prepares for a launch. rank: the block's number in its cluster.
    void begin(const Launch& request, unsigned rank) {
        launch = &request;
        this->rank = rank;
        block_size = {request.block[0], request.block[1], request.block[2]};
        grid_size = {request.grid[0], request.grid[1], request.grid[2]};
        count = int(block_size.x * block_size.y * block_size.z);
        for (int i = 0; i < count; ++i) threads[i].index = index_of(i, block_size);
    }

    // Prepares to run the block with this number, counted x first. serial:
    // ThreadTime::block, by which the checker tells the blocks of a launch apart, cluster by cluster.
    void open(uint64_t number, uint32_t serial) {
        block = {unsigned(number % grid_size.x), unsigned(number / grid_size.x % grid_size.y),
                 unsigned(number / grid_size.x / grid_size.y)};
        this->serial = serial;
        count_banks = launch->checked && BankCounts::instance().enabled;
        barriers = arrived = 0;
        ready = live = count;
        paused = false;
        if (asynchronous) asynchronous.reset();
        memset(state, FRESH, count);
        order.begin(launch->seed, number, count);
        shared_memory.open(launch->shared_bytes, launch->checked, rank);
        fibers.free_all();
        fiber = fibers.take();
        start(*next_ready());
    }
    // Empty, or a fault that shows when the block has ended.
    std::string close() {
        if (count_banks) BankCounts::instance().add(launch->kernel, banks);
        const std::string fault = asynchronous ? unfinished_bulk_copy() : "";
        if (!fault.empty()) return fault;
        const std::string damage = shared_memory.damage();
        return damage.empty() ? "" : std::string("kernel ") + launch->kernel + ", block " + text(block) + ": " + damage;
    }
    bool can_run() const { return live > 0 && (ready > 0 || !paused); }

    // --- called by the running thread -----------------------------------------------------------

    void fence() {  // __threadfence
        if (launch->checked) checker.fenced.push_back(serial);
    }

    void access(const void* address, size_t bytes, Kind kind, uintptr_t pc) {
        if (!launch->checked || bytes == 0) return;
        if (fibers.contains(uintptr_t(address))) {
            if (asynchronous) access_register(static_cast<const char*>(address), bytes, kind, pc);
            return;
        }
        if (is_unchecked(uintptr_t(address)) || (asynchronous && asynchronous.computes)) return;
        if (count_banks && shared_memory.contains(uintptr_t(address))) banks.touch(running, uintptr_t(address), bytes, pc);
        if (asynchronous) check_no_mbarrier(static_cast<const char*>(address), bytes, pc);
        if (!checker.check(now(), uintptr_t(address), bytes, kind, pc)) fail(checker.message);
        if (kind != ASYNC && Watch::instance().enabled) watch(uintptr_t(address), bytes, kind, pc);  // finish() records ASYNC
    }

    // shared_variables.h
    void* shared(const void* key, const char* name, size_t bytes, size_t alignment);
    void* dynamic_shared(size_t alignment);
    unsigned shared_address(const void* pointer);
    void* shared_pointer(unsigned address);
    // barrier.h
    unsigned barrier(int predicate, Site site);
    // warp.h
    Lanes warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site);
    void together(void* data, void (*work)(void* const*), Site site);
    // async_copy.h
    void copy_async(void* destination, const void* source, size_t bytes, size_t valid, uintptr_t pc);
    void copy_commit();
    void copy_wait(int pending);
    // mbarrier.h
    void mbarrier_init(void* address, unsigned arrivals, Site site);
    void mbarrier_invalidate(void* address, Site site);
    void mbarrier_arrive(void* address, unsigned arrivals, unsigned bytes, Site site);
    void mbarrier_arrive_after_copies(void* address, Site site);
    void mbarrier_arrive_in(void* mine, unsigned rank, Site site);
    bool mbarrier_wait(void* address, unsigned parity, bool once, Site site);
    void mbarrier_fence_init();
    void proxy_fence();
    // named_barrier.h
    void named_barrier(unsigned number, unsigned arrivals, Site site);
    // bulk.h
    void bulk_piece(void* shared, void* global, size_t bytes);
    void bulk_load(void* barrier, Site site);
    void bulk_multicast(void* barrier, unsigned ranks, Site site);
    void bulk_store(Site site);
    void bulk_commit();
    void bulk_wait(unsigned pending);
    // warpgroup.h
    void warpgroup(Step step, unsigned number, const Wgmma* wgmma, Site site);
    void touch_operand(const void* address, size_t bytes);
    // cluster.h
    unsigned cluster_rank() const { return rank; }
    void cluster_sync(Site site);

    void watch(uintptr_t address, size_t bytes, Kind kind, uintptr_t pc) {
        Watch::instance().record(std::string(launch->kernel) + "\t" + text(block) + "\t" + text(threads[running].index) + "\t" +
                                     std::to_string(running / 32), checker, address, bytes, kind, pc);
    }

    // Ends the launch with an error that names the kernel, the block and the thread.
    [[noreturn]] void fail(const std::string& what) { fail(running, what); }
    [[noreturn]] void fail(int thread, const std::string& what) {
        running = thread;
        abandon(who() + ": " + what);
    }
    std::string who() const {
        return std::string("kernel ") + launch->kernel + ", block " + text(block) + ", thread " +
               text(threads[running].index) + (asynchronous ? " of warpgroup " + std::to_string(running / 128) : "");
    }

    // The processor reported an invalid address.
    [[noreturn]] void fail_at(uintptr_t address) {
        if (fibers.contains(address)) fail("stack overflow: local variables of more than 240 KB, or recursion");
        fail(std::string("out of bounds: an access at an address that does not exist") +
             (launch->checked ? "" : " (sanitize=\"checked\" names the line of a load or store)"));
    }

  private:
    // --- the order of threads -------------------------------------------------------------------

    static void fiber_entry() { static_cast<Block*>(gpuconv_context)->run_threads(); }

    // The main function of a fiber: runs a thread to its end, then the next one that has not started.
    [[noreturn]] void run_threads() {
        for (;;) {
            launch->entry(launch->arguments);
            state[running] = DONE;
            --live;
            Thread* next = next_ready();
            if (next && state[next - threads.data()] == FRESH) {
                start(*next);
                continue;
            }
            Fiber* self = fiber;
            fibers.give(self);
            if (next) resume(*next);
            self->switch_to(next ? *fiber : after_this_block());
        }
    }

    void wait(State reason, Site site) {
        Thread& self = threads[running];
        state[running] = reason;
        self.site = site;
        self.fiber = fiber;
        Thread* next = next_ready();
        Fiber* before = fiber;
        if (state[next - threads.data()] == FRESH) {
            fiber = fibers.take();
            start(*next);
        } else {
            resume(*next);
        }
        if (fiber != before) before->switch_to(*fiber);
    }

    void start(Thread& next) {
        next.copies.clear();
        next.copy_groups = 0;
        next.warp_syncs = 0;
        enter(next);
    }
    void resume(Thread& next) {
        fiber = next.fiber;
        enter(next);
    }
    void enter(Thread& next) {
        running = int(&next - threads.data());
        state[running] = RUNNING;
        thread = next.index;
    }

    // The next thread of the order that can run; null if all are done. If none can run, waiting threads are released first.
    // Releasing a thread restarts the order, so that one warp runs ahead of the others as far as its waits allow.
    Thread* next_ready() {
        while (ready == 0) {
            if (live == 0) return nullptr;
            if (!release()) pause();
        }
        --ready;
        int next;
        do next = order.next();
        while (state[next] > READY);
        return &threads[next];
    }

    void wake(int thread) {
        state[thread] = READY;
        ++ready;
        order.restart();
    }

    // --- clocks ---------------------------------------------------------------------------------

    ThreadTime now() const {
        const uint32_t step = checker.clocks.active ? checker.clocks.step(component()) : barriers + 1;
        return {serial, barriers, threads[running].warp_syncs, uint32_t(component()), step};
    }
    // The clock component of the running thread.
    int component() const { return first_thread() + running; }
    int first_thread() const { return rank ? int(checker.first_thread(rank)) : 0; }

    // --- members that other headers define --------------------------------------------------------

    // Marks functions that are never inlined, so that kernels without asynchronous work do not pay for them.
#define GPUCONV_RARE __attribute__((noinline, cold))
    // shared_variables.h
    void declare_shared(const void* key, const char* name, size_t offset, size_t bytes);
    void move_dynamic_shared();
    // barrier.h
    bool release();
    GPUCONV_RARE void synchronize_block();
    [[noreturn]] void fail_divergent();
    std::string describe(State which) const;
    // warp.h
    bool release_warp(int first);
    void complete_warp(int first, int leader, unsigned present, unsigned ballot);
    GPUCONV_RARE void synchronize_warp(int first, unsigned lanes);
    // async_copy.h
    void finish(const AsyncCopy& copy, const ThreadTime& when);
    GPUCONV_RARE void finish_copies_under_way();
    // effects.h
    void begin_asynchronous() {
        if (!asynchronous) start_asynchronous();
    }
    GPUCONV_RARE void start_asynchronous();
    void interleave();
    template <class Which>
    bool take_effect(Which which);
    GPUCONV_RARE bool give_up_polls();
    // mbarrier.h
    Mbarrier& mbarrier(void* address, const char* use, Site site) { return mbarrier_of(*this, address, use, site); }
    Mbarrier& mbarrier_of(Block& owner, void* address, const char* use, Site site);
    void arrive(Mbarrier& barrier, unsigned arrivals, const std::string& origin);
    void complete(Mbarrier& barrier);
    GPUCONV_RARE void check_no_mbarrier(const char* address, size_t bytes, uintptr_t pc);
    std::string missing(const Mbarrier& barrier) const;
    std::string name_of(const Mbarrier& barrier) const;
    // bulk.h
    void load(Block& to, void* address, std::vector<BulkPiece> pieces, Site site);
    std::string unfinished_bulk_copy();
    // warpgroup.h
    bool step_together(int group);
    void issue_wgmma(int group);
    void check_accumulators(int group, const Accumulators* sums);
    Accumulators& take_accumulators(int group);
    void finish_wgmma(int group);
    void wait_for_wgmma(int group, unsigned pending);
    bool change_registers(int group, unsigned number, bool more);
    GPUCONV_RARE void access_register(const char* address, size_t bytes, Kind kind, uintptr_t pc);
    // cluster.h
    friend class Cluster;
    GPUCONV_RARE void pause();
    GPUCONV_RARE void let_others_run();
    GPUCONV_RARE void switch_to(Block& next);
    Fiber& after_this_block();
    [[noreturn]] void abandon(const std::string& fault);
    Block& in_cluster(unsigned rank, const char* use, Site site);
    std::string ended_too_early();
    std::string of_block() const { return checker.of_block(rank); }  // " of block (1, 0, 0)"; empty without clusters
    // The same of another block; empty if it is this one.
    std::string of_other_block(const Block& block) const { return &block == this ? "" : block.of_block(); }
    // deadlock.h
    std::string waits_for(int thread) const;
    std::string cluster_sync_lacks() const;

    // Whether an address needs no check: it belongs to the built-in variables, or to the kernel's constants and globals.
    bool is_unchecked(uintptr_t address) const {
        return address - uintptr_t(this) < sizeof *this || address == uintptr_t(&gpuconv_context) ||
               checker.in_image(address);
    }

    Cluster& cluster;
    const Launch* launch = nullptr;
    unsigned rank = 0;
    bool paused = false;  // whether only another block, or asynchronous work, can let a thread run
    int count = 0;    // threads of the block
    int ready = 0;    // those that can run: FRESH or READY
    int live = 0;     // those that have not ended
    int arrived = 0;  // those that wait at the barrier
    int running = 0;  // the number of the running thread
    int predicates = 0, predicates_of_all = 0;  // how many are not 0, at the current barrier so far and at the last one
    uint32_t serial = 0;    // ThreadTime::block
    uint32_t barriers = 0;  // that the block has passed
    bool count_banks = false;
    Asynchronous asynchronous;
    Banks banks;
    Site barrier_site{};  // where the threads that have arrived wait
    uint8_t state[kMaxThreads];  // a State for each thread
    Order order;
    std::vector<Thread> threads;
    Fibers fibers;
    Fiber* fiber = nullptr;  // of the running thread
    SharedMemory shared_memory;
};

}  // namespace gpuconv_emulator
