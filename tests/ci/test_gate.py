"""The GPU gate on a machine without a GPU: its time limits, its verdicts, and its report of checks not reached."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from ci.gate import __main__ as command_line
from ci.gate import commands, fast, order, questions, right, start, tree
from ci.gate.commands import Done, Gate
from ci.gate.experiments import QUESTIONS, training
from ci.gate.results import (
    FAILED,
    LATE,
    NOT_REACHED,
    PASSED,
    FailedError,
    LateError,
    NotReachedError,
    Verdict,
    exit_status,
    judged,
    printed,
    read_verdict,
    table,
)
from ci.gate.schedule import LONGEST, Check, Part, run_parts
from gpuconv.backends import DeviceError
from tests.devices import kernel_devices

ROOT = Path(__file__).parents[2]


def write_tool(folder: Path, name: str, script: str) -> None:
    """Write an executable shell script with that name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run_script(tmp_path: Path, *words: str, lists_gpus: bool = False, timeout: float = 120, **environment: str):
    write_tool(tmp_path / "bin", "nvidia-smi", "exit 0" if lists_gpus else "exit 9")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable} | environment
    command = [str(ROOT / "ci" / "gpu.sh"), *words, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
    return done, done.stdout + done.stderr


def report(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "gate.json").read_text())


@pytest.mark.slow
def test_without_a_gpu_the_gate_completes_and_says_what_it_could_not_do(tmp_path):
    before = sorted(path.name for path in (ROOT / "gpuconv").iterdir())
    done, output = run_script(tmp_path)
    assert done.returncode == 3, output
    assert sorted(path.name for path in (ROOT / "gpuconv").iterdir()) == before
    assert "NO GPU: nothing was proved" in output
    checks = [(part.name, check.name) for part in order.PARTS for check in part.checks]
    reported = report(tmp_path)["checks"]
    assert [(check["part"], check["check"]) for check in reported] == checks
    assert {check["status"] for check in reported} == {NOT_REACHED}
    assert all(check["reason"].startswith("no GPU") for check in reported)


@pytest.mark.slow
def test_an_unusable_gpu_is_a_failure(tmp_path):
    done, output = run_script(tmp_path, "why", lists_gpus=True)
    assert done.returncode == 1, output
    environment, _, ncu = report(tmp_path)["checks"]
    assert (environment["status"], ncu["status"]) == (FAILED, NOT_REACHED)
    assert "the GPU cannot be used: " in environment["reason"]


SANITIZER = """[ "$1" = --version ] && exit 0
shift 4
[ "$GPUCONV_AUTOTUNE" = 0 ] || exit 8
"$@" || exit 9
echo "========= ERROR SUMMARY: 0 errors"
echo "========= RACECHECK SUMMARY: 0 hazards displayed"
"""
NCU = """[ "$1" = --version ] && exit 0
[ "$GPUCONV_AUTOTUNE" = 0 ] || exit 8
while [ "$1" != -m ]; do [ "$1" = --export ] && echo made up > "$2.ncu-rep"; shift; done
"$PYTHON" "$@" || exit 9
cat <<'END'
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","conv2d_fprop_mma","gpu__time_duration.sum","us","15"
"0","conv2d_fprop_mma","smsp__issue_active.avg.pct_of_peak_sustained_active","%","81.5"
"0","conv2d_fprop_mma","lts__t_sectors.avg.pct_of_peak_sustained_elapsed","%","31.5"
END
"""


