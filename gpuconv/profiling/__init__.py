"""Profiling: timers, peak rates, the least work of layers, recorded launches, and named ranges for Nsight."""

from gpuconv.profiling.nvtx_domain import part, ranges, span

__all__ = ["part", "ranges", "span"]
