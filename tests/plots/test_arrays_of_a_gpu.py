"""Pictures of arrays that NumPy does not take: those in the memory of a GPU, and bfloat16 tensors of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import plots
from tests import standin

pytest.importorskip("matplotlib")


def drawn(weight, image, volume, scores):
    figures = plots.filters(weight), plots.activations(image, [("conv1", volume)], scores, ["cat", "dog"])
    return [plots.pixels(figure) for figure in figures]


def arrays():
    rng = np.random.default_rng(0)
    return [rng.random(shape, np.float32) for shape in ((4, 3, 3, 3), (8, 8, 3), (8, 8, 4), (2,))]


def test_arrays_of_a_gpu_are_drawn_as_those_of_the_host():
    host = drawn(*arrays())
    with standin.installed(["90"]):
        device = drawn(*[gc.asarray(array, device="cuda") for array in arrays()])
    for one, other in zip(host, device):
        np.testing.assert_array_equal(one, other)


def test_bfloat16_tensors_of_pytorch_are_drawn_as_float32_arrays():
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(array).bfloat16() for array in arrays()]
    for one, other in zip(drawn(*tensors), drawn(*[tensor.float().numpy() for tensor in tensors])):
        np.testing.assert_array_equal(one, other)
