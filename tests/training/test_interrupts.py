"""The first signal ends a run after the current step, a second one at once. The former handlers are restored."""

import os
import signal
import threading

import pytest

from gpuconv import checkpoint
from gpuconv.training import Callback
from gpuconv.training.interrupts import SIGNALS, Interrupts
from tests import toy_run


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
def test_an_interrupted_run_saves_after_its_step_and_says_how_to_resume(tmp_path, capfd, caplog, number, step):
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
    state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failure_restores_the_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]

    class Fail(Callback):
        def on_step(self, trainer, record):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), callbacks=[Fail()])
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_interrupts_in_another_thread_install_no_signal_handlers():
    seen = []

    def work():
        with Interrupts(notice="not shown") as interrupts:
            seen.append((interrupts.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.default_int_handler)]


def test_further_signals_go_to_the_previous_handler_even_during_the_first(monkeypatch):
    """The second signal comes while the first is being handled, the third after that."""
    from gpuconv.training import interrupts as module

    aborted = []
    before = {number: signal.signal(number, lambda received, frame: aborted.append(received)) for number in SIGNALS}
    try:
        monkeypatch.setattr(module, "say_in_handler", lambda text: signal.raise_signal(signal.SIGTERM))
        with Interrupts("never") as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert aborted == [signal.SIGTERM]
            signal.raise_signal(signal.SIGINT)
            assert aborted == [signal.SIGTERM, signal.SIGINT]
            assert interrupts.requested == signal.SIGINT
            interrupts.mark_fulfilled()
        assert aborted == [signal.SIGTERM, signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts("never") as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_last_step_is_not_lost(tmp_path):
    class SignalAtTheEnd(Callback):
        def on_stop(self, trainer, reason):
            signal.raise_signal(signal.SIGINT)

    trainer = toy_run.trainer()
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[SignalAtTheEnd()])
    assert trainer.stop_reason == "finished"
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 3
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_second_signal_kills_a_process_that_had_no_handler_for_it():
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with Interrupts("never"):
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
