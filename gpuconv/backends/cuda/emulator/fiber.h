// Fibers: each has its own stack. A switch takes 16 instructions on x86-64; elsewhere it uses ucontext.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "memory.h"

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
    // Makes the fiber start in `entry`, on the stack that ends at `top`.
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

// The stacks of one block: one mapping, of which only used pages take memory, with a guard below each stack.
class Stacks {
  public:
    static constexpr size_t size = 256 * 1024;

    explicit Stacks(int count) : count(count) {
        void* mapping = mmap(nullptr, count * size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) {
            perror("gpuconv: no memory for the emulator's stacks");
            abort();
        }
        begin = static_cast<char*>(mapping);
    }
    ~Stacks() { munmap(begin, count * size); }
    Stacks(const Stacks&) = delete;

    void place(Fiber& fiber, int index, void (*entry)()) {
        char* base = begin + index * size;
        mprotect(base, guard, PROT_NONE);
        if (auto unpoison = AddressSanitizer::instance().unpoison) unpoison(base + guard, size - guard);
        // Stacks that all end at the same offset within a page would compete for the same cache lines.
        fiber.restart(base + guard, base + size - (index * 320) % 4096 / 16 * 16, entry);
    }
    bool contains(uintptr_t address) const { return address - uintptr_t(begin) < count * size; }

  private:
    static constexpr size_t guard = 16384;  // at least a page on every system
    char* begin;
    const int count;
};

}  // namespace gpuconv_emulator
