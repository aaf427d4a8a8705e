// The order in which a block's threads run: by their index or, with a seed, at random.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "checker.h"

namespace gpuconv_emulator {

struct Random {
    uint64_t state = 0;
    uint32_t draw() {
        state = state * 6364136223846793005 + 1442695040888963407;
        return uint32_t(state >> 33);
    }
};

class Order {
  public:
    Random random;

    // seed: of the launch. number: the block's.
    void begin(uint64_t seed, uint64_t number, int threads) {
        count = threads;
        seeded = seed != 0;
        random.state = seed + number * 0x9e3779b97f4a7c15;
        for (int i = 0; i < count; ++i) order[i] = uint16_t(i);
        shuffle();
    }
    int next() {
        position = position + 1 == count ? 0 : position + 1;
        return order[position];
    }
    // After this, next() returns the first thread of the order.
    void restart() { position = count - 1; }

    // Restarts. With a seed, draws a new order: at random, either all threads are shuffled, or only the warps.
    void shuffle() {
        restart();
        if (!seeded) return;
        shuffle(order, count);
        if (random.draw() & 1) return;
        const int warps = (count + 31) / 32;
        uint16_t warp_order[kMaxThreads / 32];
        for (int i = 0; i < warps; ++i) warp_order[i] = uint16_t(i);
        shuffle(warp_order, warps);
        std::sort(order, order + count, [&](int a, int b) {
            return a / 32 == b / 32 ? a < b : warp_order[a / 32] < warp_order[b / 32];
        });
    }

  private:
    void shuffle(uint16_t* items, int n) {
        for (int i = n - 1; i > 0; --i) std::swap(items[i], items[random.draw() % uint32_t(i + 1)]);
    }

    uint16_t order[kMaxThreads];
    int count = 0, position = 0;
    bool seeded = false;
};

}  // namespace gpuconv_emulator
