"""Gradients after zero_grad read as zero. The next backward assigns a layer's gradients, or adds to all of
them if one was read."""

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, Sequential


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_after_zero_grad_gradients_read_as_zero_and_backward_assigns_then_adds(device):
    net = Sequential([Input((6, 5, 2)), Conv2D(3, 3), BatchNorm(), Flatten(), Linear(4)], seed=2).to(device)
    x = asarray(np.random.default_rng(0).standard_normal((3, 6, 5, 2)).astype(np.float32), device)
    dy = asarray(np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32), device)

    def backward():
        net.forward(x, training=True)
        net.backward(dy, input_grad=False)
        return {key: np.array(to_numpy(gradient)) for key, gradient in net.grads().items()}

    once, live = backward(), net.grads()
    twice = backward()
    net.zero_grad()
    # The next line reads all gradients, which fills them with zeros. The next backward adds to these zeros.
    assert not any(to_numpy(gradient).any() for gradient in net.grads().values())
    after_all_were_read = backward()
    net.zero_grad()
    norm = next(layer for layer in net.walk() if isinstance(layer, BatchNorm))
    norm.gradient("weight")  # reads one of the norm's two gradients
    after_one_was_read = backward()
    net.zero_grad()
    after_none_was_read = backward()
    for key, gradient in once.items():
        for other in (after_all_were_read, after_one_was_read, after_none_was_read):
            np.testing.assert_array_equal(other[key], gradient, err_msg=key)
        np.testing.assert_allclose(twice[key], 2 * gradient, rtol=1e-5, atol=1e-5, err_msg=key)
        assert net.grads()[key] is live[key]
