"""Batch norm with the statistics of all ranks equals that of one process with the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cpu import parallel as cpu
from gpuconv.data import Loader
from gpuconv.initializers import zeros
from gpuconv.layers import (
    BatchNorm,
    Branches,
    Conv2D,
    Dropout,
    Flatten,
    Input,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Variable,
)
from gpuconv.parallel import NCCL, Ranks
from gpuconv.training import LossScale, Trainer
from tests import standin, toy_run
from tests.parallel.thread_ranks import messages_alone, on_ranks

RANDOM = np.random.default_rng(0)
LABELS = np.arange(11) % 3
IMAGES = (100 + RANDOM.normal(size=(11, 6, 5, 1)) * (1 + LABELS[:, None, None, None])).astype(np.float32)


def net(dtype="float32"):
    layers = [Input((6, 5, 1)), BatchNorm(), Conv2D(4, 3, padding=1), BatchNorm(momentum=0.3), ReLU(), Flatten()]
    return Sequential([*layers, Linear(8), BatchNorm(), Linear(3)], seed=0).to(precision=dtype)


def net_of_containers(dtype="float32"):
    """Batch norm inside every container, dropout, a user's layer with a buffer, and a frozen norm at the start."""
    convolution = [Conv2D(4, 3, padding=1), BatchNorm(), ReLU()]
    layers = [
        Input((6, 5, 1)),
        BatchNorm(frozen=True),
        *convolution,
        Residual([Conv2D(4, 3, padding=1), BatchNorm()], [Conv2D(4, 1)]),
    ]
    layers += [Branches([[], [Conv2D(2, 1), BatchNorm()]]), Dropout(0.3), Centered(), Flatten(), Linear(3)]
    return Sequential(layers, seed=0).to(precision=dtype)


class Centered(Layer):
    """Subtracts the mean of the samples of its previous training call."""

    def plan(self, input_shape):
        self.variables = {"mean": Variable((1,), zeros, buffer=True)}
        return input_shape

    def forward(self, x, training=False):
        host = gc.to_numpy(x)
        y = gc.asarray(host - gc.to_numpy(self["mean"]).astype(host.dtype), gc.backends.device_of(x))
        if training:
            gc.backends.assign(self["mean"], host.mean(dtype=np.float32).reshape(1).astype(host.dtype))
        return y

    def backward(self, dy, *, input_grad=True):
        return dy


def stepped(
    ranks=None, *, device="numpy", dtype="float32", sync=True, steps=2, freeze=False, shards=None, make=net, graph=False
):
    """The net's state and gradients after some steps."""
    trained = make(dtype).to(device)
    if freeze:
        trained["norm2"].freeze()
    scale = LossScale(start=64.0) if dtype == "float16" else None
    trainer = Trainer(
        trained, "sgd", lr=0.01, parallel=ranks, sync_batch_norm=sync, graph=graph, loss_scale=scale, shards=shards
    )
    first, end = trainer.sharding.range_of_rank(len(LABELS)) if trainer.sharding else (0, len(LABELS))
    x, y = (gc.asarray(array[first:end], device) for array in (IMAGES.astype(trained.dtype), LABELS))
    for _ in range(steps):
        trainer.optimizer.advance()
        trainer.step(x, y, batch=len(LABELS) if ranks else None)
    trainer.net.release()
    gradients = {f"gradient of {name}": gradient for name, gradient in trained.grads().items()}
    return {name: np.array(gc.to_numpy(array)) for name, array in (trained.state_dict() | gradients).items()}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("device", "dtype"), [("numpy", "float32"), ("numpy", "float64"), ("emulated", "float32")])
