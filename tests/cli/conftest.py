"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest

from gpuconv.cli import main, pictures
from gpuconv.data import Loader
from gpuconv.training import Trainer, evaluate
from tests import blank_pictures
from tests.cli.small_run import CHOSEN, train


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def passed_to(monkeypatch):
    """The calls of Trainer, Trainer.fit, Loader and evaluate: name -> a list of (arguments, options)."""
    calls = {"Trainer": [], "fit": [], "Loader": [], "evaluate": []}

    class RecordedTrainer(Trainer):
        def __init__(self, *arguments, **options):
            calls["Trainer"].append((arguments, options))
            super().__init__(*arguments, **options)

        def fit(self, *arguments, **options):
            calls["fit"].append((arguments, options))
            return super().fit(*arguments, **options)

    class RecordedLoader(Loader):
        def __init__(self, *arguments, **options):
            calls["Loader"].append((arguments, options))
            super().__init__(*arguments, **options)

    def recorded_evaluate(*arguments, **options):
        calls["evaluate"].append((arguments, options))
        return evaluate(*arguments, **options)

    monkeypatch.setattr("gpuconv.training.Trainer", RecordedTrainer)
    monkeypatch.setattr("gpuconv.training.evaluate", recorded_evaluate)
    monkeypatch.setattr("gpuconv.data.stream_loader.Loader", RecordedLoader)
    return calls


@pytest.fixture
def drawn(monkeypatch):
    """The requested pictures: (function, file name, arguments, options). Files are created, but nothing is drawn."""
    requested = []

    def recorder(function):
        def draw(path, *arguments, **options):
            Path(path).write_bytes(b"a picture")
            requested.append((function, Path(path).name, arguments, options))

        return draw

    for function in ("draw_activations", "draw_filters"):
        monkeypatch.setattr(pictures, function, recorder(function))
    return requested


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run without pictures of filters and activations. Tests leave its files as they are, or copy it."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_activations", lambda *_, **__: None)
        patch.setattr(pictures, "draw_filters", lambda *_: None)
        assert main(["train", *CHOSEN, "--run-dir", str(directory)]) == 0
    return directory


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory):
    """A run with real pictures. Tests leave its files as they are, or copy it."""
    directory = tmp_path_factory.mktemp("drawn") / "run"
    with blank_pictures.drawn():
        assert train("--epochs", 2, "--run-dir", directory) == 0
    return directory
