"""Nets and weights from files, or from the runs that trained them: `gpuconv.load` and others."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from gpuconv import checkpoint as checkpoints
from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.layers import Layer, Sequential
from gpuconv.layers.base import expect_built
from gpuconv.layers.registry import layer_class
from gpuconv.layers.saving import NOTES, take_notes
from gpuconv.names import canonical
from gpuconv.training import check_weights, run_schemas
from gpuconv.training.run_schemas import COUNT, NUMBERS, TEXT
from gpuconv.training.rundir import RunDirectory
from gpuconv.types import Record

WHICH = ("last", "best")


def load(
    path: str | os.PathLike[str], *, which: str = "last", device: str = "numpy", precision: str | None = None
) -> Any:  # noqa: ANN401 - a Sequential or a user's subclass
    """A net with its weights, classes and normalization, ready for `predict` or further training.

    The net is a `Sequential`; `load_weights` reads the weights of any layer.

    path: a file that `Layer.save` wrote, a checkpoint, or a run directory. which: the run's "last" or "best"
    checkpoint. device: where to put the net. precision: by default as saved.

    Raises:
        FileNotFoundError: `path` does not exist, or is a folder without a run.
        CheckpointError: The file is damaged, was written by PyTorch or holds no net, or the run has no such checkpoint.
            The message says what is wrong.
        ValueError: `which`, the device or the precision is unknown, or a weight is out of the range of `precision`.
        TypeError: `path` is not a path.
        DeviceError: The device is not available.
    """
    file = checkpoint_file(path, which)
    return net_of(checkpoints.load(file), file, device=device, precision=precision)


def checkpoint_file(path: str | os.PathLike[str], which: str = "last") -> Path:
    """The file to read: `path` itself, or the checkpoint `which` if `path` is a run directory."""
    which = canonical("checkpoint", which, WHICH)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"expected the path of a saved net or of a run directory, received {type(path).__name__}")
    if not os.fspath(path) or not Path(path).exists():
        raise FileNotFoundError(f"{os.fspath(path)!r} does not exist; a saved net or a run directory is expected")
    if not Path(path).is_dir():
        kind = _other_format(Path(path))
        if kind == "npz":
            raise CheckpointError(
                f"{path} is a file of NumPy, and gpuconv reads the safetensors files that it wrote; "
                "net.load_state_dict(numpy.load(path)) takes the arrays of net.state_dict()"
            )
        if kind == "torch":
            raise CheckpointError(
                f"{path} is a PyTorch file, and gpuconv reads the safetensors files that it wrote; "
                "net.load_state_dict(gpuconv.interop.from_torch(torch.load(path), net)) takes PyTorch's weights"
            )
        return Path(path)
    file: Path = getattr(RunDirectory.open(path), which)
    if not file.exists():
        existing = [name for name in WHICH if getattr(RunDirectory(path), name).exists()]
        hint = f"which={existing[0]!r} loads the other checkpoint" if existing else "the run has saved none yet"
        raise CheckpointError(f"{file} does not exist; {hint}")
    return file


def _other_format(path: Path) -> str | None:
    """ "npz" for a file that numpy.savez probably wrote, "torch" for one of torch.save, else None. Only the contents
    count, because a net may be saved under any name."""
    import zipfile

    if not path.is_file():  # opening a FIFO would block; reading the file refuses it later
        return None
    with contextlib.suppress(OSError, zipfile.BadZipFile), open(path, "rb") as file:
        start = file.read(9)
        if start.startswith(b"PK\x03\x04"):
            names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
            return "npz" if names and all(name.endswith(".npy") for name in names) else "torch"
        if start.startswith(b"\x80") and start[8:] != b"{":  # a pickle; in safetensors "{" follows the header's length
            return "torch"
    return None


def net_of(
    found: Checkpoint, path: str | os.PathLike[str], *, device: str = "numpy", precision: str | None = None
) -> Layer:
    """The net in a checkpoint, either of a run or of a net alone."""
    config, notes = _config_and_notes(found, path)
    try:
        if not issubclass(kind := layer_class(config["layer"]), Sequential):
            raise TypeError(f"it is a {kind.__name__}, not a Sequential; load_weights(path, layer) reads its weights")
        planned = Layer.from_config(config, initialize=False)
        if planned.output_shape is None and notes.get("input_shape"):
            planned.build(tuple(notes["input_shape"]), initialize=False)
    except Exception as error:  # a config written by hand can fail in any way
        raise CheckpointError(f"{path} holds a net that cannot be created: {error}") from error
    check_weights.check_net(path, found, planned)
    net = Layer.from_config(config, device=device, **({"precision": precision} if precision else {}))
    if net.output_shape is None and notes.get("input_shape"):
        net.build(tuple(notes["input_shape"]))
    try:
        take_notes(net, notes)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    net.load_state_dict(found.part("net"))
    return net


def _config_and_notes(found: Checkpoint, path: str | os.PathLike[str]) -> tuple[Record, Record]:
    """The config of a checkpoint's net and the metadata of its images (`NOTES`). Raises CheckpointError if there is no
    net, or for wrong metadata."""
    config = found.state.get("net")
    if not isinstance(config, dict) or "layer" not in config:
        raise CheckpointError(f"{path} holds no net; its state has {', '.join(found.state) or 'no entry'}")
    if "settings" in found.state:
        run_schemas.state(found.state, path)
        noted = found.state["settings"].get("options", {})
    else:
        noted = found.state
    notes = {name: noted[name] for name in NOTES if name in noted}
    try:
        run_schemas.expect(notes, {"classes": [TEXT], "mean": NUMBERS, "std": NUMBERS, "input_shape": [COUNT]})
        if ("mean" in notes) != ("std" in notes):
            raise ValueError("mean and std belong together, and one of them is missing")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config, notes


def load_weights(path: str | os.PathLike[str], net: Layer, *, which: str = "last") -> None:
    """Copy the weights of a saved net, a checkpoint or a run into a net with the same layer names and shapes.

    Args:
        path: The file or run directory.
        net: Built, with weights.
        which: The run's "last" or "best" checkpoint.

    Raises:
        FileNotFoundError, TypeError: As in `load`; also TypeError for a `net` that is not a net.
        RuntimeError: The net is not built or has no weights.
        ValueError: `which` is unknown.
        CheckpointError: As in `load`; also for an array that is missing, unknown, of another shape, not finite or out
            of the range of the net's dtype. The message names the array. Nothing has changed then.
    """
    expect_built(net)
    file = checkpoint_file(path, which)
    arrays = checkpoints.load(file).part("net")
    check_weights.check_arrays(file, arrays, net, same_dtype=False)
    net.load_state_dict(arrays)


def load_net(path: str | os.PathLike[str], net: Layer) -> Checkpoint:
    """Load the weights and buffers of a checkpoint into a net of the same layers, settings and dtypes, and return the
    checkpoint. (`load_weights` needs only the same names and shapes.)

    Args:
        path: The file.
        net: Built.

    Raises:
        TypeError, RuntimeError: As in `load_weights`.
        CheckpointError: The file cannot be read, holds no net, or belongs to another net. Nothing has changed then.
    """
    expect_built(net)
    checkpoint = checkpoints.load(path)
    check_weights.check_net(path, checkpoint, net)
    net.load_state_dict(checkpoint.part("net"))
    return checkpoint
