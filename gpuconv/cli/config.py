"""Settings from a TOML file, such as a run's config.toml."""

from __future__ import annotations

import argparse
import tomllib

from gpuconv.cli import shared_options
from gpuconv.names import canonical_keys
from gpuconv.system import files
from gpuconv.text.plain_text import printable
from gpuconv.types import Record

MAX_BYTES = 1 << 20  # bytes; a settings file has a few hundred


def read(path: str) -> Record:
    """The settings in a file, by name, including "recipe".

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is too large or not valid TOML, or a setting is unknown or invalid; the message names the
            file, and the line or the setting.
        TypeError: A setting has the wrong type; the message names the file and the setting.
    """
    with files.open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is not a settings file: it has more than {MAX_BYTES:,} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    try:
        named = canonical_keys("setting", table, (*shared_options.OPTIONS, "recipe"))
        return {name: _as_option(name, value) for name, value in named.items()}
    except (ValueError, TypeError) as error:
        raise type(error)(f"{printable(path)}: {error}") from None


def _as_option(name: str, value: object) -> object:
    kind = shared_options.OPTIONS[name][0] if name in shared_options.OPTIONS else str
    expected = (str, int, float) if kind is str else (int, float)  # text may be a number: clip = 1.0
    if isinstance(value, bool) or not isinstance(value, expected):
        raise TypeError(f"{name} must be {'text or a number' if kind is str else 'a number'}, received {value!r}")
    try:
        return kind(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name}: {error}") from None
