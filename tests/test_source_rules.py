"""Rules of the source files: no use of another file's private names, no device's name or kind handled as text, and
some expressions that one function has for all."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

from gpuconv.devices import KINDS
from tests.sources import ROOT, syntax

PACKAGES = ("gpuconv", "bench", "ci", "tools")

# Names of Python, PyTorch and IPython that begin with an underscore.
OF_LIBRARIES = "_(Unpickler|actions|asdict|exit|getframe|modules|parameters|replace|repr_png_)"


def private_names_used(nodes: Collection[ast.AST]) -> list[str]:
    """The private names of other files that a file uses: imported from `PACKAGES`, read from what it imports with
    `from`, or read from another object than `self`. Names that the file itself or one of its constructors defines do
    not count in the last case. nodes: all nodes of its syntax tree."""
    names, modules, own = [], set(), set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            modules |= {alias.asname or alias.name for alias in node.names}
            names += [f"{node.module}.{alias.name}" for alias in node.names if re.match("_[^_]", alias.name)]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own |= {node.name}
            if node.name in ("__init__", "__post_init__"):
                own |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and _of_itself(each)}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own |= {node.id}
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and not _of_itself(node):
            known = node.attr in own or re.fullmatch(OF_LIBRARIES, node.attr)
            names += [ast.unparse(node)] if not known or ast.unparse(node.value) in modules else []
    return names


def _of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_no_file_uses_a_private_name_of_another():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert {str(path): names for path in files if (names := private_names_used(syntax(path)))} == {}
    planted = "from gpuconv import names\nfrom gpuconv.names import _plain, lookup\n_plain = names._plain\n"
    planted += "class A:\n  def __init__(self): self._own = 1\n  def f(self): self._lr = part._own._lr, row._asdict()"
    expected = ["gpuconv.names._plain", "names._plain", "part._own._lr"]
    assert private_names_used([*ast.walk(ast.parse(planted))]) == expected


# The expressions that are a device's name, or its kind.
_NAME, _KIND = re.compile(r"(.*\.)?_?device$|(\w+\.)*device_(of|or_none)\("), re.compile(r"(.*\.)?kind$")


def device_names_as_text(nodes: Collection[ast.AST]) -> list[str]:
    """Where a device's name or kind is compared as text, taken apart or put together. nodes: all nodes of a file's
    syntax tree."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Compare):
            sides = [ast.unparse(part) for each in (node.left, *node.comparators) for part in _parts(each)]
            values = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            texts = {each for each in values if isinstance(each, str)}
            equality = isinstance(node.ops[0], (ast.Eq, ast.NotEq))
            of_name = (texts or equality) and any(map(_NAME.match, sides))
            of_kind = texts & {*KINDS, "auto"} and any(map(_KIND.match, sides))
            found += [ast.unparse(node)] if of_name or of_kind or {"cuda", "emulated"} <= texts else []
        elif isinstance(node, ast.Call) and re.search(r"\bdevice(\.\w+\(\))*\.partition$", ast.unparse(node.func)):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            found += [ast.unparse(node)] if "cuda" in ast.unparse(node.args[0]) else []
        elif isinstance(node, ast.JoinedStr) and re.search("cuda:{", ast.unparse(node)):
            found.append(ast.unparse(node))
    return found


def _parts(side: ast.expr) -> list[ast.expr]:
    """The values of a tuple, also of one that is given a name; else the expression itself."""
    side = side.value if isinstance(side, ast.NamedExpr) else side
    return [part for each in side.elts for part in _parts(each)] if isinstance(side, ast.Tuple) else [side]


