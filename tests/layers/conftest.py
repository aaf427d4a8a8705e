"""The kernels that a test of layers launches."""

import pytest

from gpuconv.backends.cuda.emulator.array import EmulatedArray
from gpuconv.backends.cuda.runtime.kernel import Kernel


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that are launched, and "assign" for each volume that is copied without a kernel."""
    names, launch, assign = [], Kernel.__call__, EmulatedArray.__setitem__

    def launched(self, *arguments, **options):
        names.append(self.name)
        launch(self, *arguments, **options)

    def assigned(self, key, value):
        if getattr(value, "ndim", 0) > 1:
            names.append("assign")
        assign(self, key, value)

    monkeypatch.setattr(Kernel, "__call__", launched)
    monkeypatch.setattr(EmulatedArray, "__setitem__", assigned)
    return names
