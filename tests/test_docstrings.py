"""The docstring of every public function, class and method names all of its arguments, one by one, and the errors that
its own code raises."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import gpuconv as gc

API = Path(__file__).parents[1] / "docs/api"
MODULES = [page.stem for page in sorted(API.glob("*.md")) if page.stem != "index"]
BORROWS = re.compile(r"\b[Aa]s\s+(?:in\s+)?`([\w.]+)`")  # "other arguments as in `Layer.to`"
EXEMPT = {
    "models.Model": "a protocol of functions, whose __init__ is Python's",
    "random.Stream": "an enum, whose arguments are Python's",
    "checks.Comparisons": "a list, whose argument is Python's",
    "checks.GradientChecks": "a list, whose argument is Python's",
}


def imported(name):
    if name == "torch":
        pytest.importorskip("torch")
    return importlib.import_module(f"gpuconv.{name}")


def public(module):
    """The path, the object and the docstrings of each public function, class and method of a module. The docstrings
    include those of base classes and of overridden methods."""
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    for name in getattr(module, "__all__", None) or [name for name in defined if not name.startswith("_")]:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield name, value, [value.__doc__]
        if not inspect.isclass(value) or issubclass(value, BaseException):
            continue
        bases = [base for base in value.__mro__ if base is not object]
        yield name, value, [base.__doc__ for base in bases]
        for method, attribute in vars(value).items():
            function = getattr(attribute, "__func__", attribute)
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", function, [getattr(vars(base).get(method), "__doc__", "") for base in bases]


def parameters(function):
    return {*inspect.signature(function).parameters} - {"self", "cls"}


def named_object(name, module):
    """The object that a docstring names by a path in gpuconv or in its module; None for one outside of gpuconv."""
    for value in (module, gc):
        for part in name.removeprefix("gpuconv.").split("."):
            value = getattr(value, part, None)
        if getattr(value, "__module__", "").startswith("gpuconv"):
            return value
    return None


def named_arguments(texts, module):
    """The arguments that docstrings name, as "`x`", "x: ..." or "x, y: ...", or by "as in" another function."""
    text = "\n".join(text or "" for text in texts)
    for name in BORROWS.findall(text):
        if callable(borrowed := named_object(name, module)):
            yield from parameters(borrowed)
    yield from re.findall(r"`\*{0,2}(\w+)", text)
    for names in re.findall(r"((?:\w+, )*\w+)(?: \([^)]*\))?:", text):
        yield from names.split(", ")


@pytest.mark.parametrize("name", MODULES)
def test_every_argument_is_named(name):
    module = imported(name)
    lacking = {
        f"{name}.{path}": missing
        for path, function, texts in public(module)
        if (missing := sorted(parameters(function) - {*named_arguments(texts, module)}))
        and f"{name}.{path}" not in EXEMPT
    }
    assert lacking == {}


def errors_raised(function):
    """The errors that a function, or the __init__ of a class, raises in its own code."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    made = [part for part in getattr(tree, "body", ()) if getattr(part, "name", "") in ("__init__", "__post_init__")]
    for part in made if isinstance(tree, ast.ClassDef) else [tree]:
        for node in ast.walk(part):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield ast.unparse(node.exc.func).rpartition(".")[2]


def unnamed_errors(function, texts):
    """The errors with a public name that a function raises and its docstring does not name."""
    text = "\n".join(text or "" for text in texts)
    if re.search(r"[Rr]aises as `", text):  # another function's docstring names them
        return []
    abstract = "NotImplementedError"  # of a method that subclasses define
    return sorted(
        {error for error in errors_raised(function) if error[0].isupper() and error != abstract and error not in text}
    )


@pytest.mark.parametrize("name", MODULES)
def test_every_error_is_named(name):
    lacking = {
        f"{name}.{path}": errors
        for path, function, texts in public(imported(name))
        if (errors := unnamed_errors(function, texts))
    }
    assert lacking == {}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_class_and_method_has_a_docstring(name):
    module = imported(name)
    assert [path for path, _, texts in public(module) if not any(texts)] == []


def test_public_names_are_found_and_an_argument_that_is_not_named_is_detected():
    assert {"layers", "live", "ops", "parallel", "torch"} <= {*MODULES}
    paths = {path for path, _, _ in public(gc.layers)}
    assert {"Conv2D", "Conv2D.forward", "Layer.build", "listen"} <= paths
    texts = ["Takes `a`.\n\nArgs:\n    b, c: Two.\n\nOther arguments as in `Layer.to`."]
    assert {"a", "b", "c", "device"} <= {*named_arguments(texts, gc.layers)}
    assert "d" not in {*named_arguments(texts, gc.layers)}
