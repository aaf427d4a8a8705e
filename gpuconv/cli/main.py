"""The entry point: finds the command and runs it. An error that the user can fix is printed as one line."""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from gpuconv.backends import DeviceError
from gpuconv.cli import json_output, streams
from gpuconv.cli.errors import UserError, text_of
from gpuconv.names import canonical
from gpuconv.notices import on_stderr
from gpuconv.system.console import log_on_stderr, quiet, say
from gpuconv.system.files import describe_error
from gpuconv.text.plain_text import printable
from gpuconv.version import __version__

COMMANDS = {
    "train": "train a ConvNet on images and test it on images that it has not seen",
    "lr-find": "find a learning rate: train at a rising one, and see where the loss falls fastest",
    "live": "train with a live web page: curves, activations, controls",
    "evaluate": "test a trained net: accuracy, and a table of the classes",
    "predict": "classify image files: the five best scores of each",
    "explain": "show the terms of one value of a net, and which thread computed it",
    "export": "write a trained net as an ONNX file",
    "summary": "print a net layer by layer: shapes, parameters, work, memory",
    "check": "run the sanity suite on a net and its data",
    "verify": "check every operation on a device against the oracle",
    "prove": "prove algorithms on a device: those that no GPU has run yet, or the named ones",
    "shadow": "repeat a call of an op that a run with --shadow found wrong",
    "bisect": "find where two runs, devices, precisions or algorithms begin to differ",
    "reproduce": "train the nets of the docs' accuracy table again, and show differences",
    "profile": "profile a training step: time, work and kernels of each layer",
    "kernels": "list the CUDA kernels; compile them and report the resources of each",
    "lab": "check and time your own .cu in place of a shipped kernel",
    "data": "download a data set",
    "info": "show which devices and optional packages this machine has",
}


COMPLETION = "--print-completion"


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that suggest the nearest known option."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, text: str) -> object:
        """Refuse an empty value, such as that of an unset shell variable (`--resume "$RUN"`). It would otherwise be
        taken for the folder "."."""
        if not text.strip() and action.nargs != argparse.PARSER:  # the command's own parser names the option
            raise argparse.ArgumentError(action, f"expected a value, received {text!r}; is a shell variable unset?")
        return super()._get_value(action, text)

    def refuse_unknown(self, rest: Sequence[str]) -> None:
        if not rest:
            return
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(rest[0].partition("=")[0], known)
        self.error(f"unknown argument {rest[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's). Returns the exit status.

    0: done. 1: a check failed, `bisect` found a difference, or one of several images could not be read. 2: an error
    that the user can fix, printed as one line on stderr, or standard output could not be written. 130, 143, 129: ended
    by Ctrl-C, SIGTERM, SIGHUP. Any other error is a defect of gpuconv and ends with its traceback and status 1; with
    --debug, an error that the user can fix ends like that too.
    """
    if argv is not None:
        return _main(list(argv))
    streams.begin()
    try:
        return streams.end(_main(sys.argv[1:]))
    except SystemExit as left:  # argparse, after a help text, or a layer in a user's file
        if isinstance(left.code, int | None):
            return streams.end(left.code or 0)
        say(str(left.code))  # as Python does
        return streams.end(1)


def _main(arguments: list[str]) -> int:
    # Replace characters that the terminal cannot encode instead of failing; stderr does so by itself.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")
    try:
        with on_stderr(), log_on_stderr():
            return _run(arguments)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except (UserError, OSError, DeviceError, MemoryError, _checkpoint_error()) as error:
        if isinstance(error, BrokenPipeError):
            return _closed_pipe()
        if "--debug" in arguments:
            raise
        message = describe_error(error) if isinstance(error, OSError) else text_of(error)
        print(f"gpuconv: error: {printable(' '.join(message.split()))}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"gpuconv {__version__}")
        return 0
    if (shell := arguments[0].removeprefix(COMPLETION)) != arguments[0]:
        print(_completion(shell.removeprefix("=") or " ".join(arguments[1:])))
        return 0
    try:
        name = canonical("command", arguments[0], COMMANDS)
    except ValueError as error:
        raise UserError(str(error)) from None
    parser, commands = parsers(only=name)
    options, rest = parser.parse_known_args([name, *arguments[1:]])
    commands[name].refuse_unknown(rest)
    run = module(name).run
    if not options.json:
        with quiet(options.quiet):
            return run(options)
    with quiet(), json_output.collect() as found:
        status = run(options)
    print(json_output.text(found))
    return status


def module(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"gpuconv.cli.{command.replace('-', '_')}")


def parsers(only: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and the parser of each command. only: add the options of this command only,
    without importing the modules of the others."""
    parser = Parser(prog="gpuconv", description="Train, inspect and use ConvNets.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(COMPLETION, metavar="SHELL", help="print the completion script for bash, zsh or another shell")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands = {name: group.add_parser(name, help=COMMANDS[name], allow_abbrev=False) for name in COMMANDS}
    for name in [only] if only else COMMANDS:
        command = module(name)
        own = commands[name]
        own.description = (command.__doc__ or COMMANDS[name]).strip()  # python -OO has no docstrings
        examples = "\n".join(f"  {line}" for line in command.EXAMPLES)
        own.epilog = f"example{'s' * (len(command.EXAMPLES) > 1)}:\n{examples}"
        own.formatter_class = argparse.RawDescriptionHelpFormatter
        command.configure(own)
        own.add_argument("--quiet", action="store_true", help="print only results, no progress")
        own.add_argument("--json", action="store_true", help="print the results as one JSON document")
        own.add_argument("--debug", action="store_true", help="show a traceback for errors of any kind")
    return parser, commands


def _completion(shell: str) -> str:
    """The completion script for a shell."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs shtab: python -m pip install 'gpuconv[completion]'") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError(f"{COMPLETION} takes {', '.join(shtab.SUPPORTED_SHELLS)}, received {shell!r}")
    parser, commands = parsers()
    kinds = {"FILE": shtab.FILE, "IMAGE": shtab.FILE, "FILE_OR_RUN": shtab.FILE, "DIR": shtab.DIR, "RUN_DIR": shtab.DIR}
    for action in (action for command in commands.values() for action in command._actions):
        if action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
        elif action.dest in _choices():
            action.choices = _choices()[action.dest]
    return shtab.complete(parser, shell=shell)


@functools.cache
def _choices() -> dict[str, list[str]]:
    """The values that a shell offers for an option, by the option's name."""
    from gpuconv import models
    from gpuconv.cli import recipes
    from gpuconv.devices import KINDS
    from gpuconv.dtypes import PRECISIONS

    return {
        "model": [*models.MODELS],
        "recipe": [*recipes.RECIPES],
        "precision": [*PRECISIONS],
        "device": ["auto", *KINDS],
    }


def _overview() -> str:
    lines = [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gpuconv COMMAND [options]",
            "",
            "Train, inspect and use ConvNets.",
            "",
            "commands:",
            *lines,
            "",
            "`gpuconv COMMAND --help` shows the options of a command and examples. To begin:",
            "",
            "  gpuconv train",
        ]
    )


def _closed_pipe() -> int:
    """The reader of our output (`| head`) has closed the pipe: end without an error message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _checkpoint_error() -> type[Exception]:
    """CheckpointError, imported only when an error is handled, so that help texts do not wait for the import."""
    from gpuconv.checkpoint import CheckpointError

    return CheckpointError
