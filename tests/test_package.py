"""The package as a whole: a quick import, correct docs, and imports between layers in one direction."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = [
    "cupy",
    "cuda",
    "matplotlib",
    "PIL",
    "scipy",
    "torch",
    "tqdm",
    "safetensors",
    "ml_dtypes",
    "requests",
    "nvtx",
    "threadpoolctl",
    "onnx",
    "onnxruntime",
    "tensorboardX",
    "mpi4py",
    "xxhash",
]

# Each part may import from its own set and from those above it.
LAYERS = [
    {"inverse_normal", "names", "newton_schulz", "notices", "polynomials", "system", "text", "types", "version"},
    {"arguments", "dtypes", "list_cache", "spec"},
    {"devices", "kernels", "problems", "random", "window_sizes"},
    {"checkpoint", "few_channels"},
    {"algorithms"},
    {"backends"},
    {"ops"},
    {"convert", "data", "initializers", "layers", "losses", "metrics"},
    {"models", "parallel", "profiling"},
    {"checks", "interop", "lab", "own_op", "plots", "summary", "torch", "training", "verify"},
    {"inspect"},
    {"cli", "live"},
    {"__main__"},
]

BACKENDS = {f"gpuconv.backends.{name}" for name in ("cpu", "cuda", "reference")}


# Standard library modules that take milliseconds to load and that few runs need: they are imported where they are used.
SELDOM_NEEDED = [
    "hashlib",
    "html",
    "importlib.resources",
    "pickletools",
    "secrets",
    "shutil",
    "socket",
    "subprocess",
    "tarfile",
    "tempfile",
    "zipfile",
]


def python(code: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["gpuconv", "gpuconv.cli"])
def test_import_loads_no_heavy_packages(module):
    loaded = python(f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))")
    assert not set(HEAVY) & set(loaded.split())


def test_import_loads_no_numpy_before_it_is_needed():
    printed = python("import sys, gpuconv as gc; print('numpy' in sys.modules, gc.asarray is gc.asarray)")
    assert printed == "False True"


def test_every_package_with_a_page_of_the_documentation_is_an_attribute():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: gpuconv\.(\w+)", pages))
    documented -= {"torch", "inverse_normal"}  # imported by their own names
    assert len(documented) > 15
    missing = f"[name for name in {sorted(documented)} if not hasattr(gc, name)]"
    assert python(f"import gpuconv as gc; print({missing})") == "[]"


def test_ctrl_c_while_numpy_is_imported_ends_a_command_quietly(tmp_path):
    """NumPy reports a KeyboardInterrupt during its import as an ImportError."""
    (tmp_path / "numpy.py").write_text(
        "import signal\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('numpy is broken') from None\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-m", "gpuconv", "info"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_importing_the_trainer_loads_no_heavy_packages_and_no_seldom_needed_modules():
    code = "import sys, numpy; numpys = set(sys.modules); import gpuconv as gc; gc.ops, gc.Sequential, gc.Trainer"
    loaded = set(python(code + "; print(*set(sys.modules) - numpys)").split())
    assert "gpuconv.training.trainer" in loaded
    assert sorted(loaded & {*HEAVY, *SELDOM_NEEDED}) == []


def test_the_import_time_is_limited_relative_to_numpys(tmp_path):
    """Both are timed in one process, under the same load; `bench` measures the milliseconds on a quiet machine.

    Python caches compiled modules, as it does for users, in a folder of this test.
    """
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    code = """
import time
start = time.process_time()
import numpy
alone = time.process_time() - start
import gpuconv.{}
print(alone, time.process_time() - start)
"""
    for name, limit in (("ops", 2), ("training", 3.5)):
        python(f"import gpuconv.{name}", **cached)
        alone, both = zip(*(map(float, python(code.format(name), **cached).split()) for _ in range(3)))
        assert min(both) < limit * min(alone)


def modules() -> list[Path]:
    return sorted((ROOT / "gpuconv").rglob("*.py"))


@functools.cache
def syntax(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The gpuconv modules in a file's import statements, at any depth."""
    names = set()
    for node in syntax(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.startswith("gpuconv."))


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
            assert level[part(name)] <= level[inside[0]], what
            if inside[0] == "backends" and len(inside) > 2:  # no backend imports another
                assert not name.startswith(tuple(BACKENDS - {f"gpuconv.backends.{inside[1]}"})), what
            if inside[0] in ("ops", "layers", "losses", "models", "training"):
                assert not name.startswith(tuple(BACKENDS)), what


PACKAGES = ("gpuconv", "bench", "ci", "tools")


def private_names_used(nodes: Collection[ast.AST]) -> list[str]:
    """The private names that a file uses from other files of `PACKAGES`. nodes: all nodes of its syntax tree."""
    names, modules = [], set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            modules |= {alias.asname or alias.name for alias in node.names}
            names += [f"{node.module}.{alias.name}" for alias in node.names if re.match("_[^_]", alias.name)]
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and isinstance(node.value, ast.Name):
            names += [f"{node.value.id}.{node.attr}"] if node.value.id in modules else []
    return names


def test_no_file_uses_a_private_name_of_another():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert {str(path): names for path in files if (names := private_names_used(syntax(path)))} == {}
    planted = "from gpuconv import names\nfrom gpuconv.names import _plain, lookup\nnames._plain\nself._own"
    assert private_names_used([*ast.walk(ast.parse(planted))]) == ["gpuconv.names._plain", "names._plain"]


