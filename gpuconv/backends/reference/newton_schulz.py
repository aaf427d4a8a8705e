"""The iteration of `muon_step`."""

import numpy as np

from gpuconv.newton_schulz import NEWTON_SCHULZ


def orthogonal(x: np.ndarray, steps: int) -> np.ndarray:
    """A matrix with its singular values brought near 1 by Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    x = x / (np.sqrt((x**2).sum()) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = (a * np.eye(len(x)) + b * gram + c * gram @ gram) @ x
    return x
