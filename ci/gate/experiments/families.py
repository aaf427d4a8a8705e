"""Compares convolutions by each algorithm in `ALGORITHMS` with the oracle."""

from __future__ import annotations

from collections import defaultdict

from ci.gate.experiments import Answer


def ask(device: str, small: bool) -> Answer:
    """Runs every algorithm in `ALGORITHMS` on the small convolution cases, including algorithms that "auto" never
    chooses. few_channels and depthwise are not in `ALGORITHMS`."""
    from gpuconv import lab
    from gpuconv.algorithms import ALGORITHMS
    from gpuconv.verify import verify

    names = list(dict.fromkeys(each.name for each in ALGORITHMS))
    wrong, count = defaultdict(list), 0
    for name in names[:1] if small else names:
        for op in ("conv2d",) if small else ("conv2d", "conv2d_dgrad", "conv2d_wgrad"):
            cases = lab.cases_of(op, name, ("tiny",))[: 2 if small else None]
            for row in verify(cases, ("float32", "float16", "bfloat16"), device):
                count += 1
                if row.smallest_failure is not None:
                    wrong[name].append(f"{op} {row.dtype}")
                print(name, op, row.dtype, "FAIL" if row.smallest_failure else "PASS", flush=True)
    if wrong:
        return "no", "; ".join(f"{name}: {', '.join(found)}" for name, found in wrong.items())
    return ("yes", f"{count} of {count} pass") if count else ("unknown", "no case was run")
