"""The short forms of schedules, plateaus, clipping, optimizers, losses, augmentations and options of data sets:
"cosine,warmup:5", "sgd:momentum=0.9", "flip,shift:4", "size=32x32,seed=1"."""

from __future__ import annotations

from collections.abc import Callable
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
    parts: list[Part] = []
    for token in spec.replace(":", ",:").split(","):
        argument = token.removeprefix(":").strip()
        if not argument:
            raise ValueError(f"{spec!r} has an empty part; write it like {like!r}")
        number = number_in(argument)
        key, equals, value = (side.strip() for side in argument.partition("="))
        if not equals and number is None and not token.startswith(":"):
            parts.append(Part(argument, (), {}))
            continue
        if not parts:
            raise ValueError(f"{spec!r} begins with {argument!r} before any name; write it like {like!r}")
        last = parts.pop()
        if number is not None:
            parts.append(last._replace(numbers=(*last.numbers, number)))
        elif key in last.options:
            raise ValueError(f"{key} is given twice in {spec!r}")
        elif equals:
            parts.append(last._replace(options=last.options | {key: _as_value(value)}))
        else:
            raise ValueError(f"{argument!r} in {spec!r} is neither a number nor key=value")
    return parts


def write(name: str, numbers: tuple[float, ...] = (), options: Options | None = None) -> str:
    """The text of this part, which `parse` reads."""
    written = [text if float(text := f"{number:.15g}") == number else repr(number) for number in numbers]
    written += [f"{key}={value!r}" for key, value in (options or {}).items()]
    return f"{name}:{','.join(written)}" if written else name


def read(parts: list[str], known: dict[str, Callable[[str], object]]) -> Options:
    """Parts such as "classes=10" as keyword arguments, each converted by its entry in `known`."""
    options: Options = {}
    for part in parts:
        name, _, text = part.partition("=")
        name, convert = lookup("option", name, {key: (key, convert) for key, convert in known.items()})
        if name in options:
            raise ValueError(f"{name} is given twice in {','.join(parts)!r}")
        try:
            options[name] = convert(text)
        except ValueError as error:
            raise ValueError(f"cannot read {part!r}: {error}") from None
    return options


def number_in(text: str) -> float | None:
    """The text as a number, or None if it is not one."""
    try:
        return parse_numbers.real(text)
    except ValueError:
        return None


def _as_value(text: str) -> bool | float | str:
    """The text as a bool or a number if it is one, else the text itself."""
    flags = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() in flags:
        return flags[text.lower()]
    if parse_numbers.is_digits(text.removeprefix("-")):
        return int(text)
    number = number_in(text)
    return text if number is None else number
