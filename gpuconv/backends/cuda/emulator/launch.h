// A launch as Python requests it (native.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpuconv_emulator {

struct Launch {
    void (*entry)(void**);
    void** arguments;
    const char* kernel;
    unsigned grid[3], block[3], cluster;
    size_t shared_bytes;
    uint64_t seed;  // 0 runs blocks and threads in their order, else a random order; that of the threads changes at each barrier
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
