// Batch normalization (Ioffe and Szegedy 2015) of x (M, C): all leading axes flattened, channels innermost. The gradients are in
// batch_norm_backward.cuh.
//
//   y = act(gamma * (x - mean) * inv_std + beta [+ addend]),   inv_std = 1 / sqrt(var + eps)
//
// training                 _statistics, _statistics_finish, _normalize: x is read twice, y written
// after a convolution      _merge, _statistics_finish, _normalize: the convolution has written the partial results
// inference                _inference
// with an addend           _normalize_addend and _inference_addend
//
// Statistics: a thread computes the mean and the squared deviations of up to four rows at a time and combines them by Chan's
// formula (Chan, Golub, LeVeque 1983); blocks and chunks are combined alike. mean(x^2) - mean^2 is not used, because it would
// cancel. The _finish launch adds the partial results in a fixed order; after _statistics with a single chunk it is skipped. _merge
// is skipped unless the convolution has written more than 1024 partial results for each channel. mean, inv_std, gamma, beta and the
// running statistics have the accumulator's dtype. y may be x.
//
// Macros: DTYPE, WIDTH (column_reduce.cuh); ACTIVATION; MASK (batch_norm_backward.cuh).
// Limits: none. Partial results: 3 numbers per chunk and channel forward, 2 backward; at most 1024 chunks (ops/column_reduce.py).
// Floor, per number of x; the bytes in units of sizeof(DTYPE), in brackets if the second read hits L2:
//
//   forward            3 (2)                              10 FLOPs
//   backward           5 (3)                              11 FLOPs
//   backward, MASK 4   8 (6), and 4 bits of the mask      11 FLOPs
//
// An addend adds 1 to the bytes forward and, with an activation, 2 to the bytes backward.
#include "activation_after_norm.cuh"
#include "batch_norm_backward.cuh"
#include "column_reduce.cuh"
#include "moments.cuh"

struct Inputs {
    using Packs = Numbers;
    const DTYPE* x;
    PitchedPacks x_packs;

    __device__ Packs read(int64, int64 step) const { return reinterpret_cast<const Numbers*>(x)[x_packs.at(step)]; }
    __device__ Real value(const Packs& pack, int index) const { return load(pack.at[index]); }
    __device__ Real single(int64 number, int) const { return load(x[number]); }
};

__device__ __forceinline__ Real inverse_root(Real var, Real eps) { return Real(1) / sqrt(var + eps); }

struct Statistics {
    Real* mean;
    Real* inv_std;
    Real* running_mean;
    Real* running_var;
    double momentum, eps;

    __device__ void operator()(int32 c, const Moments& batch) const {
        const Real keep = Real(1 - momentum), take = Real(momentum);
        mean[c] = batch.mean;
        inv_std[c] = inverse_root(batch.deviations / batch.count, Real(eps));
        running_mean[c] = keep * running_mean[c] + take * batch.mean;
        running_var[c] = keep * running_var[c] + take * (batch.deviations / (batch.count - 1));
    }
};

extern "C" __global__ void __launch_bounds__(256, 3)
batch_norm_statistics(Real* mean, Real* inv_std, Real* running_mean, Real* running_var, Moments* partials, const DTYPE* x,
                      double momentum, double eps, Columns columns, int64 x_pitch) {
    const Statistics statistics{mean, inv_std, running_mean, running_var, momentum, eps};
    column_reduce(partials, columns, Inputs{x, PitchedPacks(columns, x_pitch)}, statistics);
}

extern "C" __global__ void __launch_bounds__(256)
batch_norm_statistics_finish(Real* mean, Real* inv_std, Real* running_mean, Real* running_var, const Moments* partials,
                             double momentum, double eps, int32 chunks, int32 channels) {
    column_finish(partials, chunks, channels, Statistics{mean, inv_std, running_mean, running_var, momentum, eps});
}

extern "C" __global__ void __launch_bounds__(256)
batch_norm_merge(Moments* fewer, const Moments* partials, int32 chunks, int32 share, int32 channels) {
    merge_tiles(fewer, partials, chunks, share, channels);
}

// y = act((x - mean) * scale + beta), for the channels of a thread's packs. With ADDS, the argument of act is rounded
// to DTYPE and an addend is added to it, with the same bits as by a separate addition.
template <bool ADDS>
struct Normalize {
    DTYPE* y;
    const DTYPE* x;
    const DTYPE* addend;
    PitchedPacks y_packs, x_packs, addend_packs;
    Real mean[WIDTH], scale[WIDTH], beta[WIDTH];

