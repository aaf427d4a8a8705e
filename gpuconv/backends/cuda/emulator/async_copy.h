// cp.async: a thread's copies to shared memory, in groups (kernels/async_copy.cuh). A copy takes effect when the thread waits for
// its group, or before the arrival of mbarrier_arrive_after_copies; until then its destination is poisoned. Part of Block (block.h).
#pragma once

#include "block.h"
#include "effects.h"

namespace gpuconv_emulator {

inline void Block::copy_async(void* destination, const void* source, size_t bytes, size_t valid, uintptr_t pc) {
    if ((bytes != 4 && bytes != 8 && bytes != 16) || uintptr_t(destination) % bytes || uintptr_t(source) % bytes)
        fail("an asynchronous copy moves 4, 8 or 16 bytes between addresses aligned to that number");
    if (valid > bytes)
        fail("an asynchronous copy of " + std::to_string(bytes) + " bytes takes 0 to " + std::to_string(bytes) +
             " from its source, received " + std::to_string(int64_t(valid)));
    if (valid) access(source, valid, READ, pc);
    access(destination, bytes, ASYNC, pc);
    memset(destination, kPoison, bytes);
    Thread& self = threads[running];
    self.copies.push_back({static_cast<char*>(destination), static_cast<const char*>(source), bytes, valid, self.copy_groups, pc});
}

inline void Block::copy_commit() { ++threads[running].copy_groups; }

inline void Block::copy_wait(int pending) {
    if (asynchronous) finish_copies_under_way();
    Thread& self = threads[running];
    size_t kept = 0;
    for (const AsyncCopy& copy : self.copies)
        if (copy.group < self.copy_groups - pending) finish(copy, now());
        else self.copies[kept++] = copy;
    self.copies.resize(kept);
}

inline void Block::finish(const AsyncCopy& copy, const ThreadTime& when) {
    memcpy(copy.destination, copy.source, copy.valid);
    memset(copy.destination + copy.valid, 0, copy.bytes - copy.valid);
    if (!launch->checked) return;
    if (!checker.check(when, uintptr_t(copy.destination), copy.bytes, WRITE, copy.pc)) fail(checker.message);
    if (Watch::instance().enabled) watch(uintptr_t(copy.destination), copy.bytes, WRITE, copy.pc);
}

// Finishes the running thread's copies that have yet to arrive at an mbarrier.
void Block::finish_copies_under_way() {
    take_effect([&](const Effect& effect) { return effect.thread == running && effect.kind == Effect::COPIES; });
}

}  // namespace gpuconv_emulator
