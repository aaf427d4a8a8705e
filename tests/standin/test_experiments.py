"""The gate's experiments that need another library's tensors, with planted ones."""

from __future__ import annotations

import sys
import types

import pytest

from ci.gate.experiments import UnknownError, loader
from tests import standin
from tests.standin.test_library import ForeignTensor


class FakeTorch(types.ModuleType):
    """As much of PyTorch as the experiment asks. wrong: one batch is another than was asked for."""

    def __init__(self, available=True, wrong=False):
        super().__init__("torch")
        self.cuda = types.SimpleNamespace(is_available=lambda: available)
        self._count, self._wrong = 0, wrong

    def from_numpy(self, host):
        self._count += 1
        changed = host + 1 if self._wrong and self._count == 3 and host.ndim > 1 else host
        return types.SimpleNamespace(to=lambda device: ForeignTensor(changed))


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    ForeignTensor._free.clear()


@pytest.mark.filterwarnings("ignore::gpuconv.training.UncapturedWarning")
@pytest.mark.parametrize(("wrong", "answer"), [(False, "yes"), (True, "no")], ids=["right", "wrong"])
def test_a_loader_of_foreign_tensors_is_compared_with_our_own(monkeypatch, wrong, answer):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(wrong=wrong))
    with standin.installed(("90",)):
        found, seen = loader.ask("cuda:0", small=True)
        ForeignTensor._free.clear()
    assert found == answer, seen
    assert "PyTorch's, default: " in seen


@pytest.mark.parametrize("torch", [None, FakeTorch(available=False)], ids=["not installed", "no GPU"])
def test_without_pytorch_on_the_gpu_the_answer_is_unknown(monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(UnknownError):
        loader.ask("cuda:0", small=True)
