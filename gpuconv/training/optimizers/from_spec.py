"""Optimizers by name."""

from __future__ import annotations

import inspect
from typing import Any

from gpuconv import spec
from gpuconv.names import canonical_keys, lookup
from gpuconv.training.optimizers.adagrad import Adagrad
from gpuconv.training.optimizers.adam import Adam, AdamW
from gpuconv.training.optimizers.base import Optimizer
from gpuconv.training.optimizers.lion import Lion
from gpuconv.training.optimizers.muon import Muon
from gpuconv.training.optimizers.rmsprop import RMSprop
from gpuconv.training.optimizers.sgd import SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (SGD, Adagrad, RMSprop, Adam, AdamW, Lion, Muon)}


def named(text: str, **settings: Any) -> Optimizer:
    """One optimizer by its name or short form. Arguments and errors as in `get`."""
    part, *more = spec.parse(text, like="sgd:momentum=0.9")
    if more or part.numbers:
        raise ValueError(f"an optimizer is written like 'sgd:momentum=0.9', received {text!r}")
    cls = lookup("optimizer", part.name, OPTIMIZERS)
    settings = part.options | settings
    return cls(**canonical_keys(f"setting of {cls.name}", settings, inspect.signature(cls).parameters))
