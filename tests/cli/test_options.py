"""Options of commands: their defaults, how words are parsed, and refused ones."""

from __future__ import annotations

from pathlib import Path

from gpuconv.cli import main, shared_options
from gpuconv.cli.main import COMMANDS, Parser, module, parsers
from gpuconv.system.processor import available_cores
from tests.python_process import python

SETTINGS = dict.fromkeys(shared_options.OPTIONS)
NOT_OF_LIVE = ("weights", "early_stopping", "tta", "shards", "sync_batch_norm")
OPTIONS = {  # by command: the shortest command line, and how it is parsed
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
            "shard_optimizer": False,
            "rank_timeout": 300.0,
            "log": None,
        },
    ),
    "evaluate": ([], dict.fromkeys(("run_dir", "data", "test", "tta", "model")) | {"device": "auto", "which": "last"}),
    "predict": (
        ["a.png"],
        {"images": ["a.png"], "run_dir": None, "picture": None, "model": None, "device": "auto", "which": "last"},
    ),
    "explain": (
        ["x", "a.png"],
        dict.fromkeys(("layer", "at", "map", "target", "picture", "model"))
        | {"run_dir": "x", "image": "a.png", "backward": False, "most": 8, "which": "last", "device": "auto"},
    ),
    "export": (
        ["x", "a.onnx"],
        {
            "run": "x",
            "file": "a.onnx",
            "which": "last",
            "model": None,
            "normalization": False,
            "softmax": False,
            "dtype": None,
            "layout": "NCHW",
        },
    ),
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
        dict.fromkeys(
            ("data", "model", "weights", "seed", "batch_size", "optimizer", "augment", "loss", "whiten", "clip")
        )
        | {"precision": None, "device": "auto", "start": 1e-6, "end": 10.0, "steps": 100, "out": None},
    ),
    "live": (
        [],
        {name: None for name in SETTINGS if name not in NOT_OF_LIVE}
        | {"run_dir": None, "repeat": None, "device": "auto", "host": "127.0.0.1", "port": 8600},
    ),
    "verify": ([], {"device": "auto", "op": None, "dtype": None, "tier": None, "seed": 0}),
    "prove": ([], {"model": "tiny-vgg", "batch_size": 128, "precision": "float32", "device": "auto", "algo": None}),
    "shadow": (["replay", "x"], {"action": "replay", "file": "x", "device": "auto"}),
    "bisect": (
        ["x", "y"],
        dict.fromkeys(
            ("data", "model", "seed", "batch_size", "optimizer", "lr", "loss", "steps", "kernel", "op", "algo")
        )
        | {"a": "x", "b": "y", "element": None, "picture": None},
    ),
    "reproduce": ([], {"device": None, "quick": False}),
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
    "kernels": ([], {"report": False, "arch": None, "file": None, "workers": available_cores(), "all": False}),
    "lab": (
        ["--op", "relu"],
        {"file": None, "op": "relu", "algo": None, "template": False, "dtype": None, "device": "auto"},
    ),
    "data": (["cifar10", "--to", "x"], {"name": "cifar10", "to": "x"}),
    "info": ([], {}),
}
MORE_WORDS = {  # words after the shortest command line, and the options that they set
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
        ("--shard-optimizer --rank-timeout 2", {"shard_optimizer": True, "rank_timeout": 2.0}),
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


def test_every_option_has_its_default_and_more_words_are_parsed():
    assert OPTIONS.keys() == COMMANDS.keys()
    for command, (shortest, expected) in OPTIONS.items():
        parser = Parser()
        module(command).configure(parser)
        for words, changed in (("", {}), *MORE_WORDS.get(command, ())):
            parsed = vars(parser.parse_args([*shortest, *words.split()]))
            assert parsed == expected | changed, (command, words)


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


def test_every_command_is_a_subparser_with_the_common_options():
    parser, commands = parsers()
    assert [*commands] == [*COMMANDS]
    for name, subparser in commands.items():
        options = {text for action in subparser._actions for text in action.option_strings}
        assert {"--quiet", "--json", "--debug"} <= options
        assert subparser.prog == f"gpuconv {name}"
    assert parser.parse_args(["info", "--json"]).command == "info"


def test_the_options_of_other_commands_are_not_imported():
    code = (
        "import sys; from gpuconv.cli.main import parsers; parsers('info')\n"
        "print([name for name in sys.modules if name.startswith('gpuconv.cli.')])"
    )
    output = python(code)
    assert "gpuconv.cli.info" in output
    loaded = {name for name in COMMANDS if f"'gpuconv.cli.{name.replace('-', '_')}'" in output}
    assert loaded == {"info"}
