// The shared memory of a block: a window, in which each variable is followed by a guard.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "address_sanitizer.h"
#include "checker.h"
#include "memory.h"

namespace gpuconv_emulator {

constexpr size_t kSharedCapacity = 232448;  // 227 KB, the limit of a block on sm_90 and sm_100
constexpr size_t kStaticCapacity = 48 * 1024;
constexpr size_t kSharedGuard = 64;
constexpr int kPoison = 0xff;  // a NaN in every floating-point type
constexpr uintptr_t kWindowAlignment = 1024;  // the alignment of the window, and the largest that dynamic memory can have

struct SharedVariable {
    const void* key;
    const char* name;
    char* base;
    size_t bytes;
};

class SharedMemory {
  public:
    std::vector<SharedVariable> variables;
    size_t static_bytes = 0;
    char* dynamic_base = nullptr;
    bool dynamic_given = false;  // whether the kernel has its address

    explicit SharedMemory(Checker& checker) : checker(checker), arena(kArena) {}

    // checked: whether the checker follows the variables. rank: the block's.
    void open(size_t dynamic_bytes, bool checked, unsigned rank) {
        this->checked = checked;
        this->rank = rank;
        if (auto unpoison = AddressSanitizer::instance().unpoison) unpoison(arena.data(), kArena);
        variables.clear();
        static_bytes = 0;
        // Dynamic memory is aligned to 256 bytes and no more; `move_dynamic` moves it for a declaration that requests more.
        add_dynamic(window() + kAlignment, dynamic_bytes);
        dynamic_given = false;
        end = window() + 2 * kWindowAlignment + dynamic_bytes;
    }

    char* window() const { return const_cast<char*>(arena.data()) + kWindowAlignment - uintptr_t(arena.data()) % kWindowAlignment; }
    bool contains(uintptr_t address) const { return address - uintptr_t(window()) < kArena; }
    bool is_past_end(const char* address) const { return address >= end; }

    // The address of the next variable. If a checked kernel requests an alignment below 16 bytes, it receives no better one.
    char* next_base(size_t alignment) const {
        const size_t step = std::max(alignment, size_t(16));
        char* base = end + (step - uintptr_t(end) % step) % step;
        return checked && alignment < 16 ? base + alignment : base;
    }

    // Adds a variable, and poisons it.
    void add(const void* key, const char* name, char* base, size_t bytes) {
        memset(base, kPoison, bytes);
        memset(base + bytes, kGuard, kSharedGuard);
        if (auto poison = AddressSanitizer::instance().poison) poison(base + bytes, kSharedGuard);
        variables.push_back({key, name, base, bytes});
        end = std::max(end, base + bytes + kSharedGuard);
        if (!checked) return;
        checker.add({name, uintptr_t(base), bytes, true, rank});
        checker.sort();
    }

    // Moves the dynamic memory to the alignment of the window.
    void move_dynamic() {
        const size_t bytes = variables.front().bytes;
        if (checked) checker.remove(uintptr_t(dynamic_base));
        variables.erase(variables.begin());
        add_dynamic(window() + kWindowAlignment, bytes);
    }

    // "shared full + 8 bytes"; empty for another address
    std::string name_of(const void* address) const {
        for (const SharedVariable& variable : variables)
            if (size_t(static_cast<const char*>(address) - variable.base) < variable.bytes)
                return std::string("shared ") + variable.name + " + " +
                       std::to_string(static_cast<const char*>(address) - variable.base) + " bytes";
        return {};
    }

    // "out of bounds: a write 3 bytes past ..."; empty if every guard is intact, or if AddressSanitizer checks them
    std::string damage() const {
        if (AddressSanitizer::instance().poison) return {};
        for (const SharedVariable& variable : variables)
            for (size_t i = 0; i < kSharedGuard; ++i)
                if (static_cast<unsigned char>(variable.base[variable.bytes + i]) != kGuard)
                    return "out of bounds: a write " + std::to_string(i) + " bytes past the end of shared " + variable.name;
        return {};
    }

  private:
    static constexpr size_t kArena = kSharedCapacity + 64 * 1024;  // space for guards and alignment

    void add_dynamic(char* base, size_t bytes) {
        dynamic_base = base;
        add(nullptr, "dynamic memory", base, bytes);
    }

    Checker& checker;
    std::vector<char> arena;
    char* end = nullptr;  // of the last variable and its guard
    bool checked = false;
    unsigned rank = 0;
};

}  // namespace gpuconv_emulator
