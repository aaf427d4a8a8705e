"""Wrong arguments of the tools that look inside a net are refused in messages that name them."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import Sequential, Trainer, inspect
from gpuconv.inspect.profile import profile
from gpuconv.layers import Conv2D, Flatten, Input, Linear

X = np.zeros((1, 4, 4, 2), np.float32)
DATA = np.zeros((4, 4, 4, 2), np.float32), np.zeros(4, int)


def net(*head):
    return Sequential([*head, Conv2D(2, 3, padding=1), Flatten(), Linear(3)])


def explain(x=X, layer="conv1", at=(0, 0, 0), **options):
    return inspect.explain(net(Input((4, 4, 2))), x, layer, at, **options)


CALLS = {
    "explain, x is a list": (lambda: explain([1]), TypeError, "an array of NumPy or CuPy, received list"),
    "explain, x has no batch axis": (lambda: explain(X[0]), ValueError, r"such as \(1, 4, 4, 2\).* \(4, 4, 2\)"),
    "explain, x is larger than the net's images": (
        lambda: explain(np.zeros((1, 6, 5, 2), np.float32)),
        ValueError,
        "the net takes volumes of 4 x 4 x 2 .*, received 6 x 5 x 2",
    ),
    "explain, at is a number": (lambda: explain(at=5), ValueError, "3 whole numbers, .* received 5"),
    "explain, target of an activation": (lambda: explain(target=1), ValueError, "target is for backward=True"),
    "explain, backward": (lambda: explain(backward="no"), TypeError, "backward must be True or False, received 'no'"),
    "explain, locate": (lambda: explain(locate="no"), TypeError, "locate must be True or False, received 'no'"),
    "saliency, x is a list": (
        lambda: inspect.saliency(net(Input((4, 4, 2))), [1]),
        TypeError,
        "an array of NumPy or CuPy, received list",
    ),
    "bisect, no trainers": (lambda: inspect.bisect(5, 5, DATA), TypeError, "a and b must be Trainers, received int"),
    "bisect, no step": (
        lambda: inspect.bisect(Trainer(net(Input((4, 4, 2)))), Trainer(net(Input((4, 4, 2)))), DATA, steps=0),
        ValueError,
        "steps must be at least 1, received 0",
    ),
    "bisect, one net": (
        lambda: inspect.bisect(*[Trainer(net(Input((4, 4, 2))))] * 2, DATA),
        ValueError,
        r"a and b train the same net; give one of them a copy, net\.twin\(\)",
    ),
    "bisect, generator": (
        lambda: inspect.bisect(Trainer(net(Input((4, 4, 2)))), Trainer(net(Input((4, 4, 2)))), (DATA for _ in "ab")),
        TypeError,
        "both sides read data from the beginning, received generator; give a list of batches, or a function",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()


USES = {
    "explain": lambda net: inspect.explain(net, X, "conv1", (0, 0, 0)),
    "saliency": lambda net: inspect.saliency(net, X),
    "occlusion": lambda net: inspect.occlusion(net, X),
    "grad_cam": lambda net: inspect.grad_cam(net, X),
    "profile": lambda net: profile(net, 2, steps=1),
}


@pytest.mark.parametrize("name", USES)
def test_a_net_without_shapes_is_refused_and_so_is_a_number(name):
    with pytest.raises(RuntimeError, match=r"no shapes yet: begin it with Input\(...\) or call build"):
        USES[name](net())
    with pytest.raises(TypeError, match=r"a net must be a gpuconv\.Sequential or another layer, received int"):
        USES[name](5)


def test_positions_and_targets_may_be_numpys_integers():
    position = np.unravel_index(5, (4, 4, 2))
    assert explain(at=position).at == (0, 2, 1)
    assert explain(at=position, backward=True, target=np.int64(1)).at == (0, 2, 1)
