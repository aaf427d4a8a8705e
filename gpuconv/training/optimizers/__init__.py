"""Gradient descent and its relatives, over named parameters.

An optimizer keeps state arrays for each parameter. It updates all parameters in one op call, or with `Groups` in one
call for each group. It reads the learning rate and the step number from one-element arrays on the parameters' device,
so a captured update can be replayed with new values. For a 16-bit parameter it keeps a float32 master. The formula
updates the master, with state in float32, and the parameter is the rounded master, so that steps too small for 16 bits
still add up.

    optimizer = Adam(lr=1e-3)
    optimizer.step(net.params(), net.grads())      # advance() on the host, update() on the device
"""

from __future__ import annotations

from typing import Any

from gpuconv import spec
from gpuconv.training.optimizers.adagrad import Adagrad
from gpuconv.training.optimizers.adam import Adam, AdamW
from gpuconv.training.optimizers.base import Optimizer, expect_no_settings
from gpuconv.training.optimizers.from_spec import OPTIMIZERS, named
from gpuconv.training.optimizers.groups import Groups
from gpuconv.training.optimizers.lion import Lion
from gpuconv.training.optimizers.muon import Muon
from gpuconv.training.optimizers.rmsprop import RMSprop
from gpuconv.training.optimizers.sgd import SGD

__all__ = ["OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "Groups", "Lion", "Muon", "Optimizer", "RMSprop", "get"]


def get(optimizer: str | Optimizer, **settings: Any) -> Optimizer:
    """An optimizer from its name or short form ("sgd", "sgd:momentum=0.9,nesterov=true"), or several for groups of
    parameters ("filters -> muon:lr=0.02; * -> sgd:lr=0.05", see `Groups`). An optimizer is returned as it is.

    settings: arguments of its class, which override the short form.

    Raises:
        ValueError: The name or a setting is unknown (the message names the nearest known name), a setting is out of its
            range, a flag is neither true nor false, or settings are given with an optimizer that is already built.
        TypeError: A setting that is not a flag has a wrong type, or `optimizer` is neither text nor an optimizer.
    """
    if isinstance(optimizer, Optimizer):
        expect_no_settings(settings)
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(f"an optimizer is a name, a short form or an object, received {type(optimizer).__name__}")
    if optimizer == Groups.name:  # the name in its `config`
        return Groups(**settings)
    if spec.is_groups(optimizer):
        return Groups(groups=optimizer, **settings)
    return named(optimizer, **settings)
