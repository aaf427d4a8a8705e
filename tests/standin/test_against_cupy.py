"""Every name that the stand-in offers, and every name of CuPy that gpuconv uses, exists in the installed CuPy."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import gpuconv
from tests import standin
from tests.standin import arrays, memory, modules, streams
from tests.standin.machine import Machine

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

ROOT = Path(gpuconv.__file__).parents[1]


def public(class_: type) -> list[str]:
    return [name for name in vars(class_) if not name.startswith("_") and name != "queue"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (arrays.ndarray, cupy.ndarray),
        (memory.Memory, cupy.cuda.Memory),
        (memory.MemoryPointer, cupy.cuda.MemoryPointer),
        (memory.MemoryPool, cupy.cuda.MemoryPool),
        (modules.RawModule, cupy.RawModule),
        (modules.RawKernel, cupy.RawKernel),
        (streams.Device, cupy.cuda.Device),
        (streams.Stream, cupy.cuda.Stream),
        (streams.Event, cupy.cuda.Event),
        (streams.Graph, cupy.cuda.graph.Graph),
    ],
    ids=lambda value: value.__name__,
)
def test_what_the_stand_ins_classes_offer_cupys_have(ours, theirs):
    missing = [name for name in public(ours) if not hasattr(theirs, name)]
    assert not missing


def test_what_the_stand_in_offers_cupy_has():
    def compare(ours, theirs, path):
        for name, value in vars(ours).items():
            if not name.startswith("__"):
                assert hasattr(theirs, name), f"{path}.{name}"
                if type(value).__name__ == "SimpleNamespace":
                    compare(value, getattr(theirs, name), f"{path}.{name}")

    compare(standin.module(Machine(("90",), "late", False)), cupy, "cupy")


def test_what_gpuconv_names_cupy_has():
    """Chains such as `cupy.cuda.runtime.getDeviceCount`, wherever the sources have them."""
    found = set()
    for folder in ("gpuconv", "bench", "ci"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"(?<![\w.\"'])(?:self\._)?cupy((?:\.\w+)+)", path.read_text()))
    assert ".cuda.Device" in found
    for chain in found:
        at = cupy
        for name in chain.strip(".").split("."):
            assert hasattr(at, name), f"cupy{chain}"
            at = getattr(at, name)
            if inspect.isclass(at) or callable(at):
                break
