"""The performance model's terms for wgmma."""

from __future__ import annotations

import pytest

from bench import predict as bench_predict
from bench import predict_steps
from bench.suite import select
from gpuconv.algorithms import ALGORITHMS, find
from gpuconv.backends.cuda.analysis import machine_code, predict_wgmma
from gpuconv.backends.cuda.analysis.machine_code import Instruction, MainLoop
from gpuconv.backends.cuda.analysis.predict_time import GPUS, Model, Prediction, Terms
from gpuconv.backends.cuda.analysis.predict_wgmma import WarpCode
from gpuconv.backends.cuda.runtime import nvrtc

H200 = GPUS["h200"]
# A launch takes 10,000 clocks, and an instruction two.
MADE_UP = Model(
    "made up", Terms(launch=10_000.0, block=0.0, instruction=2.0, hmma=0.0, reduction=0.0), 0.0, 0.0, "none", ()
)
WGMMA_NAMES = [algorithm.name for algorithm in ALGORITHMS if algorithm.name.startswith("wgmma-")]
CODE = WarpCode(multiply=80, copy=175, others=400)
PROLOGUE = 1000  # clocks until a block's first tile
CLUSTER_SYNC = 200  # clocks of a barrier of a cluster's blocks


def predict(algo="wgmma-128x128", counted=CODE, **changed):
    """The prediction for a convolution with the given changes."""
    work = (
        dict(turns=1, stages=18, drained=False, flops=0.0, moved=0.0, partials=0.0, model=MADE_UP, gpu=H200) | changed
    )
    return predict_wgmma.predict_launch(find(algo, "bfloat16"), counted, **work)


@pytest.mark.parametrize(
    ("algo", "tensor", "read"),
    [
        ("wgmma-128x128", 512, 8 * 48),
        ("wgmma-2x128x128", 512, 8 * 48),
        ("wgmma-256x128", 1024, 16 * 48),
        ("wgmma-128x256", 1024, 8 * 80),
        ("wgmma-256x64", 512, 16 * 32),
        ("wgmma-128x192", 768, 8 * 64),
        ("wgmma-64x192", 384, 4 * 64),
        ("wgmma-128x64", 256, 8 * 32),
    ],
)
def test_the_clocks_of_a_stage_equal_those_computed_by_hand(algo, tensor, read):
    """A stage has four instructions for each 64 rows. An instruction of 64 x 128 x 16 takes 64 clocks on the tensor
    cores, and reads 6 KiB of shared memory in 48 clocks. One of 64 x 256 x 16 takes 128 clocks, and reads 10 KiB in 80
    clocks."""
    algorithm = find(algo, "bfloat16")
    stage = predict_wgmma.stage_clocks(algorithm, WarpCode(80, 175, 0), MADE_UP, H200)
    copied = (algorithm.block_m + algorithm.block_n) * 128
    assert stage.tensor == tensor
    assert stage.shared == read + copied / 128
    multicast = 64 * 128 if algo == "wgmma-2x128x128" else 0  # bytes: half of the columns come from the other block
    assert stage.l2 == pytest.approx((copied - multicast) * 132 / 5120)
    # A scheduler has one warp that copies, and one or two that multiply; each instruction takes two clocks.
    multiplying = 1 if algo in ("wgmma-64x192", "wgmma-128x64") else 2
    assert stage.issue == 2 * (multiplying * 80 + 175)


def test_the_time_of_a_convolution_equals_that_computed_by_hand():
    predicted = predict(turns=2, partials=4.256e6)
    # A stage copies 32 KiB. Half of the 400 other instructions run, in both multiplying warps of a scheduler, and each
    # takes two clocks. The partial sums of 4.256 MB take 1 us.
    l2, stored = 32768 * 132 / 5120, 0.5 * 400 * 2 * 2
    clocks = 10_000 + PROLOGUE + l2 + 2 * 18 * l2 + stored  # filling the ring hides the store of the first tile
    assert predicted.seconds == pytest.approx(clocks / H200.clock + 1e-6)
    assert predicted.parts["tensor"] == pytest.approx(2 * 18 * 512 / H200.clock)
    assert predicted.binds == "l2"
    assert set(predicted.parts) == {*bench_predict.WGMMA, "bytes", "ceiling"}


def test_the_next_tile_hides_a_part_of_the_store():
    l2, stored = 32768 * 132 / 5120, 0.5 * 400 * 2 * 2

    def later_tile(**changed):
        """The clocks of a tile after the second."""
        return (predict(turns=3, **changed).seconds - predict(turns=2, **changed).seconds) * H200.clock

    assert later_tile() == pytest.approx(18 * l2)
    bound_by_issue = WarpCode(80, 1000, 400)
    assert later_tile(counted=bound_by_issue) == pytest.approx(18 * 2 * (2 * 80 + 1000) + stored)
    assert later_tile(drained=True) == pytest.approx(18 * l2 + stored + PROLOGUE + l2)
    long_time = 10_000  # longer than it takes to fill the ring of 6 stages
    slow_epilogue = WarpCode(80, 175, long_time)
    assert later_tile(counted=slow_epilogue, stages=60) == pytest.approx(60 * l2 + 2 * long_time - 6 * l2)


