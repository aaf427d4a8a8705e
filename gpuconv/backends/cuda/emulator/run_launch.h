// Runs a launch: one or several threads of the CPU take its clusters in order. The result is the fault of the first cluster in this
// order that has one.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "address_sanitizer.h"
#include "block.h"
#include "cluster_pool.h"
#include "signals.h"

#ifdef __linux__
#include <link.h>
#endif

namespace gpuconv_emulator {

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
        auto cluster = ClusterPool::instance().take();
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
        ClusterPool::instance().give(std::move(cluster));
    }

    const Launch& launch;
    uint64_t clusters;
    std::vector<uint64_t> order;
    std::atomic<uint64_t> next{0}, failed_at{~uint64_t(0)};
    std::mutex mutex;
    std::string message;
};

}  // namespace gpuconv_emulator
