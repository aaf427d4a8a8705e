// A kernel in clusters of two blocks, for test_kernel.py and tests/standin/test_launch.py.
extern "C" __global__ void __cluster_dims__(2, 1, 1) paired(float* y, float value) { y[gridDim.x * blockIdx.y + blockIdx.x] = value; }
