"""What every check prints: the case that runs next, and the result of all."""

from __future__ import annotations


def print_case(case: str) -> None:
    """Print the case that runs next, so that the last line names it if it hangs."""
    print(f"{case}: ", end="", flush=True)


def print_summary(failed: int, count: int, what: str) -> int:
    """Print how many of the cases fail. Returns the status."""
    print(f"{failed} of {count} {what} fail" if failed else f"all {count} {what} pass")
    return 1 if failed else 0
