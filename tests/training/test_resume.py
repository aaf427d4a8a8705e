"""A run that was stopped and is resumed gives the same bits as one that never stopped."""

from dataclasses import dataclass

import numpy as np
import pytest

from gpuconv.layers import Flatten, Input, Layer, Linear, Sequential
from gpuconv.layers.base import Variable
from gpuconv.training import SGD, CheckpointError, SettingsError, Trainer
from tests import toy_run


@pytest.mark.slow
def test_a_run_stopped_after_any_step_resumes_with_the_same_bits(tmp_path):
    """In one process: stop after a step, continue in a new trainer, and compare with an uninterrupted run."""
    uninterrupted = toy_run.trainer()
    toy_run.fit(uninterrupted, epochs=2)
    for step in range(1, 2 * toy_run.STEPS_PER_EPOCH):
        toy_run.fit(toy_run.trainer(), epochs=2, run_dir=tmp_path / f"{step}", callbacks=[toy_run.StopAt(step)])
        second = toy_run.trainer()
        toy_run.fit(second, epochs=2, run_dir=tmp_path / f"{step}", resume=True)
        assert second.records == uninterrupted.records, step
        assert toy_run.same_arrays(second.net.state_dict(), uninterrupted.net.state_dict()), step
        assert toy_run.same_arrays(second.optimizer.state_dict(), uninterrupted.optimizer.state_dict()), step


def test_a_run_killed_before_its_first_checkpoint_starts_over(stopped_run, caplog):
    for path in stopped_run.iterdir():
        if path.name != "run.json":
            path.unlink()
    with pytest.raises(SettingsError, match="epochs is 3 there and 4 here"):
        toy_run.fit(toy_run.trainer(), run_dir=stopped_run, resume=True, epochs=4)
    trainer, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(trainer, run_dir=stopped_run, resume=True)
    assert caplog.messages == [f"{stopped_run} has no checkpoint yet; the run begins with its first step"]
    toy_run.fit(uninterrupted)
    assert trainer.records == uninterrupted.records


@dataclass(eq=False, repr=False)
class Counter(Layer):
    """The identity, with a buffer of a given dtype."""

    kind: str = "int16"

    def plan(self, input_shape):
        def zeros(shape, dtype, **_):
            return np.zeros(shape, dtype)

        self.variables = {"seen": Variable((2,), zeros, buffer=True, dtype=self.kind)}
        return input_shape

    def forward(self, x, training=False):
        self.stash()
        self["seen"][...] += np.ones(2, self.kind)
        return x

    def backward(self, dy, *, input_grad=True):
        self.unstash()
        return dy


@pytest.mark.slow
def test_a_buffer_of_any_integer_dtype_is_resumed(tmp_path):
    def trainer(kind):
        layers = [Input((6, 5, 1)), Counter(kind), Flatten(), Linear(3)]
        return Trainer(Sequential(layers), "sgd", lr=0.01)

    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        first = trainer(kind)
        toy_run.fit(first, epochs=1, validation=None, run_dir=tmp_path / kind)
        second = trainer(kind)
        toy_run.fit(second, epochs=1, validation=None, run_dir=tmp_path / kind, resume=True)
        assert second.net.state_dict()["layer1.seen"].tolist() == [toy_run.STEPS_PER_EPOCH] * 2
    with pytest.raises(CheckpointError, match=r"cannot save .*net\.layer1\.seen is of dtype complex64"):
        toy_run.fit(trainer("complex64"), epochs=1, validation=None, run_dir=tmp_path / "complex")
    assert not (tmp_path / "complex" / "last.safetensors").exists()


def test_numpy_numbers_and_the_largest_seed_can_be_resumed(tmp_path):
    def fit(resume):
        optimizer = SGD(lr=np.float32(0.01), momentum=np.float32(0.5), nesterov=np.True_)
        trainer = Trainer(toy_run.net(), optimizer, seed=2**64 - 1)
        return toy_run.fit(
            trainer,
            train=toy_run.loader(seed=2**64 - 1),
            epochs=np.int64(1),
            metrics_every=np.uint8(2),
            run_dir=tmp_path / "run",
            settings={"note": np.float64(3)},
            resume=resume,
        )

    assert fit(resume=False) == fit(resume=True)
