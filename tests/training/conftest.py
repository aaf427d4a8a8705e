"""Stored runs, and counts of captured launches and of replays."""

import pytest

from gpuconv import checkpoint
from gpuconv.training import Callback, RunDirectory
from tests import toy_run


@pytest.fixture
def stopped_run(tmp_path):
    """The directory of a run that was stopped after one of three epochs."""

    class Stop(Callback):
        def on_epoch(self, trainer, record):
            trainer.stop("for now")

    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Stop()])
    return tmp_path / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The checkpoint and the settings of a run of two epochs."""
    run = RunDirectory(tmp_path_factory.mktemp("stored") / "run")
    toy_run.fit(toy_run.trainer(), epochs=2, run_dir=run.path, test=toy_run.held_out())
    return checkpoint.load(run.last), run.settings()


@pytest.fixture
def captures(monkeypatch):
    """Counts of captured steps. captured: the number of kernel launches in each capture, on the emulated device only.
    replays: how often a capture was replayed."""
    from gpuconv.backends.cuda.runtime.graph import CudaRecorder, EmulatedRecorder

    seen = {"captured": [], "replays": 0}

    def watch(recorder):
        capture = recorder.capture

        def watched(self, work):
            replay = capture(self, work)
            if recorder is EmulatedRecorder:
                launches = replay.__closure__[0].cell_contents
                seen["captured"].append(len(launches))

            def counted():
                seen["replays"] += 1
                replay()

            return counted

        monkeypatch.setattr(recorder, "capture", watched)

    watch(EmulatedRecorder)
    watch(CudaRecorder)
    return seen
