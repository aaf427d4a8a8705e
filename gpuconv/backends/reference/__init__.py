"""The oracle: the definition of every op in plain NumPy. Within `with gpuconv.oracle():` ops on NumPy arrays run it.

An op widens its arrays to float64, computes its formula and rounds once to the arrays' dtype. Where its docstring says
so, it also rounds in between. Where all devices must give the same bits (random numbers, dropout, batches, a digest's
hash), it uses the arithmetic that its docstring, `gpuconv.random` or the module `batch` states. Begin with `conv`.

Arguments are already checked, and sizes come as a problem (`gpuconv.problems`).
"""

from gpuconv.backends.reference import (
    activation,
    arithmetic,
    batch,
    conv,
    digest,
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
