"""The differences between two sets of settings are named."""

import itertools
import json

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.training import compare_settings, schedules
from gpuconv.training.plateau import Plateau


def test_differences_name_the_keys():
    there = {"net": {"layers": [{"k": 3}, {"k": 5}]}, "lr": 0.1, "gone": 1, "same": [1]}
    here = {"net": {"layers": [{"k": 3}, {"k": 7}]}, "lr": 0.2, "same": [1], "new": True}
    assert compare_settings.differences(there, here) == [
        "net.layers[1].k is 5 there and 7 here",
        "lr is 0.1 there and 0.2 here",
        "gone is 1 there and absent here",
        "new is absent there and true here",
    ]


def test_lists_of_unequal_length_differ_in_their_first_changed_entry_and_their_length():
    assert compare_settings.differences([{"k": 3}, 5, 6], [{"k": 4}, 5], "layers") == [
        "layers[0].k is 3 there and 4 here",
        "layers has 3 entries there and 2 here",
    ]
    assert compare_settings.differences([1, 2], [1], "layers") == ["layers has 2 entries there and 1 here"]
    assert compare_settings.differences([1, 2, 5], [1, 3], "x") == [
        "x[1] is 2 there and 3 here",
        "x has 3 entries there and 2 here",
    ]


def test_equal_values_have_no_differences():
    assert not compare_settings.differences(json.loads('{"a": [1, {"b": null}]}'), {"a": [1, {"b": None}]})


def test_values_of_different_types_differ_as_a_whole():
    values = {'{"a": 1}': {"a": 1}, "[1]": [1], "5": 5, "null": None}
    for there, here in itertools.permutations(values, 2):
        assert compare_settings.differences(values[there], values[here], "x") == [f"x is {there} there and {here} here"]


@pytest.mark.parametrize(
    ("name", "stored", "current"),
    [
        ("schedule", "linear:0.333333333333333", str(schedules.Linear(1 / 3))),
        ("schedule", "step:2,gamma=np.float64(0.3)", str(schedules.Step(2, 0.3))),
        ("loss", "Huber(delta=np.float32(0.3))", str(losses.Huber(np.float32(0.3)))),
        ("plateau", "5,factor=np.float32(0.5)", str(Plateau(5, factor=np.float32(0.5)))),
    ],
    ids=["linear schedule", "step schedule", "loss", "plateau"],
)
def test_numbers_that_an_older_version_wrote_in_another_form_are_equal(name, stored, current):
    assert stored != current
    assert compare_settings.setting_differences({name: stored}, {name: current}) == []


def test_a_message_about_a_value_without_a_name_begins_with_the_word_it():
    assert compare_settings.differences(1, 2) == ["it is 1 there and 2 here"]
