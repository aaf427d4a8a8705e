"""Predictions of a net: batches, and images that are refused."""

from functools import partial

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.layers import Input, Linear, Sequential
from tests.layers.net_with_shortcut import images, net_of


def test_predict_equals_forward_whatever_the_batch_size():
    net = net_of()
    x = images(7)
    expected = net.forward(x)
    net.release()
    for batch_size in (1, 2, 3, 7, 100):
        scores = net.predict(x, batch_size=batch_size)
        assert scores.shape == (7, 5)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert all(layer._saved is None for layer in net.walk())
    np.testing.assert_allclose(net.predict(x, batch_size=4, softmax=True), ops.softmax(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        net.predict(x, batch_size=0)


def test_masked_and_invalid_arrays_are_refused_by_every_method_of_a_net():
    """Masked arrays are refused also within lists. The error for other unusable arrays says what the net accepts."""
    net = net_of()
    net.classes = list("abcde")
    x = images()
    masked = np.ma.masked_greater(x, 0.5)
    u8 = np.ma.masked_greater(np.uint8([[[[1, 2]] * 5] * 6]), 1)
    for method in (net, net.predict, net.activations, partial(net.predict, top=1), partial(net.predict, batch_size=1)):
        lists = [] if method is net else [u8, [masked[0], x[0]]]
        for wrong in (masked, np.ma.masked_array(x, hard_mask=True), *lists):
            with pytest.raises(TypeError, match="must not be a masked array"):
                method(wrong)
        for wrong in (np.float32(1), np.ones((), np.float32), np.ones(2, np.float32), np.ones((1, 1, 6, 5, 2), "f4")):
            with pytest.raises((ValueError, TypeError), match=r"volumes of 6 x 5 x 2|shape \(6, 5, 2\)|received float"):
                method(wrong)
    with pytest.raises(TypeError, match=r"expected an array of NumPy or CuPy, received list"):
        net([x[0]])
    assert net.predict(x[:0], top=2) == []
    np.testing.assert_array_equal(net.predict(x.astype(x.dtype.newbyteorder())), net.predict(x))


def test_predicting_no_images_gives_no_classes(net):
    assert net.predict([], top=1) == []
    assert net.predict(np.zeros((0, 6, 6, 2), np.float32), top=1) == []


def test_a_file_is_refused_by_a_net_that_takes_no_images():
    net = Sequential([Input((10,)), Linear(3)])
    for given in ("digit.png", ["digit.png"], [np.zeros(10, np.float32), "digit.png"]):
        with pytest.raises(ValueError, match=r"takes inputs of shape \(10,\), received the image file 'digit.png'"):
            net.predict(given)
