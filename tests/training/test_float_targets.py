"""Training with float targets: probabilities of classes, or a number for each score."""

import warnings
from functools import partial

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import asarray, losses, to_numpy
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Linear, ReLU, Sequential
from gpuconv.training import Trainer
from gpuconv.training.step_graphs import Replay
from tests import toy_run
from tests.devices import DEVICES


class OneBatchTwice:
    """A loader that gives one batch twice in each epoch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def epoch(self, epoch, start_batch=0):
        return iter([(self.x, self.y)] * (2 - start_batch))


def batch(device, targets):
    images = toy_run.images(8).images.astype(np.float32) / 128 - 1
    return asarray(images, device), asarray(targets, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shards", [None, 2])
def test_one_hot_rows_train_like_labels(device, shards):
    labels = toy_run.images(8).labels
    trained = []
    for targets in (labels, np.eye(3, dtype=np.float32)[labels]):
        trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.1, shards=shards, loss=losses.SoftmaxCrossEntropy(0.1))
        x, y = batch(device, targets)
        trainer.fit(OneBatchTwice(x, y), epochs=3, progress=False)
        measured = gc.training.evaluate(trainer.net, OneBatchTwice(x, y), metrics=["top-2", "confusion"])
        trained.append((to_numpy(trainer.net[1]["weight"]), measured, trainer.history[-1]))
    (weight, measured, record), (soft_weight, soft_measured, soft_record) = trained
    np.testing.assert_allclose(soft_weight, weight, rtol=1e-4, atol=1e-6)
    assert soft_record["train_accuracy"] == record["train_accuracy"] > 0.3
    assert soft_measured.accuracy == measured.accuracy
    assert soft_measured.metrics["top_2"] == measured.metrics["top_2"]
    np.testing.assert_array_equal(soft_measured.metrics["confusion"], measured.metrics["confusion"])


# --- losses with a target for each score -------------------------------------------------------


def regression(device="numpy", dtype="float32", loss="mse", lr=0.1, **options):
    net = Sequential([Input((6, 5, 1)), Conv2D(3, 3), ReLU(), Flatten(), Linear(2)], seed=1, dtype=dtype)
    return Trainer(net.to(device), "sgd", lr=lr, momentum=0.9, loss=loss, seed=2, **options)


def regression_data(count=8, dtype=np.float32):
    draw = np.random.default_rng(0)
    return draw.normal(size=(count, 6, 5, 1)).astype(dtype), draw.random((count, 2)).astype(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (losses.MeanSquaredError(), lambda torch: torch.nn.MSELoss()),
        (losses.Huber(0.3), lambda torch: torch.nn.HuberLoss(delta=0.3)),
        (
            losses.BinaryCrossEntropy([0.5, 2]),
            lambda torch: torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 2.0])),
        ),
        (losses.BinaryCrossEntropy(3), lambda torch: torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))),
    ],
    ids=["mse", "huber", "bce", "bce-number"],
)
def test_five_steps_agree_with_pytorch(device, loss, theirs):
    torch = pytest.importorskip("torch")
    trainer = regression(device, loss=loss)
    their_net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36, 2)
    )
    state = {name: np.array(to_numpy(value)) for name, value in trainer.net.state_dict().items()}
    (filters, conv_bias, matrix, bias) = state.values()
    matrix_of_nchw = matrix.reshape(2, 4, 3, 3).transpose(0, 3, 1, 2).reshape(2, 36)
    with torch.no_grad():
        their_net[0].weight.copy_(torch.from_numpy(filters.transpose(0, 3, 1, 2).copy()))
        their_net[0].bias.copy_(torch.from_numpy(conv_bias))
        their_net[3].weight.copy_(torch.from_numpy(matrix_of_nchw.copy()))
        their_net[3].bias.copy_(torch.from_numpy(bias))
    optimizer, criterion = torch.optim.SGD(their_net.parameters(), 0.1, momentum=0.9), theirs(torch)
    x, y = regression_data()
    their_x, their_y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y)
    expected = []
    for _ in range(5):
        optimizer.zero_grad()
        value = criterion(their_net(their_x), their_y)
        value.backward()
        optimizer.step()
        expected.append(value.item())
    trainer.fit((x, y), epochs=5, batch_size=8, progress=False, metrics_every=1, validation=(x, y))
    step_losses = [record["loss"] for record in trainer.records if record["event"] == "step"]
    np.testing.assert_allclose(step_losses, expected, rtol=1e-4)
    after = criterion(their_net(their_x), their_y).item()
    np.testing.assert_allclose(trainer.history[-1]["validation_loss"], after, rtol=1e-4)
    measured = gc.training.evaluate(trainer.net, (x, y), loss=loss)
    np.testing.assert_allclose(measured.loss, after, rtol=1e-4)
    assert np.isnan(measured.accuracy)
    assert {trainer.history[-1][name] for name in ("train_accuracy", "validation_accuracy")} == {None}


def test_a_regression_run_is_stored_resumed_and_shown_without_accuracy(tmp_path, capsys):
    x, y = regression_data(20)
    uninterrupted, stopped = regression(loss="huber"), regression(loss="huber")
    settings = dict(validation=0.2, batch_size=4, metrics_every=2)
    uninterrupted.fit((x, y), epochs=4, progress=False, **settings)
    stopped.fit((x, y), epochs=4, run_dir=tmp_path / "run", callbacks=[toy_run.StopAt(7)], **settings)
    resumed = regression(loss="huber")
    resumed.fit((x, y), epochs=4, run_dir=tmp_path / "run", resume=True, **settings)
    assert resumed.records == uninterrupted.records
    assert toy_run.same_arrays(toy_run.weights(resumed), toy_run.weights(uninterrupted))
    shown = capsys.readouterr().out
    assert "validation loss" in shown
    assert "accuracy" not in shown
    table = resumed.history._repr_html_()
    assert "loss" in table
    assert "accuracy" not in table
    assert "None" not in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.kernels
@pytest.mark.parametrize("loss", ["mse", losses.BinaryCrossEntropy([1, 2])], ids=["mse", "bce"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_captured_steps_have_the_bits_of_uncaptured_ones(loss, precision):
    results = []
    for captured in (True, False):
        trainer = regression("emulated", loss=loss, precision=precision)
        x, y = (asarray(a, "emulated") for a in regression_data())
        x = asarray(x, dtype=trainer.net.dtype)
        trainer.optimizer.advance(0.1)
        replay = Replay("emulated", captured)
        with warnings.catch_warnings():
            warnings.simplefilter("error", gc.training.UncapturedWarning)
            replay.run(partial(trainer.step_on, [(x, y)]), steps=12, shape=len(x), same=trainer.inputs)
        replay.close()
        results.append((np.array(to_numpy(trainer.net[1]["weight"])), trainer.totals.read()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][1].samples == 12 * 8


def test_uint8_images_may_have_a_target_for_each_score():
    images, (_, y) = toy_run.images(8).images, regression_data()
    trainer = regression(lr=0.01)
    trainer.fit((images, y), epochs=2, batch_size=4, progress=False)
    assert trainer.net.normalization is not None
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


def test_targets_that_the_loss_does_not_take_are_refused_before_anything_changes():
    x, y = regression_data(22)
    labels = toy_run.images(22).labels % 2
    for loss, targets, message in (
        ("mse", labels, r"MeanSquaredError\(\) takes floats of shape \(N, 2\), received labels of int64"),
        ("mse", y[:, :1], r"takes floats of shape \(N, 2\), received labels of float32 and shape \(22, 1\)"),
        ("svm", y, r"SVMHinge\(delta=1.0\) takes integers of shape \(N,\), received labels of float32"),
        (losses.SoftmaxCrossEntropy(ignore_index=9), y, r"ignore_index=9\) takes integers of shape \(N,\), received"),
        ("softmax", y[:, :1], r"takes integers of shape \(N,\) or floats of shape \(N, 2\), received"),
    ):
        trainer = regression(loss=loss)
        before = np.array(trainer.net[1]["weight"])
        with pytest.raises(gc.training.DataError, match=message):
            trainer.fit((x, targets), epochs=1, progress=False)
        with pytest.raises(TypeError, match=message):
            trainer.step(x, targets)
        np.testing.assert_array_equal(trainer.net[1]["weight"], before)
        assert trainer.steps == 0


class WithoutAxis(Layer):
    """Gives one number for each image, without an axis."""

    def plan(self, input_shape):
        return ()

    def forward(self, x, training=False):
        return x[:, 0]


def test_a_net_whose_scores_have_no_axis_is_refused():
    net = Sequential([Input((4,)), Linear(1), WithoutAxis()])
    for make in (lambda: Trainer(net, loss="mse"), lambda: gc.evaluate(net, (np.ones((3, 4)), [0, 1, 2]))):
        with pytest.raises(ValueError, match=r"a number without an axis for each image, .* array of shape \(1,\)"):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: regression(loss=losses.SoftmaxCrossEntropy(weight=[1, 2, 3])),
            "each of the net's 2 scores, received 3",
        ),
        (lambda: regression(loss=losses.BinaryCrossEntropy([1, 2, 3])), "pos_weight must hold .* received 3"),
        (
            lambda: gc.training.evaluate(regression().net, regression_data(), loss="mse", confusion=True),
            r"confusion=True counts classes, and MeanSquaredError\(\) has a target for each score",
        ),
        (
            lambda: gc.training.evaluate(regression().net, regression_data(), loss="mse", metrics=["top-1"]),
            "top_1 counts classes",
        ),
    ],
    ids=["weight", "pos-weight", "confusion", "top-k"],
)
def test_weights_and_metrics_that_do_not_fit_the_loss_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_user_defined_loss_may_say_that_it_does_not_classify():
    def distance(scores, targets):
        return float(((scores - targets) ** 2).sum() / len(scores)), 2 * (scores - targets) / len(scores)

    distance.classifies = False
    trainer = regression(loss=distance, lr=0.01)
    trainer.fit(regression_data(), epochs=2, batch_size=8, progress=False)
    assert trainer.history[-1]["train_accuracy"] is None
    assert trainer.history[1]["train_loss"] < trainer.history[0]["train_loss"]