@pytest.mark.slow
def test_the_whole_gate_runs_on_the_stand_in(tmp_path):
    """At a small size, with kernels on the emulator, made-up times, and a fake Nsight and sanitizer."""
    write_tool(tmp_path / "bin", "compute-sanitizer", SANITIZER)
    write_tool(tmp_path / "bin", "ncu", NCU)
    python = f"{sys.executable} -m tests.standin"
    done, output = run_script(tmp_path, "--rehearse", python, "--commit", "abc", timeout=1500)
    results = {check["check"]: (check["status"], check["reason"]) for check in report(tmp_path)["checks"]}
    # These checks need something that a rehearsal lacks, or their result depends on measured times.
    may_fail = {"cubins", "record", "loader", "choices", "driver", "model"}
    failed = {name: result for name, result in results.items() if result[0] != PASSED and name not in may_fail}
    assert failed == {}, output
    for status, reason in results.values():
        assert status != LATE
        assert "Traceback" not in reason
        assert "the gate:" not in reason
    assert done.returncode == 1
    assert report(tmp_path)["running"] is None
    answered = [verdict["question"] for verdict in report(tmp_path)["verdicts"]]
    assert answered == [fast.ISSUE, *([fast.MODEL] if fast.MODEL in answered else []), fast.RECORD, *QUESTIONS.values()]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 8, "a machine that runs the gate may give back no more files"
    assert all(len(path.relative_to(tmp_path / "out").parts) <= 3 for path in files)
    with zipfile.ZipFile(tmp_path / "out" / "logs.zip") as logs:
        assert {"bench-steps.log", "experiments/capture.log", "verify/relu.log"} <= set(logs.namelist())


def test_the_files_of_the_gate_have_no_import_cycles():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "ci" / "gate").rglob("*.py")
    }

    def imported(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    graph = {name: {*imported(path)} & names.keys() - {name} for name, path in names.items()}
    assert graph["ci.gate.order"] >= {"ci.gate.fast", "ci.gate.start"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


# --- the order and the limits ------------------------------------------------------------------


def test_the_parts_take_28_minutes_and_none_exceeds_the_limit_of_a_command():
    names = [part.name for part in order.PARTS]
    assert names == ["start", "right", "why", "kernels", "questions", "steps", "suite"]
    assert sum(part.minutes for part in order.PARTS) == order.AVAILABLE - order.RESERVE
    assert all(part.minutes <= LONGEST for part in (*order.PARTS, *order.EXTRA))
    assert [name for call in order.CALLS for name in call] == names
    for call in order.CALLS:
        assert sum(part.minutes for part in command_line.chosen_parts(call)) <= LONGEST
    checks = [check.name for part in order.PARTS for check in part.checks]
    assert len(set(checks)) == len(checks)
    assert [check.name for part in order.PARTS if part.name == "questions" for check in part.checks] == [*QUESTIONS]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([], [part.name for part in order.PARTS]),
        (["suite", "why"], ["start", "why", "suite"]),
        (["tests"], ["start", "tests"]),
    ],
    ids=["all", "two", "extra"],
)
def test_parts_run_in_order_after_the_environment(named, expected):
    chosen = command_line.chosen_parts(named)
    assert [part.name for part in chosen] == expected
    assert chosen[0].checks[0].name == "environment"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "above 0, received 0"),
        (["--wheels", "nowhere"], "nowhere is not a folder"),
        (["--cubins", "nowhere"], "nowhere is no file"),
        (["stepps"], "unknown part 'stepps'; did you mean 'steps'?"),
        (None, "--out is needed"),
    ],
    ids=["minutes", "wheels", "cubins", "part", "out"],
)
def test_bad_usage_ends_with_a_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    with pytest.raises(SystemExit) as ended:
        command_line.main([] if words is None else [*words, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "GRACE", 1)
    for name in ("out", "home", "logs"):
        (tmp_path / name).mkdir()
    return Gate(tmp_path / "out", tmp_path / "home", tmp_path / "logs", commit="abc")


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def run(gate, minutes: float = 1, **bodies):
    """The bodies as the checks of one part."""
    part = Part("part", minutes, tuple(Check(name, 1, body) for name, body in bodies.items()))
    return run_parts([part], gate, 600, lambda _: None)


# --- time limits -------------------------------------------------------------------------------


def test_a_command_gets_its_own_log_and_time(gate):
    done = gate.run("a.log", shell("echo one; pwd; exit 4"), 10)
    assert (done.code, done.late, done.last) == (4, False, str(gate.home))
    assert "one" in (gate.logs / "a.log").read_text()
    assert gate.run("a.log", shell("echo two"), 10).text == "two\n"
    assert "one" in (gate.logs / "a.log").read_text()  # the folder is added to
    assert gate.run("b.log", ["no-such-command"], 10).code == 127


def test_a_command_that_dies_early_does_not_count_as_out_of_time(gate):
    done = gate.run("a.log", shell("kill -9 $$"), 30)
    assert done.code
    assert not done.late


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["sleep 60", "trap '' INT; while :; do sleep 1; done"], ids=["ends", "ignores the interrupt"]
)
def test_a_command_out_of_time_is_stopped(gate, script):
    begin = time.monotonic()
    assert gate.run("a.log", shell(script), 1).late
    assert time.monotonic() - begin < 10


