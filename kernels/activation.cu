// Elementwise activations, forward and backward, over arrays of any shape.
//
//   y[i] = f(x[i])                  op_forward(y, x, n, rows)
//   dx[i] = dy[i] * f'(saved[i])    op_backward(dx, dy, saved, n, rows)
//
// saved: y or x, see SAVES_OUTPUT in activation.cuh. The output may be an input. A thread moves WIDTH numbers at a time.
//
// Macros: DTYPE float32, float64, float16, bfloat16; WIDTH 16 / sizeof(DTYPE) where all arrays are aligned to 16 bytes and, with
// several rows, WIDTH divides the length of the rows and their distances; else 1.
// Limits: none. Floor: 2 (forward) or 3 (backward) * sizeof(DTYPE) bytes and one f or f' per number.
#include "activation.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;
using Numbers = Pack<DTYPE, WIDTH>;

// How arrays are divided into rows: the number of rows, and the packs from one row to the next in y or dx (`to`), in x or dy
// (`from`) and in saved. A contiguous array is one row; a slice of a wider volume's channels has a row for each pixel.
struct Rows {
    int64 count, to, from, saved;
};

// Calls pack(row, i) for each pack of the calling thread, in rows of n numbers, and single(i) for the numbers after the last pack.
// Only an array of one row has such numbers.
template <class OfPack, class OfNumber>
__device__ __forceinline__ void each(int64 n, const Rows& rows, OfPack pack, OfNumber single) {
    const int64 packs = n / WIDTH;
    for (int64 row = int64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows.count; row += int64(gridDim.y) * blockDim.y)
        for (int64 i = global_thread(); i < packs; i += global_threads()) pack(row, i);
    if (rows.count == 1)
        for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads()) single(i);
}

template <class Function>
__device__ __forceinline__ void map(DTYPE* y, const DTYPE* x, int64 n, const Rows& rows, Function f) {
    const auto of_pack = [&](int64 row, int64 i) {
        Numbers pack = reinterpret_cast<const Numbers*>(x)[row * rows.from + i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(f.apply(load(pack.at[j])));
        reinterpret_cast<Numbers*>(y)[row * rows.to + i] = pack;
    };
    each(n, rows, of_pack, [&](int64 i) { y[i] = round_to<DTYPE>(f.apply(load(x[i]))); });
}

template <class Function>
__device__ __forceinline__ void
map_gradient(DTYPE* dx, const DTYPE* dy, const DTYPE* saved, int64 n, const Rows& rows, Function f) {
    const auto of_pack = [&](int64 row, int64 i) {
        Numbers pack = reinterpret_cast<const Numbers*>(dy)[row * rows.from + i];
        const Numbers kept = reinterpret_cast<const Numbers*>(saved)[row * rows.saved + i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(f.gradient(load(pack.at[j]), load(kept.at[j])));
        reinterpret_cast<Numbers*>(dx)[row * rows.to + i] = pack;
    };
    each(n, rows, of_pack, [&](int64 i) { dx[i] = round_to<DTYPE>(f.gradient(load(dy[i]), load(saved[i]))); });
}

extern "C" __global__ void relu_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Relu<Real>{});
}
extern "C" __global__ void relu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows) {
    map_gradient(dx, dy, y, n, rows, Relu<Real>{});
}

extern "C" __global__ void relu6_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Relu6<Real>{});
}
extern "C" __global__ void relu6_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows) {
    map_gradient(dx, dy, y, n, rows, Relu6<Real>{});
}

extern "C" __global__ void leaky_relu_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows, double negative_slope) {
    map(y, x, n, rows, LeakyRelu<Real>{Real(negative_slope)});
}
extern "C" __global__ void leaky_relu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows,
                                               double negative_slope) {
    map_gradient(dx, dy, y, n, rows, LeakyRelu<Real>{Real(negative_slope)});
}

extern "C" __global__ void elu_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows, double alpha) {
    map(y, x, n, rows, Elu<Real>{Real(alpha)});
}
extern "C" __global__ void elu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows, double alpha) {
    map_gradient(dx, dy, y, n, rows, Elu<Real>{Real(alpha)});
}

extern "C" __global__ void sigmoid_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Sigmoid<Real>{});
}
extern "C" __global__ void sigmoid_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows) {
    map_gradient(dx, dy, y, n, rows, Sigmoid<Real>{});
}

extern "C" __global__ void tanh_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Tanh<Real>{});
}
extern "C" __global__ void tanh_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, const Rows rows) {
    map_gradient(dx, dy, y, n, rows, Tanh<Real>{});
}

extern "C" __global__ void gelu_erf_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Gelu<Real>{});
}
extern "C" __global__ void gelu_erf_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n, const Rows rows) {
    map_gradient(dx, dy, x, n, rows, Gelu<Real>{});
}

extern "C" __global__ void gelu_tanh_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, GeluTanh<Real>{});
}
extern "C" __global__ void gelu_tanh_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n, const Rows rows) {
    map_gradient(dx, dy, x, n, rows, GeluTanh<Real>{});
}

extern "C" __global__ void silu_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, Silu<Real>{});
}
extern "C" __global__ void silu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n, const Rows rows) {
    map_gradient(dx, dy, x, n, rows, Silu<Real>{});
}

extern "C" __global__ void hard_swish_forward(DTYPE* y, const DTYPE* x, int64 n, const Rows rows) {
    map(y, x, n, rows, HardSwish<Real>{});
}
extern "C" __global__ void hard_swish_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n, const Rows rows) {
    map_gradient(dx, dy, x, n, rows, HardSwish<Real>{});
}
