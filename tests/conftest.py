"""Fixtures and settings for all tests."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker runs per core, so more threads would only compete
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests import blank_pictures as _pictures
from tests import case_ids

COMPILE_THE_RUNTIME = "from gpuconv.backends.cuda.emulator.runtime import runtime; runtime()"
_compiling: list[subprocess.Popen] = []


def pytest_configure(config):
    """With several workers: compiles the emulator's runtime (6 s with an empty cache) while they collect the tests."""
    if getattr(config.option, "numprocesses", None) and not config.option.collectonly:
        command = [sys.executable, "-c", COMPILE_THE_RUNTIME]  # the tests report a missing compiler
        _compiling.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def pytest_unconfigure():
    while _compiling:
        _compiling.pop().wait()


def pytest_collection(session):
    """Turns off the garbage collector, which would traverse thousands of test objects again and again."""
    gc.disable()
    session.config.stash[_used_before] = _emulated_device_is_used()


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()
    if _emulated_device_is_used() and not session.config.stash[_used_before]:  # each worker would compile the runtime
        raise pytest.UsageError("a module of tests uses the emulated device when it is imported; only tests may use it")


_used_before = pytest.StashKey[bool]()  # the mutation run uses the device before it starts pytest


def _emulated_device_is_used():
    module = sys.modules.get("gpuconv.backends.cuda.emulator.runtime")
    return bool(module and module.runtime.cache_info().currsize)


def pytest_make_parametrize_id(val, argname):
    return case_ids.identify(val, argname)


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
    """Sets Python's default handlers, because SIGINT is ignored in the background and SIGHUP under nohup."""
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
    """Runs a test twice: on the oracle, then on the fast code of the device "numpy"."""
    from gpuconv.backends import oracle

    with oracle() if request.param == "oracle" else contextlib.nullcontext():
        yield