def device_names_compared(nodes: Collection[ast.AST]) -> list[str]:
    """The comparisons of a device's name with text. nodes: all nodes of a file's syntax tree."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Compare):
            named = [each for each in (node.left, *node.comparators) if ast.unparse(each).split(".")[-1] == "device"]
            texts = [each for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found += [ast.unparse(node)] if named and texts else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("device.partition"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            found += [ast.unparse(node)] if "cuda" in ast.unparse(node.args[0]) else []
    return found


def test_devices_are_compared_as_device_values_and_not_by_their_names():
    """Names have several spellings: `Device.named` knows them."""
    found = {str(path.relative_to(ROOT)): device_names_compared(syntax(path)) for path in modules()}
    assert found.pop("gpuconv/devices.py") == ["module.startswith('gpuconv.backends.cuda.emulator')"]
    assert {name: compared for name, compared in found.items() if compared} == {}
    planted = ["net.device == 'numpy'", "device in ('auto', 'cuda')", "name.startswith('cuda')"]
    assert device_names_compared([*ast.walk(ast.parse("\n".join(planted)))]) == planted


def imported_by_file() -> dict[str, set[str]]:
    """The files that each file imports, as module names, without the file of public names."""
    files = {}
    for path in modules():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "gpuconv":
            files[name] = path

    def file_of(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    return {name: {file_of(other) for other in imports(path)} - {name, ""} for name, path in files.items()}


def test_files_have_no_import_cycles():
    """Imports inside functions count too. The CycleError names the files."""
    imported = imported_by_file()
    assert "gpuconv.problems" in imported["gpuconv.ops.conv.conv2d"]
    graphlib.TopologicalSorter(imported).prepare()


def imports_between(imported: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The imports between the files and packages directly in a package; a nested file counts as its package."""

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


@pytest.mark.slow
def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    *_, accuracy, shapes = python(code + "\nprint(maps.shape, scores.shape)").splitlines()
    assert shapes == "(64, 32, 32, 12) (64, 10)"
    assert float(accuracy) > 0.9


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_links_in_the_readme_and_the_docs_lead_to_files():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "kernels/README.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_op_shown_in_contributing_is_the_shipped_one():
    shipped = [*(ROOT / "gpuconv").rglob("activation.py"), *(ROOT / "kernels").glob("activation.cu*")]
    source = "\n\n".join(path.read_text() for path in shipped)
    shown = re.findall(r"^   ```(?:python|cuda)\n(.*?)^   ```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    assert len(shown) == 5
    for block in shown:
        for part in textwrap.dedent(block).strip().split("\n\n"):
            assert part in source, part


def test_the_docs_name_every_command_and_net():
    from gpuconv import models
    from gpuconv.cli.main import COMMANDS

    text = (ROOT / "docs/commands.md").read_text()
    assert [name for name in COMMANDS if f"gpuconv {name}" not in text] == []
    assert [name for name in models.MODELS if name not in text] == []


def test_names_in_british_spelling_still_work():
    from gpuconv import checks
    from gpuconv.data import Augmentation, Dataset
    from gpuconv.data.folder import FolderSamples

    assert checks.regularisation is checks.regularization
    assert Dataset.relabelled is Dataset.relabeled
    assert FolderSamples.relabelled is FolderSamples.relabeled
    assert Augmentation(hue=0.1).colours == Augmentation(hue=0.1).colors


def test_former_names_still_work():
    from gpuconv import backends, live, parallel
    from gpuconv.backends.cuda import emulator
    from gpuconv.data import Normalization
    from gpuconv.data.normalization import looks_unnormalized
    from gpuconv.layers import (
        Branches,
        Flatten,
        NormChain,
        Residual,
        ResidualNorm,
        Upsample,
        batch_parts,
        input_gradient,
    )
    from gpuconv.training import Trainer
    from gpuconv.verify import oracle

    assert Normalization.lacks is looks_unnormalized
    assert (parallel.launched, parallel.started) == (parallel.is_launched, parallel.launched_ranks)
    ranks = parallel.Ranks()
    assert (ranks.share(3), ranks.meet(), ranks.own("cuda:1"), ranks.first(lambda: 4)) == (3, None, "cuda:1", 4)
    assert importlib.import_module("gpuconv.layers.part") is batch_parts
    assert importlib.import_module("gpuconv.layers.onto") is input_gradient
    assert batch_parts.place_of is batch_parts.part_in_elements
    assert batch_parts.Together is batch_parts.PartStates
    assert oracle.expect is oracle.expected_results
    assert Trainer.diverged is Trainer.divergence_message
    assert Upsample.means is Upsample.pool_options
    assert NormChain.links is NormChain.can_link
    for kind in (Branches, Residual):
        assert kind.adding is kind.adds_to_sum
        assert kind.copied is kind.copied_branches
        assert kind.summed is kind.sum_gradients
    assert (ResidualNorm.adding, ResidualNorm.joined) == (ResidualNorm.adds_to_sum, ResidualNorm.joining_layer)
    assert live.Sets is live.DataSplits
    assert backends.watched is backends.watch_calls
    assert (emulator.recorded, emulator.watched) == (emulator.record_launches, emulator.watch_writes)
    assert Flatten().slid((2, 3, 4)) == Flatten().as_sliding((2, 3, 4))
