"""Linear layers and bias gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.verify.cases.case import Case, normal_arrays
from gpuconv.verify.cases.matrices import matrix_sizes


def linear_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    for tier, index, n, c, k in matrix_sizes(count, rng):
        name = f"{n}x{c} to {k}"
        yield Case("linear", tier, name, normal_arrays((n, c), (k, c), (k,) if index % 2 else None))
        yield Case("linear_dgrad", tier, name, normal_arrays((n, k), (k, c)))
        yield Case("linear_wgrad", tier, name, normal_arrays((n, k), (n, c)))
        if index == 1:
            in_tf32 = f"{name} tf32"
            yield Case("linear", tier, in_tf32, normal_arrays((n, c), (k, c), (k,), tf32=True), ("float32",))
            yield Case("linear_dgrad", tier, in_tf32, normal_arrays((n, k), (k, c), tf32=True), ("float32",))
            yield Case("linear_wgrad", tier, in_tf32, normal_arrays((n, k), (n, c), tf32=True), ("float32",))
        yield Case("bias_grad", tier, name, normal_arrays((n, 1, 1, k)))
        for activation in ACTIVATIONS if index == 1 else ["gelu"]:
            after = normal_arrays((n, k), (n, k), activation=activation)
            yield Case("bias_grad", tier, f"{name} {activation}", after)
