// Optimizer steps for a list of parameters in one launch, in place. d is the parameter's weight decay.
//
//   first g += d * p, except in lion_step and in a decoupled adam_step; then
//   sgd_step       without velocity: p -= lr * g;  with: v = momentum * v + g, p -= lr * v, nesterov: lr * (g + momentum * v)
//   adagrad_step   s += g^2, p -= lr * g / (sqrt(s) + eps)
//   rmsprop_step   s = alpha * s + (1 - alpha) * g^2, p -= lr * g / (sqrt(s) + eps)
//   adam_step      m = beta1 * m + (1 - beta1) * g, v = beta2 * v + (1 - beta2) * g^2,
//                  p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps); decoupled: first p *= 1 - lr * d
//   lion_step      p -= lr * (sign(beta1 * m + (1 - beta1) * g) + d * p), m = beta2 * m + (1 - beta2) * g
//
// chunks: a table in device memory with an entry for each block. An entry holds the addresses of up to 8192 numbers of one
// parameter, and of their gradient, state and average. If the parameter is the float32 master of a 16-bit one, the entry also
// holds the address of the 16-bit copy, which receives p rounded; the gradient then has the dtype of the copy. A launch with
// masters may also update float32 parameters without a copy; their gradients are float32. After the step the average, if there
// is one, is updated: average += average_rate * (p - average). Where all arrays of a chunk are aligned, a thread moves 16 bytes
// of each at a time (8 bytes of 16-bit copies and their gradients). lr and step are numbers, or are read from device memory
// when the kernel runs, so that a captured step sees the current values. 16-bit parameters and state are computed in float32
// and rounded once.
//
// scaling: null, or the array that loss_scale.cu or clip.cu wrote: gradients are multiplied by scaling[1] first; if that is 0
// nothing changes. The scaling[3] skipped steps do not count as steps.
//
// Macros: DTYPE, of parameters and state; GRAD, of copies and gradients: DTYPE, or with masters a 16-bit type. Limits: none.
// Floor, in sizeof(DTYPE) bytes per number, read and written: sgd 3, with velocity 5, adagrad, rmsprop and lion 5, adam 7, an
// average 2 more. With masters the gradient and the copy are 16-bit: together as many bytes as a float32 gradient. Up to 19 FLOPs.
#include "moving_average.cuh"
#include "optimizer_inputs.cuh"

using Real = accumulator<DTYPE>;
constexpr int PER_PACK = 16 / sizeof(DTYPE);  // numbers that move at once
using Numbers = Pack<DTYPE, PER_PACK>;
using Copies = Pack<GRAD, PER_PACK>;

struct Chunk {
    DTYPE* param;
    const GRAD* grad;
    const DTYPE* wide_grad;  // replaces grad if a parameter without a copy shares the launch with masters; else null
    DTYPE* state[2];         // null: the rule has no such state
    GRAD* copy;              // null: the parameter has no 16-bit copy
    DTYPE* average;          // null: no average
    int64 count;
    double decay;
};

