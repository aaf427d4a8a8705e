"""Seeing where the time goes: named ranges for Nsight."""

from gpuconv.profiling.nvtx_domain import ranges, span

__all__ = ["ranges", "span"]
