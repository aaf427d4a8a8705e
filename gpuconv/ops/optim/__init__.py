"""Optimizer steps. One call updates a whole list of parameters in place."""

from gpuconv.ops.optim.adagrad import adagrad_step
from gpuconv.ops.optim.adam import adam_step
from gpuconv.ops.optim.clip import clip_norm, clip_values
from gpuconv.ops.optim.lion import lion_step
from gpuconv.ops.optim.loss_scale import update_loss_scale
from gpuconv.ops.optim.rmsprop import rmsprop_step
from gpuconv.ops.optim.sgd import sgd_step

__all__ = [
    "adagrad_step",
    "adam_step",
    "clip_norm",
    "clip_values",
    "lion_step",
    "rmsprop_step",
    "sgd_step",
    "update_loss_scale",
]
