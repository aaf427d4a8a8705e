// Keeps clusters, with the stacks of their blocks' threads, from launch to launch.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cluster.h"

namespace gpuconv_emulator {

class ClusterPool {
  public:
    static ClusterPool& instance() {
        static ClusterPool* pool = new ClusterPool;
        return *pool;
    }
    std::unique_ptr<Cluster> take() {
        std::lock_guard<std::mutex> lock(mutex);
        if (idle.empty()) return std::make_unique<Cluster>();
        auto cluster = std::move(idle.back());
        idle.pop_back();
        return cluster;
    }
    void give(std::unique_ptr<Cluster> cluster) {
        std::lock_guard<std::mutex> lock(mutex);
        idle.push_back(std::move(cluster));
    }

  private:
    std::mutex mutex;
    std::vector<std::unique_ptr<Cluster>> idle;
};

}  // namespace gpuconv_emulator
