"""If an array has more elements than the largest grid has threads, each block goes on to further elements. These tests
limit the grid to two blocks."""

import numpy as np
import pytest

from gpuconv import asarray, ops, problems, to_numpy, verify
from gpuconv.backends.cuda.runtime import outputs, rows

ELEMENTWISE = [op for name in problems.ACTIVATIONS for op in (name, f"{name}_backward")] + ["add", "copy", "scale"]
FLAT = [
    *ELEMENTWISE,
    *("dropout", "dropout_backward", "random_uniform", "random_normal", "random_permutation"),
    *("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward", "global_avg_pool2d_backward"),
    *("conv2d", "conv2d_wgrad"),  # the reduction of splits
]
CASES = verify.cases(("odd", "real"))


@pytest.mark.parametrize("op", FLAT)
def test_few_blocks_do_the_work_of_many(device, op, monkeypatch):
    monkeypatch.setattr(outputs, "_MAX_BLOCKS", 2)
    for case in CASES:
        if case.op == op:
            outcome = verify.run_case(case, "float32" if "float32" in case.dtypes else case.dtypes[0], device)
            assert outcome.passed, f"{case.name}: {outcome.failure}"


def test_one_block_processes_all_rows(device, monkeypatch):
    monkeypatch.setattr(rows, "_MOST_ROWS", 1)
    for case in verify.cases():
        if case.op in ("copy", "add"):
            outcome = verify.run_case(case, "float32", device)
            assert outcome.passed, f"{case.op} {case.name}: {outcome.failure}"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_copies_into_slices_of_channels_keep_the_others(device, dtype):
    """Slices that allow 16-byte moves and slices that do not, maps of one pixel, and unevenly spaced rows."""
    for shape, begin, end in (((2, 3, 5, 24), 8, 16), ((2, 3, 5, 7), 2, 5), ((1, 1, 1, 9), 0, 4), ((70, 5), 1, 5)):
        y, x = (np.random.default_rng(n).normal(size=shape).astype(dtype) for n in (0, 1))
        on_device = asarray(y, device)
        for begins, ends, packed in ((begin, end, True), (end, shape[-1], False)):
            part = on_device[..., begins:ends]
            source = asarray(x[..., begins:ends].copy(), device) if packed else asarray(x, device)[..., begins:ends]
            assert ops.copy(source, out=part) is part
        y[..., begin:] = x[..., begin:]
        np.testing.assert_array_equal(to_numpy(on_device), y)
    x = np.arange(120, dtype=dtype).reshape(2, 3, 4, 5)
    for view in (
        lambda a: a[:, ::2],
        lambda a: a.transpose(0, 2, 1, 3),
        lambda a: a[..., ::-1],
        lambda a: a[:, :, 1:3, 1:],
    ):
        np.testing.assert_array_equal(to_numpy(ops.copy(view(asarray(x, device)))), view(x))
        y = asarray(np.zeros_like(x), device)
        ops.copy(asarray(view(x).copy(), device), out=view(y))
        expected = np.zeros_like(x)
        view(expected)[...] = view(x)
        np.testing.assert_array_equal(to_numpy(y), expected)
