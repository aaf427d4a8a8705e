"""Losses that compare each score with a target: several blocks, thread orders and views."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda.ops import class_rows
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device, random
from tests.tolerance import assert_within


@pytest.mark.parametrize("name", ["mean_squared_error", "huber_loss", "binary_cross_entropy"])
def test_elementwise_losses_agree_with_the_oracle_over_many_blocks(device, rng, name, monkeypatch):
    """`gpuconv verify` checks the bounds. This test has many blocks, several thread orders, and outputs in views."""
    scores, targets = random(rng, (211, 5, 7), "float32"), rng.random((211, 5, 7), np.float32)
    weight = [rng.random(7, np.float32)] if name == "binary_cross_entropy" else []
    value, gradient = on_device(name, device, scores, targets, *weight)
    value64, gradient64 = expected_results(name, [scores, targets, *weight], {})
    np.testing.assert_allclose(value, value64.value, rtol=1e-5)  # the derived bound is wider for 7385 terms
    assert_within(gradient, gradient64.value, gradient64.bound, "gradient")
    assert_same_bits(name, device, scores, targets, *weight)
    memory = asarray(np.stack([scores, targets], axis=-2), device)
    on_device_weight = [asarray(array, device) for array in weight]
    in_place = getattr(ops, name)(memory[..., 0, :], memory[..., 1, :], *on_device_weight, out=memory[..., 0, :])
    np.testing.assert_array_equal(to_numpy(in_place[0]), value)
    np.testing.assert_array_equal(to_numpy(memory)[..., 0, :], gradient)
    np.testing.assert_array_equal(to_numpy(memory)[..., 1, :], targets)
    monkeypatch.setattr(class_rows, "_MOST_BLOCKS", 3)
    fewer = on_device(name, device, scores, targets, *weight)
    np.testing.assert_array_equal(fewer[1], gradient)
    np.testing.assert_allclose(fewer[0], value, rtol=1e-5)
