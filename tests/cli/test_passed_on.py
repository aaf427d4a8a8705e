"""Every option with its default, and the arguments that commands pass to the library."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from gpuconv import checks, console, losses, models, plots, to_numpy
from gpuconv.cli import main, pictures, runs, shared_options
from gpuconv.cli.main import Parser, module
from gpuconv.data import Loader, Normalization, load
from gpuconv.inspect import profile as profile_module
from gpuconv.inspect.profile import Profile, Row
from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings, Work
from gpuconv.training import Trainer, evaluate
from gpuconv.training.image_activations import look

# --- options ------------------------------------------------------------------------------------

SETTINGS = dict.fromkeys(shared_options.OPTIONS)
OPTIONS = {  # for each command: the shortest command line, and how it is parsed
    "train": (
        [],
        SETTINGS
        | {
            "device": "auto",
            "config": None,
            "recipe": None,
            "run_dir": None,
            "resume": None,
            "graph": None,
            "checkpoint_every": None,
            "digests": None,
            "digests_every": None,
            "shadow": None,
            "on_violation": "stop",
        },
    ),
    "evaluate": ([], {"run_dir": None, "data": None, "test": None, "tta": None, "device": "auto", "which": "last"}),
    "predict": (["a.png"], {"images": ["a.png"], "run_dir": None, "picture": None, "device": "auto", "which": "last"}),
    "summary": (
        [],
        {
            "model": None,
            "run_dir": None,
            "input": None,
            "classes": None,
            "precision": None,
            "device": "numpy",
            "batch_size": 128,
        },
    ),
    "check": ([], dict.fromkeys(("data", "model", "seed", "lr", "optimizer", "schedule", "loss")) | {"device": "auto"}),
    "lr-find": (
        [],
        dict.fromkeys(("data", "model", "weights", "seed", "batch_size", "optimizer", "augment", "loss", "whiten"))
        | {"precision": None, "device": "auto", "start": 1e-6, "end": 10.0, "steps": 100, "out": None},
    ),
    "verify": ([], {"device": "auto", "op": None, "dtype": None, "tier": None, "seed": 0}),
    "profile": (
        [],
        {
            "model": "tiny-vgg",
            "batch_size": 128,
            "precision": "float32",
            "fuse": None,
            "device": "auto",
            "steps": 10,
            "trace": None,
            "peaks": True,
            "arch": None,
        },
    ),
    "kernels": ([], {"report": False, "arch": None, "file": None, "workers": os.cpu_count() or 1, "all": False}),
    "lab": (
        ["--op", "relu"],
        {"file": None, "op": "relu", "algo": None, "template": False, "dtype": None, "device": "auto"},
    ),
    "data": (["cifar10", "--to", "x"], {"name": "cifar10", "to": "x"}),
    "info": ([], {}),
}
MORE_WORDS = {  # more words, and the options that are then parsed differently
    "train": [
        (
            "--seed 0 --epochs 1 --batch-size 1 --whiten 0 --checkpoint-every 1 --graph --run-dir x",
            {
                "seed": 0,
                "epochs": 1,
                "batch_size": 1,
                "whiten": 0,
                "checkpoint_every": 1,
                "graph": True,
                "run_dir": "x",
            },
        ),
        ("--lr 0.5 --no-graph --resume y --recipe z", {"lr": 0.5, "graph": False, "resume": "y", "recipe": "z"}),
    ],
    "evaluate": [
        (
            "x --data a --test b --tta c --which best",
            {"run_dir": "x", "data": "a", "test": "b", "tta": "c", "which": "best"},
        )
    ],
    "predict": [("b.png --run-dir x --picture y", {"images": ["a.png", "b.png"], "run_dir": "x", "picture": "y"})],
    "summary": [
        (
            "--model x --input 1x2x3 --classes 1 --batch-size 1 --precision tf32",
            {"model": "x", "input": (1, 2, 3), "classes": 1, "batch_size": 1, "precision": "tf32"},
        ),
        ("--run-dir x", {"run_dir": "x"}),
    ],
    "check": [("--seed 0 --lr 2", {"seed": 0, "lr": 2.0})],
    "lr-find": [("--from 1e-3 --to 2 --steps 9 --out x", {"start": 1e-3, "end": 2.0, "steps": 9, "out": Path("x")})],
    "verify": [
        (
            "--op a --op b --dtype c --dtype d --tier e --tier f --seed 3",
            {"op": ["a", "b"], "dtype": ["c", "d"], "tier": ["e", "f"], "seed": 3},
        )
    ],
    "profile": [
        (
            "--batch-size 1 --steps 1 --fuse --no-peaks --trace x",
            {"batch_size": 1, "steps": 1, "fuse": True, "peaks": False, "trace": Path("x")},
        ),
        ("--no-fuse --arch a --model b", {"fuse": False, "arch": "a", "model": "b"}),
    ],
    "kernels": [
        (
            "--report --arch a --arch b --file c --file d --workers 1 --all",
            {"report": True, "arch": ["a", "b"], "file": ["c", "d"], "workers": 1, "all": True},
        )
    ],
    "lab": [
        (
            "x.cu --template --dtype a --dtype b --algo c",
            {"file": Path("x.cu"), "template": True, "dtype": ["a", "b"], "algo": "c"},
        )
    ],
}


def test_every_option_is_read_and_has_its_default():
    for command, (shortest, expected) in OPTIONS.items():
        parser = Parser()
        module(command).configure(parser)
        for words, changed in (("", {}), *MORE_WORDS.get(command, ())):
            parsed = vars(parser.parse_args([*shortest, *words.split()]))
            assert {name: parsed.get(name, "missing") for name in expected} == expected | changed, (command, words)


def test_a_missing_required_argument_is_named(capsys):
    for arguments, missing in (
        (["data", "cifar10"], "--to"),
        (["data", "--to", "x"], "NAME"),
        (["lab", "x.cu"], "--op"),
        (["predict"], "IMAGE"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(
            f"gpuconv: error: the following arguments are required: {missing} (see gpuconv {arguments[0]} --help)"
        )


def test_mutually_exclusive_options_are_refused(capsys):
    assert main(["train", "--run-dir", "x", "--resume", "y"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_abbreviated_options_are_refused(capsys):
    assert main(["train", "--epoch", "3"]) == 2
    assert "unknown argument '--epoch'; did you mean --epochs? (see gpuconv train --help)" in capsys.readouterr().err
    assert main(["train", "--epohcs=3"]) == 2
    assert "unknown argument '--epohcs=3'; did you mean --epochs?" in capsys.readouterr().err


# --- check --------------------------------------------------------------------------------------


def test_check_passes_its_options_on_and_prints_the_outcomes(monkeypatch, capsys):
    received = {}

    def sanity(net, x, labels, *, loss, optimizer):
        received.update(net=net, x=to_numpy(x), labels=to_numpy(labels), loss=loss, optimizer=optimizer)
        return [
            checks.SanityCheck("one", outcome, 2.34567, "about 2", "of many"),
            checks.SanityCheck("other", True, 12345.678, "any"),
        ]

    def gradient_check(net, **options):
        received.update(checked=net, options=options)
        return [
            checks.GradientCheck("a", 3, 1e-9, True),
            checks.GradientCheck("b", 4, 2.5e-7, agree, 3.1e-7, 6e-8),
            checks.GradientCheck("c", 5, 1e-8, True),
        ]

    monkeypatch.setattr(checks, "sanity", sanity)
    monkeypatch.setattr(checks, "gradient_check", gradient_check)
    data = "synthetic:n=80,size=8x8x3"
    chosen = ["--data", data, "--model", "seed-net", "--seed", "3", "--lr", "0.5", "--loss", "svm:delta=2"]
    for outcome, agree in ((True, True), (False, True), (True, False)):
        status = main(["check", *chosen, "--optimizer", "adam:beta1=0.5", "--device", "numpy"])
        passed = outcome and agree
        assert status == (0 if passed else 1)
        assert capsys.readouterr().out.splitlines() == [
            "data       synthetic: 64 training images",
            "device     numpy (as you asked)",
            "model      seed-net, loss svm:delta=2, seed 3",
            "",
            f"{'PASS' if outcome else 'FAIL'}  one: 2.346, expected about 2",
            "      of many",
            "PASS  other: 1.235e+04, expected any",
            f"{'PASS' if agree else 'FAIL'}  gradients: worst relative error 2.5e-07 beyond rounding "
            "(raw 3.1e-07, rounding noise 6.0e-08)",
            "      12 compared; the worst is in b",
            "",
            "all checks pass" if passed else "checks failed",
        ]

    train, _ = load(data)
    loader = Loader(train, 64, normalization=Normalization.from_dataset(train), seed=3)
    x, labels = next(loader.epoch(0))
    np.testing.assert_array_equal(received["x"], x)
    np.testing.assert_array_equal(received["labels"], labels)
    for name, value in models.build("seed-net", (8, 8, 3), 10, seed=3).params().items():
        np.testing.assert_array_equal(received["net"].params()[name], value)
    assert received["checked"] is received["net"]
    assert received["options"] == {"samples": 4}
    assert received["loss"] == losses.SVMHinge(delta=2)
    optimizer = received["optimizer"]
    assert (type(optimizer).__name__, optimizer.beta1) == ("Adam", 0.5)
    assert 0 < optimizer.lr < 0.5  # the one-cycle schedule starts at a fraction of the rate
    # The data has fewer images than one batch.
    assert main(["check", "--data", "synthetic:n=9,size=8x8x3", "--model", "seed-net"]) in (0, 1)
    assert "synthetic: 9 training images" in capsys.readouterr().out


# --- profile ------------------------------------------------------------------------------------


def test_profile_prints_its_settings_and_files_around_the_table(monkeypatch, capsys, tmp_path):
    measured = []

    def measure(device, seconds):
        measured.append((device, seconds))
        return Ceilings(2e9, {"float32": 1.5e9}), ["more"]

    def prepared_profile(net, batch_size, **options):
        timeline = [] if net.device == "emulated" else [("conv1", 0.0, 1.0)]
        rows = [Row("conv1", "forward", Work(3e6, 1e6), 0.003)]
        monkeypatch.setattr(Profile, "trace", lambda self: b"a trace")
        return Profile(net.device, net.precision, batch_size, rows, timeline)

    monkeypatch.setattr(profile_module, "profile", prepared_profile)
    monkeypatch.setattr(peaks, "measure", measure)
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "--device", "numpy", "--trace", "step.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["device     numpy (as you asked)", "step       tiny-vgg, 128 images, float32", ""]
    assert "roof: copies 2 GB/s, float32 products 1.5 GFLOP/s; on numpy" in lines
    assert lines[-2:] == ["", "trace      step.json (open it in ui.perfetto.dev or chrome://tracing)"]
    assert (tmp_path / "step.json").read_bytes() == b"a trace"
    assert measured == [("numpy", 0.1)]
    assert main(["profile", "--device", "emulated"]) == 0  # it has no times, so nothing is measured
    assert measured == [("numpy", 0.1)]


# --- progress bars --------------------------------------------------------------------------------


class Bar(console._NoBar):
    """Keeps the options and the number of updates of every bar."""

    instances: list = []  # noqa: RUF012

    def __init__(self, **options):
        self.options, self.updates = options, 0
        self.instances.append(self)

    def update(self, count=1):
        self.updates += count

    def write(self, text):
        print(text)


@pytest.fixture
def bars(monkeypatch):
    Bar.instances = []
    for command in ("verify", "kernels"):
        monkeypatch.setattr(f"gpuconv.cli.{command}.progress_bar", Bar)
    return Bar.instances


def test_verify_and_kernels_show_progress_bars(bars, monkeypatch, capsys):
    from gpuconv import verify
    from gpuconv.backends.cuda.analysis import resources

    row = verify.run.Row("relu", "float32")
    case = next(case for case in verify.cases(("tiny",)) if case.op == "relu")
    row.outcomes = [verify.run.Outcome(case, "float32", 0.0, 1e-6, 0.0)]
    monkeypatch.setattr(verify, "verify", lambda *_: iter([row, row]))
    assert main(["verify", "--device", "numpy", "--op", "relu", "--dtype", "float32", "--dtype", "float16"]) == 0
    monkeypatch.setattr(resources, "jobs", lambda *_: [(None, "sm_80")] * 3)
    monkeypatch.setattr(resources, "report", lambda listed, workers: iter([[], [], []]))
    assert main(["kernels", "--report"]) == 0
    on_terminals = {"leave": False, "disable": None}  # tqdm: None disables the bar where there is no terminal
    assert [(bar.options, bar.updates) for bar in bars] == [
        ({"total": 2, "desc": "verify"} | on_terminals, 2),
        ({"total": 3, "desc": "compiling"} | on_terminals, 3),
    ]


def test_the_kernel_report_receives_the_options(monkeypatch, capsys):
    from gpuconv.backends.cuda.analysis import resources, variants
    from gpuconv.backends.cuda.runtime import nvrtc

    received = []
    monkeypatch.setattr(resources, "jobs", lambda *arguments: received.append(arguments) or [])
    monkeypatch.setattr(resources, "report", lambda listed, workers: received.append(workers) or iter([]))
    every_arch = list(nvrtc.ARCHITECTURES)
    of_metrics = [variant for variant in variants.variants() if variant.file == "metrics.cu"]
    for arguments, archs, everything in (
        ((), every_arch, False),
        (("--all",), every_arch, True),
        (("--arch", "SM_80", "--arch", "sm_90a"), ["sm_80", "sm_90a"], True),
    ):
        assert main(["kernels", "--report", "--workers", "3", "--file", "metrics.cu", *arguments]) == 0
        assert received == [(of_metrics, archs, everything), 3]
        received.clear()
    assert capsys.readouterr().out.splitlines()[-1] == "0 kernels of 0 variants (): no spill, no local memory"
    assert main(["kernels", "--report", "--file", "metrics.cu"]) == 0
    assert received[-1] == (os.cpu_count() or 1)
    assert main(["kernels"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert listed[-len(variants.MACROS) :] == list(variants.MACROS)


# --- train, and commands that read its runs -------------------------------------------------------

DATA = "synthetic:n=20,size=9x7x3,classes=4"
CHOSEN = [
    "--data",
    DATA,
    "--model",
    "seed-net",
    "--seed",
    "3",
    "--epochs",
    "2",
    "--batch-size",
    "7",
    "--lr",
    "0.25",
    "--optimizer",
    "adam:beta1=0.5",
    "--schedule",
    "cosine",
    "--augment",
    "flip,shift:1",
    "--loss",
    "softmax:label_smoothing=0.2",
    "--device",
    "numpy",
]


@pytest.fixture
def passed_to(monkeypatch):
    """The calls of the parts of training: name -> a list of (arguments, options)."""
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
    monkeypatch.setattr("gpuconv.data.Loader", RecordedLoader)
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


def test_train_passes_its_options_on_and_prints_each_step(passed_to, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *CHOSEN, "--tta", "mirror", "--run-dir", "run", "--checkpoint-every", "2"]) == 0
    output = capsys.readouterr().out.splitlines()
    epochs_at = next(number for number, line in enumerate(output) if line.startswith("epoch 1/2"))
    net = models.build("seed-net", (9, 7, 3), 4)
    assert output[:epochs_at] == [
        "data       synthetic: 20 images to train on, 4 to test on, 9x7x3, 4 classes",
        "device     numpy (as you asked)",
        f"model      seed-net: {sum(value.size for value in net.params().values()):,} parameters",
        "recipe     2 epochs, batches of 7, adam:beta1=0.5 lr 0.25, cosine, augment flip,shift:1, "
        "loss softmax:label_smoothing=0.2, float32, seed 3, tta mirror",
        "run        run",
        "",
    ]
    assert output[epochs_at + 1].startswith("epoch 2/2")
    plain = output[epochs_at + 1].rpartition("accuracy ")[2].split("%")[0]
    averaged = output[-1].removeprefix("test accuracy ")
    assert output[epochs_at + 2 :] == [
        "",
        "checkpoint run/last.safetensors",
        "metrics    run/metrics.jsonl, metrics.csv",
        "pictures   run/: curves.png, activations.png, filters.png",
        "try next   gpuconv evaluate run",
        "           gpuconv predict IMAGE --run-dir run",
        "",
        f"averaging  mirror; without it the test accuracy is {float(plain):.2f}%",
        f"test accuracy {averaged}",
    ]

    train, test = load(DATA)
    normalization = Normalization.from_dataset(train)
    (((trained, optimizer), training),) = passed_to["Trainer"]
    assert optimizer == "adam:beta1=0.5"
    assert {name: training[name] for name in ("lr", "schedule", "seed", "precision", "graph")} == {
        "lr": 0.25,
        "schedule": "cosine",
        "seed": 3,
        "precision": "float32",
        "graph": None,
    }
    assert training["loss"] == losses.SoftmaxCrossEntropy(label_smoothing=0.2)
    ((trained_on, batch_size), loading), ((tested_on, test_batch_size), test_loading), *_ = passed_to["Loader"]
    np.testing.assert_array_equal(trained_on.images, train.images)
    np.testing.assert_array_equal(tested_on.images, test.images)
    for options in (loading, test_loading):
        np.testing.assert_array_equal(options.pop("normalization").mean, normalization.mean)
    assert (batch_size, str(loading.pop("augmentation"))) == (7, "flip,shift:1")
    assert loading == {"seed": 3, "device": "numpy", "dtype": np.float32}
    assert (test_batch_size, test_loading) == (7, {"shuffle": False, "device": "numpy", "dtype": np.float32})
    (((_,), fitting),) = passed_to["fit"]
    stored = fitting.pop("settings")
    assert isinstance(fitting.pop("test"), Loader)
    assert fitting == {"epochs": 2, "run_dir": "run", "resume": False, "checkpoint_every": 2, "callbacks": []}
    assert stored["command"] == {
        "data": DATA,
        "model": "seed-net",
        "seed": 3,
        "epochs": 2,
        "batch_size": 7,
        "optimizer": "adam:beta1=0.5",
        "lr": 0.25,
        "schedule": "cosine",
        "augment": "flip,shift:1",
        "loss": "softmax:label_smoothing=0.2",
        "whiten": 0,
        "tta": "mirror",
        "precision": "float32",
        "test": "",
    }
    stored = json.loads(Path("run/run.json").read_text())["settings"]["options"]
    assert {name: stored[name] for name in ("classes", "mean", "std", "input_shape")} == {
        "classes": [f"class {label}" for label in range(4)],
        "mean": normalization.mean.tolist(),
        "std": normalization.std.tolist(),
        "input_shape": [9, 7, 3],
    }
    (((evaluated, loader), options),) = passed_to["evaluate"]
    assert evaluated is trained
    assert (loader.dataset.name, options) == (test.name, {"loss": training["loss"], "tta": "mirror"})
    (_, filters_file, (filters_net,), _), (_, activations_file, arguments, options) = drawn
    activations_net, image, _, classes = arguments
    assert (filters_file, activations_file) == ("filters.png", "activations.png")
    assert filters_net is activations_net is trained
    np.testing.assert_array_equal(image, test.images[0])
    assert (classes, options["truth"]) == (test.classes, test.labels[0])
    assert options["title"] == "seed-net looks at a test image of synthetic"

    # Without averaging, in another folder.
    assert main(["train", *CHOSEN, "--no-graph"]) == 0
    without_averaging = capsys.readouterr().out.splitlines()
    assert without_averaging[4:6] == ["run        runs/synthetic-seed-net-1", ""]
    assert not any(line.startswith("averaging") for line in without_averaging)
    assert passed_to["Trainer"][-1][1]["graph"] is False
    assert len(passed_to["evaluate"]) == 1
    # Resumed: the same output except for the lines about the run.
    assert main(["train", "--resume", "run", "--device", "numpy"]) == 0
    resumed = capsys.readouterr().out.splitlines()
    assert resumed[: epochs_at - 2] == output[: epochs_at - 2]
    assert resumed[epochs_at - 2 : epochs_at] == ["run        run (continued)", ""]
    assert resumed[-9:] == output[-9:]
    assert passed_to["fit"][-1][1]["resume"] is True


def test_the_initial_weights_follow_from_the_seed(passed_to, drawn, tmp_path, monkeypatch):
    initial = {}

    def fit(self, *arguments, **options):
        initial.update({name: np.array(value) for name, value in self.net.params().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    assert main(["train", *CHOSEN, "--run-dir", str(tmp_path / "run")]) == 130
    for name, value in models.build("seed-net", (9, 7, 3), 4, seed=3).params().items():
        np.testing.assert_array_equal(initial[name], value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_activations", lambda *_, **__: None)
        patch.setattr(pictures, "draw_filters", lambda *_: None)
        assert main(["train", *CHOSEN, "--run-dir", str(directory)]) == 0
    return directory


def test_evaluate_passes_its_options_on_and_prints_the_result(passed_to, trained, capsys):
    for tta, views in ((None, ""), ("mirror", "2"), ("mirror+shift", "6")):
        capsys.readouterr()
        assert main(["evaluate", str(trained), "--device", "numpy", *(["--tta", tta] if tta else [])]) == 0
        output = capsys.readouterr().out.splitlines()
        (((net, loader), options),) = passed_to["evaluate"]
        expected = evaluate(net, loader, **options)
        averaging = [f"averaging  over {views} views of each image"] if views else []
        assert output[: 3 + len(averaging)] == [
            f"run        {trained}",
            "device     numpy (as you asked)",
            "data       synthetic: 4 test images",
            *averaging,
        ]
        assert output[len(output) - 2 :] == [
            f"test loss {expected.loss:.4f}",
            f"test accuracy {100 * expected.accuracy:.2f}%",
        ]
        assert output[3 + len(averaging)] == output[-3] == ""
        assert options == {
            "loss": losses.SoftmaxCrossEntropy(label_smoothing=0.2),
            "confusion": True,
            "tta": tta or "none",
        }
        ((dataset, batch_size), loading) = passed_to["Loader"][-1]
        np.testing.assert_array_equal(dataset.images, load(DATA)[1].images)
        np.testing.assert_array_equal(loading.pop("normalization").mean, Normalization.from_dataset(load(DATA)[0]).mean)
        assert (batch_size, loading) == (256, {"device": "numpy", "dtype": np.float32, "shuffle": False})
        passed_to["evaluate"].clear()


def test_predict_passes_its_options_on_and_prints_the_classes(drawn, trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    train, test = load(DATA)
    for name, image in zip("ab", test.images):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / name) for name in ("gone.png", "a.png", "b.png")]
    arguments = ["predict", *files, "--run-dir", str(trained), "--device", "numpy"]
    assert main([*arguments, "--picture", str(tmp_path / "inside.png")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"gpuconv: error: {files[0]}: No such file or directory\n"
    run = runs.open_run(trained, "numpy")
    scores = look(run.net, Normalization.from_dataset(train)(test.images[:1]))[1]
    best = np.argsort(-scores)
    lines = captured.out.splitlines()
    assert lines[:4] == [f"run        {trained}", "device     numpy (as you asked)", "", files[1]]
    assert lines[4].split() == ["class", str(best[0]), f"{100 * scores[best[0]]:.2f}", "%", *lines[4].split()[4:]]
    assert lines[8:10] == ["", files[2]]
    assert lines[14:] == ["", f"picture    {tmp_path / 'inside.png'}"]
    ((function, file, (_, image, _, classes), options),) = drawn
    assert (function, file, classes) == ("draw_activations", "inside.png", [f"class {label}" for label in range(4)])
    assert options == {"title": "seed-net looks at a.png"}
    np.testing.assert_array_equal(image, test.images[0])
    # One unreadable image alone is an error; among several the others are still tried; if none can be read, nothing is
    # drawn.
    assert main(["predict", files[0], "--run-dir", str(trained)]) == 2
    assert main(["predict", files[0], files[0], "--run-dir", str(trained), "--picture", str(tmp_path / "x.png")]) == 1
    assert len(drawn) == 1
    assert main(["predict", *files[1:], "--run-dir", str(trained)]) == 0
    assert len(drawn) == 1
    assert "picture" not in capsys.readouterr().out


def test_a_net_is_opened_on_the_requested_device(trained):
    assert [runs.open_run(trained, device).net.device for device in ("numpy", "emulated")] == ["numpy", "emulated"]


def test_summary_shows_the_net_of_a_run(monkeypatch, trained, capsys):
    monkeypatch.setattr("gpuconv.summary.summary", lambda net, **options: f"{net.input_shape} {net.device} {options}")
    assert main(["summary", "--run-dir", str(trained), "--device", "emulated", "--batch-size", "7"]) == 0
    assert capsys.readouterr().out == "(9, 7, 3) numpy {'batch_size': 7, 'device': 'emulated'}\n"


def test_the_first_filters_are_whitened_unless_a_checkpoint_holds_them(monkeypatch, tmp_path):
    seen = []

    def stop(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "whiten", lambda net, images: seen.append(images))
    monkeypatch.setattr(Trainer, "fit", stop)
    train, _ = load(DATA)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "last.safetensors").touch()
    for directory, options, expected in (
        ("new", ("--whiten", "5"), 5),
        ("begun", ("--whiten", "5"), 0),
        ("new", (), 0),
        (None, ("--whiten", "5"), 5),
    ):
        monkeypatch.chdir(tmp_path)
        run_dir = ["--run-dir", directory] if directory else []
        assert main(["train", *CHOSEN, *options, *run_dir]) == 130
        assert [len(images) for images in seen] == ([expected] if expected else [])
        if seen:
            np.testing.assert_array_equal(seen.pop(), Normalization.from_dataset(train)(train.images[:5]))


def test_a_run_ended_by_a_signal_exits_with_that_status(monkeypatch, drawn, tmp_path, capsys):
    step_on = Trainer.step_on

    def signaled(self, batches, **options):
        step_on(self, batches, **options)
        signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "step_on", signaled)
    for number in (signal.SIGINT, signal.SIGTERM):
        assert main(["train", *CHOSEN, "--run-dir", str(tmp_path / number.name)]) == 128 + number
        captured = capsys.readouterr()
        assert "test accuracy" not in captured.out
        assert "interrupted after step 1; saved to" in captured.err
    assert drawn == []


def test_predict_fails_if_its_picture_cannot_be_drawn(monkeypatch, trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(load(DATA)[1].images[0]).save(tmp_path / "a.png")

    def fail(*_, **__):
        raise plots.PlotError("no fonts")

    monkeypatch.setattr(pictures, "draw_activations", fail)
    arguments = ["predict", str(tmp_path / "a.png"), "--run-dir", str(trained), "--picture", str(tmp_path / "b.png")]
    assert main(arguments) == 2
    assert capsys.readouterr().err == "gpuconv: error: no fonts\n"


def test_evaluate_refuses_data_together_with_a_test_folder(trained, capsys):
    assert main(["evaluate", str(trained), "--data", "digits", "--test", "folder:x"]) == 2
    assert "error: --test folder:x already gives the test images; leave --data digits out" in capsys.readouterr().err


def test_kernels_are_compiled_on_all_available_cores(monkeypatch):
    from gpuconv.cli import kernels

    for cores, expected in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        parser = Parser()
        kernels.configure(parser)
        assert parser.parse_args([]).workers == expected
