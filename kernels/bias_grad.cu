// The gradient of a bias: db[k] = sum over m of dy[m, k]; dy is (M, K), all leading axes flattened. If an ACTIVATION follows the
// bias, dy is the gradient of the activation's output: db[k] = sum over m of ACTIVATION.gradient(dy[m, k], saved[m, k]).
//
//   bias_grad_sum       each block sums a chunk of rows (column_reduce.cuh): into db with a single chunk, else into
//                       partials (chunks, K)
//   bias_grad_finish    sums the partials into db
//
// accumulate: add to the previous db; sum and addition are rounded once.
//
// Macros: DTYPE; ACTIVATION; WIDTH 16 / sizeof(DTYPE) where alignment and K allow (width_of in ops/column_reduce.py), else 1.
// Limits: none. Floor: sizeof(DTYPE) bytes per number of dy and of saved, and one addition per number of dy.
#include "activation.cuh"
#include "column_reduce.cuh"

struct Total {
    using Value = Real;
    Real sum;

    static __device__ Total of(Real value) { return {value}; }
    template <int ROWS>
    static __device__ void add(Total (&states)[WIDTH], const Real (&values)[WIDTH][ROWS]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) states[j].sum += values[j][i];
    }
    __device__ void merge(const Total& other) { sum += other.sum; }
};

struct Gradients {
    struct Packs {
        Numbers dy, saved;
    };
    const DTYPE *dy, *saved;
    PitchedPacks dy_packs;

    __device__ Packs read(int64 pack, int64 step) const {
        Packs found = {reinterpret_cast<const Numbers*>(dy)[dy_packs.at(step)]};
        if constexpr (!IS_IDENTITY<ACTIVATION>) found.saved = reinterpret_cast<const Numbers*>(saved)[pack];
        return found;
    }
    __device__ Real value(const Packs& pack, int index) const { return gradient(pack.dy.at[index], pack.saved.at[index]); }
    __device__ Real single(int64 number, int) const {
        return gradient(dy[number], IS_IDENTITY<ACTIVATION> ? DTYPE{} : saved[number]);
    }

    static __device__ Real gradient(DTYPE dy, DTYPE saved) {
        return IS_IDENTITY<ACTIVATION> ? load(dy) : ACTIVATION<Real>{}.gradient(load(dy), load(saved));
    }
};

struct Bias {
    DTYPE* db;
    bool accumulate;

    __device__ void operator()(int32 column, const Total& total) const {
        db[column] = round_to<DTYPE>(accumulate ? load(db[column]) + total.sum : total.sum);
    }
};

extern "C" __global__ void __launch_bounds__(256, sizeof(DTYPE) == 8 ? 1 : 0)  // 1 gives doubles more registers; 0: no bound
bias_grad_sum(DTYPE* db, Total* partials, const DTYPE* dy, const DTYPE* saved, bool accumulate, Columns columns, int64 dy_pitch) {
    column_reduce(partials, columns, Gradients{dy, saved, PitchedPacks(columns, dy_pitch)}, Bias{db, accumulate});
}

extern "C" __global__ void __launch_bounds__(256)
bias_grad_finish(DTYPE* db, const Total* partials, bool accumulate, int32 chunks, int32 channels) {
    column_finish(partials, chunks, channels, Bias{db, accumulate});
}
