"""Run Python as on a machine with a GPU, with made-up times: python -m tests.standin -m bench peaks --device cuda

GPUCONV_STANDIN_GPUS names the GPUs by their compute capability ("90", or "80,90" for two).
GPUCONV_STANDIN_SCHEDULE is "late" or "early".
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

from gpuconv.backends.cuda.gemm import prover
from tests import standin
from tests.standin import made_up_times


def main(words: list[str]) -> None:
    option, program, *arguments = words
    sys.modules["torch"] = None  # type: ignore[assignment]  # PyTorch would see no GPU
    # The prover starts a child process with -c CODE; the child must have these GPUs, too.
    prover.command = [sys.executable, "-m", "tests.standin", *prover.command[2:]]
    gpus = os.environ.get("GPUCONV_STANDIN_GPUS", "90").split(",")
    with (
        standin.installed(gpus, schedule=os.environ.get("GPUCONV_STANDIN_SCHEDULE", "late")),
        made_up_times.installed(),
    ):
        sys.argv = ["-c" if option == "-c" else program, *arguments]
        if option == "-c":
            names: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(program, "<string>", "exec"), names)
        elif option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            raise SystemExit(f"python -m tests.standin takes -m MODULE or -c CODE, received {option}")


if __name__ == "__main__":
    main(sys.argv[1:])
