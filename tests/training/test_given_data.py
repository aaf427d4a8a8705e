"""The forms of data that a user can give: each trains like a loader of the same images."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, Samples, StreamLoader, sources
from gpuconv.data.expect import expect_finite
from gpuconv.dtypes import as_dtype
from gpuconv.layers import Flatten, Input, Linear, Sequential
from gpuconv.losses import SoftmaxCrossEntropy
from gpuconv.training import DataError, DivergedError, Trainer, data_checks, evaluate
from tests.training import toy_run

DATA = toy_run.images()
NORMALIZATION = Normalization.from_dataset(DATA)
FLOATS = NORMALIZATION(DATA.images)


def fit(train, epochs=2, net=None, **options):
    trainer = Trainer(toy_run.net() if net is None else net, "adam", lr=0.01, seed=3)
    trainer.fit(train, epochs=epochs, batch_size=5, progress=False, **options)
    return trainer


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


def test_batches_train_like_the_loader_they_came_from():
    expected = fit(DATA)

    class Epochs:
        """An iterable that restarts in each epoch."""

        next_epoch = 0

        def __iter__(self):
            self.next_epoch += 1
            return iter(epoch_of_batches(self.next_epoch - 1))

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

    class Epochs:
        def __init__(self, first=0):
            self.next_epoch = first

        def __iter__(self):
            self.next_epoch += 1
            return iter(epoch_of_batches(self.next_epoch - 1))

    for step in (3, 5, 7):
        for name, make in (("once", lambda _: iter(everything)), ("anew", Epochs)):
            run = {"run_dir": tmp_path / f"{name}{step}", "steps_per_epoch": 5}
            fit(make(0), callbacks=[toy_run.StopAt(step, "enough")], **run)
            assert_same(fit(make(step // 5), resume=True, **run), uninterrupted)
    with pytest.raises(ValueError, match="gave only 3 batches, and its length is 5"):
        fit(iter(everything[:8]), steps_per_epoch=5)


def test_data_from_pytorch_trains_like_the_same_arrays(tmp_path):
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


def test_streamed_batches_have_the_bits_of_the_loaders():
    class Streamed(Samples):
        def __len__(self):
            return len(DATA)

        def read(self, indices):
            return DATA.images[indices], DATA.labels[indices]

    samples = Streamed(name="lines", image_shape=DATA.image_shape, dtype=np.dtype("uint8"), workers=3)
    for augment in ("flip,shift:2,cutout:2", "alternating-flip,shift:1,reflect", "none"):
        options = {"normalization": NORMALIZATION, "augmentation": Augmentation.parse(augment), "seed": 4}
        for epoch in (0, 1):
            in_memory = [*Loader(DATA, 4, **options).epoch(epoch, start_batch=1)]
            streamed = [*StreamLoader(samples, 4, workers=3, **options).epoch(epoch, start_batch=1)]
            for (x, y), (expected_x, expected_y) in zip(streamed, in_memory, strict=True):
                np.testing.assert_array_equal(x, expected_x)
                np.testing.assert_array_equal(y, expected_y)


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
        ((images, np.eye(3)[labels].astype(int)), ValueError, r"argmax\(1\) converts one-hot rows", {}),
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


def test_the_first_nonfinite_image_is_named_wherever_it_is():
    images = np.ones((200, 2, 3, 1), np.float32)
    expect_finite(images, "many")
    images[150:, 1, 2] = np.nan
    with pytest.raises(ValueError, match="image 150 holds"):
        expect_finite(images, "many")


def test_nonfinite_images_read_later_are_found_by_the_loss_and_mentioned(tmp_path):
    wrong = FLOATS.copy()
    wrong[20] = np.nan
    np.save(tmp_path / "images.npy", wrong)
    for train in ((np.load(tmp_path / "images.npy", mmap_mode="r"), DATA.labels), [*zip(wrong, DATA.labels)]):
        with pytest.raises(DivergedError, match=r"not finite at step .* or images without NaN"):
            fit(train)


def test_the_error_for_a_validation_generator_suggests_a_function():
    batches = [(FLOATS, DATA.labels)]
    with pytest.raises(ValueError, match="validation is a list_iterator, which gives each batch once"):
        fit(DATA, validation=iter(batches))
    assert len(fit(DATA, validation=lambda: iter(batches)).history) == 2


def test_runs_store_a_description_of_their_data_and_refuse_other_data(tmp_path):
    from gpuconv.training import SettingsError

    fit((FLOATS, DATA.labels), run_dir=tmp_path / "run")
    fit((FLOATS, DATA.labels), run_dir=tmp_path / "run", resume=True)
    with pytest.raises(SettingsError, match="checksum"):
        fit((FLOATS + 1, DATA.labels), run_dir=tmp_path / "run", resume=True)


def test_the_emulated_device_gets_the_same_batches():
    x_expected, y_expected = next(Loader(DATA, 5, normalization=NORMALIZATION, seed=3).epoch(0))
    for form in ((FLOATS, DATA.labels), Indexed(DATA.images, DATA.labels)):
        part = sources.as_data_source(form, "train", DATA.image_shape, device="emulated", dtype="float32")
        loader = StreamLoader(part, 5, normalization=NORMALIZATION if part.raw else None, seed=3, device="emulated")
        x, y = next(loader.epoch(0))
        assert gc.device_of(x) == gc.device_of(y) == "emulated"
        np.testing.assert_array_equal(gc.to_numpy(x), x_expected)
        np.testing.assert_array_equal(gc.to_numpy(y), y_expected)


def test_classes_without_names_are_named_by_their_numbers():
    pair = (DATA.images, DATA.labels)
    recognized = sources.as_data_source(pair, "train", DATA.image_shape, classes=5, device="numpy", dtype="float32")
    assert isinstance(recognized, Dataset)
    assert list(recognized.classes) == ["0", "1", "2", "3", "4"]


def test_unknown_labels_are_accepted_for_every_net():
    """An indexed object's labels are unknown until a batch is read."""
    source = [(image, 0) for image in DATA.images]
    net = Sequential([Input((6, 5, 1)), Flatten(), Linear(1)])
    part = sources.as_data_source(source, "validation", DATA.image_shape, device="numpy", dtype="float32")
    data_checks.expect("validation", StreamLoader(part, 5, normalization=NORMALIZATION), net, SoftmaxCrossEntropy())


