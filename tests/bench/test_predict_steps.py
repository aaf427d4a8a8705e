"""Predicted times of whole training steps and layers: the launches, bytes and convolutions that they count."""

from __future__ import annotations

import pytest

from bench import predict_steps
from gpuconv.backends.cuda.analysis.predict_time import GPUS, Model
from gpuconv.layers import BatchNorm, Branches, Conv2D, Upsample

H200 = GPUS["h200"]


def test_the_launches_of_a_step_are_counted_at_its_batch_size():
    """With a large batch, batch norm has so many partial moments that one more launch merges them."""
    few_images, many_images = (predict_steps.count_step("airbench94", size) for size in (4, 2000))
    assert many_images.launches - many_images.reductions > few_images.launches - few_images.reductions
    assert many_images.bytes > 50 * few_images.bytes


def test_a_step_has_only_the_gradients_that_are_needed():
    listed = [(entry.workload.c, entry.op) for entry in predict_steps.convolutions("airbench94", 2000)]
    assert listed[:4] == [(3, "fprop"), (24, "fprop"), (24, "dgrad"), (24, "wgrad")]  # the first filters are frozen
    assert len(listed) == 1 + 6 * 3
    assert len(predict_steps.convolutions("vgg-cifar", 128)) == 8 * 3 - 1


def test_the_bytes_of_a_sum_of_branches_include_the_gradient_that_dgrad_reads_and_adds_to():
    volume = 4 * 60 * 60 * 8 * 2
    branches = [[Conv2D(8, 1, bias=False)], [Conv2D(8, 1, bias=False)]]
    prediction = predict_steps.of_layer(Branches(branches, "add"), (4, 60, 60, 8), H200)
    for direction, volumes in (("forward", 3), ("backward", 1)):
        assert prediction[direction].counts.bytes == pytest.approx(volumes * volume, rel=0.01)


def test_the_bytes_of_a_slice_exclude_the_other_channels():
    volume = 4 * 6 * 6 * 8 * 2
    prediction = predict_steps.of_layer(Branches([[BatchNorm()], []]), (4, 6, 6, 8), H200)
    for direction, launches, volumes in (("forward", 3, 1 + 2 + 2), ("backward", 3, 2 + 3 + 3)):
        assert prediction[direction].counts.launches == launches
        assert prediction[direction].counts.bytes == pytest.approx(volumes * volume, abs=1000)


def test_the_bytes_and_the_time_of_an_upsampling_follow_from_its_launches():
    nearest, bilinear = (
        predict_steps.of_layer(Upsample(2, mode), (4, 6, 6, 8), H200) for mode in ("nearest", "bilinear")
    )
    small, large, padded = (4 * side**2 * 8 * 2 for side in (6, 12, 13))
    for direction in ("forward", "backward"):
        for prediction, launches, moved in (
            (nearest[direction], 1, small + large),
            (bilinear[direction], 3, small + large + large + padded + padded + large),
        ):
            assert prediction.counts.launches == launches
            # The tolerance covers the bytes of the filter and of the launches' argument structs.
            assert prediction.counts.bytes == pytest.approx(moved, abs=1000)
            assert prediction.total == prediction.counts.bytes / H200.copy + (launches - 1) * predict_steps.LAUNCH
    lines = [*predict_steps.layers_table(H200)]
    assert len(lines) == 1 + 2 * len(predict_steps.LAYERS)
    assert "Upsample bilinear 128x16x16x64 by 2" in lines[3]


def test_depthwise_convolutions_are_left_to_the_prediction_by_bytes():
    assert predict_steps.convolutions("mobilenet-v2", 1)[0].workload.groups == 1
    assert all(not entry.workload.depthwise for entry in predict_steps.convolutions("mobilenet-v2", 1))


def test_predicted_steps_are_labeled_and_shown_next_to_measured_ones(monkeypatch):
    counts = predict_steps.Counts(92, 12, 1e9)
    prediction = predict_steps.StepPrediction(counts, 19, 1, {"convolutions": 4e-3, "bytes": 9e-4, "launches": 1e-4})
    monkeypatch.setattr(predict_steps, "predict", lambda *_: prediction)
    ours = {"role": "ours", "name": "gpuconv graph", "status": "timed", "median": 4e-3}
    peer = {"role": "peer", "name": "graph", "status": "timed", "median": 7e-3}
    records = [
        {
            "entries": [
                {"key": "step airbench94-n2000 bfloat16", "sides": [ours, peer]},
                {"key": "step vgg-cifar-n128 bfloat16", "sides": [peer]},
            ]
        }
    ]
    head, airbench94, vgg, resnet18, note = predict_steps.table(Model.load(), H200, records)
    assert "predicted" in head
    assert airbench94.split()[-9:-4] == ["5.00", "4.00", "+25.0%;", "1", "of"]
    assert "none (PyTorch graph: 7.00)" in vgg
    assert "none;" in resnet18
    assert "is assumed" in note
