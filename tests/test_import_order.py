"""Imports between the parts of gpuconv go in one direction. Files (also of bench, ci, tests and tools), the packages
within a package, and headers form no cycles."""

from __future__ import annotations

import graphlib
import re

import pytest

from tests.sources import ROOT, imports, modules

# Each part may import from its own set and from those above it.
LAYERS = [
    {"inverse_normal", "names", "newton_schulz", "notices", "polynomials", "system", "text", "types", "version"},
    {"arguments", "dtypes", "integers", "list_cache", "spec"},
    {"activations", "batch_augmentation", "devices", "host_values", "kernels", "problems", "random", "window_sizes"},
    {"checkpoint", "few_channels"},
    {"algorithms"},
    {"backends"},
    {"ops", "verify"},
    {"images", "initializers", "layers", "losses", "metrics"},
    {"convert", "data", "interop", "models", "parallel", "plots", "profiling", "summary"},
    {"torch", "training"},
    {"checks", "inspect", "lab"},
    {"cli", "live"},
    {"__main__"},
]

PACKAGES = ("gpuconv", "bench", "ci", "tests", "tools")
BACKENDS = {f"gpuconv.backends.{name}" for name in ("cpu", "cuda", "reference")}


def part(name: str) -> str:
    """The part of gpuconv that a module belongs to: "backends" for "gpuconv.backends.cpu.conv"."""
    return name.split(".")[1]


def test_imports_go_in_one_direction():
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    for path in modules():
        inside = path.relative_to(ROOT / "gpuconv").with_suffix("").parts
        if inside == ("__init__",):
            continue  # the public names, which come from every layer
        assert inside[0] in level, f"{inside[0]} has no place in LAYERS yet"
        for name in imports(path):
            what = f"{path} imports {name}"
            assert name != "gpuconv", f"{what}, the public names of all parts; import the part it needs"
            assert level[part(name)] <= level[inside[0]], what
            if inside[0] == "backends" and len(inside) > 2:  # no backend imports another
                assert not name.startswith(tuple(BACKENDS - {f"gpuconv.backends.{inside[1]}"})), what
            if inside[0] in ("ops", "layers", "losses", "models", "training"):
                assert not name.startswith(tuple(BACKENDS)), what


def imported_by_file() -> dict[str, set[str]]:
    """The files of PACKAGES that each of them imports, as module names. `gpuconv/__init__.py` is left out."""
    files = {}
    for path in [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "gpuconv":
            files[name] = path

    def file_of(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    return {name: {file_of(other) for other in imports(path, PACKAGES)} - {name, ""} for name, path in files.items()}


def test_files_have_no_import_cycles():
    """Imports inside functions count too. The CycleError names the files."""
    imported = imported_by_file()
    assert "gpuconv.problems" in imported["gpuconv.ops.conv.conv2d"]
    assert "tests.standin" in imported["bench.host_time"]
    graphlib.TopologicalSorter(imported).prepare()


def imports_between(imported: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The imports between the files and subpackages directly in a package. A file deeper down counts as the subpackage
    that contains it."""

    def direct(name: str) -> str:
        return name.removeprefix(package + ".").partition(".")[0] if name.startswith(package + ".") else ""

    imports: dict[str, set[str]] = {}
    for name, others in imported.items():
        if direct(name):
            imports.setdefault(direct(name), set()).update({direct(other) for other in others} - {direct(name), ""})
    return imports


def test_packages_have_no_import_cycles():
    """Two packages can form a cycle even if no two of their files do."""
    imported = imported_by_file()
    packages = {name.rpartition(".")[0] for name in imported}
    assert {"gpuconv", "gpuconv.backends.cuda"} <= packages
    for package in packages:
        graphlib.TopologicalSorter(imports_between(imported, package)).prepare()


def test_the_stand_in_imports_nothing_of_the_benchmark():
    """The benchmark runs on the stand-in."""
    imported = imported_by_file()
    of_bench = {
        name for name, others in imported.items() if any(other.partition(".")[0] == "bench" for other in others)
    }
    assert "tests.bench.test_second_gpu" in of_bench
    assert not [name for name in of_bench if name.startswith("tests.standin")]


def test_an_import_cycle_of_packages_is_found():
    imported = {"gpuconv.a.x": {"gpuconv.b.x"}, "gpuconv.b.y": {"gpuconv.a.y"}}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports_between(imported, "gpuconv")).prepare()


def test_headers_have_no_include_cycles():
    for folder in (ROOT / "kernels", ROOT / "gpuconv/backends/cuda/emulator"):
        included = {
            path.name: set(re.findall(r'^ *# *include "(.*)"', path.read_text(), re.M))
            for path in folder.iterdir()
            if path.suffix in (".cu", ".cuh", ".h")
        }
        assert any(included.values())
        graphlib.TopologicalSorter(included).prepare()


def test_the_sources_were_found():
    assert len(modules()) > 30
