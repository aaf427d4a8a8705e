"""What every check prints: the case that runs next, its result, and the result of all."""

from __future__ import annotations

import numpy as np

from ci.gate.hopper_kernels.wrong_values import differences


def print_case(case: str) -> None:
    """Print the case that runs next, so that the last line names it if it hangs."""
    print(f"{case}: ", end="", flush=True)


def print_comparison(expected: np.ndarray, found: np.ndarray) -> bool:
    """End the line of a case with PASS, or with FAIL and the wrong values in the lines after it. Returns whether the
    arrays are equal."""
    right = np.array_equal(found, expected)
    print("PASS" if right else "\n".join(["FAIL", *differences(expected, found)]), flush=True)
    return right


def print_summary(failed: int, count: int, what: str) -> int:
    """Print how many of the cases fail. Returns the status."""
    print(f"{failed} of {count} {what} fail" if failed else f"all {count} {what} pass")
    return 1 if failed else 0
