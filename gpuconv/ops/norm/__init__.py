"""Batch and group normalization."""

from gpuconv.ops.norm.batch_norm import batch_norm
from gpuconv.ops.norm.batch_norm_backward import batch_norm_backward
from gpuconv.ops.norm.conv2d_batch_norm import conv2d_batch_norm
from gpuconv.ops.norm.group_norm import group_norm, group_norm_backward

__all__ = ["batch_norm", "batch_norm_backward", "conv2d_batch_norm", "group_norm", "group_norm_backward"]
