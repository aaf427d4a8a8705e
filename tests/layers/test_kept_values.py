"""What layers keep between forward and backward."""

import numpy as np
import pytest

from gpuconv import asarray
from gpuconv.layers import Conv2D, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from tests.layers.layer_cases import fresh


def test_relu_stores_its_output_conv_its_input_and_max_pool_a_byte_for_each_window():
    relu, conv, pool = fresh(ReLU(), (3, 3, 2)), fresh(Conv2D(2, 3), (3, 3, 2)), fresh(MaxPool2D(3), (3, 3, 2))
    x = np.ones((1, 3, 3, 2))
    y = relu.forward(x)
    (kept_by_relu,) = relu.unstash()
    assert kept_by_relu is y
    conv.forward(x)
    (kept_by_conv,) = conv.unstash()
    assert kept_by_conv is x
    pool.forward(x)
    winners, input_shape = pool.unstash()
    assert (winners.dtype, winners.shape) == (np.uint8, (1, 1, 1, 2))
    assert input_shape == x.shape


def test_moving_a_net_drops_its_stored_activations():
    net = Sequential([Input((3,)), Residual([Linear(3)]), ReLU()])
    for change in ({"dtype": "float64"}, {"precision": "tf32"}, {"device": "emulated"}):
        net.forward(asarray(np.ones((2, 3), net.dtype), net.device), training=True)
        net.to(**change)
        assert all(layer.kept == () for layer in net.walk()), change
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            net.backward(asarray(np.ones((2, 3), net.dtype), net.device))
