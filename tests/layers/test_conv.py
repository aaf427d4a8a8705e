"""Which convolutions are depthwise, how they find their filters, and a transposed convolution computed by hand."""

import numpy as np

from gpuconv.layers import Conv2D, ConvTranspose2D, Flatten, Input, Linear, Sequential, state


def test_a_convolution_of_one_channel_is_not_depthwise():
    depthwise = {(1, 1): False, (1, 4): False, (4, 4): True, (2, 4): False}
    for (groups, channels), expected in depthwise.items():
        layer = Conv2D(4, 3, groups=groups)
        layer.build((5, 5, channels))
        assert layer.depthwise == expected, (groups, channels)


def test_a_transposed_convolution_gives_the_values_computed_by_hand():
    layer = ConvTranspose2D(1, 2, stride=2)
    layer.build((1, 2, 1), dtype="float64")
    layer["weight"][...] = np.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    layer["bias"][...] = 10
    np.testing.assert_array_equal(
        layer(np.array([1.0, -1]).reshape(1, 1, 2, 1))[0, :, :, 0], [[11, 12, 9, 8], [13, 14, 7, 6]]
    )
    assert layer.mult_adds == 2 * 4
    layer = ConvTranspose2D(8, 3, stride=2, padding=1, output_padding=1)
    assert layer.build((4, 4, 3)) == (8, 8, 8)
    assert layer.algorithms(2, "emulated").keys() == {"fprop", "dgrad", "wgrad"}


def test_a_pass_reads_the_filters_without_looking_up_their_names(monkeypatch):
    layer = Conv2D(2, 3)
    layer.build((5, 5, 1))
    monkeypatch.setattr(state, "canonical", None)  # a look-up would raise
    y = layer(np.ones((1, 5, 5, 1), np.float32), training=True)
    assert layer.backward(y).shape == (1, 5, 5, 1)


def test_a_transposed_convolution_takes_larger_maps():
    layers = [Conv2D(4, 3, padding=1), ConvTranspose2D(2, 3, stride=2, padding=1, output_padding=1)]
    net = Sequential([Input((8, 8, 3), larger=True), *layers], seed=1)
    x = np.random.default_rng(0).normal(size=(2, 12, 10, 3)).astype(np.float32)
    exact = Sequential([Input((12, 10, 3)), *layers])  # copies of the layers
    np.testing.assert_array_equal(net.infer(x), exact.infer(x))
    assert net(x, training=True).shape == (2, 24, 20, 2)
    assert net.backward(np.ones((2, 24, 20, 2), np.float32)).shape == x.shape


def test_a_net_with_a_transposed_convolution_slides():
    layers = [Conv2D(4, 3), ConvTranspose2D(2, 2, stride=2), Flatten(), Linear(3)]
    net = Sequential([Input((4, 4, 3)), *layers], seed=1, precision="float64")
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 3))
    scores = net.as_convolutional().infer(x)
    for row in range(3):
        for column in range(2):
            window = x[:, row : row + 4, column : column + 4]
            np.testing.assert_allclose(scores[:, 2 * row, 2 * column], net.infer(window), rtol=1e-12)


def test_a_second_flatten_slides_too():
    net = Sequential([Input((8, 8, 3)), Flatten(), Flatten(), Linear(2)], seed=1)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(net.as_convolutional().infer(x)[:, 0, 0], net.infer(x), rtol=1e-4)
