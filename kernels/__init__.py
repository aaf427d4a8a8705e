"""The CUDA kernels: .cu and .cuh files, read with importlib.resources."""
