// Batch normalization (Ioffe and Szegedy 2015) of x (M, C): all leading axes flattened, channels innermost.
//
//   y = act(gamma * (x - mean) * inv_std + beta [+ addend]),   inv_std = 1 / sqrt(var + eps)
//   dx = gamma * inv_std * (dy - (sum dy + xhat * sum(dy * xhat)) / M),   xhat = (x - mean) * inv_std
//
// With MASK 4, x is the result of a 2 x 2 max pool of a convolution's output (N, H, W, C), and dx the gradient of that output:
// each number of the formula goes to the pixel of its window that the mask (mask.cuh) marks, zeros to all others.
//
// In the formula of dx, dy is the gradient of the activation's input. Backward recomputes that input from x instead of
// reading it from memory. With an addend it cannot: _backward_sums_saved reads what the activation's backward takes (saved), and
// stores the gradient of the activation's input, which is the addend's too, for _backward_dx without an activation.
//
// forward, training        _statistics, _statistics_finish, _normalize: x is read twice, y written
// after a convolution      _merge, _statistics_finish, _normalize: the convolution has written the partial results
// forward, inference       _inference
// with an addend           _normalize_addend and _inference_addend
// backward                 _backward_sums, _backward_finish, _backward_dx or _dx_unpooled: dy and x are read twice, dx written
// backward, addend         _backward_sums_saved, _backward_finish, _backward_dx: also reads saved, and writes the addend's gradient
// below a convolution      _backward_merge, _backward_finish, _backward_dx: that convolution's dgrad has written partial sums
//
// Statistics: a thread computes the mean and the squared deviations of four rows at a time and combines them by Chan's formula
// (Chan, Golub, LeVeque 1983); blocks and chunks are combined alike. mean(x^2) - mean^2 is not used, because it would cancel. The
// _finish launches add the chunks' partial results in a fixed order; with a single chunk they are skipped, except after
// _backward_sums_saved. mean, inv_std, gamma, beta, the running statistics and the parameters' gradients have the accumulator's
// dtype. y may be x; dx may be dy or x.
//
// Macros: DTYPE, WIDTH (column_reduce.cuh); ACTIVATION; MASK 0 or, with a WIDTH that divides a group's channels, 4.
// Limits: none. A partial result is 3 numbers per chunk and channel forward, 2 backward, with chunks times tiles at most 1024.
// Floor: forward 3 sizeof(DTYPE) bytes per number (2 if the second read hits L2) and 10 FLOPs; backward 5 (3), or 8 (6)
// with MASK 4, and 11 FLOPs. An addend takes 1 more forward and, with an activation, 2 more backward.
#include "column_reduce.cuh"
#include "mask.cuh"
#include "moments.cuh"
#include "norm_gradient.cuh"
#include "sums.cuh"

struct Inputs {
    using Packs = Numbers;
    const DTYPE* x;
    PitchedPacks x_packs;

    __device__ Packs read(int64, int64 step) const { return reinterpret_cast<const Numbers*>(x)[x_packs.at(step)]; }
    __device__ Real value(const Packs& pack, int lane) const { return load(pack.at[lane]); }
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

// Reduces a convolution's partial results, one State for each tile and channel: each block adds up `share` of them.
template <class State>
__device__ __forceinline__ void merge_tiles(State* fewer, const State* partials, int32 chunks, int32 share, int32 channels) {
    const int32 first = int32(blockIdx.y) * share;
    column_finish(partials + int64(first) * channels, min(share, chunks - first), channels,
                  [&](int32 c, const State& state) { fewer[int64(blockIdx.y) * channels + c] = state; });
}

extern "C" __global__ void __launch_bounds__(256)
batch_norm_merge(Moments* fewer, const Moments* partials, int32 chunks, int32 share, int32 channels) {
    merge_tiles(fewer, partials, chunks, share, channels);
}

// y = act((x - mean) * scale + beta), for the channels of a thread's lanes. With ADDS an addend is added to the value rounded to
// DTYPE, as a separate addition would, before the activation.
template <bool ADDS>
struct Normalize {
    DTYPE* y;
    const DTYPE* x;
    const DTYPE* addend;
    PitchedPacks y_packs, x_packs, addend_packs;
    Real mean[WIDTH], scale[WIDTH], beta[WIDTH];