def test_devices_are_compared_as_device_values_and_not_by_their_names():
    """A device's name has several spellings, which `Device.named` knows; `gpu_name` makes a GPU's."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): device_names_as_text(syntax(path)) for path in files}
    assert "self.kind == 'cuda'" in found.pop("gpuconv/devices.py")
    # In dispatch.py `kind` is that of an array, without an index, and is compared in every call of an op.
    assert found.pop("gpuconv/backends/dispatch.py") == ["kind == 'cuda'", "kind == 'numpy'", "kind == 'cuda'"]
    assert {name: texts for name, texts in found.items() if texts} == {}
    planted = [
        "net.device == 'numpy'",
        "device in ('auto', 'cuda')",
        "Device.named(device).kind != 'emulated'",
        "kind_of(x) in ('cuda', 'emulated')",
        "device.partition(':')",
        "device.lower().partition(':')",
        "name.startswith('cuda')",
        "f'cuda:{index}'",
        "backends.device_of(x) != net.device",
        "(now := (net.device, net.dtype)) != before",
    ]
    assert device_names_as_text([*ast.walk(ast.parse("\n".join(planted)))]) == planted


def devices_parsed_twice(nodes: Collection[ast.AST]) -> list[str]:
    """The calls of `Device.named` that a function writes more than once. nodes: all nodes of a file's syntax tree."""
    found = []
    for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
        calls = [ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Call)]
        calls = [call for call in calls if call.startswith("Device.named(") and calls.count(call) > 1]
        found += [f"{function.name}: {call}" for call in sorted({*calls})]
    return found


def test_no_function_reads_a_device_name_twice():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert {str(path): calls for path in files if (calls := devices_parsed_twice(syntax(path)))} == {}
    planted = "def f(device): return Device.named(device).on_gpu or Device.named(device).emulated"
    assert devices_parsed_twice([*ast.walk(ast.parse(planted))]) == ["f: Device.named(device)"]


# What one function does for all: a pattern of its code, and the files that may have it.
ONCE = {
    r"\.ctypes\.data if isinstance": {  # address, except where a call would cost too much
        "gpuconv/devices.py",
        "gpuconv/ops/overlap.py",
        "gpuconv/backends/cuda/runtime/kernel.py",
        "gpuconv/backends/cuda/runtime/outputs.py",
    },
    r"-\(-.*//": {"gpuconv/integers.py", "gpuconv/layers/dropout.py"},  # ceil_div, except in one forward pass
    r"\bKernel\.__call__ =": {"gpuconv/profiling/launches.py", "tools/mutation/kernels.py"},  # record_launches
    r"\b(cpu_count|sched_getaffinity)\b": {"gpuconv/system/processor.py"},  # available_cores
    r"\bO_(NOFOLLOW|NONBLOCK)\b": {"gpuconv/system/locks.py"},  # NO_LINK, NO_WAIT
    r"\.int16\)\.numpy\(\)": {"gpuconv/backends/arrays.py"},  # to_numpy, for PyTorch's bfloat16
}


def test_what_one_function_does_is_not_written_again():
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    for pattern, allowed in ONCE.items():
        assert {name for name, text in texts.items() if re.search(pattern, text)} == allowed
    planted = [
        "begin = x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr",
        "blocks = -(-n // 4)",
        "kernel.Kernel.__call__ = record",
        "threads = os.cpu_count() or 1",
        "flags = getattr(os, 'O_NOFOLLOW', 0)",
        "bits = tensor.view(torch.int16).numpy()",
    ]
    for pattern, line in zip(ONCE, planted, strict=True):
        assert re.search(pattern, line)


RENAMED = r"_?(apart|arithmetics|beside|clock|room|wanted|watching)"  # names that better ones have replaced


def renamed_again(nodes: Collection[ast.AST]) -> list[str]:
    """The names of RENAMED that a file gives to something. nodes: all nodes of its syntax tree."""
    found = []
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            found.append(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, (ast.arg, ast.FunctionDef, ast.ClassDef)):
            found.append(node.arg if isinstance(node, ast.arg) else node.name)
    return [name for name in found if re.fullmatch(RENAMED, name, re.I)]


