// The functions that Python calls (runtime.py).
#pragma once

#include "run_launch.h"

using namespace gpuconv_emulator;

extern "C" {

// Returns 0; or 1, with a description of the fault in `message`.
int gpuconv_launch(const Launch* launch, char* message, size_t capacity) {
    std::string fault = Run(*launch)();
    if (fault.empty()) {
        fault = Memory::instance().damage();
        if (!fault.empty()) fault = std::string("kernel ") + launch->kernel + ": out of bounds: a write " + fault +
                                      (launch->checked ? "" : " (sanitize=\"checked\" names the thread)");
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
