"""Data that `fit` and `evaluate` refuse before or during training, what the errors say, and similar data that
are accepted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import models
from gpuconv.data import synthetic
from gpuconv.data.expect import expect_finite
from gpuconv.dtypes import as_dtype
from gpuconv.layers import BatchNorm, Flatten, Input, Linear, Sequential
from gpuconv.training import DataError, DivergedError, Trainer, evaluate
from tests import toy_run
from tests.training.fit_data import DATA, FLOATS, fit


def test_the_error_for_unusable_data_says_what_is_accepted(tmp_path):
    images, labels = DATA.images, DATA.labels
    rgb = Sequential([Input((4, 5, 3)), Flatten(), Linear(3)])
    channels_first = np.zeros((6, 3, 4, 5), np.float32)

    def no_batch():
        return iter([])

    for train, error, message, options in (
        ("digits", TypeError, r"train must be \(images, labels\), .* a PyTorch DataLoader, .*; received str", {}),
        (7, TypeError, "received int", {}),
        (None, TypeError, "received NoneType", {}),
        (images, TypeError, "received ndarray", {}),
        ({"images": images}, TypeError, "received dict", {}),
        ((DATA, DATA), TypeError, "must be one data set, received two", {}),
        ([1, 2], TypeError, r"train\[0\] must be \(image, label\), received int", {}),
        ([], ValueError, "train is empty", {}),
        ((images.astype(np.int32), labels), TypeError, "must be uint8 .* or floats.*received int32", {}),
        ((images, labels.astype(float)), TypeError, "must be integers.*received float64", {}),
        ((images, labels[:5]), ValueError, r"one for each of 22 images, received shape \(5,\)", {}),
        ((images, np.eye(3)[labels].astype(int)), ValueError, r"argmax\(1\) converts one-hot rows; targets", {}),
        ((images, DATA.images > 9), ValueError, r"targets for each score are floats: x.astype\('float32'\)", {}),
        ((images, np.eye(3)[labels[:5]]), ValueError, r"a row for each of 22 images, received shape \(5, 3\)", {}),
        ((images, np.eye(4)[labels]), DataError, r"floats of shape \(N, 3\), received labels of float64", {}),
        ("digits", TypeError, r"gpuconv.data.load\('digits'\) reads a data set by name", {}),
        ((images, labels - 1), ValueError, "must be 0 or more, received -1", {}),
        ((images, labels + 3), DataError, "labels 0 to 2, received 5", {}),
        ((FLOATS[:, :4], labels), DataError, "takes volumes of 6 x 5 x 1", {}),
        (
            (channels_first, [0] * 6),
            ValueError,
            r"channels last.*received shape \(6, 3, 4, 5\); x.transpose\(0, 2, 3, 1\)",
            {"net": rgb},
        ),
        ([(image, 0) for image in channels_first], ValueError, r"x.transpose\(1, 2, 0\) moves them", {"net": rgb}),
        (iter([(FLOATS, labels)]), ValueError, r"is unknown; give fit\(..., steps_per_epoch=100\)", {}),
        (no_batch, ValueError, "train has no batch: the function gave none", {}),
        (
            iter([(FLOATS, labels, labels)]),
            TypeError,
            r"must be \(images, labels\), received 3 parts",
            {"steps_per_epoch": 1},
        ),
        (
            iter([(FLOATS[0], labels[:1])]),
            ValueError,
            r"images of shape \(N, 6, 5, 1\), received \(6, 5, 1\)",
            {"steps_per_epoch": 1},
        ),
        ((FLOATS, labels), TypeError, "uint8 images of validation is unknown", {"validation": DATA}),
    ):
        with pytest.raises(error, match=message):
            fit(train, run_dir=tmp_path / "run", **options)
        assert not [*tmp_path.iterdir()]


def test_nonfinite_images_are_named_before_training(tmp_path):
    for dtype, number, value in (("float32", 17, np.nan), ("float16", 0, np.inf), (as_dtype("bfloat16"), 21, -np.inf)):
        wrong = FLOATS.astype(dtype)
        wrong[number, 2, 3, 0] = value
        wrong_pair = (wrong, DATA.labels)
        with pytest.raises(ValueError, match=f"images of 'train' must be finite: image {number} holds NaN or infinity"):
            fit(wrong_pair, run_dir=tmp_path / "run")
        with pytest.raises(ValueError, match=f"'validation' must be finite: image {number} "):
            fit((FLOATS, DATA.labels), validation=wrong_pair)
        with pytest.raises(ValueError, match=f"'data' must be finite: image {number} "):
            evaluate(toy_run.net(), wrong_pair)
        assert not [*tmp_path.iterdir()]
        batches = [(wrong[number:], DATA.labels[number:])]
        with pytest.raises(ValueError, match="images of 'the first batch of train' must be finite: image 0 "):
            fit(iter(batches), steps_per_epoch=1)
        with pytest.raises(ValueError, match="must be finite: image 0 "):
            fit([*zip(wrong[number:], DATA.labels[number:])])


def test_evaluate_refuses_a_label_that_is_no_class_before_it_runs_the_net():
    net, labels = toy_run.net(), DATA.labels.copy()
    labels[-1] = 99
    handle = net.register_forward_hook(lambda *_: pytest.fail("the net ran"))
    with handle, pytest.raises(DataError, match=r"data does not fit: the net has 3 classes, .* received 99"):
        evaluate(net, (DATA.images, labels), normalization=gc.data.Normalization.measured(DATA.images))


def test_the_first_nonfinite_image_is_named_wherever_it_is():
    images = np.ones((200, 2, 3, 1), np.float32)
    expect_finite(images, "many")
    images[150:, 1, 2] = np.nan
    with pytest.raises(ValueError, match="image 150 holds"):
        expect_finite(images, "many")


def test_nonfinite_images_first_read_in_training_make_the_loss_nonfinite_and_the_error_mentions_them(tmp_path):
    """Before training, `fit` checks no image of a memory-mapped file, and only the first image of a list of samples."""
    wrong = FLOATS.copy()
    wrong[20] = np.nan
    np.save(tmp_path / "images.npy", wrong)
    for train in ((np.load(tmp_path / "images.npy", mmap_mode="r"), DATA.labels), [*zip(wrong, DATA.labels)]):
        with pytest.raises(DivergedError, match=r"not finite at step .* or images without NaN"):
            fit(train)


def test_the_error_for_a_validation_generator_suggests_a_function():
    batches = [(FLOATS, DATA.labels)]
    with pytest.raises(
        ValueError,
        match=r"validation is a list_iterator, which gives each batch once.* give the function that makes it",
    ):
        fit(DATA, validation=iter(batches))
    assert len(fit(DATA, validation=lambda: iter(batches)).history) == 2


def test_unnormalized_floats_are_refused_for_a_net_trained_on_normalized_images():
    """Such images would give the accuracy of guessing instead of an error."""
    other = toy_run.images(9, seed=5)
    for floats in (other.images / 255.0, other.images.astype(np.float32)):
        for form in ((floats, other.labels), [*zip(floats, other.labels)], [(floats, other.labels)]):
            with pytest.raises(ValueError, match=r"floats of validation, from \d.* do not look normalized"):
                fit(DATA, validation=form)
            trained = fit(DATA)
            with pytest.raises(ValueError, match=r"floats of data, from \d.* do not look normalized"):
                evaluate(trained.net, form)
            # A net trained on floats has no normalization, so the same validation data are accepted.
            assert len(fit((DATA.images / 255.0, DATA.labels), validation=form).history) == 2


def test_floats_never_drop_the_normalization_of_a_net_silently():
    train, _ = gc.data.load("digits")
    trained = gc.models.build("seed-net", (8, 8, 1))
    gc.Trainer(trained).fit(train, epochs=1, progress=False)
    known = trained.normalization
    labels = train.labels[:64] % 3

    def net_with_a_new_head():
        net = gc.Sequential([*trained[:-1], gc.layers.Linear(3)])
        net.normalization = known
        return net

    for floats in (train.images[:64] / np.float32(255), train.images[:64].astype(np.float64)):
        for data in (
            (floats, labels),
            [*zip(floats, labels)],
            [(floats, labels)],
            lambda floats=floats: iter([(floats, labels)]),
        ):
            net = net_with_a_new_head()
            before = {name: array.copy() for name, array in net.state_dict().items()}
            with pytest.raises(ValueError, match="do not look normalized, although the net's images are"):
                gc.Trainer(net).fit(data, epochs=1, steps_per_epoch=1, progress=False)
            assert net.normalization is known
            assert all((net.state_dict()[name] == array).all() for name, array in before.items())
    net = net_with_a_new_head()
    gc.Trainer(net).fit((known(train.images[:64]), labels), epochs=1, progress=False)
    assert net.normalization is known
    net = net_with_a_new_head()
    net.normalization = None
    gc.Trainer(net).fit((train.images[:64] / np.float32(255), labels), epochs=1, progress=False)
    assert net.normalization is None


def test_a_generator_of_data_that_every_epoch_reads_is_refused_before_training():
    train, _ = gc.data.load("digits")
    batch = (train.images[:32], train.labels[:32])
    for part in ("validation", "test"):
        net = gc.models.build("seed-net", (8, 8, 1))
        before = {name: array.copy() for name, array in net.state_dict().items()}
        with pytest.raises(ValueError, match=f"{part} is a generator, which gives each batch once"):
            gc.Trainer(net).fit(batch, epochs=2, progress=False, **{part: (each for each in [batch])})
        assert all((net.state_dict()[name] == array).all() for name, array in before.items())
    trainer = gc.Trainer(gc.models.build("seed-net", (8, 8, 1)))
    # With a part of the training data as validation data, the test data are read only once, at the end.
    trainer.fit(train, epochs=2, validation=0.1, test=(each for each in [batch]), progress=False)
    assert "test_accuracy" in trainer.tested


def test_a_loader_of_another_dtype_or_device_than_the_net_is_named_before_training(tmp_path):
    net = toy_run.net().to(precision="bfloat16")
    before = {name: value.copy() for name, value in net.state_dict().items()}
    for use in (
        lambda loader: fit(loader, net=net, run_dir=tmp_path / "run"),
        lambda loader: fit(DATA, net=net, validation=loader, run_dir=tmp_path / "run"),
        lambda loader: evaluate(net, loader),
    ):
        with pytest.raises(
            DataError, match=r"gives float32 batches, and the net computes in bfloat16.*dtype=net.dtype"
        ):
            use(toy_run.loader())
    with pytest.raises(DataError, match=r"gives batches on numpy, and the net is on emulated.*device=net.device"):
        fit(toy_run.loader(), net=toy_run.net().to("emulated"))
    assert toy_run.same_arrays(net.state_dict(), before)
    assert not [*tmp_path.iterdir()]
    assert fit(toy_run.loader(dtype="bfloat16"), net=net, epochs=1).history


def test_a_last_batch_too_small_for_statistics_is_refused_before_anything_is_made(tmp_path):
    net = Sequential([Input((6, 5, 1)), Flatten(), Linear(4), BatchNorm(), Linear(3)])
    with pytest.raises(ValueError, match=r"norm1 needs statistics .* batch size than 7 for 22 images, or drop that"):
        Trainer(net).fit(toy_run.images(), batch_size=7, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())
    Trainer(net).fit(toy_run.images(), validation=toy_run.images(1), batch_size=11, epochs=1, progress=False)


def test_a_loader_with_fewer_batches_than_its_length_is_named():
    class Short(toy_run.UserLoader):
        def epoch(self, epoch, start_batch=0):
            yield from list(super().epoch(epoch, start_batch))[:2]

    with pytest.raises(ValueError, match="gave only 2 batches, and its length is 5"):
        toy_run.fit(toy_run.trainer(), train=Short())


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_data_with_a_single_class_is_refused_before_a_run_starts(loss, tmp_path):
    one, _ = synthetic.load(8, size=(8, 8, 3), classes=1)
    two, _ = synthetic.load(8, size=(8, 8, 3), classes=2)
    for data, classes, message in (
        (one, 1, "has one class, 'class 0'"),
        (one, 9, "has one class"),
        (two, 1, "one score"),
    ):
        trainer = Trainer(models.build("seed-net", (8, 8, 3), classes), loss=loss)
        with pytest.raises(DataError, match=f"{message}.*nothing to classify; training needs at least two classes"):
            trainer.fit(data, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_labels_out_of_range_are_refused():
    narrow = Sequential([Input((6, 5, 1)), Flatten(), Linear(2)])
    with pytest.raises(DataError, match="labels 0 to 1, received 2"):
        Trainer(narrow).fit(toy_run.images(), epochs=1, progress=False)


def test_an_ignored_label_of_the_data_that_the_loss_counts_is_refused_before_a_run_starts(tmp_path):
    images = toy_run.images()
    labels = np.where(images.labels == 0, -100, images.labels)
    data = dataclasses.replace(images, labels=labels, ignored=-100)
    net = Sequential([Input((6, 5, 1)), Flatten(), Linear(3)])
    for loss in ("softmax", gc.losses.SoftmaxCrossEntropy(ignore_index=-1)):
        with pytest.raises(DataError, match="labels 0 to 2, received -100"):
            Trainer(net, loss=loss).fit(data, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())
