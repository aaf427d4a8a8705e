// Runs one block: its threads, barriers, warp operations and shared memory. cluster.h runs the blocks of a cluster in turns; an
// ordinary block is a cluster of its own.
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
#include "memory.h"
#include "watch.h"

namespace gpuconv_emulator {

constexpr size_t kSharedCapacity = 232448;  // 227 KB, the limit of a block on sm_90 and sm_100
constexpr size_t kStaticCapacity = 48 * 1024;
constexpr size_t kSharedGuard = 64;
constexpr int kPoison = 0xff;  // a NaN in every floating-point type

struct Launch {
    void (*entry)(void**);
    void** arguments;
    const char* kernel;
    unsigned grid[3], block[3], cluster;
    size_t shared_bytes;
    uint64_t seed;  // 0: blocks and threads in their order; else a random order, for threads drawn again after each barrier
    int workers;
    int checked;
    int region_count;
    struct {
        const char* name;
        void* base;
        size_t bytes;
    }* regions;
};

enum State : uint8_t {
    FRESH, READY, RUNNING, AT_BARRIER, IN_WARP, AT_MBARRIER, AT_NAMED_BARRIER, AT_CLUSTER_SYNC, IN_WARPGROUP, DONE
};

struct Thread {
    uint3 index;
    Fiber* fiber;
    Site site;  // where it waits
    Collective operation;
    unsigned mask, source;
    uint64_t value;  // what the lane passes to the warp operation; for TOGETHER the address of its data
    void (*work)(void* const*);  // for TOGETHER: the function, which takes these addresses
    Lanes lanes;  // what the warp operation returned
    uint32_t warp_syncs;
    int copy_groups;
    std::vector<AsyncCopy> copies;
};

struct SharedVariable {
    const void* key;
    const char* name;
    char* base;
    size_t bytes;
};

class Cluster;

class Block : public Context {
  public:
    Block(Cluster& cluster, Checker& checker)
        : checker(checker), cluster(cluster), threads(kMaxThreads), fibers(kMaxThreads), stacks(kMaxThreads), arena(kArena) {}

    Checker& checker;  // the cluster's

    // rank: the block's number in its cluster
    void begin(const Launch& request, unsigned rank) {
        launch = &request;
        this->rank = rank;
        block_size = {request.block[0], request.block[1], request.block[2]};
        grid_size = {request.grid[0], request.grid[1], request.grid[2]};
        count = int(block_size.x * block_size.y * block_size.z);
        for (int i = 0; i < count; ++i)
            threads[i].index = index_of(i, block_size);
    }

    // Prepares to run the block with this index, counted x first. serial: the block's number for the checker (Now::block).
    void open(uint64_t number, uint32_t serial) {
        block = {unsigned(number % grid_size.x), unsigned(number / grid_size.x % grid_size.y),
                 unsigned(number / grid_size.x / grid_size.y)};
        this->serial = serial;
        count_banks = launch->checked && BankCounts::instance().enabled;
        barriers = arrived = 0;
        ready = live = count;
        paused = false;
        random = launch->seed + number * 0x9e3779b97f4a7c15;
        if (asynchronous) asynchronous.reset();
        memset(state, FRESH, count);
        for (int i = 0; i < count; ++i) order[i] = uint16_t(i);
        shuffle();
        open_shared();
        free_fibers.clear();
        for (int i = fibers_in_use; i-- > 0;) free_fibers.push_back(&fibers[i]);
        fiber = take_fiber();
        start(*next_ready());
    }
    // Empty, or a fault that shows when the block has ended.
    std::string close() {
        if (count_banks) BankCounts::instance().add(launch->kernel, banks);
        const std::string fault = asynchronous ? end_asynchronous() : "";
        return fault.empty() ? damage_to_shared() : fault;
    }
    bool can_run() const { return live > 0 && (ready > 0 || !paused); }

    // --- called by the running thread -----------------------------------------------------------

    unsigned barrier(int predicate, Site site) {
        if (arrived && (site.line != barrier_site.line || strcmp(site.file, barrier_site.file)))
            fail("divergent barrier: waits at " + place(site) + " while others wait elsewhere" + describe(AT_BARRIER));
        barrier_site = site;
        if (arrived++ == 0) predicates = 0;
        predicates += predicate != 0;
        wait(AT_BARRIER, site);
        return predicates_of_all;
    }

