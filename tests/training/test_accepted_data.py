"""The forms of data that a user can give: each trains like a loader of the same images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.data import Dataset, Loader, Normalization, Samples, StreamLoader, sources
from gpuconv.layers import BatchNorm, Conv2D, Flatten, GlobalAvgPool2D, Input, Linear, Sequential
from gpuconv.losses import SoftmaxCrossEntropy
from gpuconv.training import SettingsError, Trainer, data_checks, evaluate
from tests import toy_run
from tests.training.fit_data import DATA, FLOATS, NORMALIZATION, fit


def assert_same(one, other):
    assert one.history == other.history
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())


class Indexed:
    """Has only a length and items, like a PyTorch Dataset."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images[index], self.labels[index]


def test_arrays_and_indexed_objects_train_like_a_loader_of_the_same_images(tmp_path):
    expected = fit(DATA)
    np.save(tmp_path / "images.npy", DATA.images)
    np.save(tmp_path / "floats.npy", FLOATS)
    mapped, floats = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "floats"))
    for train in (
        (DATA.images, DATA.labels),
        [DATA.images, DATA.labels.astype(np.uint8)],
        (DATA.images[..., 0], [*DATA.labels]),
        (FLOATS, DATA.labels),
        (FLOATS.astype(np.float64), DATA.labels),
        Indexed(DATA.images, DATA.labels),
        Indexed(FLOATS, DATA.labels),
        list(zip(DATA.images, DATA.labels)),
        list(zip(FLOATS, map(int, DATA.labels))),
        (mapped, DATA.labels),
        (floats, DATA.labels),
        Indexed(DATA.images[..., 0], DATA.labels.astype(np.int32)),
    ):
        assert_same(fit(train), expected)


def epoch_of_batches(epoch):
    loader = Loader(DATA, 5, normalization=NORMALIZATION, seed=3)
    return [(np.array(x), np.array(y)) for x, y in loader.epoch(epoch)]


class Epochs:
    """An iterable that gives the batches of the next epoch each time."""

    def __init__(self, first=0):
        self.next_epoch = first

    def __iter__(self):
        self.next_epoch += 1
        return iter(epoch_of_batches(self.next_epoch - 1))


def test_batches_train_like_the_loader_they_came_from():
    expected = fit(DATA)

    class Counted(Epochs):
        def __len__(self):
            return 5

    again = Epochs()
    everything = epoch_of_batches(0) + epoch_of_batches(1)
    for train, options in (
        (Counted(), {}),
        (Epochs(), {"steps_per_epoch": 5}),
        (iter(everything), {"steps_per_epoch": 5}),
        ((batch for batch in everything), {"steps_per_epoch": 5}),
        (lambda: iter(again), {"steps_per_epoch": 5}),
    ):
        assert_same(fit(train, **options), expected)
    with pytest.raises(ValueError, match="train has 5 batches in an epoch, received steps_per_epoch=3"):
        fit(DATA, steps_per_epoch=3)
    one = fit(epoch_of_batches(0), epochs=1)  # given as a list of batches
    np.testing.assert_array_equal(one.net["conv1"].arrays["weight"], fit(DATA, epochs=1).net["conv1"].arrays["weight"])