def test_processes_that_a_command_left_running_are_ended(gate):
    done = gate.run("a.log", shell("sleep 60 & echo $!"), 10)
    stat = Path("/proc") / done.last / "stat"
    for _ in range(50):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the process is still running")


def test_a_command_that_cannot_be_killed_is_abandoned(gate, monkeypatch):
    """A process that is blocked in a driver cannot be killed."""
    monkeypatch.setattr(commands, "GRACE", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "_signal", lambda process, how: None)
        done = gate.run("a.log", ["sleep", "5"], 1)
    assert done.late
    assert done.seconds < 3
    (process,) = gate._running
    process.kill()
    process.wait()


@pytest.mark.slow
def test_parallel_commands_stop_at_the_time_limit_and_later_ones_are_not_started(gate):
    ended = gate.run_in_parallel({f"{name}.log": shell("sleep 60") for name in "abc"}, 2, 2)
    assert [(name, done.late) for name, done in ended.items()] == [("a.log", True), ("b.log", True)]
    ended = gate.run_in_parallel({f"{name}.log": shell(f"echo {name}") for name in "abc"}, 30, 2)
    assert [done.text for done in ended.values()] == ["a\n", "b\n", "c\n"]


def test_a_check_that_fails_crashes_or_hangs_does_not_affect_the_others(gate):
    def fails(_, seconds):
        raise FailedError("wrong by 3", error=3)

    def breaks(_, seconds):
        raise KeyError("a fault of the gate")

    def hangs(gate, seconds):
        start.expect(gate.run("slow.log", shell("echo begun; sleep 60"), min(seconds, 1)))

    def crashes(gate, seconds):
        start.expect(gate.run("crash.log", shell("kill -11 $$"), seconds))

    def missing(_, seconds):
        raise NotReachedError("no ncu")

    def passes(*_):
        return "fine", {"x": 1}

    results = run(gate, fails=fails, breaks=breaks, hangs=hangs, crashes=crashes, missing=missing, passes=passes)
    assert [result.status for result in results] == [FAILED, FAILED, LATE, FAILED, NOT_REACHED, PASSED]
    assert "KeyError" in results[1].reason
    assert results[2].reason.endswith("its last line: begun")
    recorded = json.loads((gate.out / "gate.json").read_text())
    assert (recorded["checks"][0]["details"], recorded["checks"][5]["details"]) == ({"error": 3}, {"x": 1})
    assert exit_status(results, False) == 1
    assert exit_status(results[5:], False) == 0
    text = table(results)
    assert "1 passed, 3 failed, 1 out of time, 1 not reached" in text
    assert "wrong by 3" in text
    with zipfile.ZipFile(gate.out / "logs.zip") as logs:
        assert logs.read("slow.log").endswith(b"begun\n")


def test_the_record_is_complete_after_every_check_and_names_the_running_one(gate):
    def read_record(gate, seconds):
        recorded = json.loads((gate.out / "gate.json").read_text())
        return recorded["running"], {"before": [check["check"] for check in recorded["checks"]]}

    first, second = run(gate, first=read_record, second=read_record)
    assert (first.reason, first.details) == ("part first", {"before": []})
    assert (second.reason, second.details) == ("part second", {"before": ["first"]})
    assert json.loads((gate.out / "gate.json").read_text())["running"] is None


