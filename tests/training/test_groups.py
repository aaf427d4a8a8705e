"""Parameter groups with separate optimizers, and Muon."""

import numpy as np
import pytest

from gpuconv.training import Groups, Muon, optimizers, schedules
from tests.training import toy_run

SHAPES = {"conv1.weight": (3, 2, 2, 1), "conv1.bias": (3,), "fc1.weight": (4, 6)}
TEXT = (
    "filters -> muon:lr=0.2,momentum=0.6,nesterov=true; *.bias -> sgd:lr=0.5 @ linear:2; * -> sgd:lr=0.1,momentum=0.9"
)


def arrays(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}


def test_each_group_follows_its_own_optimizer_and_rate():
    params, grads = arrays(0), arrays(1)
    expected = arrays(0)
    alone = {
        "conv1.weight": optimizers.get("muon:momentum=0.6,nesterov=true", lr=0.2),
        "conv1.bias": optimizers.get("sgd", lr=0.5),
        "fc1.weight": optimizers.get("sgd:momentum=0.9", lr=0.1),
    }
    groups = optimizers.get(TEXT)
    groups.begin(total=8, epoch=2)
    groups.build(params)
    for step in range(6):
        factor = 1 - step / 8
        groups.step(params, grads, lr=factor)
        for name, optimizer in alone.items():
            rate = max(0.0, 1 - step / 4) if name == "conv1.bias" else factor
            optimizer.step({name: expected[name]}, grads, lr=rate * optimizer.lr)
        if step == 3:  # the last at which the rate of the bias is above 0
            final_bias = params["conv1.bias"].copy()
    assert toy_run.same_arrays(params, expected)
    np.testing.assert_array_equal(params["conv1.bias"], final_bias)


def test_muon_normalizes_the_parameter_and_takes_an_orthogonal_step():
    draw = np.random.default_rng(0)
    param, grad = {"w": draw.standard_normal((5, 3, 2, 2))}, {"w": draw.standard_normal((5, 3, 2, 2))}
    before = param["w"] / np.linalg.norm(param["w"]) * np.sqrt(5)
    Muon(lr=1.0, momentum=0.5, nesterov=False).step(param, grad)
    step = (before - param["w"]).reshape(5, -1)
    left, _, right = np.linalg.svd(grad["w"].reshape(5, -1), full_matrices=False)
    values = left.T @ step @ right.T  # the step's length along each singular direction, near 1 after Newton-Schulz
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-10)
    assert 0.5 < np.diag(values).min() <= np.diag(values).max() < 1.3


def test_a_run_with_groups_resumes_with_the_same_bits(tmp_path):
    text = "filters -> muon:lr=0.05; * -> sgd:lr=0.05,momentum=0.9 @ linear:2"
    uninterrupted = toy_run.trainer(optimizer=text, lr=1.0, schedule="linear")
    toy_run.fit(uninterrupted, epochs=3)
    first = toy_run.trainer(optimizer=text, lr=1.0, schedule="linear")
    toy_run.fit(first, epochs=3, run_dir=tmp_path / "run", callbacks=[toy_run.StopAt(7, "enough")])
    second = toy_run.trainer(optimizer=text, lr=1.0, schedule="linear")
    toy_run.fit(second, epochs=3, run_dir=tmp_path / "run", resume=True)
    assert second.steps == uninterrupted.steps
    assert toy_run.same_arrays(second.net.state_dict(), uninterrupted.net.state_dict())
    assert toy_run.same_arrays(second.optimizer.state_dict(), uninterrupted.optimizer.state_dict())


def test_bad_groups_are_refused():
    with pytest.raises(ValueError, match=r"'fc1\.weight' is in no group"):
        optimizers.get("filters -> muon; *.bias -> sgd").build(arrays(0))
    with pytest.raises(ValueError, match=r"group 'norm\*' has no parameter"):
        optimizers.get("norm* -> sgd; * -> sgd").build(arrays(0))
    with pytest.raises(ValueError, match="a group is written like"):
        optimizers.get("filters -> muon; sgd")
    with pytest.raises(ValueError, match="did you mean 'muon'"):
        optimizers.get("filters -> moun")
    with pytest.raises(ValueError, match="settings of each group's optimizer"):
        optimizers.get(TEXT, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"not conv1\.bias"):
        Muon().build(arrays(0))
    with pytest.raises(ValueError, match="takes no weight_decay"):
        Muon(weight_decay=0.1)
    groups = optimizers.get(TEXT)
    groups.build(arrays(0))
    with pytest.raises(ValueError, match="begin"):
        groups.advance()


def test_the_config_recreates_the_groups():
    config = optimizers.get(TEXT, lr=0.5).config()
    assert config["optimizer"] == "groups"
    assert Groups(groups=config["groups"], lr=config["lr"]).config() == config
    assert optimizers.get(**config).config() == config


def test_the_linear_schedule_falls_to_zero_over_its_length():
    assert [schedules.get("linear")(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [schedules.get("linear:2")(step, 100, 2) for step in (0, 2, 4, 9)] == [1, 0.5, 0, 0]
    assert str(schedules.get("linear:2")) == "linear:2"
    assert str(schedules.get("linear")) == "linear"
