// The emulator's runtime: the functions that kernels (abi.h) and Python (native.py) call. Compiled once, on its own.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "block.h"
#include "bulk.h"
#include "cluster.h"
#include "mbarrier.h"
#include "signals.h"
#include "warp.h"
#include "warpgroup.h"

#ifdef __linux__
#include <link.h>
#endif

thread_local gpuconv_emulator::Context* gpuconv_context GPUCONV_TLS = nullptr;

namespace gpuconv_emulator {

// Clusters keep their blocks' stacks from launch to launch.
class Pool {
  public:
    static Pool& instance() {
        static Pool* pool = new Pool;
        return *pool;
    }
    std::unique_ptr<Cluster> take() {
        std::lock_guard<std::mutex> lock(mutex);
        if (idle.empty()) return std::make_unique<Cluster>();
        auto cluster = std::move(idle.back());
        idle.pop_back();
        return cluster;
    }
    void give(std::unique_ptr<Cluster> cluster) {
        std::lock_guard<std::mutex> lock(mutex);
        idle.push_back(std::move(cluster));
    }

  private:
    std::mutex mutex;
    std::vector<std::unique_ptr<Cluster>> idle;
};

// The range of addresses of the library that contains `address`: its code, constants and globals. Empty except on Linux.
inline void find_image(const void* address, uintptr_t& begin, uintptr_t& end) {
#ifdef __linux__
    uintptr_t search[3] = {uintptr_t(address), 0, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* search = static_cast<uintptr_t*>(data);
            uintptr_t low = ~uintptr_t(0), high = 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD) continue;
                low = std::min(low, uintptr_t(info->dlpi_addr + segment.p_vaddr));
                high = std::max(high, uintptr_t(info->dlpi_addr + segment.p_vaddr + segment.p_memsz));
            }
            if (search[0] < low || search[0] >= high) return 0;
            search[1] = low;
            search[2] = high;
            return 1;
        },
        search);
    begin = search[1];
    end = search[2];
#else
    (void)address, (void)begin, (void)end;
#endif
}

inline void prepare_checker(Checker& checker, const Launch& launch) {
    checker.forget();
    find_image(reinterpret_cast<const void*>(launch.entry), checker.image_begin, checker.image_end);
    std::vector<Region> arguments;
    for (int i = 0; i < launch.region_count; ++i)
        arguments.push_back({launch.regions[i].name, uintptr_t(launch.regions[i].base), launch.regions[i].bytes});
    // Adds every other live buffer, as a whole, because tables of pointers may refer to it.
    Memory::instance().for_each([&](uintptr_t base, size_t bytes) {
        for (const Region& argument : arguments)
            if (argument.base >= base && argument.base < base + std::max(bytes, size_t(1))) return;
        checker.add({"a buffer that is no argument", base, bytes});
    });
    // Views of one buffer may overlap (an output written over its input): one region covers them all.
    std::sort(arguments.begin(), arguments.end(), [](const Region& a, const Region& b) { return a.base < b.base; });
    for (size_t i = 0; i < arguments.size();) {
        Region covered = arguments[i++];
        for (; i < arguments.size() && arguments[i].base < covered.base + covered.bytes; ++i)
            covered.bytes = std::max(covered.bytes, arguments[i].base + arguments[i].bytes - covered.base);
        checker.add(covered);
    }
    checker.sort();
}

class Run {
  public:
    explicit Run(const Launch& launch) : launch(launch) {
        clusters = uint64_t(launch.grid[0]) / launch.cluster * launch.grid[1] * launch.grid[2];
        if (launch.seed) {
            order.resize(clusters);
            Random random{launch.seed};
            for (uint64_t i = 0; i < clusters; ++i) {
                const uint64_t j = random.draw() % (i + 1);
                order[i] = order[j];
                order[j] = i;
            }
        }
    }

