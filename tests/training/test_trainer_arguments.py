"""Arguments of Trainer and fit that are refused before anything is made."""

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.data import Dataset
from gpuconv.metrics import TopK
from gpuconv.training import SGD, DataError, Trainer
from gpuconv.training.schedules import Cosine
from tests import toy_run


def smaller_images():
    return toy_run.loader(Dataset(np.zeros((4, 3, 3, 1), np.uint8), np.arange(4) % 3, ["a", "b", "c"], "narrow"))


def more_classes():
    data = toy_run.images()
    return toy_run.loader(Dataset(data.images, data.labels + 1, ["other", *data.classes], "more"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs must be at least 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ({"metrics_every": 0}, ValueError, "metrics_every must be at least 1"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
        ({"train": smaller_images}, DataError, "train does not fit: the net takes .* 6 x 5 x 1 .* received 3 x 3 x 1"),
        ({"validation": smaller_images}, DataError, "validation does not fit: the net takes volumes"),
        ({"test": more_classes}, DataError, "test does not fit: the net has 3 classes, .* received 3 from"),
        ({"resume": True}, ValueError, "resume=True needs run_dir"),
        ({"validation": "digits"}, TypeError, r"validation must be \(images, labels\), .*; received str"),
        ({"train": toy_run.UserLoader, "validation": toy_run.images()}, TypeError, "give validation as a Loader too"),
        ({"test_at_end": "no"}, TypeError, "test_at_end must be True or False, received 'no'"),
        ({"resume": "no"}, TypeError, "resume must be True or False, received 'no'"),
        ({"progress": "no"}, TypeError, "progress must be True or False, received 'no'"),
        ({"steps_per_epoch": "no"}, TypeError, "steps_per_epoch must be an integer, received 'no'"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch must be at least 1, received 0"),
        ({"normalization": 3}, TypeError, r"normalization is a gpuconv.data.Normalization\(mean, std\).* received int"),
        ({"settings": [1]}, TypeError, "settings are a dictionary of JSON values by name, received list"),
        (
            {"settings": {"classes": 10, "note": 1}},
            ValueError,
            "a run stores classes, mean, std, input_shape itself, .*; give settings other names, received classes",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, options, error, message):
    trainer = toy_run.trainer()
    before = {key: value.copy() for key, value in trainer.net.state_dict().items()}
    options = {name: value() if callable(value) else value for name, value in options.items()}
    directory = {} if "resume" in options else {"run_dir": tmp_path / "run"}
    with pytest.raises(error, match=message):
        toy_run.fit(trainer, **directory, **options)
    assert trainer.steps == 0
    assert toy_run.same_arrays(trainer.net.state_dict(), before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fuse", "graph"])
def test_flags_of_a_trainer_must_be_true_or_false(name):
    with pytest.raises(TypeError, match=f"{name} must be True or False, received 'no'"):
        toy_run.trainer(**{name: "no"})


def test_a_number_as_a_loss_scale_is_refused():
    with pytest.raises(TypeError, match=r"loss_scale is a gpuconv.training.LossScale, received float"):
        toy_run.trainer(precision="float16", loss_scale=2.0)


def test_a_run_that_does_not_begin_keeps_the_normalization_and_the_classes(tmp_path):
    toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run")
    trainer = toy_run.trainer()
    with pytest.raises(FileExistsError, match="already holds a run"):
        toy_run.fit(trainer, run_dir=tmp_path / "run")
    assert trainer.net.normalization is None
    assert trainer.net.classes is None
    toy_run.fit(trainer, epochs=1)
    normalization, classes = trainer.net.normalization, trainer.net.classes
    assert normalization is not None
    assert classes is not None
    with pytest.raises(FileExistsError, match="already holds a run"):
        toy_run.fit(trainer, epochs=2, run_dir=tmp_path / "run")
    assert trainer.net.normalization is normalization
    assert trainer.net.classes == classes


def test_unknown_names_are_refused():
    for options in ({"optimizer": "adm"}, {"loss": "softmx"}, {"schedule": "cosin"}):
        with pytest.raises(ValueError, match="did you mean"):
            Trainer(toy_run.net(), **options)


def test_a_class_instead_of_an_instance_is_refused():
    for name, kind in (("loss", losses.SVMHinge), ("schedule", Cosine), ("optimizer", SGD), ("metrics", [TopK])):
        with pytest.raises(TypeError, match=r"received the class \w+; call it"):
            Trainer(toy_run.net(), **{name: kind})