    __device__ DTYPE apply(DTYPE number, DTYPE more, int lane) const {
        DTYPE given = normal(number, mean[lane], scale[lane], beta[lane]);
        if (ADDS) given = round_to<DTYPE>(load(given) + load(more));
        return ACTIVE ? round_to<DTYPE>(ACTIVATION<Real>{}.apply(load(given))) : given;
    }
    template <int ROWS>
    __device__ __forceinline__ void packs(int64, int64, int64 step) {
        Numbers rows[ROWS], more[ROWS] = {};
        const int64 to = y_packs.at(step), from = x_packs.at(step), more_from = ADDS ? addend_packs.at(step) : 0;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            rows[i] = reinterpret_cast<const Numbers*>(x)[from + i * x_packs.stride];
            if (ADDS) more[i] = reinterpret_cast<const Numbers*>(addend)[more_from + i * addend_packs.stride];
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) rows[i].at[j] = apply(rows[i].at[j], more[i].at[j], j);
            reinterpret_cast<Numbers*>(y)[to + i * y_packs.stride] = rows[i];
        }
    }
    __device__ void single(int64 number, int lane) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)  // a variable index would move the coefficients to local memory
            if (j == lane) y[number] = apply(x[number], ADDS ? addend[number] : DTYPE(), j);
    }
};

template <bool ADDS>
__device__ __forceinline__ void
normalize(DTYPE* y, const DTYPE* x, const DTYPE* addend, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std,
          const Columns& columns, int64 y_pitch, int64 x_pitch, int64 addend_pitch) {
    const PitchedPacks y_packs(columns, y_pitch), x_packs(columns, x_pitch), addend_packs(columns, addend_pitch);
    Normalize<ADDS> map{y, x, addend, y_packs, x_packs, addend_packs, {}, {}, {}};
    int32 column[WIDTH];
    Position(columns).columns_of_lanes(column, columns.channels);
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            map.mean[j] = mean[column[j]];
            map.scale[j] = gamma[column[j]] * inv_std[column[j]];
            map.beta[j] = beta[column[j]];
        }
    walk<4>(columns, map);
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_normalize(DTYPE* y, const DTYPE* x, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std,
                     Columns columns, int64 y_pitch, int64 x_pitch) {
    normalize<false>(y, x, nullptr, gamma, beta, mean, inv_std, columns, y_pitch, x_pitch, 0);
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_normalize_addend(DTYPE* y, const DTYPE* x, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std,
                            Columns columns, int64 y_pitch, int64 x_pitch, const DTYPE* addend, int64 addend_pitch) {
    normalize<true>(y, x, addend, gamma, beta, mean, inv_std, columns, y_pitch, x_pitch, addend_pitch);
}

// Normalizes with the running statistics; the first chunk's threads also write them to mean and inv_std.
template <bool ADDS>
__device__ __forceinline__ void
infer(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const DTYPE* addend, const Real* gamma, const Real* beta,
      const Real* running_mean, const Real* running_var, double eps, const Columns& columns, int64 y_pitch, int64 x_pitch,
      int64 addend_pitch) {
    const PitchedPacks y_packs(columns, y_pitch), x_packs(columns, x_pitch), addend_packs(columns, addend_pitch);
    Normalize<ADDS> map{y, x, addend, y_packs, x_packs, addend_packs, {}, {}, {}};
    int32 column[WIDTH];
    Position(columns).columns_of_lanes(column, columns.channels);
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const int32 c = column[j];
            const Real root = inverse_root(running_var[c], Real(eps));
            map.mean[j] = running_mean[c];
            map.scale[j] = gamma[c] * root;
            map.beta[j] = beta[c];
            if (blockIdx.x == 0 && threadIdx.x * WIDTH + j < columns.tile) {
                mean[c] = running_mean[c];
                inv_std[c] = root;
            }
        }
    walk<4>(columns, map);
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_inference(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const Real* gamma, const Real* beta,
                     const Real* running_mean, const Real* running_var, double eps, Columns columns, int64 y_pitch,
                     int64 x_pitch) {
    infer<false>(y, mean, inv_std, x, nullptr, gamma, beta, running_mean, running_var, eps, columns, y_pitch, x_pitch, 0);
}

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_inference_addend(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const Real* gamma, const Real* beta,
                            const Real* running_mean, const Real* running_var, double eps, Columns columns, int64 y_pitch,
                            int64 x_pitch, const DTYPE* addend, int64 addend_pitch) {
    infer<true>(y, mean, inv_std, x, addend, gamma, beta, running_mean, running_var, eps, columns, y_pitch, x_pitch, addend_pitch);
}

// --- backward ----------------------------------------------------------------------------------

// The gradient of the activation's input, for the channels of a thread's lanes.
struct Through {
    Real mean[WIDTH], scale[WIDTH], beta[WIDTH];

    __device__ Through(const Columns& columns, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std) {
        int32 column[WIDTH];
        Position(columns).columns_of_lanes(column, columns.channels);
        if (Position(columns).inside)
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                const int32 c = column[j];
                this->mean[j] = mean[c];
                this->scale[j] = ACTIVE ? gamma[c] * inv_std[c] : Real(0);
                this->beta[j] = ACTIVE ? beta[c] : Real(0);
            }
    }
    __device__ __forceinline__ Real operator()(DTYPE dy, DTYPE x, int lane) const {
        return behind_activation(dy, x, mean[lane], scale[lane], beta[lane]);
    }
};

