// Positions in a .cu file and in a grid, as faults name them: "k.cu:7", "(5, 0, 0)".
#pragma once

#include <cstring>
#include <string>

#include "abi.h"

namespace gpuconv_emulator {

inline bool operator!=(Site a, Site b) { return a.line != b.line || (a.file != b.file && strcmp(a.file, b.file)); }

inline std::string place(Site site) {
    const char* slash = strrchr(site.file, '/');
    return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}
inline std::string text(uint3 i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

// The index of the thread with this number in a block, counted x first.
inline uint3 index_of(int thread, dim3 block_size) {
    return {thread % block_size.x, thread / block_size.x % block_size.y, thread / (block_size.x * block_size.y)};
}

}  // namespace gpuconv_emulator