def test_a_second_block_hides_the_store_unless_issuing_all_instructions_takes_longer():
    l2, issue, long_time = 24576 * 132 / 5120, 2 * (80 + 175), 10_000

    def later_tile(others):
        two_turns, three_turns = (predict("wgmma-128x64", WarpCode(80, 175, others), turns=turns) for turns in (2, 3))
        return (three_turns.seconds - two_turns.seconds) * H200.clock

    assert later_tile(400) == pytest.approx(18 * l2)
    assert later_tile(2 * long_time) == pytest.approx(18 * issue + 2 * long_time)


def test_the_slowest_part_of_a_stage_sets_its_time():
    slow = predict(counted=WarpCode(80, 1000, 400))
    assert slow.binds == "issue"
    assert slow.seconds - predict().seconds == pytest.approx(slow.parts["issue"] - predict().parts["l2"])


def test_the_blocks_of_a_cluster_wait_for_each_other_only_at_the_beginning_and_at_the_end():
    l2 = 24576 * 132 / 5120
    for turns in (1, 3):
        found = predict("wgmma-2x128x128", turns=turns).parts["prologue"]
        assert found == pytest.approx((PROLOGUE + l2 + 2 * CLUSTER_SYNC) / H200.clock)


def test_no_convolution_is_faster_than_its_bytes_or_its_arithmetic():
    assert (predict(moved=4.256e12).seconds, predict(moved=4.256e12).binds) == (1.0, "bytes")
    assert (predict(flops=708.3e12).seconds, predict(flops=708.3e12).binds) == (1.0, "ceiling")


def test_more_work_takes_no_less_time():
    for name, amounts in {
        "turns": (1, 2, 3),
        "drained": (False, True),
        "stages": (1, 2, 18),
        "partials": (0, 1e6, 1e9),
    }.items():
        seconds = [predict(**{name: amount}).seconds for amount in amounts]
        assert seconds == sorted(seconds), name


def test_the_loops_that_multiply_and_copy_are_found_inside_those_over_tiles():
    opcodes = ("LDG.E", "HGMMA.64x128x16", "BRA", "STG.E", "BRA", "S2R", "LDGSTS.E", "IADD3", "BRA", "BRA")
    branch_targets = {2: 1, 4: 0, 8: 6, 9: 5}
    code = [Instruction(opcode, branch_targets.get(at)) for at, opcode in enumerate(opcodes)]
    assert machine_code.main_loop(code) == MainLoop(2, 1)
    assert machine_code.main_loop(code, ("LDG",)) == MainLoop(3, 0)


def test_a_part_that_multiplies_is_counted_although_a_branch_can_skip_it():
    opcodes = ("LDG.E", "BRA", "FADD", "HGMMA.64x128x16", "BRA", "FADD", "BRA")
    branch_targets = {1: 4, 4: 6, 6: 0}
    code = [Instruction(opcode, branch_targets.get(at)) for at, opcode in enumerate(opcodes)]
    assert machine_code.main_loop(code) == MainLoop(6, 1)


@pytest.mark.kernels
@pytest.mark.parametrize("algo", WGMMA_NAMES)
def test_the_table_names_the_parts_of_every_direction(algo):
    try:
        nvrtc.toolkit(), machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    entries = select("ops", "cuda", ["fprop", "dgrad", "wgrad"], ["128x16x16x128-128x3x3-p1.1.1.1"], ["bfloat16"])
    kernels = find(algo, "bfloat16").kernels
    served = [direction for direction in ("fprop", "dgrad", "wgrad") if f"conv2d_{direction}" in kernels]
    head, *lines = bench_predict.table(entries, algo, Model.load(), H200, {})
    assert head.split()[3:] == [*bench_predict.WGMMA, "bytes", "ceiling", "share"]
    table, medians = lines[: len(served)], lines[len(served) : 2 * len(served)]
    assert [line.split(":")[0] for line in medians] == served
    if len(served) < 3:
        assert lines[-1] == f"{3 - len(served)} more entries are of directions or shapes that {algo} does not serve"
    for line in table:
        assert f" {algo} " in line
        assert line.count("*") == 1
        assert 0.2 < float(line.split()[-1]) < 1


def test_a_step_takes_the_faster_of_the_named_algorithm_and_the_launchers_choice(monkeypatch):
    times = {"auto": 2.0, "wgmma-128x128": 1.0, "wgmma-256x128": 3.0, "other": None}

    def predicted(entry, algo, model, gpu):
        return (algo, Prediction(times[algo], {}, "")) if times[algo] else None

    monkeypatch.setattr(predict_steps, "predict_entry", predicted)
    times_by_algorithm = [predict_steps.fastest(None, algo, MADE_UP, H200) for algo in times]
    assert times_by_algorithm == [2.0, 1.0, 2.0, 2.0]
    times["auto"] = None  # the model does not cover the launcher's choice, so nothing is predicted
    assert predict_steps.fastest(None, "wgmma-128x128", MADE_UP, H200) is None