struct Products {
    struct Packs {
        Numbers dy, x;
    };
    const DTYPE* dy;
    const DTYPE* x;
    PitchedPacks dy_packs, x_packs;
    Through through;

    __device__ Packs read(int64, int64 step) const {
        return {reinterpret_cast<const Numbers*>(dy)[dy_packs.at(step)], reinterpret_cast<const Numbers*>(x)[x_packs.at(step)]};
    }
    __device__ Sums value(const Packs& packs, int lane) const { return product(packs.dy.at[lane], packs.x.at[lane], lane); }
    __device__ Sums single(int64 number, int lane) const {
        Sums sums = {};
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == lane) sums = product(dy[number], x[number], j);
        return sums;
    }
    __device__ Sums product(DTYPE dy, DTYPE x, int lane) const {
        const Real gradient = through(dy, x, lane);
        return {gradient, gradient * (load(x) - through.mean[lane])};
    }
};

struct Gradients {
    Real* dgamma;
    Real* dbeta;
    Sums* sums;  // before accumulation, for dx
    const Real* inv_std;
    bool accumulate;

    __device__ void operator()(int32 c, const Sums& total) const {
        sums[c] = total;
        dgamma[c] = (accumulate ? dgamma[c] : Real(0)) + total.product * inv_std[c];
        dbeta[c] = (accumulate ? dbeta[c] : Real(0)) + total.dy;
    }
};

extern "C" __global__ void __launch_bounds__(256, ACTIVE ? 1 : 3)
batch_norm_backward_sums(Real* dgamma, Real* dbeta, Sums* sums, Sums* partials, const DTYPE* dy, const DTYPE* x,
                         const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std, bool accumulate,
                         Columns columns, int64 dy_pitch, int64 x_pitch) {
    const Through through(columns, gamma, beta, mean, inv_std);
    const Products products{dy, x, PitchedPacks(columns, dy_pitch), PitchedPacks(columns, x_pitch), through};
    column_reduce(partials, columns, products, Gradients{dgamma, dbeta, sums, inv_std, accumulate});
}

// The terms of the sums where an addend was added to the norm's output. Also stores the addend's gradient.
struct ProductsOfSaved {
    struct Packs {
        Numbers dy, x, saved;
    };
    DTYPE* daddend;
    const DTYPE* dy;
    const DTYPE* x;
    const DTYPE* saved;
    PitchedPacks dy_packs, x_packs, saved_packs;
    Real mean[WIDTH];

