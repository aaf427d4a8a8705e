"""The GPU gate on a machine without a GPU: its boxes, its verdicts, and what it says of what it could not do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ci import gate as gates
from ci import gate_parts as parts
from ci.gate import FAILED, LATE, NOT_REACHED, PASSED, Done, FailedError, Gate, LateError, NotReachedError, Part
from gpuconv.backends import DeviceError
from tests.devices import kernel_devices

ROOT = Path(__file__).parents[2]


def tool(folder: Path, name: str, script: str) -> None:
    """An executable of that name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run_script(tmp_path: Path, *words: str, lists_gpus: bool = False):
    tool(tmp_path / "bin", "nvidia-smi", "exit 0" if lists_gpus else "exit 9")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    command = [str(ROOT / "ci" / "gpu.sh"), str(tmp_path / "out"), *words]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    return done, done.stdout + done.stderr


@pytest.mark.slow
def test_without_a_gpu_it_runs_to_its_end_and_says_what_it_could_not_do(tmp_path):
    before = sorted(path.name for path in (ROOT / "gpuconv").iterdir())
    done, said = run_script(tmp_path)
    assert done.returncode == 3, said
    assert sorted(path.name for path in (ROOT / "gpuconv").iterdir()) == before
    assert "NO GPU: nothing was proved" in said
    assert f"{len(parts.PARTS)} not reached" in said
    told = json.loads((tmp_path / "out" / "gate.json").read_text())["parts"]
    assert [part["part"] for part in told] == [part.name for part in parts.PARTS]
    assert {part["status"] for part in told} == {NOT_REACHED}
    assert all(part["reason"].startswith("no GPU") for part in told)
    assert "devices" in (tmp_path / "out" / "environment.log").read_text()  # of `gpuconv info`


@pytest.mark.slow
def test_a_gpu_that_cannot_be_used_is_a_failure(tmp_path):
    done, said = run_script(tmp_path, "--part", "train", lists_gpus=True)
    assert done.returncode == 1, said
    environment, train = json.loads((tmp_path / "out" / "gate.json").read_text())["parts"]
    assert (environment["status"], train["status"]) == (FAILED, NOT_REACHED)
    assert "the GPU cannot be used: " in environment["reason"]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--minutes", "0"], "above 0, received 0"), (["--wheels", "nowhere"], "nowhere is no folder"),
     (["--part", "tets"], "invalid choice: 'tets'"), ([], "required: OUT")],
)  # fmt: skip
def test_bad_usage(words, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        gates.main([*([str(tmp_path / "out")] if words else []), *words])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "GRACE", 1)
    for name in ("out", "home"):
        (tmp_path / name).mkdir()
    return Gate(tmp_path / "out", tmp_path / "home", commit="abc")


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# --- the boxes ---------------------------------------------------------------------------------


def test_a_command_has_its_log_and_its_time(gate):
    done = gate.run("a.log", shell("echo one; pwd; exit 4"), 10)
    assert (done.code, done.late, done.last) == (4, False, str(gate.home))
    assert "one" in (gate.out / "a.log").read_text()
    assert gate.run("a.log", shell("echo two"), 10).text == "two\n"
    assert "one" in (gate.out / "a.log").read_text()  # added to
    assert gate.run("b.log", ["no-such-command"], 10).code == 127


def test_a_command_that_dies_early_is_not_late(gate):
    done = gate.run("a.log", shell("kill -9 $$"), 30)
    assert done.code
    assert not done.late


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sleep 60", "trap '' INT; while :; do sleep 1; done"])
def test_a_command_out_of_time_is_stopped(gate, script):
    start = time.monotonic()
    assert gate.run("a.log", shell(script), 1).late
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_commands_side_by_side_and_those_the_time_did_not_reach(gate):
    found = gate.together({f"{name}.log": shell("sleep 60") for name in "abc"}, 2, 2)
    assert [(name, done.late) for name, done in found.items()] == [("a.log", True), ("b.log", True)]
    found = gate.together({f"{name}.log": shell(f"echo {name}") for name in "abc"}, 30, 2)
    assert [done.text for done in found.values()] == ["a\n", "b\n", "c\n"]


