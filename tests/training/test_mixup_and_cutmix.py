"""Training with mixup and cutmix."""

import numpy as np
import pytest

from gpuconv import losses, to_numpy
from gpuconv.cli import main
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, digits
from gpuconv.layers import Flatten, Input, Linear, Sequential
from gpuconv.training import Trainer, evaluate
from gpuconv.training.data_checks import DataError
from tests import toy_run

MIXUP, CUTMIX = Augmentation(mixup=0.2), Augmentation(cutmix=1)


def loader(data=None, augmentation=MIXUP, batch_size=5, **options):
    data = data or toy_run.images()
    normalization = Normalization.from_dataset(data)
    return Loader(data, batch_size, normalization=normalization, augmentation=augmentation, seed=3, **options)


@pytest.mark.parametrize("augmentation", [MIXUP, CUTMIX])
def test_digits_are_learned_from_mixed_images(augmentation):
    train, test = digits.load()
    net = Sequential([Input((8, 8, 1)), Flatten(), Linear(10)], seed=1)
    trainer = Trainer(net, "adam", lr=0.01)
    mixed = loader(train, augmentation, batch_size=100)
    trainer.fit(mixed, epochs=4, validation=mixed.over(test, augmentation=None), progress=False)
    assert trainer.history[-1]["validation_accuracy"] > 0.7
    # Mixed targets have an entropy, below which the loss cannot fall.
    assert trainer.history[-1]["train_loss"] > 1.1 * trainer.history[-1]["validation_loss"]


def test_a_resumed_run_has_the_same_bits(tmp_path):
    options = dict(epochs=2, progress=False)
    uninterrupted, stopped, resumed = (toy_run.trainer() for _ in range(3))
    uninterrupted.fit(loader(), **options)
    stopped.fit(loader(), run_dir=tmp_path / "run", checkpoint_every=2, callbacks=[toy_run.StopAt(7)], **options)
    resumed.fit(loader(), run_dir=tmp_path / "run", checkpoint_every=2, resume=True, **options)
    assert (stopped.steps, resumed.steps) == (7, 10)
    assert toy_run.same_arrays(toy_run.weights(resumed), toy_run.weights(uninterrupted))


def user_loss(scores, labels):
    return losses.SoftmaxCrossEntropy()(scores, labels)


def test_a_user_defined_loss_trains_on_mixed_batches():
    user_defined, built_in = (Trainer(toy_run.net(), "sgd", lr=0.1, loss=loss) for loss in (user_loss, "softmax"))
    for trainer in (user_defined, built_in):
        trainer.fit(loader(), epochs=1, progress=False)
    assert toy_run.same_arrays(toy_run.weights(user_defined), toy_run.weights(built_in))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "svm"}, r"mixup turns labels into probabilities, which SVMHinge\(delta=1.0\) does not take"),
        ({"loss": losses.SoftmaxCrossEntropy(ignore_index=1)}, "softmax without ignore_index, or make"),
    ],
    ids=["svm", "ignore_index"],
)
def test_losses_that_take_no_probabilities_are_refused_before_training(options, message, tmp_path):
    trainer = Trainer(toy_run.net(), "sgd", lr=0.1, **options)
    with pytest.raises(DataError, match=message):
        trainer.fit(loader(), epochs=1, progress=False, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("augmentation", [MIXUP, CUTMIX])
@pytest.mark.parametrize("options", [{"shards": 2}, {"accumulate": 2}, {"shards": 2, "accumulate": 2}])
def test_mixed_batches_may_be_sharded_and_accumulated(augmentation, options):
    """A loader and a list of the same mixed batches give the same bits, and the devices agree up to rounding."""
    weights = {}
    batches = [*loader(augmentation=augmentation, drop_last=True).epoch(0)]
    for name, device, train in (
        ("loader", "numpy", loader(augmentation=augmentation, drop_last=True)),
        ("batches", "numpy", batches),
        ("emulated", "emulated", loader(augmentation=augmentation, drop_last=True, device="emulated")),
    ):
        trainer = Trainer(toy_run.net_without_norm(device), "sgd", lr=0.1, **options)
        trainer.fit(train, epochs=1, progress=False)
        weights[name] = {key: to_numpy(value) for key, value in trainer.net.params().items()}
    assert toy_run.same_arrays(weights["loader"], weights["batches"])
    for name, value in weights["loader"].items():
        np.testing.assert_allclose(weights["emulated"][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_loss_with_float_targets_is_refused_if_labels_would_be_mixed():
    with pytest.raises(DataError, match="MeanSquaredError"):
        Trainer(toy_run.net(), "sgd", lr=0.1, loss="mse").fit(loader(), epochs=1, progress=False)


def test_held_out_images_are_not_mixed():
    trainer = Trainer(toy_run.net(), "sgd", lr=0.1)
    with pytest.raises(DataError, match="validation would be mixed by cutmix, which is for training"):
        trainer.fit(loader(), epochs=1, validation=loader(augmentation=CUTMIX), progress=False)
    with pytest.raises(DataError, match="data would be mixed by mixup"):
        evaluate(toy_run.net(), loader())
    trainer.fit(loader(), epochs=1, validation=0.3, progress=False)


def test_a_net_with_another_number_of_classes_is_refused():
    data = toy_run.images()
    four_classes = Dataset(data.images, data.labels, [*data.classes, "never"], "lines")
    with pytest.raises(DataError, match=r"each of the 4 classes of 'lines', and the net's scores have shape \(3,\)"):
        Trainer(toy_run.net(), "sgd", lr=0.1).fit(loader(four_classes), epochs=1, progress=False)


def test_the_command_line_trains_with_mixup_and_refuses_what_does_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["train", "--data", "digits", "--model", "seed-net", "--device", "numpy", "--epochs", "1"]
    command = [*run, "--batch-size", "500", "--run-dir", "run"]
    for options, message in {
        ("--augment", "mixup:0.2,cutmix:1"): "a batch is mixed by mixup or by cutmix, received both",
        ("--augment", "mixup:0.2", "--loss", "svm"): "mixup turns labels into probabilities",
    }.items():
        assert main([*command, *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.strip().count("\n") == 0
        assert not (tmp_path / "run").exists()
    assert main([*command, "--augment", "mixup:0.2"]) == 0
    assert main(["evaluate", "run", "--device", "numpy"]) == 0
