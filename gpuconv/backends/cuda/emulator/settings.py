"""Settings of the emulator: what it checks, and the order in which it runs threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpuconv.arguments import integer, seed_value
from gpuconv.names import canonical
from gpuconv.system.processor import available_cores
from gpuconv.text.parse_numbers import is_digits
from gpuconv.types import Options

SANITIZERS = ("none", "checked", "address")
MOST_WORKERS = 1024  # the system may refuse to start tens of thousands of threads, which ends the process


@dataclass(frozen=True)
class Settings:
    """How kernels run on the emulated device.

    seed: 0 runs the blocks, and the threads of a block, in their order; any other number in a random order, which for
        threads is drawn again after each barrier. A kernel without races gives the same bits for every seed.
    sanitize: "none" finds divergent barriers and warp operations, writes next to a buffer, invalid addresses and, on
        x86-64, integer division by zero. "checked" checks every load and store, and also finds out-of-bounds reads, use
        after free, misaligned accesses, reads of unwritten shared memory, asynchronous copies used before they were
        waited for, races, and undefined arithmetic such as a signed overflow; it is 4 to 200 times slower. "address"
        compiles with AddressSanitizer, which also checks local arrays, and UndefinedBehaviorSanitizer; it needs a
        process started with `address_environment()`.
    workers: how many processor cores run blocks, at most 1024; checked kernels run on one.
    """

    seed: int = 0
    sanitize: str = "none"
    workers: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "sanitize", canonical("sanitizer", self.sanitize, SANITIZERS))
        object.__setattr__(self, "seed", seed_value("seed", self.seed))
        object.__setattr__(self, "workers", integer("workers", self.workers, 1, MOST_WORKERS))


def _from_environment() -> Settings:
    values: Options = {"workers": min(available_cores(), MOST_WORKERS)}
    for name, read in (("seed", _whole_number), ("sanitize", str), ("workers", _whole_number)):
        variable = f"GPUCONV_EMULATOR_{name.upper()}"
        if text := os.environ.get(variable):
            try:
                values[name] = read(text)
                Settings(**{name: values[name]})
            except ValueError as error:
                raise ValueError(f"{variable} is {text!r}: {error}") from None
    return Settings(**values)


def _whole_number(text: str) -> int:
    if not is_digits(text):
        raise ValueError("expected a whole number")
    return int(text)


_current: Settings | None = None


def settings() -> Settings:
    """The settings in force; at first those of GPUCONV_EMULATOR_SEED, _SANITIZE and _WORKERS, and by default a worker
    for each core.

    Raises ValueError if one of these variables has no valid value.
    """
    global _current
    _current = _current or _from_environment()
    return _current


@contextlib.contextmanager
def _restoring(before: Settings) -> Iterator[Settings]:
    global _current
    try:
        yield settings()
    finally:
        _current = before


def configure(
    *, seed: int | None = None, sanitize: str | None = None, workers: int | None = None
) -> contextlib.AbstractContextManager[Settings]:
    """Change the given settings, immediately. At the end of a ``with`` statement the previous settings are restored.
    Raises ValueError for an invalid value, and TypeError for a seed or workers that are not integers and for a
    `sanitize` that is not a string."""
    global _current
    before = settings()
    arguments: Options = {"seed": seed, "sanitize": sanitize, "workers": workers}
    changed = {name: value for name, value in arguments.items() if value is not None}
    _current = replace(before, **changed)
    return _restoring(before)
