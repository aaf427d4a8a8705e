"""Commands on runs that were started from Python."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv.layers import Conv2D, Input
from tests.cli.command import on_numpy, output_of
from tests.toy_run import StopAfterOne


def train(folder, epochs=2, resume=False, schedule="cosine", **options):
    train, test = gc.data.load("digits")
    net = gc.Sequential([gc.layers.Input((8, 8, 1)), gc.layers.Flatten(), gc.layers.Linear(10)])
    loss = options.pop("loss", "softmax")
    settings = {name: options.pop(name) for name in ("plateau", "clip", "ema", "accumulate") if name in options}
    trainer = gc.Trainer(net, "adam", lr=3e-3, loss=loss, schedule=schedule, seed=5, **settings)
    stop = options.pop("stop", None)
    callbacks = [stop] if stop else []
    trainer.fit(train, epochs=epochs, run_dir=folder, progress=False, callbacks=callbacks, resume=resume, **options)
    return net, test


def halved(scores, labels):
    loss, dscores = gc.ops.softmax_cross_entropy(scores, labels)
    return loss / 2, dscores / 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, its net and the test images. By the training loss, the first epoch is the best, as the learning
    rate of the second epoch is too high. A user may store any settings of their own, such as "live"."""
    folder = tmp_path_factory.mktemp("python") / "run"
    return folder, *train(folder, schedule="step:1,gamma=1000", settings={"live": True})


def test_python_runs_are_evaluated_at_their_last_and_best_checkpoint(run, capsys):
    folder, net, test = run
    accuracy = 100 * gc.evaluate(net, test).accuracy
    output = on_numpy(capsys, "evaluate", folder)
    assert f"test accuracy {accuracy:.2f}%" in output
    assert "warning" not in output
    assert f"test loss {gc.evaluate(net, test).loss:.4f}\n" in output
    best = gc.evaluate(gc.load(folder, which="best"), test)
    assert f"test accuracy {100 * best.accuracy:.2f}%" in on_numpy(capsys, "evaluate", folder, "--which", "best")


def test_a_net_that_takes_larger_images_is_evaluated_on_them(tmp_path, capsys):
    train, test = gc.data.load("digits")
    body = [gc.layers.Conv2D(10, 3), gc.layers.GlobalAvgPool2D(), gc.layers.Flatten()]
    net = gc.Sequential([gc.layers.Input((4, 4, 1), larger=True), *body])
    gc.Trainer(net, "sgd", lr=0.1).fit(train, epochs=1, run_dir=tmp_path / "run", progress=False)
    accuracy = 100 * gc.evaluate(net, test).accuracy
    assert f"test accuracy {accuracy:.2f}%" in on_numpy(capsys, "evaluate", tmp_path / "run", "--data", "digits")


def test_python_runs_predict_with_their_last_and_best_checkpoint(run, capsys, tmp_path):
    folder, net, test = run
    Image.fromarray(test.images[0, ..., 0]).save(tmp_path / "x.png")
    for which, used in (("last", net), ("best", gc.load(folder, which="best"))):
        name, chance = used.predict(tmp_path / "x.png", top=1)[0]
        output = on_numpy(capsys, "predict", tmp_path / "x.png", "--run-dir", folder, "--which", which)
        assert f"  {name}  {100 * chance:6.2f} %" in output


