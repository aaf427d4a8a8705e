"""Batches cut into shards: sums of a step, random numbers as in the whole batch, resumed runs, refusals."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpuconv import asarray, to_numpy
from gpuconv.data import Loader
from gpuconv.integers import ceil_div
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, Sequential
from gpuconv.layers.batch_parts import Part, part_of_batch
from gpuconv.training import DataError, SettingsError, Trainer
from gpuconv.training.running_metrics import Totals
from gpuconv.training.sharding import Sharding, shard_bounds
from tests.toy_run import StopAt, fit, images, loader, net, net_without_norm, same_arrays, trainer, weights

SHARDS = 4


def batches(count=21, batch_size=8, **options):  # the last batch has 5 images: shards of 1, 1, 1 and 2
    return loader(images(count), batch_size, **options)


def trainer_without_norm(**options):
    return Trainer(net_without_norm(), "sgd", lr=0.1, **options)


def test_shards_differ_by_at_most_one_sample_and_cover_the_batch():
    for shards in (1, 2, 4, 8):
        for size in range(shards, 40):
            edges = shard_bounds(size, shards)
            sizes = np.diff(edges)
            assert (edges[0], edges[-1]) == (0, size)
            assert set(sizes) <= {size // shards, ceil_div(size, shards)}
    with pytest.raises(ValueError, match="a batch of 3 cannot be cut into 4 shards: each needs at least one sample"):
        shard_bounds(3, 4)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_dropout_masks_of_parts_are_those_of_the_whole_batch(device):
    def layer():
        return Sequential([Input((3, 3, 5)), Dropout(0.5)], seed=2, device=device)

    def ones(count):
        return asarray(np.ones((count, 3, 3, 5), np.float32), device)

    unsharded, sharded = layer(), layer()
    expected = [to_numpy(unsharded.forward(ones(7), training=True)) for _ in range(2)]
    for y in expected:
        # A sample has 45 numbers, so the parts begin inside blocks of four random numbers.
        for first, end in ((0, 1), (1, 3), (3, 7)):
            with part_of_batch(Part(first, 7, last=end == 7)):
                part = sharded.forward(ones(end - first), training=True)
            gradient = sharded.backward(ones(end - first))
            np.testing.assert_array_equal(to_numpy(part), y[first:end])
            np.testing.assert_array_equal(to_numpy(gradient), y[first:end])


def test_gradients_and_totals_of_shards_are_those_of_the_whole_batch():
    """The net has no batch norm, and the dropout masks are the same."""
    data = batches()
    for x, y in data.epoch(0):  # of 8, 8 and 5 images
        unsharded, sharded = trainer_without_norm(), trainer_without_norm(shards=SHARDS)
        unsharded.step(x, y)
        sharded.step(x, y)
        for name, gradient in unsharded.net.grads().items():
            np.testing.assert_allclose(sharded.net.grads()[name], gradient, rtol=1e-4, atol=1e-6)
        ours, theirs = sharded.totals.read().numbers(), unsharded.totals.read().numbers()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert ours[1:] == theirs[1:]


def test_running_statistics_are_the_mean_of_the_shards():
    def norm():
        return Sequential([Input((2,)), BatchNorm(momentum=0.25), Linear(2)], seed=0)

    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    trainer = Trainer(norm(), "sgd", lr=0.1, shards=2)
    trainer.step(x, np.arange(8) % 2)
    state = trainer.net.state_dict()
    mean, var = (x[:4].mean(0) + x[4:].mean(0)) / 2, (x[:4].var(0, ddof=1) + x[4:].var(0, ddof=1)) / 2
    np.testing.assert_allclose(state["norm1.running_mean"], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["norm1.running_var"], 0.75 + 0.25 * var, rtol=1e-5)


def test_gradients_are_summed_along_the_tree():
    """2^24 + 1 rounds to 2^24, so the sum along the tree is 5; in the order of the shards it would be 3."""
    one = Sequential([Input((1,)), Linear(1)], seed=0)

    def work(x, y, totals):
        one.zero_grad()
        for gradient in one.grads().values():
            gradient[...] = 8 * x[0, 0]  # the shard has an eighth of the batch, so its gradient counts an eighth

    x = np.array([2**24, 1, 1, 1, -(2**24), 1, 1, 1], np.float32)[:, None]
    Sharding(8, one).backpropagate(x, np.zeros(8, np.int64), Totals("numpy"), work)
    assert [float(np.ravel(gradient)[0]) for gradient in one.grads().values()] == [5, 5]


def test_a_step_has_the_same_bits_on_any_number_of_cores():
    def run(cores):
        with threadpool_limits(cores, user_api="blas"):
            trained = Trainer(
                Sequential([Input((32, 32, 16)), Conv2D(32, 3, padding=1), BatchNorm(), Flatten(), Linear(3)], seed=1),
                "sgd",
                lr=0.01,
                shards=2,
            )
            x = np.random.default_rng(0).normal(size=(16, 32, 32, 16)).astype(np.float32)
            trained.optimizer.advance()
            trained.step(x, np.arange(16) % 3)
            return weights(trained)

    one_core = run(1)
    assert one_core["fc1.bias"].any()  # it begins at zero
    for cores in (2, 3):
        assert same_arrays(one_core, run(cores))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path, precision):
    def new():
        return trainer(shards=SHARDS, precision=precision)

    data = {"train": batches(dtype="float16" if precision == "float16" else "float32"), "validation": None}
    uninterrupted = new()
    fit(uninterrupted, epochs=2, **data)
    first = new()
    fit(first, epochs=2, run_dir=tmp_path / "run", callbacks=[StopAt(4)], **data)
    assert first.steps == 4
    second = new()
    fit(second, epochs=2, run_dir=tmp_path / "run", resume=True, **data)
    assert same_arrays(weights(uninterrupted), weights(second))
    assert uninterrupted.history == second.history
    with pytest.raises(SettingsError, match="shards is 4 there and 2 here"):
        fit(trainer(shards=2, precision=precision), epochs=2, run_dir=tmp_path / "run", resume=True, **data)
    with pytest.raises(SettingsError, match="shards is 4 there and null here"):
        fit(trainer(precision=precision), epochs=2, run_dir=tmp_path / "run", resume=True, **data)


def test_the_emulated_device_gives_the_same_bits_captured_or_not():
    def run(graph):
        trained = Trainer(net().to("emulated"), "sgd", lr=0.05, shards=2, graph=graph)
        data = images(8)
        trained.fit(
            Loader(data, 4, normalization=loader(data).normalization, device="emulated"), epochs=2, progress=False
        )
        return weights(trained) | {"history": np.array([record["train_loss"] for record in trained.history])}

    assert same_arrays(run(False), run(True))


def test_invalid_numbers_of_shards_are_refused():
    for shards in (3, 6, 12):
        with pytest.raises(ValueError, match=f"shards must be a power of two, such as 1, 2, 4 or 8, received {shards}"):
            trainer(shards=shards)
    with pytest.raises(ValueError, match="shards must be at least 1, received 0"):
        trainer(shards=0)
    with pytest.raises(TypeError, match="shards must be an integer"):
        trainer(shards=2.5)
    with pytest.raises(DataError, match="4 shards need at least 4 images in each batch, and the last batch has 2"):
        fit(trainer(shards=4), train=loader(images(22)))
    scalar = Sequential([Input((6, 5, 1)), Flatten(), Linear(4), BatchNorm(), Linear(3)], seed=0)
    with pytest.raises(DataError, match="norm1 needs statistics of more than one value, and the smallest part has one"):
        fit(Trainer(scalar, shards=4), train=batches())


def test_synchronized_statistics_need_two_values_in_the_batch_and_not_in_each_shard():
    def fitted(size, **options):
        layers = [Input((6, 5, 1)), Flatten(), Linear(4), BatchNorm(), Linear(3)]
        trained = Trainer(
            Sequential(layers, seed=0).to(precision=options.pop("precision", "float64")), "sgd", **options
        )
        given = loader(images(size), size, dtype=str(trained.net.dtype))
        trained.fit(given, epochs=2, progress=False)
        return weights(trained)

    for size in (4, 5):
        found, expected = fitted(size, shards=4, sync_batch_norm=True), fitted(size)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
    fitted(4, shards=4, sync_batch_norm=True, precision="float16")
    with pytest.raises(DataError, match="norm1 needs statistics of more than one value, and the last batch has one"):
        fitted(1, shards=1, sync_batch_norm=True)
