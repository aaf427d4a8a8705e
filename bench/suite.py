"""The entries to time: convolutions, memory-bound operations, whole training steps, and a whole recipe. work.py counts
their FLOPs and bytes.

An entry is identified by op, shape and dtype. Entries are timed in the order of their importance, 0 first, in case a
run has no time for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.work import conv_work, step_work
from gpuconv.devices import Device
from gpuconv.dtypes import as_dtype, full_name
from gpuconv.names import lookup
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling.work import Work
from gpuconv.text.plain_text import size_text
from gpuconv.types import Size
from gpuconv.verify import conv_problems


@dataclass(frozen=True)
class Entry:
    """One thing to time. group: a name that selects several shapes, such as "vgg" or "memory-126mb". workload, by kind:
    a Conv2dProblem, a volume (N, H, W, C), or a net's name and batch size."""

    kind: str
    op: str
    group: str
    dtype: str
    workload: Any
    work: Work
    importance: int = 0

    @property
    def shape(self) -> str:
        if self.kind == "step":
            return f"{self.workload[0]}-n{self.workload[1]}"
        return str(self.workload) if self.kind == "convolution" else size_text(self.workload)

    @property
    def key(self) -> str:
        return f"{self.op} {self.shape} {self.dtype}"


# --- convolutions ------------------------------------------------------------------------------


def conv(n: int, size: Size, c: int, k: int, kernel_size: Size = 3, stride: int = 1, padding: int = 1) -> Conv2dProblem:
    h, w = size if isinstance(size, tuple) else (size, size)
    return conv_problems.conv(n, h, w, c, k, kernel_size, stride=stride, padding=padding)


def _vgg(n: int) -> list[Conv2dProblem]:
    widths = [(32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128)]
    widths += [(8, 128, 256), (8, 256, 256), (4, 256, 512), (4, 512, 512)]
    return [conv(n, *layer) for layer in widths]


