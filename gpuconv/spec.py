"""The short forms of schedules, plateaus, clipping, optimizers, losses, augmentations and options of data sets:
"cosine,warmup:5", "sgd:momentum=0.9", "flip,shift:4", "size=32x32,seed=1"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gpuconv.names import lookup
from gpuconv.text import parse_numbers
from gpuconv.types import Options


class Part(NamedTuple):
    """One ``name:number,number,key=value`` of a spec."""

    name: str
    numbers: tuple[float, ...]
    options: Options


def parse(spec: str, like: str = "cosine,warmup:5") -> list[Part]:
    """The parts of ``spec``: a name begins a part; the numbers and key=value that follow belong to it.

    "step:30,60,gamma=0.2,warmup:5" has a part step with the numbers 30, 60 and the option gamma, and a part warmup.
    Raises TypeError if `spec` is not a string, ValueError if it cannot be parsed.
    """
    if not isinstance(spec, str):
        raise TypeError(f"a spec is a string such as {like!r}, received {spec!r}")
    found: list[tuple[str, list[str]]] = []
    for token in spec.replace(":", ",:").split(","):
        argument = token.removeprefix(":").strip()
        if not argument:
            raise ValueError(f"{spec!r} has an empty part; write it like {like!r}")
        is_argument = "=" in argument or number_in(argument) is not None
        if not is_argument and not token.startswith(":"):
            found.append((argument, []))
        elif not found:
            raise ValueError(f"{spec!r} begins with {argument!r} before any name; write it like {like!r}")
        elif not is_argument:
            raise ValueError(f"{argument!r} in {spec!r} is neither a number nor key=value")
        else:
            found[-1][1].append(argument)
    return [_part(name, arguments, spec) for name, arguments in found]


def _part(name: str, arguments: list[str], spec: str) -> Part:
    numbers = tuple(parse_numbers.real(each) for each in arguments if "=" not in each)
    options = options_in([each for each in arguments if "=" in each], spec)
    return Part(name, numbers, {key: _as_value(value) for key, value in options.items()})


def options_in(arguments: Sequence[str], spec: str) -> dict[str, str]:
    """The values of arguments such as "key=value", by key, which is in lower case and has ``_`` for ``-``. Raises
    ValueError that quotes `spec` if a key is given twice."""
    options: dict[str, str] = {}
    for argument in arguments:
        key, _, value = (side.strip() for side in argument.partition("="))
        key = key.lower().replace("-", "_")
        if key in options:
            raise ValueError(f"{key} is given twice in {spec!r}")
        options[key] = value
    return options


def is_groups(spec: str) -> bool:
    """Whether an optimizer's short form lists groups of parameters, as "filters -> muon; * -> sgd" does."""
    return "->" in spec


def name_and_rest(text: str) -> tuple[str, str]:
    """The name and the text after its colon, "" if there is none."""
    name, _, rest = text.partition(":")
    return name, rest


def write(name: str, numbers: tuple[float, ...] = (), options: Options | None = None) -> str:
    """The text of this part, which `parse` reads."""
    written = [text if float(text := f"{number:.15g}") == number else repr(number) for number in numbers]
    written += [f"{key}={_as_text(value)}" for key, value in (options or {}).items()]
    return f"{name}:{','.join(written)}" if written else name


def convert_options(options: Mapping[str, str], known: Mapping[str, Callable[[str], object]]) -> Options:
    """The options of `options_in` as keyword arguments, each converted by its entry in `known`."""
    found: Options = {}
    for key, text in options.items():
        convert = lookup("option", key, known)
        try:
            found[key] = convert(text)
        except ValueError as error:
            raise ValueError(f"cannot read {key + '=' + text!r}: {error}") from None
    return found


def number_in(text: str) -> float | None:
    """The text as a number, or None if it is not one."""
    try:
        return parse_numbers.real(text)
    except ValueError:
        return None


_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def parse_flag(text: str) -> bool:
    """Whether `text`, such as "1" or "yes", means yes. Raises ValueError for text that means neither yes nor no."""
    if text.lower() not in _FLAGS:
        raise ValueError(f"expected 1 or 0, received {text!r}")
    return _FLAGS[text.lower()]


def _as_text(value: object) -> str:
    return repr(value).lower() if isinstance(value, bool) else str(value)


def _as_value(text: str) -> bool | float | str:
    """The text as a number or a bool if it is one, else the text itself."""
    if parse_numbers.is_digits(text.removeprefix("-")):
        return int(text)
    number = number_in(text)
    return _FLAGS.get(text.lower(), text) if number is None else number
