// Counts bank conflicts: the additional turns of shared memory beyond those that the bytes of an access need.
//
// Shared memory has 32 banks of 4-byte words; in one turn each bank serves one word. A warp's access of up to 4 bytes per lane
// needs one turn; one of 8 bytes needs two turns of 16 lanes; one of 16 bytes, as by ldmatrix, four turns of 8 lanes. Lanes that
// touch the same word share it. Every further turn is a conflict.
//
// Lanes run one by one here, so simultaneous accesses have to be inferred: one access is the n-th execution of an
// instrumented instruction by the lanes of a warp in a block. That is exact if all lanes take the same path. The CPU's compiler
// may split or join accesses that a GPU's does not, and then the counts differ from a GPU's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace gpuconv_emulator {

class Banks {  // counts of one block
  public:
    void touch(int thread, uintptr_t address, size_t bytes, uintptr_t pc) {
        const uint32_t time = times[{thread, pc}]++;
        accesses[{thread / 32, pc, time}].push_back({thread % 32, address, bytes});
    }

    // Adds this block's accesses to `counted` and their conflicts to `conflicts`, and forgets the accesses.
    void settle(uint64_t& counted, uint64_t& conflicts) {
        for (auto& [key, lanes] : accesses) {
            std::sort(lanes.begin(), lanes.end(), [](const Touch& a, const Touch& b) { return a.lane < b.lane; });
            ++counted;
            const size_t bytes = lanes[0].bytes;
            const int lanes_per_turn = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
            for (int first = 0; first < 32; first += lanes_per_turn) {
                std::map<uintptr_t, std::set<uintptr_t>> words;  // touched in each bank
                size_t turns = 1;
                for (const Touch& touch : lanes)
                    if (touch.lane >= first && touch.lane < first + lanes_per_turn)
                        for (uintptr_t word = touch.address / 4; word * 4 < touch.address + touch.bytes; ++word) {
                            words[word % 32].insert(word);
                            turns = std::max(turns, words[word % 32].size());
                        }
                conflicts += turns - 1;
            }
        }
        accesses.clear();
        times.clear();
    }

  private:
    struct Touch {
        int lane;
        uintptr_t address;
        size_t bytes;
    };
    std::map<std::pair<int, uintptr_t>, uint32_t> times;  // by thread and instruction: how often it was executed
    std::map<std::tuple<int, uintptr_t, uint32_t>, std::vector<Touch>> accesses;
};

// The counts of all blocks, for each kernel, while counting is on.
struct BankCounts {
    static BankCounts& instance() {
        static BankCounts counts;
        return counts;
    }
    std::mutex mutex;
    bool enabled = false;
    std::map<std::string, std::pair<uint64_t, uint64_t>> by_kernel;  // accesses, conflicts

    void add(const char* kernel, Banks& banks) {
        std::lock_guard<std::mutex> lock(mutex);
        auto& [counted, conflicts] = by_kernel[kernel];
        banks.settle(counted, conflicts);
    }
};

}  // namespace gpuconv_emulator
