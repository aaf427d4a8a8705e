// The activations and their derivatives as functions of one number, for activation.cu and for fused epilogues.
//
// Real is float or double, the accumulator's type. Each activation has `apply(x)` and `gradient(dy, saved)`. saved is y
// where the derivative can be computed from it (SAVES_OUTPUT is true), else x. `apply` passes NaN on.
#pragma once

template <template <class> class Activation> constexpr bool SAVES_OUTPUT = true;
template <template <class> class Activation> constexpr bool IS_IDENTITY = false;

template <class Real>
struct Identity {
    __device__ Real apply(Real x) const { return x; }
    __device__ Real gradient(Real dy, Real) const { return dy; }
};

template <class Real>
struct Relu {
    __device__ Real apply(Real x) const { return x < 0 ? Real(0) : x; }
    __device__ Real gradient(Real dy, Real y) const { return y > 0 ? dy : Real(0); }
};

template <class Real>
struct Relu6 {
    __device__ Real apply(Real x) const { return x < 0 ? Real(0) : x > 6 ? Real(6) : x; }
    __device__ Real gradient(Real dy, Real y) const { return y > 0 && y < 6 ? dy : Real(0); }
};

template <class Real>
struct LeakyRelu {
    Real slope = Real(0.01);
    __device__ Real apply(Real x) const { return x > 0 ? x : slope * x; }
    __device__ Real gradient(Real dy, Real y) const { return y > 0 ? dy : slope * dy; }
};

template <class Real>
struct Elu {
    Real alpha = Real(1);
    __device__ Real apply(Real x) const { return x > 0 ? x : alpha * expm1(x); }
    __device__ Real gradient(Real dy, Real y) const { return y > 0 ? dy : dy * (y + alpha); }
};

template <class Real>
struct Sigmoid {
    __device__ Real apply(Real x) const { return 1 / (1 + exp(-x)); }
    __device__ Real gradient(Real dy, Real y) const { return dy * y * (1 - y); }
};

template <class Real>
struct Tanh {
    __device__ Real apply(Real x) const { return tanh(x); }
    __device__ Real gradient(Real dy, Real y) const { return dy * (1 - y * y); }
};

// gelu(x) = x Phi(x), Phi the standard normal distribution function (Hendrycks and Gimpel, 2016).
template <class Real>
struct Gelu {
    __device__ Real apply(Real x) const { return x * distribution(x); }
    __device__ Real gradient(Real dy, Real x) const {
        const Real density = Real(0.3989422804014327) * exp(Real(-0.5) * x * x);  // 1 / sqrt(2 pi)
        return dy * (distribution(x) + x * density);
    }
    static __device__ Real distribution(Real x) { return Real(0.5) * (1 + erf(x * Real(0.7071067811865476))); }
};

// An approximation of gelu: x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class Real>
struct GeluTanh {
    __device__ Real apply(Real x) const { return Real(0.5) * x * (1 + tanh(argument(x))); }
    __device__ Real gradient(Real dy, Real x) const {
        const Real t = tanh(argument(x));
        const Real near = x < -30 ? Real(-30) : x > 30 ? Real(30) : x;  // beyond, 1 - t * t is 0, and x * x may overflow
        const Real slope = scale * (1 + 3 * cubic * near * near);
        return dy * Real(0.5) * (1 + t + near * (1 - t * t) * slope);
    }
    static __device__ Real argument(Real x) { return scale * (x + cubic * x * x * x); }
    static constexpr Real scale = Real(0.7978845608028654), cubic = Real(0.044715);
};

// silu(x) = x sigmoid(x), also called swish.
template <class Real>
struct Silu {
    __device__ Real apply(Real x) const { return x / (1 + exp(-x)); }
    __device__ Real gradient(Real dy, Real x) const {
        const Real s = 1 / (1 + exp(-x));
        return dy * s * (1 + x * (1 - s));
    }
};

// x relu6(x + 3) / 6 (Howard et al., 2019).
template <class Real>
struct HardSwish {
    __device__ Real apply(Real x) const { return x <= -3 ? Real(0) : x >= 3 ? x : x * (x + 3) * (Real(1) / 6); }
    __device__ Real gradient(Real dy, Real x) const {
        return x <= -3 ? Real(0) : x >= 3 ? dy : dy * ((2 * x + 3) * (Real(1) / 6));
    }
};

template <> constexpr bool IS_IDENTITY<Identity> = true;
template <> constexpr bool SAVES_OUTPUT<Gelu> = false;
template <> constexpr bool SAVES_OUTPUT<GeluTanh> = false;
template <> constexpr bool SAVES_OUTPUT<Silu> = false;
template <> constexpr bool SAVES_OUTPUT<HardSwish> = false;
