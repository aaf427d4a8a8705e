"""Hooks and listeners: which layers they see, and until when."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest

from gpuconv.layers import listen
from gpuconv.training import Trainer
from tests.layers.net_with_shortcut import images, net_of


def test_hooks_reach_layers_inside_others(net, x):
    called = []
    names = ("residual1.conv1", "residual1.shortcut.conv1", "residual1.shortcut", "residual1")
    handles = [net[name].register_forward_hook(lambda layer, x, y: called.append(layer.path)) for name in names]
    handles += [net[name].register_backward_hook(lambda layer, dx, dy: called.append(layer.path)) for name in names]
    net.backward(np.ones_like(net(x, training=True)))
    assert called == [*names, "residual1.conv1", "residual1.shortcut.conv1", "residual1.shortcut", "residual1"]
    called.clear()
    net.fuse()(x)
    assert called == [*names]
    for handle in handles:
        handle.remove()
    net(x)
    assert called == [*names]


def test_hooks_see_volumes_until_they_are_removed(net, x):
    calls = []
    forward = net["residual1"].register_forward_hook(lambda layer, x, y: calls.append((layer.name, x.shape, y.shape)))
    backward = net["conv1"].register_backward_hook(lambda layer, dx, dy: calls.append((layer.name, dx, dy.shape)))
    y = net(x, training=True)
    net.backward(np.ones_like(y), input_grad=False)
    assert calls == [("residual1", (4, 6, 6, 3), (4, 6, 6, 3)), ("conv1", None, (4, 6, 6, 3))]
    forward.remove()
    backward.remove()
    net.backward(np.ones_like(net(x, training=True)))
    assert len(calls) == 2
    with net.register_forward_hook(lambda layer, x, y: calls.append(y.shape)):
        net(x)
    net(x)
    assert calls[2:] == [(4, 5)]
    with pytest.raises(TypeError, match=r"a hook is a function of \(layer, x, y\), received str"):
        net.register_forward_hook("print")
    with pytest.raises(TypeError, match=r"a hook is a function of \(layer, dx, dy\), received str"):
        net.register_backward_hook("print")


def test_a_hook_that_would_replace_an_array_is_refused(net, x):
    with net["conv1"].register_forward_hook(lambda layer, x, y: y), net["relu1"].register_backward_hook(print):
        y = net(x, training=True)
        net.backward(np.ones_like(y))
    message = "a hook must return None, because it cannot replace an array .*; the hook of conv1 returned ndarray"
    with net["conv1"].register_forward_hook(lambda layer, x, y: y * 0), pytest.raises(TypeError, match=message):
        net(x)
    with net["conv1"].register_backward_hook(lambda layer, dx, dy: dx * 0), pytest.raises(TypeError, match=message):
        net.backward(np.ones_like(net(x, training=True)))


def test_hooks_are_called_in_a_fused_net_and_not_in_a_copy(net, x):
    calls = []
    with net["conv1"].register_forward_hook(lambda *arguments: calls.append(arguments)):
        net.copy()(x)
        copy.deepcopy(net[1:3]).twin()(x[:1])
        assert not calls
        Trainer(net, fuse=True).trained(x)
    assert len(calls) == 1


def test_each_handle_removes_only_its_own_hook(net, x):
    calls = []

    def hook(layer, x, y):
        calls.append(layer.name)

    first, second = net["conv1"].register_forward_hook(hook), net["conv1"].register_forward_hook(hook)
    for remaining in (2, 1, 1):
        net(x)
        assert len(calls) == remaining
        calls.clear()
        first.remove()  # a second time it does nothing
    second.remove()
    net(x)
    assert not calls
    assert not net["conv1"].has_hooks


def test_listeners_see_layers_by_path_and_can_be_removed():
    calls = []

    @contextmanager
    def record(layer, direction):
        calls.append(f"{layer.path}.{direction}")
        yield

    net = net_of()
    with listen(record):
        net.infer(images())
    assert calls == [
        f"{path}.forward"
        for path in (
            "input",
            "conv1",
            "relu1",
            "pool1",
            "residual1",
            "residual1.conv1",
            "residual1.norm1",
            "residual1.relu1",
            "residual1.shortcut.conv1",
            "dropout1",
            "flatten1",
            "fc1",
        )
    ]
    calls.clear()
    net.infer(images())
    assert calls == []