    Lanes warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site) {
        Thread& self = threads[running];
        const int lane = running % 32, first = running - lane;
        if (!(mask >> lane & 1)) fail("a warp operation whose mask lacks the calling lane, at " + place(site));
        self.operation = operation;
        self.mask = mask;
        self.value = value;
        self.source = source;
        self.site = site;
        state[running] = IN_WARP;
        complete(first);
        if (state[running] == READY) {  // the last to arrive continues
            --ready;
            state[running] = RUNNING;
        } else {
            wait(IN_WARP, site);
        }
        return self.lanes;
    }

    // Calls `work` once with the addresses of all 32 lanes' data, when every lane has arrived.
    void together(void* brought, void (*work)(void* const*), Site site) {
        const int first = running - running % 32;
        for (int lane = 0; lane < 32; ++lane)
            if (first + lane >= count || state[first + lane] == DONE)
                fail("divergent warp operation: " + place(site) + " takes all 32 lanes of a warp, and lane " +
                     std::to_string(lane) + (first + lane >= count ? " does not exist" : " has exited"));
        threads[running].work = work;
        warp(TOGETHER, ~0u, uint64_t(brought), ~0u, site);
    }

    void* shared(const void* key, const char* name, size_t bytes, size_t alignment) {
        for (const SharedVariable& variable : variables)
            if (variable.key == key) return variable.base;
        // A checked kernel receives no better alignment than it requested.
        const size_t step = std::max(alignment, size_t(16));
        char* base = shared_end + (step - uintptr_t(shared_end) % step) % step;
        if (launch->checked && alignment < 16) base += alignment;
        if (static_bytes + bytes > kStaticCapacity)
            fail("more than 48 KB of static shared memory (use extern __shared__): " + std::string(name));
        if (static_bytes + bytes + launch->shared_bytes > kSharedCapacity)
            fail("more than 227 KB of shared memory: " + std::string(name));
        declare_shared(key, name, base - window(), bytes);
        return base;
    }

    void* dynamic_shared(size_t alignment) {
        if (alignment > kWindow) fail("dynamic shared memory is aligned to 1024 bytes at most");
        if (uintptr_t(dynamic_base) % alignment) move_dynamic_shared();
        dynamic_given = true;
        return dynamic_base;
    }

    unsigned shared_address(const void* pointer) {
        const uintptr_t offset = uintptr_t(pointer) - uintptr_t(window());
        if (offset >= kArena) fail("takes an address of shared memory, received another one");
        return unsigned(offset);
    }
    void* shared_pointer(unsigned address) {
        if (address >= kSharedCapacity + 2 * kWindow)
            fail("out of bounds: reads shared memory at address " + std::to_string(address) + ", past its end");
        return window() + address;
    }

    void copy_async(void* destination, const void* source, size_t bytes, size_t valid, uintptr_t pc) {
        if ((bytes != 4 && bytes != 8 && bytes != 16) || uintptr_t(destination) % bytes || uintptr_t(source) % bytes)
            fail("an asynchronous copy moves 4, 8 or 16 bytes between addresses aligned to as many");
        if (valid) access(source, valid, READ, pc);
        access(destination, bytes, ASYNC, pc);
        memset(destination, kPoison, bytes);
        Thread& self = threads[running];
        self.copies.push_back({static_cast<char*>(destination), static_cast<const char*>(source), bytes, valid,
                               self.copy_groups, pc});
    }
    void copy_commit() { ++threads[running].copy_groups; }
    void copy_wait(int pending) {
        if (asynchronous) finish_copies_under_way();
        Thread& self = threads[running];
        size_t kept = 0;
        for (const AsyncCopy& copy : self.copies)
            if (copy.group < self.copy_groups - pending) finish(copy, now());
            else self.copies[kept++] = copy;
        self.copies.resize(kept);
    }

    void fence() {  // __threadfence
        if (launch->checked) checker.fenced.push_back(serial);
    }

