"""The files of the gate do not import each other in a circle."""

from __future__ import annotations

import ast
import graphlib

from ci.gate.tree import ROOT


def test_the_files_of_the_gate_have_no_import_cycles():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "ci" / "gate").rglob("*.py")
    }

    def imported(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    graph = {name: {*imported(path)} & names.keys() - {name} for name, path in names.items()}
    assert graph["ci.gate.parts"] >= {"ci.gate.speed_checks", "ci.gate.start"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
