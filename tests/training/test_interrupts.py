"""Signals: the first ends the run after its step, the second at once; the handlers are restored."""

import signal
import threading

import pytest

from gpuconv import checkpoint
from gpuconv.training import Callback
from gpuconv.training.interrupts import SIGNALS, Interrupts
from tests.training import toy_run


class Signal(Callback):
    """Sends a signal to this process after the given steps."""

    def __init__(self, number, *steps):
        self.number, self.steps = number, steps

    def on_step(self, trainer, record):
        for step in self.steps:
            if trainer.steps == step:
                signal.raise_signal(self.number)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupt_finishes_the_step_saves_and_says_how_to_resume(tmp_path, capfd, caplog, number, step):
    caplog.set_level("INFO")
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer = toy_run.trainer()
    toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[Signal(number, step)])
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert (trainer.steps, trainer.stop_reason) == (step, "interrupted")
    assert f"{number.name}: finishing the step" in capfd.readouterr().err
    assert f"continue with: fit(..., run_dir={str(tmp_path / 'run')!r}, resume=True)" in caplog.text
    second, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(second, run_dir=tmp_path / "run", resume=True)
    toy_run.fit(uninterrupted)
    assert second.records == uninterrupted.records
    assert toy_run.same_arrays(second.net.state_dict(), uninterrupted.net.state_dict())


def test_a_second_interrupt_aborts_at_once(tmp_path):
    trainer = toy_run.trainer()
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[Signal(signal.SIGINT, 7, 7)])
    assert (trainer.steps, trainer.stop_reason) == (7, "failed")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failure_restores_the_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]

    class Fail(Callback):
        def on_step(self, trainer, record):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), callbacks=[Fail()])
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_training_in_another_thread_installs_no_signal_handlers():
    seen = []

    def work():
        with Interrupts(notice="not shown") as interrupts:
            seen.append((interrupts.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.default_int_handler)]