// rule.update(p, g, a, b) updates one number p and its state. STATES: 0, 1 (a) or 2 (a and b). The compiler inlines the rule twice,
// for packs and for single numbers, and both must give the same bits. So fma is written out wherever two
// products are added, of which the compiler could fuse either.
template <int STATES, class Gradient, class Rule>
__device__ __forceinline__ void update_numbers(const Chunk& chunk, const Gradient* gradient, Real unscale, Rule rule) {
    using Gradients = Pack<Gradient, PER_PACK>;
    DTYPE* const arrays[] = {chunk.param, chunk.state[0], chunk.state[1]};
    uint64 addresses = 0;
#pragma unroll
    for (int s = 0; s <= STATES; ++s) addresses |= uint64(arrays[s]);
    const bool aligned = addresses % sizeof(Numbers) == 0 && uint64(gradient) % sizeof(Gradients) == 0 &&
                         uint64(chunk.copy) % sizeof(Copies) == 0;
    const int64 packs = aligned ? chunk.count / PER_PACK : 0;
    for (int64 i = threadIdx.x; i < packs; i += blockDim.x) {
        const Gradients grad = reinterpret_cast<const Gradients*>(gradient)[i];
        Copies copy;
        Numbers numbers[STATES + 1];
#pragma unroll
        for (int s = 0; s <= STATES; ++s) numbers[s] = reinterpret_cast<const Numbers*>(arrays[s])[i];
#pragma unroll
        for (int j = 0; j < PER_PACK; ++j) {
            Real values[3] = {};
#pragma unroll
            for (int s = 0; s <= STATES; ++s) values[s] = load(numbers[s].at[j]);
            rule.update(values[0], load(grad.at[j]) * unscale, values[1], values[2]);
#pragma unroll
            for (int s = 0; s <= STATES; ++s) numbers[s].at[j] = round_to<DTYPE>(values[s]);
            copy.at[j] = round_to<GRAD>(values[0]);
        }
        if (chunk.copy) reinterpret_cast<Copies*>(chunk.copy)[i] = copy;
#pragma unroll
        for (int s = 0; s <= STATES; ++s) reinterpret_cast<Numbers*>(arrays[s])[i] = numbers[s];
    }
    for (int64 i = packs * PER_PACK + threadIdx.x; i < chunk.count; i += blockDim.x) {
        Real values[3] = {};
#pragma unroll
        for (int s = 0; s <= STATES; ++s) values[s] = load(arrays[s][i]);
        rule.update(values[0], load(gradient[i]) * unscale, values[1], values[2]);
#pragma unroll
        for (int s = 0; s <= STATES; ++s) arrays[s][i] = round_to<DTYPE>(values[s]);
        if (chunk.copy) chunk.copy[i] = round_to<GRAD>(values[0]);
    }
}

template <int STATES, class Rule>
__device__ __forceinline__ void update_chunk(const Chunk& chunk, Real unscale, Rule rule) {
    if constexpr (sizeof(GRAD) < sizeof(DTYPE))
        if (chunk.wide_grad) return update_numbers<STATES>(chunk, chunk.wide_grad, unscale, rule);
    update_numbers<STATES>(chunk, chunk.grad, unscale, rule);
}

// Updates the averages after this block has updated its chunk. A separate loop, so that the loop of the update needs no more
// registers; it reads the parameter from the caches.
__device__ __forceinline__ void move_averages(const Chunk& chunk, Real rate) {
    if (!chunk.average) return;
    __syncthreads();
    const bool aligned = (uint64(chunk.average) | uint64(chunk.param)) % sizeof(Numbers) == 0;
    const int64 packs = aligned ? chunk.count / PER_PACK : 0;
    for (int64 i = threadIdx.x; i < packs; i += blockDim.x) {
        const Numbers param = reinterpret_cast<const Numbers*>(chunk.param)[i];
        Numbers average = reinterpret_cast<const Numbers*>(chunk.average)[i];
#pragma unroll
        for (int j = 0; j < PER_PACK; ++j) move_average(average.at[j], param.at[j], rate);
        reinterpret_cast<Numbers*>(chunk.average)[i] = average;
    }
    for (int64 i = packs * PER_PACK + threadIdx.x; i < chunk.count; i += blockDim.x)
        move_average(chunk.average[i], chunk.param[i], rate);
}

struct Descent {
    Real lr, decay;
    __device__ void update(Real& p, Real g, Real&, Real&) const { p -= lr * fma(decay, p, g); }
};

struct Momentum {
    Real lr, decay, momentum;
    bool nesterov;
    __device__ void update(Real& p, Real g, Real& v, Real&) const {
        g = fma(decay, p, g);
        v = fma(momentum, v, g);
        p -= lr * (nesterov ? fma(momentum, v, g) : v);
    }
};

// Adagrad (keep = take = 1) and RMSprop.
struct SquareScaled {
    Real lr, decay, keep, take, eps;
    __device__ void update(Real& p, Real g, Real& s, Real&) const {
        g = fma(decay, p, g);
        s = fma(take * g, g, keep * s);
        p -= lr * g / (sqrt(s) + eps);
    }
};

struct Moments {
    Real lr, decay, shrink, beta1, beta2, rest1, rest2, eps, unbias2;  // rest: 1 - beta. lr includes the bias correction of m
    __device__ void update(Real& p, Real g, Real& m, Real& v) const {
        p *= shrink;
        g = fma(decay, p, g);
        m = fma(rest1, g, beta1 * m);
        v = fma(rest2 * g, g, beta2 * v);
        p -= lr * m / (sqrt(v * unbias2) + eps);
    }
};

