"""Checks an algorithm on one GEMM problem: runs it, and compares its results with a proved algorithm's.

1. On random numbers, three times. The bits must be the same each time. The values may differ from the proved
   algorithm's by at most twice the bound of `gpuconv verify`, because both algorithms may have an error. Of a large
   result only every n-th value is compared, unless part 2 is skipped. Masks and moments are compared with the proved
   algorithm's in part 2 alone.
2. On small whole numbers, whose sums are exact in any order. Every value must have the proved algorithm's bits; only
   moments and activations that round are compared by bounds. This is repeated for each `Form` of the call: without a
   bias, with results added to `out`, and with y, dy and dx as slices of the channels of wider volumes, whose other
   channels must not change. This part is skipped if the sums are too long to be exact in float32.

On a GPU, memory for results starts as NaNs between guard zones, which must be intact after each run; the emulated
device checks each access itself. At the end the proved algorithm runs on the random numbers again. It must give the
same bits as at first, which shows that its inputs are unchanged.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gpuconv import backends
from gpuconv.backends.cuda.emulator import EmulatorError
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.devices import Device, DeviceError
from gpuconv.dtypes import accumulation_dtype
from gpuconv.integers import ceil_div
from gpuconv.problems import PLAIN, Epilogue
from gpuconv.verify.algorithm_run import EXACT, Form, Inputs, Question, Results, run
from gpuconv.verify.bounds import Bound, sum_bound
from gpuconv.verify.compare import Expected, compare
from gpuconv.verify.guards import Guards, NoGuards
from gpuconv.verify.rules.norm import moment_bounds
from gpuconv.verify.rules.products import behind_activation

RUNS = 3  # on the random numbers; each must give the same bits
COMPARED = 1 << 20  # at most this many values of a result are compared by bounds; all of them if part 2 is skipped
_EXACT_ACTIVATIONS = (None, "relu")  # they leave exact sums exact
_CUDA_ERRORS = ("CUDARuntimeError", "CUDADriverError")  # the names of CuPy's classes
_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")  # part of CuPy's error messages


class RefutedError(Exception):
    """An algorithm's result is wrong, or its kernel failed; the message says how."""


_FORMS = {
    "fprop": (Form(), Form(bias=False), Form(sliced=True)),
    "dgrad": (Form(), Form(accumulate=True), Form(sliced=True)),
    "wgrad": (Form(), Form(accumulate=True), Form(bias=False), Form(sliced=True)),
}


class Proof:
    """The proof of an algorithm. Creating a Proof runs only the proved algorithm, with which results are compared;
    `judge` then runs the algorithm to be proved."""

    def __init__(self, question: Question) -> None:
        self.question, epilogue = question, question.epilogue
        self.guards = _guards(question.device)
        self.guards.release()
        self._random, self._whole = Inputs(question, "random"), Inputs(question, "whole")
        magnitudes = Inputs(question, "magnitudes")
        self._mark = self.guards.mark()
        before = Epilogue.of(None, 2, masked=True) if epilogue.pool == 2 else PLAIN  # without activation and moments
        # The proved algorithm runs on random numbers and on whole numbers. Then it runs without activation and moments,
        # on the magnitudes and, if the activation rounds, on the whole numbers again.
        with tuner.record_products() as products:
            self._first = self._proved(self._random, Form(), epilogue)
            # The sums of products may use only half of the exact range (see `Inputs`).
            forms = _forms(question, self._whole) if 2 * question.product.k < EXACT else []
            self._exact = {form: self._proved(self._whole, form, epilogue) for form in forms}
        if {*products} != {question.product}:
            raise RuntimeError(f"the arrays lead to another product than {question.product}: {products}")
        self._magnitudes = self._proved(magnitudes, Form(), before)
        self._sums: dict[Form, Results] = {}
        if epilogue.activation not in _EXACT_ACTIVATIONS:
            self._sums = {form: self._proved(self._whole, form, before) for form in self._exact}
        backends.synchronize(question.device)

    def _proved(self, inputs: Inputs, form: Form, epilogue: Epilogue) -> Results:
        with self._on_device():
            return run(self.question, self.question.against, inputs, form, epilogue)

    def _candidate(self, inputs: Inputs, form: Form) -> Results:
        with self._on_device():
            try:
                found = run(self.question, self.question.algorithm, inputs, form, self.question.epilogue)
                backends.synchronize(self.question.device)
            except Exception as error:
                if _is_fault_of_a_kernel(error):
                    raise RefutedError(f"{type(error).__name__}: {error}") from error
                raise
            if damage := self.guards.damage():
                raise RefutedError(damage)
            return found

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """A context in which the question's device is the current one, as the launchers require. It frees what is
        allocated within it."""
        with backends.current_device_of(next(iter(self._random.arrays.values()))):
            try:
                yield
            finally:
                self.guards.release(self._mark)

    def judge(self) -> str:
        """Run the algorithm. Returns the findings in words. Raises RefutedError if the algorithm is wrong or its kernel
        fails. Any other error, such as a lack of memory, is no evidence against the algorithm."""
        results = self._candidate(self._random, Form())
        for number in range(2, RUNS + 1):
            again = self._candidate(self._random, Form())
            if name := _differing_result(results, again):
                raise RefutedError(f"{name} has other bits in run {number} than in the first")
        share = self._compare_random(results)
        for form, expected in self._exact.items():
            self._compare_whole(form, expected, self._candidate(self._whole, form))
        if name := _differing_result(self._first, self._proved(self._random, Form(), self.question.epilogue)):
            raise RefutedError(f"it changed its inputs: the proved algorithm gives another {name} afterwards")
        self.guards.release()
        whole_numbers = ", and its bits for whole numbers" if self._exact else ""
        bound = f"at most {share:.1%} of the bound from {self.question.against}"
        return f"{RUNS} runs with the same bits, {bound}{whole_numbers}"

    def _compare_random(self, results: Results) -> float:
        """The largest error as a share of its bound, which is twice that of one algorithm: both may have an error."""
        shares = [0.0]
        most = COMPARED if self._exact else sys.maxsize
        for name in {"y", "before", "dx", "dw", "db"} & set(results):
            each = (self._first[name], self._magnitudes["y" if name == "before" else name], results[name])
            value, magnitude, result = (_sampled(array, most) for array in each)
            magnitude = magnitude + self._bound(magnitude)  # a kernel computed it, so it has an error itself
            activation = self.question.epilogue.activation if name == "y" else None
            bound = behind_activation(activation, self._bound(magnitude), magnitude, value, self.question.dtype)
            shares.append(_share(Expected(name, value, 2 * bound), result))
        return max(shares)

    def _bound(self, magnitude: Bound) -> Bound:
        return sum_bound(self.question.dtype, self.question.product.k + 1, magnitude)

    def _compare_whole(self, form: Form, expected: Results, results: Results) -> None:
        exact = dict(expected)
        if "moments" in exact:
            _compare_moments(exact.pop("moments"), results["moments"], self.question.dtype)
        if form in self._sums:  # the sums are exact; only the activation rounds
            name, value = "y", _sampled(exact.pop("y"))
            sums = np.abs(_sampled(self._sums[form][name]))
            own = behind_activation(self.question.epilogue.activation, 0.0, sums, value, self.question.dtype)
            _share(Expected(name, value, 2 * own), _sampled(results[name]))
        if name := _differing_result(exact, results):
            first = int(np.flatnonzero(_bytes(exact[name]) != _bytes(results[name]))[0]) // exact[name].itemsize
            at = [int(index) for index in np.unravel_index(first, exact[name].shape)]
            raise RefutedError(
                f"{name}{at} is {results[name][tuple(at)]} for whole numbers, {self.question.against} gives "
                f"{exact[name][tuple(at)]}"
            )


