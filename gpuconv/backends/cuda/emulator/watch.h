// Records which threads write certain bytes of memory, and all that one of them reads and writes. While a watch is on, each access
// of a checked launch to a buffer or to shared memory passes through here. Exceptions are bulk stores, what bulk loads
// write, the operands that wgmma reads, and operations on mbarriers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "checker.h"

namespace gpuconv_emulator {

struct Watch {
    static Watch& instance() {
        static Watch watch;
        return watch;
    }
    struct Tally {
        uint64_t first = ~uint64_t(0), last = 0, read = 0, written = 0;  // offsets of the first and last byte; numbers of bytes
    };

    bool enabled = false;
    uintptr_t begin = 0, end = 0;                // the watched bytes
    std::string thread;                          // whose accesses are counted: kernel, block, thread, warp, as in `writes`; or empty
    std::vector<std::string> writes;             // in their order
    std::map<std::string, Tally> touched;        // by region

    // Records an access of the thread `by`.
    void record(const std::string& by, Checker& checker, uintptr_t address, size_t bytes, Kind kind, uintptr_t pc) {
        if (kind != READ && covers(address, bytes)) writes.push_back("wrote\t" + by + "\t" + checker.place(pc));
        if (by != thread) return;
        const auto [name, offset] = checker.region_of(address);
        Tally& tally = touched[name];
        tally.first = std::min(tally.first, uint64_t(offset));
        tally.last = std::max(tally.last, uint64_t(offset + bytes - 1));
        (kind == READ ? tally.read : tally.written) += bytes;
    }

    bool covers(uintptr_t address, size_t bytes) const { return address < end && address + bytes > begin; }

    std::string report() const {
        std::string all;
        for (const std::string& line : writes) all += line + "\n";
        for (const auto& [name, tally] : touched)
            all += "touched\t" + name + "\t" + std::to_string(tally.first) + "\t" + std::to_string(tally.last) + "\t" +
                   std::to_string(tally.read) + "\t" + std::to_string(tally.written) + "\n";
        return all;
    }
};

}  // namespace gpuconv_emulator
