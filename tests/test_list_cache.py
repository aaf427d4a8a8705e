"""A value cached for a list of arrays is found only with the same array objects, and only while all of them exist."""

import numpy as np
import pytest

from gpuconv import asarray, ops
from gpuconv.list_cache import ListCache
from tests import standin


class Array:
    pass


def cache_with(arrays, *context):
    cache = ListCache()
    for _ in range(2):  # a list is cached from its second use on
        cache.keep(arrays, "value", *context)
    return cache


def test_the_same_arrays_in_the_same_context_find_the_value():
    a, b, c = Array(), Array(), Array()
    cache = cache_with([a, b], 1)
    assert cache.get([a, b], 1) == cache.get((a, b), 1) == "value"
    for others in ([a], [b, a], [a, c], [a, b, c], []):
        assert cache.get(others, 1) is None
    assert cache.get([a, b]) is None
    assert cache.get([a, b], 2) is None


def test_an_entry_is_dropped_with_any_of_its_arrays():
    for deleted in range(3):
        arrays = [Array() for _ in range(3)]
        cache = cache_with(arrays)
        del arrays[deleted]
        assert not cache._kept
        again = [Array() for _ in range(1000)]  # one of these may have the id of the deleted array
        assert all(cache.get([*arrays[:deleted], each, *arrays[deleted:]]) is None for each in again)


def test_lists_used_in_turn_are_all_kept():
    lists, cache = [[Array() for _ in range(2)] for _ in range(6)], ListCache()
    for _ in range(2):
        for number, arrays in enumerate(lists):
            cache.keep(arrays, number)
    assert [cache.get(arrays) for arrays in lists] == [*range(6)]


def test_arrays_used_once_leave_no_entry():
    cache = ListCache()
    for _ in range(10):
        cache.keep([Array(), Array()], "value")
    assert not cache._kept


def test_nothing_is_cached_for_numpy_arrays():
    array = np.zeros(2)
    assert cache_with([array]).get([array]) is None


def lists(count=3, size=5, dtype=np.float32):
    """Parameters, gradients and velocities."""
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(size).astype(dtype) for _ in range(count)] for _ in range(3)]


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_repeated_steps_give_the_result_of_uncached_ones(schedule):
    host = lists()
    with standin.installed(schedule=schedule):
        device = [[asarray(array, "cuda") for array in arrays] for arrays in lists()]
        for step in range(8):
            decay = [0.0, 0.1, 0.2 if step < 3 else 0.4]
            for arrays in (host, device):
                ops.sgd_step(*arrays, lr=0.1 / (step + 1), momentum=0.9, weight_decay=decay)
            for expected, array in zip(host[0], device[0], strict=True):
                np.testing.assert_allclose(array.get(), expected, rtol=1e-6)
            if step == 5:  # gradients in other memory from here on
                device[1] = [asarray(array, "cuda") for array in host[1]]


def test_mismatched_arrays_are_refused_after_good_steps():
    with standin.installed():
        params, grads, velocities = ([asarray(array, "cuda") for array in arrays] for arrays in lists())

        def refusals():
            found = []
            for wrong in (
                (params, grads[:2], velocities),
                (params, grads, velocities[1:]),
                (params, grads[:2], [grads[2], *velocities]),
                (params, [*grads[:2], asarray(np.zeros(4, np.float32), "cuda")], velocities),
                (params, [*grads[:2], asarray(np.zeros(5), "cuda")], velocities),
                (params, grads, [*velocities[:2], velocities[0]]),
                (params, [*grads[:2], np.zeros(5, np.float32)], velocities),
                (params, grads, velocities, None, asarray(np.zeros(3), "cuda")),
                (params, grads, 3),
            ):
                with pytest.raises((TypeError, ValueError)) as error:
                    ops.sgd_step(*wrong, lr=0.1, momentum=0.9)
                found.append((type(error.value), str(error.value)))
            return found

        before = refusals()
        for _ in range(3):
            ops.sgd_step(params, grads, velocities, lr=0.1, momentum=0.9)
            ops.update_loss_scale(asarray(np.float64([1, 1, 0, 0]), "cuda"), grads)
        assert refusals() == before


def test_strided_parameters_are_written_back_each_time():
    with standin.installed():
        both_columns = asarray(np.ones((4, 2), np.float32), "cuda")
        params, grads = [both_columns[:, 0]], [asarray(np.ones(4, np.float32), "cuda")]
        for step in range(1, 5):
            ops.sgd_step(params, grads, lr=0.125)
            assert both_columns.get()[:, 0].tolist() == [1 - 0.125 * step] * 4
        assert both_columns.get()[:, 1].tolist() == [1] * 4
