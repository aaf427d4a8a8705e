"""The CUDA backend: each op as a launcher of hand-written kernels, for GPUs and the emulated device.

- `ops` has the launchers, one file for each family, with the same names as in the other backends.
- `gemm` plans and runs matrix products.
- `runtime` compiles, loads and launches kernels, and creates arrays.
- `emulator` runs the same kernels on the CPU.
- `analysis` compiles kernels, lists the resources that they need on a GPU, and predicts their times; it runs none.
"""
