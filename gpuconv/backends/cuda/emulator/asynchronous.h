// A block's mbarriers, warpgroups and asynchronous work (sm_90). A block that uses none of these stores nothing here.
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
constexpr uint64_t kMbarrierBits = 0x7ff4'6261'7272'6965;  // the contents of an mbarrier's memory: a NaN
constexpr unsigned kMbarrierLimit = (1u << 20) - 1;  // the largest number of arrivals, and of bytes

struct Waiting {  // what a thread waits for
    struct Mbarrier* mbarrier;
    unsigned number;     // the parity of the phase, or the number of the named barrier
    bool polls, gave_up;  // whether it may return before the phase ends, and whether it did
    const Wgmma* wgmma;  // the wgmma that it issues
};

struct Mbarrier {
    class Block* block;  // in whose shared memory it is
    char* address;
    Site changed_at;     // where it was initialized, or where it was invalidated
    ThreadTime by;       // the initializing thread, and when it did so
    bool valid, fenced;  // fenced: the async proxy sees it
    unsigned expected;   // arrivals per phase
    int64_t arrivals, bytes;  // still missing in this phase
    uint32_t phase;      // number of completed phases
    uint32_t copies;     // the clock component of the bulk copies to it
    uint32_t loads;      // the last step of this component
    Site loaded;         // where the last bulk copy to it was started
    Clock arriving;   // what the threads that have arrived in this phase knew
    Clock completed;  // the same for the last completed phase
};

// Pending asynchronous work, which takes effect at some later moment.
struct Effect {
    // A thread's cp.async copies and their arrival at an mbarrier; a bulk copy to shared memory; a bulk copy to global memory.
    enum Kind : uint8_t { COPIES, LOAD, STORE };

    class Block* by;  // the issuing block
    int thread;       // the issuing thread
    Kind kind;
    uint32_t group;   // of a bulk store
    Site site;
    std::function<void()> happen;
};

struct BulkPiece {
    char *shared, *global;  // null global: load zeros, or store nothing
    size_t bytes;
};

struct BulkStores {  // of one thread
    uint32_t issued = 0;  // the number of the last one
    uint32_t groups = 0;  // the number of groups that the thread has committed
    uint32_t clock = 0;   // their clock component
    std::vector<std::pair<uint32_t, uint32_t>> open;  // not waited for: number, group
};

struct PendingWgmma {
    uint32_t number, group;
    Site site;
    std::vector<char> operands;  // of the 128 lanes
    size_t operand_bytes;
    std::vector<void*> sums;  // copies of the lanes' accumulators
    void (*multiply)(const void* const*, void* const*);
};

// Accumulators of unfinished wgmma: registers that the program may not touch, and the numbers that they will hold.
struct Accumulators {
    std::vector<char*> registers;  // of each lane
    size_t bytes;
    std::vector<char> numbers;
    uint32_t last;  // the number of the last wgmma that writes them
    Site site;
};

struct RegisterAccess {
    const char* address;
    size_t bytes;
    uintptr_t pc;
    bool write;
};

struct Warpgroup {
    int arrived = 0;     // lanes that have reached `step`
    Step step{};          // the operation at which the lanes arrive
    unsigned number = 0;  // its argument
    Site site{};          // where it is
    bool waits_for_registers = false;

    bool fenced = false;  // whether it has executed a wgmma_fence()
    uint32_t issued = 0, finished = 0;  // the numbers of the last wgmma that was issued, and of the last that was waited for
    uint32_t groups = 0;  // the number of groups that the warpgroup has committed
    uint32_t clock = 0;  // the clock component of its wgmma
    unsigned registers = 0;  // of each lane
    std::vector<PendingWgmma> pending;  // not computed yet
    std::vector<std::pair<uint32_t, uint32_t>> open;  // not waited for: number, group
    std::vector<Accumulators> accumulators;
    std::vector<RegisterAccess> accesses[kWarpgroup];  // of local memory since the last fence
};

// The last arrival of a thread of another block of the cluster.
struct RemoteArrival {
    class Block* by;
    int thread;
    uint32_t step;  // in the thread's clock
    Site site;
    std::string barrier;
};

struct NamedBarrier {
    unsigned arrived = 0, threads = 0;
};

struct Asynchronous {
    bool used = false;
    bool computes = false;  // a wgmma is being computed: accesses are not the program's
    std::map<uintptr_t, Mbarrier> mbarriers;
    std::vector<Effect> effects;
    std::vector<BulkPiece> pieces;  // of the next bulk copy
    std::map<int, BulkStores> stores;
    std::map<uint32_t, RemoteArrival> remote_arrivals;  // by the clock component of the thread
    std::vector<Warpgroup> warpgroups;
    std::vector<Waiting> waiting;  // of each thread
    NamedBarrier named[16];
    unsigned free_registers = 0;  // in the block's pool
    int idle_polls = 0;           // calls of give_up_polls since the last progress
    // The clock and the warpgroup of the wgmma that is being issued, while its operands are listed.
    Clock view;
    int warpgroup = 0;

    explicit operator bool() const { return used; }
    void reset() { *this = Asynchronous(); }
};

}  // namespace gpuconv_emulator
