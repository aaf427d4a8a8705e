"""Losses with class weights or ignored labels: their means, metrics, captured steps and resumed runs."""

import warnings

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import checkpoint, to_numpy
from gpuconv.losses import SoftmaxCrossEntropy
from gpuconv.training import Trainer, evaluate
from tests import toy_run


@pytest.mark.parametrize("ignore_index", [None, 1])
def test_a_loss_with_class_weights_is_one_weighted_mean_over_all_images(ignore_index):
    """As in PyTorch, ignored labels do not count. The batch size does not matter, and the accuracy has no weights."""
    net, data = toy_run.net(), toy_run.images(22)
    weight = np.array([1, 5, 0.25], np.float32)
    loss = SoftmaxCrossEntropy(weight=weight, ignore_index=ignore_index)
    in_one_batch, in_small_batches = (
        evaluate(net, toy_run.held_out().over(data, batch_size=size), loss=loss) for size in (22, 4)
    )
    x, _ = next(iter(toy_run.held_out().over(data, batch_size=22).epoch(0)))
    scores = net.infer(x).astype(np.float64)
    counted = data.labels != ignore_index
    sample_losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(22), data.labels]
    expected = (weight[data.labels] * sample_losses)[counted].sum() / weight[data.labels][counted].sum()
    for evaluation in (in_one_batch, in_small_batches):
        assert evaluation.loss == pytest.approx(expected, rel=1e-6)
        assert evaluation.accuracy == (scores.argmax(axis=1) == data.labels)[counted].mean()


def test_a_run_resumed_within_an_epoch_keeps_its_sums_of_class_weights(tmp_path):
    def run(name, stop=None, **options):
        trainer = toy_run.trainer(lr=1e-30, loss=SoftmaxCrossEntropy(weight=(1, 5, 0.25)))
        toy_run.fit(trainer, run_dir=tmp_path / name, callbacks=[toy_run.StopAt(stop)], epochs=1, **options)
        return trainer

    uninterrupted = run("whole")
    run("cut", stop=2)
    assert run("cut", resume=True).records == uninterrupted.records


def test_a_checkpoint_with_class_weights_but_no_sum_of_them_is_resumed(tmp_path):
    """Older versions averaged losses with class weights over the samples, and stored no sum of class weights."""
    loss = SoftmaxCrossEntropy(weight=(1, 2, 3))
    toy_run.fit(toy_run.trainer(loss=loss), run_dir=tmp_path, callbacks=[toy_run.StopAt(7)])
    loaded = checkpoint.load(tmp_path / "last.safetensors")
    assert len(loaded.state["totals"]) == 5
    assert loaded.state["batch"] == 2
    for name in ("totals", "read"):
        loaded.state[name] = loaded.state[name][:4]
    checkpoint.save(tmp_path / "last.safetensors", loaded)
    resumed, uninterrupted = toy_run.trainer(loss=loss), toy_run.trainer(loss=loss)
    toy_run.fit(resumed, run_dir=tmp_path, resume=True)
    toy_run.fit(uninterrupted)
    assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
    assert resumed.history[0] == uninterrupted.history[0]
    assert resumed.history[2] == uninterrupted.history[2]


@pytest.mark.kernels
def test_captured_steps_with_class_weights_have_the_bits_of_uncaptured_ones():
    results = []
    for graph in (True, False):
        loss = SoftmaxCrossEntropy(0.1, weight=[1, 2, 0.5], ignore_index=2)
        trainer = Trainer(toy_run.net().to("emulated"), "sgd", lr=0.1, loss=loss, graph=graph)
        with warnings.catch_warnings():
            warnings.simplefilter("error", gc.training.UncapturedWarning)
            trainer.fit(toy_run.loader(device="emulated"), epochs=2, progress=False)
        results.append((trainer.records, np.array(to_numpy(trainer.net[1]["weight"]))))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_ignored_labels_count_in_no_metric():
    trainer = Trainer(toy_run.net(), loss=SoftmaxCrossEntropy(ignore_index=9))
    data = toy_run.images(22)
    x = (data.images / 128 - 1).astype(np.float32)
    labels = np.where(np.arange(22) % 2, data.labels, 9)
    trainer.fit((x, labels), epochs=1, batch_size=22, progress=False)
    measured = gc.training.evaluate(trainer.net, (x, labels), loss=trainer.loss, metrics=["top-1", "confusion"])
    on_known = gc.training.evaluate(trainer.net, (x[1::2], data.labels[1::2]), metrics=["top-1", "confusion"])
    np.testing.assert_allclose(measured.loss, on_known.loss, rtol=1e-6)
    assert measured.samples == 11
    assert measured.accuracy == measured.metrics["top_1"] == on_known.accuracy
    np.testing.assert_array_equal(measured.metrics["confusion"], on_known.metrics["confusion"])
    without_labels = gc.training.evaluate(trainer.net, (x, np.full(22, 9)), loss=trainer.loss)
    assert (without_labels.loss, without_labels.samples) == (0, 0)


@pytest.mark.parametrize("ignored", [-100, -1, 1, 255])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_an_ignored_label_may_be_any_integer_in_every_kind_of_data(dtype, ignored):
    """PyTorch ignores -100 by default; class maps often use 255. The ignored label is no class. A split puts the images
    that have it into the training part."""
    data = toy_run.images(22)
    images = data.images if dtype == np.uint8 else (data.images / 128 - 1).astype(dtype)
    labels = np.where(np.arange(22) % 2, data.labels, ignored)
    loss, counted = SoftmaxCrossEntropy(ignore_index=ignored), int((labels != ignored).sum())
    pairs, batches = [*zip(images, labels)], [(images[:12], labels[:12]), (images[12:], labels[12:])]
    for given, options in (((images, labels), {"validation": 0.4}), (pairs, {}), (batches, {"validation": batches})):
        trainer = Trainer(toy_run.net(), loss=loss)
        trainer.fit(given, epochs=1, batch_size=22, progress=False, **options)
        assert trainer.net.classes == (None if given is batches else ["0", "1", "2"])
        assert all(trainer.history[-1].get(f"{part}_accuracy") is not None for part in ["train", *options])
        measured = evaluate(trainer.net, given, loss=loss, confusion=True)
        assert measured.samples == measured.confusion.sum() == counted
    wrong = np.where(labels == ignored, -7, labels)
    for given in ((images, wrong), [*zip(images, wrong)], [(images, wrong)]):
        with pytest.raises(ValueError, match="must be 0 or more, received -7"):
            evaluate(trainer.net, given, loss=loss)


def test_a_batch_of_ignored_labels_changes_no_parameter_and_is_recorded():
    trainer = Trainer(toy_run.net(), loss=SoftmaxCrossEntropy(ignore_index=9), momentum=0)
    x = (toy_run.images(8).images / 128 - 1).astype(np.float32)
    before = {name: param.copy() for name, param in trainer.net.params().items()}
    trainer.fit((x, np.full(8, 9)), epochs=1, batch_size=8, progress=False, metrics_every=1)
    assert toy_run.same_arrays(trainer.net.params(), before)
    assert (trainer.records[0]["loss"], trainer.records[0]["accuracy"]) == (0, None)