    void access(const void* address, size_t bytes, Kind kind, uintptr_t pc) {
        if (!launch->checked || bytes == 0) return;
        if (stacks.contains(uintptr_t(address))) {
            if (asynchronous) access_register(static_cast<const char*>(address), bytes, kind, pc);
            return;
        }
        if (own(uintptr_t(address)) || (asynchronous && asynchronous.computes)) return;
        if (count_banks && uintptr_t(address) - uintptr_t(arena.data()) < kArena) banks.touch(running, uintptr_t(address), bytes, pc);
        if (asynchronous) check_no_mbarrier(static_cast<const char*>(address), bytes, pc);
        if (!checker.check(now(), uintptr_t(address), bytes, kind, pc)) fail(checker.message);
        if (Watch::instance().enabled) watch(uintptr_t(address), bytes, kind, pc);
    }

    // mbarrier.h
    void mbarrier_init(void* address, unsigned arrivals, Site site);
    void mbarrier_invalidate(void* address, Site site);
    void mbarrier_arrive(void* address, unsigned arrivals, unsigned bytes, Site site);
    void mbarrier_arrive_after_copies(void* address, Site site);
    bool mbarrier_wait(void* address, unsigned parity, bool once, Site site);
    void mbarrier_fence_init();
    void proxy_fence();
    void named_barrier(unsigned number, unsigned arrivals, Site site);
    // bulk.h
    void bulk_piece(void* shared, void* global, size_t bytes) {
        asynchronous.pieces.push_back({static_cast<char*>(shared), static_cast<char*>(global), bytes});
    }
    void bulk_load(void* barrier, Site site);
    void bulk_multicast(void* barrier, unsigned ranks, Site site);
    void bulk_store(Site site);
    void bulk_commit();
    void bulk_wait(unsigned pending);
    std::string end_asynchronous();
    // warpgroup.h
    void warpgroup(Step step, unsigned number, const Wgmma* wgmma, Site site);
    void touch_operand(const void* address, size_t bytes);
    // cluster.h
    unsigned cluster_rank() const { return rank; }
    void cluster_sync(Site site);
    void mbarrier_arrive_in(void* mine, unsigned rank, Site site);

    void watch(uintptr_t address, size_t bytes, Kind kind, uintptr_t pc) {
        Watch& watch = Watch::instance();
        const std::string here = std::string(launch->kernel) + "\t" + text(block) + "\t" + text(threads[running].index) +
                                 "\t" + std::to_string(running / 32);
        if (kind != READ && watch.covers(address, bytes)) watch.writes.push_back("wrote\t" + here + "\t" + checker.place(pc));
        if (here != watch.thread) return;
        const auto [name, offset] = checker.region_of(address);
        Watch::Tally& tally = watch.touched[name];
        tally.first = std::min(tally.first, uint64_t(offset));
        tally.last = std::max(tally.last, uint64_t(offset + bytes - 1));
        (kind == READ ? tally.read : tally.written) += bytes;
    }