def test_ranks_match_one_process_with_the_whole_batch(device, dtype, size):
    """The images have a mean of 100 and a deviation of about 2. A variance computed with cancellation would differ."""
    tolerance = 1e-9 if dtype == "float64" else 2e-3
    alone = stepped(device=device, dtype=dtype)
    states = on_ranks(size, lambda ranks: stepped(ranks, device=device, dtype=dtype), messages_alone)
    for state in states:
        assert state.keys() == alone.keys()
        for name, expected in alone.items():
            np.testing.assert_allclose(state[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    assert toy_run.same_arrays(states[0], states[-1])


def test_without_sync_batch_norm_the_ranks_differ_from_one_process():
    alone, (state, _) = stepped(), on_ranks(2, lambda ranks: stepped(ranks, sync=False), messages_alone)
    assert not np.allclose(state["norm1.running_var"], alone["norm1.running_var"], rtol=2e-3)


def direction(state):
    """All gradients as one unit vector, because those in float16 are multiplied by a loss scale."""
    gradients = [state[name].ravel().astype(np.float64) for name in sorted(state) if name.startswith("gradient")]
    vector = np.concatenate(gradients)
    return vector / np.linalg.norm(vector)


def test_the_errors_of_float16_on_two_ranks_are_at_most_three_times_those_on_one_process():
    """On two ranks, each batch norm rounds the gradient of its input three times instead of once."""
    exact, alone = (direction(stepped(dtype=dtype, steps=1)) for dtype in ("float32", "float16"))
    for state in on_ranks(2, lambda ranks: stepped(ranks, dtype="float16", steps=1), messages_alone):
        error = np.linalg.norm(direction(state) - exact)
        assert error <= 3 * np.linalg.norm(alone - exact)


def test_a_frozen_norm_keeps_its_weights():
    alone = stepped(freeze=True)
    for state in on_ranks(2, lambda ranks: stepped(ranks, freeze=True), messages_alone):
        np.testing.assert_array_equal(state["norm2.weight"], 1)
        np.testing.assert_allclose(state["conv1.weight"], alone["conv1.weight"], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_on_gpus_the_statistics_are_exchanged_on_the_device(monkeypatch, schedule):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    alone = stepped()
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        states = on_ranks(2, lambda ranks: stepped(ranks, device=ranks.own_device("cuda")))
        calls = machine.nccl_worlds[0].calls
    for state in states:
        for name, expected in alone.items():
            np.testing.assert_allclose(state[name], expected, rtol=2e-3, atol=2e-3, err_msg=name)
    assert calls[0] == calls[1]
    norms = [call.words[0] for call in calls[0][: 2 * 3]]
    assert norms == [f"allReduce: {channels} float32" for channels in (1, 1, 4, 4, 8, 8)]


KINDS = [("numpy", "float32", net), ("numpy", "float16", net_of_containers), ("numpy", "float64", net_of_containers)]
KINDS += [("emulated", "float32", net_of_containers)]


@pytest.mark.parametrize(("device", "dtype", "make"), KINDS)
def test_shards_have_the_same_bits_on_any_number_of_ranks(device, dtype, make):
    """The four shards have 2, 3, 3 and 3 samples."""
    options = dict(device=device, dtype=dtype, shards=4, make=make)

    def rank(ranks):
        cpu._fixed_cores.set(1)  # without it, ops of this thread would wait until the context below ends
        return stepped(ranks, **options)

    with cpu.fixed_parts():
        alone = stepped(**options)
        for size in (2, 4):
            for state in on_ranks(size, rank, messages_alone):
                assert toy_run.same_arrays(state, alone)


def test_shards_of_one_rank_match_the_whole_batch():
    alone, sharded = stepped(dtype="float64", sync=False), stepped(dtype="float64", shards=4)
    for name, expected in alone.items():
        np.testing.assert_allclose(sharded[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_two_gpus_with_two_shards_each_have_the_bits_of_one_gpu(monkeypatch, schedule):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    with standin.installed(("90", "90"), schedule=schedule):
        alone = stepped(NCCL(messages=Ranks()), device="cuda", shards=4)
        for state in on_ranks(2, lambda ranks: stepped(ranks, device=ranks.own_device("cuda"), shards=4)):
            assert toy_run.same_arrays(state, alone)


@pytest.mark.parametrize("device", ["emulated", "cuda"])
def test_captured_steps_have_the_same_bits(monkeypatch, device):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")

    def run(graph):
        trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.05, shards=2, sync_batch_norm=True, graph=graph)
        data = toy_run.images(16)
        trainer.fit(
            Loader(data, 4, normalization=toy_run.loader(data).normalization, device=device), epochs=2, progress=False
        )
        arrays = {name: np.array(gc.to_numpy(value)) for name, value in trainer.net.state_dict().items()}
        return arrays | {"losses": np.array([record["train_loss"] for record in trainer.history])}

    with standin.installed():
        assert toy_run.same_arrays(run(False), run(True))


def test_hooks_are_given_one_shard_at_a_time():
    hooked, seen = net(), []
    for name in ("norm1", "conv1"):
        hooked[name].register_forward_hook(lambda layer, x, y: seen.append((layer.name, len(x), len(y))))
        hooked[name].register_backward_hook(lambda layer, dx, dy: seen.append((layer.name, len(dy))))
    Trainer(hooked, "sgd", lr=0.01, sync_batch_norm=True, shards=2).step(IMAGES, LABELS)
    assert seen == [(name, n, n) for name in ("norm1", "conv1") for n in (5, 6)] + [
        (name, n) for name in ("conv1", "norm1") for n in (5, 6)
    ]


@dataclass(eq=False, repr=False)
class UserContainer(Layer):
    """A user's container."""

    row: Sequential

    def children(self):
        return [("row", self.row)]

    def plan(self, input_shape):
        return self.row.place(f"{self.path}.row", input_shape)

    def forward(self, x, training=False):
        return self.row.forward(x, training)

    def backward(self, dy, *, input_grad=True):
        return self.row.backward(dy, input_grad=input_grad)


def test_nets_and_options_that_cannot_be_synchronized_are_refused():
    with_container = Sequential(
        [Input((6, 5, 1)), UserContainer(Sequential([Conv2D(2, 1), BatchNorm()]), name="held"), Flatten(), Linear(3)]
    )
    with pytest.raises(
        ValueError, match=r"runs held.row.norm1 on all shards of a rank together, and your UserContainer held runs"
    ):
        Trainer(with_container, sync_batch_norm=True, shards=4)
    Trainer(with_container, sync_batch_norm=True, shards=1)
    with pytest.raises(ValueError, match="batch norm in one op with adjacent layers, without other ranks"):
        Trainer(net(), sync_batch_norm=True, fuse=True)
    fused = net_of_containers().fuse()
    with pytest.raises(ValueError, match="relu1, a ConvNorm of a fused net, computes batch norm without other"):
        Trainer(fused, sync_batch_norm=True, shards=4, precision="float16")
    assert fused.precision == "float32"
    with pytest.raises(TypeError, match="sync_batch_norm must be True or False, received 'all'"):
        Trainer(net(), sync_batch_norm="all")


def test_sync_batch_norm_is_among_the_settings_only_if_it_is_on():
    assert Trainer(net(), sync_batch_norm=True).settings()["sync_batch_norm"] is True
    assert "sync_batch_norm" not in Trainer(net()).settings()
