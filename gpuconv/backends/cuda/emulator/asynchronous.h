// What a block keeps of mbarriers, warpgroups and work that runs by itself (sm_90). Nothing of it exists in a block that uses none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "abi.h"
#include "checker.h"
#include "clocks.h"

namespace gpuconv_emulator {

constexpr int kWarpgroup = 128;
constexpr uintptr_t kWindow = 1024;  // the alignment of the shared window
constexpr uint64_t kMbarrierBits = 0x7ff4'6261'7272'6965;  // what an mbarrier's memory holds: a NaN
constexpr unsigned kMbarrierMost = (1u << 20) - 1;  // arrivals, and bytes

struct Waiting {  // what a thread waits for
    struct Mbarrier* mbarrier;
    unsigned number;     // the parity of the phase, or a named barrier
    bool polls, gave_up;
    const Wgmma* wgmma;  // that it brings
};

struct AsyncCopy {  // cp.async
    char* destination;
    const char* source;
    size_t bytes, valid;
    int group;
    uintptr_t pc;
};

struct Mbarrier {
    char* address;
    Site initialised;
    Now by;              // who initialised it
    bool valid, fenced;  // fenced: the async proxy sees it
    unsigned expected;   // arrivals a phase
    int64_t arrivals, bytes;  // that the phase still lacks
    uint32_t phase;      // how many have ended
    uint32_t copies;     // its bulk copies' number among the clocks
    Clock arriving, completed;
};

// Something under way that takes effect at a moment of its own choosing.
struct Effect {
    enum Kind : uint8_t { COPIES, LOAD, STORE };  // cp.async and their arrival; bulk copies

    int thread;  // that issued it
    Kind kind;
    uint32_t group;
    Site site;
    std::function<void()> happen;
};

struct BulkPiece {
    char *shared, *global;  // no global memory: zeros, or nothing to store
    size_t bytes;
};

struct BulkStores {  // of one thread
    uint32_t issued = 0, groups = 0;
    uint32_t clock = 0;  // their number among the clocks
    std::vector<std::pair<uint32_t, uint32_t>> open;  // not waited for: number, group
};

struct PendingWgmma {
    uint32_t number, group;
    Site site;
    std::vector<char> operands;  // of 128 lanes
    size_t operand_bytes;
    std::vector<void*> sums;  // the lanes' shadows of their accumulators
    void (*multiply)(const void* const*, void* const*);
};

// Accumulators of unfinished wgmma: registers that the program may not touch, and the numbers that they will hold.
struct Accumulators {
    std::vector<char*> registers;  // of each lane
    size_t bytes;
    std::vector<char> numbers;
    uint32_t last;  // wgmma that writes them
    Site site;
};

struct RegisterAccess {
    const char* address;
    size_t bytes;
    uintptr_t pc;
    bool write;
};

struct Warpgroup {
    int arrived = 0;     // lanes at the step below
    Step step{};
    unsigned number = 0;
    Site site{};
    bool waits_for_registers = false;

    bool fenced = false;
    uint32_t issued = 0, finished = 0, groups = 0;
    uint32_t clock = 0;  // its wgmma's number among the clocks
    unsigned registers = 0;
    std::vector<PendingWgmma> pending;  // not computed yet
    std::vector<std::pair<uint32_t, uint32_t>> open;  // not waited for: number, group
    std::vector<Accumulators> accumulators;
    std::vector<RegisterAccess> accesses[kWarpgroup];  // of local memory since the last fence
};

struct NamedBarrier {
    unsigned arrived = 0, threads = 0;
};

struct Asynchronous {
    bool used = false;
    bool computes = false;  // an instruction's effect: its accesses are not the program's
    std::map<uintptr_t, Mbarrier> mbarriers;
    std::vector<Effect> effects;
    std::vector<BulkPiece> pieces;  // of the bulk copy that begins next
    std::map<int, BulkStores> stores;
    std::vector<Warpgroup> warpgroups;
    std::vector<Waiting> waiting;  // of each thread
    NamedBarrier named[16];
    unsigned free_registers = 0;  // of the block
    int idle_polls = 0;           // since something last happened
    // A wgmma's issue, while its operands are named.
    Clock view;
    int group = 0;

    explicit operator bool() const { return used; }
    void reset() { *this = Asynchronous(); }
};

}  // namespace gpuconv_emulator
