"""The questions and the experiments that answer them. python -m ci.gate.experiments NAME --device cuda

An experiment is a function of the device and of whether it is a rehearsal; it returns the answer ("yes" if all is as
hoped, "no", or "unknown") and what was observed. It raises UnknownError if it cannot find the answer on this
machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

Answer = tuple[str, str]


class UnknownError(Exception):
    """The experiment cannot find the answer on this machine, such as one without PyTorch."""


QUESTIONS = {  # by the module that holds `ask`
    "capture": "Can a kernel that was never loaded be launched in a capture?",
    "threads": "Can one thread capture while another works on the GPU?",
    "bfloat16": "Does a captured run in bfloat16, with convolution and norm fused, reach the expected accuracy?",
    "float32": "Does a captured run in float32 reach the expected accuracy?",
    "loader": "Does a loader of PyTorch's GPU tensors give the same loss with captured steps as with launches?",
    "choices": "Does the tuner make the same choices twice, each time without stored ones?",
    "families": "Is every algorithm in `ALGORITHMS` right for convolutions on this GPU?",
    "driver": "Does gpuconv[cuda12] work under a driver of CUDA 12?",
}


def ask(name: str, device: str, small: bool) -> Answer:
    asked: Callable[[str, bool], Answer] = importlib.import_module(f"{__name__}.{name}").ask
    return asked(device, small)


def discard(_: object) -> None:
    """Drop a result, because work that is captured must return None."""
