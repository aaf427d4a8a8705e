"""Chains of norms: dgrad of a convolution also computes the sums of the backward pass of the norm before it."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import (
    GELU,
    BatchNorm,
    Branches,
    Conv2D,
    Flatten,
    Input,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from gpuconv.layers.norm_chain import form_chains, sums_pay
from gpuconv.profiling import launches
from tests.devices import DEVICES
from tests.layers.steps import kinds, step_arrays


def test_norm_sums_of_another_type_than_bool_is_refused():
    with pytest.raises(TypeError, match="norm_sums must be True or False, received 'no'"):
        Sequential([Input((7, 7, 2)), Conv2D(3, 3), BatchNorm(), Conv2D(3, 3)]).fuse(norm_sums="no")


def net_of_norms_read_by_convolutions(device):
    """Norms whose output a convolution reads: with and without an activation between them, with a stride, in groups,
    and in a residual block whose norms come before its convolutions."""
    layers = [
        Input((9, 8, 6)),
        *(Conv2D(8, 3, padding=1, bias=False), BatchNorm()),
        *(Conv2D(8, 1), BatchNorm(), ReLU()),
        *(Conv2D(8, 3, padding=1, stride=2, groups=2), BatchNorm(frozen=("weight",)), GELU()),
        Conv2D(6, 1),
        Residual([BatchNorm(), ReLU(), Conv2D(6, 3, padding=1), BatchNorm(), ReLU(), Conv2D(6, 3, padding=1)]),
        *(Flatten(), Linear(3)),
    ]
    return Sequential(layers, device=device, seed=4)


@pytest.mark.parametrize("device", DEVICES)
def test_norms_read_by_convolutions_are_chained_and_give_the_same_results(device):
    plain = net_of_norms_read_by_convolutions(device)
    expected = step_arrays(plain)
    for norm_sums, kinds_of_net, kinds_of_body in (
        (None, ["NormChain", "ConvNorm", "Conv2D", "Residual"], ["NormActivation", "ConvNorm", "Conv2D"]),
        (True, ["NormChain", "Residual"], ["NormChain"]),
        (False, ["ConvNorm", "ConvNorm", "ConvNorm", "Conv2D", "Residual"], ["NormActivation", "ConvNorm", "Conv2D"]),
    ):
        fused = net_of_norms_read_by_convolutions(device).fuse(norm_sums=norm_sums)
        assert kinds(fused) == ["Input", *kinds_of_net, "Flatten", "Linear"]
        assert kinds(fused[-3].rows[0]) == kinds_of_body
        assert list(fused.state_dict()) == list(plain.state_dict())
        for plain_value, from_fused in zip(expected, step_arrays(fused), strict=True):
            np.testing.assert_allclose(from_fused, plain_value, rtol=1e-4, atol=1e-5)  # some gradients cancel to zero
        for name, value in plain.buffers().items():
            np.testing.assert_allclose(gc.to_numpy(fused.buffers()[name]), gc.to_numpy(value), rtol=1e-5, atol=1e-6)


def test_a_chain_of_norms_needs_no_pass_for_their_sums():
    """For each of the five norms, the kernel for the input gradient of the next convolution computes the sums."""
    with launches.record_launches() as launched:
        step_arrays(net_of_norms_read_by_convolutions("emulated").fuse(norm_sums=True))
    names = [launch.kernel.name for launch in launched]
    assert names.count("batch_norm_backward_dx") == 5
    assert names.count("batch_norm_backward_sums") == 0
    assert sum(launch.kernel.module.defines.get("NORM_SUMS") == "1" for launch in launched) == 5


def test_by_default_norms_are_chained_only_without_an_activation():
    assert [sums_pay(activation) for activation in (None, "relu", "gelu", "silu")] == [True, False, False, False]


def test_norms_are_chained_to_a_convolution_whose_input_gradient_can_compute_their_sums():
    def chained(*layers):
        return "NormChain" in kinds(Sequential([Input((8, 8, 4)), *layers], initialize=False).fuse(norm_sums=True))

    norm = [Conv2D(4, 1), BatchNorm()]
    assert chained(*norm, Conv2D(4, 1))
    assert chained(*norm, ReLU(), Conv2D(4, 1), MaxPool2D(2), BatchNorm())
    # The gradient of the norm goes back through the pool.
    assert not chained(Conv2D(4, 1), MaxPool2D(2), BatchNorm(), Conv2D(4, 1))
    assert not chained(*norm, Conv2D(4, 3, groups=4))  # depthwise
    assert not chained(*norm, Conv2D(4, 1), ReLU())  # the gradient of this convolution has the ReLU's mask
    assert not chained(*norm, MaxPool2D(2), Conv2D(4, 1))


def test_a_chain_at_the_end_of_a_branch_gives_the_same_results():
    net = Sequential(
        [Input((6, 5, 4)), Branches([[], [Conv2D(4, 1), BatchNorm(), Conv2D(3, 1), BatchNorm()]]), Conv2D(2, 1)]
    )
    fused = net.fuse()
    assert kinds(fused[1].rows[1]) == ["NormChain"]
    for plain, from_fused in zip(step_arrays(net), step_arrays(fused), strict=True):
        np.testing.assert_allclose(from_fused, plain, rtol=1e-4, atol=1e-5)


def test_layers_with_hooks_are_not_chained():
    for index, hooked in ((1, "NormActivation"), (2, "Conv2D")):
        net = Sequential([Input((8, 8, 4)), BatchNorm(name="norm1"), ReLU(), Conv2D(4, 1, name="conv2")])
        assert "NormChain" in kinds(net.fuse(norm_sums=True))
        fused = net.fuse()
        assert type(fused[index]).__name__ == hooked
        with fused[index].register_forward_hook(lambda *_: None):
            assert "NormChain" not in [type(each).__name__ for each in form_chains(fused.layers, True)]
