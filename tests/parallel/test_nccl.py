"""Ranks over NCCL on the stand-in for CuPy. Each rank is a thread with its own GPU, and a captured step includes the
exchange between the ranks."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.data import Loader
from gpuconv.parallel import MPI, NCCL, ParallelError, Ranks
from gpuconv.parallel.nccl import GRACE
from gpuconv.training import DivergedError, Trainer, UncapturedWarning
from gpuconv.training.sharding import Sharding
from tests import standin, toy_run
from tests.parallel.runs import BYTES_PER_STEP
from tests.parallel.thread_ranks import along_a_tree, on_ranks
from tests.standin.nccl import counterpart

SCHEDULES = pytest.mark.parametrize("schedule", ["early", "late"])


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def summed(arrays, fixed):
    def work(ranks):
        ranks.begin(ranks.device)
        flat = gc.asarray(arrays[ranks.rank], ranks.device)
        ranks.sum(flat, fixed)
        return gc.to_numpy(flat), ranks.sent

    return on_ranks(len(arrays), work)


@SCHEDULES
def test_sums_follow_the_tree_or_are_made_by_all_reduce(schedule):
    for size in (2, 4):
        arrays = [np.random.default_rng(rank).normal(size=1024).astype(np.float32) for rank in range(size)]
        with standin.installed(["90"] * size, schedule=schedule) as machine:
            for result, sent in summed(arrays, fixed=True):
                np.testing.assert_array_equal(result, along_a_tree(arrays))
                assert sent == 4096 * 2 * (size - 1) // size
            for result, sent in summed(arrays, fixed=False):
                np.testing.assert_allclose(result, np.sum(arrays, 0), atol=1e-5)
                assert sent == 4096 * 2 * (size - 1) // size
            assert [call.words for call in machine.nccl_worlds[1].calls[0]] == [("allReduce: 1024 float32",)]


def test_a_rank_takes_its_own_gpu_unless_one_is_named():
    named = ("cuda", "CUDA", "auto", "Auto", "cuda:0", "numpy")
    with standin.installed(["90"] * 2):
        devices = on_ranks(2, lambda ranks: [ranks.own_device(name) for name in named])
    assert devices[1] == ["cuda:1"] * 4 + ["cuda:0", "numpy"]


def trained(ranks, shards, graph=None, batch=8, count=24, callbacks=()):
    """The weights, the losses of the epochs and the number of sent bytes."""
    device = ranks.own_device("cuda")
    data = toy_run.images(count)
    trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.05, shards=shards, parallel=ranks, graph=graph)
    loader = Loader(data, batch, normalization=toy_run.loader(data).normalization, device=device, seed=3)
    history = trainer.fit(
        loader, epochs=2, validation=toy_run.images(9, seed=5), progress=False, metrics_every=2, callbacks=callbacks
    )
    weights = {name: np.array(gc.to_numpy(value)) for name, value in trainer.net.state_dict().items()}
    return weights, [record["train_loss"] for record in history], trainer.ranks.sent


@SCHEDULES
def test_two_gpus_have_the_bits_of_one(schedule):
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        on_one_gpu = trained(NCCL(messages=Ranks()), shards=2)
        on_two_gpus = on_ranks(2, partial(trained, shards=2))
        calls = machine.nccl_worlds[0].calls
    for weights, losses, sent in on_two_gpus:
        assert toy_run.same_arrays(weights, on_one_gpu[0])
        assert losses == on_one_gpu[1]
        assert sent == 6 * BYTES_PER_STEP
    # One step ran launch by launch, then one was captured. In each, the sums go up the tree and back down, in two
    # dtypes.
    assert [call.captured for call in calls[0]] == [False] * 4 + [True] * 4
    assert [call.words for call in calls[1]] == [counterpart(call.words) for call in calls[0]]


@SCHEDULES
def test_without_shards_the_gpus_sum_by_all_reduce(schedule):
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        for graph in (False, True):
            weights = [result[0] for result in on_ranks(2, partial(trained, shards=None, graph=graph))]
            assert toy_run.same_arrays(*weights)
        for world, captured in zip(machine.nccl_worlds, (0, 2), strict=True):
            calls = world.calls[0]
            assert calls == world.calls[1]
            assert sum(call.captured for call in calls) == captured
            assert {call.words for call in calls} == {("allReduce: 419 float32",), ("allReduce: 4 float64",)}


# --- planted faults --------------------------------------------------------------------------------


def with_buckets_in_another_order(patch):
    backpropagate = Sharding.backpropagate

    def reordered(self, *arguments, **options):
        if self.ranks.rank:
            self._allocate_terms()
            self._sums[0].buckets.reverse()
        backpropagate(self, *arguments, **options)

    patch.setattr(Sharding, "backpropagate", reordered)


def on_a_separate_stream(patch):
    streams = threading.local()

    def separate_stream(self):
        import cupy

        streams.separate = getattr(streams, "separate", None) or cupy.cuda.Stream(non_blocking=True)
        return streams.separate.ptr

    patch.setattr(NCCL, "_stream", separate_stream)


def without_groups(patch):
    import cupy

    patch.setattr(cupy.cuda.nccl, "groupStart", lambda: None)
    patch.setattr(cupy.cuda.nccl, "groupEnd", lambda: None)


PLANTED = {
    "another order": (with_buckets_in_another_order, "ranks exchange arrays of different sizes or dtypes"),
    "a missing wait": (on_a_separate_stream, "the loss is not finite at step 1|cannot convert float NaN"),
    "a send that waits": (without_groups, "which no other rank answers"),
}


def train_with(fault, patch):
    with standin.installed(("90", "90"), schedule="late"):
        alone = trained(NCCL(messages=Ranks()), shards=2, graph=False)
        fault(patch)
        for _, losses, _ in on_ranks(2, partial(trained, shards=2, graph=False)):
            assert losses == alone[1], "the losses differ from those of one GPU"


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(monkeypatch, fault):
    plant, message = PLANTED[fault]
    with pytest.raises((AssertionError, DivergedError, ValueError), match=message):
        train_with(plant, monkeypatch)


# --- refusals and failures -------------------------------------------------------------------------


def test_two_ranks_on_one_gpu_are_named():
    message = r"rank 0 and rank 1 are both on cuda:0 of .+; each rank needs a GPU of its own: move the net to"
    with standin.installed(("90",)), pytest.raises(ValueError, match=message):
        on_ranks(2, partial(trained, shards=2))


def test_an_engine_refuses_a_device_of_the_other_engine_and_names_that_engine():
    with pytest.raises(ValueError, match="NCCL sums arrays of GPUs, and the net is on numpy; parallel='mpi'"):
        Trainer(toy_run.net(), parallel=NCCL(messages=Ranks()))
    ranks = MPI.__new__(MPI)
    ranks.size = 2
    with pytest.raises(
        ValueError, match="MPI sums arrays of numpy and emulated, and the net is on cuda:1; parallel='nccl'"
    ):
        ranks.begin("cuda:1")


def test_a_capture_that_fails_on_one_rank_fails_on_all(monkeypatch):
    from gpuconv.backends.cuda.runtime.graph import CudaRecorder

    capture = CudaRecorder.capture

    def refused(self, work):
        if self._device.id == 1:
            raise MemoryError("no room")
        return capture(self, work)

    monkeypatch.setattr(CudaRecorder, "capture", refused)
    with standin.installed(("90", "90")), pytest.warns(UncapturedWarning, match="no room") as caught:
        weights = [result[0] for result in on_ranks(2, partial(trained, shards=2))]
    assert len(caught) == 2
    assert toy_run.same_arrays(*weights)


class HangAt:
    """Makes the GPU of rank 1 do no more work after a certain step."""

    def __init__(self, machine, step):
        self.machine, self.step = machine, step

    def on_step(self, trainer, record):
        if trainer.steps == self.step and trainer.ranks.rank == 1:
            self.machine.hung.add(1)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("shards", [2, None])
def test_a_gpu_that_hangs_is_named_on_all_ranks(monkeypatch, graph, shards):
    monkeypatch.setattr("gpuconv.parallel.nccl.GRACE", 0.2)
    errors = []

    def work(ranks, machine):
        try:
            trained(ranks, shards, graph, callbacks=[HangAt(machine, 3)])
        except BaseException as error:
            errors.append((ranks._communicator, str(error)))
            raise

    with pytest.raises(ParallelError), standin.installed(("90", "90")) as machine:
        on_ranks(2, partial(work, machine=machine), lambda messages: NCCL(1.0, messages))
    assert [communicator for communicator, _ in errors] == [None, None]
    # If one thread aborts the barrier, the thread that waits there gets an error without text.
    assert {text for _, text in errors if text} == {"the GPU of rank 1 did not finish its work within 0.5 s"}


def test_ranks_whose_gpus_wait_for_one_another_are_reported_as_out_of_step(monkeypatch):
    """The GPUs continue after the communicator is aborted."""
    monkeypatch.setattr("gpuconv.parallel.nccl._reached_in_time", lambda mark, seconds: seconds == GRACE)

    def work(ranks):
        ranks.begin(ranks.device)
        ranks.barrier()

    message = r"the GPUs wait for one another and did not finish within 0\.5 s: the ranks are out of step"
    with pytest.raises(ParallelError, match=message), standin.installed(("90", "90")):
        on_ranks(2, work, lambda messages: NCCL(1.0, messages))


@pytest.mark.parametrize("fixed", [False, True])
def test_ranks_whose_communication_ended_say_so(fixed):
    def work(ranks):
        ranks.begin(ranks.device)
        ranks._abort()
        ranks.sum(gc.asarray(np.ones(4, np.float32), ranks.device), fixed)

    message = r"rank [01] has no communicator: .* an error ended it; in that case start all ranks again"
    with pytest.raises(ParallelError, match=message), standin.installed(["90"] * 2):
        on_ranks(2, work)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_single_rank_has_the_sum_already(fixed):
    with standin.installed():
        ((result, sent),) = summed([np.ones(4, np.float32)], fixed)
    assert result.tolist() == [1, 1, 1, 1]
    assert sent == 0


def test_a_rank_that_fails_ends_the_communication_of_all():
    with standin.installed(("90", "90")):
        used = []

        def work(ranks):
            ranks.begin(ranks.device)
            used.append(ranks._communicator)
            if ranks.rank:
                raise OSError("the disk is on fire")
            ranks.gather(None)

        with pytest.raises(OSError, match="on fire"):
            on_ranks(2, work)
    assert [communicator._aborted for communicator in used] == [True, True]


@pytest.mark.parametrize("text", ["abc", "-1", "1.0", "\uff17"])
def test_a_local_rank_that_is_no_whole_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("LOCAL_RANK", text)
    with pytest.raises(ValueError, match=f"LOCAL_RANK must be a whole number, received '{text}'"):
        NCCL(messages=Ranks())