def test_a_part_that_fails_costs_no_other(gate):
    def fails(_, seconds):
        raise FailedError("wrong by 3", error=3)

    def breaks(_, seconds):
        raise KeyError("a fault of the gate")

    def slow(gate, seconds):
        parts.expect(gate.run("slow.log", shell("echo begun; sleep 60"), min(seconds, 1)))

    def missing(_, seconds):
        raise NotReachedError("no ncu")

    def right(*_):
        return "fine", {"x": 1}

    bodies = {"fails": fails, "breaks": breaks, "slow": slow, "missing": missing, "right": right}
    results = gates.run_parts([Part(name, 1, body) for name, body in bodies.items()], gate, 60, lambda _: None)
    assert [result.status for result in results] == [FAILED, FAILED, LATE, NOT_REACHED, PASSED]
    assert "KeyError" in results[1].reason
    assert results[2].reason.endswith("it last said: begun")
    assert json.loads((gate.out / "fails.json").read_text())["details"] == {"error": 3}
    assert json.loads((gate.out / "gate.json").read_text())["parts"][4]["details"] == {"x": 1}
    assert gates.status(results, False) == 1
    assert gates.status(results[4:], False) == 0
    text = gates.table(results)
    assert "1 passed, 2 failed, 1 out of time, 1 not reached" in text
    assert "wrong by 3" in text


def test_time_that_a_part_leaves_goes_to_the_later_ones_and_what_is_used_up_is_told(gate, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gates.time, "monotonic", lambda: now[0])
    boxes = []

    def takes(seconds):
        def body(_, box):
            boxes.append(box)
            now[0] += seconds
            return "", {}

        return body

    listed = [Part("a", 1, takes(0)), Part("b", 1, takes(100)), Part("c", 1, takes(0))]
    results = gates.run_parts(listed, gate, 61, lambda _: None)
    assert boxes == [20, 30]
    assert results[2].reason == "the time was used up before"


def test_ctrl_c_leaves_a_table(gate):
    def stopped(_, seconds):
        raise KeyboardInterrupt

    listed = [Part("a", 1, stopped), Part("b", 1, lambda *_: ("", {}))]
    results = gates.run_parts(listed, gate, 60, lambda _: None)
    assert [result.status for result in results] == ["stopped", NOT_REACHED]
    assert gates.status(results, False) == 130
    assert len(json.loads((gate.out / "gate.json").read_text())["parts"]) == 2


def test_ctrl_c_ends_what_runs_side_by_side(gate):
    start = time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        gate.together({f"{name}.log": shell("sleep 60") for name in "abc"}, 60, 2)
    assert time.monotonic() - start < 20
    assert not (gate.out / "c.log").exists()


def test_the_copy_finds_its_kernels_without_an_installation(tmp_path, monkeypatch):
    home = gates.copied(tmp_path / "out", tmp_path)
    monkeypatch.setattr(gates, "ROOT", home)
    (tmp_path / "again").mkdir()
    home = gates.copied(tmp_path / "out", tmp_path / "again")  # a copy of a copy is no other case
    code = "from gpuconv.backends.cuda import source; print(source.directory().resolve())"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(home)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == (home / "kernels").resolve()
    assert not (home / ".git").exists()


# --- the parts ---------------------------------------------------------------------------------


class Planted(Gate):
    """A gate whose commands end as told, by a word of theirs."""

    def tell(self, **ends: tuple[int, str]):
        self.ends, self.ran = ends, []
        return self

    def run(self, log, command, seconds, **environment):
        self.ran.append(list(command))
        code, said = next((end for word, end in self.ends.items() if word in " ".join(command)), (0, ""))
        return Done(code, said, 1.0, late=code == 124)


