// A launch as Python requests it (runtime.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpuconv_emulator {

struct Launch {
    void (*entry)(void**);
    void** arguments;
    const char* kernel;
    unsigned grid[3], block[3];
    unsigned cluster;  // blocks of a cluster
    size_t shared_bytes;
    uint64_t seed;  // 0: blocks and threads run in their order; else in a random one, drawn again for the threads at each barrier
    int workers;
    int checked;
    int region_count;
    struct {
        const char* name;
        void* base;
        size_t bytes;
    }* regions;
};

}  // namespace gpuconv_emulator
