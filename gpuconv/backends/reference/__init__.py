"""The oracle: what every op means, in plain NumPy. `with gpuconv.oracle():` ops on NumPy arrays run it.

An op widens its arrays to float64, computes its formula and rounds once to the arrays' dtype. Where the docstring of
the op fixes the bits (random numbers, dropout, batches) it does the arithmetic that is stated there. Nothing here is
fast. Begin with `conv`.

Arguments arrive checked, and sizes as a problem (`gpuconv.problems`).
"""

from gpuconv.backends.reference import (
    activation,
    arithmetic,
    batch,
    conv,
    dropout,
    linear,
    loss,
    muon,
    norm,
    optim,
    pool,
    random,
    step_counter,
)
