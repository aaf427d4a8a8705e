"""Whole training steps: gpuconv and PyTorch train the same net, and a step with wrong gradients is not timed."""

from __future__ import annotations

import numpy as np
import pytest

from bench import steps, suite
from gpuconv import layers, models, ops
from gpuconv.training import Trainer
from tests.bench import fake_sides
from tests.bench.fake_sides import by_name, timed_on_cpu

pytestmark = pytest.mark.slow  # sides are really timed


def one_step():
    return suite.Entry("step", "step", "tiny", "float32", ("net-of-every-kind", 4), fake_sides.entry().work)


@pytest.fixture
def net_of_every_kind(monkeypatch):
    """A net with every kind of layer that the suite's nets have, on 8x10 images."""

    def build(input_shape=None, classes=None, **options):
        body = [
            layers.Conv2D(4, 3, padding=1, bias=False),
            layers.BatchNorm(momentum=0.3),
            layers.ReLU(),
            layers.Conv2D(6, 3, stride=2, padding=1),
        ]
        shortcut = [layers.Conv2D(6, 1, stride=2, frozen=("weight",))]
        return layers.Sequential(
            [
                layers.Input((8, 10, 3)),
                layers.Residual(body, shortcut),
                layers.GELU(),
                layers.MaxPool2D((2, 1)),
                layers.Conv2D(5, 2, padding="valid"),
                layers.ReLU(),
                layers.GlobalAvgPool2D(),
                layers.Flatten(),
                layers.Linear(10, bias=False),
                layers.Scale(0.5),
            ],
            **options,
        )

    monkeypatch.setitem(models.MODELS, "net-of-every-kind", build)


def test_a_step_can_be_prepared_with_all_norm_sums_in_dgrad(net_of_every_kind):
    """On a GPU, a net is also timed as `net.fuse(norm_sums=True)` if that fuses more than `net.fuse()`: dgrad of a
    convolution then also computes the sums for the backward pass of the batch norm before it."""
    step = steps.Step(one_step())
    assert steps.has_norms_below_convolutions(step.net())
    assert not steps.has_norms_below_convolutions(step.net()[-1:])
    for norm_sums in (None, True):
        trainer, *_ = steps._prepared(step, "emulated", norm_sums)
        assert any(type(layer).__name__ == "NormChain" for layer in trainer.trained.walk()) == bool(norm_sums)


def test_both_sides_train_the_same_net(net_of_every_kind):
    pytest.importorskip("torch")
    row = timed_on_cpu(one_step())
    assert {side["name"]: side["status"] for side in row["sides"]} == {
        "gpuconv": "timed",
        "eager": "timed",
        "channels_last": "timed",
        "compile": "left out",
        "graph": "absent",
        "compile graph": "absent",
    }
    assert all(side["error"] < 1e-5 for side in row["sides"] if side["status"] == "timed")


def test_pytorch_takes_the_steps_of_gpuconv(net_of_every_kind):
    """The weights agree after three steps, so the gradients, the optimizer and the frozen weights are the same."""
    torch = pytest.importorskip("torch")
    from bench.peers.pytorch import tensor
    from bench.peers.pytorch_net import module
    from gpuconv import interop

    step = steps.Step(one_step())
    net = step.net()
    peer = module(net).train()
    optimizer = torch.optim.SGD([p for p in peer.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    trainer = Trainer(net, "sgd", lr=0.1, momentum=0.9)
    images, labels = step.batch()
    for _ in range(3):
        steps._once(trainer, images, labels)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(peer(tensor(images, "numpy")), tensor(labels, "numpy")).backward()
        optimizer.step()
    for name, value in interop.from_torch(peer.state_dict(), net).items():
        np.testing.assert_allclose(value, net.state_dict()[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_step_with_wrong_gradients_is_not_timed(net_of_every_kind, monkeypatch):
    # The first convolution calls only wgrad, because no layer needs the gradient of the net's input.
    correct = ops.conv2d_wgrad

    def wrong(dy, x, **options):
        # The float64 gradients are the expected ones and stay correct.
        return correct(1.1 * dy if dy.dtype == np.float32 else dy, x, **options)

    monkeypatch.setattr(ops, "conv2d_wgrad", wrong)
    row = timed_on_cpu(one_step())
    assert by_name(row)["gpuconv"]["status"] == "refused"
    assert "gradients are off" in by_name(row)["gpuconv"]["reason"]
