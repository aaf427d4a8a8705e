// The gradients of batch normalization (batch_norm.cu) of x (M, C).
//
//   dx = gamma * inv_std * (dy - (sum dy + xhat * sum(dy * xhat)) / M),   xhat = (x - mean) * inv_std
//   dgamma = sum(dy * xhat),   dbeta = sum dy
//
// With MASK 4, x is the result of a 2 x 2 max pool of a convolution's output (N, H, W, C), and dx the gradient of that output:
// each number of the formula goes to the pixel of its window that the mask (mask.cuh) marks, zeros to all others.
//
// In the formulas, dy is the gradient of the activation's input. That input is recomputed from x instead of being read from memory.
// With an addend it cannot be recomputed, so _sums_saved reads `saved`, the array that the activation's backward takes.
// _sums_saved also stores the gradient of the activation's input, which is the gradient of the addend too. _dx is then
// compiled without an activation and reads that gradient as dy.
//
// alone                    _sums, _finish, _dx or _dx_unpooled: dy and x are read twice, dx written
// with an addend           _sums_saved, _finish, _dx: also reads saved, and writes the addend's gradient
// below a convolution      _merge, _finish, _dx: that convolution's dgrad has written partial sums
//
// The _finish launch adds the chunks' partial sums in a fixed order. After _sums with a single chunk it is skipped, because
// _sums has stored the results. _merge is skipped unless the convolution has written more than 1024 partial sums for each channel.
// mean, inv_std, gamma, beta, dgamma and dbeta have the accumulator's dtype. dx may be dy or x, but not with MASK 4.
//
// Macros: DTYPE, WIDTH (column_reduce.cuh); ACTIVATION; MASK 0 or, with a WIDTH that divides a group's channels, 4.
#pragma once

#include "activation_after_norm.cuh"
#include "column_reduce.cuh"
#include "mask.cuh"
#include "norm_gradient_sums.cuh"

// The activation after the norm, for the channels of a thread's packs.
struct NormActivation {
    Real mean[WIDTH], scale[WIDTH], beta[WIDTH];

    __device__ NormActivation(const Columns& columns, const Real* gamma, const Real* beta, const Real* mean, const Real* inv_std) {
        int32 column[WIDTH];
        Position(columns).find_columns(column, columns.channels);
        if (Position(columns).inside)
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                const int32 c = column[j];
                this->mean[j] = mean[c];
                this->scale[j] = ACTIVE ? gamma[c] * inv_std[c] : Real(0);
                this->beta[j] = ACTIVE ? beta[c] : Real(0);
            }
    }
    // The gradient of the activation's input.
    __device__ __forceinline__ Real backward(DTYPE dy, DTYPE x, int index) const {
        return activation_backward(dy, x, mean[index], scale[index], beta[index]);
    }
};

struct Products {
    struct Packs {
        Numbers dy, x;
    };
    const DTYPE* dy;
    const DTYPE* x;
    PitchedPacks dy_packs, x_packs;
    NormActivation activation;

    __device__ Packs read(int64, int64 step) const {
        return {reinterpret_cast<const Numbers*>(dy)[dy_packs.at(step)], reinterpret_cast<const Numbers*>(x)[x_packs.at(step)]};
    }
    __device__ Sums value(const Packs& packs, int index) const { return product(packs.dy.at[index], packs.x.at[index], index); }
    __device__ Sums single(int64 number, int index) const {
        Sums sums = {};
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == index) sums = product(dy[number], x[number], j);
        return sums;
    }
    __device__ Sums product(DTYPE dy, DTYPE x, int index) const {
        const Real gradient = activation.backward(dy, x, index);
        return {gradient, gradient * (load(x) - activation.mean[index])};
    }
};

struct Gradients {
    Real* dgamma;
    Real* dbeta;
    Sums* sums;  // for dx: only of this batch, even with `accumulate`
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
    const NormActivation activation(columns, gamma, beta, mean, inv_std);
    const Products products{dy, x, PitchedPacks(columns, dy_pitch), PitchedPacks(columns, x_pitch), activation};
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
    __device__ Sums value(const Packs& packs, int index) const { return product(packs.dy.at[index], packs.x.at[index], index); }
    __device__ Sums single(int64 number, int index) const {
        const DTYPE input_gradient = gradient(dy[number], saved[number]);
        daddend[number] = input_gradient;
        Sums sums = {};
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == index) sums = product(input_gradient, x[number], j);
        return sums;
    }
    static __device__ DTYPE gradient(DTYPE dy, DTYPE saved) {
        return round_to<DTYPE>(ACTIVATION<Real>{}.gradient(load(dy), load(saved)));
    }
    __device__ Sums product(DTYPE dy, DTYPE x, int index) const { return {load(dy), load(dy) * (load(x) - mean[index])}; }
};
template <> constexpr bool WRITES<ProductsOfSaved> = true;

