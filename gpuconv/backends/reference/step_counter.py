"""Advances the counters and the learning rate, which change from step to step."""

import numpy as np


def advance_step_counter(counters, lr, rates, *, batch_size):
    lr[...] = rates[counters[0]] if 0 <= counters[0] < len(rates) else np.nan
    counters += (1, 1, batch_size, batch_size)


def advance_counter(counter, *, by):
    before = counter.copy()
    counter += by
    return before
