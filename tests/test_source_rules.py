"""Rules of the source files: no use of another file's private names, no comparison of a device's name with text."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

from tests.sources import ROOT, modules, syntax

PACKAGES = ("gpuconv", "bench", "ci", "tools")


def private_names_used(nodes: Collection[ast.AST]) -> list[str]:
    """The private names that a file imports from other files of `PACKAGES`, or uses as attributes of what it imports
    with `from`. nodes: all nodes of its syntax tree."""
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
    """A device's name has several spellings, which `Device.named` knows."""
    found = {str(path.relative_to(ROOT)): device_names_compared(syntax(path)) for path in modules()}
    # In devices.py `module` is the name of a Python module.
    assert found.pop("gpuconv/devices.py") == ["module.startswith('gpuconv.backends.cuda.emulator')"]
    assert {name: compared for name, compared in found.items() if compared} == {}
    planted = [
        "net.device == 'numpy'",
        "device in ('auto', 'cuda')",
        "device.partition(':')",
        "name.startswith('cuda')",
    ]
    assert device_names_compared([*ast.walk(ast.parse("\n".join(planted)))]) == planted