@pytest.fixture
def planted(gate):
    return Planted(gate.out, gate.home, "cuda", "abc")


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [((0, "run\ntest accuracy 96.49%\n"), FailedError, "at least 96.5"), ((2, "no device"), FailedError, "no device"),
     ((0, "done"), FailedError, "no accuracy: done"), ((124, "epoch 3"), LateError, "it last said: epoch 3")],
)  # fmt: skip
def test_training_that_does_not_reach_its_accuracy_fails(planted, end, error, said):
    with pytest.raises(error, match=said):
        parts.train(planted.tell(train=end), 30)


def test_training_passes_by_its_last_line(planted):
    _, details = parts.train(planted.tell(train=(0, "test accuracy 96.50%\n\n")), 30)
    assert details == {"accuracy": 96.5}
    assert planted.ran[0][1:4] == ["-m", "gpuconv", "train"]


def test_training_that_was_not_captured_fails(planted):
    """Which the run only warns of, and reaches its accuracy."""
    from gpuconv.training.replay import Replay, UncapturedWarning

    with pytest.warns(UncapturedWarning) as told:
        Replay("numpy", False).give_up("MemoryError: no 12 bytes more")
    said = f"gpuconv: warning: {told[0].message}\n\ntest accuracy 98.00%\n"
    with pytest.raises(FailedError, match=r"not captured: .*launch by launch: MemoryError: no 12 bytes more") as caught:
        parts.train(planted.tell(train=(0, said)), 30)
    assert caught.value.details == {"accuracy": 98.0}


def test_verify_names_the_ops_that_fail_and_those_out_of_time(planted):
    planted.facts["ops"] = ["relu", "add", "scale"]
    with pytest.raises(FailedError, match="failed: add; 1 of 3 ops pass; out of time: scale") as caught:
        parts.verify(planted.tell(add=(1, "FAIL"), scale=(124, "")), 30)
    assert caught.value.details["failed"] == ["add"]
    planted.facts.clear()  # the environment failed: all ops in one
    assert parts.verify(planted.tell(), 30)[0] == "1 of 1 ops pass"
    planted.facts["ops"] = ["relu", "add", "scale"]
    with pytest.raises(LateError, match="2 of 3 ops pass; out of time: scale"):
        parts.verify(planted.tell(scale=(124, "")), 30)
    assert parts.verify(planted.tell(), 30)[0] == "3 of 3 ops pass"


def test_the_suite_runs_on_the_device_a_file_a_process_kernels_first(planted, monkeypatch):
    for name in ("a/test_a.py", "kernels/test_k.py", "training/test_devices.py"):
        (planted.home / "tests" / name).parent.mkdir(parents=True)
        (planted.home / "tests" / name).write_text("")
    seen = {}
    together = planted.together
    monkeypatch.setattr(planted, "together", lambda *a, **options: seen.update(options) or together(*a, **options))
    planted.tell(test_a=(0, "3 passed, 1 skipped in 1s"), test_k=(0, "4 passed in 1s"), devices=(5, "no tests ran"))
    monkeypatch.setattr(parts, "workers", lambda: 1)
    assert parts.tests(planted, 30)[0] == "7 passed, 1 skipped in 3 files"
    assert [command[-1].rpartition("/")[2] for command in planted.ran] == ["test_k.py", "test_devices.py", "test_a.py"]
    assert seen["GPUCONV_TEST_DEVICES"] == "cuda"
    with pytest.raises(FailedError, match=r"failed: kernels\.test_k"):
        parts.tests(planted.tell(test_k=(1, "1 failed, 3 passed in 1s")), 30)