def test_the_last_or_best_checkpoint_is_explained_and_exported(run, capsys, tmp_path):
    pytest.importorskip("onnx")
    folder, _, test = run
    Image.fromarray(test.images[0, ..., 0]).save(tmp_path / "x.png")
    totals = []
    for which in ("last", "best"):
        used = gc.load(folder, which=which)
        explain = ["explain", folder, tmp_path / "x.png", "--layer", "fc1", "--at", 3, "--which", which, "--json"]
        totals.append(json.loads(on_numpy(capsys, *explain))["total"])
        x = used.normalization(test.images[:1])
        assert totals[-1] == pytest.approx(gc.inspect.explain(used, x, "fc1", (3,)).total)
        output_of(capsys, "export", folder, tmp_path / f"{which}.onnx", "--which", which)
        exported = gc.interop.from_onnx(tmp_path / f"{which}.onnx")
        np.testing.assert_array_equal(exported["fc1"]["weight"], used["fc1"]["weight"])
    assert totals[0] != totals[1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validation": 0.1},
        {"plateau": "0,threshold=0.9,watch=train_loss"},
        {"clip": 0.01, "ema": 0.9, "accumulate": 3},
    ],
)
def test_python_runs_are_resumed_with_the_same_bits(tmp_path, capsys, options):
    _, test = train(tmp_path / "uninterrupted", **options, test=gc.data.load("digits")[1])
    train(tmp_path / "cut", **options, test=test, stop=StopAfterOne())
    output = on_numpy(capsys, "train", "--resume", tmp_path / "cut")
    assert "test accuracy" in output
    uninterrupted, cut = (gc.load(tmp_path / name) for name in ("uninterrupted", "cut"))
    for key, array in uninterrupted.state_dict().items():
        np.testing.assert_array_equal(cut.state_dict()[key], array)
    assert (tmp_path / "uninterrupted/metrics.jsonl").read_bytes() == (tmp_path / "cut/metrics.jsonl").read_bytes()
    assert ('"plateau": 0.1' in (tmp_path / "cut/metrics.jsonl").read_text()) == ("plateau" in options)
    assert ('clip = "norm:0.01"' in (tmp_path / "cut/config.toml").read_text()) == ("clip" in options)
    assert ("threshold=0.9" in (tmp_path / "cut/config.toml").read_text()) == ("plateau" in options)


def test_user_defined_losses_and_schedules_are_named_as_the_reason_why_a_run_cannot_be_continued(tmp_path, capsys):
    train(tmp_path / "own", loss=halved, stop=StopAfterOne())
    output = on_numpy(capsys, "train", "--resume", tmp_path / "own", status=2)
    assert "was started in Python and can be continued only there: the loss halved is not one of gpuconv's" in output
    assert "with softmax, because the run's own loss, halved, is unknown here" in on_numpy(
        capsys, "evaluate", tmp_path / "own"
    )
    for name in ("own", "cosine"):  # a user's function may have the name of one of gpuconv's

        def schedule(step):
            return 1.0

        schedule.__name__ = name
        train(tmp_path / f"schedule {name}", schedule=schedule, stop=StopAfterOne())
        output = on_numpy(capsys, "train", "--resume", tmp_path / f"schedule {name}", status=2)
        assert "was started in Python and can be continued only there: unknown schedule" in output
    output = on_numpy(capsys, "train", "--resume", tmp_path / "own", "--lr", "1", status=2)
    assert "continues with the settings it was started with; leave --lr out" in output


def test_for_a_run_on_arrays_the_command_must_name_the_data(tmp_path, capsys):
    train, _ = gc.data.load("digits")
    net = gc.models.build("seed-net", (8, 8, 1))
    gc.Trainer(net).fit((train.images[:99], train.labels[:99]), epochs=1, run_dir=tmp_path / "run", progress=False)
    assert "which is not the name of a data set: give the location of its images with --data or --test" in on_numpy(
        capsys, "evaluate", tmp_path / "run", status=2
    )
    assert "test accuracy" in on_numpy(capsys, "evaluate", tmp_path / "run", "--test", "digits")
    assert "give the location of the run's images: --data" in on_numpy(
        capsys, "train", "--resume", tmp_path / "run", status=2
    )
    floats = (train.images[:99] / np.float32(16), train.labels[:99])
    gc.Trainer(gc.models.build("seed-net", (8, 8, 1))).fit(floats, epochs=1, run_dir=tmp_path / "f", progress=False)
    assert "this run has no normalization of images" in on_numpy(
        capsys, "evaluate", tmp_path / "f", "--test", "digits", status=2
    )


def test_evaluate_and_predict_refuse_a_run_whose_loss_has_a_target_for_each_score(tmp_path, capsys):
    train, _ = gc.data.load("digits")
    net = gc.models.build("seed-net", (8, 8, 1))
    targets = np.eye(10, dtype=np.float32)[train.labels]
    gc.Trainer(net, loss="bce").fit((train.images, targets), epochs=1, run_dir=tmp_path / "run", progress=False)
    Image.fromarray(train.images[0, :, :, 0]).save(tmp_path / "a.png")
    for arguments in (
        ["evaluate", tmp_path / "run", "--test", "digits"],
        ["predict", tmp_path / "a.png", "--run-dir", tmp_path / "run"],
    ):
        output = on_numpy(capsys, *arguments, status=2)
        assert "BinaryCrossEntropy(pos_weight=None), has a target for each score, so an image has no class" in output


