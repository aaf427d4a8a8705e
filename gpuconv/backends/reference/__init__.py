"""The oracle: what every op means, in plain NumPy. `with gpuconv.oracle():` ops on NumPy arrays run it.

An op widens its arrays to float64, computes its formula and rounds once to the arrays' dtype. Where the docstring of
the op fixes the bits (random numbers, dropout, batches) it does the arithmetic that is stated there. Nothing here is
fast. Begin with `conv`.

Arguments arrive checked, and sizes as a problem (`gpuconv.problems`).
"""

import inspect

import numpy as np

from gpuconv.backends.reference import activation, arithmetic, batch, conv, dropout, linear, loss, norm, optim, pool
from gpuconv.backends.reference import random_fill as filling

for _family in (activation, arithmetic, batch, conv, dropout, linear, loss, norm, optim, pool, filling):
    for _name, _op in inspect.getmembers(_family, inspect.isfunction):
        if _op.__module__ == _family.__name__ and not _name.startswith("_"):
            # Infinities and NaN are results, as on a GPU, not warnings.
            globals()[_name] = np.errstate(all="ignore")(_op)
