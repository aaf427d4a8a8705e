"""Pictures of arrays that NumPy does not take: those in the memory of a GPU, and bfloat16 tensors of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import plots
from tests import standin

pytest.importorskip("matplotlib")


def test_arrays_of_a_gpu_are_drawn_as_those_of_the_host():
    rng = np.random.default_rng(0)
    weight, image, volume = (rng.random(shape, np.float32) for shape in ((4, 3, 3, 3), (8, 8, 3), (8, 8, 4)))
    scores = np.float32([0.2, 0.8])

    def drawn(arrays):
        weight, image, volume, scores = arrays
        figures = plots.filters(weight), plots.activations(image, [("conv1", volume)], scores, ["cat", "dog"])
        return [plots.pixels(figure) for figure in figures]

    host = drawn([weight, image, volume, scores])
    with standin.installed(["90"]):
        device = drawn([gc.asarray(array, device="cuda") for array in (weight, image, volume, scores)])
    for one, other in zip(host, device):
        np.testing.assert_array_equal(one, other)


def test_bfloat16_tensors_of_pytorch_are_drawn():
    torch = pytest.importorskip("torch")
    image, weight, scores = (torch.ones(shape, dtype=torch.bfloat16) for shape in ((4, 4), (2, 3, 3, 3), (1,)))
    for figure in plots.filters(weight), plots.activations(image, [("conv1", image[..., None])], scores, ["cat"]):
        assert plots.pixels(figure).any()