def test_time_left_by_a_check_goes_only_to_later_checks_of_its_part(gate, monkeypatch):
    now, limits = [0.0], []
    monkeypatch.setattr("ci.gate.schedule.time.monotonic", lambda: now[0])

    def takes(seconds):
        def body(_, limit):
            limits.append(round(limit))
            now[0] += seconds
            return "", {}

        return body

    def part(*seconds):
        checks = tuple(Check(str(length), 1, takes(length)) for length in seconds)
        return Part("p", 1.25, checks)  # 75 s, 15 of them to spare

    results = run_parts([part(0, 100, 0), part(0, 0)], gate, 600, lambda _: None)
    assert limits == [20, 30, 30, 60]
    assert results[2].reason == "the time was used up before"
    limits.clear()
    run_parts([part(0)], gate, 45, lambda _: None)
    assert limits == [30], "the time for everything counts too"


def test_after_ctrl_c_the_stopped_and_unreached_checks_are_recorded(gate):
    def stopped(_, seconds):
        raise KeyboardInterrupt

    results = run(gate, a=stopped, b=lambda *_: ("", {}))
    assert [result.status for result in results] == ["stopped", NOT_REACHED]
    assert exit_status(results, False) == 130
    assert len(json.loads((gate.out / "gate.json").read_text())["checks"]) == 2


def test_ctrl_c_ends_parallel_commands(gate):
    begin = time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        gate.run_in_parallel({f"{name}.log": shell("sleep 60") for name in "abc"}, 60, 2)
    assert time.monotonic() - begin < 20
    assert not (gate.logs / "c.log").exists()


def test_the_copy_of_the_tree_finds_its_kernels_without_an_installation(tmp_path, monkeypatch):
    home = tree.copy_repository(tmp_path / "out", tmp_path)
    monkeypatch.setattr(tree, "ROOT", home)
    (tmp_path / "second").mkdir()
    home = tree.copy_repository(tmp_path / "out", tmp_path / "second")  # a copy of a copy works the same
    code = "from gpuconv.backends.cuda.runtime import source; print(source.directory().resolve())"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(home)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == (home / "kernels").resolve()
    assert not (home / ".git").exists()


# --- verdicts: hanging, crashing or giving a malformed answer counts as no answer ---------------

QUESTION = "Is it so?"


def answer(answer="yes", seen="so it is", question=QUESTION):
    return printed(Verdict(question, answer, seen))


@pytest.mark.parametrize(
    ("done", "expected", "message"),
    [
        (Done(0, f"work\n{answer()}\n", 1.0), "yes", "so it is"),
        (Done(0, f"{answer('no', 'off by 3')}\n", 1.0), "no", "off by 3"),
        (Done(124, answer(), 1.0, late=True), "unknown", "stopped at its time limit"),
        (Done(-11, answer(), 1.0), "unknown", "ended with status -11"),
        (Done(0, "all is well\n", 1.0), "unknown", "gave 0 verdicts; its last line: all is well"),
        (Done(0, f"{answer()}\n{answer('no')}\n", 1.0), "unknown", "gave 2 verdicts"),
        (Done(0, answer(question="Is it other?"), 1.0), "unknown", "answered another question: Is it other?"),
        (Done(0, answer("maybe"), 1.0), "unknown", "without what was seen: 'maybe'"),
        (Done(0, answer(seen=" "), 1.0), "unknown", "without what was seen: 'yes'"),
        (Done(0, "VERDICT yes\n", 1.0), "unknown", "cannot be read"),
        (Done(0, 'VERDICT ["yes"]\n', 1.0), "unknown", "cannot be read"),
        (Done(0, 'VERDICT {"answer": "yes"}\n', 1.0), "unknown", "cannot be read"),
        (Done(0, answer()[:-9], 1.0), "unknown", "cannot be read"),
    ],
    ids=["yes", "no", "hangs", "crashes", "silent", "two", "other", "maybe", "unseen", "word", "list", "part", "cut"],
)
def test_a_verdict_needs_one_complete_answer_and_exit_status_0(done, expected, message):
    verdict = read_verdict(QUESTION, done.text, done.code, done.late, done.last)
    assert verdict.answer == expected
    assert message in verdict.seen


@pytest.mark.parametrize(
    ("answer", "error"), [("no", FailedError), ("unknown", NotReachedError)], ids=["no", "unknown"]
)
def test_only_yes_passes(answer, error):
    with pytest.raises(error, match="so it is") as caught:
        judged(Verdict(QUESTION, answer, "so it is"))
    assert caught.value.details["verdicts"] == [{"question": QUESTION, "answer": answer, "seen": "so it is"}]
    assert judged(Verdict(QUESTION, "yes", "so it is"))[0] == "so it is"