CONVOLUTIONS: dict[str, list[Conv2dProblem]] = {
    "vgg": _vgg(128),
    "vgg-512": _vgg(512),
    "airbench94": [
        conv(2000, 32, 3, 24, 2, 1, 0),
        conv(2000, 31, 24, 64),
        conv(2000, 15, 64, 64),
        conv(2000, 15, 64, 256),
        conv(2000, 7, 256, 256),
        conv(2000, 3, 256, 256),
    ],
    "resnet20": [
        conv(128, 32, 3, 16),
        conv(128, 32, 16, 16),
        conv(128, 32, 16, 32, stride=2),
        conv(128, 16, 32, 32),
        conv(128, 16, 32, 64, stride=2),
        conv(128, 8, 64, 64),
    ],
    # Shapes that vgg-512 lacks: the stride-2 transitions and 1x1 shortcuts.
    "resnet18-cifar": [
        conv(512, size, c, 2 * c, kernel, 2, kernel // 2)
        for kernel in (3, 1)
        for size, c in ((32, 64), (16, 128), (8, 256))
    ],
    "deepbench": [
        conv(16, 224, 3, 64),
        conv(16, 112, 64, 128),
        conv(16, 56, 128, 256),
        conv(16, 28, 256, 512),
        conv(16, 14, 512, 512),
        conv(16, 7, 512, 512),
        conv(16, 224, 3, 64, 7, 2, 3),
        conv(16, 28, 192, 32, 5, 1, 2),
        conv(16, 56, 64, 256, 1, 1, 0),
        conv(16, 56, 256, 128, 1, 2, 0),
        conv(8, 27, 128, 128),
        conv(32, (161, 700), 1, 32, (5, 20), 2, 0),
    ],
    "seed-net": [conv(n, 32, 3, 12) for n in (1, 32, 128, 1024)],
    # What a laptop can time: the nets' layers with 64 images, among them C = 3 and the 10 filters of tiny VGG.
    "cpu": [
        conv(64, 32, 3, 64),
        conv(64, 32, 64, 64),
        conv(64, 16, 128, 128),
        conv(64, 8, 256, 256),
        conv(64, 4, 512, 512),
        conv(64, 32, 3, 12),
        conv(64, 32, 3, 10),
        conv(64, 32, 10, 10),
        conv(64, 16, 10, 10),
        conv(64, 8, 10, 10),
    ],
}

# Single directions; all gradients in one call; fprop with bias and ReLU in one call, and also with 2x2 max pooling.
DIRECTIONS = ("fprop", "dgrad", "wgrad", "backward", "fprop_relu", "fprop_relu_pool")
# What each op, group and dtype adds to the `importance` of its entries, so that they are timed later.
_LATER = {"backward": 1, "fprop_relu": 2, "fprop_relu_pool": 2}
_LATER |= {"vgg-512": 1, "resnet20": 1, "seed-net": 1, "resnet18-cifar": 2, "deepbench": 3}
_LATER |= {"float32": 2, "float16": 3}


def _convolutions() -> Iterator[Entry]:
    for group, problems in CONVOLUTIONS.items():
        for dtype in ("float32",) if group == "cpu" else ("bfloat16", "float32", "float16"):
            for problem in problems:
                for op in DIRECTIONS:
                    if op == "fprop_relu_pool" and min(problem.p, problem.q) < 2:
                        continue
                    later = sum(_LATER.get(part, 0) for part in (op, group, dtype))
                    yield Entry("convolution", op, group, dtype, problem, conv_work(problem, op, dtype), later)


# --- memory-bound operations -------------------------------------------------------------------

# The bytes that each op moves for an element of its large tensor, for a dtype of s bytes. A ReLU's backward can read
# the sign from one bit; the backward of a 2x2 pool can read the position of the maximum from two bits.
MEMORY = {
    "bias_relu": lambda s: 2 * s,
    "relu": lambda s: 2 * s,
    "relu_backward": lambda s: 2 * s + 1 / 8,
    "max_pool2d": lambda s: (5 * s + 1 / 4) / 4,
    "max_pool2d_backward": lambda s: (5 * s + 1 / 4) / 4,
    "bias_grad": lambda s: s,
    "batch_norm": lambda s: 2 * s,
    "batch_norm_backward": lambda s: 3 * s,
    "sgd_step": lambda s: 5 * s,  # momentum: parameter and velocity read and written, gradient read
    # with float32 masters: master and velocity read and written, a 16-bit gradient read, a 16-bit parameter written
    "sgd_master": lambda s: 16 + 2 * s,
}
MEGABYTES = (25, 63, 126, 512)
_CHANNELS, _SIDE = 64, 32


def _memory() -> Iterator[Entry]:
    for order, megabytes in enumerate(MEGABYTES):
        for dtype in ("bfloat16", "float32"):
            size = as_dtype(dtype).itemsize
            volume = (round(megabytes * 1e6 / size / (_CHANNELS * _SIDE**2)), _SIDE, _SIDE, _CHANNELS)
            for op, moved in MEMORY.items():
                if (op, dtype) in (("sgd_master", "float32"), ("sgd_step", "bfloat16")):
                    continue
                work = Work(0.0, moved(size) * math.prod(volume))
                later = (0 if megabytes == 126 else 1 + order) + _LATER.get(dtype, 0) * (op != "sgd_step")
                yield Entry("memory", op, f"memory-{megabytes}mb", dtype, volume, work, later)


# --- whole training steps ----------------------------------------------------------------------

STEPS = [
    ("airbench94", 2000),
    ("vgg-cifar", 128),
    ("tiny-vgg", 128),
    ("resnet20", 128),
    ("seed-net", 128),
    ("lenet", 128),
    ("resnet18-cifar", 512),
    ("vgg-cifar", 512),
]
RECIPES, RECIPE_STEPS = [("airbench94", 2000)], 200  # a recipe is one entry of this many steps
CPU_STEPS = [("tiny-vgg", 64), ("seed-net", 64), ("lenet", 64)]


def _steps() -> Iterator[Entry]:
    for group, steps in (("steps", STEPS), ("cpu", CPU_STEPS)):
        for order, workload in enumerate(steps):
            for dtype in ("float32",) if group == "cpu" else ("bfloat16", "float32"):
                later = order // 3 + _LATER.get(dtype, 0) * (group != "cpu")
                yield Entry("step", "step", group, dtype, workload, step_work(workload), later)
    for workload in RECIPES:
        yield Entry("step", "recipe", "recipes", "bfloat16", workload, step_work(workload, RECIPE_STEPS), 2)


# --- choosing ----------------------------------------------------------------------------------


def suite(kind: str) -> list[Entry]:
    """Every entry of "ops" (convolutions and memory-bound operations) or of "steps", most important first."""
    listed = [*_steps()] if kind == "steps" else [*_convolutions(), *_memory()]
    return sorted(listed, key=lambda entry: entry.importance)


def select(
    kind: str, device: str, ops: Iterable[str] = (), shapes: Iterable[str] = (), dtypes: Iterable[str] = ()
) -> list[Entry]:
    """The entries of a kind that pass the filters; without a shape filter, those that suit the device.

    shapes: names of shapes or groups. Raises ValueError, naming the nearest known one, for an unknown name.
    """
    listed = suite(kind)

    def chosen(what: str, names: Iterable[str], of) -> set[str]:
        known = {name: name for names in zip(*map(of, listed)) for name in names}
        return {lookup(what, name, known) for name in names}

    ops = chosen("op of the suite", ops, lambda entry: [entry.op])
    shapes = chosen("shape or group of the suite", shapes, lambda entry: [entry.group, entry.shape])
    dtypes = chosen("dtype of the suite", map(full_name, dtypes), lambda entry: [entry.dtype])

    def suits(entry: Entry) -> bool:
        laptop = entry.group == "cpu" or (entry.group == "memory-25mb" and entry.dtype == "float32")
        return laptop if not Device.named(device).runs_kernels else entry.group != "cpu"

    return [
        entry
        for entry in listed
        if (not ops or entry.op in ops)
        and (not dtypes or entry.dtype in dtypes)
        and ({entry.group, entry.shape} & shapes if shapes else suits(entry))
    ]
