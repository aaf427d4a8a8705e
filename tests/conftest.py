"""Fixtures and settings for all tests."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: with threads of their own they would wait for one another
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests import pictures as _pictures
from tests import speaking

COMPILE_THE_RUNTIME = "from gpuconv.backends.cuda.emulator import native; native.runtime()"
_compiling: list[subprocess.Popen] = []


def pytest_configure(config):
    """Compiles the emulator's runtime, 6 s with an empty cache, while the workers collect, not while they wait."""
    if getattr(config.option, "numprocesses", None) and not config.option.collectonly:
        command = [sys.executable, "-c", COMPILE_THE_RUNTIME]  # without a compiler the tests say so
        _compiling.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def pytest_unconfigure():
    while _compiling:
        _compiling.pop().wait()


def pytest_collection(session):
    """Without the garbage collector, which would traverse thousands of test objects again and again."""
    gc.disable()
    session.config.stash[_used_before] = _emulated_device_is_used()


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()
    if _emulated_device_is_used() and not session.config.stash[_used_before]:  # each worker would compile its runtime
        raise pytest.UsageError("a module of tests uses the emulated device as it is imported; do so in the tests")


_used_before = pytest.StashKey[bool]()  # the mutation run uses the device before it starts pytest


def _emulated_device_is_used():
    native = sys.modules.get("gpuconv.backends.cuda.emulator.native")
    return bool(native and native.runtime.cache_info().currsize)


def pytest_make_parametrize_id(val, argname):
    return speaking.identify(val, argname)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """With only NumPy installed there is no bfloat16; a test that needs it is skipped."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name != "ml_dtypes":
            raise
        pytest.skip("bfloat16 needs ml_dtypes")


@pytest.fixture(autouse=True, scope="session")
def _answers_signals():
    """Python's default handlers, also in the background, where SIGINT is ignored, and under nohup, where SIGHUP is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _blank_pictures():
    with _pictures.blank():
        yield


@pytest.fixture
def pictures():
    """Pictures are drawn in this test."""
    with _pictures.drawn():
        yield


@pytest.fixture(params=["oracle", "numpy"])
def oracle_and_numpy(request):
    """Each test twice: on the oracle, then on the fast code of the device "numpy"."""
    from gpuconv.backends import oracle

    with oracle() if request.param == "oracle" else contextlib.nullcontext():
        yield