extern "C" __global__ void __launch_bounds__(256, 1)
batch_norm_backward_sums_saved(Sums* partials, DTYPE* daddend, const DTYPE* dy, const DTYPE* x, const DTYPE* saved,
                               const Real* mean, Columns columns, int64 dy_pitch, int64 x_pitch, int64 saved_pitch) {
    const PitchedPacks dy_packs(columns, dy_pitch), x_packs(columns, x_pitch), saved_packs(columns, saved_pitch);
    ProductsOfSaved products{daddend, dy, x, saved, dy_packs, x_packs, saved_packs, {}};
    int32 column[WIDTH];
    Position(columns).find_columns(column, columns.channels);
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

    // Finds a pack's window and first filter; returns the pack's place in dy, in packs.
    __device__ __forceinline__ int64 locate(int64 pack, int32& window, int32& filter) const {
        const int32 packs = channels / WIDTH;
        window = int32(pack / packs);
        filter = int32(pack - int64(window) * packs) * WIDTH;
        return (window * dy_pitch + filter) / WIDTH;
    }

    // An odd last row or column lies outside every window. The threads that store the windows beside it set it to 0.
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

// dx = scale * (dy - shift - (x - mean) * slope); without batch statistics dx = scale * dy. x may be null if there are
// neither batch statistics nor an activation.
struct NormInputGradient {
    DTYPE* dx;
    const DTYPE* dy;
    const DTYPE* x;
    bool statistics;
    PitchedPacks dy_packs, x_packs;  // unused with a mask, which leaves no registers for them
    Unpool unpool;
    NormActivation activation;
    Real scale[WIDTH], shift[WIDTH], slope[WIDTH];

    __device__ DTYPE apply(DTYPE dy, DTYPE x, int index) const {
        const Real gradient = activation.backward(dy, x, index);
        if (!statistics) return round_to<DTYPE>(scale[index] * gradient);
        return round_to<DTYPE>(scale[index] * (gradient - shift[index] - (load(x) - activation.mean[index]) * slope[index]));
    }
    __device__ DTYPE apply(DTYPE dy, int index) const { return round_to<DTYPE>(scale[index] * load(dy)); }

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
        // With an activation, x is never null. With a mask, the compiler must know this.
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
    __device__ void single(int64 number, int index) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            if (j == index) dx[number] = x ? apply(dy[number], x[number], j) : apply(dy[number], j);
    }
};

__device__ __forceinline__ void
norm_input_gradient(DTYPE* dx, const Unpool& unpool, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* beta,
               const Real* mean, const Real* inv_std, const Sums* sums, int64 rows, bool statistics, const Columns& columns,
               int64 dy_pitch, int64 x_pitch) {
    const PitchedPacks dy_packs(columns, dy_pitch), x_packs(columns, x_pitch);
    const NormActivation activation(columns, gamma, beta, mean, inv_std);
    NormInputGradient map{dx, dy, x, statistics, dy_packs, x_packs, unpool, activation, {}, {}, {}};
    int32 column[WIDTH];
    Position(columns).find_columns(column, columns.channels);
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
        norm_input_gradient(dx, {}, dy, x, gamma, beta, mean, inv_std, sums, rows, statistics, columns, dy_pitch, x_pitch);
}

extern "C" __global__ void __launch_bounds__(256, 2)
batch_norm_backward_dx_unpooled(DTYPE* dx, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* beta,
                                const Real* mean, const Real* inv_std, const Sums* sums, int64 rows, bool statistics,
                                Columns columns, int64 dy_pitch, int64 x_pitch, const uint8* mask, int32 h, int32 w, int32 p,
                                int32 q, int32 filters) {
    const Unpool unpool{mask, dy_pitch, h, w, p, q, columns.channels, filters};
    if constexpr (MASK > 0)
        norm_input_gradient(dx, unpool, dy, x, gamma, beta, mean, inv_std, sums, rows, statistics, columns, dy_pitch, x_pitch);
}
