"""The settings of a run: rates in options, checks, and the recipe in one line."""

from __future__ import annotations

import math

import pytest

from gpuconv.cli import run_settings
from tests.defaults import IMMUTABLE_VALUE, dataclass_flags


def test_a_learning_rate_given_twice_must_be_the_same():
    assert run_settings.rate_in({"optimizer": "sgd:lr=0.3", "lr": 0.3}) == {"lr": 0.3}
    assert run_settings.rate_in({"optimizer": "sgd:LR=0.3"}) == {"lr": 0.3}
    assert run_settings.rate_in({"optimizer": "sgd"}) == run_settings.rate_in({}) == {}
    assert run_settings.rate_in({"optimizer": "* -> sgd:lr=0.3"}) == {"lr": 1.0}
    with pytest.raises(ValueError, match=r"--lr is 0.2 and --optimizer says lr=0.3; leave one of them out"):
        run_settings.rate_in({"optimizer": "sgd:lr=0.3", "lr": 0.2})
    with pytest.raises(ValueError, match=r"'sgd:' has an empty part; write it like 'sgd:momentum=0\.9'"):
        run_settings.rate_in({"optimizer": "sgd:"})


def test_an_invalid_setting_is_refused_with_the_reason():
    """The settings of a stored run may have been edited by hand."""
    valid = run_settings.with_recipe({})
    run_settings.check(valid)
    for name, value, error in (
        ("epochs", 0, "--epochs: expected a whole number of at least 1"),
        ("epochs", 2.0, "--epochs"),
        ("batch_size", True, "--batch-size"),
        ("lr", math.inf, "--lr: expected a number above 0"),
        ("optimizer", "adm", "did you mean 'adam'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("plateau", "five", "neither a number nor key=value"),
        ("plateau", "5", "give --validation 0.1 too, or watch=train_loss"),
        ("clip", "0", "must be above 0, received 0"),
        ("clip", "valu:1", "did you mean 'value'"),
        ("optimizer", "sgd:", "'sgd:' has an empty part; write it like 'sgd:momentum=0.9'"),
        ("loss", "softmax:", "'softmax:' has an empty part; write it like 'softmax:label_smoothing=0.1'"),
        ("ema", 1.0, "--ema: expected a fraction from 0 to below 1"),
        ("accumulate", 0, "--accumulate: expected a whole number of at least 1"),
        ("loss", "softmx", "did you mean 'softmax'"),
        ("tta", "miror", "did you mean 'mirror'"),
        ("precision", "float8", "unknown precision 'float8'"),
        ("augment", "flop", "did you mean 'flip'"),
        ("whiten", -1, "--whiten: expected a whole number of at least 0"),
        ("seed", -1, "--seed"),
        ("sync_batch_norm", True, "--sync-batch-norm must be int, received True"),
    ):
        changed = run_settings.Settings(**{field: getattr(valid, field) for field in vars(valid)} | {name: value})
        with pytest.raises((ValueError, TypeError), match=error):
            run_settings.check(changed)


def test_settings_compare_by_value():
    assert dict(dataclass_flags(["cli.run_settings:Settings"])) == {"cli.run_settings:Settings": IMMUTABLE_VALUE}


def test_a_recipe_is_written_in_one_line_without_the_settings_that_are_off():
    assert str(run_settings.with_recipe({})) == (
        "30 epochs, batches of 64, sgd:momentum=0.9,nesterov=true,weight_decay=5e-4 lr 0.05, one-cycle, augment "
        "shift:1, loss softmax:label_smoothing=0.1, float32, seed 0"
    )
    line = str(run_settings.with_recipe({"data": "cifar10:x", "model": "airbench94", "lr": 0.5}, "airbench94"))
    assert line.startswith("8 epochs, batches of 2000, filters -> muon:lr=0.24")
    assert line.endswith("float32, seed 0, whitening filters from 5,000 images, tta mirror+shift")
    assert " lr 0.5, linear, augment alternating-flip,shift:2,reflect, " in line


def test_a_chosen_rate_or_optimizer_replaces_the_rate_of_the_file():
    groups = "filters -> muon:lr=0.02; * -> sgd:lr=0.05"
    for file, chosen, optimizer, rate in (
        (("adam:lr=0.001", 0.001), {"lr": 0.01}, "adam", 0.01),
        (("adam:beta1=0.8,LR=0.001,beta2=0.9", 0.001), {"lr": 0.01}, "adam:beta1=0.8,beta2=0.9", 0.01),
        (("adam,lr=0.001", 0.001), {"lr": 0.01}, "adam", 0.01),
        (
            ("sgd:lr=0.1,momentum=0.9,nesterov=true,decay=weights", 0.1),
            {"lr": 0.2},
            "sgd:momentum=0.9,nesterov=true,decay=weights",
            0.2,
        ),
        (("adam:lr=0.001", 0.001), {"seed": 3}, "adam:lr=0.001", 0.001),
        (("adam:lr=0.001", 0.001), {"lr": 0.001}, "adam:lr=0.001", 0.001),
        (("adam:lr=0.001", None), {"optimizer": "adam:beta1=0.8"}, "adam:beta1=0.8", 0.001),
        (("adam:lr=0.001", None), {"optimizer": "adam:lr=0.002"}, "adam:lr=0.002", 0.002),
        (("adam:lr=0.001", None), {"optimizer": "lion"}, "lion", 0.05),
        (("sgd:momentum=0.9", 0.3), {"optimizer": "sgd"}, "sgd", 0.3),
        (("sgd", 0.3), {"optimizer": "adam"}, "adam", 0.05),
        (("sgd", 0.3), {"optimizer": "adam:lr=0.002"}, "adam:lr=0.002", 0.002),
        ((groups, 1.0), {"lr": 0.5}, groups, 0.5),
        ((groups, 1.0), {"optimizer": "adam"}, "adam", 0.05),
        (("sgd", 0.3), {"optimizer": groups}, groups, 1.0),
    ):
        config = {"model": "tiny-vgg", "optimizer": file[0]} | ({} if file[1] is None else {"lr": file[1]})
        settings = run_settings.with_recipe(run_settings.override(config, chosen))
        assert (settings.optimizer, settings.lr) == (optimizer, rate), (file, chosen)


def test_another_optimizer_does_not_take_the_factor_of_a_recipes_groups_for_its_rate():
    assert run_settings.with_recipe({"optimizer": "adam"}, "airbench94").lr == 0.05
    assert run_settings.with_recipe({"optimizer": "* -> sgd:lr=0.1"}, "airbench94").lr == 1.0
    assert run_settings.with_recipe({}, "airbench94").lr == 1.0
