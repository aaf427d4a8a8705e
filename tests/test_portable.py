"""Platform independence of the sources: explicit encodings, and imports that exist everywhere."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("gpuconv", "bench", "ci", "tools", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
UNIX_MODULES = {"curses", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def without_encoding(tree):
    """The lines of calls that use the platform's encoding: of open, read_text and write_text, and of any function with
    text=True."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        keywords = {keyword.arg for keyword in call.keywords}
        if name in ("read_text", "write_text"):
            yield from [] if "encoding" in keywords else [call.lineno]
        elif isinstance(call.func, ast.Name) and name == "open":
            mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
            yield from [] if "b" in mode or "encoding" in keywords else [call.lineno]
        elif "text" in keywords:  # subprocess.run and Popen
            yield from [] if "encoding" in keywords else [call.lineno]


def unix_only(tree):
    """The Unix modules that a file imports at its top level."""
    for node in tree.body:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from UNIX_MODULES & {name.partition(".")[0] for name in names}


def test_sources_name_their_encodings_and_import_no_unix_module_unconditionally():
    for path in SOURCES:
        tree = ast.parse(path.read_bytes())
        assert [*without_encoding(tree)] == [], f"{path}: text files and pipes must have an encoding"
        assert [*unix_only(tree)] == [], f"{path}: modules that only Unix has must not be imported at the top level"


def test_the_checks_detect_violations():
    wrong = """import fcntl
open('x')
Path('x').read_text()
Path('x').write_text('')
open('x', 'w')
open('x', 'rb')
run(x, text=True)"""
    assert [*without_encoding(ast.parse(wrong))] == [2, 3, 4, 5, 7]
    assert [*unix_only(ast.parse(wrong))] == ["fcntl"]


# Makes a process behave as on another system: without Unix's modules and what `os` and `signal` lack on Windows.
OTHER_SYSTEM = f"""
import importlib, os, pkgutil, signal, subprocess, sys, tempfile
import numpy, safetensors.numpy, threadpoolctl, tqdm  # first: the installed packages need the real system
UNIX_MODULES = {sorted(UNIX_MODULES)}
for name in [*UNIX_MODULES, "cuda", "cupy", "torch"]:  # the installed cuda, cupy and torch need the real system too
    sys.modules[name] = None
os.name = "another"
for name in ("getuid", "geteuid", "getgid", "fork", "killpg", "listxattr", "lchown", "pread", "register_at_fork",
             "sched_getaffinity", "uname", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "setitimer", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


def run_on_another_system(code, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", OTHER_SYSTEM + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_every_module_imports_without_the_modules_of_unix(tmp_path):
    run_on_another_system(
        """
import gpuconv
for module in pkgutil.walk_packages(gpuconv.__path__, "gpuconv."):
    if module.name == "gpuconv.__main__":
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        missing = (error.__cause__ or error).name  # a package that one of the extras installs
        assert missing.partition(".")[0] not in ("gpuconv", *UNIX_MODULES), (module.name, error)
""",
        tmp_path,
    )


@pytest.mark.slow
def test_a_run_without_unix_modules_trains_saves_and_resumes(tmp_path):
    done = run_on_another_system(
        """
from gpuconv.cli import main
train = ["train", "--epochs", "1", "--device", "numpy", "--run-dir", "run"]
assert main(train) == 0
assert main(["evaluate", "run", "--device", "numpy"]) == 0
assert main(["train", "--resume", "run"]) == 0
assert main(["verify", "--op", "relu", "--device", "emulated"]) == 2
""",
        tmp_path,
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"last.safetensors", "metrics.jsonl", "config.toml"}
    assert "run.lock" not in {path.name for path in (tmp_path / "run").iterdir()}
    assert "this file system has no locks" in done.stderr
    assert "the emulated device needs mmap, ucontext and signals" in done.stderr