    // Ends the launch with an error that names the kernel, the block and the thread.
    [[noreturn]] void fail(const std::string& what) {
        fail(running, what);
    }
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
        if (stacks.contains(address)) fail("stack overflow: local variables of more than 240 KB, or recursion");
        fail("out of bounds: an access at an address that does not exist (sanitize=\"checked\" names the line)");
    }

  private:
    static constexpr size_t kArena = kSharedCapacity + 64 * 1024;  // space for guards and alignment

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
            free_fibers.push_back(self);
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
            fiber = take_fiber();
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

    // The next thread that can run, after `position` in the order; null if all are done. If none can run, waiting threads are
    // released first. Releasing a thread restarts the search at the first thread of the order, so that one warp runs ahead of
    // the others as far as its waits allow.
    Thread* next_ready() {
        while (ready == 0) {
            if (live == 0) return nullptr;
            if (!release()) pause();
        }
        --ready;
        do {
            position = position + 1 == count ? 0 : position + 1;
        } while (state[order[position]] > READY);
        return &threads[order[position]];
    }

    void wake(int thread) {
        state[thread] = READY;
        ++ready;
        position = count - 1;
    }

    bool release() {
        if (arrived == count) {
            memset(state, READY, count);
            ready = count;
            arrived = 0;
            predicates_of_all = predicates;
            ++barriers;
            if (checker.clocks.active) synchronize_block();
            shuffle();
            if (launch->cluster > 1) let_others_run();
            return true;
        }
        bool any = false;  // whether a warp continues, because the lanes that it waited for have exited
        for (int first = 0; first < count; first += 32) any |= complete(first);
        return any;
    }

    // Releases the lanes of a warp that wait for each other, if all of them have arrived.
    bool complete(int first) {
        bool any = false;
        const int lanes = std::min(32, count - first);
        unsigned incomplete = 0;  // lanes that wait for others that have not arrived
        for (int lane = 0; lane < lanes; ++lane) {
            if (state[first + lane] != IN_WARP || (incomplete >> lane & 1)) continue;
            bool alike = true;
            const Thread& leader = threads[first + lane];
            unsigned present = 0, expected = 0, ballot = 0;
            for (int other = 0; other < lanes; ++other) {
                if (!(leader.mask >> other & 1) || state[first + other] == DONE) continue;
                const Thread& peer = threads[first + other];
                expected |= 1u << other;
                if (state[first + other] != IN_WARP) continue;
                if (peer.operation != leader.operation || peer.mask != leader.mask || peer.site.line != leader.site.line) {
                    alike = false;
                    if (!(peer.mask >> lane & 1)) continue;  // it waits for other lanes
                    fail(first + lane, "divergent warp operation: lane " + std::to_string(lane) + " is at " +
                                           place(leader.site) + ", lane " + std::to_string(other) + " at " +
                                           place(peer.site));
                }
                present |= 1u << other;
                if (peer.value) ballot |= 1u << other;
            }
            if (present != expected) {
                if (alike) incomplete |= present;
                continue;
            }
            for (int other = 0; other < lanes; ++other) {
                if (!(present >> other & 1)) continue;
                Thread& peer = threads[first + other];
                if (peer.operation == SHUFFLE && !(present >> peer.source & 1))
                    fail(first + other, "a shuffle at " + place(peer.site) + " reads lane " + std::to_string(peer.source) +
                         ", which does not take part");
                peer.lanes = {peer.operation == SHUFFLE ? threads[first + peer.source].value : 0, ballot, present};
            }
            if (leader.operation == TOGETHER) {
                void* brought[32];
                for (int other = 0; other < 32; ++other) brought[other] = reinterpret_cast<void*>(threads[first + other].value);
                leader.work(brought);
            }
            for (int other = 0; other < lanes; ++other)
                if (present >> other & 1) {
                    state[first + other] = READY;
                    ++threads[first + other].warp_syncs;
                    ++ready;
                }
            position = count - 1;
            if (checker.clocks.active) synchronize_warp(first, present);
            any = true;
        }
        return any;
    }

    // Draws a new order, with a seed: at random, either all threads are shuffled, or only the warps.
    void shuffle() {
        position = count - 1;
        if (launch->seed == 0) return;
        shuffle(order, count);
        if (draw() & 1) return;
        const int warps = (count + 31) / 32;
        uint16_t warp_order[kMaxThreads / 32];
        for (int i = 0; i < warps; ++i) warp_order[i] = uint16_t(i);
        shuffle(warp_order, warps);
        std::sort(order, order + count, [&](int a, int b) {
            return a / 32 == b / 32 ? a < b : warp_order[a / 32] < warp_order[b / 32];
        });
    }
    void shuffle(uint16_t* items, int n) {
        for (int i = n - 1; i > 0; --i) std::swap(items[i], items[draw() % uint32_t(i + 1)]);
    }
    uint32_t draw() {
        random = random * 6364136223846793005 + 1442695040888963407;
        return uint32_t(random >> 33);
    }

    Fiber* take_fiber() {
        if (free_fibers.empty()) {
            Fiber& fresh = fibers[fibers_in_use];
            stacks.place(fresh, fibers_in_use++, fiber_entry);
            return &fresh;
        }
        Fiber* taken = free_fibers.back();
        free_fibers.pop_back();
        return taken;
    }

    void reset_fibers() {
        for (int i = 0; i < fibers_in_use; ++i) stacks.place(fibers[i], i, fiber_entry);
    }

    [[noreturn]] void fail_divergent() {
        int first = 0;
        while (state[first] == DONE) ++first;
        const bool at_barrier = state[first] == AT_BARRIER;
        fail(first, std::string("divergent ") + (at_barrier ? "barrier" : "warp operation") + ": waits at " +
             place(threads[first].site) + " for threads that never come" + describe(AT_BARRIER) + describe(IN_WARP) +
             describe(DONE));
    }

    // "; 40 of 64 threads are at a barrier: (0, 0, 0) at k.cu:7, ..."
    std::string describe(State which) const {
        std::string list;
        int found = 0;
        for (int i = 0; i < count; ++i) {
            if (state[i] != which || found++ >= 4) continue;
            list += (found == 1 ? " " : ", ") + text(threads[i].index);
            if (which != DONE) list += " at " + place(threads[i].site);
        }
        if (!found) return {};
        const char* what = which == DONE ? "exited:" : which == IN_WARP ? "are in a warp operation:" : "are at a barrier:";
        return "; " + std::to_string(found) + " of " + std::to_string(count) + " threads " + what + list +
               (found > 4 ? ", ..." : "");
    }

    // --- asynchronous work: mbarrier.h, warpgroup.h, bulk.h -------------------------------------

    Now now() const {
        const uint32_t step = checker.clocks.active ? checker.clocks.step(component()) : barriers + 1;
        return {serial, barriers, threads[running].warp_syncs, uint32_t(component()), step};
    }
    // The clock component of the running thread.
    int component() const { return first_thread() + running; }
    int first_thread() const { return rank ? int(checker.first_thread(rank)) : 0; }
    void finish(const AsyncCopy& copy, const Now& when) {
        memcpy(copy.destination, copy.source, copy.valid);
        memset(copy.destination + copy.valid, 0, copy.bytes - copy.valid);
        if (!launch->checked) return;
        if (!checker.check(when, uintptr_t(copy.destination), copy.bytes, WRITE, copy.pc)) fail(checker.message);
        if (Watch::instance().enabled) watch(uintptr_t(copy.destination), copy.bytes, WRITE, copy.pc);
    }
    // Marks functions that are never inlined, so that kernels without asynchronous work do not pay for them.
