"""The oracle: what every op means, in plain NumPy. `with gpuconv.oracle():` ops on NumPy arrays run it.

An op widens its arrays to float64, computes the contract's formula and rounds once to the arrays' dtype. Where the
contract fixes the bits (random numbers, dropout, batches) it does the arithmetic that is stated there. Nothing here is
fast. Begin with `conv`.

Arguments arrive checked and in one form: sizes as (height, width), padding as ((top, bottom), (left, right)).
"""

import inspect

import numpy as np

from gpuconv.backends import contract
from gpuconv.backends.reference import activation, arithmetic, batch, conv, dropout, linear, loss, norm, optim, pool
from gpuconv.backends.reference import random_fill as filling

_FAMILIES = (activation, arithmetic, batch, conv, dropout, linear, loss, norm, optim, pool, filling)
_OPS = {name: vars(family)[name] for family in _FAMILIES for name in vars(contract) if name in vars(family)}

# Infinities and NaN are results, as on a GPU, not warnings.
globals().update({name: np.errstate(all="ignore")(op) for name, op in _OPS.items() if inspect.isfunction(op)})