    __device__ Packs read(int64, int64 step) const {
        return {reinterpret_cast<const Numbers*>(dy)[dy_packs.at(step)], reinterpret_cast<const Numbers*>(x)[x_packs.at(step)],
                reinterpret_cast<const Numbers*>(saved)[saved_packs.at(step)]};
    }
    __device__ void write(int64 pack, Packs& packs) const {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) packs.dy.at[j] = gradient(packs.dy.at[j], packs.saved.at[j]);
        reinterpret_cast<Numbers*>(daddend)[pack] = packs.dy;
    }
    __device__ Sums value(const Packs& packs, int lane) const { return product(packs.dy.at[lane], packs.x.at[lane], lane); }
    __device__ Sums single(int64 number, int lane) const {
        const DTYPE behind = gradient(dy[number], saved[number]);
        daddend[number] = behind;
        Sums sums = {};
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == lane) sums = product(behind, x[number], j);
        return sums;
    }
    static __device__ DTYPE gradient(DTYPE dy, DTYPE saved) {
        return round_to<DTYPE>(ACTIVATION<Real>{}.gradient(load(dy), load(saved)));
    }
    __device__ Sums product(DTYPE dy, DTYPE x, int lane) const { return {load(dy), load(dy) * (load(x) - mean[lane])}; }
};
template <> constexpr bool WRITES<ProductsOfSaved> = true;

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_backward_sums_saved(Sums* partials, DTYPE* daddend, const DTYPE* dy, const DTYPE* x, const DTYPE* saved,
                               const Real* mean, Columns columns, int64 dy_pitch, int64 x_pitch, int64 saved_pitch) {
    const PitchedPacks dy_packs(columns, dy_pitch), x_packs(columns, x_pitch), saved_packs(columns, saved_pitch);
    ProductsOfSaved products{daddend, dy, x, saved, dy_packs, x_packs, saved_packs, {}};
    int32 column[WIDTH];
    Position(columns).columns_of_lanes(column, columns.channels);
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) products.mean[j] = mean[column[j]];
    column_reduce(partials, columns, products, [&](int32 c, const Sums& total) { partials[c] = total; });
}

extern "C" __global__ void __launch_bounds__(256)
batch_norm_backward_finish(Real* dgamma, Real* dbeta, Sums* sums, const Sums* partials, const Real* inv_std, bool accumulate,
                           int32 chunks, int32 channels) {
    column_finish(partials, chunks, channels, Gradients{dgamma, dbeta, sums, inv_std, accumulate});
}

extern "C" __global__ void __launch_bounds__(256)
batch_norm_backward_merge(Sums* fewer, const Sums* partials, int32 chunks, int32 share, int32 channels) {
    merge_tiles(fewer, partials, chunks, share, channels);
}

// Passes a gradient back through a pool, from (N, p, q, C) to (N, h, w, C).
struct Unpool {
    const uint8* mask;
    int64 dy_pitch;
    int32 h, w, p, q, channels, filters;  // filters: those of one group

    // A pack's window and first filter; returns its place in dy, in packs.
    __device__ __forceinline__ int64 locate(int64 pack, int32& window, int32& filter) const {
        const int32 packs = channels / WIDTH;
        window = int32(pack / packs);
        filter = int32(pack - int64(window) * packs) * WIDTH;
        return (window * dy_pitch + filter) / WIDTH;
    }

    // An odd last row or column lies outside every window. It is set to 0 together with the windows beside it.
    __device__ __forceinline__ void store(DTYPE* dz, int32 window, int32 filter, const Numbers& gradient) const {
        constexpr int SIDE = 2;
        const int32 packs = channels / WIDTH, group = filter / filters;
        const uint32 bits = Mask(mask, filters, channels / filters, group).template read<WIDTH>(window, filter - group * filters);
        const int32 row = window / q, column = window - row * q, image = row / p, line = row - image * p;
        const int32 left = SIDE * column, right = column + 1 < q ? left + SIDE : w;
        const int32 top = SIDE * line, bottom = line + 1 < p ? top + SIDE : h;
        for (int32 i = top; i < bottom; ++i)
            for (int32 j = left; j < right; ++j) {
                const bool inside = i < top + SIDE && j < left + SIDE;
                const int bit = (i - top) * SIDE + j - left;
                Numbers result = {};
#pragma unroll
                for (int k = 0; k < WIDTH; ++k)
                    if (inside && bits >> (k * SIDE * SIDE + bit) & 1) result.at[k] = gradient.at[k];
                reinterpret_cast<Numbers*>(dz)[((int64(image) * h + i) * w + j) * packs + filter / WIDTH] = result;
            }
    }
};

// dx = scale * (dy - shift - (x - mean) * slope); without batch statistics scale * dy, and x may be null.
struct InputGradient {
    DTYPE* dx;
    const DTYPE* dy;
    const DTYPE* x;
    bool statistics;
    PitchedPacks dy_packs, x_packs;  // unused with a mask, which leaves no registers for them
    Unpool unpool;
    Through through;
    Real scale[WIDTH], shift[WIDTH], slope[WIDTH];

