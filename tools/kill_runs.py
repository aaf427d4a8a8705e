"""Kill concurrent runs repeatedly and check that nothing is lost: python tools/kill_runs.py [--kills 100].

Several `gpuconv train` run at once. Each is killed at a random moment and resumed. The signal is SIGKILL, SIGTERM or
SIGINT, and is sometimes sent twice. When a run ends by itself, its files except pictures must have the bytes of a run
of the same seed that was not killed, and nothing else may be in its folder. Then it starts over, until the kills are
used up. Writes the results as JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpuconv.cli import option_types
from gpuconv.system import files
from gpuconv.training import checkpoint

RESULT = Path(__file__).with_name("kill_runs.json")
FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "metrics.csv", "run.json", "config.toml")
PICTURES = ("curves.png", "activations.png", "filters.png")
# With batch norm, augmentation and momentum; an epoch takes some hundredths of a second.
RUN = [
    "--data",
    "synthetic:n=96,size=8x8x3,classes=4",
    "--model",
    "resnet20",
    "--batch-size",
    "16",
    "--epochs",
    "12",
    "--augment",
    "flip,shift:1",
    "--device",
    "numpy",
    "--checkpoint-every",
    "2",
]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpuconv", "train", *options]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


class Run:
    """A run that is started, killed and resumed."""

    def __init__(self, seed: int, rng: random.Random) -> None:
        self.seed, self.rng, self.folder = seed, rng, Path(f"killed-{seed}")
        self.kills, self.reached, self.problems = dict.fromkeys([each.name for each in SIGNALS], 0), 0, list[str]()
        self.compared = 0
        self.process: subprocess.Popen[str] | None = None
        self.begin()

    def begin(self) -> None:
        new = ["--run-dir", str(self.folder), "--seed", str(self.seed), *RUN]
        old = ["--resume", str(self.folder), "--checkpoint-every", "2"]
        self.process = start(*(old if (self.folder / "run.json").exists() else new))
        self.kill_at = time.monotonic() + self.rng.choice([self.rng.uniform(0, 2), self.rng.uniform(1, 6)])

    def kill(self) -> None:
        """Kill the process, check what it left, and resume."""
        assert self.process
        number = self.rng.choice(SIGNALS)
        self.process.send_signal(number)
        if again := self.rng.random() < 0.3:
            time.sleep(self.rng.uniform(0, 0.05))
            self.process.send_signal(number)
        _, output = self.process.communicate(timeout=120)
        self.kills[number.name] += 1
        # The process was ended by its own handler (128 + number) or, before that handler was set, by the default one
        # (-number), or it had ended by itself just before the signal (0). While it starts, Python answers Ctrl-C with a
        # traceback and status 1.
        status = self.process.returncode
        starting = number == signal.SIGINT and output.rstrip().endswith("KeyboardInterrupt")
        if not starting and (status not in (-number, 128 + number, 0) or "Traceback" in output):
            self.problems.append(f"{number.name}{' twice' * again}: status {status}: {output[-200:]}")
        last = self.folder / "last.safetensors"
        if last.exists():
            state = checkpoint.load(last).state
            position = state["epoch"] * 1000 + state["batch"]
            if position < self.reached:
                self.problems.append(f"{number.name}: fell back from {self.reached} to {position}")
            self.reached = position
        self.begin()

    def finish(self) -> None:
        """Check that the finished run equals one that was not killed."""
        assert self.process
        _, output = self.process.communicate(timeout=600)
        if self.process.returncode:
            self.problems.append(f"ended with status {self.process.returncode}: {output[-200:]}")
        for name, data in contents(Path(f"uninterrupted-{self.seed}")).items():
            if (self.folder / name).read_bytes() != data:
                self.problems.append(f"{name} differs from that of the uninterrupted run")
        if more := {path.name for path in self.folder.iterdir()} - {*FILES, *PICTURES}:
            self.problems.append(f"left behind: {sorted(more)}")
        self.compared += 1
        shutil.rmtree(self.folder)
        self.reached = 0


def attack(kills: int, runs: int, seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    references = [start("--run-dir", f"uninterrupted-{i}", "--seed", str(i), *RUN) for i in range(runs)]
    for process in references:
        assert process.wait(600) == 0
    began = time.monotonic()
    running = [Run(i, rng) for i in range(runs)]
    done = 0
    while done < kills:
        for run in running:
            if run.process and run.process.poll() is not None:
                run.finish()
                run.begin()
            elif time.monotonic() >= run.kill_at and done < kills:
                run.kill()
                done += 1
        time.sleep(0.01)
    for run in running:
        run.finish()
    by_signal = {each.name: sum(run.kills[each.name] for run in running) for each in SIGNALS}
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "seed": seed,
        "runs at once": runs,
        "kills": by_signal,
        "runs compared": sum(run.compared for run in running),
        "seconds": round(time.monotonic() - began),
        "lost": [problem for run in running for problem in run.problems],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=option_types.count(1), default=100)
    parser.add_argument("--runs", type=option_types.count(1), default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    result = options.result.absolute()
    if not result.parent.is_dir():
        parser.error(f"--result: there is no folder {result.parent}")
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as folder:
        os.chdir(folder)
        found = attack(options.kills, options.runs, options.seed)
        os.chdir("/")
    files.write(result, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found, indent=1))
    return bool(found["lost"])


if __name__ == "__main__":
    sys.exit(main())
