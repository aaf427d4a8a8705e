"""Parts of a batch in parallel: the same results and errors, and BLAS's thread count is restored afterwards."""

import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.backends.cpu import blas as numpys_blas
from gpuconv.backends.cpu import parallel
from tests.backends.cpu.blas_stand_in import Blas
from tests.tolerance import assert_within, sum_bound


@pytest.fixture
def blas(monkeypatch):
    blas = Blas()
    monkeypatch.setattr(numpys_blas, "libraries", lambda: [blas])
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    return blas


def test_parts_are_contiguous_and_results_keep_their_order(blas):
    x, y = np.arange(14.0).reshape(7, 2), np.arange(7)
    parts = parallel.in_parts(lambda x, y: (x.copy(), y.copy(), threading.get_ident()), x, y)
    assert [len(part[0]) for part in parts] == [2, 2, 3]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
    assert len({part[2] for part in parts}) > 1


def test_blas_runs_on_one_core_within_a_part_and_gets_its_threads_back(blas):
    assert parallel.in_parts(lambda x: blas.num_threads, np.zeros(6)) == [1, 1, 1]
    assert blas.num_threads == parallel.threads() == 3


@pytest.mark.parametrize("shape", [(), (1,), (1, 5)])
def test_a_batch_that_cannot_be_split_is_one_part_and_left_to_blas(blas, shape):
    assert parallel.in_parts(lambda x: (x.shape, blas.num_threads), np.zeros(shape)) == [(shape, 3)]


def test_an_empty_batch_is_one_part(blas):
    assert parallel.in_parts(lambda x: len(x), np.zeros((0, 4))) == [0]


def test_small_work_is_one_part_on_one_core(blas, monkeypatch):
    monkeypatch.setattr(parallel, "LEAST_BYTES", 100)
    assert parallel.in_parts(lambda x: (len(x), blas.num_threads), np.zeros(12)) == [(12, 1)]
    assert parallel.in_parts(len, np.zeros(12), nbytes=250) == [6, 6]


def test_work_inside_a_part_is_not_split_again(blas):
    assert parallel.in_parts(lambda x: parallel.in_parts(len, x), np.zeros(6)) == [[2], [2], [2]]


def test_all_parts_are_prepared_in_turn_before_any_starts(blas):
    events = []

    def prepare(x):
        events.append(("ready", threading.get_ident()))
        return x.sum(), len(x)

    def work(total, length):
        events.append(("begun", None))
        return total, length

    assert parallel.in_parts(work, np.arange(6), prepare=prepare) == [(1, 2), (5, 2), (9, 2)]
    assert events == [("ready", threading.get_ident())] * 3 + [("begun", None)] * 3
    assert parallel.in_parts(work, np.arange(1), prepare=prepare) == [(0, 1)]


@pytest.mark.parametrize("failing", [0, 5])
def test_an_error_in_any_part_is_raised_after_all_have_finished(blas, failing):
    done = []

    def work(x):
        if failing in x:
            raise ValueError("this part")
        done.append(len(x))

    with pytest.raises(ValueError, match="this part"):
        parallel.in_parts(work, np.arange(6))
    assert len(done) == 2
    assert blas.num_threads == 3
    assert parallel.in_parts(len, np.arange(6)) == [2, 2, 2]


@pytest.mark.parametrize("number", [1, 3])
def test_ops_still_run_after_ctrl_c_while_blas_is_limited_or_restored(blas, number, monkeypatch):
    def interrupted(chosen):
        if chosen == number:
            raise KeyboardInterrupt
        blas.num_threads = chosen

    with monkeypatch.context() as patch:
        patch.setattr(blas, "set_num_threads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            parallel.in_parts(len, np.arange(6))
    assert not parallel._blas_lock.locked()
    assert parallel.in_parts(len, np.arange(6)) == [2, 2, 2]
    assert blas.num_threads == 3


@pytest.mark.parametrize("variable", ["_inside", "_fixed_cores"])
def test_ctrl_c_as_parts_begin_leaves_no_variable_set(blas, variable, monkeypatch):
    real = getattr(parallel, variable)

    def interrupted(value):
        real.set(value)
        if value:
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel, variable, SimpleNamespace(get=real.get, set=interrupted))
    with pytest.raises(KeyboardInterrupt), parallel.fixed_parts():
        parallel.in_parts(len, np.arange(6))
    assert not real.get()


def test_errstate_applies_in_every_part(blas):
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        parallel.in_parts(lambda x: 1 / x, np.array([1.0, 1.0, 0.0]))
    with np.errstate(divide="ignore"):
        parallel.in_parts(lambda x: 1 / x, np.array([1.0, 1.0, 0.0]))


