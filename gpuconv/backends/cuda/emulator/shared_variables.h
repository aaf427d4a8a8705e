// The __shared__ variables of a kernel, which have the same layout in all blocks of a cluster, and addresses of shared memory. Part
// of Block (block.h).
#pragma once

#include "block.h"
#include "cluster.h"

namespace gpuconv_emulator {

inline void* Block::shared(const void* key, const char* name, size_t bytes, size_t alignment) {
    for (const SharedVariable& variable : shared_memory.variables)
        if (variable.key == key) return variable.base;
    if (shared_memory.static_bytes + bytes > kStaticCapacity)
        fail("more than 48 KB of static shared memory (use extern __shared__): " + std::string(name));
    if (shared_memory.static_bytes + bytes + launch->shared_bytes > kSharedCapacity)
        fail("more than 227 KB of shared memory: " + std::string(name));
    char* base = shared_memory.next_base(alignment);
    declare_shared(key, name, base - shared_memory.window(), bytes);
    return base;
}

inline void* Block::dynamic_shared(size_t alignment) {
    if (alignment > kWindowAlignment) fail("dynamic shared memory is aligned to 1024 bytes at most");
    if (uintptr_t(shared_memory.dynamic_base) % alignment) move_dynamic_shared();
    shared_memory.dynamic_given = true;
    return shared_memory.dynamic_base;
}

inline unsigned Block::shared_address(const void* pointer) {
    if (!shared_memory.contains(uintptr_t(pointer)))
        fail("shared_address() takes an address in shared memory, received one outside of it");
    return unsigned(static_cast<const char*>(pointer) - shared_memory.window());
}

inline void* Block::shared_pointer(unsigned address) {
    char* pointer = shared_memory.window() + address;
    // At lower addresses the checker and the guards find a wrong access, and name the variable.
    if (address >= kSharedCapacity + 2 * kWindowAlignment && shared_memory.is_past_end(pointer))
        fail("out of bounds: an access to shared memory at address " + std::to_string(address) + ", past its end");
    return pointer;
}

// Adds a shared variable to each block of the cluster. offset: from the beginning of the window.
inline void Block::declare_shared(const void* key, const char* name, size_t offset, size_t bytes) {
    for (Block* each : cluster.blocks) {
        each->shared_memory.static_bytes += bytes;
        each->shared_memory.add(key, name, each->shared_memory.window() + offset, bytes);
    }
}

// Aligns the dynamic memory of each block as the window is aligned.
inline void Block::move_dynamic_shared() {
    for (const Block* each : cluster.blocks)
        if (each->shared_memory.dynamic_given) fail("two declarations of dynamic shared memory with different alignments");
    for (Block* each : cluster.blocks) each->shared_memory.move_dynamic();
}

}  // namespace gpuconv_emulator
