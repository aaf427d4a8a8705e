"""Sums and multiples, running metrics, and the numbers that change from step to step."""

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide
from gpuconv.dtypes import accumulation_dtype


def add(a, b, *, out):
    return round_to(wide(a) + wide(b), a.dtype, out)


def scale(x, *, factor, out):
    return round_to(wide(x) * float(accumulation_dtype(x.dtype).type(factor)), x.dtype, out)


def add_metrics(totals, loss, scores, labels):
    totals[0] += np.float64(loss) * len(labels)
    totals[1] += (wide(scores).argmax(axis=1) == labels).sum()
    totals[2] += len(labels)
    totals[3] += np.isfinite(totals[0])


def advance_clock(clock, lr, rates, *, batch_size):
    lr[...] = rates[clock[0]] if 0 <= clock[0] < len(rates) else np.nan
    clock += (1, 1, batch_size, batch_size)


def advance_counter(counter, *, by):
    before = counter.copy()
    counter += by
    return before
