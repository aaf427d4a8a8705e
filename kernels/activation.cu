// Elementwise activations, forward and backward, over n numbers of any shape.
//
//   y[i] = f(x[i])                  op_forward(y, x, n)
//   dx[i] = dy[i] * f'(saved[i])    op_backward(dx, dy, saved, n)
//
// saved: y or x, see SAVES_OUTPUT in activation.cuh. The output may be an input. A thread moves WIDTH numbers at a time.
//
// Macros: DTYPE float32, float64, float16, bfloat16; WIDTH 16 / sizeof(DTYPE) where all arrays are aligned to 16 bytes, else 1.
// Limits: none. Floor: 2 (forward) or 3 (backward) * sizeof(DTYPE) bytes per number.
#include "activation.cuh"
#include "types.cuh"

using Real = accumulator<DTYPE>;
using Numbers = Pack<DTYPE, WIDTH>;

template <class Function>
__device__ __forceinline__ void map(DTYPE* y, const DTYPE* x, int64 n, Function f) {
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers pack = reinterpret_cast<const Numbers*>(x)[i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(f.apply(load(pack.at[j])));
        reinterpret_cast<Numbers*>(y)[i] = pack;
    }
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads())
        y[i] = round_to<DTYPE>(f.apply(load(x[i])));
}

template <class Function>
__device__ __forceinline__ void map_gradient(DTYPE* dx, const DTYPE* dy, const DTYPE* saved, int64 n, Function f) {
    const int64 packs = n / WIDTH;
    for (int64 i = global_thread(); i < packs; i += global_threads()) {
        Numbers pack = reinterpret_cast<const Numbers*>(dy)[i];
        const Numbers at = reinterpret_cast<const Numbers*>(saved)[i];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) pack.at[j] = round_to<DTYPE>(f.gradient(load(pack.at[j]), load(at.at[j])));
        reinterpret_cast<Numbers*>(dx)[i] = pack;
    }
    for (int64 i = packs * WIDTH + global_thread(); i < n; i += global_threads())
        dx[i] = round_to<DTYPE>(f.gradient(load(dy[i]), load(saved[i])));
}

extern "C" __global__ void relu_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Relu<Real>{}); }
extern "C" __global__ void relu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n) {
    map_gradient(dx, dy, y, n, Relu<Real>{});
}

extern "C" __global__ void relu6_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Relu6<Real>{}); }
extern "C" __global__ void relu6_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n) {
    map_gradient(dx, dy, y, n, Relu6<Real>{});
}

extern "C" __global__ void leaky_relu_forward(DTYPE* y, const DTYPE* x, int64 n, double negative_slope) {
    map(y, x, n, LeakyRelu<Real>{Real(negative_slope)});
}
extern "C" __global__ void leaky_relu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n,
                                               double negative_slope) {
    map_gradient(dx, dy, y, n, LeakyRelu<Real>{Real(negative_slope)});
}

extern "C" __global__ void elu_forward(DTYPE* y, const DTYPE* x, int64 n, double alpha) {
    map(y, x, n, Elu<Real>{Real(alpha)});
}
extern "C" __global__ void elu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n, double alpha) {
    map_gradient(dx, dy, y, n, Elu<Real>{Real(alpha)});
}

extern "C" __global__ void sigmoid_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Sigmoid<Real>{}); }
extern "C" __global__ void sigmoid_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n) {
    map_gradient(dx, dy, y, n, Sigmoid<Real>{});
}

extern "C" __global__ void tanh_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Tanh<Real>{}); }
extern "C" __global__ void tanh_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* y, int64 n) {
    map_gradient(dx, dy, y, n, Tanh<Real>{});
}

extern "C" __global__ void gelu_erf_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Gelu<Real>{}); }
extern "C" __global__ void gelu_erf_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n) {
    map_gradient(dx, dy, x, n, Gelu<Real>{});
}

extern "C" __global__ void gelu_tanh_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, GeluTanh<Real>{}); }
extern "C" __global__ void gelu_tanh_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n) {
    map_gradient(dx, dy, x, n, GeluTanh<Real>{});
}

extern "C" __global__ void silu_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, Silu<Real>{}); }
extern "C" __global__ void silu_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n) {
    map_gradient(dx, dy, x, n, Silu<Real>{});
}

extern "C" __global__ void hard_swish_forward(DTYPE* y, const DTYPE* x, int64 n) { map(y, x, n, HardSwish<Real>{}); }
extern "C" __global__ void hard_swish_backward(DTYPE* dx, const DTYPE* dy, const DTYPE* x, int64 n) {
    map_gradient(dx, dy, x, n, HardSwish<Real>{});
}