def test_every_question_has_its_experiment_and_is_asked_in_a_child(prepared):
    for name, question in QUESTIONS.items():
        assert (ROOT / "ci" / "gate" / "experiments" / f"{name}.py").is_file()
        prepared.prepare(experiments=(0, printed(Verdict(question, "yes", "seen"))))
        assert questions.experiment(name)(prepared, 30)[0] == "seen"
        assert prepared.commands_run[0][-5:] == ["-m", "ci.gate.experiments", name, "--device", "cuda"]


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("run\ntest accuracy 96.49%\n", 0, ("no", "at least 96.5")),
        ("no device", 2, ("no", "status 2: no device")),
        ("done", 0, ("no", "no accuracy: done")),
        ("test accuracy 96.50%\n\n", 0, ("yes", "96.50%")),
        ("test accuracy nan%", 0, ("no", "no accuracy")),
    ],
    ids=["too low", "failed", "silent", "enough", "nan"],
)
def test_training_is_judged_by_its_last_line(output, status, expected):
    verdict, seen = training.judge(output, status)
    assert verdict == expected[0]
    assert expected[1] in seen


def test_training_that_was_not_captured_does_not_pass():
    """Such a run only prints a warning, and may reach its accuracy."""
    from gpuconv.training.replay import Replay, UncapturedWarning

    with pytest.warns(UncapturedWarning) as warned:
        Replay("numpy", False).give_up("MemoryError: no 12 bytes more")
    verdict, seen = training.judge(f"gpuconv: warning: {warned[0].message}\n\ntest accuracy 98.00%\n", 0)
    assert verdict == "no"
    assert re.search(r"not captured: .*launch by launch: MemoryError: no 12 bytes more", seen)


# --- the checks --------------------------------------------------------------------------------


class PreparedGate(Gate):
    """A gate that runs no commands. They end with the status and output given for a word in the command."""

    def prepare(self, **endings: tuple[int, str]):
        self.endings, self.commands_run, self.environments = endings, [], []
        return self

    def run(self, log, command, seconds, **environment):
        self.commands_run.append(list(command))
        self.environments.append(environment)
        code, output = next((end for word, end in self.endings.items() if word in " ".join(command)), (0, ""))
        return Done(code, output, 1.0, late=code == 124)


@pytest.fixture
def prepared(gate):
    return PreparedGate(gate.out, gate.home, gate.logs, "cuda", "abc").prepare()


def test_verify_names_ops_that_fail_give_malformed_output_or_run_out_of_time(prepared):
    prepared.facts["ops"] = ["relu", "add", "scale", "conv2d"]
    passing = (0, "all 3 pass on cuda:0")
    with pytest.raises(FailedError, match=r"1 of 4 ops pass; failed: add; .*proves it: relu; out of time: scale"):
        right.verify(prepared.prepare(add=(1, "FAIL"), scale=(124, ""), relu=(0, "all 0 pass on x"), conv=passing), 30)
    with pytest.raises(LateError, match="3 of 4 ops pass; out of time: scale"):
        right.verify(prepared.prepare(scale=(124, ""), verify=passing), 30)
    assert right.verify(prepared.prepare(verify=passing), 30)[0] == "4 of 4 ops pass"
    assert prepared.commands_run[0][-1] == "conv2d"
    # Parallel processes would distort times, so nothing is timed.
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    prepared.facts.clear()  # as after a failed check of the environment
    with pytest.raises(NotReachedError, match="named no operations"):
        right.verify(prepared.prepare(), 30)


