"""Settings files: gpuconv train --config, and the file that each run writes."""

from __future__ import annotations

from tests.cli.command import output_of
from tests.cli.small_run import TINY_DATA, TINY_RUN


def test_a_run_writes_a_settings_file_that_reproduces_it(work, capsys):
    output_of(
        capsys, "train", *TINY_RUN, "--epochs", 2, "--validation", 0.25, "--seed", 3, "--lr", 0.02, "--run-dir", "one"
    )
    output_of(capsys, "train", "--config", "one/config.toml", "--device", "numpy", "--run-dir", "two")
    for name in ("metrics.jsonl", "metrics.csv", "last.safetensors", "run.json", "config.toml"):
        assert (work / "one" / name).read_bytes() == (work / "two" / name).read_bytes(), name
    out = output_of(capsys, "train", "--config", "one/config.toml", "--epochs", 1, "--run-dir", "three")
    assert "recipe     1 epoch," in out
    out = output_of(capsys, "train", "--config", "one/config.toml", "--optimizer", "adam:lr=0.25", "--run-dir", "four")
    assert "adam:lr=0.25 lr 0.25" in out
    assert "test accuracy" in output_of(capsys, "train", "--resume", "one", "--config", "one/config.toml")
    assert "--seed is 3 there, 4 here" in output_of(
        capsys, "train", "--resume", "one", "--config", "one/config.toml", "--seed", 4, status=2
    )


def test_every_text_is_read_back_from_the_settings_file(work):
    from gpuconv.cli import config, run_settings
    from gpuconv.training import config_file

    for path in ('a "b" \\ c', "\x7f\t\x01", "caf\udce9", "\U0001f600 é", "#=[x]", "'''"):
        settings = run_settings.to_store(
            run_settings.with_recipe({"data": f"cifar10:/{path}", "lr": 1e-05, "weights": f"/{path}"})
        )
        (work / "c.toml").write_bytes(
            config_file.text({"options": {"command": settings}}).encode("utf-8", "surrogateescape")
        )
        assert config.read("c.toml") == settings


def test_the_settings_file_of_a_python_run_has_its_shards_and_synchronized_batch_norm(work):
    from gpuconv.cli import config
    from gpuconv.training import config_file

    stored = {
        "train": {"name": "digits", "batch_size": 8},
        "seed": 1,
        "epochs": 2,
        "shards": 4,
        "sync_batch_norm": True,
    }
    (work / "c.toml").write_text(config_file.text(stored))
    read = config.read("c.toml")
    assert {name: read[name] for name in ("shards", "sync_batch_norm")} == {"shards": 4, "sync_batch_norm": 1}


def test_a_settings_file_may_begin_with_a_byte_order_mark_and_give_clip_and_plateau_as_numbers(work):
    from gpuconv.cli import config

    (work / "c.toml").write_text("clip = 1.0\nplateau = 5\nloss = 'svm'\n", encoding="utf-8-sig")
    assert config.read("c.toml") == {"clip": "1.0", "plateau": "5", "loss": "svm"}


def test_a_settings_file_is_checked_before_anything_is_created(work, capsys):
    for text, message in (
        ("epoch = 3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("Batch-Size = 2\nbatch_sise = 3", "unknown setting 'batch_sise'; did you mean 'batch_size'?"),
        ("epochs = '3'", "epochs must be a number, received '3'"),
        ("epochs = true", "received True"),
        ("epochs = 1.5", "epochs: expected a whole number of at least 1, received '1.5'"),
        ("lr = -1", "lr: expected a number above 0"),
        ("lr = nan", "lr: expected a number above 0"),
        ("model = [3]", "model must be text or a number, received [3]"),
        ("[train]\nlr = 1", "unknown setting 'train'"),
        ("lr = [1]", "lr must be a number, received [1]"),
        ("lr = ", "c.toml is not valid TOML: Invalid value"),
        (f"epochs = {'9' * 5000}", "c.toml is not valid TOML: Exceeds the limit"),
        ("batch-size = 1\nbatch_size = 2", "setting 'batch-size' is given twice, the second time as 'batch_size'"),
        ("lr = 1\nlr = 2", "Cannot overwrite a value"),
        ("model = 'tiny-vg'", "did you mean 'tiny-vgg'?"),
        ("recipe = 'digit-net'", "did you mean 'digits-net'"),
        ("\xff" * 3, "c.toml is not valid TOML"),
    ):
        (work / "c.toml").write_bytes(text.encode("latin1"))
        err = output_of(capsys, "train", "--config", "c.toml", "--run-dir", "run", status=2)
        assert message in err, (text, err)
    for path, message in (("none.toml", "No such file"), (".", "is not a regular file")):
        assert message in output_of(capsys, "train", "--config", path, "--run-dir", "run", status=2)
    assert [path.name for path in work.iterdir()] == ["c.toml"]
    (work / "c.toml").write_text(f'recipe = "default"\nmodel = "seed-net"\ndata = "{TINY_DATA}"\nepochs = 1\n')
    assert "recipe     1 epoch, batches of 64" in output_of(capsys, "train", "--config", "c.toml", "--run-dir", "run")
