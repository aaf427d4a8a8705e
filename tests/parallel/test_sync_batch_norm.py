"""Batch norm by the statistics of all ranks: what one process computes from the whole batch."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, ReLU, Sequential
from gpuconv.training import LossScale, Trainer
from tests import standin
from tests.parallel.test_nccl import on_ranks
from tests.training import small

DRAW = np.random.default_rng(0)
LABELS = np.arange(11) % 3
IMAGES = (100 + DRAW.normal(size=(11, 6, 5, 1)) * (1 + LABELS[:, None, None, None])).astype(np.float32)


def net(dtype="float32"):
    layers = [Input((6, 5, 1)), BatchNorm(), Conv2D(4, 3, padding=1), BatchNorm(momentum=0.3), ReLU(), Flatten()]
    return Sequential([*layers, Linear(8), BatchNorm(), Linear(3)], seed=0).to(precision=dtype)


def stepped(ranks=None, *, device="numpy", dtype="float32", sync=True, steps=2, freeze=False):
    """The net's state and gradients after some steps."""
    made = net(dtype).to(device)
    if freeze:
        made["norm2"].freeze()
    scale = LossScale(start=64.0) if dtype == "float16" else None
    trainer = Trainer(made, "sgd", lr=0.01, parallel=ranks, sync_batch_norm=sync, graph=False, loss_scale=scale)
    first, end = trainer.sharding.place(len(LABELS)) if trainer.sharding else (0, len(LABELS))
    x, y = (gc.asarray(each[first:end], device) for each in (IMAGES.astype(made.dtype), LABELS))
    for _ in range(steps):
        trainer.step(x, y, batch=len(LABELS) if ranks else None)
    arrays = made.state_dict() | {f"gradient of {name}": each for name, each in made.grads().items()}
    return {name: np.array(gc.to_numpy(each)) for name, each in arrays.items()}


def direct(messages):
    return messages


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("device", "dtype"), [("numpy", "float32"), ("numpy", "float64"), ("emulated", "float32")])
def test_ranks_match_one_process_with_the_whole_batch(device, dtype, size):
    """The images have a mean of 100 and a deviation of about 2, so a variance that cancels would show."""
    tolerance = 1e-9 if dtype == "float64" else 2e-3
    alone = stepped(device=device, dtype=dtype)
    everyone = on_ranks(size, lambda ranks: stepped(ranks, device=device, dtype=dtype), direct)
    for found in everyone:
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            np.testing.assert_allclose(found[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    assert small.same_arrays(everyone[0], everyone[-1])


def test_without_it_the_ranks_differ_from_one_process():
    alone, (found, _) = stepped(), on_ranks(2, lambda ranks: stepped(ranks, sync=False), direct)
    assert not np.allclose(found["norm1.running_var"], alone["norm1.running_var"], rtol=2e-3)


def direction(found):
    """The gradients, of length 1 together: float16's are times a loss scale."""
    gradients = [found[name].ravel().astype(np.float64) for name in sorted(found) if name.startswith("gradient")]
    return np.concatenate(gradients) / np.linalg.norm(np.concatenate(gradients))


def test_float16_is_about_as_far_from_float32_as_on_one_process():
    """Each input's gradient is rounded three times instead of once."""
    exact, alone = (direction(stepped(dtype=dtype, steps=1)) for dtype in ("float32", "float16"))
    for found in on_ranks(2, lambda ranks: stepped(ranks, dtype="float16", steps=1), direct):
        error = np.linalg.norm(direction(found) - exact)
        assert error <= 3 * np.linalg.norm(alone - exact)


def test_a_frozen_norm_keeps_its_weights():
    alone = stepped(freeze=True)
    for found in on_ranks(2, lambda ranks: stepped(ranks, freeze=True), direct):
        np.testing.assert_array_equal(found["norm2.weight"], 1)
        np.testing.assert_allclose(found["conv1.weight"], alone["conv1.weight"], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_on_gpus_the_statistics_are_exchanged_on_the_device(monkeypatch, schedule):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    alone = stepped()
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        everyone = on_ranks(2, lambda ranks: stepped(ranks, device=ranks.own("cuda")))
        calls = machine.nccl_worlds[0].calls
    for found in everyone:
        for name, expected in alone.items():
            np.testing.assert_allclose(found[name], expected, rtol=2e-3, atol=2e-3, err_msg=name)
    assert calls[0] == calls[1]
    norms = [call.words[0] for call in calls[0][: 2 * 3]]
    assert norms == [f"allReduce: {channels} float32" for channels in (1, 1, 4, 4, 8, 8)]


def test_refusals():
    with pytest.raises(
        ValueError, match="each with one shard at a time, received 4 shards on 1 ranks: choose shards=1"
    ):
        Trainer(net(), sync_batch_norm=True, shards=4)
    with pytest.raises(ValueError, match="fuse=True computes batch norm with its neighbours, without other ranks"):
        Trainer(net(), sync_batch_norm=True, fuse=True)
    with pytest.raises(TypeError, match="sync_batch_norm must be True or False, received 'all'"):
        Trainer(net(), sync_batch_norm="all")


def test_it_is_stored_and_compared():
    assert Trainer(net(), sync_batch_norm=True).settings()["sync_batch_norm"] is True
    assert "sync_batch_norm" not in Trainer(net()).settings()
