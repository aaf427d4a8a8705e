// The device's memory: buffers between guards.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "address_sanitizer.h"

namespace gpuconv_emulator {

constexpr size_t kAlignment = 256;  // of cudaMalloc
constexpr unsigned char kGuard = 0xfd;

class Memory {
  public:
    static Memory& instance() {
        static Memory* memory = new Memory;  // never deleted, because arrays may outlive static objects
        return *memory;
    }

    void* allocate(size_t bytes, int fill) {
        char* block = static_cast<char*>(aligned_alloc(kAlignment, padded(bytes)));
        if (!block) return nullptr;
        char* base = block + kAlignment;
        memset(block, kGuard, kAlignment);
        memset(base, fill, bytes);
        memset(base + bytes, kGuard, padded(bytes) - kAlignment - bytes);
        if (auto poison = AddressSanitizer::instance().poison) {
            poison(block, kAlignment);
            poison(base + bytes, padded(bytes) - kAlignment - bytes);
        }
        std::lock_guard<std::mutex> lock(mutex);
        live[uintptr_t(base)] = bytes;
        return base;
    }

    void release(void* base) {
        char* block = static_cast<char*>(base) - kAlignment;
        size_t bytes;
        {
            std::lock_guard<std::mutex> lock(mutex);
            auto found = live.find(uintptr_t(base));
            bytes = found->second;
            live.erase(found);
        }
        if (auto unpoison = AddressSanitizer::instance().unpoison) unpoison(block, padded(bytes));
        free(block);
    }

    // Describes a write next to a buffer since the last call, and restores the guard; empty if there was none, or if
    // AddressSanitizer checks the guards.
    std::string damage() {
        if (AddressSanitizer::instance().poison) return {};
        std::lock_guard<std::mutex> lock(mutex);
        for (auto [address, bytes] : live) {
            auto* base = reinterpret_cast<unsigned char*>(address);
            auto* end = base - kAlignment + padded(bytes);
            const std::string buffer = " a buffer of " + std::to_string(bytes) + " bytes";
            for (auto* p = base - kAlignment; p < base; ++p)
                if (*p != kGuard) {
                    memset(base - kAlignment, kGuard, kAlignment);
                    return std::to_string(base - p) + " bytes before" + buffer;
                }
            for (auto* p = base + bytes; p < end; ++p)
                if (*p != kGuard) {
                    memset(base + bytes, kGuard, size_t(end - base) - bytes);
                    return std::to_string(p - base - bytes) + " bytes past the end of" + buffer;
                }
        }
        return {};
    }

    template <class Function>
    void for_each(Function function) {
        std::lock_guard<std::mutex> lock(mutex);
        for (auto [address, bytes] : live) function(address, bytes);
    }

  private:
    static size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment + 2 * kAlignment; }

    std::mutex mutex;
    std::map<uintptr_t, size_t> live;
};

}  // namespace gpuconv_emulator