    std::string operator()() {
        std::unique_ptr<FaultHandlers> handlers;
        if (auto on_death = AddressSanitizer::instance().on_death) on_death(name_the_thread);
        else handlers = std::make_unique<FaultHandlers>();
        const uint64_t workers = launch.checked ? 1 : std::min<uint64_t>(clusters, launch.workers);
        std::vector<std::thread> others;
        for (uint64_t i = 1; i < workers; ++i) others.emplace_back([this] { work(); });
        work();
        for (auto& other : others) other.join();
        return message;
    }

  private:
    static void name_the_thread() {
        if (auto* block = static_cast<Block*>(gpuconv_context)) fprintf(stderr, "%s\n", block->who().c_str());
    }

    void work() {
        SignalStack stack;
        auto cluster = Pool::instance().take();
        cluster->begin(launch);
        gpuconv_context = cluster->blocks[0];
        if (launch.checked) prepare_checker(cluster->checker, launch);
        for (uint64_t i; (i = next++) < clusters && i < failed_at;) {
            if (cluster->run(order.empty() ? i : order[i])) continue;
            std::lock_guard<std::mutex> lock(mutex);
            if (i < failed_at) {  // of several faults, always report the same one
                failed_at = i;
                message = cluster->message;
            }
            cluster->message.clear();
        }
        cluster->checker.forget();
        gpuconv_context = nullptr;
        Pool::instance().give(std::move(cluster));
    }

    const Launch& launch;
    uint64_t clusters;
    std::vector<uint64_t> order;
    std::atomic<uint64_t> next{0}, failed_at{~uint64_t(0)};
    std::mutex mutex;
    std::string message;
};

inline Block& here() { return *static_cast<Block*>(gpuconv_context); }
inline void observe(const void* address, size_t bytes, Kind kind, void* pc) {
    if (gpuconv_context) here().access(address, bytes, kind, uintptr_t(pc));
}

}  // namespace gpuconv_emulator

using namespace gpuconv_emulator;

// --- for kernels --------------------------------------------------------------------------------

#define HERE __builtin_return_address(0)

