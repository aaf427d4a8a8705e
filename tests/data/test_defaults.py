"""The defaults are those of a table, because other defaults would change the behavior of users' programs."""

from __future__ import annotations

from tests.defaults import IMMUTABLE_VALUE, IMMUTABLE_WITH_ARRAYS, dataclass_flags, expect_defaults

DEFAULTS = {
    "data.augment": {
        "Augmentation": dict(
            flip=False,
            shift=0,
            border="zero",
            cutout=0,
            resized_crop=0.0,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            mixup=0.0,
            cutmix=0.0,
        )
    },
    "data.cifar10": {"download": dict(progress=True)},
    "data.dataset": {"Dataset": dict(name="images", spec="", ignored=None), "Dataset.split": dict(seed=0, what="test")},
    "data.download": {"fetch_archive": dict(progress=True)},
    "data.folder": {
        "load": dict(size=None, channels=3, test=0.2, seed=0, split="name", stream=False),
        "load_all": dict(size=None, channels=3, stream=False),
        "whole": dict(size=None, channels=3, stream=False),
        "for_testing": dict(seed=0),
    },
    "data.loader": {
        "Loader": dict(augmentation=None, seed=0, device="numpy", dtype="float32", shuffle=True, drop_last=False),
        "Loader.epoch": dict(epoch=0, start_batch=0),
    },
    "data.from_spec": {"load": dict(test=""), "absolute_spec": dict(like="")},
    "data.samples": {
        "Samples": dict(labels=None, classes=(), workers=1, spec="", ignored=None),
        "Samples.split": dict(seed=0, what="test"),
    },
    "data.stream_loader": {
        "StreamLoader": dict(normalization=None, workers=None),
        "StreamLoader.epoch": dict(epoch=0, start_batch=0),
    },
    "data.synthetic": {"load": dict(n=1024, size=(32, 32, 3), classes=10, seed=0)},
    "data.user_batches": {"Batches.epoch": dict(epoch=0, start_batch=0)},
}


def test_defaults_are_those_of_the_table():
    expect_defaults(DEFAULTS)


def test_dataclasses_are_immutable():
    for name, flags in dataclass_flags(["data.augment:Augmentation"]):
        assert flags == IMMUTABLE_VALUE, name
    for name, flags in dataclass_flags(
        ["data.dataset:Dataset", "data.samples:Samples", "data.samples:ArraySamples", "data.samples:MapSamples"]
    ):
        assert flags == IMMUTABLE_WITH_ARRAYS, name