def test_nothing_has_a_name_for_which_the_design_has_a_better_one():
    files = [path for folder in (*PACKAGES, "examples", "tests") for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if re.search(rf"\b{RENAMED}\b", path.read_text(encoding="utf-8"), re.I)]
    found = {path.relative_to(ROOT).as_posix(): names for path in files if (names := renamed_again(syntax(path)))}
    assert found == {
        "gpuconv/ops/step_counter.py": ["clock"],  # an argument of the op's former name
        "gpuconv/backends/cuda/analysis/predict_time.py": ["clock"],  # a GPU's, in Hz
    }
    planted = "for beside in slices: self._room = room\nclass Clock: pass\ndef timed(clock): return clock.wanted"
    assert sorted(renamed_again([*ast.walk(ast.parse(planted))])) == ["Clock", "_room", "beside", "clock"]
    assert renamed_again([*ast.walk(ast.parse("ARITHMETICS = precisions"))]) == ["ARITHMETICS"]


def uses_of_any(nodes: Collection[ast.AST]) -> int:
    """How often a file uses the name `Any`. nodes: all nodes of its syntax tree."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes)


def test_bench_ci_and_tools_annotate_nothing_as_any():
    files = {str(path.relative_to(ROOT)): path for name in PACKAGES[1:] for path in (ROOT / name).rglob("*.py")}
    uses = {name: count for name, path in files.items() if (count := uses_of_any(syntax(path)))}
    assert uses == {"bench/suite.py": 1}  # an entry's workload, of three types by the entry's kind
    assert uses_of_any([*ast.walk(ast.parse("def run(*arrays) -> tuple[Any, ...]: ..."))]) == 1


# Test folders that mirror no package of gpuconv.
OTHER_TESTS = r"tests/(bench|ci|kernels|live/browser|standin|tools)\b"


def misplaced(tests: Collection[str]) -> list[str]:
    """The test files in a folder that gpuconv lacks, and those that lie above the only folder that has a module of
    their name."""
    found = []
    for name in tests:
        folder, stem = (ROOT / name).parent, name.rpartition("/test_")[2]
        package = ROOT / "gpuconv" / folder.relative_to(ROOT / "tests")
        below = [path for path in package.rglob(stem) if path.parent != package]
        at_home = (package / stem).exists() or (package / stem.removesuffix(".py")).exists()
        if not re.match(OTHER_TESTS, name) and (not package.exists() or (len(below) == 1 and not at_home)):
            found.append(name)
    return found


def test_the_tests_lie_in_the_folders_of_what_they_test():
    names = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert "tests/backends/cuda/gemm/test_tuner.py" in names
    assert misplaced(names) == []
    planted = ["tests/backends/cuda/test_tuner.py", "tests/optimizers/test_adam.py", "tests/test_conv2d_wgrad.py"]
    assert misplaced([*planted, "tests/test_checkpoint.py", "tests/backends/test_conv.py"]) == planted


def tolerances_by_hand(nodes: Collection[ast.AST]) -> int:
    """How often a file calls `assert_allclose`. nodes: all nodes of its syntax tree."""
    return sum(isinstance(node, ast.Attribute) and node.attr == "assert_allclose" for node in nodes)


def test_kernel_tests_compare_within_derived_bounds():
    """They use tests/tolerance.py. The exceptions: the derived bound is wider than the tolerance (long sums, a variance
    beside a large mean, partial sums of split-K), values are infinite or NaN, the formula leaves out an epsilon, or the
    reference is a numerical derivative, another run of the device, or the oracle's result in a narrow dtype."""
    calls = {path.name: tolerances_by_hand(syntax(path)) for path in (ROOT / "tests" / "kernels").glob("*.py")}
    assert {name: count for name, count in calls.items() if count} == {
        "test_activation_kernels.py": 3,
        "test_batch_norm_kernels.py": 2,
        "test_clip_and_loss_scale_kernels.py": 1,
        "test_conv_backward_kernels.py": 1,
        "test_conv_norm_kernels.py": 1,
        "test_digest_kernel.py": 3,
        "test_elementwise_loss_kernels.py": 2,
        "test_fused_conv_kernels.py": 1,
        "test_gemm_reduce_kernel.py": 1,
        "test_loss_kernels.py": 10,
        "test_muon_kernels.py": 3,
        "test_optim_kernels.py": 1,
    }
    assert tolerances_by_hand([*ast.walk(ast.parse("np.testing.assert_allclose(a, b, rtol=1e-3)"))]) == 1