    __device__ DTYPE apply(DTYPE x, DTYPE addend, int index) const {
        DTYPE input = normalized(x, mean[index], scale[index], beta[index]);  // of the activation
        if (ADDS) input = round_to<DTYPE>(load(input) + load(addend));
        return ACTIVE ? round_to<DTYPE>(ACTIVATION<Real>{}.apply(load(input))) : input;
    }
    template <int ROWS>
    __device__ __forceinline__ void packs(int64, int64, int64 step) {
        Numbers rows[ROWS], addends[ROWS] = {};
        const int64 to = y_packs.at(step), from = x_packs.at(step), addend_from = ADDS ? addend_packs.at(step) : 0;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            rows[i] = reinterpret_cast<const Numbers*>(x)[from + i * x_packs.stride];
            if (ADDS) addends[i] = reinterpret_cast<const Numbers*>(addend)[addend_from + i * addend_packs.stride];
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) rows[i].at[j] = apply(rows[i].at[j], addends[i].at[j], j);
            reinterpret_cast<Numbers*>(y)[to + i * y_packs.stride] = rows[i];
        }
    }
    __device__ void single(int64 number, int index) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)  // a variable index would move the coefficients to local memory
            if (j == index) y[number] = apply(x[number], ADDS ? addend[number] : DTYPE(), j);
    }
};

struct Coefficients {
    Real mean, scale, beta;
};

// coefficients(c, j): those of column c, to which number j of the thread's packs belongs.
template <bool ADDS, class Source>
__device__ __forceinline__ void
normalize(DTYPE* y, const DTYPE* x, const DTYPE* addend, const Columns& columns, int64 y_pitch, int64 x_pitch, int64 addend_pitch,
          const Source& coefficients) {
    const PitchedPacks y_packs(columns, y_pitch), x_packs(columns, x_pitch), addend_packs(columns, addend_pitch);
    Normalize<ADDS> map{y, x, addend, y_packs, x_packs, addend_packs, {}, {}, {}};
    int32 column[WIDTH];
    Position(columns).find_columns(column, columns.channels);
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const Coefficients found = coefficients(column[j], j);
            map.mean[j] = found.mean;
            map.scale[j] = found.scale;
            map.beta[j] = found.beta;
        }
    walk<4>(columns, map);
}

struct BatchStatistics {
    const Real *gamma, *beta, *mean, *inv_std;

    __device__ Coefficients operator()(int32 c, int) const { return {mean[c], gamma[c] * inv_std[c], beta[c]}; }
};

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_normalize(DTYPE* y, const DTYPE* x, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std,
                     Columns columns, int64 y_pitch, int64 x_pitch) {
    normalize<false>(y, x, nullptr, columns, y_pitch, x_pitch, 0, BatchStatistics{gamma, beta, mean, inv_std});
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_normalize_addend(DTYPE* y, const DTYPE* x, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std,
                            Columns columns, int64 y_pitch, int64 x_pitch, const DTYPE* addend, int64 addend_pitch) {
    normalize<true>(y, x, addend, columns, y_pitch, x_pitch, addend_pitch, BatchStatistics{gamma, beta, mean, inv_std});
}

// The first chunk's threads also write mean and inv_std, computed from the running statistics.
struct RunningStatistics {
    const Real *gamma, *beta, *running_mean, *running_var;
    Real *mean, *inv_std;
    Real eps;
    int32 tile;  // columns per block

    __device__ Coefficients operator()(int32 c, int j) const {
        const Real root = inverse_root(running_var[c], eps);
        if (blockIdx.x == 0 && threadIdx.x * WIDTH + j < tile) {
            mean[c] = running_mean[c];
            inv_std[c] = root;
        }
        return {running_mean[c], gamma[c] * root, beta[c]};
    }
};

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_inference(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const Real* gamma, const Real* beta,
                     const Real* running_mean, const Real* running_var, double eps, Columns columns, int64 y_pitch,
                     int64 x_pitch) {
    const RunningStatistics statistics{gamma, beta, running_mean, running_var, mean, inv_std, Real(eps), columns.tile};
    normalize<false>(y, x, nullptr, columns, y_pitch, x_pitch, 0, statistics);
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_inference_addend(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const Real* gamma, const Real* beta,
                            const Real* running_mean, const Real* running_var, double eps, Columns columns, int64 y_pitch,
                            int64 x_pitch, const DTYPE* addend, int64 addend_pitch) {
    const RunningStatistics statistics{gamma, beta, running_mean, running_var, mean, inv_std, Real(eps), columns.tile};
    normalize<true>(y, x, addend, columns, y_pitch, x_pitch, addend_pitch, statistics);
}
