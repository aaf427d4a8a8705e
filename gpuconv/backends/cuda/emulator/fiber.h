// Fibers: each has its own stack. On x86-64 with ELF (not on macOS) a switch takes 16 instructions; elsewhere it uses ucontext.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "address_sanitizer.h"

#if !(defined(__x86_64__) && defined(__ELF__)) && !defined(GPUCONV_UCONTEXT)
#define GPUCONV_UCONTEXT 1
#endif

#ifdef GPUCONV_UCONTEXT
#include <ucontext.h>
#else
extern "C" void gpuconv_switch(void** save, void* load);
asm(R"(
    .text
    .globl gpuconv_switch
    .hidden gpuconv_switch
    .type gpuconv_switch, @function
gpuconv_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size gpuconv_switch, . - gpuconv_switch
)");
#endif

namespace gpuconv_emulator {

class Fiber {
  public:
    // Makes the fiber start in `entry`, on the stack from `base` to `top`.
    void restart(char* base, char* top, void (*entry)()) {
#ifdef GPUCONV_UCONTEXT
        getcontext(&state);
        state.uc_stack.ss_sp = base;
        state.uc_stack.ss_size = size_t(top - base);
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
#else
        (void)base;
        void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, and its missing caller
        for (int i = 0; i < 8; ++i) frame[i] = nullptr;
        frame[6] = reinterpret_cast<void*>(entry);
        pointer = frame;
#endif
    }

    void switch_to(Fiber& next) {
#ifdef GPUCONV_UCONTEXT
        swapcontext(&state, &next.state);
#else
        gpuconv_switch(&pointer, next.pointer);
#endif
    }

  private:
#ifdef GPUCONV_UCONTEXT
    ucontext_t state;
#else
    void* pointer = nullptr;
#endif
};

// The fibers of one block, and their stacks: one mapping, of which only used pages take memory, with a guard below each stack.
class Fibers {
  public:
    // entry: the function in which each fiber starts.
    Fibers(int count, void (*entry)()) : fibers(count), entry(entry) {
        void* mapping = mmap(nullptr, count * kStack, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) {
            perror("gpuconv: no memory for the emulator's stacks");
            abort();
        }
        begin = static_cast<char*>(mapping);
    }
    ~Fibers() { munmap(begin, fibers.size() * kStack); }
    Fibers(const Fibers&) = delete;

    Fiber* take() {
        if (free.empty()) {
            restart(used);
            return &fibers[used++];
        }
        Fiber* taken = free.back();
        free.pop_back();
        return taken;
    }
    void give(Fiber* fiber) { free.push_back(fiber); }
    void free_all() {
        free.clear();
        for (int i = used; i-- > 0;) free.push_back(&fibers[i]);
    }
    void restart_all() {
        for (int i = 0; i < used; ++i) restart(i);
    }
    bool contains(uintptr_t address) const { return address - uintptr_t(begin) < fibers.size() * kStack; }

  private:
    static constexpr size_t kStack = 256 * 1024;
    static constexpr size_t kStackGuard = 16384;  // at least a page, unless pages have 64 KB

    void restart(int i) {
        char* base = begin + i * kStack;
        mprotect(base, kStackGuard, PROT_NONE);
        if (auto unpoison = AddressSanitizer::instance().unpoison) unpoison(base + kStackGuard, kStack - kStackGuard);
        // Stacks that all end at the same offset within a page would compete for the same cache lines.
        fibers[i].restart(base + kStackGuard, base + kStack - (i * 320) % 4096 / 16 * 16, entry);
    }

    std::vector<Fiber> fibers;
    std::vector<Fiber*> free;
    int used = 0;  // the fibers before this index have been taken at least once
    char* begin;
    void (*entry)();
};

}  // namespace gpuconv_emulator
