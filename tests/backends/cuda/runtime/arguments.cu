// Every kind of parameter that a launch can pass, for test_kernel.py and tests/standin/test_launch.py.
#include "types.cuh"

extern "C" __global__ void fill(float* y, float value, int n) {
    if (threadIdx.x < n) y[threadIdx.x] = value;
}
extern "C" __global__ void __launch_bounds__(64) bounded(float* y, float value, int n) { y[0] = value; }

extern "C" __global__ void scalars(double* y, int a, unsigned b, long long c, unsigned long long d, bool e, float f,
                                   double g, unsigned char h) {
    y[0] = a, y[1] = b, y[2] = c, y[3] = d, y[4] = e, y[5] = f, y[6] = g, y[7] = h;
}

struct Geometry {
    int n;
    double scale;
    unsigned char flag;
};
extern "C" __global__ void by_struct(double* y, const Geometry geometry) {
    y[0] = geometry.n, y[1] = geometry.scale, y[2] = geometry.flag;
}

extern "C" __global__ void is_null(float* y, const float* x) { y[0] = x == nullptr; }
extern "C" __global__ void gather(float* y, const float* const* table, const void* any) {
    y[0] = table[0][1], y[1] = table[1][0], y[2] = *static_cast<const float*>(any);
}
extern "C" __global__ void by_vector(float4* x) { x[0] = make_float4(1, 2, 3, 4); }
extern "C" __global__ void typed(DTYPE* y) { y[0] = DTYPE(); }
extern "C" __global__ void by_value(float* y, DTYPE x) { y[0] = 1; }
