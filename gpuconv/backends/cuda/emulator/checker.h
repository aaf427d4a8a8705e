// The memory checker: every load and store of a checked kernel passes through here.
//
// The compiler's -fsanitize=thread instrumentation calls a function before each access; instrumentation.h defines those
// functions. Each word of the buffers and of shared memory has a Cell that remembers its last accesses.
// Reported: accesses outside every buffer, misaligned ones, reads of shared memory that nothing wrote, reads of memory
// that an asynchronous copy has yet to write, races (two threads access the same bytes, one of them writing, and nothing orders
// them), and accesses by the async proxy to shared memory that a thread wrote with no fence_proxy_async() since.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "abi.h"
#include "clocks.h"
#include "positions.h"

namespace gpuconv_emulator {

constexpr size_t kWord = 4;  // bytes per cell

enum Kind : uint8_t { READ, WRITE, ATOMIC, ASYNC };

struct ThreadTime {  // a thread or a piece of asynchronous work, and a time in its run
    uint32_t block = 0;       // kMaxBlocks * (the number of its cluster, in the order in which they run, from 1) + its rank
    uint32_t barriers = 0;    // that its block has passed
    uint32_t warp_syncs = 0;  // warp operations that the thread has completed
    uint32_t thread = 0;      // its clock component; from kThreads on: that of asynchronous work
    uint32_t step = 0;        // in the thread's clock
};

struct Access : ThreadTime {
    uint8_t bytes = 0;  // a mask of the word's four bytes
    bool atomic = false;
    uintptr_t pc = 0;
};

struct Cell {
    Access write, reads[2];   // the last ones; the reads are by two different threads
    uint32_t block;           // the block that accessed the word last
    uint8_t written, pending;  // masks of bytes: those that were written, and those that an asynchronous copy has yet to write
};

struct Region {
    const char* name;
    uintptr_t base;
    size_t bytes;
    bool shared = false;
    uint32_t rank = 0;  // of the block whose shared memory it is
    Cell* cells = nullptr;

    bool contains(uintptr_t address, size_t size) const { return address >= base && address + size <= base + bytes; }
    size_t cell_count() const { return (base + bytes - 1) / kWord - base / kWord + 1; }
};

class Checker {
  public:
    ~Checker() { forget(); }

    std::string message;             // the fault that a check has found; empty if there is none
    dim3 block_size;
    std::vector<uint3> blocks;       // the indices of the cluster's blocks
    uintptr_t image_begin = 0, image_end = 0;  // the kernel's library: its code, constants and globals
    Clocks clocks;
    std::vector<uint32_t> fenced;    // the blocks that called __threadfence: trusted to order their accesses before other blocks'

