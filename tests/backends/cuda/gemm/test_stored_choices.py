"""Choices of the tuner on disk: what they depend on, processes that choose at the same time, and damaged entries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from gpuconv.backends.cuda.gemm import plan, tuner
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.runtime import replaced_files, source
from gpuconv.system import locks
from tests.backends.cuda.gemm.stand_in_gpu import (
    CONV2D,
    NAMES,
    StandInGpu,
    choices,
    chosen_without_kernels,
    durations,
    run_op,
)


def test_the_choice_is_stored_on_disk(use_gpu, tmp_path):
    use_gpu(StandInGpu(durations("simt-64x64")))
    run_op()
    (entry,) = choices(tmp_path)
    result = json.loads((entry / "choice.json").read_text())
    assert (result["algorithm"], result["device"], set(result["seconds"])) == ("simt-64x64", "Make-Believe", set(NAMES))
    later = use_gpu(StandInGpu(durations("simt-32x32")), forget=True)
    assert run_op()[0] == ["simt-64x64"]
    assert later.timed == []


IN_ANOTHER_PROCESS = """
import sys
from tests.backends.cuda.gemm.stand_in_gpu import chosen_without_kernels
print("ready", flush=True)
sys.stdin.readline()
print(*chosen_without_kernels(sys.argv[1]))
"""


def test_concurrent_processes_agree_on_one_choice(use_gpu, tmp_path):
    """Processes that choose at the same time use the result of the first one, as does a later process."""
    environment = os.environ | {"GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, fastest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for fastest in ("simt-32x32", "simt-64x64")
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0].split()[0] for process in processes}
    assert len(answers) == len(choices(tmp_path)) == 1
    assert chosen_without_kernels("simt-128x64") == (*answers, 0)


def test_a_process_waits_while_another_one_times_candidates(use_gpu, tmp_path):
    gpu, answers = use_gpu(StandInGpu({})), []
    gpu.seconds = lambda call, count: gpu.timed.append(count) or 1e-5
    (tmp_path / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "capability_of", lambda array: plan.NEWEST)
        thread = threading.Thread(
            target=lambda: answers.append(
                tuner.choose(CONV2D, "auto", None, lambda candidate: gpu.timed.append(candidate))
            )
        )
        with locks.hold(tmp_path / "cache"):
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert gpu.timed == []
        thread.join(10)
    assert gpu.timed
    assert answers


def test_each_problem_and_each_gpu_model_has_its_own_choice(use_gpu, tmp_path):
    use_gpu(StandInGpu(durations("simt-64x64")))
    run_op()
    for number, options in enumerate((dict(padding=1), dict(stride=2), dict(dilation=2)), 2):
        use_gpu(StandInGpu(durations("simt-32x32")))
        assert run_op(**options)[0][-1] == "simt-32x32"
        assert len(choices(tmp_path)) == number
    other = use_gpu(StandInGpu(durations("simt-64x32"), model="Fancy"))
    assert run_op()[0][-1] == "simt-64x32"
    assert set(other.timed) == set(NAMES)
    use_gpu(StandInGpu(durations("simt-32x32")))
    assert run_op()[0] == ["simt-64x64"]


@pytest.mark.kernels
def test_an_edited_kernel_is_timed_again(use_gpu, tmp_path):
    use_gpu(StandInGpu(durations("simt-64x64")))
    run_op()
    edited = tmp_path / "conv2d_fprop.cu"
    edited.write_text(source.resolve("conv2d_fprop.cu").read_text() + "\n// edited\n")
    with replaced_files.replace_files({"conv2d_fprop.cu": edited}):
        later = use_gpu(StandInGpu(durations("simt-32x32")), forget=True)
        assert run_op()[0][-1] == "simt-32x32"
        assert set(later.timed) == set(NAMES)
    assert len(choices(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncate", "change", "remove", "no digest"])
def test_a_damaged_entry_is_timed_again(use_gpu, tmp_path, damage):
    use_gpu(StandInGpu(durations("simt-64x64")))
    run_op()
    (entry,) = choices(tmp_path)
    file = entry / "choice.json"
    if damage == "truncate":
        file.write_text(file.read_text()[:20])
    elif damage == "change":
        file.write_text(file.read_text().replace("simt-64x64", "simt-64x32"))
    else:
        (file if damage == "remove" else entry / "digest").unlink()
    later = use_gpu(StandInGpu(durations("simt-32x32")), forget=True)
    assert run_op()[0][-1] == "simt-32x32"
    assert later.timed
    assert len(choices(tmp_path)) == 1


def test_a_choice_stored_under_an_old_algorithm_name_is_found(tmp_path):
    (tmp_path / "choice.json").write_text(json.dumps({"algorithm": "first-256x64"}))
    product = Product("conv2d_fprop", 1000, 64, 27, 1, np.dtype(np.float32), few_channels_smem_bytes=1000)
    assert tuner._read_choice(tmp_path, plan.candidates(product)).algorithm.name == "few_channels-256x64"
