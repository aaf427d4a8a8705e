"""Every name that the stand-in offers, and every name of CuPy that gpuconv uses, exists in the installed CuPy."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import gpuconv
from tests import standin
from tests.standin import modules, nccl
from tests.standin.machine import Machine

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
cupy_backends = pytest.importorskip("cupy_backends")

ROOT = Path(gpuconv.__file__).parents[1]


def has(owner, name: str) -> bool:
    """Whether the owner, or an instance of it, has the name: streams have attributes that the class Stream lacks."""
    return hasattr(owner, name) or (owner is cupy.cuda.Stream and hasattr(cupy.cuda.Stream.null, name))


ONLY_IN_STANDIN = {"queue", "position", "capture", "time"}


def public_names(object_) -> set[str]:
    """The names of an object and of its class that are not private."""
    return {
        name for name in vars(object_).keys() | vars(type(object_)).keys() if not name.startswith("_")
    } - ONLY_IN_STANDIN


def test_the_stand_ins_objects_have_attributes_and_a_hash_only_if_cupys_have_them():
    with standin.installed(("90",)):
        import cupy as stand_in

        array, stream = stand_in.zeros(4), stand_in.cuda.Stream()
        module = stand_in.RawModule(
            path=modules.compile_cubin("k", 'extern "C" __global__ void k() {}', {}, "sm_90").path
        )
        with stream:
            stream.begin_capture()
            graph = stream.end_capture()
        pairs = [
            (array, cupy.ndarray),
            (array.data, cupy.cuda.MemoryPointer),
            (stand_in.cuda.Memory(4), cupy.cuda.Memory),
            (stand_in.cuda.MemoryPool(), cupy.cuda.MemoryPool),
            (module, cupy.RawModule),
            (module.get_function("k"), cupy.RawKernel),
            (stand_in.cuda.Device(0), cupy.cuda.Device),
            (stream, cupy.cuda.Stream),
            (stand_in.cuda.Event(), cupy.cuda.Event),
            (graph, cupy.cuda.graph.Graph),
        ]
        for object_, class_ in pairs:
            missing = [name for name in public_names(object_) if not has(class_, name)]
            assert not missing, class_
            assert (type(object_).__hash__ is None) == (class_.__hash__ is None), class_
        assert {"ptr", "device_id"} <= public_names(stream) & public_names(array.data)


def test_names_of_the_stand_in_exist_in_cupy():
    def compare(stand_in, original, path):
        for name, value in vars(stand_in).items():
            if not name.startswith("__"):
                assert hasattr(original, name), f"{path}.{name}"
                if type(value).__name__ == "SimpleNamespace":
                    compare(value, getattr(original, name), f"{path}.{name}")

    stand_in = standin.module(Machine(("90",), "late"))
    names = vars(vars(stand_in.cuda).pop("nccl"))
    compare(stand_in, cupy, "cupy")
    # Without the NCCL library CuPy's module for NCCL cannot be imported, but its file contains the names.
    binding = next(Path(cupy_backends.__file__).parent.glob("cuda/libs/nccl.*.so")).read_bytes()
    methods = [name for name in vars(nccl.NcclCommunicator) if not name.startswith("_")]
    assert methods == ["allReduce", "send", "recv", "abort"]
    for name in [*names.keys() - {"available"}, *(f"NcclCommunicator.{name}" for name in methods)]:
        assert re.search(rb"\b%s\b" % name.encode(), binding), name


def test_new_arrays_have_cupys_default_dtype():
    made = standin.module(Machine(("90",), "late"))
    for name in ("empty", "zeros", "ones"):
        defaults = [inspect.signature(getattr(owner, name)).parameters["dtype"].default for owner in (made, cupy)]
        assert defaults == [float, float], name


class Names(ast.NodeVisitor):
    """The objects of CuPy to which the names in a source file refer. An instance counts as its class.

    used: the attributes of CuPy's modules and classes that the file uses.
    """

    CLASS_OF: dict[str, type] = {  # the class of a function's result or of an attribute's value
        "data": cupy.cuda.MemoryPointer,
        "get_current_stream": cupy.cuda.Stream,
        "end_capture": cupy.cuda.graph.Graph,
        "record": cupy.cuda.Event,
        "get_default_memory_pool": cupy.cuda.MemoryPool,
        "get_function": cupy.RawKernel,
    } | dict.fromkeys(("ones", "empty", "zeros", "asarray", "from_dlpack"), cupy.ndarray)

    def __init__(self, tree: ast.AST) -> None:
        self.known: dict[str, object] = {}
        self.used: set[str] = set()
        before = -1
        while before != len(self.known):  # a name may be used above the line that binds it
            before = len(self.known)
            self.visit(tree)

    def of(self, node: ast.AST | None) -> object:
        """The CuPy object that an expression refers to, or None."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Subscript) and ast.unparse(node) == "sys.modules['cupy']":
            return cupy
        if isinstance(node, ast.Attribute):
            if (known := self.known.get(ast.unparse(node))) is not None:
                return known
            if (owner := self.of(node.value)) is None:
                return None
            assert has(owner, node.attr), f"CuPy has no {ast.unparse(node)}"
            self.used.add(f"{getattr(owner, '__name__', owner)}.{node.attr}")
            attribute = getattr(owner, node.attr, None)
            return self.CLASS_OF.get(node.attr) if inspect.isdatadescriptor(attribute) else attribute
        if isinstance(node, ast.Call):
            if (result := self.known.get(f"{ast.unparse(node.func).rpartition('.')[2]}()")) is not None:
                return result
            called = self.of(node.func)
            if inspect.isclass(called) or called is None:
                return called
            return self.CLASS_OF.get(getattr(called, "__name__", ""))
        return None

    def bind(self, target: ast.AST, value: ast.AST | None) -> None:
        """From now on the target is known to be the value."""
        if isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else [getattr(value, "elt", None)] * len(target.elts)
            for element, its_value in zip(target.elts, values):
                self.bind(element, its_value)
        elif (bound := self.of(value)) is not None:
            self.known[ast.unparse(target)] = bound

    def visit_Import(self, node: ast.Import) -> None:
        self.known |= {alias.asname or alias.name: cupy for alias in node.names if alias.name == "cupy"}

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.bind(target, node.value)
        self.generic_visit(node)

    def visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self.bind(node.optional_vars, node.context_expr)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if "cupy" in {argument.arg for argument in node.args.args}:
            self.known["cupy"] = cupy
        self.generic_visit(node)
        returned = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)]
        if len(returned) == 1:
            self.bind(ast.Name(f"{node.name}()"), returned[0])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.of(node)
        self.generic_visit(node)