def test_partial_sums_are_added_in_order(blas):
    x = np.array([1e8, 1.0, -1e8], np.float32)
    assert parallel.sum_parts(lambda x: x.copy(), x) == np.float32(1e8) + np.float32(1) - np.float32(1e8)


@pytest.mark.parametrize(("rows", "columns"), [(9, 4), (4, 9), (1, 1), (0, 3)])
def test_matrix_products_in_parts_are_correct(blas, rows, columns):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((rows, 5)), rng.standard_normal((5, columns))
    np.testing.assert_allclose(parallel.matmul(a, b), np.einsum("ij,jk->ik", a, b), rtol=1e-12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own_threads(blas):
    parallel.in_parts(len, np.zeros(6))
    with parallel._blas_lock:  # as if another thread held it
        child = os.fork()
        if child == 0:
            os._exit(0 if parallel.in_parts(len, np.zeros(6)) == [2, 2, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_threadpoolctl_a_batch_is_one_part(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    numpys_blas.libraries.cache_clear()
    try:
        assert parallel.threads() == 1
        assert parallel.in_parts(len, np.zeros(6)) == [6]
    finally:
        numpys_blas.libraries.cache_clear()


def test_threadpoolctl_sets_the_threads_of_numpys_blas():
    control = pytest.importorskip("threadpoolctl")  # ci/reference_only.sh has NumPy alone
    with control.threadpool_limits(1, user_api="blas"):
        assert parallel.threads() == 1
        with control.threadpool_limits(2, user_api="blas"):
            assert parallel.threads() == 2
    before = parallel.threads()
    assert parallel.in_parts(lambda x: parallel.threads(), np.zeros(1 << 20)) == [1] * min(before, 8)
    assert parallel.threads() == before


# --- ops over a batch of several images --------------------------------------------------------


def volumes(*shapes):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


X, W, DY = volumes((7, 9, 8, 3), (5, 3, 3, 3), (7, 9, 8, 5))
POOLED, ARGMAX = ops.max_pool2d(X, kernel_size=3, stride=2)

OPS = {
    "max_pool2d": lambda: np.concatenate(ops.max_pool2d(X, kernel_size=3, stride=2), axis=None),
    "max_pool2d_backward": lambda: ops.max_pool2d_backward(
        POOLED, ARGMAX, input_shape=X.shape, kernel_size=3, stride=2
    ),
    "avg_pool2d": lambda: ops.avg_pool2d(X, kernel_size=3, stride=2, padding=1),
    "avg_pool2d_backward": lambda: ops.avg_pool2d_backward(POOLED, input_shape=X.shape, kernel_size=3, stride=2),
    "gelu": lambda: ops.gelu(X),
    "add": lambda: ops.add(X, X),
}


@pytest.mark.parametrize("op", OPS)
def test_an_image_gives_the_same_bits_in_any_part(op, monkeypatch):
    expected = OPS[op]()
    monkeypatch.setattr(numpys_blas, "libraries", lambda: [Blas()])
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    np.testing.assert_array_equal(OPS[op](), expected)


PRODUCTS = {  # for each op, the number of terms in each of its sums, and a call
    "conv2d": (27, lambda x, w, dy: ops.conv2d(x, w, padding=1)),
    "conv2d_dgrad": (45, lambda x, w, dy: ops.conv2d_dgrad(dy, w, input_shape=x.shape, padding=1)),
    "conv2d_wgrad": (7 * 9 * 8, lambda x, w, dy: ops.conv2d_wgrad(dy, x, kernel_size=3, padding=1)),
    "conv2d_backward": (7 * 9 * 8, lambda x, w, dy: ops.conv2d_backward(dy, x, w, padding=1)[1]),
    "linear": (27, lambda x, w, dy: ops.linear(x.reshape(-1, 27), w.reshape(5, 27))),
}


@pytest.mark.parametrize("op", PRODUCTS)
def test_results_summed_over_parts_are_within_the_bound(blas, op):
    terms, product = PRODUCTS[op]
    exact = product(*(a.astype(np.float64) for a in (X, W, DY)))
    size = product(*(abs(a).astype(np.float64) for a in (X, W, DY)))
    assert_within(product(X, W, DY), exact, sum_bound("float32", terms, size))


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_out_may_overlap_an_input(blas, shift):
    held = np.arange(10.0)
    x, out = held[1:9], held[1 + shift : 9 + shift]
    expected = 2 * x
    np.testing.assert_array_equal(ops.scale(x, factor=2.0, out=out), expected)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_nonfinite_image_does_not_affect_the_others(blas, value):
    x = X.copy()
    x[5, 4, 4, 1] = value
    reads = np.zeros(DY.shape, bool)
    reads[5, 3:6, 3:6] = True
    np.testing.assert_array_equal(np.isfinite(ops.conv2d(x, W, padding=1)), ~reads)