def test_a_users_loss_that_does_not_classify_is_known_by_the_accuracies_of_its_run(tmp_path, capsys):
    class Squares:
        classifies = False

        def __call__(self, scores, labels):
            return ((scores - labels) ** 2).mean(), 2 * (scores - labels) / scores.size

    train, _ = gc.data.load("digits")
    targets = np.eye(10, dtype=np.float32)[train.labels]
    trainer = gc.Trainer(gc.models.build("seed-net", (8, 8, 1)), loss=Squares())
    trainer.fit((train.images, targets), epochs=1, run_dir=tmp_path / "run", progress=False)
    output = on_numpy(capsys, "evaluate", tmp_path / "run", "--test", "digits", status=2)
    assert "has a target for each score, so an image has no class" in output


def test_the_error_for_a_net_that_gives_a_volume_says_where_it_can_be_used(tmp_path, capsys):
    train, _ = gc.data.load("digits")
    net = gc.Sequential(Input((8, 8, 1)), Conv2D(1, 3, padding=1))
    data = train.images[:64], train.images[:64] / np.float32(16)
    gc.Trainer(net, loss="mse").fit(data, epochs=1, run_dir=tmp_path / "run", progress=False)
    for arguments in (["evaluate", tmp_path / "run"], ["train", "--resume", tmp_path / "run"]):
        output = on_numpy(capsys, *arguments, status=2)
        assert "gives a volume of shape (8, 8, 1) for each image, and the command line takes nets with" in output


def test_a_run_of_no_epochs_is_resumed_without_training(tmp_path, capsys):
    train(tmp_path / "run", epochs=0)
    output = on_numpy(capsys, "train", "--resume", tmp_path / "run")
    assert "(continued)" in output
    assert "\nepoch" not in output


def test_the_images_of_a_validation_part_do_not_count_as_other_data(tmp_path, capsys):
    train(tmp_path / "run", epochs=1, validation=0.1, test=gc.data.load("digits")[1])
    assert "warning" not in on_numpy(capsys, "evaluate", tmp_path / "run")
    assert "tested" in on_numpy(capsys, "train", "--resume", tmp_path / "run", "--json")
    assert "warning" not in on_numpy(capsys, "evaluate", tmp_path / "run")


def photos(folder, seed=0):
    random = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_data_that_cannot_be_split_like_the_runs_is_evaluated_with_a_warning(tmp_path, capsys):
    train, test = gc.data.folder.load(photos(tmp_path / "pets"), channels=1, test=0.25)
    net = gc.Sequential([gc.layers.Input((8, 8, 1)), gc.layers.Flatten(), gc.layers.Linear(2)])
    gc.Trainer(net).fit(train, epochs=1, test=test, validation=0.1, run_dir=tmp_path / "run", progress=False)
    for name in ("cat", "dog"):
        for path in sorted((tmp_path / "pets" / name).iterdir())[2:]:
            path.unlink()
    output = on_numpy(capsys, "evaluate", tmp_path / "run", "--data", f"folder:{tmp_path / 'pets'},channels=1,test=0.5")
    assert "warning: the data differs from that of the run, which had " in output
    assert "this data has 2 and 2: the run may have been trained on some" in output


