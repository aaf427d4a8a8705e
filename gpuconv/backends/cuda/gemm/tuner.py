"""Measures which algorithm is fastest. On a GPU, "auto" stands for this algorithm.

A product's candidates are timed once on each model of GPU, before its first run. The winner is stored on disk with the
compiled kernels, under a key of the product (without its activation), the GPU's model, and the candidates with their
source. After an edit of a kernel, or if the entry is damaged, the candidates are timed again. If a candidate fails, for
example because memory is scarce, the winner of the others is used in this process and is not stored. So "auto" may
choose differently on two machines, or after the cache was cleared, and results may then differ in the order of their
sums; the bits of a given choice never differ.
With ``GPUCONV_AUTOTUNE=0``, "auto" is the cost model's choice, which does not depend on measurements. A product for
which the process has already chosen an algorithm keeps it. Training on shards always uses the cost model's choice.

During a stream capture nothing is timed: an earlier choice is used, or the cost model's.

An algorithm with `proved=False` is a candidate only for products for which it was proved on this model of GPU
(`verdicts`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from gpuconv.algorithms import AUTO, full_name
from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.gemm import verdicts
from gpuconv.backends.cuda.gemm.gpu import Emulated, Gpu
from gpuconv.backends.cuda.gemm.plan import LARGEST_WORKSPACE, Plan, candidates, partials_bytes, plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.runtime import attached_tools
from gpuconv.backends.cuda.runtime.capability import capability_named, capability_of
from gpuconv.backends.cuda.runtime.replaced_files import text_of, when_replaced
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.devices import Device
from gpuconv.notices import Notice, notice
from gpuconv.spec import parse_flag
from gpuconv.system import locks
from gpuconv.types import Array

SECONDS = 0.05  # seconds of device time for the choice for one product, not counting compilation
_SAMPLES, _MOST_RUNS = 3, 16  # samples of a candidate, and the most runs in a sample
_HOPELESS = 2.0  # a candidate this many times slower than the best so far is dropped after one run


class FailedCandidateWarning(Notice):
    """An algorithm failed when it was timed for a problem that it should serve; another one is used."""


class _NotStored(Exception):
    """Raised instead of storing a choice that only this process should use. plan: the chosen one."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.plan = plan


@functools.cache
def _gpu(index: int) -> Gpu:
    return Gpu(index)


def gpu_of(array: Array) -> Gpu | None:
    """The GPU that an array is on; None for the emulated device, whose speed means nothing."""
    return None if isinstance(array, np.ndarray) else _gpu(array.data.device_id)


def gpu_named(device: str) -> Gpu | None:
    """The GPU with a device's name; None for "emulated"."""
    named = Device.named(device)
    return _gpu(named.index) if named.on_gpu else None


def gpu_or_emulated(device: str) -> Gpu | Emulated:
    """The GPU with a device's name, or `Emulated` for "emulated". A proof is valid for its `model` and `driver`."""
    return gpu_named(device) or Emulated()


def enabled() -> bool:
    """Whether "auto" is timed, as set by GPUCONV_AUTOTUNE, 1 or 0. If it is not set, "auto" is timed unless an attached
    tool distorts times. Raises ValueError for any other value."""
    value = os.environ.get("GPUCONV_AUTOTUNE")
    if value is None:
        return not _tool_distorts_times()
    try:
        return parse_flag(value)
    except ValueError as error:
        raise ValueError(f"GPUCONV_AUTOTUNE: {error}") from None


model_chooses = ContextVar("the cost model chooses, whatever was measured", default=False)
in_trial = ContextVar("the current launches are timed to choose an algorithm", default=False)

_product_list: ContextVar[list[Product] | None] = ContextVar("computed products are added to this", default=None)


@contextlib.contextmanager
def record_products() -> Iterator[list[Product]]:
    """A context in which every computed product is added to the yielded list."""
    products: list[Product] = []
    token = _product_list.set(products)
    try:
        yield products
    finally:
        _product_list.reset(token)


@functools.cache  # so that the message appears once
def _tool_distorts_times() -> bool:
    if tool := attached_tools.tool():
        notice(f"under {tool} 'auto' takes the cost model's choice and times nothing, unless GPUCONV_AUTOTUNE is 1")
    return tool is not None


known_choices: dict[tuple[Product, Gpu], Plan] = {}
when_replaced(lambda: known_choices.clear())


def choose(
    product: Product, algo: str, out: Array, run: Callable[[Plan], None], *, accumulate: bool | None = None
) -> Plan:
    """The plan that `algo` names. On a GPU, "auto" is the fastest plan: one of `known_choices`, else a stored choice,
    else the fastest one that `run` times now. The module's docstring says when the cost model chooses instead. Raises
    UnprovedError if a named algorithm needs a proof on this GPU and has none.

    run: launches the product under a plan, into `out` or, if the product accumulates, into scratch arrays of the
    outputs' shapes and pitches. If the scratch arrays and the partial sums would exceed the workspace, the cost model
    chooses.
    """
    if (products := _product_list.get()) is not None:
        products.append(product)
    if algo != AUTO:
        return plan_of_name(product, algo, out)
    gpu = gpu_of(out) if not model_chooses.get() else None
    if gpu is not None and (known := known_choices.get((product, gpu))):
        return known
    if gpu is None or not enabled():
        return plan(product, algo, capability_of(out))
    capability, capturing = capability_of(out), gpu.capturing()
    plans = _candidates(product, capability, gpu, ask=not capturing)
    partials = partials_bytes(product, max(each.split_k for each in plans))
    if len(plans) == 1 or (accumulate and rows_of(out)[0].nbytes + partials > LARGEST_WORKSPACE):
        return plans[0]
    name, key = _name(product), _key(product, plans, gpu)
    if not capturing:
        try:
            entry = cache.default().entry(name, key, lambda folder: _measure_alone(plans, gpu, run, folder))
        except _NotStored as chosen:
            known_choices[product, gpu] = chosen.plan
            return chosen.plan
    elif (found := cache.default().find(name, key)) is not None:
        entry = found
    else:
        return plans[0]
    known_choices[product, gpu] = _read_choice(entry, plans)
    return known_choices[product, gpu]


