"""A matrix product without its arrays: what the planner and the tuner work on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gpuconv import activations, problems
from gpuconv.dtypes import precision_of
from gpuconv.problems import Conv2dProblem, Epilogue

# The names of the activations' structs in kernels/activation.cuh
ACTIVATIONS = {None: "Identity"} | {name: each.struct for name, each in activations.ACTIVATIONS.items()}


@dataclass(frozen=True, eq=False)
class Product:
    """`batches` products of (m, k) and (k, n) matrices. A launcher creates one for its arguments and keeps it: the
    object itself is the key of everything prepared for it.

    kernel: the kernel of a direction, such as "conv2d_fprop". split_k: whether several blocks may share the depth k.
    few_channels_smem_bytes: shared memory of the algorithms for few channels; 0 if none serves. struct: the kernel's
    description of the problem. macros: the kernel's, without those of the dtype, the activation and the algorithm.
    activation: applied to the output, as in `gpuconv.problems.Epilogue`. problem, epilogue: those of a convolution.
    """

    kernel: str
    m: int
    n: int
    k: int
    batches: int
    dtype: np.dtype
    tf32: bool = False
    split_k: bool = True
    few_channels_smem_bytes: int = 0
    struct: np.void = field(default=np.void(b""), repr=False)
    macros: Mapping[str, int] = field(default_factory=dict)
    activation: str | None = None
    problem: Conv2dProblem | None = None
    epilogue: Epilogue = problems.PLAIN

    @functools.cached_property
    def state_numbers(self) -> int:
        """The kernel reduces each channel of a tile to a state of this many numbers; 0 if it reduces none."""
        return 3 if self.epilogue.moments else 2 if self.epilogue.norm_sums else 0

    @functools.cached_property
    def precision(self) -> str:
        return precision_of(self.dtype, self.tf32)
