// Rows of class scores, each read by a sub-warp of `lanes` threads (a power of two, at most 32).
//
// A lane keeps PER_LANE numbers of its row in registers. Rows of more than lanes * PER_LANE classes are read from the cache again
// in each traversal.
//
// Macros: DTYPE; PER_LANE. Blocks have 256 threads.
#pragma once

#include "mean_over_blocks.cuh"

class ClassRow {
  public:
    // x: the row, or null for a sub-warp without a row, which has no classes but takes part in warp operations.
    __device__ ClassRow(const DTYPE* x, int32 classes, int32 lanes)
        : x(x), classes(x ? classes : 0), lanes(lanes), lane(threadIdx.x % lanes) {
        if (this->classes <= classes_at_once()) fetch(0);
    }

    // Calls use(class, score) for the lane's classes.
    template <class Use>
    __device__ __forceinline__ void each(Use use) {
        for (int32 begin = 0; begin < classes; begin += classes_at_once()) {
            if (classes > classes_at_once()) fetch(begin);
#pragma unroll
            for (int i = 0; i < PER_LANE; ++i) {
                const int32 c = begin + i * lanes + lane;
                if (c < classes) use(c, scores[i]);
            }
        }
    }

    // Reduces of(class, score) over all classes by op. Every lane of the row receives the result.
    template <class Op, class Of>
    __device__ __forceinline__ Real reduce(Op op, Of of) {
        Real result = Op::identity();
        each([&](int32 c, Real score) { result = op(result, of(c, score)); });
        return reduce_lanes(result, op);
    }

    // Reduces one value per lane.
    template <class Op>
    __device__ __forceinline__ Real reduce_lanes(Real value, Op op) const {
        for (int32 distance = lanes / 2; distance > 0; distance /= 2)
            value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
        return value;
    }

    __device__ bool leads() const { return classes && lane == 0; }

  private:
    __device__ int32 classes_at_once() const { return lanes * PER_LANE; }
    __device__ __forceinline__ void fetch(int32 begin) {
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            const int32 c = begin + i * lanes + lane;
            if (c < classes) scores[i] = load(x[c]);
        }
    }

    const DTYPE* x;
    const int32 classes, lanes, lane;
    Real scores[PER_LANE];
};

// Calls visit(row number, ClassRow) for the block's rows. All threads of a warp call `visit` together.
template <class Visit>
__device__ __forceinline__ void for_each_row(const DTYPE* x, int64 n, int32 classes, int32 lanes, Visit visit) {
    const int32 rows_at_once = blockDim.x / lanes;
    for (int64 begin = int64(blockIdx.x) * rows_at_once; begin < n; begin += int64(gridDim.x) * rows_at_once) {
        const int64 row = begin + threadIdx.x / lanes;
        ClassRow scores(row < n ? x + row * classes : nullptr, classes, lanes);
        visit(row, scores);
    }
}
