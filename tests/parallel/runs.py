"""Runs on several ranks: the program and options to start them, and the files to compare."""

from pathlib import Path

from tests.parallel import mpiexec

PROGRAM = Path(__file__).with_name("train_toy_run.py")
TINY = ["--data", "synthetic:n=96,size=9x7x3,classes=4", "--model", "seed-net", "--epochs", "2", "--batch-size", "20"]
# What each of two ranks sends in a step of the toy net: 411 parameters and 8 running statistics in float32, and four
# float64 sums.
BYTES_PER_STEP = 4 * (411 + 8) + 4 * 8


def run_program(ranks, how, folder, shards=0):
    """The output of `train_toy_run.py` on these ranks. how: its argument HOW."""
    done = mpiexec.run(ranks, PROGRAM, how, folder, shards)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    """The bytes of the files of a run that must not depend on the number of ranks."""
    return {name: (folder / name).read_bytes() for name in ("last.safetensors", "best.safetensors", "metrics.jsonl")}
