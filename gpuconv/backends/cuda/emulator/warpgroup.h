// Operations of a warpgroup: wgmma in groups, its fence and wait, and the transfer of registers. Part of Block (block.h).
//
// A wgmma reads shared memory at some moment between its issue and the end of the wait for its group; its accumulators are
// poisoned until then. In a checked run each word of its operands records the wgmma as a reader. All wgmma of a warpgroup
// share a clock component; each wgmma is a step of it.
#pragma once

#include "block.h"
#include "effects.h"

namespace gpuconv_emulator {

inline void Block::warpgroup(Step step, unsigned number, const Wgmma* wgmma, Site site) {
    interleave();
    const int group = running / kWarpgroup, first = group * kWarpgroup;
    if (size_t(group) >= asynchronous.warpgroups.size())
        fail("divergent warpgroup: " + place(site) + " takes all 128 lanes of a warpgroup, and the block has " +
             std::to_string(count - first) + " in this one");
    Warpgroup& own = asynchronous.warpgroups[group];
    for (int i = first; i < first + kWarpgroup; ++i)
        if (state[i] == DONE)
            fail("divergent warpgroup: " + place(site) + " takes all 128 lanes of warpgroup " + std::to_string(group) + ", and thread " +
                 text(threads[i].index) + " has exited");
    if (own.arrived == 0) {
        own.step = step;
        own.number = number;
        own.site = site;
    } else if (own.step != step || own.number != number || own.site != site) {
        fail("divergent warpgroup: this thread is at " + place(site) + ", other lanes of warpgroup " + std::to_string(group) +
             " are at " + place(own.site));
    }
    asynchronous.waiting[running].wgmma = wgmma;
    threads[running].site = site;
    if (++own.arrived < kWarpgroup || !step_together(group)) return wait(IN_WARPGROUP, site);
}

// Runs the operation at which all lanes have arrived. True if they may continue.
inline bool Block::step_together(int group) {
    Warpgroup& own = asynchronous.warpgroups[group];
    asynchronous.idle_polls = 0;
    switch (own.step) {
        case Step::FENCE:
            own.fenced = true;
            for (auto& accesses : own.accesses) accesses.clear();
            break;
        case Step::MULTIPLY: issue_wgmma(group); break;
        case Step::COMMIT: ++own.groups; break;
        case Step::WAIT: wait_for_wgmma(group, own.number); break;
        case Step::MORE_REGISTERS:
        case Step::FEWER_REGISTERS:
            own.waits_for_registers = !change_registers(group, own.number, own.step == Step::MORE_REGISTERS);
            if (own.waits_for_registers) return false;
    }
    own.arrived = 0;
    for (int i = group * kWarpgroup; i < (group + 1) * kWarpgroup; ++i)
        if (state[i] == IN_WARPGROUP) wake(i);
    return true;
}

inline void Block::issue_wgmma(int group) {
    Warpgroup& own = asynchronous.warpgroups[group];
    const int first = group * kWarpgroup;
    const Wgmma& leader = *asynchronous.waiting[first].wgmma;
    if (!own.fenced) fail("a wgmma at " + place(own.site) + " with no wgmma_fence() before it: it does not see the registers");
    Accumulators& sums = take_accumulators(group);
    sums.last = ++own.issued;
    sums.site = own.site;
    PendingWgmma pending{own.issued, own.groups, own.site, {}, leader.operand_bytes, {}, leader.multiply};
    for (int lane = 0; lane < kWarpgroup; ++lane) {
        const char* operands = static_cast<const char*>(asynchronous.waiting[first + lane].wgmma->operands);
        pending.operands.insert(pending.operands.end(), operands, operands + leader.operand_bytes);
        pending.sums.push_back(&sums.numbers[lane * sums.bytes]);
    }
    own.pending.push_back(std::move(pending));
    own.open.push_back({own.issued, own.groups});
    if (!launch->checked) return;
    const int base = first_thread() + first;
    asynchronous.view = checker.clocks.of(base);
    for (int lane = 1; lane < kWarpgroup; ++lane) asynchronous.view.meet(checker.clocks.of(base + lane));
    checker.clocks.learn(asynchronous.view, own.clock, own.issued);  // a warpgroup's wgmma run in order
    asynchronous.warpgroup = group;
    leader.reads(leader.operands, [](const void* address, size_t bytes) {
        static_cast<Block*>(gpuconv_context)->touch_operand(address, bytes);
    });
}

// The accumulators of the wgmma that is being issued: those of an unfinished one with the same registers, else new ones.
inline Accumulators& Block::take_accumulators(int group) {
    Warpgroup& own = asynchronous.warpgroups[group];
    const int first = group * kWarpgroup;
    const Wgmma& leader = *asynchronous.waiting[first].wgmma;
    Accumulators* sums = nullptr;
    for (Accumulators& each : own.accumulators)
        if (each.registers[0] == leader.sums && each.bytes == leader.sum_bytes) sums = &each;
    check_accumulators(group, sums);
    if (sums) return *sums;
    own.accumulators.push_back({{}, leader.sum_bytes, std::vector<char>(leader.sum_bytes * kWarpgroup), 0, own.site});
    sums = &own.accumulators.back();
    for (int lane = 0; lane < kWarpgroup; ++lane) {
        char* registers = static_cast<char*>(asynchronous.waiting[first + lane].wgmma->sums);
        sums->registers.push_back(registers);
        memcpy(&sums->numbers[lane * sums->bytes], registers, sums->bytes);
        memset(registers, kPoison, sums->bytes);
    }
    return *sums;
}

// Fails if a lane's accumulators overlap those of an unfinished wgmma, other than `sums`, or were touched since the last fence.
inline void Block::check_accumulators(int group, const Accumulators* sums) {
    const Warpgroup& own = asynchronous.warpgroups[group];
    const int first = group * kWarpgroup;
    const std::string at = "a wgmma at " + place(own.site);
    for (int lane = 0; lane < kWarpgroup; ++lane) {
        const Wgmma& wgmma = *asynchronous.waiting[first + lane].wgmma;
        const char* registers = static_cast<const char*>(wgmma.sums);
        auto overlap = [&](const char* begin, size_t bytes) {
            return registers < begin + bytes && begin < registers + wgmma.sum_bytes;
        };
        for (const Accumulators& each : own.accumulators) {
            const bool same = &each == sums && registers == each.registers[lane];
            if (overlap(each.registers[lane], each.bytes) && !same)
                fail(first + lane, at + " writes accumulators that overlap those of an unfinished one but are not the same, at " +
                                       place(each.site));
        }
        for (const RegisterAccess& access : own.accesses[lane])
            if (overlap(access.address, access.bytes))
                fail(first + lane, at + " uses accumulators that this thread " + (access.write ? "wrote" : "read") + " at " +
                                       checker.place(access.pc) + " with no wgmma_fence() between");
    }
}

// Records that the wgmma that is being issued reads these bytes of shared memory.
inline void Block::touch_operand(const void* address, size_t bytes) {
    const Warpgroup& own = asynchronous.warpgroups[asynchronous.warpgroup];
    const ThreadTime when{serial, barriers, 0, own.clock, own.issued};
    if (!checker.check_async(when, asynchronous.view, uintptr_t(address), bytes, false, checker.pc_of(own.site),
                             checker.clocks.name(own.clock)))
        fail(checker.message);
}

// Computes the warpgroup's next pending wgmma, if there is one.
inline void Block::finish_wgmma(int group) {
    Warpgroup& own = asynchronous.warpgroups[group];
    if (own.pending.empty()) return;
    const PendingWgmma next = std::move(own.pending.front());
    own.pending.erase(own.pending.begin());
    const void* operands[kWarpgroup];
    for (int lane = 0; lane < kWarpgroup; ++lane) operands[lane] = &next.operands[lane * next.operand_bytes];
    asynchronous.computes = true;
    next.multiply(operands, next.sums.data());
    asynchronous.computes = false;
}

inline void Block::wait_for_wgmma(int group, unsigned pending) {
    Warpgroup& own = asynchronous.warpgroups[group];
    uint32_t last = own.finished;  // the last wgmma of the groups that must have finished
    while (!own.open.empty() && own.open.front().second + pending < own.groups) {
        last = own.open.front().first;
        own.open.erase(own.open.begin());
    }
    while (!own.pending.empty() && own.pending.front().number <= last) finish_wgmma(group);
    own.finished = last;
    auto& all = own.accumulators;
    for (const Accumulators& sums : all)
        for (int lane = 0; lane < kWarpgroup && sums.last <= last; ++lane)
            memcpy(sums.registers[lane], &sums.numbers[lane * sums.bytes], sums.bytes);
    all.erase(std::remove_if(all.begin(), all.end(), [=](const Accumulators& sums) { return sums.last <= last; }), all.end());
    if (!launch->checked) return;
    checker.clocks.finish(own.clock, last);
    const int base = first_thread() + group * kWarpgroup;
    for (int i = base; i < base + kWarpgroup; ++i) checker.clocks.learn(i, own.clock, last);
}

// setmaxnreg: true once the warpgroup has the registers. It can only gain those that warpgroups have given back.
inline bool Block::change_registers(int group, unsigned number, bool more) {
    Warpgroup& own = asynchronous.warpgroups[group];
    const std::string request = std::to_string(number) + " registers a thread at " + place(own.site) + ", and warpgroup " +
                                std::to_string(group) + " has " + std::to_string(own.registers);
    if (number < 24 || number > 256 || number % 8) fail("setmaxnreg takes 24 to 256, a multiple of 8: " + request);
    if (more ? number < own.registers : number > own.registers)
        fail(std::string("setmaxnreg cannot ") + (more ? "raise" : "lower") + " to " + request);
    if (more) {
        const unsigned requested = (number - own.registers) * kWarpgroup;
        if (requested > asynchronous.free_registers) return false;
        asynchronous.free_registers -= requested;
        own.registers = number;
        return true;
    }
    asynchronous.free_registers += (own.registers - number) * kWarpgroup;
    own.registers = number;
    for (size_t other = 0; other < asynchronous.warpgroups.size(); ++other)
        if (asynchronous.warpgroups[other].waits_for_registers) step_together(int(other));
    return true;
}

// Local memory represents registers. Fails on an access to accumulators of an unfinished wgmma; check_accumulators gets all others.
void Block::access_register(const char* address, size_t bytes, Kind kind, uintptr_t pc) {
    const size_t group = size_t(running) / kWarpgroup;
    if (asynchronous.computes || group >= asynchronous.warpgroups.size()) return;
    Warpgroup& own = asynchronous.warpgroups[group];
    const int lane = running % kWarpgroup;
    for (const Accumulators& sums : own.accumulators)
        if (address < sums.registers[lane] + sums.bytes && sums.registers[lane] < address + bytes)
            fail(std::string(kind == READ ? "reads" : "writes") + " accumulators of a wgmma that was not waited for, issued at " +
                 place(sums.site) + ", at " + checker.place(pc));
    constexpr size_t kMost = 4096;  // accesses that are remembered for a lane
    auto& accesses = own.accesses[lane];
    if (accesses.size() == kMost) accesses.erase(accesses.begin(), accesses.begin() + kMost / 2);
    accesses.push_back({address, bytes, pc, kind != READ});
}

}  // namespace gpuconv_emulator