@pytest.mark.slow
def test_a_resumed_run_skips_the_batches_it_already_used(tmp_path):
    everything = epoch_of_batches(0) + epoch_of_batches(1)
    uninterrupted = fit(iter(everything), steps_per_epoch=5)

    for step in (3, 5, 7):
        for name, make in (("once", lambda _: iter(everything)), ("anew", Epochs)):
            run = {"run_dir": tmp_path / f"{name}{step}", "steps_per_epoch": 5}
            fit(make(0), callbacks=[toy_run.StopAt(step, "enough")], **run)
            assert_same(fit(make(step // 5), resume=True, **run), uninterrupted)
    with pytest.raises(ValueError, match="gave only 3 batches, and its length is 5"):
        fit(iter(everything[:8]), steps_per_epoch=5)


def test_data_from_pytorch_trains_like_the_same_arrays():
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, IterableDataset, TensorDataset

    expected = fit(DATA)
    channels_first = torch.tensor(FLOATS).permute(0, 3, 1, 2)
    labels = torch.tensor(DATA.labels)
    assert_same(fit((channels_first, labels)), expected)
    assert_same(fit(TensorDataset(channels_first, labels)), expected)
    assert_same(fit(TensorDataset(torch.tensor(DATA.images).permute(0, 3, 1, 2), labels)), expected)
    in_order = fit(list(zip(np.split(FLOATS, [5, 10, 15, 20]), np.split(DATA.labels, [5, 10, 15, 20]))))
    assert_same(fit(DataLoader(TensorDataset(channels_first, labels), batch_size=5)), in_order)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(channels_first, labels))

    assert_same(fit(DataLoader(Stream(), batch_size=5), steps_per_epoch=5), in_order)
    evaluation = evaluate(in_order.net, DataLoader(TensorDataset(channels_first, labels), batch_size=4))
    assert evaluation.samples == len(DATA)
    assert evaluation.accuracy == evaluate(in_order.net, (FLOATS, DATA.labels)).accuracy


def test_uint8_batches_are_normalized_by_the_mean_and_deviation_of_the_first_batch():
    batches = [(DATA.images[:11], DATA.labels[:11]), (DATA.images[11:], DATA.labels[11:])]
    of_first_batch = Normalization.from_images(DATA.images[:11])
    normalized = [(of_first_batch(x), y) for x, y in batches]
    assert_same(fit(batches, validation=batches), fit(normalized, validation=normalized))
    custom = Normalization([10.0], [20.0])
    assert_same(fit(batches, normalization=custom), fit([(custom(x), y) for x, y in batches]))
    assert_same(fit((DATA.images, DATA.labels), normalization=custom), fit((custom(DATA.images), DATA.labels)))


def test_validation_and_test_data_in_any_form_are_normalized_like_training_data():
    other = toy_run.images(9, seed=5)
    expected = fit(DATA, validation=Loader(other, 4, normalization=NORMALIZATION, shuffle=False)).history
    for form in (
        (other.images, other.labels),
        Indexed(other.images, other.labels),
        [(other.images, other.labels)],
        (NORMALIZATION(other.images), other.labels),
    ):
        history = fit((DATA.images, DATA.labels), validation=form, test=form).history
        for record, reference in zip(history, expected, strict=True):
            assert record["validation_accuracy"] == record["test_accuracy"] == reference["validation_accuracy"]
            assert record["validation_loss"] == pytest.approx(reference["validation_loss"], rel=1e-6)


def test_evaluate_accepts_data_and_a_normalization():
    trained = fit(DATA)
    expected = evaluate(trained.net, Loader(DATA, 256, normalization=NORMALIZATION, shuffle=False))
    for form in (DATA, (DATA.images, DATA.labels), Indexed(DATA.images, DATA.labels), [(DATA.images, DATA.labels)]):
        assert evaluate(trained.net, form, normalization=NORMALIZATION) == expected
    assert evaluate(trained.net, (FLOATS, DATA.labels)) == expected
    bare = toy_run.net()
    with pytest.raises(TypeError, match=r"uint8 images of data is unknown.* or pass normalization="):
        evaluate(bare, DATA)


def test_runs_store_a_description_of_their_data_and_refuse_other_data(tmp_path):
    fit((FLOATS, DATA.labels), run_dir=tmp_path / "run")
    fit((FLOATS, DATA.labels), run_dir=tmp_path / "run", resume=True)
    with pytest.raises(SettingsError, match="checksum"):
        fit((FLOATS + 1, DATA.labels), run_dir=tmp_path / "run", resume=True)


def test_unknown_labels_are_accepted_for_every_net():
    """An indexed object's labels are unknown until a batch is read."""
    source = [(image, 0) for image in DATA.images]
    net = Sequential([Input((6, 5, 1)), Flatten(), Linear(1)])
    part = sources.as_data_source(source, "validation", DATA.image_shape, device="numpy", dtype="float32")
    data_checks.expect("validation", StreamLoader(part, 5, normalization=NORMALIZATION), net, SoftmaxCrossEntropy())


def test_samples_without_names_of_classes_train_like_a_loader_of_the_same_images():
    class Unnamed(Samples):
        def __len__(self):
            return len(DATA)

        def read(self, indices):
            return DATA.images[indices], DATA.labels[indices]

    for labels in (None, DATA.labels):
        samples = Unnamed(name="own", image_shape=DATA.image_shape, dtype=DATA.images.dtype, labels=labels)
        assert fit(samples).history == fit(DATA).history


def test_sizes_that_only_seem_mismatched_are_accepted():
    data = Dataset(toy_run.images().images, np.arange(22) % 2, ["a", "b"], "two")
    normalization = Normalization.from_dataset(data)

    class Cropped(Loader):
        def epoch(self, epoch=0, start_batch=0):
            return ((np.ascontiguousarray(x[:, :4, :4]), y) for x, y in super().epoch(epoch, start_batch))

    def logistic(scores, labels):
        probability = 1 / (1 + np.exp(-scores[:, 0]))
        loss = -np.log(np.where(labels == 1, probability, 1 - probability)).mean()
        return np.asarray(loss, np.float32), ((probability - labels)[:, None] / len(labels)).astype(np.float32)

    inner = Sequential([Input((4, 3, 3)), Flatten(), Linear(2)])
    convolutional = [Input((3, 3, 1), larger=True), Conv2D(4, 3), BatchNorm(), GlobalAvgPool2D(), Flatten(), Linear(2)]
    for layers, train, options in (
        ([Input((4, 4, 1)), Flatten(), Linear(2)], Cropped(data, 5, normalization=normalization), {}),
        ([Input((6, 5, 1)), Flatten(), Linear(1)], data, {"loss": logistic}),
        ([Input((6, 5, 1)), Conv2D(3, 3), inner], data, {}),
        (convolutional, Loader(data, 7, normalization=normalization), {}),
    ):
        assert len(Trainer(Sequential(layers), **options).fit(train, epochs=1, progress=False)) == 1


def test_a_net_that_accepts_larger_inputs_trains_on_larger_images():
    layers = [Input((4, 4, 1), larger=True), Conv2D(3, 3), GlobalAvgPool2D(), Flatten()]
    assert len(Trainer(Sequential(layers)).fit(toy_run.images(), epochs=1, progress=False)) == 1
    smaller = Dataset(np.zeros((4, 3, 3, 1), np.uint8), np.arange(4) % 3, ["a", "b", "c"], "smaller")
    with pytest.raises(ValueError, match="or larger maps, received 3 x 3 x 1"):
        Trainer(Sequential(layers)).fit(smaller, epochs=1, progress=False)


def test_the_classes_of_a_users_loader_may_be_numbers():
    loader, trainer = toy_run.UserLoader(), toy_run.trainer()
    loader.dataset = SimpleNamespace(classes=[7, 8, 9])
    toy_run.fit(trainer, train=loader, epochs=1)
    assert trainer.net.classes == ["7", "8", "9"]