#define GPUCONV_RARE __attribute__((noinline, cold))
    GPUCONV_RARE void synchronize_block() {
        checker.clocks.synchronize(first_thread(), first_thread() + count, [](int) { return true; });
    }
    GPUCONV_RARE void synchronize_warp(int first, unsigned lanes) {
        const int base = first_thread() + first;
        checker.clocks.synchronize(base, base + std::min(32, count - first), [=](int i) { return lanes >> (i - base) & 1; });
    }
    // cluster.h
    friend class Cluster;
    GPUCONV_RARE void pause();
    GPUCONV_RARE void let_others_run();
    GPUCONV_RARE void switch_to(Block& next);
    Fiber& after_this_block();
    void declare_shared(const void* key, const char* name, size_t offset, size_t bytes);
    void move_dynamic_shared();
    [[noreturn]] void abandon(const std::string& fault);
    Block& in_cluster(unsigned rank, const char* use, Site site);
    std::string ended_too_early();

    std::string of_block() const { return checker.of_block(rank); }  // " of block (1, 0, 0)"; empty without clusters
    // The same of another block; empty if it is this one.
    std::string of_other_block(const Block& block) const { return &block == this ? "" : block.of_block(); }
    GPUCONV_RARE bool give_up_polls();
    GPUCONV_RARE void finish_copies_under_way();
    void begin_asynchronous() {
        if (!asynchronous) start_asynchronous();
    }
    GPUCONV_RARE void start_asynchronous();
    void interleave();
    template <class Which>
    bool take_effect(Which which);
    Mbarrier& mbarrier(void* address, const char* use, Site site) { return mbarrier_of(*this, address, use, site); }
    Mbarrier& mbarrier_of(Block& owner, void* address, const char* use, Site site);
    void load(Block& to, void* address, std::vector<BulkPiece> pieces, Site site);
    void arrive(Mbarrier& barrier, unsigned arrivals, const std::string& who);
    void complete(Mbarrier& barrier);
    GPUCONV_RARE void check_no_mbarrier(const char* address, size_t bytes, uintptr_t pc);
    std::string missing(const Mbarrier& barrier) const;
    std::string name_of(const Mbarrier& barrier) const;
    std::string cluster_sync_lacks() const;
    std::string shared_name(const void* address) const;
    bool step_together(int group);
    void issue_wgmma(int group);
    void finish_wgmma(int group);
    void wait_for_wgmma(int group, unsigned pending);
    bool change_registers(int group, unsigned number, bool more);
    GPUCONV_RARE void access_register(const char* address, size_t bytes, Kind kind, uintptr_t pc);
    std::string waits_for(int thread) const;

    char* window() const { return const_cast<char*>(arena.data()) + kWindow - uintptr_t(arena.data()) % kWindow; }

    // --- shared memory --------------------------------------------------------------------------
    // Each variable is followed by a guard, and is poisoned when the block first uses it.

    void open_shared() {
        close_shared();
        static_bytes = 0;
        // Dynamic memory is aligned to 256 bytes and no more; `dynamic_shared` moves it for a declaration that requests more.
        dynamic_base = window() + kAlignment;
        dynamic_given = false;
        add_shared(nullptr, "dynamic memory", dynamic_base, launch->shared_bytes);
        shared_end = window() + 2 * kWindow + launch->shared_bytes;
    }

    void close_shared() {
        shared_end = nullptr;
        if (auto unpoison = AddressSanitizer::instance().unpoison) unpoison(arena.data(), kArena);
        variables.clear();
    }

    void add_shared(const void* key, const char* name, char* base, size_t bytes) {
        memset(base, kPoison, bytes);
        memset(base + bytes, kGuard, kSharedGuard);
        if (auto poison = AddressSanitizer::instance().poison) poison(base + bytes, kSharedGuard);
        variables.push_back({key, name, base, bytes});
        shared_end = std::max(shared_end, base + bytes + kSharedGuard);
        if (launch->checked) {
            checker.add({name, uintptr_t(base), bytes, true, rank});
            checker.sort();
        }
    }

    std::string damage_to_shared() const {
        if (AddressSanitizer::instance().poison) return {};
        for (const SharedVariable& variable : variables)
            for (size_t i = 0; i < kSharedGuard; ++i)
                if (static_cast<unsigned char>(variable.base[variable.bytes + i]) != kGuard)
                    return std::string("kernel ") + launch->kernel + ", block " + text(block) + ": out of bounds: a write " +
                           std::to_string(i) + " bytes past the end of shared " + variable.name;
        return {};
    }

    // Whether an address belongs to the built-in variables, or to the kernel's own constants and globals.
    bool own(uintptr_t address) const {
        return address - uintptr_t(this) < sizeof *this || address == uintptr_t(&gpuconv_context) ||
               checker.in_image(address);
    }

    Cluster& cluster;
    const Launch* launch = nullptr;
    unsigned rank = 0;
    bool paused = false;  // whether only another block, or asynchronous work, can let a thread run
    int count = 0, ready = 0, live = 0, arrived = 0, position = 0, running = 0, fibers_in_use = 0;
    int predicates = 0, predicates_of_all = 0;
    uint32_t serial = 0, barriers = 0;
    bool count_banks = false;
    Asynchronous asynchronous;
    Banks banks;
    uint64_t random = 0;
    Site barrier_site{};
    uint8_t state[kMaxThreads];
    uint16_t order[kMaxThreads];
    std::vector<Thread> threads;
    std::vector<Fiber> fibers;
    std::vector<Fiber*> free_fibers;
    Stacks stacks;
    Fiber* fiber = nullptr;
    std::vector<char> arena;
    char *shared_end = nullptr, *dynamic_base = nullptr;
    bool dynamic_given = false;
    size_t static_bytes = 0;
    std::vector<SharedVariable> variables;
};

}  // namespace gpuconv_emulator
