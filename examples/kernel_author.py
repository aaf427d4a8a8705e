"""A kernel author's own ReLU in place of the shipped one: compiled for the CPU and checked against the oracle, without
a GPU.

`gpuconv lab` does the same from the command line, and times the kernel on a GPU.
"""

import tempfile
from pathlib import Path

from gpuconv import lab

OP = "relu"


def main() -> None:
    shipped = lab.template(OP)
    print(f"{lab.shipped_file(OP)}: {len(shipped.splitlines())} lines to begin with")
    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "my_activation.cu"
        mine.write_text(f"// My own version.\n{shipped}", encoding="utf-8")
        rows = list(lab.check(mine, OP, "emulated", ("float32",)))
    for row in rows:
        for outcome in row.outcomes:
            print(f"{outcome.case.tier:7} {outcome.case.name:12} error {outcome.error:.1e}, bound {outcome.bound:.1e}")
        assert all(outcome.passed for outcome in row.outcomes)
    print("agrees with the oracle")


if __name__ == "__main__":
    main()