def test_unnormalized_float_images_are_refused_for_a_net_of_normalized_ones():
    """Such images would give the accuracy of guessing instead of an error."""
    other = toy_run.images(9, seed=5)
    for scaled in (other.images / 255.0, other.images.astype(np.float32)):
        for form in ((scaled, other.labels), [*zip(scaled, other.labels)], [(scaled, other.labels)]):
            with pytest.raises(ValueError, match=r"floats of validation, from \d.* do not look normalized"):
                fit(DATA, validation=form)
            trained = fit(DATA)
            with pytest.raises(ValueError, match=r"floats of data, from \d.* do not look normalized"):
                evaluate(trained.net, form)
            assert len(fit((DATA.images / 255.0, DATA.labels), validation=form).history) == 2


def test_floats_never_drop_the_normalization_of_a_net_silently():
    train, _ = gc.data.load("digits")
    first = gc.models.build("seed-net", (8, 8, 1))
    gc.Trainer(first).fit(train, epochs=1, progress=False)
    known = first.normalization
    labels = train.labels[:64] % 3

    def net_with_a_new_head():
        net = gc.Sequential([*first[:-1], gc.layers.Linear(3)])
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
            with pytest.raises(ValueError, match="do not look normalized, and the net's images are"):
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


def test_generators_are_refused_before_training_where_every_epoch_needs_the_data():
    train, _ = gc.data.load("digits")
    batch = (train.images[:32], train.labels[:32])
    for part in ("validation", "test"):
        net = gc.models.build("seed-net", (8, 8, 1))
        before = {name: array.copy() for name, array in net.state_dict().items()}
        with pytest.raises(ValueError, match=f"{part} is a generator, which gives each batch once"):
            gc.Trainer(net).fit(batch, epochs=2, progress=False, **{part: (each for each in [batch])})
        assert all((net.state_dict()[name] == array).all() for name, array in before.items())
    trainer = gc.Trainer(gc.models.build("seed-net", (8, 8, 1)))
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
