"""A device array that gpuconv caches is complete before any stream reads it, whichever stream made it."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from tests import standin

pytestmark = pytest.mark.usefixtures("untimed")

SCORES = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
LABELS = np.arange(64) % 3


def test_streams_that_do_not_wait_for_one_another_share_the_weights_of_classes(schedule):
    loss = gc.losses.get("softmax", weight=(0.5, 2.0, 3.25))
    expected, _ = loss(SCORES, LABELS)
    with standin.installed(schedule=schedule):
        import cupy

        first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        with first:
            loss(gc.asarray(SCORES, "cuda"), gc.asarray(LABELS, "cuda"))
        with second:
            found, _ = loss(gc.asarray(SCORES, "cuda"), gc.asarray(LABELS, "cuda"))
            np.testing.assert_allclose(gc.to_numpy(found), expected, rtol=1e-6)


def test_an_op_works_on_a_stream_whose_first_capture_was_never_launched(schedule):
    expected, _ = ops.softmax_cross_entropy(SCORES, LABELS)
    with standin.installed(schedule=schedule):
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            scores, labels = gc.asarray(SCORES, "cuda"), gc.asarray(LABELS, "cuda")
            stream.begin_capture()
            ops.softmax_cross_entropy(scores, labels)
            stream.end_capture()
            found, _ = ops.softmax_cross_entropy(scores, labels)
            np.testing.assert_allclose(gc.to_numpy(found), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        lambda params, grads, clipped: ops.sgd_step(params, grads, lr=0.5),
        lambda params, grads, clipped: ops.muon_step(params[:1], grads[:1], grads[1:], lr=0.5),
        lambda params, grads, clipped: ops.clip_norm(clipped, grads, max_norm=1.0),
    ],
    ids=["sgd_step", "muon_step", "clip_norm"],
)
def test_an_optimizer_steps_on_a_stream_whose_first_capture_was_never_launched(schedule, step):
    given = [SCORES, SCORES[::-1].copy()], [SCORES + 1, SCORES - 1], np.zeros(4)
    expected = [[x.copy() for x in given[0]], [*given[1]], given[2].copy()]
    step(*expected)
    with standin.installed(schedule=schedule):
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            params, grads = ([gc.asarray(x, "cuda") for x in listed] for listed in given[:2])
            clipped = gc.asarray(given[2], "cuda")
            stream.begin_capture()
            step(params, grads, clipped)
            stream.end_capture()
            step(params, grads, clipped)
            for x, correct in zip((*params, clipped), (*expected[0], expected[2]), strict=True):
                np.testing.assert_allclose(gc.to_numpy(x), correct, rtol=1e-3, atol=1e-5)


def test_a_graph_of_steps_on_strided_arrays_reads_their_tables_in_each_launch(schedule):
    given = [[np.full((6, 4), number, np.float32) for number in range(first, first + 4)] for first in (0, 10)]
    with standin.installed(schedule=schedule):
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            params, grads = ([gc.asarray(x, "cuda")[:, ::2] for x in listed] for listed in given)
            pool = cupy.cuda.MemoryPool()
            with cupy.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                for param, grad in zip(params, grads, strict=True):
                    ops.sgd_step([param], [grad], lr=0.5)
                graph = stream.end_capture()
            for launches in (1, 2):
                graph.launch(stream)
                for found, param, grad in zip(params, *given, strict=True):
                    np.testing.assert_array_equal(gc.to_numpy(found), (param - launches * 0.5 * grad)[:, ::2])
