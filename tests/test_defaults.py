"""What is left out has the documented value: another default would change what people's programs do."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math

import pytest

import gpuconv
from gpuconv.layers.base import LAYERS

DEFAULTS = {
    "data.augment": {"Augmentation": dict(flip=False, shift=0, border="zero", cutout=0)},
    "data.cifar10": {"download": dict(progress=True)},
    "data.dataset": {"Dataset": dict(name="images"), "Dataset.split": dict(seed=0)},
    "data.download": {"fetch_archive": dict(progress=True)},
    "data.folder": {
        "load": dict(size=None, channels=3, test=0.2, seed=0, split="name"), "whole": dict(size=None, channels=3),
        "for_testing": dict(seed=0),
    },
    "data.image": {"read_image": dict(size=None, channels=3), "Picture.array": dict(size=None, channels=3)},
    "data.loader": {
        "Loader": dict(
            augmentation=None, seed=0, device="numpy", dtype="float32", shuffle=True, drop_last=False
        ),
        "Loader.epoch": dict(epoch=0, start_batch=0),
    },
    "data.normalization": {"Normalization.from_dataset": dict(kind="channel")},
    "data.spec": {"load": dict(test=""), "placed": dict(like="")},
    "data.synthetic": {"load": dict(n=1024, size=(32, 32, 3), classes=10, seed=0)},
    "layers.base": {
        "Variable": dict(buffer=False, frozen=False, dtype="net"), "Layer": dict(name=None, frozen=()),
        "Layer.build": dict(seed=0, dtype=None, device=None, initialize=True, precision=None),
        "Layer.reset": dict(seed=0, dtype=None, device="numpy", precision=None), "weight_and_bias": dict(groups=1),
        "Layer.to": dict(device=None, dtype=None, precision=None),
    },
    "layers.container": {
        "Input": dict(larger=False), "Residual": dict(shortcut=None),
        "Sequential": dict(seed=0, dtype=None, device=None, initialize=True, precision=None, share=False),
        "Sequential.reset": dict(seed=0, dtype=None, device="numpy", precision=None),
        "Sequential.predict": dict(batch_size=256, softmax=False),
    },
    "layers.conv": {
        "Conv2D": dict(
            stride=1, padding=0, dilation=1, groups=1, bias=True, fit="floor", algo="auto", weight_init="he_normal",
            bias_init="zeros",
        ),
    },
    "layers.linear": {"Linear": dict(bias=True, algo="auto", weight_init="he_normal", bias_init="zeros")},
    "layers.norm": {"BatchNorm": dict(momentum=0.1, eps=1e-5)},
    "layers.pool": {
        "MaxPool2D": dict(stride=None, padding=0, fit="floor"),
        "AvgPool2D": dict(stride=None, padding=0, fit="floor", count_include_pad=True),
    },
    "layers.activation": {"LeakyReLU": dict(negative_slope=0.01), "GELU": dict(approximate="none")},
    "layers.dropout": {"Dropout": dict(p=0.5)},
    "training.callbacks": {"Curves": dict(seconds=30.0), "Checkpoints": dict(every=None)},
    "training.evaluate": {
        "evaluate": dict(loss="softmax", confusion=False, tta="none"), "averaged_scores": dict(tta="none"),
    },
    "training.groups": {"Groups": dict(lr=1.0, weight_decay=0.0, decay="all", groups="")},
    "training.loss_scale": {"LossScale": dict(start=65536.0, growth=2.0, backoff=0.5, interval=2000)},
    "training.optimizers": {
        "SGD": dict(lr=0.01, weight_decay=0.0, decay="all", momentum=0.0, nesterov=False),
        "Adagrad": dict(lr=0.01, weight_decay=0.0, decay="all", eps=1e-10),
        "RMSprop": dict(lr=0.01, weight_decay=0.0, decay="all", alpha=0.99, eps=1e-8),
        "Adam": dict(lr=0.001, weight_decay=0.0, decay="all", beta1=0.9, beta2=0.999, eps=1e-8),
        "AdamW": dict(lr=0.001, weight_decay=0.01, decay="all", beta1=0.9, beta2=0.999, eps=1e-8),
        "Muon": dict(lr=0.02, weight_decay=0.0, decay="all", momentum=0.95, nesterov=True, newton_schulz=5),
    },
    "training.rundir": {"RunDirectory.held": dict(resume=False)},
    "training.schedules": {
        "Step": dict(gamma=0.1), "MultiStep": dict(gamma=0.1), "Linear": dict(length=None), "Cosine": dict(final=0.0),
        "OneCycle": dict(peak=0.3, start=0.04, final=4e-6),
    },
    "training.trainer": {
        "Trainer": dict(
            optimizer="sgd", loss="softmax", schedule=None, seed=0, precision=None, loss_scale=None, graph=None,
            fuse=None,
        ),
        "Trainer.fit": dict(
            validation=None, test=None, callbacks=(), run_dir=None, resume=False, metrics_every=50,
            checkpoint_every=None, batch_size=64, settings=None, progress=True,
        ),
    },
    "losses": {"SoftmaxCrossEntropy": dict(label_smoothing=0.0), "SVMHinge": dict(delta=1.0)},
    "initializers": {
        "constant": dict(value=0.0), "he_normal": dict(fan="in", gain=math.sqrt(2)),
        "he_uniform": dict(fan="in", gain=math.sqrt(2)), "xavier_normal": dict(gain=1.0),
        "xavier_uniform": dict(gain=1.0),
    },
    "checks": {
        "gradient_check": dict(training=True, samples=64, tolerance=1e-5, step=1e-6, seed=0),
        "sanity": dict(loss="softmax", optimizer=None, overfit_steps=300), "first_loss": dict(loss="softmax"),
        "regularisation": dict(loss="softmax", weight_decay=0.01),
        "overfits": dict(loss="softmax", steps=300, lr=0.001), "update_ratio": dict(loss="softmax", optimizer=None),
    },
    "summary": {"summary": dict(batch_size=128, device=None), "rows": dict(batch_size=128, device=None)},
    "interop": {"to_torch": dict(tensors=False)},
    "models": {"whiten": dict(eps=5e-4)},
}  # fmt: skip


def defaults(function):
    return {name: entry.default for name, entry in inspect.signature(function).parameters.items()}


def test_every_default_is_the_documented_one():
    for module, functions in DEFAULTS.items():
        for name, expected in functions.items():
            found = importlib.import_module(f"gpuconv.{module}")
            for part in name.split("."):
                found = getattr(found, part)
            there = defaults(found)
            assert {key: there.get(key, "gone") for key in expected} == expected, name


def test_every_layer_runs_untrained_and_gives_its_input_s_gradient_by_default():
    for name, kind in LAYERS.items():
        if kind.__module__.startswith("gpuconv."):
            assert defaults(kind.forward)["training"] is False, name
            assert defaults(kind.backward)["input_grad"] is True, name
            assert (defaults(kind)["name"], defaults(kind)["frozen"]) == (None, ()), name


# --- records --------------------------------------------------------------------------------------

VALUES = {
    "cli.settings": ["Settings"], "data.augment": ["Augmentation"], "layers.base": ["Variable"],
    "training.evaluate": ["Evaluation"], "training.stored": ["Kind"], "checks": ["GradientCheck", "SanityCheck"],
    "losses": ["SoftmaxCrossEntropy", "SVMHinge"], "summary": ["Row"], "data.image": ["Picture"],
    "training.schedules": ["Constant", "Step", "MultiStep", "Linear", "Cosine", "OneCycle", "Warmup"],
}  # fmt: skip
WITH_ARRAYS = {"data.dataset": ["Dataset"], "data.normalization": ["Normalization"]}


def flags(names):
    for module, kinds in names.items():
        for name in kinds:
            kind = getattr(importlib.import_module(f"gpuconv.{module}"), name)
            yield name, kind.__dataclass_params__.frozen, kind.__dataclass_params__.eq, kind.__hash__ is not None


def test_a_record_is_fixed_and_equal_by_its_parts():
    """But where it holds arrays, of which == is no truth. Layers and optimizers change, and are themselves alone."""
    for name, *found in flags(VALUES):
        assert found == [True, True, True], name
    for name, *found in flags(WITH_ARRAYS):
        assert found == [True, False, True], name
    from gpuconv.training import LossScale, optimizers

    for kind in (*LAYERS.values(), *optimizers.OPTIMIZERS.values(), LossScale):
        if dataclasses.is_dataclass(kind):
            assert not kind.__dataclass_params__.eq, kind
            assert kind.__hash__ is object.__hash__, kind


def test_settings_of_optimizers_are_given_by_name():
    from gpuconv.training import LossScale, optimizers

    for kind in (*optimizers.OPTIMIZERS.values(), LossScale):
        with pytest.raises(TypeError, match="positional"):
            kind(0.1)
    for kind in (gpuconv.layers.BatchNorm, gpuconv.layers.LeakyReLU, gpuconv.layers.GELU):
        with pytest.raises(TypeError, match="positional"):
            kind("a name")


def test_what_a_class_must_define_says_so():
    """Else it would give None, which fails somewhere else."""
    from gpuconv.data import Samples
    from gpuconv.layers import Layer
    from gpuconv.layers.fused import Fused
    from gpuconv.training import Optimizer, callbacks, schedules

    class Own(Optimizer):
        name = "own"

    samples = Samples(name="own", image_shape=(1, 1, 1), dtype="uint8")
    for call in (
        lambda: Layer().forward(0), lambda: Layer().backward(0), lambda: Fused.fits([]),
        lambda: schedules.Schedule()(0, 1),
        lambda: len(samples), lambda: samples.read([0]), lambda: callbacks.Log("x").lines({}, True),
        lambda: Own(lr=1)._launch([], [], masters=None, scaling=None),
    ):  # fmt: skip
        with pytest.raises(NotImplementedError):
            call()
