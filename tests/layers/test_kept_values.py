"""What layers keep between forward and backward."""

import numpy as np
import pytest

from gpuconv import asarray
from gpuconv.layers import Conv2D, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from tests.layers.layer_cases import fresh


def test_relu_keeps_its_output_and_conv_its_input_and_max_pool_a_byte_for_each_window():
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


@pytest.mark.parametrize(
    ("dy", "error", "received"),
    [
        (np.ones((2, 4), np.float32), ValueError, r"\(2, 4\) float32"),
        (np.ones((3, 5), np.float32), ValueError, r"\(3, 5\) float32"),
        (np.ones((2, 5)), TypeError, r"\(2, 5\) float64"),
    ],
    ids=["other-width", "other-batch", "float64"],
)
def test_a_net_that_refused_a_gradient_still_takes_the_right_one(dy, error, received):
    net = Sequential([Input((3,)), Residual([Linear(3)]), ReLU(), Linear(5)])
    net.forward(np.ones((2, 3), np.float32), training=True)
    with pytest.raises(
        error, match=rf"dy must have shape \(2, 5\) and dtype float32, as the output, received {received}"
    ):
        net.backward(dy)
    assert net.backward(np.ones((2, 5), np.float32)).shape == (2, 3)


def test_inference_drops_what_the_net_kept():
    net = Sequential([Input((3,)), Linear(5)])
    net.forward(np.ones((2, 3), np.float32), training=True)
    net.infer(np.ones((2, 3), np.float32))
    assert all(layer.kept == () for layer in net.walk())
