"""Recipes by name, and the recipe of airbench94 from the command line to the trained net, on small made-up images."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from gpuconv import checkpoint, losses, models, to_numpy
from gpuconv.cli import main, recipes, run_settings, shared_options
from gpuconv.data import Augmentation, Loader, Normalization, load
from gpuconv.layers import GELU, BatchNorm, Conv2D, Flatten, Input, Linear, MaxPool2D, Scale, Sequential
from gpuconv.training import Trainer

# The smallest images that the net takes.
SIZE = "25x25x3,classes=4"
AIRBENCH = ["--model", "airbench94", "--recipe", "airbench94"]


def test_without_a_named_recipe_a_net_has_its_own_or_else_the_default():
    assert recipes.get("digits-net", "cifar10")["epochs"] == 30
    # The recipe airbench94 is used only if it is named.
    for name, data in (("airbench94", "cifar10"), ("lenet", "digits")):
        assert recipes.get(name, data) == recipes.DEFAULT | {"model": name}
    assert recipes.DEFAULT["epochs"] == 10
    assert recipes.get(None, "digits") == recipes.get("digits-net", "digits")
    assert recipes.get("digits-net", "digits", "default") == recipes.DEFAULT | {"model": "digits-net"}


@pytest.mark.parametrize("spelled", [["--model", "digits_net"], ["--data", "Digits"], ["--model", "DIGITS-NET"]])
def test_names_in_another_spelling_give_the_same_settings(spelled):
    parser = argparse.ArgumentParser()
    shared_options.add_options(parser)
    chosen = run_settings.from_options(parser.parse_args(spelled))
    assert run_settings.with_recipe(chosen) == run_settings.with_recipe({})


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_can_be_read(name):
    recipe = run_settings.with_recipe({"data": "cifar10:somewhere"}, name)
    if name in models.MODELS:
        assert recipe.model == name


def test_a_learning_rate_inside_the_optimizer_option_is_used():
    def rate(**chosen):
        return run_settings.with_recipe(chosen).lr

    assert rate(optimizer="sgd:lr=0.3,momentum=0.9") == 0.3
    assert rate(optimizer="sgd:momentum=0.9") == recipes.DEFAULT["lr"]
    assert rate(optimizer="sgd:momentum=0.9", lr=0.2) == rate(optimizer="sgd:lr=0.2", lr=0.2) == 0.2
    groups = "filters -> muon:lr=0.02; * -> sgd:lr=0.05"
    assert rate(optimizer=groups) == 1.0  # lr is a factor on the groups' own rates
    assert rate(optimizer=groups, lr=0.5) == 0.5
    assert run_settings.with_recipe({"data": "cifar10:x"}, "airbench94").lr == 1.0


def test_an_unknown_recipe_names_the_nearest(capsys):
    assert main(["train", "--recipe", "airbench"]) == 2
    assert "did you mean 'airbench94'?" in capsys.readouterr().err


def test_airbench94_trains_on_cifar10_unless_other_data_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *AIRBENCH]) == 2
    assert "no CIFAR-10 in data" in capsys.readouterr().err
    assert run_settings.with_recipe({"data": "folder:photos"}, "airbench94").data == "folder:photos"


@pytest.mark.slow
def test_airbench94_trains_with_whitened_filters_and_is_evaluated_over_views(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--data", f"synthetic:n=6,size={SIZE}", "--batch-size", "3", "--epochs", "1", "--device", "numpy"]
    assert main(["train", *AIRBENCH, *options, "--run-dir", str(run)]) == 0
    output = capsys.readouterr().out
    assert "whitening filters from 5,000 images, tta mirror+shift" in output
    assert main(["evaluate", str(run)]) == 0  # averages over views, as the recipe says
    evaluated = capsys.readouterr().out
    assert "over 6 views of each image" in evaluated
    assert evaluated.splitlines()[-1] == output.splitlines()[-1]

    # Training left the first filters as `whiten` set them.
    train, _ = load(f"synthetic:n=6,size={SIZE}")
    net = models.airbench94((25, 25, 3), 4)
    models.whiten(net, Normalization.from_dataset(train)(train.images))
    stored = checkpoint.load(run / "last.safetensors").part("net")
    np.testing.assert_array_equal(stored["conv1.weight"], net.state_dict()["conv1.weight"])


def narrow_airbench94(dtype):
    """airbench94 with few filters: the same layers under the same names."""
    layers = [Input((25, 25, 3)), Conv2D(24, 2, frozen=("weight",)), GELU()]
    for filters in (4, 8, 8):
        for pool in ([MaxPool2D(2)], []):
            layers += [Conv2D(filters, 3, padding="same", bias=False, weight_init="dirac"), *pool]
            layers += [BatchNorm(momentum=0.4, eps=1e-12, frozen=("weight",)), GELU()]
    return Sequential([*layers, MaxPool2D(3), Flatten(), Linear(4, bias=False), Scale(1 / 9)], dtype=dtype)


def train_narrow_net(device, dtype, images, batch, epochs):
    """Trains by the recipe, but with few filters and small batches."""
    recipe = run_settings.with_recipe({"data": f"synthetic:n={images},size={SIZE}"}, "airbench94")
    train, _ = load(recipe.data)
    normalization, net = Normalization.from_dataset(train), narrow_airbench94(dtype)
    models.whiten(net, normalization(train.images, dtype))
    net.to(device)
    augmentation, loss = Augmentation.parse(recipe.augment), losses.get(recipe.loss)
    loader = Loader(
        train, batch, normalization=normalization, augmentation=augmentation, device=device, dtype=net.dtype
    )
    trainer = Trainer(net, recipe.optimizer, lr=recipe.lr, loss=loss, schedule=recipe.schedule)
    trainer.fit(loader, epochs=epochs, progress=False)
    return trainer


def test_the_narrow_net_has_the_parameters_of_airbench94():
    assert list(narrow_airbench94("float32").params()) == list(models.airbench94().params())


def test_the_loss_falls_with_the_recipe_of_airbench94():
    losses = [record["train_loss"] for record in train_narrow_net("numpy", "float32", 16, 8, epochs=8).history]
    assert losses[-1] < min(losses[:2]), losses


@pytest.mark.kernels
def test_the_emulated_device_gives_the_weights_and_losses_of_numpy():
    """The run has four steps in float64, and also trains the bias of the whitening layer. Later steps amplify the
    rounding errors of a step. The bound is therefore 10^4 eps m, where m is the larger of 1 and a tensor's
    largest magnitude."""
    one, other = (train_narrow_net(device, "float64", 8, 4, epochs=2) for device in ("numpy", "emulated"))
    for (name, expected), on_kernels in zip(one.net.state_dict().items(), other.net.state_dict().values(), strict=True):
        bound = 1e4 * np.finfo(np.float64).eps * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(to_numpy(on_kernels), expected, rtol=0, atol=bound, err_msg=name)
    np.testing.assert_allclose(
        [record["train_loss"] for record in other.history], [record["train_loss"] for record in one.history], rtol=1e-12
    )


def test_the_model_is_the_named_one_else_that_of_the_recipe_else_the_default_of_the_data():
    assert recipes.get(None, "digits")["model"] == "digits-net"
    assert recipes.get(None, "folder")["model"] == recipes.get(None, "cifar10")["model"] == "tiny-vgg"
    assert recipes.get(None, "digits", "airbench94")["model"] == "airbench94"
    assert recipes.get("lenet", "digits", "airbench94")["model"] == "lenet"