extern "C" {

unsigned gpuconv_barrier(int predicate, Site site) { return here().barrier(predicate, site); }
Lanes gpuconv_warp(Collective operation, unsigned mask, uint64_t value, unsigned source, Site site) {
    return here().warp(operation, mask, value, source, site);
}
void gpuconv_together(void* data, void (*work)(void* const*), Site site) { here().together(data, work, site); }
void* gpuconv_shared(const void* key, const char* name, size_t bytes, size_t alignment) {
    return here().shared(key, name, bytes, alignment);
}
void* gpuconv_dynamic_shared(size_t alignment) { return here().dynamic_shared(alignment); }
void gpuconv_copy_async(void* destination, const void* source, size_t bytes, size_t valid) {
    here().copy_async(destination, source, bytes, valid, uintptr_t(HERE));
}
void gpuconv_copy_commit() { here().copy_commit(); }
void gpuconv_copy_wait(int pending) { here().copy_wait(pending); }
void gpuconv_fence() { here().fence(); }
unsigned gpuconv_shared_address(const void* pointer) { return here().shared_address(pointer); }
void* gpuconv_shared_pointer(unsigned address) { return here().shared_pointer(address); }
void gpuconv_mbarrier_init(void* barrier, unsigned arrivals, Site site) { here().mbarrier_init(barrier, arrivals, site); }
void gpuconv_mbarrier_invalidate(void* barrier, Site site) { here().mbarrier_invalidate(barrier, site); }
void gpuconv_mbarrier_arrive(void* barrier, unsigned arrivals, unsigned bytes, Site site) {
    here().mbarrier_arrive(barrier, arrivals, bytes, site);
}
void gpuconv_mbarrier_arrive_after_copies(void* barrier, Site site) { here().mbarrier_arrive_after_copies(barrier, site); }
int gpuconv_mbarrier_wait(void* barrier, unsigned parity, int once, Site site) {
    return here().mbarrier_wait(barrier, parity, once != 0, site);
}
void gpuconv_mbarrier_fence_init() { here().mbarrier_fence_init(); }
void gpuconv_proxy_fence() { here().proxy_fence(); }
void gpuconv_bulk_piece(void* shared, void* global, size_t bytes) { here().bulk_piece(shared, global, bytes); }
void gpuconv_bulk_load(void* barrier, Site site) { here().bulk_load(barrier, site); }
void gpuconv_bulk_multicast(void* barrier, unsigned ranks, Site site) { here().bulk_multicast(barrier, ranks, site); }
void gpuconv_bulk_store(Site site) { here().bulk_store(site); }
void gpuconv_bulk_commit() { here().bulk_commit(); }
void gpuconv_bulk_wait(int pending) { here().bulk_wait(unsigned(pending)); }
void gpuconv_named_barrier(unsigned number, unsigned threads, Site site) { here().named_barrier(number, threads, site); }
void gpuconv_wgmma(const Wgmma* wgmma, Site site) { here().warpgroup(Step::MULTIPLY, unsigned(wgmma->sum_bytes), wgmma, site); }
void gpuconv_warpgroup(Step step, unsigned number, Site site) { here().warpgroup(step, number, nullptr, site); }
unsigned gpuconv_cluster_rank() { return here().cluster_rank(); }
void gpuconv_cluster_sync(Site site) { here().cluster_sync(site); }
void gpuconv_mbarrier_arrive_in(void* mine, unsigned rank, Site site) { here().mbarrier_arrive_in(mine, rank, site); }
void gpuconv_atomic(void* address, size_t bytes) { observe(address, bytes, ATOMIC, HERE); }
void gpuconv_fail(const char* what, Site site) {
    const char* slash = strrchr(site.file, '/');
    here().fail(std::string(what) + ", at " + (slash ? slash + 1 : site.file) + ":" + std::to_string(site.line));
}

// --- for the compiler's instrumentation ---------------------------------------------------------

#define GPUCONV_HOOKS(n)                                                            \
    void __tsan_read##n(void* p) { observe(p, n, READ, HERE); }                     \
    void __tsan_write##n(void* p) { observe(p, n, WRITE, HERE); }                   \
    void __tsan_read_write##n(void* p) { observe(p, n, READ, HERE), observe(p, n, WRITE, HERE); }
#define GPUCONV_UNALIGNED_HOOKS(n)                                                  \
    void __tsan_unaligned_read##n(void* p) { observe(p, n, READ, HERE); }           \
    void __tsan_unaligned_write##n(void* p) { observe(p, n, WRITE, HERE); }         \
    void __tsan_unaligned_read_write##n(void* p) { observe(p, n, READ, HERE), observe(p, n, WRITE, HERE); }
GPUCONV_HOOKS(1)
GPUCONV_HOOKS(2)
GPUCONV_HOOKS(4)
GPUCONV_HOOKS(8)
GPUCONV_HOOKS(16)
GPUCONV_UNALIGNED_HOOKS(2)
GPUCONV_UNALIGNED_HOOKS(4)
GPUCONV_UNALIGNED_HOOKS(8)
GPUCONV_UNALIGNED_HOOKS(16)
void __tsan_read_range(void* p, size_t n) { observe(p, n, READ, HERE); }
void __tsan_write_range(void* p, size_t n) { observe(p, n, WRITE, HERE); }
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    observe(from, n, READ, HERE);
    observe(to, n, WRITE, HERE);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    observe(from, n, READ, HERE);
    observe(to, n, WRITE, HERE);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
    observe(to, n, WRITE, HERE);
    return memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// UndefinedBehaviorSanitizer's handlers. The data of each begins with a source position; most read nothing else.
struct Place {
    const char* file;
    uint32_t line, column;
};
struct TypeMismatch {
    Place place;
    const void* type;
    unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, uintptr_t address) {
    const Site site{data->place.file, int(data->place.line)};
    if (address == 0) gpuconv_fail("out of bounds: an access through a null pointer", site);
    const std::string alignment = std::to_string(1 << data->log_alignment);
    gpuconv_fail(("an address is not aligned to the " + alignment + " bytes that its type requires").c_str(), site);
}
#define GPUCONV_UNDEFINED(handler, what) \
    void __ubsan_handle_##handler(const Place* place) { gpuconv_fail(what, {place->file, int(place->line)}); }
GPUCONV_UNDEFINED(add_overflow, "a signed sum overflows")
GPUCONV_UNDEFINED(sub_overflow, "a signed difference overflows")
GPUCONV_UNDEFINED(mul_overflow, "a signed product overflows")
GPUCONV_UNDEFINED(negate_overflow, "a signed negation overflows")
GPUCONV_UNDEFINED(divrem_overflow, "an integer is divided by zero, or the quotient overflows")
GPUCONV_UNDEFINED(shift_out_of_bounds, "a shift by more bits than there are, or of a negative number")
GPUCONV_UNDEFINED(out_of_bounds, "out of bounds: an index past the end of an array")
GPUCONV_UNDEFINED(pointer_overflow, "the arithmetic of a pointer overflows")
GPUCONV_UNDEFINED(load_invalid_value, "a bool or enum holds none of its values")
GPUCONV_UNDEFINED(float_cast_overflow, "a number does not fit the integer it is converted to")
GPUCONV_UNDEFINED(builtin_unreachable, "reached what was declared unreachable")
GPUCONV_UNDEFINED(missing_return, "a function ends without returning a value")
GPUCONV_UNDEFINED(vla_bound_not_positive, "an array of no or negative length")
GPUCONV_UNDEFINED(invalid_builtin, "a count of the zeros of 0")
GPUCONV_UNDEFINED(nonnull_arg, "a null pointer where none may be")

// --- for Python ---------------------------------------------------------------------------------

// Returns 0; or 1, with a description of the fault in `message`.
int gpuconv_launch(const Launch* launch, char* message, size_t capacity) {
    std::string fault = Run(*launch)();
    if (fault.empty()) {
        fault = Memory::instance().damage();
        if (!fault.empty()) fault = std::string("kernel ") + launch->kernel + ": out of bounds: a write " + fault +
                                      " (sanitize=\"checked\" names the thread)";
    }
    snprintf(message, capacity, "%s", fault.c_str());
    return !fault.empty();
}

// Starts counting bank conflicts, from zero, or stops.
void gpuconv_count_banks(int enabled) {
    BankCounts& counts = BankCounts::instance();
    counts.enabled = enabled;
    if (enabled) counts.by_kernel.clear();
}
// The counts of a kernel, which stay after counting stops.
void gpuconv_bank_counts(const char* kernel, uint64_t* accesses_and_conflicts) {
    const auto [accesses, conflicts] = BankCounts::instance().by_kernel[kernel];
    accesses_and_conflicts[0] = accesses;
    accesses_and_conflicts[1] = conflicts;
}

// Starts watching bytes, or stops if there are none. thread: see Watch::thread.
void gpuconv_watch(const void* address, size_t bytes, const char* thread) {
    Watch& watch = Watch::instance();
    watch = Watch{};
    watch.enabled = bytes > 0;
    watch.begin = uintptr_t(address);
    watch.end = watch.begin + bytes;
    watch.thread = thread;
}
// Watch::report() of what happened since the last call; valid until the next call.
const char* gpuconv_watched() {
    static std::string report;
    Watch& watch = Watch::instance();
    report = watch.report();
    watch.writes.clear();
    watch.touched.clear();
    return report.c_str();
}

void* gpuconv_allocate(size_t bytes, int fill) { return Memory::instance().allocate(bytes, fill); }
void gpuconv_release(void* base) { Memory::instance().release(base); }

}  // extern "C"
