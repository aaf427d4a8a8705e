"""Checkpoints: one safetensors file for the complete state of a run, written atomically.

The arrays are ordinary safetensors entries; everything else is JSON in the file's metadata under the key "gpuconv",
with a SHA-256 over both, which detects any flipped bit. Any safetensors reader can extract the weights ("net.*").
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field

import numpy as np

from gpuconv.dtypes import as_dtype
from gpuconv.system import files
from gpuconv.types import Json, Record

FORMAT = 1
KEY = "gpuconv"
_DEEP = "its JSON is nested too deeply"

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read, or belongs to another net or run."""


@dataclass
class Checkpoint:
    """Named arrays and a state.

    Args:
        tensors: The arrays by name.
        state: JSON-serializable.
    """

    tensors: dict[str, np.ndarray]
    state: Record = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with ``prefix.``, without the prefix."""
        return {name.removeprefix(f"{prefix}."): a for name, a in self.tensors.items() if name.startswith(f"{prefix}.")}


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Raises CheckpointError if that fails. An existing file at `path` is then unchanged, except if
    the error came from flushing the folder after the rename.

    Also raises CheckpointError for contents that could not be read back: an array named "__metadata__", a masked
    array, a dtype that is not in `_DTYPES`, or a state that `parse` refuses.
    """
    from safetensors.numpy import save as serialize

    if "__metadata__" in checkpoint.tensors:
        raise CheckpointError(f"cannot save {path}: safetensors cannot store an array named '__metadata__'")
    tensors = {name: _as_stored(path, name, array) for name, array in sorted(checkpoint.tensors.items())}
    try:
        state = dump(checkpoint.state)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"cannot save {path}: its state cannot be stored: {error}") from error
    header = {"format": FORMAT, "sha256": _digest(tensors, state), "state": state}
    write_atomically(path, serialize(tensors, metadata={KEY: json.dumps(header)}))


def _as_stored(path: str | os.PathLike[str], name: str, array: object) -> np.ndarray:
    """The array as stored in the file: contiguous, in native byte order."""
    given, array = array, np.asarray(array, order="C")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name not in _DTYPES.values() or isinstance(given, np.ma.MaskedArray):
        kind = "masked" if isinstance(given, np.ma.MaskedArray) else f"of dtype {array.dtype}"
        accepted = ", ".join(_DTYPES.values())
        raise CheckpointError(f"cannot save {path}: {name} is {kind}; accepted are plain arrays of {accepted}")
    return array


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and verify its checksum. Raises CheckpointError, which says what is wrong with the file."""
    from safetensors import SafetensorError, deserialize

    try:
        with files.open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    try:
        size = int.from_bytes(data[:8], "little")
        written = json.loads(data[8 : 8 + size])
        entries = deserialize(data)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} ({len(data)} bytes) is truncated, corrupt or not a safetensors file: {error}"
        ) from error
    header = _header(path, written)
    try:
        tensors = {name: _array(entry) for name, entry in entries}
        state = header["state"]
        if header["sha256"] != _digest(tensors, state):
            raise ValueError("its contents do not match its checksum")
        return Checkpoint(tensors, parse(state))
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{path} is corrupt: {error}") from error


def dump(value: Record, indent: int | None = None) -> str:
    """The text of a JSON object. Raises ValueError or TypeError for one that `parse` would refuse."""
    try:
        text = json.dumps(value, indent=indent)
    except RecursionError:
        raise ValueError(_DEEP) from None
    parse(text)
    return text


def parse(text: str | bytes) -> Record:
    """The JSON object in a text. Raises ValueError for anything else, and as `parse_json` does."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {short_json(value)}")
    return value


def parse_json(text: str | bytes) -> Json:
    """The JSON value in a text. Raises ValueError for anything else, for too deep nesting, and for NaN and infinity."""

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is not a finite number")
        return value

    try:
        value: Json = json.loads(text, parse_constant=finite, parse_float=finite)
    except RecursionError:
        raise ValueError(_DEEP) from None
    if not _shallow(value):
        raise ValueError(_DEEP)
    return value


def _shallow(value: object, levels: int = 100) -> bool:
    """Whether a JSON value has at most this many levels of nesting, so that recursion is safe."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(entry, levels - 1) for entry in inner)


def _header(path: str | os.PathLike[str], written: Json) -> Record:
    """gpuconv's JSON in a safetensors header. Raises CheckpointError if there is none, and for a format that this
    version does not read."""
    try:
        header = parse(written["__metadata__"][KEY])
        version = header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a safetensors file but not a checkpoint of gpuconv, or a corrupt one: it lacks the metadata "
            f"{KEY!r}; bare weights are loaded with net.load_state_dict"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}, this version of gpuconv reads {FORMAT}; "
            "use the version of gpuconv that wrote it"
        )
    return header


def _array(entry: Record) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"an array has dtype {entry['dtype']}; the known ones are {', '.join(_DTYPES)}")
    name = _DTYPES[entry["dtype"]]
    dtype = as_dtype(name) if name == "bfloat16" else np.dtype(name)
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])


def _digest(tensors: dict[str, np.ndarray], state: str) -> str:
    import hashlib

    digest = hashlib.sha256(state.encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _inode(path: str | os.PathLike[str]) -> int:
    """The inode number of a file, which changes when the file is replaced; 0 if there is no file."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file of a run by `files.write`. Raises CheckpointError if that fails."""
    before = _inode(path)
    try:
        files.write(path, data)
    except OSError as error:
        kept = f"; {path} is as it was before" if before and before == _inode(path) else ""
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}{kept}") from error


def short_json(value: object) -> str:
    """A JSON value for a message, shortened if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def as_json(value: object) -> Json:
    """A value as it comes back from JSON: tuples become lists, and NumPy's numbers become Python's."""
    return json.loads(json.dumps(value, default=_to_json))


def _to_json(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be stored as JSON")
