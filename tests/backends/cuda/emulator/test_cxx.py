"""The C++ compiler of the emulated device: how it is found, what it is given, and its errors."""

import os
import shlex
import shutil
import sys
import threading

import numpy as np
import pytest

from gpuconv.backends import DeviceError, resolve
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator import cxx
from gpuconv.backends.cuda.emulator.runtime import runtime
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.system import locks


@pytest.fixture
def forget_compiler():
    """Search for the compiler again, in this test and in the next."""
    cached = cxx.find, cxx.version, runtime
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("forget_compiler")
def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler and found none"):
        resolve("emulated")


@pytest.mark.usefixtures("forget_compiler")
@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("no-such-c++", "CXX is 'no-such-c\\+\\+', and there is no program 'no-such-c\\+\\+'"),
        ("ccache-that-is-not-there g++", "there is no program 'ccache-that-is-not-there'"),
        ("/", "there is no program '/'"),
        ('g++ "', "is not a command: No closing quotation"),
        ("false", "false --version.* does not run:\\nstatus 1"),
        ("/etc/passwd", "there is no program"),
    ],
    ids=lambda text: text.split()[0],
)
def test_a_wrong_cxx_is_refused_and_not_replaced(cxx, message, monkeypatch):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(DeviceError, match=message):
        resolve("emulated")


@pytest.mark.usefixtures("forget_compiler")
def test_cxx_may_hold_options_and_paths(monkeypatch, tmp_path):
    compilers = cxx.find()
    script = tmp_path / "my compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> "$0.log"\nexec {shlex.join(compilers)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "'./my compiler' -DOF_THE_USER=7")
    cxx.find.cache_clear()
    made = cxx.compile_library("probe", "int probe = OF_THE_USER;\n")
    assert made.is_file()
    output = (tmp_path / "my compiler.log").read_text().splitlines()
    assert all(line.startswith("-DOF_THE_USER=7") for line in output)
    assert len(output) == 3  # runs of the compiler: version, compilation, linking


def test_ctrl_c_does_not_reach_the_compiler():
    """After Ctrl-C a training run finishes its step, and the step may have to compile a kernel first."""
    group = cxx._run([sys.executable, "-c", "import os; print(os.getpgrp())"], "python")
    assert int(group) != os.getpgrp()


def test_the_same_headers_in_another_folder_are_not_compiled_again(monkeypatch, tmp_path):
    """One cache serves every checkout, and can be moved to another machine."""
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    made = cxx.compile_library("probe", "int probe = 1;\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for header in cxx._HERE.glob("*.h"):
        shutil.copy(header, elsewhere)
    monkeypatch.setattr(cxx, "_HERE", elsewhere)
    assert cxx.compile_library("probe", "int probe = 1;\n") == made
    (elsewhere / "other.h").touch()
    assert cxx.compile_library("probe", "int probe = 1;\n") != made


@pytest.mark.usefixtures("forget_compiler")
def test_the_error_holds_the_message_of_a_failing_compiler(monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo mine && exit\nprintf "caf\\351: no space" >&2\nexit 4\n')
    script.chmod(0o755)
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(DeviceError, match=r"runtime does not compile for the emulated device:\ncaf.: no space"):
        resolve("emulated")
    assert not list((tmp_path / "cache").iterdir())


def test_a_kernel_may_be_in_a_folder_of_any_name(tmp_path):
    """With quotes, backslashes and undecodable bytes in names, kernels compile, and an error names the file."""
    folder = tmp_path / os.fsdecode(b'caf\xe9 "a\\b"')
    folder.mkdir()
    kernel = b'extern "C" __global__ void count(int *y) { y[threadIdx.x] = threadIdx.x; } // caf\xe9\n'
    (folder / "right.cu").write_bytes(kernel)
    (folder / "wrong.cu").write_bytes(b'#include "a\\b.cuh"\n' + kernel)
    (folder / "a\\b.cuh").write_text("\nthis is no C++\n")
    y = emulator.empty(4, np.int32)
    load(folder / "right.cu").kernel("count")(1, 4, y)
    np.testing.assert_array_equal(y.view(np.ndarray), range(4))
    with pytest.raises(emulator.EmulatorError, match=r"(?m)^a\\b\.cuh:2:\d+: error"):
        load(folder / "wrong.cu").kernel("count")(1, 4, y)


def test_a_compile_error_points_into_the_cu_file(tmp_path):
    (tmp_path / "bad.cu").write_text('\nextern "C" __global__ void bad(float* y) {\n    y[0] = missing;\n}\n')
    with pytest.raises(emulator.EmulatorError, match=r"bad does not compile[\s\S]*bad\.cu:3:\d+: error.*missing"):
        load(tmp_path / "bad.cu").kernel("bad")(1, 1, emulator.empty(1))


def test_a_process_waits_while_another_one_compiles_the_runtime(monkeypatch, tmp_path):
    """Once the runtime is compiled, no process waits. The test holds the lock, in place of a process that compiles."""
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))

    def compile_in_a_thread():
        thread = threading.Thread(
            target=cxx.compile_library, args=("probe", "int probe = 2;\n"), kwargs={"once": True}, daemon=True
        )
        thread.start()
        return thread

    cxx.version()  # cached from here on; the first call starts the compiler
    compilations, run = [], cxx._run
    monkeypatch.setattr(cxx, "_run", lambda *arguments: compilations.append(1) or run(*arguments))
    with locks.hold(cxx._HERE):
        first = compile_in_a_thread()
        first.join(0.2)
        assert first.is_alive()
        assert not compilations
    first.join(60)
    assert compilations
    assert [*tmp_path.glob("cache/*/library.so")]
    with locks.hold(cxx._HERE):
        second = compile_in_a_thread()
        second.join(10)
        assert not second.is_alive()


@pytest.mark.parametrize(
    ("command", "line", "library"),
    [
        ("/opt/clang: tools/g++", "g++ (Debian 12.2.0-14) 12.2.0", "libasan.so"),
        ("/opt/gcc/c++", "Debian clang version 14.0.6", "libclang_rt.asan-"),
    ],
    ids=["gcc", "clang"],
)
def test_the_compiler_is_recognized_by_its_version_and_not_by_its_folder(monkeypatch, tmp_path, command, line, library):
    asked = []

    def run(arguments, failed, folder=None):
        if "--version" in arguments:
            return f"{line}\n"
        asked.append(arguments[-1])
        return f"{tmp_path / 'found.so'}\n"

    (tmp_path / "found.so").touch()
    monkeypatch.setattr(cxx, "find", lambda: (command,))
    monkeypatch.setattr(cxx, "version", cxx.version.__wrapped__)
    monkeypatch.setattr(cxx, "_run", run)
    assert cxx.sanitizer_runtime() == str(tmp_path / "found.so")
    assert asked[0].startswith(f"-print-file-name={library}")
