"""A whole recipe as an entry of the benchmark: gpuconv and PyTorch train the same net with the same learning rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import recipe_steps, suite
from bench.runner import time_entry
from gpuconv import interop, models
from gpuconv.layers import GELU, BatchNorm, Conv2D, Flatten, Input, Linear, MaxPool2D, Scale, Sequential
from gpuconv.profiling.timer import CpuTimer
from tests.bench import fake_sides

pytestmark = pytest.mark.slow  # both sides are timed


@pytest.fixture
def recipe(monkeypatch):
    """The recipe airbench94 for a net with fewer and smaller layers of the same names."""

    def build(input_shape=None, classes=None, **options):
        return Sequential(
            [
                Input((9, 9, 3)),
                Conv2D(24, 2, frozen=("weight",)),
                GELU(),
                Conv2D(5, 3, padding="same", bias=False, weight_init="dirac"),
                MaxPool2D(2),
                BatchNorm(momentum=0.4, eps=1e-12, frozen=("weight",)),
                GELU(),
                Flatten(),
                Linear(10, bias=False),
                Scale(1 / 9),
            ],
            **options,
        )

    monkeypatch.setitem(models.MODELS, "small-airbench94", build)
    entry = suite.Entry("step", "recipe", "tiny", "float32", ("small-airbench94", 6), fake_sides.entry().work)
    return recipe_steps.Recipe(entry, steps=16)


def test_the_suite_has_a_whole_recipe():
    entry = next(entry for entry in suite.suite("steps") if entry.key == "recipe airbench94-n2000 bfloat16")
    step = next(entry for entry in suite.suite("steps") if entry.key == "step airbench94-n2000 bfloat16")
    assert entry.work.flops == 200 * step.work.flops
    recipe = recipe_steps.Recipe(entry)
    assert recipe.settings.epochs * recipe.settings.batch_size * 25 == 200 * 2000
    assert recipe.loss.label_smoothing == 0.2


@pytest.mark.parametrize(("dtype", "largest_error"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_both_sides_train_a_whole_recipe_within_rounding(recipe, monkeypatch, dtype, largest_error):
    pytest.importorskip("torch")
    recipe = replace(recipe, entry=replace(recipe.entry, dtype=dtype))
    monkeypatch.setattr(recipe_steps, "Recipe", lambda entry: recipe)
    row = time_entry(recipe.entry, "numpy", CpuTimer(), fake_sides.CEILINGS, False, 2, 0.0)
    assert {side["name"]: side["status"] for side in row["sides"]} == {
        "gpuconv": "timed",
        "channels_last": "timed",
        "compile": "left out",
        "graph": "absent",
        "compile graph": "absent",
    }, row
    assert all(side["error"] < largest_error for side in row["sides"] if side["status"] == "timed")


def test_pytorch_takes_the_steps_of_the_recipe(recipe):
    """The weights agree at the end of a run, in the course of which the recipe freezes the bias of the first layer."""
    pytest.importorskip("torch")
    from bench.peers.pytorch_recipe import Training, checked_batch

    trainer = recipe.trainer("numpy", "float32")
    trainer.fit(recipe.loader(trainer, recipe.checked_data, 6, shuffle=False), epochs=5, progress=False)
    peer = Training(recipe, "numpy", trainer.steps, len(recipe.checked_data) // 6)
    x, y = checked_batch(recipe, "numpy", peer.dtype)
    for step, rates in enumerate(peer.rates):
        peer.lr.copy_(rates)
        part = slice(step % 2 * 6, step % 2 * 6 + 6)
        peer.step(x[part], y[part])
    for name, value in interop.from_torch(peer.net.state_dict(), trainer.net).items():
        np.testing.assert_allclose(value, trainer.net.state_dict()[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_pytorch_augments_as_the_recipe_says(recipe):
    """Each image appears once per epoch, shifted by up to two pixels. An image is flipped in every second epoch."""
    torch = pytest.importorskip("torch")
    from bench.peers.pytorch_recipe import Images

    images = Images(recipe, recipe.data, "numpy", torch.float32)
    flipped = images.flipped.clone()
    order = images.shuffle()
    assert sorted(order.tolist()) == list(range(len(recipe.data)))
    assert (images.flipped ^ flipped).all()
    x, y = images.batch(order, 0)
    plain = recipe.normalization(recipe.data.images)
    for n, index in enumerate(order[: images.size].tolist()):
        assert y[n] == recipe.data.labels[index]
        bordered = np.pad(plain[index], ((2, 2), (2, 2), (0, 0)), "reflect")
        column_step = -1 if images.flipped[index] else 1
        views = [bordered[r : r + 9, c : c + 9][:, ::column_step] for r in range(5) for c in range(5)]
        assert any(np.array_equal(x[n].permute(1, 2, 0), view) for view in views)
