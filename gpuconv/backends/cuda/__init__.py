"""The CUDA backend: each op as a launcher of hand-written kernels, for GPUs and the emulated device.

- `ops` has the launchers, one file a family, under the names of the other backends' files.
- `gemm` plans and runs matrix products.
- `runtime` compiles, loads and launches kernels, and makes arrays.
- `emulator` runs the same kernels on the CPU.
- `analysis` says what a kernel takes of a GPU, without running it.
"""