def test_the_suite_runs_on_the_device_one_process_per_file_kernels_first(prepared, monkeypatch):
    for name in ("a/test_a.py", "kernels/test_k.py", "training/test_devices.py"):
        (prepared.home / "tests" / name).parent.mkdir(parents=True)
        (prepared.home / "tests" / name).write_text("")
    prepared.prepare(test_a=(0, "3 passed, 1 skipped in 1s"), test_k=(0, "4 passed in 1s"), devices=(5, "no tests ran"))
    monkeypatch.setattr(right, "workers", lambda: 1)
    assert right.tests(prepared, 30)[0] == "3 of 3 files, 7 passed, 1 skipped"
    assert [command[-1].rpartition("/")[2] for command in prepared.commands_run] == [
        "test_k.py",
        "test_devices.py",
        "test_a.py",
    ]
    first = prepared.environments[0]
    assert (first["GPUCONV_TEST_DEVICES"], first["GPUCONV_AUTOTUNE"]) == ("cuda", "0")
    with pytest.raises(FailedError, match=r"failed: kernels\.test_k"):
        right.tests(prepared.prepare(test_k=(1, "1 failed, 3 passed in 1s"), test=(0, "1 passed")), 30)


@pytest.mark.parametrize("name", ["memcheck", "racecheck"])
def test_a_missing_or_silent_sanitizer_does_not_pass(prepared, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    check = right.sanitized(name)
    with pytest.raises(NotReachedError, match="compute-sanitizer is not on the PATH"):
        check(prepared, 30)
    write_tool(tmp_path / "bin", "compute-sanitizer", "")
    with pytest.raises(FailedError, match="printed nothing that proves it"):
        check(prepared, 30)
    summary = "========= RACECHECK SUMMARY: 0 hazards" if name == "racecheck" else "========= ERROR SUMMARY: 0 errors"
    assert check(prepared.prepare(sanitizer=(0, summary)), 30)[0] == "14 of 14 ops clean"
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    with pytest.raises(FailedError, match="failed: bias_grad"):
        check(prepared.prepare(bias_grad=(9, summary), sanitizer=(0, summary)), 30)
    with pytest.raises(FailedError, match="printed nothing that proves it: conv2d"):
        check(prepared.prepare(sanitizer=(0, summary.replace(": 0", ": 7"))), 30)


HEADER = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
TIME, ISSUE, L2 = (fast.METRICS[name] for name in ("time", "issue", "l2"))


def csv_of(*rows):
    return "\n".join(["==PROF== Connected", HEADER, *(",".join(f'"{cell}"' for cell in row) for row in rows)])


def test_ncu_sums_times_and_takes_the_percentages_of_the_longest_launch(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotReachedError, match="ncu is not on the PATH"):
        fast.ncu(prepared, 30)
    write_tool(tmp_path / "bin", "ncu", "")
    text = csv_of(
        (0, "conv2d_fprop_mma", TIME, "ns", "1,500"),
        (0, "conv2d_fprop_mma", ISSUE, "%", "20"),
        (0, "conv2d_fprop_mma", L2, "%", "10"),
        (1, "relu_forward", TIME, "us", "0.25"),
        (2, "conv2d_fprop_mma", TIME, "usecond", "2"),
        (2, "conv2d_fprop_mma", ISSUE, "%", "80"),
        (2, "conv2d_fprop_mma", L2, "%", "30"),
        (3, "cupy_fill", TIME, "ms", "9"),
    )
    measured = fast.measured(text)
    assert measured["conv2d_fprop_mma"] == {"time": pytest.approx(3.5e-6), "issue": 80, "l2": 30}
    assert list(measured) == ["relu_forward", "conv2d_fprop_mma"]
    assert fast.ncu(prepared.prepare(csv=(0, text)), 30)[0].startswith("conv2d_fprop_mma: issue 80 %")
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    with pytest.raises(FailedError, match="L2 90 %"):
        fast.ncu(prepared.prepare(csv=(0, text.replace('"30"', '"90"'))), 30)
    for broken in (text.replace("_mma", "_simt"), text.replace('"80"', '"nan"'), text.replace('"80"', '"4000"')):
        with pytest.raises(NotReachedError):
            fast.ncu(prepared.prepare(csv=(0, broken)), 30)
    with pytest.raises(FailedError, match="reported no kernel"):
        fast.ncu(prepared.prepare(csv=(0, "==ERROR== no permission")), 30)


def record_of(prepared, entries, hardware="nvidia-x", home=False):
    folder = (prepared.home / "bench" if home else prepared.out) / "results" / hardware
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "2026-01-01-abc.json").write_text(json.dumps({"hardware": hardware, "entries": entries}))


