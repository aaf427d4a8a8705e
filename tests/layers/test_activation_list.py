"""The activations of all layers, by name."""

import numpy as np
import pytest

from tests.layers.net_with_shortcut import images, net_of


def test_activations_are_the_volumes_of_all_layers():
    net = net_of()
    x = images()
    volumes = net.activations(x)
    assert [name for name, _ in volumes if "." not in name] == [name for name, _ in net.children()]
    assert {name for name, _ in volumes} == {layer.path for layer in net.walk() if layer is not net}
    for name, volume in volumes:
        assert volume.shape == (3, *net[name].output_shape)
    np.testing.assert_array_equal(volumes[0][1], x)
    np.testing.assert_array_equal(volumes[2][1], np.maximum(volumes[1][1], 0))
    np.testing.assert_array_equal(volumes[-1][1], net.infer(x))


def test_activations_are_found_by_name(net, x):
    volumes = net.activations(x)
    assert volumes["pool1"].shape == (4, 3, 3, 3)
    assert volumes.keys() == [name for name, _ in volumes]
    np.testing.assert_array_equal(volumes["fc1"], net(x))
    np.testing.assert_array_equal(volumes[-1][1], dict(volumes)["fc1"])
    with pytest.raises(ValueError, match="did you mean 'pool1'"):
        volumes["pool"]
