"""Runs of older versions (`tests/fixtures/runs`) can be resumed and used unchanged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpuconv import checkpoint, losses, models
from gpuconv.cli import main
from gpuconv.layers import LAYERS
from gpuconv.training import schedules
from gpuconv.training.optimizers import OPTIMIZERS
from tests.fixtures.runs import library, make

STORED = Path(__file__).parent / "fixtures" / "runs"
COMMANDS = list(make.RUNS)
RUNS = [*COMMANDS, "library"]
OTHER_BLAS = 1e-5  # OpenBLAS's kernels for Prescott, SkylakeX and Zen gave results up to 5.4e-7 apart


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """A copy of the stored runs as the current folder."""
    pytest.importorskip("PIL")
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "*.md"))
    monkeypatch.chdir(tmp_path)


def resume(name):
    if name == "library":
        library.fit("library/interrupted", resume=True)
    else:
        assert main(["train", "--resume", f"{name}/interrupted", "--device", "numpy"]) == 0


def results_of(folder):
    """A run's arrays, position and records; not the settings, since later versions may store more."""
    results = {"metrics": [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]}
    for which in ("last", "best"):
        stored = checkpoint.load(Path(folder, f"{which}.safetensors"))
        results[which] = stored.tensors | {
            key: stored.state[key] for key in ("epoch", "batch", "loss_scale", "records")
        }
    return results


def largest_difference(one, other):
    """The difference between the numbers in two nested values, relative for numbers above 1. The rest must be equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max(largest_difference(one[key], other[key]) for key in one)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max(map(largest_difference, one, other), default=0.0)
    if one is None or isinstance(one, str):
        assert one == other
        return 0.0
    one, other = np.asarray(one), np.asarray(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    one, other = one.astype(float), other.astype(float)
    return float(np.max(np.abs(one - other) / np.maximum(np.abs(other), 1), initial=0.0))


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(name):
    """The stored run may come from another BLAS. Then both runs only have to be close to it."""
    stored = results_of(f"{name}/finished")
    shutil.rmtree(f"{name}/finished")
    make.train(name, "finished")
    uninterrupted = largest_difference(results_of(f"{name}/finished"), stored)
    assert uninterrupted < OTHER_BLAS
    resume(name)
    resumed = largest_difference(results_of(f"{name}/interrupted"), stored)
    assert resumed < OTHER_BLAS
    assert resumed == 0 or uninterrupted > 0, (
        "here an uninterrupted run gives the stored bits, but a resumed one does not"
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_state_that_was_not_restored_is_detected(name):
    """The tolerance for another BLAS is too small to hide a forgotten state."""
    path = Path(f"{name}/interrupted/last.safetensors")
    stored, loaded = results_of(f"{name}/finished"), checkpoint.load(path)
    for key, array in loaded.tensors.items():
        if re.match(r"optimizer\.(velocity|exp_avg|square_average)", key):
            loaded.tensors[key] = np.zeros_like(array)
    checkpoint.save(path, loaded)
    resume(name)
    assert largest_difference(results_of(f"{name}/interrupted"), stored) > 10 * OTHER_BLAS


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("end", ["interrupted", "finished"])
def test_a_stored_run_can_be_evaluated_and_predicts(name, end, capsys):
    assert main(["evaluate", f"{name}/{end}", "--tta", "none", "--device", "numpy"]) == 0
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", capsys.readouterr().out)[1])
    if end == "finished":
        recorded = results_of(f"{name}/{end}")["metrics"][-1]["test_accuracy"]
        assert accuracy == pytest.approx(100 * recorded, abs=0.005)
    assert main(["predict", "photos/left/3.png", "--run-dir", f"{name}/{end}", "--device", "numpy"]) == 0
    scores = re.findall(r"^  [\w ]+? +([\d.]+) %", capsys.readouterr().out, re.M)
    assert sum(map(float, scores)) == pytest.approx(100, abs=0.5)


DEFAULTS = {  # settings that an older version did not store, and what they were then
    "frozen": [],
    "larger": False,
    "dilation": 1,
    "groups": 1,
    "bias": True,
    "fit": "floor",
    "algo": "auto",
    "weight_init": "he_normal",
    "bias_init": "zeros",
    "weight_decay": 0.0,
    "decay": "all",
    "nesterov": False,
    "precision": "float32",
    "loss_scale": None,
    "validation": None,
    "drop_last": False,
    "augmentation": "none",
    "whiten": 0,
    "tta": "none",
}
NAMES = {  # a stored name, its table, and an invented former name
    "Conv2D": (LAYERS, "Convolution"),
    "sgd": (OPTIMIZERS, "descent"),
    "adam": (OPTIMIZERS, "moments"),
    "seed-net": (models.MODELS, "seed"),
    "one-cycle": (schedules.SCHEDULES, "circle"),
    "SoftmaxCrossEntropy": (losses.LOSSES, "Softmax"),
}


def without_defaults(value):
    """The settings without the entries of DEFAULTS that have their default. A version that did not have these settings
    yet stored nothing for them."""
    if isinstance(value, list):
        return [without_defaults(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {key: entry for key, entry in value.items() if key not in DEFAULTS or entry != DEFAULTS[key]}
    return {key: without_defaults(entry) for key, entry in kept.items()}


def with_other_names(value):
    text = json.dumps(value).replace("(label_smoothing=0.0)", "()")  # an option that the loss did not have yet
    for name, (_, other) in NAMES.items():
        text = re.sub(rf"(?<![\w-]){name}(?![\w-])", other, text)
    return json.loads(text)


@pytest.mark.parametrize("change", [without_defaults, with_other_names])
@pytest.mark.parametrize("name", RUNS)
def test_a_missing_setting_has_its_default_and_old_names_are_found(name, change, monkeypatch):
    for own, (table, other) in NAMES.items():
        kinds = table | {getattr(kind, "__name__", ""): kind for kind in table.values()}
        monkeypatch.setitem(table, other, kinds[own])
    run, stored = Path(f"{name}/interrupted"), results_of(f"{name}/finished")
    content = json.loads((run / "run.json").read_text())
    loaded = checkpoint.load(run / "last.safetensors")
    changed = change(content["settings"])
    assert changed != content["settings"]
    (run / "run.json").write_text(json.dumps(content | {"settings": changed}))
    loaded.state |= {"net": change(loaded.state["net"]), "settings": changed}
    checkpoint.save(run / "last.safetensors", loaded)
    if name != "library":
        assert main(["evaluate", str(run), "--device", "numpy"]) == 0
    resume(name)
    assert largest_difference(results_of(run), stored) < OTHER_BLAS