def entry(key="fprop 1x1 bfloat16", kind="convolution", median=1e-3, date="2999-01-01T00:00:00+00:00", **changes):
    ours = {"role": "ours", "name": "gpuconv", "status": "timed", "median": median} | changes
    peer = {"role": "peer", "name": "eager", "status": "absent"}
    return {"key": key, "kind": kind, "date": date, "sides": [ours, peer]}


def test_the_benchmark_reports_missing_and_failed_sides_and_ignores_old_entries(prepared):
    record_of(prepared, [entry(kind="step"), entry()])
    steps, ops = fast.timed("steps", fast.STEPS), fast.timed("ops", fast.KERNELS)
    assert steps(prepared, 60)[0] == "entries timed: 1; eager absent"
    assert ops(prepared, 60)[0] == "entries timed: 1; eager absent"
    with pytest.raises(LateError, match="entries timed: 1; eager absent; stopped after"):
        ops(prepared.prepare(bench=(124, "")), 60)
    with pytest.raises(FailedError, match="wrong and not timed"):
        ops(prepared.prepare(bench=(1, "wrong and not timed: x")), 60)
    for change, message in (
        (dict(status="failed", reason="no memory"), "no memory"),
        (dict(median=float("nan")), "no times"),
        (dict(median=0.0), "no times"),
        (dict(median=-1.0), "no times"),
    ):
        record_of(prepared, [entry(**change)])
        with pytest.raises(FailedError, match=message):
            ops(prepared.prepare(), 60)
    record_of(prepared, [entry(date="2026-01-01T00:00:00+00:00")])
    with pytest.raises(LateError, match="no entry was timed"):
        ops(prepared.prepare(), 60)
    prepared.prepare(missing=(0, "entries missing in the record: 0"))
    assert fast.timed("ops", fast.SUITE, missing=True)(prepared, 60)[0] == "nothing to time: the record has every entry"


def test_the_benchmark_continues_in_a_new_process_after_a_gpu_crash(prepared, monkeypatch):
    monkeypatch.setattr(fast, "entries_of", lambda gate: [entry(kind="step")])
    crashed = (2, "bench: error: cuda:0 no longer answers after x")
    prepared.prepare(missing=(0, "entries missing in the record: 2"), bench=crashed)
    assert fast.timed("steps", fast.STEPS)(prepared, 60)[0].startswith("entries timed: 1")
    assert ["--missing" in command for command in prepared.commands_run] == [False, True]


def test_times_are_compared_with_those_of_the_earlier_record(prepared):
    record_of(prepared, [entry(median=1e-3)])
    with pytest.raises(NotReachedError, match="no earlier record"):
        fast.record(prepared, 30)
    record_of(prepared, [entry(median=2e-3)], home=True)
    assert fast.record(prepared, 30)[0] == "fprop 0.50 of the record's time over 1"
    record_of(prepared, [entry(median=0.9e-3)], home=True)
    with pytest.raises(FailedError, match="slower: fprop 1x1 bfloat16"):
        fast.record(prepared, 30)


@pytest.mark.parametrize(
    ("output", "error"),
    [("rms error 14.9 % over 24 rows", None), ("rms error 15.1 % over 24 rows", FailedError), ("", NotReachedError)],
    ids=["within", "refuted", "nothing measured"],
)
def test_a_refuted_prediction_is_reported(prepared, output, error):
    prepared.facts["name"] = "NVIDIA H200"
    prepared.prepare(predict=(0, f"gpu\n{output}\n"))
    if error is None:
        assert fast.model(prepared, 30)[0] == "14.9 % over 24 convolutions"
    else:
        with pytest.raises(error):
            fast.model(prepared, 30)


def test_tests_run_on_the_named_devices_or_not_at_all(monkeypatch):
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "emulated,numpy")
    assert kernel_devices() == ["emulated", "numpy"]
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "cuda:99")
    with pytest.raises(DeviceError):
        kernel_devices()
    monkeypatch.delenv("GPUCONV_TEST_DEVICES")
    assert kernel_devices()[0] == "emulated"