def test_cupy_names_used_by_gpuconv_exist():
    """Each is an attribute of a module or an object of CuPy. Source files may bind modules and objects to any name."""
    used = set()
    for folder in ("gpuconv", "bench", "ci"):
        for path in (ROOT / folder).rglob("*.py"):
            if "cupy" in (text := path.read_text(encoding="utf-8")):
                used |= Names(ast.parse(text)).used
    expected = (
        "cuda.Device Stream.begin_capture Stream.launch_host_func Graph.launch Event.synchronize RawModule.get_function"
    )
    names = {chain.removeprefix("cupy.") for chain in used}
    assert set(expected.split()) <= names, sorted(names)


@pytest.mark.parametrize(
    "line",
    [
        "cupy.cuda.gone",
        "with cupy.cuda.Device(0) as on: on.gone",
        "self._cuda, self._at = cupy.cuda, 0; self._cuda.Event().gone()",
        "stream = cupy.cuda.get_current_stream(); stream.gone",
        "sys.modules['cupy'].gone",
        "a, b = (cupy.ones(3) for _ in range(2)); b.data; b.gone",
    ],
)
def test_a_name_that_cupy_lacks_is_found(line):
    with pytest.raises(AssertionError, match=r"CuPy has no .*\.gone"):
        Names(ast.parse(f"import cupy\n{line}"))
