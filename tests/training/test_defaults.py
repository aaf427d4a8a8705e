"""Defaults are pinned in a table, because a changed default would change the behavior of users' programs."""

from __future__ import annotations

import pytest

from gpuconv.training import LossScale, optimizers
from tests.defaults import IMMUTABLE_VALUE, dataclass_flags, expect_defaults

DEFAULTS = {
    "training.callbacks": {"Curves": dict(seconds=30.0), "Checkpoints": dict(every=None)},
    "training.evaluate": {
        "evaluate": dict(
            loss="softmax", confusion=False, tta="none", batch_size=256, normalization=None, metrics=(), ranks=None
        )
    },
    "training.lr_find": {
        "lr_find": dict(
            optimizer="sgd",
            start=1e-6,
            end=10.0,
            steps=100,
            loss="softmax",
            seed=0,
            precision=None,
            clip=None,
            batch_size=64,
            normalization=None,
        )
    },
    "training.tensor_digests": {"Digests": dict(path=None, every=1)},
    "training.tensorboard": {"TensorBoard": dict(path=None, image=None, truth=None)},
    "training.trained_net": {
        "load": dict(which="last", device="numpy", precision=None),
        "load_weights": dict(which="last"),
    },
    "training.tta": {"averaged_scores": dict(tta="none")},
    "training.optimizers.groups": {"Groups": dict(lr=1.0, weight_decay=0.0, decay="all", groups="")},
    "training.loss_scale": {"LossScale": dict(start=65536.0, growth=2.0, backoff=0.5, interval=2000)},
    "training.optimizers": {
        "SGD": dict(lr=0.01, weight_decay=0.0, decay="all", momentum=0.0, nesterov=False),
        "Adagrad": dict(lr=0.01, weight_decay=0.0, decay="all", eps=1e-10),
        "RMSprop": dict(lr=0.01, weight_decay=0.0, decay="all", alpha=0.99, eps=1e-8),
        "Adam": dict(lr=0.001, weight_decay=0.0, decay="all", beta1=0.9, beta2=0.999, eps=1e-8),
        "AdamW": dict(lr=0.001, weight_decay=0.01, decay="all", beta1=0.9, beta2=0.999, eps=1e-8),
        "Lion": dict(lr=0.0001, weight_decay=0.0, decay="all", beta1=0.9, beta2=0.99),
        "Muon": dict(
            lr=0.02,
            weight_decay=0.0,
            decay="all",
            momentum=0.95,
            nesterov=True,
            newton_schulz=5,
            matmul_precision="auto",
            tf32=None,
        ),
    },
    "training.plateau": {"Plateau": dict(patience=10, factor=0.1, threshold=1e-4, watch="validation_loss")},
    "training.rundir": {"RunDirectory.held": dict(resume=False)},
    "training.schedules": {
        "Step": dict(gamma=0.1),
        "MultiStep": dict(gamma=0.1),
        "Polynomial": dict(power=1.0, final=0.0),
        "Linear": dict(length=None),
        "Cosine": dict(final=0.0),
        "OneCycle": dict(peak=0.3, start=0.04, final=4e-6),
    },
    "training.trainer": {
        "Trainer": dict(
            optimizer="sgd",
            loss="softmax",
            schedule=None,
            plateau=None,
            clip=None,
            ema=None,
            accumulate=1,
            seed=0,
            precision=None,
            loss_scale=None,
            graph=None,
            fuse=None,
            metrics=(),
            shadow=None,
            violation="stop",
            shards=None,
            parallel=None,
            sync_batch_norm=False,
            shard_optimizer=False,
        ),
        "Trainer.fit": dict(
            validation=None,
            test=None,
            callbacks=(),
            run_dir=None,
            resume=False,
            metrics_every=50,
            checkpoint_every=None,
            batch_size=64,
            settings=None,
            progress=True,
            test_at_end=None,
            steps_per_epoch=None,
            normalization=None,
        ),
    },
}


def test_defaults_are_those_of_the_table():
    expect_defaults(DEFAULTS)


def test_schedules_and_settings_are_immutable_and_optimizers_compare_by_identity():
    kinds = ("Constant", "Step", "MultiStep", "Exponential", "Polynomial", "Linear", "Cosine", "OneCycle", "Warmup")
    schedules = [f"training.schedules:{name}" for name in kinds]
    for name, flags in dataclass_flags(
        [
            *schedules,
            "training.clip:Clip",
            "training.plateau:Plateau",
            "training.evaluate:Evaluation",
            "training.run_schemas:Kind",
        ]
    ):
        assert flags == IMMUTABLE_VALUE, name
    for kind in (*optimizers.OPTIMIZERS.values(), LossScale):
        assert not kind.__dataclass_params__.eq, kind
        assert kind.__hash__ is object.__hash__, kind


def test_settings_of_optimizers_and_loss_scales_are_keyword_only():
    for kind in (*optimizers.OPTIMIZERS.values(), LossScale):
        with pytest.raises(TypeError, match="positional"):
            kind(0.1)
