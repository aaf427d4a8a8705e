"""The net that --model names: one of gpuconv's, or one made by a function in a user's file."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from gpuconv.cli.errors import UserError
from gpuconv.names import canonical, lookup
from gpuconv.types import Record, Shape

if TYPE_CHECKING:
    from gpuconv.layers.sequential import Sequential


def is_in_file(model: str) -> bool:
    """Whether the text is FILE.py:FUNCTION, or FILE.py for the function `build`."""
    return _file(model)[0] != ""


def _file(model: str) -> tuple[str, str]:
    """The file, with "~" expanded, and the function; empty texts for the name of a net."""
    path, _, function = (f"{model}:build" if model.endswith(".py") else model).rpartition(":")
    return (os.path.expanduser(path), function) if path.endswith(".py") else ("", "")


def with_full_name(model: str) -> str:
    """The net's full name, or its file's absolute path and function. Raises ValueError for an unknown name."""
    from gpuconv import models

    if is_in_file(model):
        path, function = _file(model)
        return f"{os.path.abspath(path)}:{function}"
    return canonical("model", model, models.MODELS)


def import_file(model: str | None) -> None:
    """Import the file of "FILE.py" or "FILE.py:FUNCTION", which registers its layers; does nothing for None. Raises
    UserError for any other text, and if the file cannot be imported."""
    if model is None:
        return
    if not is_in_file(model):
        raise UserError(
            f"a run has its own net; --model FILE.py names the file that defines its layers, received {model!r}"
        )
    import_path(_file(model)[0])


def with_file_of(model: str, stored: str) -> str:
    """The net that a run stored as `stored`, with its file replaced by the file of `model`."""
    return f"{_file(model)[0]}:{_file(stored)[1]}"


def add_model_file(parser: argparse.ArgumentParser) -> None:
    """Add the --model option of commands that read a run."""
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="the file.py that defines layers of the run's net; its code is run only if you give this option",
    )


def stem(model: str) -> str:
    """A short name, for folders and titles."""
    return Path(_file(model)[0]).stem if is_in_file(model) else model


def build(model: str, input_shape: Shape | None = None, classes: int | None = None, **options: Any) -> Any:  # noqa: ANN401 - a Sequential, or a layer of a file
    """Build a net as `models.build` does, or by a file's function. The function is called with the input shape, the
    number of classes, and those `options` that are among its arguments, and returns a net or a list of layers.

    Raises ValueError for an unknown net or function. Raises UserError, naming the file, if the file cannot be imported,
    or if its function fails or does not return a net with this number of scores. The net's input is not checked: an
    `Input(..., larger=True)` takes other images too, and training checks its images.
    """
    from gpuconv import models
    from gpuconv.layers import Input, Layer, Sequential

    if not is_in_file(model):
        return models.build(model, input_shape, classes, **options)
    path, name = _file(model)
    functions = {key: value for key, value in vars(import_path(path)).items() if callable(value)}
    function = lookup(f"function of {path}", name, functions)
    try:
        made = function(*_arguments(function, model, input_shape, classes), **_accepted(function, options))
        if isinstance(made, (list, tuple)) and made:
            head = [] if isinstance(made[0], Input) else [Input(tuple(input_shape or ()))]
            made = Sequential([*head, *made], **options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{model} failed: {_error_text(error, path)}") from error
    if not isinstance(made, Layer) or made.output_shape is None:
        what = "a net that does not begin with an Input" if isinstance(made, Layer) else type(made).__name__
        what = "an empty list" if isinstance(made, (list, tuple)) else what
        raise UserError(f"{model} must return a net, or a list of layers; it returned {what}")
    if classes is not None and made.output_shape != (classes,):
        raise UserError(f"{model} must give {classes} scores, one for each class, but gives {made.output_shape}")
    conversion = {key: options[key] for key in ("precision", "device") if options.get(key)}
    return made.to(conversion.get("device"), precision=conversion.get("precision")) if conversion else made


def build_for_step(model: str, **options: Any) -> Any:  # noqa: ANN401 - as `build`
    """`build` for a training step on made-up labels. Raises UserError if the net gives anything but scores."""
    net = build(model, **options)
    if len(net.output_shape) != 1:
        raise UserError(f"{model} must give scores, one for each class, but gives {net.output_shape}")
    return net


class _Program(SourceFileLoader):
    """Compiles the file on every run, as Python does with a program. Otherwise Python would use the bytecode of
    a file's former version if both versions have the same size and were saved in the same second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def import_path(path: str) -> ModuleType:
    """The module of a file, run once, so that its layers are registered. It may import modules from its folder."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; --model takes FILE.py:FUNCTION or the name of a net")
    name = Path(path).stem
    if (known := sys.modules.get(name)) is not None:
        if os.path.realpath(getattr(known, "__file__", None) or "") == os.path.realpath(path):
            return known
        raise UserError(f"{path}: another module is named {name!r}; give the file another name")
    specification: Any = importlib.util.spec_from_file_location(name, path, loader=_Program(name, path))
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    if (folder := os.path.dirname(os.path.abspath(path))) not in sys.path:
        sys.path.insert(0, folder)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {_error_text(error, path)}") from error
    return module


def _arguments(
    function: Callable[..., Sequential], model: str, input_shape: Shape | None, classes: int | None
) -> list[Any]:
    """The input shape and the number of classes, or as many of these as the function takes. A value that is not known
    is the parameter's default."""
    takes = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name not in _OPTIONS
    ]
    known = (input_shape, classes)
    given = [each.default if value is None else value for each, value in zip(takes, known)]
    if any(value is inspect.Parameter.empty for value in given):
        raise UserError(
            f"{model} needs the input shape and the number of classes; give its parameters defaults "
            "(gpuconv summary also takes --input and --classes)"
        )
    return given


_OPTIONS = ("seed", "precision", "dtype", "device", "initialize")  # parameters that are given by name


def _accepted(function: Callable[..., Sequential], options: Record) -> Record:
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return {name: value for name, value in options.items() if takes_any or name in parameters}


def _error_text(error: BaseException, path: str) -> str:
    """An error in a user's file in one line, with the last line number in that file."""
    line, trace = "", error.__traceback__
    while trace:
        if os.path.realpath(trace.tb_frame.f_code.co_filename) == os.path.realpath(path):
            line = f" (line {trace.tb_lineno}; --debug shows more)"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{line}"
