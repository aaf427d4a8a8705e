"""`gpuconv live`: what it passes to the server, and what it refuses before creating anything."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("starlette")
from gpuconv import checkpoint, live
from gpuconv.cli.main import main
from tests.live.sessions import do, wait_for

NET_TO_WHITEN = """
from gpuconv.layers import Conv2D, Flatten, Linear

def build(input_shape, classes):
    return [Conv2D(8, 2, frozen=("weight",)), Flatten(), Linear(classes)]
"""


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The sessions that the command would serve, each with the options of the server."""
    monkeypatch.chdir(tmp_path)
    sessions = []
    monkeypatch.setattr(live, "serve", lambda session, **options: sessions.append((session(), options)))
    return sessions


def test_without_options_live_trains_the_digits_and_serves_on_loopback(served):
    assert main(["live", "--device", "numpy"]) == 0
    ((session, options),) = served
    assert (options["host"], options["port"]) == ("127.0.0.1", 8600)
    state = session.state()
    assert (state["data"], state["phase"], state["device"]) == ("digits", "training", "numpy")
    assert state["settings"]["batch_size"] == 64


def test_live_takes_the_settings_of_train_and_an_address(served):
    line = "--model seed-net --data synthetic:n=64,size=32x32x3 --optimizer adam --lr 0.01 --validation 0.25 --epochs 2"
    address = ["--host", "0.0.0.0", "--port", "8601"]
    assert main(["live", "--device", "numpy", *line.split(), "--batch-size", "8", *address]) == 0
    assert (served[0][1]["host"], served[0][1]["port"]) == ("0.0.0.0", 8601)
    state = served[0][0].state()
    assert state["settings"] == {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.0, "batch_size": 8, "epochs": 2}
    assert served[0][0].sets.validation is not None
    further = "--clip 0.5 --ema 0.9 --accumulate 2 --plateau 3,factor=0.5"
    assert main(["live", "--device", "numpy", *line.split(), *further.split()]) == 0
    session = served[1][0]
    trainer = session.trainer
    assert (str(trainer.clip), trainer.ema.decay, trainer.accumulate) == ("norm:0.5", 0.9, 2)
    assert (trainer.plateau.patience, trainer.plateau.factor) == (3, 0.5)


def test_a_run_of_train_is_shown_and_not_changed(served, tmp_path):
    assert main(["train", "--device", "numpy", "--epochs", "1", "--model", "three-layer", "--quiet"]) == 0
    run = tmp_path / "runs/digits-three-layer-1"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main(["live", "--device", "numpy", str(run)]) == 0
    session = served[0][0]
    session.start()
    session.ask("look", kind="gradients").result(30)
    assert session.state()["phase"] == "finished"
    assert session.hub.get("curves")
    session.close()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def finish(session):
    """Trains the session's run to its end."""
    session.start()
    if session.phase == "paused":
        session.ask("go")
    wait_for(session, lambda: session.phase == "finished")
    session.close()


def test_evaluate_finds_the_images_of_a_run_with_a_validation_part_unchanged(served, capsys):
    line = "--model seed-net --data synthetic:n=64,size=8x8x1 --validation 0.25 --epochs 1 --batch-size 16"
    assert main(["live", "--device", "numpy", *line.split()]) == 0
    assert "44 images to train on, 20 to validate on, 12 to test on" in capsys.readouterr().out
    session = served.pop()[0]
    finish(session)
    assert main(["evaluate", str(session.run_dir), "--device", "numpy"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["live", str(session.run_dir), "--device", "numpy"]) == 0
    session = served.pop()[0]
    session.start()
    do(session, "change", settings={"epochs": 2})
    do(session, "go")
    wait_for(session, lambda: session.phase == "finished" and session.trainer.epoch == 2)
    session.close()
    assert main(["evaluate", str(session.run_dir), "--device", "numpy"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["live", "train"])
def test_runs_that_begin_whitened_do_so_again_when_repeated_or_started_anew(served, tmp_path, command):
    """The net's first layer is frozen, so its weights stay as whitening left them."""
    (tmp_path / f"net_of_{command}.py").write_text(NET_TO_WHITEN)
    net = ["--model", f"net_of_{command}.py"]
    settings = ["--data", "synthetic:n=40,size=5x5x1", "--whiten", "30", "--epochs", "1"]
    assert main([command, "--device", "numpy", *net, *settings]) == 0
    if command == "live":
        finish(served.pop()[0])
    (run,) = (tmp_path / "runs").iterdir()
    whitened = checkpoint.load(run / "last.safetensors").tensors["net.conv1.weight"]
    np.testing.assert_array_equal(whitened[:4], -whitened[4:])  # whitening gives each filter and its negative
    for options in (["--repeat", str(run)], [str(run)]):
        assert main(["live", "--device", "numpy", *net, *options]) == 0
        session = served.pop()[0]
        if options[0] == "--repeat":
            np.testing.assert_array_equal(session.segment.net["conv1.weight"], whitened)
        session.restart()
        np.testing.assert_array_equal(session.segment.net["conv1.weight"], whitened)
        finish(session)
        assert main(["live", "--device", "numpy", *net, "--repeat", str(session.run_dir)]) == 0
        np.testing.assert_array_equal(served.pop()[0].segment.net["conv1.weight"], whitened)


def test_a_repeated_run_of_train_begins_with_its_weights_and_synchronizes_batch_norm(served, tmp_path):
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    data = ["--device", "numpy", "--data", "synthetic:n=40,size=8x8x1"]
    settings = [*data, "--epochs", "1", "--quiet", "--batch-size", "20"]
    assert main(["train", *settings, "--run-dir", first]) == 0
    shards = ["--shards", "2", "--sync-batch-norm", "1"]
    assert main(["train", *settings, *shards, "--weights", first, "--run-dir", second]) == 0
    assert main(["live", "--device", "numpy", "--repeat", second]) == 0
    session = served.pop()[0]
    loaded = checkpoint.load(tmp_path / "first" / "last.safetensors").part("net")
    for name, array in session.segment.net.params().items():
        np.testing.assert_array_equal(array, loaded[name])
    assert session.trainer.sync_batch_norm


def test_invalid_options_are_refused_before_anything_is_created(served, capsys, monkeypatch, tmp_path):
    for options, message in [
        (["nowhere"], "nowhere holds no run"),
        (["--repeat", "nowhere"], "nowhere holds no run"),
        (["a", "--repeat", "b"], "leave one of them out"),
        (["a", "--lr", "1"], "a has its own settings; leave --lr out"),
        (["--port", "65536"], "expected a port from 0 to 65535"),
        (["--model", "digit-net"], "did you mean"),
        (["--clip", "-1"], "the limit of the norm must be above 0, received"),
        (["--plateau", "3"], "--validation 0.1"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--optimizer", "sdg"], "did you mean"),
    ]:
        assert main(["live", *options]) == 2, options
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["live"]) == 2
    assert "needs starlette and uvicorn: python -m pip install 'gpuconv[live]'" in capsys.readouterr().err
    assert served == []
    assert not [*tmp_path.iterdir()]
