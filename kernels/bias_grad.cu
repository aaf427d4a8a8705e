// The gradient to a bias: db[k] = sum over m of dy[m, k], dy (M, K) with all leading axes flattened.
//
//   bias_grad_sum       each block a chunk of rows (column_reduce.cuh): db where one chunk is all, else partials (chunks, K)
//   bias_grad_finish    db from the partials
//
// accumulate adds to what db holds; the sum and the addition are rounded once. K and M are any; 16-byte loads where dy is
// aligned to 16 bytes and K is at most 256 or a multiple of WIDTH.
//
// Macros: DTYPE, WIDTH. Any compute capability. Floor: sizeof(DTYPE) bytes and one addition a number of dy; partials add at
// most 1024 tiles' worth, under 1 % of a dy that needs them all. Prediction, not measured: bound by memory, 85 % of the
// copy bandwidth from some 10 MB of dy on, below by its launches.
#include "column_reduce.cuh"

struct Total {
    using Value = Real;
    Real sum;

    static __device__ Total of(Real value) { return {value}; }
    template <int ROWS>
    static __device__ void add(Total (&lanes)[WIDTH], const Real (&values)[WIDTH][ROWS]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) lanes[j].sum += values[j][i];
    }
    __device__ void merge(const Total& other) { sum += other.sum; }
};

struct Gradients {
    using Packs = Numbers;
    const DTYPE* dy;

    __device__ Packs read(int64 pack) const { return reinterpret_cast<const Numbers*>(dy)[pack]; }
    __device__ Real value(const Packs& pack, int lane) const { return load(pack.at[lane]); }
    __device__ Real single(int64 number, int) const { return load(dy[number]); }
};

struct Bias {
    DTYPE* db;
    bool accumulate;

    __device__ void operator()(int32 column, const Total& total) const {
        db[column] = round_to<DTYPE>(accumulate ? load(db[column]) + total.sum : total.sum);
    }
};

extern "C" __global__ void __launch_bounds__(256)
bias_grad_sum(DTYPE* db, Total* partials, const DTYPE* dy, bool accumulate, Columns columns) {
    column_reduce(partials, columns, Gradients{dy}, Bias{db, accumulate});
}

extern "C" __global__ void __launch_bounds__(256)
bias_grad_finish(DTYPE* db, const Total* partials, bool accumulate, int32 chunks, int32 channels) {
    column_finish(partials, chunks, channels, Bias{db, accumulate});
}
