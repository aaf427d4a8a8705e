"""The names of classes and the normalization of a net, which `net.predict` uses: checked when they are set."""

import numpy as np
import pytest

from gpuconv.data import Normalization
from gpuconv.layers import Flatten, Input, Linear, Sequential
from tests import small_nets


def test_classes_and_normalization_are_checked_when_they_are_set():
    small_net = small_nets.untrained()
    for wrong, error, message in (
        (["cat"], ValueError, "the net has 5 scores, received 1 names of classes"),
        ("abcde", TypeError, r"classes are a list of names, such as .*received str 'abcde'"),
        (range(5), TypeError, r"classes are names, such as .*received int 0; \[str\(name\)"),
        ({"a": 0}, TypeError, "received dict"),
        (5, TypeError, "received int 5"),
    ):
        with pytest.raises(error, match=message):
            small_net.classes = wrong
    assert small_net.classes is None
    small_net.classes = np.array(list("abcde"))
    assert small_net.classes == list("abcde")
    for wrong, error, message in (
        ((0.5, 0.5), TypeError, r"a gpuconv.data.Normalization\(mean, std\).*received tuple"),
        (Normalization([1], [1]), ValueError, r"mean must be of shape \(3,\).*received \(1,\)"),
        (Normalization([1, 2, 3], [1]), ValueError, r"std must be of shape \(3,\).*received \(1,\)"),
    ):
        with pytest.raises(error, match=message):
            small_net.normalization = wrong
    assert small_net.normalization is None
    small_net.normalization = Normalization(np.ones((4, 4, 3)), [1, 2, 3])


def test_classes_set_before_the_net_is_built_are_checked_by_predict():
    unbuilt = Sequential([Linear(3)])
    unbuilt.classes = ["a", "b"]
    unbuilt.build((2,))
    with pytest.raises(ValueError, match="the net has 3 scores, received 2 names"):
        unbuilt.predict(np.ones((1, 2), np.float32), top=1)


def test_a_sliding_net_has_the_classes_and_the_normalization_by_channel():
    net = Sequential([Input((4, 4, 3)), Flatten(), Linear(2)])
    net.classes, net.normalization = ["cat", "dog"], Normalization([1, 2, 3], [4, 5, 6])
    sliding = net.as_convolutional()
    assert sliding.classes == ["cat", "dog"]
    assert sliding.normalization is net.normalization
    x = np.zeros((1, 4, 4, 3), np.uint8)
    assert sliding.predict(x, top=1)[0][0][0] == net.predict(x, top=1)[0][0][0]
    net.normalization = Normalization(np.ones((4, 4, 3)), [4, 5, 6])  # by a mean image, which fits only 4 x 4
    assert net.as_convolutional().normalization is None