@pytest.mark.parametrize("name", ["memcheck", "racecheck"])
def test_a_sanitizer_that_is_not_there_or_says_nothing_has_not_passed(planted, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    part = parts.sanitized(name)
    with pytest.raises(NotReachedError, match="compute-sanitizer is not on the PATH"):
        part(planted.tell(), 30)
    tool(tmp_path / "bin", "compute-sanitizer", "")
    with pytest.raises(FailedError, match="no summary of compute-sanitizer"):
        part(planted.tell(), 30)
    summary = "========= RACECHECK SUMMARY: 0 hazards" if name == "racecheck" else "========= ERROR SUMMARY: 0 errors"
    assert part(planted.tell(sanitizer=(0, summary)), 30)[0] == "14 of 14 ops clean"
    with pytest.raises(FailedError, match="failed: bias_grad"):
        part(planted.tell(bias_grad=(9, summary), sanitizer=(0, summary)), 30)


CSV = """==PROF== Connected to process 7
step       vgg-cifar
"ID","Process ID","Kernel Name","Block Size","Metric Name","Metric Unit","Metric Value"
"0","7","conv2d_fprop_simt","(64, 1, 1)","gpu__time_duration.sum","ns","1,500"
"1","7","relu_forward","(64, 1, 1)","gpu__time_duration.sum","us","0.25"
"2","7","conv2d_fprop_simt","(64, 1, 1)","gpu__time_duration.sum","usecond","2"
"3","7","cupy_fill","(64, 1, 1)","gpu__time_duration.sum","ms","9"
"4","7","bias_grad_sum","(64, 1, 1)","gpu__time_duration.sum","ns","100"
"5","7","sgd_step","(64, 1, 1)","gpu__time_duration.sum","ns","900"
"""


def test_ncu_looks_at_the_three_slowest_kernels(planted, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotReachedError, match="ncu is not on the PATH"):
        parts.ncu(planted.tell(), 30)
    tool(tmp_path / "bin", "ncu", "")
    found = parts.durations(CSV)
    assert found == pytest.approx(
        {"conv2d_fprop_simt": 3.5e-6, "relu_forward": 2.5e-7, "bias_grad_sum": 1e-7, "sgd_step": 9e-7}
    )
    said, _ = parts.ncu(planted.tell(csv=(0, CSV)), 30)
    assert said.startswith("conv2d_fprop_simt 0.0035 ms, sgd_step")
    looked_at = [command[command.index("--kernel-name") + 1] for command in planted.ran[1:]]
    assert looked_at == ["conv2d_fprop_simt", "sgd_step", "relu_forward"]
    with pytest.raises(FailedError, match="told no kernel"):
        parts.ncu(planted.tell(csv=(0, "==ERROR== no permission")), 30)


def test_the_benchmark_tells_absent_and_failed_peers(planted):
    sides = [{"name": "gpuconv", "status": "timed"}, {"name": "eager", "status": "absent"},
             {"name": "compile", "status": "left out"}]  # fmt: skip
    folder = planted.out / "results" / "nvidia-x"
    folder.mkdir(parents=True)
    entries = [{"kind": "step", "sides": sides}, {"kind": "memory", "sides": sides[:1]}]
    (folder / "2026-01-01-abc.json").write_text(json.dumps({"entries": entries}))
    assert parts.timed("steps")(planted.tell(), 60)[0] == "1 entries timed; eager absent"
    assert parts.timed("ops")(planted.tell(), 60)[0] == "1 entries timed"
    with pytest.raises(LateError, match="1 entries timed; stopped after"):
        parts.timed("ops")(planted.tell(bench=(124, "")), 60)
    with pytest.raises(FailedError, match="wrong and not timed"):
        parts.timed("ops")(planted.tell(bench=(1, "wrong and not timed: x")), 60)


def test_the_benchmark_goes_on_in_a_new_process_where_a_side_took_the_gpu_down(planted, monkeypatch):
    monkeypatch.setattr(parts, "entries_of", lambda gate: [{"kind": "step", "sides": []}])
    planted.tell(missing=(0, "2 entries are missing"), bench=(2, "bench: error: cuda:0 no longer answers after x"))
    assert parts.timed("steps")(planted, 60)[0] == "1 entries timed"
    assert ["--missing" in command for command in planted.ran] == [False, True]


def test_tests_run_on_the_devices_that_are_named_or_not_at_all(monkeypatch):
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "emulated,numpy")
    assert kernel_devices() == ["emulated", "numpy"]
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "cuda:99")
    with pytest.raises(DeviceError):
        kernel_devices()
    monkeypatch.delenv("GPUCONV_TEST_DEVICES")
    assert kernel_devices()[0] == "emulated"
