"""Training toward targets that are floats: probabilities of classes."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import asarray, losses, to_numpy
from gpuconv.training import Trainer
from tests.training import small

DEVICES = ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)]


class Rows:
    """One batch, twice an epoch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def epoch(self, epoch, start_batch=0):
        return iter([(self.x, self.y)] * (2 - start_batch))


def batch(device, targets):
    images = small.images(8).images.astype(np.float32) / 128 - 1
    return asarray(images, device), asarray(targets, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shards", [None, 2])
def test_one_hot_rows_train_as_labels_do(device, shards):
    labels = small.images(8).labels
    trained = []
    for targets in (labels, np.eye(3, dtype=np.float32)[labels]):
        made = Trainer(small.net().to(device), "sgd", lr=0.1, shards=shards, loss=losses.SoftmaxCrossEntropy(0.1))
        x, y = batch(device, targets)
        made.fit(Rows(x, y), epochs=3, progress=False)
        measured = gc.training.evaluate(made.net, Rows(x, y), metrics=["top-2", "confusion"])
        trained.append((to_numpy(made.net[1]["weight"]), measured, made.history[-1]))
    (weight, one, record), (soft_weight, two, soft_record) = trained
    np.testing.assert_allclose(soft_weight, weight, rtol=1e-4, atol=1e-6)
    assert soft_record["train_accuracy"] == record["train_accuracy"] > 0.3
    assert (two.accuracy, two.metrics["top_2"]) == (one.accuracy, one.metrics["top_2"])
    np.testing.assert_array_equal(two.metrics["confusion"], one.metrics["confusion"])
