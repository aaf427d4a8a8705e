"""Parameter groups with separate optimizers."""

import numpy as np
import pytest

from gpuconv.training import Groups, optimizers
from tests import toy_run

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
        if step == 3:  # the last step in which the rate of the bias is above 0
            final_bias = params["conv1.bias"].copy()
    assert toy_run.same_arrays(params, expected)
    np.testing.assert_array_equal(params["conv1.bias"], final_bias)


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


class Thaw:
    """Trains only fc1 in the first epoch, all layers in the second, and all but fc1 in the third."""

    def on_start(self, trainer):
        if not trainer.steps:
            trainer.net.freeze()
            trainer.net["fc1"].unfreeze()

    def on_epoch(self, trainer, record):
        trainer.net.unfreeze()
        if record["epoch"] == 2:
            trainer.net["fc1"].freeze()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_all_parameters_of_a_group_may_be_frozen(precision, tmp_path):
    def trainer():
        text = "fc1.* -> adam:lr=0.01; * -> sgd:lr=0.1,momentum=0.9"
        return toy_run.trainer(optimizer=text, lr=1.0, schedule="constant", precision=precision)

    def fit(trainer, **options):
        toy_run.fit(trainer, train=toy_run.loader(dtype=trainer.net.dtype), validation=None, **options)

    uninterrupted = trainer()
    start = {name: value.copy() for name, value in uninterrupted.net.named_parameters()}
    thaw = Thaw()
    fit(uninterrupted, epochs=1, callbacks=[thaw])
    moved = {name for name, value in uninterrupted.net.named_parameters() if not np.array_equal(value, start[name])}
    assert moved == {"fc1.weight", "fc1.bias"}
    fit(uninterrupted, epochs=3, callbacks=[thaw])
    for steps in (2, 7, 12):
        stopped, resumed = trainer(), trainer()
        run = tmp_path / str(steps)
        fit(stopped, epochs=3, run_dir=run, callbacks=[Thaw(), toy_run.StopAt(steps, "enough")])
        fit(resumed, epochs=3, run_dir=run, resume=True, callbacks=[Thaw()])
        assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
        assert toy_run.same_arrays(resumed.optimizer.state_dict(), uninterrupted.optimizer.state_dict())


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
    groups = optimizers.get(TEXT)
    groups.build(arrays(0))
    with pytest.raises(ValueError, match="begin"):
        groups.advance()


def test_the_config_recreates_the_groups():
    config = optimizers.get(TEXT, lr=0.5).config()
    assert config["optimizer"] == "groups"
    assert Groups(groups=config["groups"], lr=config["lr"]).config() == config
    assert optimizers.get(**config).config() == config