@pytest.mark.parametrize("stream", [False, True], ids=["in-memory", "streamed"])
def test_runs_on_folders_are_evaluated_and_resumed_without_further_options(tmp_path, capsys, stream):
    train, test = gc.data.folder.load(photos(tmp_path / "pets, and more"), channels=1, test=0.25, stream=stream)

    def fit(name, **options):
        net = gc.Sequential([gc.layers.Input((8, 8, 1)), gc.layers.Flatten(), gc.layers.Linear(2)])
        gc.Trainer(net, "adam").fit(
            train, epochs=2, test=test, validation=0.2, run_dir=tmp_path / name, progress=False, **options
        )

    fit("uninterrupted")
    fit("cut", callbacks=[StopAfterOne()])
    assert "test accuracy" in on_numpy(capsys, "train", "--resume", tmp_path / "cut")
    assert (tmp_path / "uninterrupted/metrics.jsonl").read_bytes() == (tmp_path / "cut/metrics.jsonl").read_bytes()
    output = on_numpy(capsys, "evaluate", tmp_path / "uninterrupted")
    assert "test accuracy" in output
    assert "warning" not in output


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["in-memory", "streamed"])
def test_runs_on_a_training_and_a_test_folder_are_evaluated_and_resumed_even_if_both_moved(tmp_path, capsys, stream):
    load_all = partial(gc.data.folder.load_all, channels=1, stream=stream)
    train, test = (load_all(photos(tmp_path / name, seed)) for seed, name in enumerate(("train", "test")))

    def fit(name, **options):
        net = gc.Sequential([gc.layers.Input((8, 8, 1)), gc.layers.Flatten(), gc.layers.Linear(2)])
        trainer = gc.Trainer(net, "adam")
        trainer.fit(train, epochs=2, run_dir=tmp_path / name, progress=False, **options)

    for kind, options in (("tested", {"test": test}), ("untested", {}), ("part", {"test": test, "validation": 0.25})):
        fit(kind, **options)
        fit(f"{kind}-cut", callbacks=[StopAfterOne()], **options)
        shutil.copytree(tmp_path / f"{kind}-cut", tmp_path / f"{kind}-moved")
        on_numpy(capsys, "train", "--resume", tmp_path / f"{kind}-cut")
        expected = (tmp_path / kind / "metrics.jsonl").read_bytes()
        assert (tmp_path / f"{kind}-cut/metrics.jsonl").read_bytes() == expected
    assert "test accuracy" in on_numpy(capsys, "evaluate", tmp_path / "tested")
    config = ["--config", tmp_path / "tested/config.toml"]
    on_numpy(capsys, "train", *config, "--model", "seed-net", "--run-dir", tmp_path / "again")
    one, other = (gc.training.RunDirectory.open(tmp_path / name).settings() for name in ("tested", "again"))
    assert {part: one[part]["checksum"] for part in ("train", "test")} == {
        part: other[part]["checksum"] for part in ("train", "test")
    }
    assert "# data: the run trained on all of it" in (tmp_path / "untested/config.toml").read_text()
    for name in ("train", "test"):
        (tmp_path / name).rename(tmp_path / f"{name}-2")
    moved = [f"folder:{tmp_path}/{name}-2,channels=1" + ",stream=1" * stream for name in ("train", "test")]
    on_numpy(capsys, "train", "--resume", tmp_path / "tested-moved", "--data", moved[0], "--test", moved[1])
    on_numpy(capsys, "train", "--resume", tmp_path / "untested-moved", "--data", moved[0])
    output = on_numpy(capsys, "train", "--resume", tmp_path / "part-moved", "--data", moved[0], status=2)
    assert f"{tmp_path}/test" in output


def test_a_config_names_the_settings_that_only_the_program_knows(tmp_path, capsys):
    train(tmp_path / "run", epochs=3, validation=0.25)
    text = (tmp_path / "run/config.toml").read_text(encoding="utf-8")
    for line in ('data = "digits"', "epochs = 3", "seed = 5", "validation = 0.25", "lr = 0.003", 'loss = "softmax"'):
        assert f"{line}\n" in text
    assert "# model: made by the program" in text
    output = on_numpy(capsys, "train", "--config", tmp_path / "run/config.toml", status=2)
    assert "FILE.py: no such file" in output
    repeat = ["train", "--config", tmp_path / "run/config.toml", "--model", "seed-net", "--run-dir", tmp_path / "again"]
    on_numpy(capsys, *repeat, "--epochs", 1)
    stored = [gc.training.RunDirectory.open(tmp_path / name).settings() for name in ("run", "again")]
    for name in ("optimizer", "loss", "schedule", "seed", "precision"):
        assert stored[0][name] == stored[1][name]
    assert stored[0]["train"] | {"name": ""} == stored[1]["train"] | {"name": ""}


def test_configs_with_user_defined_parts_are_refused_by_name(tmp_path, capsys):
    images, labels = gc.data.load("digits")[0].images[:64], gc.data.load("digits")[0].labels[:64]
    net = gc.models.build("seed-net", (8, 8, 1))
    optimizer = gc.training.optimizers.SGD(lr=0.02, momentum=0.8, nesterov=True)
    gc.Trainer(net, optimizer, loss=halved).fit((images, labels), epochs=1, run_dir=tmp_path / "run", progress=False)
    text = (tmp_path / "run/config.toml").read_text(encoding="utf-8")
    assert 'optimizer = "sgd:momentum=0.8,nesterov=True"\n' in text
    assert "# loss: made by the program\n" in text
    assert "# data: made by the program\n" in text
    config = ["train", "--config", tmp_path / "run/config.toml", "--model", "seed-net"]
    assert "'train'" in on_numpy(capsys, *config, status=2)
    assert "'halved'" in on_numpy(capsys, *config, "--data", "digits", status=2)
