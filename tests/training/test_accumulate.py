"""Several batches for one update: they train like one large batch; the last group of an epoch; resumed runs."""

import math

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.layers import Flatten, Input, Linear, Sequential
from gpuconv.training import LossScale, Trainer
from tests import toy_run


def trainer_without_norm(device="numpy", **options):
    net = toy_run.net_without_norm(device)
    return Trainer(net, "sgd", lr=0.1, momentum=0.9, schedule="one-cycle", **options)


def loader(batch_size, device="numpy", **options):
    """A loader of 21 images. With batches of 4, the last batch has 1 image, and the last group of 3 batches has 9."""
    return toy_run.loader(toy_run.images(21), batch_size).over(toy_run.images(21), device=device, **options)


def fit(trainer, train, **options):
    return trainer.fit(train, **{"epochs": 2, "metrics_every": 1, "progress": False} | options)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_accumulated_batches_train_like_one_large_batch(device):
    """The dropout masks and the augmentation are the same; only the order of the sums differs."""
    for count in (3, 2, 6):
        large, accumulated = trainer_without_norm(device), trainer_without_norm(device, accumulate=count)
        fit(large, loader(4 * count, device))
        fit(accumulated, loader(4, device))
        updates = math.ceil(6 / count)  # in each of two epochs of 6 batches
        assert (large.steps, large.batches) == (2 * updates, updates), count
        assert (accumulated.steps, accumulated.batches) == (2 * updates, updates), count
        for ours, expected in zip(accumulated.records, large.records, strict=True):
            assert ours["lr"] == expected["lr"]
            assert ours.get("loss", 0) == pytest.approx(expected.get("loss", 0), rel=1e-5)
            assert ours.get("accuracy") == expected.get("accuracy")
        for name, value in toy_run.weights(large).items():
            np.testing.assert_allclose(toy_run.weights(accumulated)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_batches_of_a_group_are_weighted_by_their_sizes():
    """The gradient of a group is that of the mean loss over all its samples, although its batches differ in size."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    sizes = (4, 1, 3, 2, 5)
    batches = [(draw.standard_normal((n, 2, 3, 1)).astype(np.float32), draw.integers(0, 3, n)) for n in sizes]
    ours = Trainer(Sequential([Input((2, 3, 1)), Flatten(), Linear(3)], seed=1), "sgd", lr=0.5, accumulate=2)
    theirs = torch.nn.Linear(6, 3)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(toy_run.weights(ours)["fc1.weight"]))
        theirs.bias.copy_(torch.from_numpy(toy_run.weights(ours)["fc1.bias"]))
    fit(ours, batches, epochs=1)
    assert ours.steps == 3
    for group in (batches[:2], batches[2:4], batches[4:]):
        theirs.zero_grad()
        for x, y in group:
            scores = theirs(torch.from_numpy(x).flatten(1))
            share = len(y) / sum(len(labels) for _, labels in group)
            (share * torch.nn.functional.cross_entropy(scores, torch.from_numpy(y))).backward()
        with torch.no_grad():
            for param in theirs.parameters():
                param -= 0.5 * param.grad
    np.testing.assert_allclose(toy_run.weights(ours)["fc1.weight"], theirs.weight.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(toy_run.weights(ours)["fc1.bias"], theirs.bias.detach(), rtol=1e-5, atol=1e-6)


def test_every_batch_of_a_group_updates_the_running_statistics():
    single, accumulated = (Trainer(toy_run.net(), "sgd", lr=0.0, accumulate=k) for k in (1, 3))
    for trainer in (single, accumulated):
        fit(trainer, loader(4, drop_last=True))
    assert (single.steps, accumulated.steps) == (10, 4)
    assert "norm1.running_mean" in toy_run.weights(single)
    for name, value in toy_run.weights(single).items():
        np.testing.assert_array_equal(toy_run.weights(accumulated)[name], value, err_msg=name)


def test_a_loader_that_drops_its_last_batch_drops_no_group():
    trainer = trainer_without_norm(accumulate=4)
    fit(trainer, loader(4, drop_last=True), epochs=1)
    assert (trainer.steps, trainer.batches) == (2, 2)  # the groups have 16 and 4 images


def test_batches_of_a_generator_function_are_accumulated_and_too_few_are_an_error():
    def endless():
        while True:
            yield np.zeros((2, 6, 5, 1), np.float32), np.zeros(2, int)

    trainer = trainer_without_norm(accumulate=2)
    fit(trainer, endless, steps_per_epoch=5)
    assert (trainer.steps, trainer.batches) == (6, 3)
    short = [(np.zeros((2, 6, 5, 1), np.float32), np.zeros(2, int))] * 3
    with pytest.raises(ValueError, match="gave only 3 batches, and its length is 5"):
        fit(trainer_without_norm(accumulate=2), lambda: iter(short), steps_per_epoch=5)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path, device):
    uninterrupted = trainer_without_norm(device, accumulate=3)
    fit(uninterrupted, loader(2, device), run_dir=tmp_path / "whole")
    assert uninterrupted.batches == 4
    fit(
        trainer_without_norm(device, accumulate=3),
        loader(2, device),
        run_dir=tmp_path / "cut",
        callbacks=[toy_run.StopAt(6)],
    )
    resumed = trainer_without_norm(device, accumulate=3)
    fit(resumed, loader(2, device), run_dir=tmp_path / "cut", resume=True)
    assert toy_run.same_arrays(toy_run.weights(uninterrupted), toy_run.weights(resumed))
    assert uninterrupted.records == resumed.records
    with pytest.raises(ValueError, match="cannot be continued with other settings: accumulate is 3 there and 1 here"):
        fit(trainer_without_norm(device), loader(2, device), run_dir=tmp_path / "cut", resume=True)


def test_an_update_of_batches_that_overflow_is_skipped():
    trainer = trainer_without_norm(precision="float16", loss_scale=LossScale(start=2.0**40), accumulate=2)
    before = toy_run.weights(trainer)
    fit(trainer, loader(4, dtype=np.float16), epochs=1)
    assert (trainer.steps, trainer.loss_scale.skipped) == (3, 3)
    for name in trainer.net.params():
        np.testing.assert_array_equal(toy_run.weights(trainer)[name], before[name])


def test_clipping_applies_to_the_accumulated_gradient_and_not_to_each_batch():
    trainer = Trainer(trainer_without_norm().net, "sgd", lr=1.0, accumulate=3, clip=0.01)
    before = toy_run.weights(trainer)
    fit(trainer, loader(7), epochs=1)
    moved = sum(float(np.square(toy_run.weights(trainer)[name] - before[name]).sum()) for name in trainer.net.params())
    assert np.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_an_invalid_number_of_batches_is_refused():
    for options, message in (
        ({"accumulate": 0}, "accumulate must be at least 1, received 0"),
        ({"accumulate": -2}, "accumulate must be at least 1"),
        ({"accumulate": 2.5}, "accumulate must be an integer, received 2.5"),
        ({"accumulate": True}, "accumulate must be an integer"),
        ({"accumulate": float("nan")}, "accumulate must be an integer"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            trainer_without_norm(**options)


def test_an_update_from_one_batch_accumulates_nothing():
    assert trainer_without_norm(accumulate=1, shards=2).accumulation is None


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_accumulated_batches_in_shards_train_like_one_large_batch(device):
    large, accumulated = trainer_without_norm(device), trainer_without_norm(device, accumulate=3, shards=2)
    fit(large, loader(9, device, drop_last=True))
    fit(accumulated, loader(3, device, drop_last=True))
    assert accumulated.steps == large.steps + 2  # 7 batches of 3 give three updates, the last one from a single batch
    for ours, expected in zip(accumulated.records[:2], large.records[:2], strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert ours["accuracy"] == expected["accuracy"]


WEIGHTED = [losses.SoftmaxCrossEntropy(weight=(1, 5, 0.25)), losses.SoftmaxCrossEntropy(ignore_index=1)]
WEIGHTED += [losses.SoftmaxCrossEntropy(weight=(1, 5, 0.25), ignore_index=1, label_smoothing=0.1)]


@pytest.mark.parametrize(
    ("device", "loss"),
    [*(("numpy", loss) for loss in WEIGHTED), ("emulated", WEIGHTED[-1])],
    ids=["numpy-weight", "numpy-ignore_index", "numpy-both", "emulated-both"],
)
def test_a_weighted_loss_in_parts_trains_like_one_large_batch(device, loss):
    """The loss is divided by the sum of the label weights of the whole update. A part may have only ignored labels."""
    results = {}
    for name, size, options in (
        ("one", 21, {}),
        ("accumulated", 4, {"accumulate": 6}),
        ("one by one", 1, {"accumulate": 21}),
        ("shards", 21, {"shards": 8}),
        ("both", 7, {"accumulate": 3, "shards": 4}),
    ):
        trainer = trainer_without_norm(device, loss=loss, **options)
        fit(trainer, loader(size, device), epochs=2)
        results[name] = [record["loss"] for record in trainer.records if "loss" in record], toy_run.weights(trainer)
    for name, (values, arrays) in results.items():
        assert values == pytest.approx(results["one"][0], rel=1e-5), name
        for key, value in results["one"][1].items():
            np.testing.assert_allclose(arrays[key], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
