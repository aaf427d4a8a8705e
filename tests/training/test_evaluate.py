"""Evaluation: sums over batches of unequal size, confusion, averages over augmented copies."""

import numpy as np
import pytest

from gpuconv import asarray, losses, to_numpy
from gpuconv.data import Loader, Normalization
from gpuconv.training import evaluate
from gpuconv.training.running_metrics import Totals
from gpuconv.training.tta import TTA, averaged_scores, views
from tests.devices import kernel_devices
from tests.training import toy_run


def batches(batch_size):
    data = toy_run.images(13, seed=2)
    return Loader(data, batch_size, normalization=Normalization.from_dataset(data), shuffle=False)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_results_do_not_depend_on_the_batch_size(loss):
    net = toy_run.net()
    x, labels = next(iter(batches(13).epoch(0)))
    scores = net.forward(x)
    expected = float(losses.get(loss)(scores, labels)[0])
    for size in (13, 5, 1):
        evaluation = evaluate(net, batches(size), loss=loss)
        assert evaluation.samples == 13
        assert evaluation.loss == pytest.approx(expected, rel=1e-5)
        assert evaluation.accuracy == (scores.argmax(1) == labels).mean()
        assert evaluation.confusion is None


def test_confusion_counts_true_classes_in_rows():
    net = toy_run.net()
    x, labels = next(iter(batches(13).epoch(0)))
    chosen = net.forward(x).argmax(1)
    expected = np.array([[((labels == i) & (chosen == j)).sum() for j in range(3)] for i in range(3)])
    evaluation = evaluate(net, batches(4), confusion=True)
    np.testing.assert_array_equal(evaluation.confusion, expected)
    assert np.trace(evaluation.confusion) / 13 == pytest.approx(evaluation.accuracy)


def test_evaluation_changes_nothing():
    net = toy_run.net()
    before = {name: value.copy() for name, value in net.state_dict().items()}
    evaluate(net, batches(4), tta="mirror+shift")
    assert toy_run.same_arrays(net.state_dict(), before)


def test_views_are_the_batch_its_shifts_and_their_mirror_images():
    x = np.arange(2 * 3 * 4 * 1, dtype=np.float32).reshape(2, 3, 4, 1) + 1
    shares, images = zip(*views(x, "mirror+shift"))
    assert shares == (0.25, 0.125, 0.125) * 2
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(images[0], x)
    np.testing.assert_array_equal(images[1], padded[:, :3, :4])
    np.testing.assert_array_equal(images[2], padded[:, 2:, 2:])
    mirrored = np.pad(x[:, :, ::-1], [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    for view, expected in zip(images[3:], (x[:, :, ::-1], mirrored[:, :3, :4], mirrored[:, 2:, 2:])):
        np.testing.assert_array_equal(view, expected)
    assert all(view.flags.c_contiguous and view.dtype == x.dtype for view in images)


@pytest.mark.parametrize("tta", TTA)
def test_the_weights_of_the_views_add_up_to_one(tta):
    shares = [share for share, _ in views(np.zeros((1, 2, 2, 1), np.float32), tta)]
    assert len(shares) == TTA[tta]
    assert sum(shares) == 1


def test_shifted_views_of_an_image_one_pixel_high_are_refused():
    with pytest.raises(ValueError, match=r"tta shift needs .* at least 2 pixels, received \(1, 5, 1\)"):
        list(views(np.zeros((1, 1, 5, 1), np.float32), "shift"))


@pytest.mark.parametrize("device", ["numpy", *kernel_devices()])
def test_scores_are_averaged_over_the_views(device):
    net = toy_run.net()
    x, labels = next(iter(batches(13).epoch(0)))
    expected = sum(share * net.forward(view) for share, view in views(x, "mirror+shift"))
    net.to(device)
    averaged = to_numpy(averaged_scores(net, asarray(x, device), "mirror+shift"))
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-6)
    if device == "numpy":
        assert evaluate(net, batches(6), tta="mirror+shift").accuracy == (expected.argmax(1) == labels).mean()


def test_evaluating_on_no_images_is_an_error():
    class Empty:
        def epoch(self, epoch):
            return iter(())

    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(toy_run.net(), Empty())


def test_totals_count_the_steps_before_the_first_nonfinite_loss():
    totals = Totals("numpy")
    scores, labels = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([1, 1])
    for loss in (1.5, 0.5, np.inf, 1.0):
        totals.add(np.array(loss), scores, labels)
    sums = totals.read()
    assert sums.finite_steps == 2
    assert sums.samples == 8
    assert sums.correct == 4  # the first of equal scores is chosen
    assert sums.loss_sum == np.inf


@pytest.mark.parametrize("ignore_index", [None, 1])
def test_a_loss_with_class_weights_is_one_mean_over_all_weights(ignore_index):
    """For any batch size the loss equals PyTorch's cross_entropy of all images at once; the accuracy counts images."""
    net, data = toy_run.net(), toy_run.images(22)
    weight = np.array([1, 5, 0.25], np.float32)
    loss = losses.SoftmaxCrossEntropy(weight=weight, ignore_index=ignore_index)
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


def test_an_epoch_with_class_weights_resumes_with_its_sums(tmp_path):
    def run(name, stop=None, **options):
        trainer = toy_run.trainer(lr=1e-30, loss=losses.SoftmaxCrossEntropy(weight=(1, 5, 0.25)))
        toy_run.fit(trainer, run_dir=tmp_path / name, callbacks=[toy_run.StopAt(stop)], epochs=1, **options)
        return trainer

    uninterrupted = run("whole")
    run("cut", stop=2)
    assert run("cut", resume=True).records == uninterrupted.records