    __device__ DTYPE apply(DTYPE dy, DTYPE x, int lane) const {
        const Real gradient = through(dy, x, lane);
        if (!statistics) return round_to<DTYPE>(scale[lane] * gradient);
        return round_to<DTYPE>(scale[lane] * (gradient - shift[lane] - (load(x) - through.mean[lane]) * slope[lane]));
    }
    __device__ DTYPE apply(DTYPE dy, int lane) const { return round_to<DTYPE>(scale[lane] * load(dy)); }

    template <int ROWS>
    __device__ __forceinline__ void packs(int64 pack, int64 stride, int64 step) {
        Numbers gradients[ROWS], inputs[ROWS];
        int32 windows[ROWS], filters[ROWS];  // with a mask
        const int64 first = MASK > 0 ? 0 : dy_packs.at(step);
        const int64 x_from = MASK > 0 ? pack : x_packs.at(step), x_stride = MASK > 0 ? stride : x_packs.stride;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            int64 from = first + i * dy_packs.stride;
            if constexpr (MASK > 0) from = unpool.locate(pack + i * stride, windows[i], filters[i]);
            gradients[i] = reinterpret_cast<const Numbers*>(dy)[from];
        }
        const bool reads_x = (MASK > 0 && ACTIVE) || x;
        if (reads_x)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) inputs[i] = reinterpret_cast<const Numbers*>(x)[x_from + i * x_stride];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j)
                gradients[i].at[j] = reads_x ? apply(gradients[i].at[j], inputs[i].at[j], j) : apply(gradients[i].at[j], j);
            if constexpr (MASK > 0) unpool.store(dx, windows[i], filters[i], gradients[i]);
            else reinterpret_cast<Numbers*>(dx)[pack + i * stride] = gradients[i];
        }
    }
    __device__ void single(int64 number, int lane) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == lane) dx[number] = x ? apply(dy[number], x[number], j) : apply(dy[number], j);
    }
};

__device__ __forceinline__ void
input_gradient(DTYPE* dx, const Unpool& unpool, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* beta,
               const Real* mean, const Real* inv_std, const Sums* sums, int64 rows, bool statistics, const Columns& columns,
               int64 dy_pitch, int64 x_pitch) {
    const PitchedPacks dy_packs(columns, dy_pitch), x_packs(columns, x_pitch);
    const Through through(columns, gamma, beta, mean, inv_std);
    InputGradient map{dx, dy, x, statistics, dy_packs, x_packs, unpool, through, {}, {}, {}};
    int32 column[WIDTH];
    Position(columns).columns_of_lanes(column, columns.channels);
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const int32 c = column[j];
            const Real root = inv_std[c];
            map.scale[j] = gamma[c] * root;
            map.shift[j] = sums[c].dy / Real(rows);
            map.slope[j] = sums[c].product * root * root / Real(rows);
        }
    walk<MASK == 4 && sizeof(DTYPE) == 8 ? 1 : 2>(columns, map);  // with 2, doubles would spill under a mask
}

extern "C" __global__ void __launch_bounds__(256, !ACTIVE && sizeof(DTYPE) == 4 ? 3 : 1)
batch_norm_backward_dx(DTYPE* dx, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* beta, const Real* mean,
                       const Real* inv_std, const Sums* sums, int64 rows, bool statistics, Columns columns,
                       int64 dy_pitch, int64 x_pitch) {
    if constexpr (MASK == 0)
        input_gradient(dx, {}, dy, x, gamma, beta, mean, inv_std, sums, rows, statistics, columns, dy_pitch, x_pitch);
}

extern "C" __global__ void __launch_bounds__(256, 2)
batch_norm_backward_dx_unpooled(DTYPE* dx, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* beta,
                                const Real* mean, const Real* inv_std, const Sums* sums, int64 rows, bool statistics,
                                Columns columns, int64 dy_pitch, int64 x_pitch, const uint8* mask, int32 h, int32 w, int32 p,
                                int32 q, int32 filters) {
    const Unpool unpool{mask, dy_pitch, h, w, p, q, columns.channels, filters};
    if constexpr (MASK > 0)
        input_gradient(dx, unpool, dy, x, gamma, beta, mean, inv_std, sums, rows, statistics, columns, dy_pitch, x_pitch);
}
