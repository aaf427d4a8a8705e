"""Times the reference convolutions against PyTorch on the CPU: `python -m bench.convolution`.

Same process, same shapes, float32, two threads each, bias included; the better of PyTorch's two layouts counts. Results
are compared before anything is timed. Bursts of both sides alternate, since the machine's other work varies, and the
ratio of the medians is shown beside that of the least times, which other work disturbs least. Goals are for the latter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from gpuconv import ops

# (H = W, C, K), all 3x3 with padding 1, and how many times slower than PyTorch (forward, forward + backward) may be.
SHAPES = [
    ((32, 3, 64), (4, 3)),
    ((32, 3, 12), (4, 3)),
    ((32, 3, 10), (4, 3)),
    ((32, 10, 10), (None, 3)),
    ((16, 10, 10), (None, 3)),
    ((8, 10, 10), (None, 3)),
    ((32, 64, 64), (2, 3)),
    ((16, 128, 128), (2, 3)),
    ((8, 256, 256), (2, 3)),
    ((4, 512, 512), (2, 3)),
]


def calls(shape: tuple[int, int, int], batch: int) -> tuple[dict[str, Callable], list[dict[str, Callable]]]:
    """Ours, and PyTorch's in each layout: by direction, a call that returns arrays (N, H, W, C) and (K, R, S, C)."""
    import torch

    size, c, k = shape
    rng = np.random.default_rng(0)
    x, w, bias, dy = (
        rng.standard_normal(dims, dtype=np.float32)
        for dims in ((batch, size, size, c), (k, 3, 3, c), (k,), (batch, size, size, k))
    )
    ours = {
        "forward": lambda: [ops.conv2d(x, w, bias, padding=1)],
        "dgrad": lambda: [ops.conv2d_dgrad(dy, w, input_shape=x.shape, padding=1)],
        "wgrad": lambda: [ops.conv2d_wgrad(dy, x, kernel_size=3, padding=1), ops.bias_grad(dy)],
    }

    def theirs(layout):
        tx, tw, tdy = (
            torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout) for a in (x, w, dy)
        )
        tb = torch.from_numpy(bias)

        def backward(*wanted):
            gradients = torch.ops.aten.convolution_backward(
                tdy, tx, tw, [k], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(wanted)
            )
            return [g for g in gradients if g is not None]

        directions = {
            "forward": lambda: [torch.nn.functional.conv2d(tx, tw, tb, padding=1)],
            "dgrad": lambda: backward(True, False, False),
            "wgrad": lambda: backward(False, True, True),
            "backward": lambda: backward(True, True, True),
        }
        return directions

    return ours, [theirs(torch.contiguous_format), theirs(torch.channels_last)]


def check(ours: dict[str, Callable], peers: list[dict[str, Callable]]) -> None:
    for direction, call in ours.items():
        for peer in peers:
            for mine, other in zip(call(), peer[direction]()):
                expected = other.permute(0, 2, 3, 1).numpy() if other.ndim == 4 else other.numpy()
                np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())


def milliseconds(call: Callable, burst: float) -> list[float]:
    """The times of one burst of calls, the first of which is not counted."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 1e3 * burst:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def compare(
    shape: tuple[int, int, int], batch: int, rounds: int, burst: float
) -> dict[str, tuple[float, float, float]]:
    """By direction: our least time and PyTorch's, in ms, and the ratio of the medians."""
    ours, peers = calls(shape, batch)
    check(ours, peers)
    samples: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for who, side in enumerate((ours, *peers)):
            for direction, call in side.items():
                samples.setdefault((who, direction), []).extend(milliseconds(call, burst))

    def row(*directions):
        # PyTorch may do both gradients in one call faster than in two.
        forms = [directions, ("forward", "backward")] if len(directions) == 3 else [directions]

        def times(statistic):
            mine = sum(statistic(samples[0, d]) for d in directions)
            return mine, min(sum(statistic(samples[who, d]) for d in form) for who in (1, 2) for form in forms)

        (least, peer), (median, peer_median) = times(min), times(statistics.median)
        return least, peer, median / peer_median

    return {
        "forward": row("forward"),
        "dgrad": row("dgrad"),
        "wgrad": row("wgrad"),
        "forward + wgrad": row("forward", "wgrad"),
        "forward + backward": row("forward", "dgrad", "wgrad"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", type=float, default=0.05, help="seconds for each burst (default 0.05)")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        parser.exit(1, "PyTorch is not installed, so there is nothing to compare with: pip install torch\n")
    torch.set_num_threads(2)
    print(f"N = {arguments.batch}, 3x3, padding 1, float32, PyTorch {torch.__version__}, NumPy {np.__version__}")
    print(f"{'shape':>16}  {'direction':<20}{'ours ms':>9}{'torch ms':>9}{'ratio':>7}{'(medians)':>11}{'goal':>6}")
    for shape, (forward_goal, both_goal) in SHAPES:
        size, c, k = shape
        goals = {"forward": forward_goal, "forward + backward": both_goal}
        if c == 3:  # a first layer has no dgrad in training
            goals["forward + wgrad"] = both_goal
        rows = compare(shape, arguments.batch, arguments.rounds, arguments.burst)
        for direction, (mine, peer, of_medians) in rows.items():
            goal = goals.get(direction)
            verdict = "" if goal is None else f"{goal:>6}  {'met' if mine <= goal * peer else 'NOT MET'}"
            label = f"{size}x{size} {c}->{k}"
            numbers = f"{mine:>9.2f}{peer:>9.2f}{mine / peer:>7.2f}{of_medians:>11.2f}"
            print(f"{label:>16}  {direction:<20}{numbers}{verdict}")


if __name__ == "__main__":
    main()
