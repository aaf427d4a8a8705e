"""Snapshots of a run: they change no bit of it, and a failing one does not end it."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from gpuconv.layers import Conv2D, Flatten, Linear, MaxPool2D
from gpuconv.live import attribution, pictures, snapshots
from gpuconv.live.budget import Budget, Limits
from tests.live.sessions import CONV, HubWithClient, checkpoint_arrays_of, do, unpack, wait_for


def test_watching_a_run_does_not_change_its_bits(open_session):
    """Snapshots, gradients, maps and explanations are computed between two steps."""
    alone = open_session(CONV, changes={"epochs": 8})
    wait_for(alone, lambda: alone.phase == "finished")
    watched = open_session(CONV, start=False, changes={"epochs": 8})
    watched.view.hub = HubWithClient()
    watched.view.budget = Budget({name: Limits(0.0, 1.0) for name in watched.view.budget.limits})
    watched.start()
    maps = itertools.cycle(attribution.MAP_KINDS)
    while watched.phase != "finished":
        for kind in pictures.DISPLAYS:
            do(watched, "look", kind=kind, test=3, map=next(maps))
        assert do(watched, "explain", layer="conv1", at=[1, 2, 0])["error"] < 1e-4
    assert checkpoint_arrays_of(watched) == checkpoint_arrays_of(alone)
    assert {
        "state",
        "curves",
        "picture",
        "examples",
        "scales",
        "confusion",
        "net",
        "log",
        "map",
    } <= watched.hub.put_names


def test_a_picture_that_fails_is_reported_once_and_training_continues(open_session, monkeypatch):

    def broken(*_):
        raise ValueError("no picture")

    monkeypatch.setattr(snapshots, "picture", broken)
    session = open_session()
    for _ in range(5):
        do(session, "look", kind="filters")
    steps = session.trainer.steps
    wait_for(session, lambda: session.trainer.steps > steps + 5)
    assert [line for line in session.view.log if "cannot show" in line] == ["cannot show picture: no picture"]


def test_an_image_of_a_single_gray_is_shown(open_session):
    session = open_session(CONV)
    for gray in range(0, 256, 5):
        do(session, "look", image=np.full((8, 8, 1), gray, np.uint8))
    assert not [line for line in session.view.log if "cannot show" in line]


def test_an_image_of_another_dtype_or_shape_is_refused_and_the_shown_one_stays(open_session):
    session = open_session(start=False)
    before = session.view.image
    for image, received in (
        (np.zeros((8, 8), np.uint8), r"uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 1), np.float32), r"float32 of shape \(8, 8, 1\)"),
    ):
        with pytest.raises(ValueError, match=rf"image must be uint8 of shape \(8, 8, 1\), received {received}"):
            session.look(image=image)
    assert session.view.image is before


def test_infinities_and_nan_in_an_explanation_are_text_because_json_lacks_them(open_session):
    row = [Conv2D(2, 3, padding=1), MaxPool2D(3, stride=2, padding=1), Flatten(), Linear(10)]
    session = open_session(row, start=False)
    pooled = session.explain("pool1", [0, 0, 0])
    assert pooled["window"][0] == ["-inf"] * 3
    assert {term["input"] for term in pooled["terms"][4:]} == {"-inf"}
    json.dumps(pooled, allow_nan=False)
    session.segment.net["conv1"]["weight"][...] = np.nan
    diverged = session.explain("conv1", [1, 1, 0])
    assert diverged["value"] == diverged["total"] == diverged["error"] == "nan"
    json.dumps(diverged, allow_nan=False)


def test_a_net_that_diverged_is_still_shown(open_session):
    session = open_session(start=False)
    session.look(test=2)
    best = unpack(session.hub.get("picture")[1])[0]["best"]
    assert [share for _, share in best] == sorted((share for _, share in best), reverse=True)
    session.segment.net["fc1"]["weight"][...] = np.nan
    session.view.budget.make_due()
    session.look(kind="activations")
    assert not [line for line in session.view.log if "cannot show" in line]
    assert {share for _, share in unpack(session.hub.get("picture")[1])[0]["best"]} == {"nan"}
    assert unpack(session.hub.get("examples")[1])[0]["right"] == 0


def test_examples_begin_with_those_classified_correctly(open_session, sets):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 5)
    session.close()
    head = unpack(snapshots.examples(session.segment, sets))[0]
    chosen = session.segment.net.predict(sets.test.images).argmax(axis=1)
    assert (head["right"], head["of"]) == ((chosen == sets.test.labels).sum(), 60)
    assert 0 < head["right"] < 60
    rights = [answer["right"] for answer in head["shown"]]
    assert rights == sorted(rights, reverse=True)
    for answer in head["shown"]:
        assert answer["best"][0][0] == chosen[answer["index"]]
        assert answer["right"] == (answer["best"][0][0] == answer["truth"] == sets.test.labels[answer["index"]])


def test_images_whose_label_is_ignored_count_neither_as_right_nor_as_wrong(open_session, sets):
    loss = "SoftmaxCrossEntropy(label_smoothing=0.0, ignore_index=3)"
    session = open_session(changes={"loss": loss}, start=False)
    labels = sets.test.labels
    head = unpack(snapshots.examples(session.segment, sets))[0]
    assert head["of"] == (labels != 3).sum() < 60
    assert 3 not in {answer["truth"] for answer in head["shown"]}
    for at, truth in ((np.flatnonzero(labels == 3)[0], None), (np.flatnonzero(labels == 4)[0], 4)):
        frame = snapshots.picture(session.segment, "gradients", sets.test.images[at], int(labels[at]), {})
        assert unpack(frame)[0]["truth"] == truth


def test_scales_are_those_of_parameters_that_were_there_before_the_step():
    before = {"weight": np.zeros(2), "other shape": np.zeros(3)}
    after = {"weight": np.array([3.0, 4.0]), "other shape": np.ones(2), "new": np.ones(2)}
    root = np.sqrt(12.5)
    assert snapshots.scales(before, after) == [{"name": "weight", "weight": root, "update": root}]


def test_scales_that_are_not_finite_become_text_and_large_ones_do_not_overflow():
    before = {"nan": np.zeros(2, np.float32), "inf": np.array([np.inf, 0], np.float32), "3e30": np.zeros(1, np.float32)}
    after = {"nan": np.array([np.nan, 1], np.float32), "inf": before["inf"], "3e30": np.array([3e30], np.float32)}
    large = float(np.float32(3e30))
    rows = snapshots.scales(before, after)
    assert [(row["weight"], row["update"]) for row in rows] == [("nan", "nan"), ("inf", "nan"), (large, large)]
    snapshots.encode(rows)


def test_curves_have_at_most_400_points_and_the_newest_one():
    records = [{"event": "step", "step": step, "loss": 1.0, "accuracy": 0.5} for step in range(1, 1002)]
    records += [{"event": "change", "step": 7, "settings": {"lr": 0.1, "momentum": 0.5}}]
    found = snapshots.curves(records)
    assert [step for step, _, _ in found["readings"]] == [*range(2, 1002, 3)]
    assert (found["train"], found["changes"]) == ([], [[7, "lr 0.1, momentum 0.5"]])


def test_the_newest_confusion_matrix_is_that_of_the_validation_images_if_there_are_any():
    records = [{"test_confusion": [[1]]}, {"test_confusion": [[2]], "validation_confusion": [[3]]}, {}]
    assert snapshots.confusion(records, "a") == {"part": "validation", "matrix": [[3]], "classes": ["a"]}
    assert snapshots.confusion(records[:1], "a")["part"] == "test"
    assert snapshots.confusion([{}], "a") is None


def test_a_pause_refreshes_the_picture_the_examples_and_the_curves(open_session):
    session = open_session(start=False)
    session.view.budget = Budget({name: Limits(1000.0, 1.0) for name in session.view.budget.limits})
    session.start()
    while session.trainer.steps < 3:
        time.sleep(0.005)
    before = {name: session.hub.get(name)[0] for name in ("picture", "examples", "curves")}
    do(session, "pause")
    end = time.monotonic() + 20
    while any(session.hub.get(name)[0] <= number for name, number in before.items()):
        assert time.monotonic() < end
        time.sleep(0.005)
