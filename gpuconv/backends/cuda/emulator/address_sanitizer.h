// AddressSanitizer's functions; null if the process does not run under it.
#pragma once

#include <dlfcn.h>

#include <cstddef>

namespace gpuconv_emulator {

struct AddressSanitizer {
    using OnDeath = void (*)(void (*)());
    OnDeath on_death = OnDeath(dlsym(RTLD_DEFAULT, "__sanitizer_set_death_callback"));
    using Mark = void (*)(const volatile void*, size_t);
    Mark poison = Mark(dlsym(RTLD_DEFAULT, "__asan_poison_memory_region"));
    Mark unpoison = Mark(dlsym(RTLD_DEFAULT, "__asan_unpoison_memory_region"));

    static const AddressSanitizer& instance() {
        static const AddressSanitizer found;
        return found;
    }
};

}  // namespace gpuconv_emulator