def _forms(question: Question, inputs: Inputs) -> list[Form]:
    """The forms of a question's calls. Sliced ones are left out with moments, which need a dense y, and where a slice
    of dy is not aligned, because it would be copied."""
    slices = not question.epilogue.moments and (question.direction == "fprop" or not inputs.unaligned[1])
    return [form for form in _FORMS[question.direction] if slices or not form.sliced]


def _is_fault_of_a_kernel(error: Exception) -> bool:
    """Whether an error is CUDA's or the emulator's verdict on a kernel: not a lack of memory, a device that cannot run
    kernels, or an error in Python code."""
    if type(error).__name__ in _CUDA_ERRORS:
        return not any(each in str(error) for each in _OUT_OF_MEMORY)
    return isinstance(error, EmulatorError) and not isinstance(error, DeviceError)


def _guards(device: str) -> Guards | NoGuards:
    return guards_of_gpus() if Device.named(device).on_gpu else NoGuards()


@functools.cache
def guards_of_gpus() -> Guards:
    """This process's guards, for all GPUs: CuPy has one allocator in a process."""
    return Guards()


def _sampled(array: np.ndarray, most: int = COMPARED) -> np.ndarray:
    """At most `most` values, in float64. Their interval is odd, so that they come from all positions in a tile."""
    return array.reshape(-1)[:: ceil_div(array.size, most) | 1].astype(np.float64)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _differing_result(expected: Results, results: Results) -> str:
    """The name of the first result whose bits differ, or ""."""
    return next((name for name in expected if not np.array_equal(_bytes(expected[name]), _bytes(results[name]))), "")


def _share(expected: Expected, result: np.ndarray) -> float:
    """The largest error as a share of its bound. Raises RefutedError if it is above 1."""
    difference = compare(expected, result)
    if difference.wrong:
        raise RefutedError(difference.text)
    return difference.share


def _compare_moments(expected: np.ndarray, result: np.ndarray, dtype: np.dtype) -> None:
    """Compare the count, mean and variance of each filter, merged from the moments of parts of its values. Each
    algorithm may divide the values into parts of its own."""
    (count, mean, variance), (own_count, own_mean, own_variance) = _merge_moments(expected), _merge_moments(result)
    if not np.array_equal(count, own_count):
        raise RefutedError(f"the moments count {own_count.min():g} to {own_count.max():g} values, not {count.max():g}")
    acc = accumulation_dtype(dtype)
    mean_bound, variance_bound = moment_bounds(acc, int(count.max()), mean, variance)
    _share(Expected("mean", mean, 2 * mean_bound), own_mean)
    _share(Expected("variance", variance, 2 * variance_bound), own_variance)


def _merge_moments(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The count, mean and variance of each filter, merged from the parts' moments (parts, filters, 3), which are count,
    mean and sum of squared deviations (kernels/moments.cuh)."""
    count, mean, deviations = np.moveaxis(moments.astype(np.float64), -1, 0)
    total = count.sum(0)
    total_mean = (count * mean).sum(0) / total
    return total, total_mean, (deviations + count * (mean - total_mean) ** 2).sum(0) / total
