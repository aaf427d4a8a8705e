"""The CUDA backend: each op of the contract as a launcher of hand-written kernels, for GPUs and the emulated device.

The files carry the names of the reference backend's. `module` launches, `compiler` compiles, `emulator` runs the same
kernels on the CPU.
"""

from gpuconv.backends.cuda.activation import (
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)

__all__ = [
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "tanh",
    "tanh_backward",
]
