"""What a call of an op may reuse from an earlier call, and what it must check again."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.ops import check_cache as module
from gpuconv.ops.check_cache import remembered


def counted_check():
    """(check, calls). check: a remembered check, which returns how often its own code has run. calls: these runs."""
    calls = []

    @remembered
    def check(*arrays, **options):
        calls.append((arrays, options))
        return len(calls)

    return check, calls


def test_a_check_runs_once_for_repeated_shapes_dtypes_and_options():
    check, calls = counted_check()
    for _ in range(2):
        assert check(np.zeros((2, 3)), None, stride=(1, 2), fit="floor") == 1
        assert check(np.zeros((2, 4)), None, stride=(1, 2), fit="floor") == 2
        assert check(np.zeros((2, 3), np.float32), None, stride=(1, 2), fit="floor") == 3
        assert check(np.zeros((2, 3)), np.zeros(1), stride=(1, 2), fit="floor") == 4
        assert check(np.zeros((2, 3)), None, dilation=(1, 2), fit="floor") == 5
    assert len(calls) == 5


def test_equal_options_of_different_types_are_different_options():
    check, _ = counted_check()
    values = [1, 1.0, True, np.int64(1), (1, 1), (1, 1.0), (True, 1), ((1, 1), (1, 1)), ((1, 1), (1, True)), "1", None]
    assert [check(option=value) for value in values] == list(range(1, len(values) + 1))


@pytest.mark.parametrize("value", [0.5, np.int64(1), [1, 2], (1, [2]), (1, (2, np.int64(3))), np.zeros(2)], ids=repr)
def test_values_whose_equality_is_unreliable_are_checked_each_time(value):
    check, _ = counted_check()
    assert [check(option=value) for _ in range(3)] == [1, 2, 3]


def test_read_only_arrays_are_remembered_apart_from_writable_ones():
    check, _ = counted_check()
    array = np.zeros(2)
    assert check(array) == 1
    array.flags.writeable = False
    assert check(array) == 2
    array.flags.writeable = True
    assert check(array) == 1


def test_an_error_is_raised_each_time_without_a_cause_or_context():
    @remembered
    def check(*, size):
        raise ValueError(f"received {size}")

    for _ in range(2):
        with pytest.raises(ValueError, match="received 3") as error:
            check(size=3)
        assert error.value.__cause__ is error.value.__context__ is None


def test_the_number_of_remembered_calls_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MAX_RESULTS", 3)
    check, _ = counted_check()
    assert [check(size=size) for size in range(10)] == list(range(1, 11))
    assert check(size=9) == 10
    assert check(size=0) == 11


X, W = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 3, 2), np.float32)
WRONG = [
    {"stride": 1.0},
    {"stride": True},
    {"stride": (1, True)},
    {"padding": ((1, 1), (1, 1.0))},
    {"padding": False},
    {"dilation": 1.0},
    {"groups": True},
    {"tf32": 0},
    {"activation": "rellu"},
    {"algo": "simd"},
    {"fit": "flor"},
]


def test_ops_refuse_after_a_good_call_what_they_refuse_before_it():
    def refusals():
        errors = []
        for change in WRONG:
            with pytest.raises((TypeError, ValueError)) as error:
                ops.conv2d(X, W, **({"padding": 1} | change))
            errors.append((type(error.value), str(error.value)))
        return errors

    before = refusals()
    for good in ({"padding": 1}, {"padding": 0}, {"padding": ((1, 1), (1, 1))}, {"stride": (1, 1), "padding": 1}):
        ops.conv2d(X, W, **good)
    assert refusals() == before


def test_an_output_that_became_read_only_is_refused():
    out = ops.conv2d(X, W, padding=1)
    ops.conv2d(X, W, padding=1, out=out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is written to, and must not be read-only"):
        ops.conv2d(X, W, padding=1, out=out)


def test_threads_get_the_results_for_their_own_shapes(monkeypatch):
    """The threads share a cache, which each of them fills and clears while the others use it."""
    monkeypatch.setattr(module, "_MAX_RESULTS", 3)

    @remembered
    def check(array):
        return array.shape

    def calls(first):
        return all(check(np.zeros(size)) == (size,) for _ in range(300) for size in range(first, first + 4))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(calls, range(4)))