struct Lion {
    Real lr, shrink, beta1, beta2, rest1, rest2;
    __device__ void update(Real& p, Real g, Real& m, Real&) const {
        const Real mean = fma(rest1, g, beta1 * m);
        const Real sign = mean > 0 ? Real(1) : mean < 0 ? Real(-1) : mean;  // the sign of 0 is 0, and NaN stays NaN
        p = fma(-lr, sign, shrink * p);
        m = fma(rest2, g, beta2 * m);
    }
};

extern "C" __global__ void __launch_bounds__(256, 2)
sgd_step(const Chunk* chunks, const double* scaling, double average_rate, const float* lr32, const double* lr64, double lr,
         double momentum, bool nesterov) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Real rate = Real(read_rate(lr32, lr64, lr)), decay = Real(chunk.decay);
    if (chunk.state[0]) update_chunk<1>(chunk, Real(unscale), Momentum{rate, decay, Real(momentum), nesterov});
    else update_chunk<0>(chunk, Real(unscale), Descent{rate, decay});
    move_averages(chunk, Real(average_rate));
}

extern "C" __global__ void __launch_bounds__(256, 2)
adagrad_step(const Chunk* chunks, const double* scaling, double average_rate, const float* lr32, const double* lr64, double lr,
             double eps) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Real rate = Real(read_rate(lr32, lr64, lr));
    update_chunk<1>(chunk, Real(unscale), SquareScaled{rate, Real(chunk.decay), 1, 1, Real(eps)});
    move_averages(chunk, Real(average_rate));
}

extern "C" __global__ void __launch_bounds__(256, 2)
rmsprop_step(const Chunk* chunks, const double* scaling, double average_rate, const float* lr32, const double* lr64, double lr,
             double alpha, double eps) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Real rate = Real(read_rate(lr32, lr64, lr));
    update_chunk<1>(chunk, Real(unscale),
                    SquareScaled{rate, Real(chunk.decay), Real(alpha), Real(1 - alpha), Real(eps)});
    move_averages(chunk, Real(average_rate));
}

extern "C" __global__ void __launch_bounds__(256, 2)
adam_step(const Chunk* chunks, const double* scaling, double average_rate, const float* lr32, const double* lr64, double lr,
          const int64* step_at, double step, double beta1, double beta2, double eps, bool decoupled) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    // The bias corrections of m and v, in double, by one thread each, because pow is slow.
    __shared__ double unbias[2];
    if (threadIdx.x % 32 == 0 && threadIdx.x < 64) {
        const double count = (step_at ? double(*step_at) : step) - (scaling ? scaling[3] : 0);
        unbias[threadIdx.x / 32] = 1 / (1 - pow(threadIdx.x ? beta2 : beta1, count));
    }
    __syncthreads();
    const Chunk chunk = chunks[blockIdx.x];
    const double rate = read_rate(lr32, lr64, lr);
    const Real decay = Real(decoupled ? 0 : chunk.decay), shrink = Real(decoupled ? 1 - rate * chunk.decay : 1);
    update_chunk<2>(chunk, Real(unscale), Moments{Real(rate * unbias[0]), decay, shrink, Real(beta1), Real(beta2),
                                                  Real(1 - beta1), Real(1 - beta2), Real(eps), Real(unbias[1])});
    move_averages(chunk, Real(average_rate));
}

extern "C" __global__ void __launch_bounds__(256, 2)
lion_step(const Chunk* chunks, const double* scaling, double average_rate, const float* lr32, const double* lr64, double lr,
          double beta1, double beta2) {
    const double unscale = read_unscale(scaling);
    if (unscale == 0) return;
    const Chunk chunk = chunks[blockIdx.x];
    const double rate = read_rate(lr32, lr64, lr);
    update_chunk<1>(chunk, Real(unscale), Lion{Real(rate), Real(1 - rate * chunk.decay), Real(beta1), Real(beta2),
                                               Real(1 - beta1), Real(1 - beta2)});
    move_averages(chunk, Real(average_rate));
}