    // A number for a position in the source, which serves as a pc.
    uintptr_t pc_of(Site site) {
        size_t i = 0;
        while (i < sites.size() && sites[i] != site) ++i;
        if (i == sites.size()) sites.push_back(site);
        return kSites + i;
    }
    bool in_image(uintptr_t address) const { return address - image_begin < image_end - image_begin; }
    void add(Region region) {
        if (region.bytes) regions.push_back(region);
    }
    void sort() {
        std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.base < b.base; });
    }
    void remove_shared() {
        for (Region& region : regions)
            if (region.shared) unmap(region);
        regions.erase(std::remove_if(regions.begin(), regions.end(), [](const Region& r) { return r.shared; }),
                      regions.end());
        recent = 0;
    }
    void remove(uintptr_t base) {
        for (Region& region : regions)
            if (region.base == base) unmap(region);
        regions.erase(std::remove_if(regions.begin(), regions.end(), [=](const Region& r) { return r.base == base; }), regions.end());
        recent = 0;
    }
    void forget() {
        for (Region& region : regions) unmap(region);
        regions.clear();
        fenced.clear();
        sites.clear();
        message.clear();
        recent = 0;
    }

    // True if the access is valid; else `message` describes the fault.
    bool check(const ThreadTime& now, uintptr_t address, size_t size, Kind kind, uintptr_t pc) {
        Region* region = find(address, size);
        if (!region) return outside(address, size, kind, pc);
        if ((size & (size - 1)) == 0 && size <= 16 && address % size)
            return fault(verb(kind) + " " + std::to_string(size) + " bytes at " + name(*region, address) +
                         ", which is not aligned to " + std::to_string(size), pc);
        if (!region->cells) map(*region);
        const uintptr_t first = region->base / kWord;
        for (uintptr_t word = address / kWord; word * kWord < address + size; ++word) {
            Access access{now, word_bytes(address, size, word), kind == ATOMIC, pc};
            if (!check_word(*region, region->cells[word - first], access, std::max(address, word * kWord), kind)) return false;
        }
        return true;
    }

    // The same for asynchronous reads and writes through the async proxy. now: the work's clock component and step. view: what the
    // threads that issued it know. who: the work, as a fault names it. A write takes effect later: until `settle`, nothing may read
    // the bytes.
    bool check_async(const ThreadTime& now, const Clock& view, uintptr_t address, size_t size, bool writes, uintptr_t pc,
                     const std::string& who) {
        Region* region = find(address, size);
        if (!region) return outside(address, size, writes ? WRITE : READ, pc);
        if (!region->cells) map(*region);
        for (uintptr_t word = address / kWord; word * kWord < address + size; ++word) {
            Access access{now, word_bytes(address, size, word), false, pc};
            Cell& cell = region->cells[word - region->base / kWord];
            if (!check_word_async(*region, cell, access, view, std::max(address, word * kWord), writes, who)) return false;
        }
        return true;
    }

    // An asynchronous write has taken effect.
    void settle(uintptr_t address, size_t size) {
        Region* region = find(address, size);
        for (uintptr_t word = address / kWord; word * kWord < address + size; ++word)
            region->cells[word - region->base / kWord].pending &= uint8_t(~word_bytes(address, size, word));
    }

    // The clock component of the first thread of a block. Each block begins at a whole warp.
    uint32_t first_thread(uint32_t rank) const {
        return rank * ((block_size.x * block_size.y * block_size.z + 31) / 32 * 32);
    }
    static bool same_cluster(const ThreadTime& a, const ThreadTime& b) { return a.block / kMaxBlocks == b.block / kMaxBlocks; }

    // Whether two accesses might also happen in the other order. False if program order, a barrier, a warp operation or the clocks
    // put `earlier` first. wrote: whether `earlier` was a write. `later` is by a thread; `earlier` may be asynchronous.
    bool unordered(const ThreadTime& earlier, const ThreadTime& later, bool wrote) const {
        if (earlier.block != later.block) return unordered_blocks(earlier, later, nullptr, wrote);
        if (earlier.thread == later.thread) return false;
        if (earlier.thread < kThreads) {
            const bool same_warp = earlier.thread / 32 == later.thread / 32;
            if (earlier.barriers != later.barriers) return false;
            if (same_warp && earlier.warp_syncs < later.warp_syncs) return false;
        }
        return !clocks.active || unordered_by_clocks(earlier, later);
    }

    __attribute__((noinline, cold)) bool unordered_by_clocks(const ThreadTime& earlier, const ThreadTime& later) const {
        return !clocks.ordered(earlier.thread, earlier.step, int(later.thread));
    }

    // The same for accesses by two blocks. view: what the later one knows; null: the clock of its thread. Within a cluster, a write is
    // visible to other blocks only after a cluster_sync().
    __attribute__((noinline, cold)) bool unordered_blocks(const ThreadTime& earlier, const ThreadTime& later, const Clock* view,
                                                          bool wrote) const {
        if (std::find(fenced.begin(), fenced.end(), earlier.block) != fenced.end()) return false;
        if (!same_cluster(earlier, later)) return true;
        const Clock& known = wrote ? clocks.published : view ? *view : clocks.of(int(later.thread));
        return !clocks.ordered(earlier.thread, earlier.step, known);
    }

    uint32_t rank_of(uint32_t thread) const {
        uint32_t rank = uint32_t(blocks.size()) - 1;
        while (rank > 0 && first_thread(rank) > thread) --rank;
        return rank;
    }
    // "thread (5, 0, 0)"
    std::string name_of_thread(uint32_t thread) const {
        return "thread " + text(index_of(int(thread - first_thread(rank_of(thread))), block_size));
    }
    // " of block (1, 0, 0)", in a cluster
    std::string of_block(uint32_t rank) const { return blocks.size() > 1 ? " of block " + text(blocks[rank]) : ""; }

    // The name of the buffer or shared variable that holds an address, and the offset in it.
    std::pair<std::string, size_t> region_of(uintptr_t address) {
        const Region* region = at_or_below(address);
        return region ? std::pair(title(*region), size_t(address - region->base)) : std::pair(std::string("?"), size_t(0));
    }
    std::string place(uintptr_t pc) const {  // source_lines.py turns an address into file:line
        if (pc >= kSites) return gpuconv_emulator::place(sites[pc - kSites]);
        char text[32];
        snprintf(text, sizeof text, "{pc %zx}", size_t(pc - image_begin));
        return text;
    }

  private:
    static constexpr uintptr_t kSites = ~uintptr_t(0) / 2 + 1;  // code lies below this address

    std::vector<Region> regions;  // by address
    size_t recent = 0;            // the region found last
    std::vector<Site> sites;

    // The mask of the bytes of a word that an access covers.
    static uint8_t word_bytes(uintptr_t address, size_t size, uintptr_t word) {
        const size_t begin = std::max(address, word * kWord) - word * kWord;
        const size_t end = std::min(address + size, (word + 1) * kWord) - word * kWord;
        return uint8_t(((1u << end) - 1) & ~((1u << begin) - 1));
    }

    bool check_word(const Region& region, Cell& cell, const Access& access, uintptr_t address, Kind kind) {
        if (cell.block != access.block && region.shared) cell = Cell{};
        cell.block = access.block;
        if (kind == READ || kind == ATOMIC) {
            if (cell.pending & access.bytes)
                return fault("reads " + name(region, address) + ", which an asynchronous copy that was not waited for "
                             "has yet to write", access.pc);
            if (region.shared && (access.bytes & ~cell.written))
                return fault("reads " + name(region, address) + ", which nothing wrote", access.pc);
        }
        const bool writes = kind != READ;
        if (races(cell.write, access, true)) return race(region, cell.write, "wrote", access, writes, address);
        for (const Access& read : cell.reads)
            if (writes && races(read, access, false)) return race(region, read, "read", access, writes, address);
        if (!writes) {
            note_read(cell, access);
        } else {
            cell.write = access;
            if (kind == ASYNC) cell.pending |= access.bytes;
            else cell.pending &= uint8_t(~access.bytes);
            cell.written |= access.bytes;
        }
        return true;
    }

    bool check_word_async(const Region& region, Cell& cell, const Access& access, const Clock& view, uintptr_t address, bool writes,
                          const std::string& who) {
        if (cell.block != access.block && region.shared) cell = Cell{};
        cell.block = access.block;
        auto what = [&] { return who + (writes ? " writes " : " reads ") + name(region, address); };
        if (region.shared && !writes && (cell.pending & access.bytes))
            return fault(what() + ", which an asynchronous copy that was not waited for has yet to write", access.pc);
        if (region.shared && !writes && (access.bytes & ~cell.written))
            return fault(what() + ", which nothing wrote", access.pc);
        // True if this access is ordered after `earlier`; else `message` describes the fault.
        auto follows = [&](const Access& earlier, bool wrote) {
            if (!(earlier.bytes & access.bytes)) return true;
            const char* did = wrote ? "wrote" : "read";
            if (earlier.block != access.block)
                return !unordered_blocks(earlier, access, &view, wrote) ||
                       fault("race: " + what() + ", which another block " + did + " at " + place(earlier.pc), access.pc);
            if (!clocks.ordered(earlier.thread, earlier.step, view))
                return fault("race: " + what() + ", which " + by(earlier) + " " + did + " at " + place(earlier.pc) + between(earlier),
                             access.pc);
            const bool needs_fence = wrote && region.shared && earlier.thread < kThreads;
            return !needs_fence || clocks.fenced(earlier.thread, earlier.step, view) ||
                   fault(what() + ", which " + by(earlier) + " wrote at " + place(earlier.pc) + " with no fence_proxy_async() between",
                         access.pc);
        };
        if (is_another(cell.write, access) && !follows(cell.write, true)) return false;
        for (const Access& read : cell.reads)
            if (writes && is_another(read, access) && !follows(read, false)) return false;
        if (writes) {
            cell.write = access;
            cell.pending |= access.bytes;
            cell.written |= access.bytes;
        } else {
            note_read(cell, access);
        }
        return true;
    }
    // Whether two accesses belong to different threads or pieces of asynchronous work, or to different steps of one.
    static bool is_another(const Access& earlier, const Access& later) {
        return earlier.block != later.block || earlier.thread != later.thread || earlier.step != later.step;
    }
    static void note_read(Cell& cell, const Access& access) {
        if (cell.reads[0].thread != access.thread || cell.reads[0].block != access.block) cell.reads[1] = cell.reads[0];
        cell.reads[0] = access;
    }

    bool races(const Access& earlier, const Access& later, bool wrote) const {
        return (earlier.bytes & later.bytes) && !(earlier.atomic && later.atomic) && unordered(earlier, later, wrote);
    }

    std::string by(const Access& access) const {
        if (access.thread >= kThreads) return clocks.name(access.thread);
        return name_of_thread(access.thread) + of_block(rank_of(access.thread));
    }
    std::string between(const Access& earlier) const {
        if (earlier.thread < kThreads) return " with no barrier between";
        const bool finished = clocks.finished(earlier.thread, earlier.step);
        return finished ? " and whose end this thread does not know of" : " and which is unfinished";
    }

    __attribute__((noinline, cold)) bool race(const Region& region, const Access& earlier, const char* did, const Access& later, bool writes,
              uintptr_t address) {
        std::string other = "something in another block";  // asynchronous work of an earlier cluster, whose name is lost
        std::string why;
        if (same_cluster(earlier, later)) {
            other = by(earlier);
            why = between(earlier);
        } else if (earlier.thread < kThreads) {
            other = name_of_thread(earlier.thread) + " of another block";
        }
        return fault(std::string("race: ") + (writes ? "writes " : "reads ") + name(region, address) + ", which " + other + " " + did +
                         " at " + place(earlier.pc) + why, later.pc);
    }

    Region* find(uintptr_t address, size_t size) {
        if (recent < regions.size() && regions[recent].contains(address, size)) return &regions[recent];
        Region* region = at_or_below(address);
        if (!region || !region->contains(address, size)) return nullptr;
        recent = size_t(region - regions.data());
        return region;
    }
    Region* at_or_below(uintptr_t address) {
        auto above = std::upper_bound(regions.begin(), regions.end(), address,
                                      [](uintptr_t a, const Region& region) { return a < region.base; });
        return above == regions.begin() ? nullptr : &*(above - 1);
    }

    bool outside(uintptr_t address, size_t size, Kind kind, uintptr_t pc) {
        std::string where = address < 4096 ? "through a null pointer" : "at an address that belongs to no argument";
        size_t nearest = size_t(1) << 30;  // an address farther than this from every buffer belongs to none
        for (const Region& region : regions) {
            const uintptr_t end = region.base + region.bytes;
            const size_t distance = address < region.base ? region.base - address : address < end ? 0 : address - end;
            if (distance >= nearest) continue;
            nearest = distance;
            where = "at offset " + std::to_string(int64_t(address - region.base)) + " of " + title(region) + ", which has " +
                    std::to_string(region.bytes) + " bytes";
        }
        return fault("out of bounds: " + verb(kind) + " " + std::to_string(size) + " bytes " + where, pc);
    }

    static std::string verb(Kind kind) { return kind == READ ? "reads" : "writes"; }
    static std::string title(const Region& region) { return (region.shared ? "shared " : "") + std::string(region.name); }
    std::string name(const Region& region, uintptr_t address) const {
        return title(region) + " + " + std::to_string(std::max(address, region.base) - region.base) + " bytes" +
               (region.shared ? of_block(region.rank) : "");
    }
    bool fault(const std::string& what, uintptr_t pc) {
        message = what + ", at " + place(pc);
        return false;
    }

    static void map(Region& region) {
        void* cells = mmap(nullptr, region.cell_count() * sizeof(Cell), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (cells == MAP_FAILED) {
            perror("gpuconv: no memory for the emulator's checker");
            abort();
        }
        region.cells = static_cast<Cell*>(cells);
    }
    static void unmap(Region& region) {
        if (region.cells) munmap(region.cells, region.cell_count() * sizeof(Cell));
        region.cells = nullptr;
    }
};

}  // namespace gpuconv_emulator