def _candidates(product: Product, capability: int, gpu: Gpu, *, ask: bool) -> tuple[Plan, ...]:
    """The cost model's choice; then all others that may be chosen on this GPU, fastest estimate first."""
    first, *others = candidates(product, capability)
    admitted = verdicts.proved_plans(product, capability, gpu, ask=ask)
    return first, *sorted((*others, *admitted), key=lambda plan: plan.cost)


def plan_of_name(product: Product, algo: str, out: Array) -> Plan:
    """The plan of a named algorithm. On a GPU, raises UnprovedError if the algorithm needs a proof and has none."""
    found = plan(product, algo, capability_of(out))
    gpu = None if found.algorithm.proved else gpu_of(out)
    if gpu is None:
        return found
    return verdicts.expect_proved(product, found, gpu, ask=enabled() and not gpu.capturing())


def plan_without_timing(product: Product, algo: str, device: str) -> Plan:
    """The plan that `choose` would return on a device. Nothing is timed: if no choice is stored, the plan is the
    cost model's. The plan of a named algorithm is returned without asking whether it is proved."""
    capability = capability_named(device)
    gpu = gpu_named(device) if algo == AUTO and not model_chooses.get() else None
    if gpu is not None and (known := known_choices.get((product, gpu))):
        return known
    if gpu is None or not enabled():
        return plan(product, algo, capability)
    plans = _candidates(product, capability, gpu, ask=False)
    entry = cache.default().find(_name(product), _key(product, plans, gpu))
    return plans[0] if entry is None else _read_choice(entry, plans)


def _name(product: Product) -> str:
    return f"choice-{product.kernel}"


def _key(product: Product, plans: Sequence[Plan], gpu: Gpu) -> list[str]:
    """The product without its activation, the GPU's model, the candidates and their source."""
    files = dict.fromkeys([*(plan.algorithm.file(product.kernel) for plan in plans), "gemm_reduce.cu"])
    # Stored keys name the precisions of an algorithm "arithmetics".
    listed = [
        f"{plan.algorithm} {plan.split_k} {plan.depth_per_split}".replace("precisions=", "arithmetics=")
        for plan in plans
    ]
    what = (product.kernel, product.precision, product.struct.tobytes(), tuple(product.macros.items()))
    return ["choice", gpu.model, repr(what), *listed, *map(text_of, files)]


@contextlib.contextmanager
def _trials() -> Iterator[None]:
    token = in_trial.set(True)
    try:
        yield
    finally:
        in_trial.reset(token)


def _measure_alone(plans: Sequence[Plan], gpu: Gpu, run: Callable[[Plan], None], folder: Path) -> None:
    """Measure while no other process with this cache measures: each would distort the other's times."""
    with locks.hold(folder.parent):
        _measure(plans, gpu, run, folder)


@_trials()
def _measure(plans: Sequence[Plan], gpu: Gpu, run: Callable[[Plan], None], folder: Path) -> None:
    """Time the candidates, the cost model's first, until the time is up, and store the result.

    A candidate that fails is dropped with a warning. Raises `_NotStored` if some candidates fail, and the last failure
    if all do.
    """
    share, left, best, failed = SECONDS / len(plans), SECONDS, dict[str, float](), False
    for each in plans:
        if left <= 0:
            break
        try:
            run(each)  # compiles and loads it, and warms up
            least, spent = _least_seconds(gpu, functools.partial(run, each), share, min(best.values(), default=0.0))
        except Exception as error:
            if each is plans[-1] and not best:
                raise
            message = (
                f"{each.algorithm.name} is left out of the choice for this product: {type(error).__name__}: {error}"
            )
            warnings.warn(message, FailedCandidateWarning, stacklevel=2)
            failed = True
            continue
        best[each.algorithm.name], left = least, left - spent
    choice = min(best, key=lambda name: best[name])
    if failed:  # the next process may have more memory
        raise _NotStored(_plan_named(choice, plans))
    text = json.dumps({"algorithm": choice, "device": gpu.model, "seconds": best}, indent=1)
    (folder / "choice.json").write_text(text, encoding="utf-8")


def _least_seconds(gpu: Gpu, run: Callable[[], None], share: float, best: float) -> tuple[float, float]:
    """The least seconds of a run, and the seconds spent on all runs. After one run, samples of several runs are timed
    within `share` seconds. They are left out if the first run took much longer than `best`.

    best: the seconds of the best other candidate, 0 if there is none."""
    least = spent = gpu.seconds(run, 1)
    if best and least > _HOPELESS * best:
        return least, spent
    count = max(1, min(_MOST_RUNS, int(share / _SAMPLES / max(least, 1e-9))))
    for _ in range(_SAMPLES):
        if spent + count * least > share:
            break
        sample = gpu.seconds(run, count)
        least, spent = min(least, sample / count), spent + sample
    return least, spent


def _read_choice(entry: Path, plans: Sequence[Plan]) -> Plan:
    return _plan_named(full_name(json.loads((entry / "choice.json").read_text(encoding="utf-8"))["algorithm"]), plans)


def _plan_named(name: str, plans: Sequence[Plan]) -> Plan:
    return next(plan for plan in plans if plan.algorithm.name == name)
